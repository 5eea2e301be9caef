"""Judging a topic's settings.

What lives here: the reader of the body of PUT and PATCH, and how it is described.
Rules: every mistake is told, each in a sentence that names the setting, what it is, and what it may be. A setting that
is not known is a mistake, never ignored.
Must not know: aiohttp, routes, the topic's present settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import msgspec

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.describing import NAME_SCHEMA, Schema
from falconq_cluster.gateway.fields import refuse, shown
from falconq_cluster.gateway.nesting import depth_exceeds
from falconq_cluster.machine.machine import DEFAULT_LIMITS
from falconq_cluster.machine.settings import (
    AGED,
    DROP_OLDEST,
    FACTOR_ONE,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    OVERFLOWS,
    RETURN_MS_MAX,
    STRICT,
    WEIGHTED,
    Retention,
    Retry,
    Scheduler,
    TopicConfig,
    TopicSettings,
    with_settings,
)
from falconq_cluster.machine.topics import (
    DEDUPE_WINDOW_MS_MAX,
    DEDUPE_WINDOW_MS_MIN,
    DELIVERIES_MAX,
    FACTOR_MAX,
    IN_FLIGHT_MAX,
    LEVELS_MAX,
    MAX_WAIT_MS_MAX,
    RETENTION_BYTES_MIN,
    RETENTION_COUNT_MAX,
    RETENTION_MS_MAX,
    RETENTION_MS_MIN,
    WEIGHT_MAX,
    Mistake,
    config_mistakes,
)

_MISTAKES_MAX = 20
_RETENTION_FIELDS = Retention.__struct_fields__


class _WrongKindError(Exception):
    """The value is not of the setting's kind; its text says what it is instead of what."""


def _number(value: object) -> int:
    if type(value) is not int:
        raise _WrongKindError("it is a whole number")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or type(value) is _Pairs or not all(isinstance(name, str) for name in value):
        raise _WrongKindError("it is a list of names, least to most urgent")
    return tuple(value)


def _scheduler(value: object) -> Scheduler:
    wanted = 'it is an object such as {"policy": "weighted", "weights": {"low": 1, "high": 4}}'
    if not isinstance(value, _Pairs):
        raise _WrongKindError(wanted)
    fields = dict(value)
    by_level = [fields.get(name, _Pairs()) for name in ("weights", "maxWaitMs")]
    if (
        len(fields) != len(value)
        or not fields.keys() <= {"policy", "weights", "maxWaitMs"}
        or not isinstance(fields.get("policy"), str)
        or not all(isinstance(pairs, _Pairs) and len(dict(pairs)) == len(pairs) for pairs in by_level)
    ):
        raise _WrongKindError(wanted)
    weights, limits = by_level
    return Scheduler(str(fields["policy"]), _by_level("weight", weights), _by_level("maxWaitMs", limits))


def _by_level(what: str, pairs: object) -> tuple[tuple[str, int], ...]:
    assert isinstance(pairs, _Pairs)  # the caller has looked
    numbers: list[tuple[str, int]] = []
    for level, number in sorted(pairs, key=itemgetter(0)):
        if type(number) is not int:
            raise _WrongKindError(f"the {what} of {shown(level)} is {_shown_json(number)}; it is a whole number")
        numbers.append((level, number))
    return tuple(numbers)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongKindError("it is the name of a topic, or empty for the topic's own with '.dead'")
    return value


def _retry(value: object) -> Retry:
    wanted = 'it is an object such as {"minMs": 1000, "maxMs": 60000, "factor": 2}'
    if not isinstance(value, _Pairs):
        raise _WrongKindError(wanted)
    fields, default = dict(value), Retry()
    factor = fields.get("factor", default.factor // FACTOR_ONE)
    if len(fields) != len(value) or not fields.keys() <= {"minMs", "maxMs", "factor"}:
        raise _WrongKindError(wanted)
    if (type(factor) is not int and type(factor) is not float) or not 1 <= factor <= FACTOR_MAX:
        raise _WrongKindError(f"its 'factor' is a number from 1 to {FACTOR_MAX}")
    min_ms, max_ms = fields.get("minMs", default.min_ms), fields.get("maxMs", default.max_ms)
    if type(min_ms) is not int or type(max_ms) is not int:
        raise _WrongKindError(wanted)
    return Retry(min_ms, max_ms, round(factor * FACTOR_ONE))


def _retention(value: object) -> Retention:
    wanted = 'it is an object such as {"ms": 86400000, "bytes": 1073741824, "messages": 100000, "acked": true}'
    fields = dict(value) if isinstance(value, _Pairs) else {}
    if not isinstance(value, _Pairs) or len(fields) != len(value) or not fields.keys() <= set(_RETENTION_FIELDS):
        raise _WrongKindError(wanted)
    for name, given in fields.items():
        if name == "acked":
            if not isinstance(given, bool):
                raise _WrongKindError(f"'acked' is {_shown_json(given)}; it is true or false")
        elif type(given) is not int or given < 1:
            raise _WrongKindError(f"'{name}' is {_shown_json(given)}; it is a whole number, or left out for no limit")
    return msgspec.structs.replace(Retention(), **fields)


def _overflow(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongKindError(f"it is one of {', '.join(OVERFLOWS)}")
    return value


class Setting(NamedTuple):
    """A setting as clients give it."""

    field: str
    """Of `TopicSettings`."""
    read: Callable[[object], object]
    """An object is given to it as `_Pairs`."""
    schema: Schema
    """How it is described; bounds are judged in machine/topics.py."""


def _number_setting(field: str, least: int, most: int, text: str) -> Setting:
    default = getattr(TopicConfig(), field)
    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default, "description": text}
    return Setting(field, _number, schema)


_RETRY_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "minMs": {
            "type": "integer",
            "minimum": 0,
            "maximum": RETURN_MS_MAX,
            "description": "After the first failure.",
        },
        "maxMs": {
            "type": "integer",
            "minimum": 0,
            "maximum": RETURN_MS_MAX,
            "description": "Never longer than this.",
        },
        "factor": {
            "type": "number",
            "minimum": 1,
            "maximum": FACTOR_MAX,
            "description": "By which each wait is longer than the one before; kept to three decimals.",
        },
    },
    "additionalProperties": False,
    "default": {"minMs": Retry().min_ms, "maxMs": Retry().max_ms, "factor": Retry().factor // FACTOR_ONE},
    "description": "How long a message waits after a delivery that failed, unless its nack says otherwise.",
}

SETTINGS: dict[str, Setting] = {
    "partitions": Setting(
        "partitions",
        _number,
        {
            "type": "integer",
            "minimum": 1,
            "maximum": DEFAULT_LIMITS.partitions_per_topic_max,
            "default": 1,
            "description": "How many partitions the topic has. May grow, never shrinks.",
        },
    ),
    "levels": Setting(
        "levels",
        _names,
        {
            "type": "array",
            "items": NAME_SCHEMA,
            "minItems": 1,
            "maxItems": LEVELS_MAX,
            "uniqueItems": True,
            "default": ["low", "high"],
            "description": "Least to most urgent. May gain levels at the end; none is renamed, moved or removed.",
        },
    ),
    "scheduler": Setting(
        "scheduler",
        _scheduler,
        {
            "type": "object",
            "properties": {
                "policy": {"enum": [STRICT, WEIGHTED, AGED], "description": "By what rule."},
                "weights": {
                    "type": "object",
                    "additionalProperties": {"type": "integer", "minimum": 1, "maximum": WEIGHT_MAX},
                    "description": "Level -> its share of deliveries; a level not named has 1. Only with `weighted`.",
                },
                "maxWaitMs": {
                    "type": "object",
                    "additionalProperties": {"type": "integer", "minimum": 1, "maximum": MAX_WAIT_MS_MAX},
                    "description": "Level -> how long its messages may wait. Only with `aged`, which needs it.",
                },
            },
            "required": ["policy"],
            "additionalProperties": False,
            "default": {"policy": STRICT},
            "description": "Which level is given next: the most urgent, each in its share, or what waited too long.",
        },
    ),
    "leaseMs": _number_setting(
        "lease_ms", LEASE_MS_MIN, LEASE_MS_MAX, "How long a lease lasts for which nobody said otherwise."
    ),
    "maxInFlight": _number_setting(
        "in_flight_max",
        1,
        IN_FLIGHT_MAX,
        "How many messages of a consumer are leased at a time, unless the consumer says otherwise.",
    ),
    "maxDeliveries": _number_setting(
        "deliveries_max",
        0,
        DELIVERIES_MAX,
        "After so many deliveries that failed a message goes to the dead letters; 0 for never.",
    ),
    "deadLetterTopic": Setting(
        "dead_letter_topic",
        _name,
        {
            "anyOf": [NAME_SCHEMA, {"const": ""}],
            "default": "",
            "description": "Where dead letters go; empty for the topic's name with `.dead`.",
        },
    ),
    "retry": Setting("retry", _retry, _RETRY_SCHEMA),
    "retention": Setting(
        "retention",
        _retention,
        {
            "type": "object",
            "properties": {
                "ms": {
                    "type": "integer",
                    "minimum": RETENTION_MS_MIN,
                    "maximum": RETENTION_MS_MAX,
                    "description": "No message is kept for longer.",
                },
                "bytes": {
                    "type": "integer",
                    "minimum": RETENTION_BYTES_MIN,
                    "maximum": RETENTION_COUNT_MAX,
                    "description": "All partitions together keep no more, in bytes of messages, keys and headers.",
                },
                "messages": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": RETENTION_COUNT_MAX,
                    "description": "All partitions together keep no more.",
                },
                "acked": {
                    "type": "boolean",
                    "default": False,
                    "description": "Keep nothing that every consumer has settled; with no consumer, keep it all.",
                },
            },
            "additionalProperties": False,
            "default": {},
            "description": "What the topic keeps; a limit that is left out is none.",
        },
    ),
    "dedupeWindowMs": _number_setting(
        "dedupe_window_ms",
        DEDUPE_WINDOW_MS_MIN,
        DEDUPE_WINDOW_MS_MAX,
        "How long a repeat of a publish with a key, or of a producer, is known as one. A change counts for later ones.",
    ),
    "overflow": Setting(
        "overflow",
        _overflow,
        {
            "type": "string",
            "enum": list(OVERFLOWS),
            "default": DROP_OLDEST,
            "description": "What gives way in a topic that keeps as much as it may: its oldest messages, the message "
            "that comes, or the oldest of the least urgent level, which is never more urgent than what comes.",
        },
    ),
}
"""By the name in JSON."""

SETTINGS_SCHEMA: Schema = {
    "title": "TopicSettings",
    "description": "The settings of a topic, or some of them.",
    "type": "object",
    "properties": {name: setting.schema for name, setting in SETTINGS.items()},
    "additionalProperties": False,
}


def read_settings(data: bytes, *, depth_max: int) -> TopicSettings:
    """The settings of a body; an empty one gives none. Raises: bad_request, unknown_field."""
    pairs = _read_object(data, depth_max) if data else []
    unknown = [name for name, _ in pairs if name not in SETTINGS]
    mistakes = [
        (shown(name)[1:-1], f"Setting {shown(name)} is not known; known here: {', '.join(SETTINGS)}.")
        for name in unknown
    ]
    names = [name for name, _ in pairs]
    mistakes += [
        (name, f"Setting '{name}' is there more than once; give it one value.")
        for name in SETTINGS
        if names.count(name) > 1
    ]
    values: dict[str, object] = {}
    for name, value in dict(pairs).items():
        if name not in SETTINGS:
            continue
        setting = SETTINGS[name]
        try:
            values[setting.field] = setting.read(value)
        except _WrongKindError as error:
            mistakes.append((name, f"'{name}' is {_shown_json(value)}; {error}."))
    settings = msgspec.structs.replace(TopicSettings(), **values)
    config = with_settings(TopicConfig(), settings)
    mistakes += config_mistakes(config, partitions_max=DEFAULT_LIMITS.partitions_per_topic_max)
    if mistakes:
        raise _refusal(mistakes, "unknown_field" if unknown else "bad_request")
    return settings


def _refusal(mistakes: list[Mistake], code: str) -> FalconQError:
    told = mistakes[:_MISTAKES_MAX]
    details: dict[str, object] = {
        "field": told[0][0],
        "mistakes": [{"field": field, "detail": sentence} for field, sentence in told],
    }
    return FalconQError(code, " ".join(sentence for _, sentence in told), details=details)


def _read_object(data: bytes, depth_max: int) -> list[tuple[str, object]]:
    """The pairs of the outermost object, repeated names included."""
    example = 'send a JSON object such as {"partitions": 4, "levels": ["low", "high"]}'
    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=_Pairs)
    except UnicodeDecodeError as error:
        raise FalconQError("bad_request", f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise FalconQError("bad_request", f"the body is nested deeper than {depth_max} levels; {example}") from error
    except ValueError as error:
        raise FalconQError("bad_request", f"the body is not valid JSON: {str(error)[:200]}; {example}") from error
    if depth_exceeds(data, depth_max):
        raise FalconQError("bad_request", f"the body is nested deeper than {depth_max} levels; {example}")
    if not isinstance(value, _Pairs):
        raise refuse("body", f"the body is {_shown_json(value)}; {example}")
    return list(value)


class _Pairs(list[tuple[str, object]]):
    """A JSON object; a plain list is an array."""


def _shown_json(value: object) -> str:
    if isinstance(value, _Pairs):
        return "an object"
    return shown(json.dumps(value, default=str))[1:-1]
