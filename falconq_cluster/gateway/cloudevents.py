"""CloudEvents 1.0 as messages: the HTTP protocol binding, and the JSON format inside it.

What lives here: events in structured and binary mode, and in batches, as publish requests.
Rules (https://github.com/cloudevents/spec, v1.0.2, HTTP binding, JSON format): an event becomes the same message in
each mode: its data is the message, its attributes are the message's headers, named as in binary mode. Source and id
together are its key, so that it is appended once; a batch that is appended as a whole has one key, of all of theirs.
`partitionkey` is its partition key, `falconqpriority` its level, `falconqdelayms` and `falconqttlms` its timing.
Must not know: aiohttp, routes.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from urllib.parse import unquote

import msgspec

from falconq_cluster.broker.requests import PublishRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.describing import Number
from falconq_cluster.gateway.fields import (
    HEADER_COUNT_MAX,
    HEADER_VALUE_CHARS_MAX,
    PARTITION_KEY_CHARS_MAX,
    media_type,
    refuse,
    repeated_name,
    shown,
)
from falconq_cluster.gateway.nesting import depth_exceeds
from falconq_cluster.gateway.query import read_number
from falconq_cluster.gateway.raw import DELAY, TTL, Timing, level_of_text, raw_message

CLOUDEVENT = "application/cloudevents"
CLOUDEVENT_JSON = "application/cloudevents+json"
CLOUDEVENT_BATCH_JSON = "application/cloudevents-batch+json"
PREFIX = "ce-"
SPECVERSION = "1.0"
REQUIRED = ("specversion", "id", "source", "type")
PRIORITY = "falconqpriority"
PARTITION_KEY = "partitionkey"
DELAY_ATTRIBUTE = replace(DELAY, name="falconqdelayms", text="How long the event is kept back, in ms.")
TTL_ATTRIBUTE = replace(TTL, name="falconqttlms", text="How long the event may be given, in ms.")
"""Integers of events have 32 bits (section 2.4.1), a year in ms has more: a string of digits is taken as well."""
DATA, DATA_BASE64, DATA_TYPE = "data", "data_base64", "datacontenttype"
_TEXT = {"type": "string", "minLength": 1, "maxLength": 256}
_TYPES = ("string", "integer", "boolean", "null")
"""Of attributes (section 2.4.1); null is none."""
_INTEGER_MAX = 2**31 - 1


def _number_schema(number: Number) -> dict[str, object]:
    """Digits, or a whole number of CloudEvents' 32 bits."""
    integer = {"type": ["integer", "null"], "minimum": number.least, "maximum": _INTEGER_MAX}
    return {"description": number.text, "anyOf": [integer, {"type": "string", "pattern": "^[0-9]{1,19}$"}]}


STRUCTURED_SCHEMA: dict[str, object] = {
    "type": "object",
    "description": "A CloudEvent in the JSON format. Attributes that are not named here are kept, too.",
    "required": list(REQUIRED),
    "properties": {
        "specversion": {"const": SPECVERSION, "description": "The version of CloudEvents."},
        "id": {"description": "Of the event, among all of its source.", **_TEXT},
        "source": {"description": "Where it happened: a URI reference.", **_TEXT},
        "type": {"description": "What kind of event it is.", **_TEXT},
        DATA: {"description": "The event's data: any JSON."},
        DATA_BASE64: {
            "description": "The event's data in base64, in the place of `data`.",
            "type": ["string", "null"],
            "contentEncoding": "base64",
        },
        "time": {"description": "When it happened, by RFC 3339.", "type": ["string", "null"], "format": "date-time"},
        PARTITION_KEY: {"description": "Its partition key.", **_TEXT, "type": list(_TYPES)},
        PRIORITY: {"description": "Its level, by name or number.", "type": list(_TYPES)},
        **{name.name: _number_schema(name) for name in (DELAY_ATTRIBUTE, TTL_ATTRIBUTE)},
    },
    "patternProperties": {
        # All but the data: of a named attribute both shapes hold.
        f"^(?!{DATA}$)[a-z0-9]{{1,100}}$": {
            "type": list(_TYPES),
            "maxLength": HEADER_VALUE_CHARS_MAX,
            "minimum": -_INTEGER_MAX - 1,
            "maximum": _INTEGER_MAX,
        }
    },
    "additionalProperties": False,
    "maxProperties": HEADER_COUNT_MAX - 1,
}
EXAMPLE = {"specversion": SPECVERSION, "id": "17", "source": "/till/4", "type": "order.placed", DATA: {"order": 17}}

UNTIMED = Timing()

_NAME = re.compile(r"[a-z0-9]{1,100}", re.ASCII)
"""CloudEvents asks for no more than 20 characters, and allows more."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DIGEST_BYTES = 16

_event_decoder: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value_decoder: msgspec.json.Decoder[str | bool | int | None] = msgspec.json.Decoder(str | bool | int | None)
_encoder = msgspec.json.Encoder()


def check_structured(content_type: str, wanted: str) -> None:
    """Raises: unsupported_media_type when it is not this format in UTF-8."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
    if kind != wanted or any(charset not in ("utf-8", "utf8") for charset in charsets):
        message = f"Content-Type is {shown(content_type)}; events are taken here as '{wanted}' in UTF-8"
        raise FalconQError("unsupported_media_type", message)


def refuse_key(keys: Sequence[str]) -> None:
    """Raises: bad_request when there is an `Idempotency-Key`."""
    if keys:
        raise refuse("Idempotency-Key", "source and id are the key of an event; leave 'Idempotency-Key' out")


def binary_attributes(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The attributes in `ce-` headers; none unless one of those is there that each event has.

    Raises: bad_request for one that is there more than once or can't be decoded (HTTP binding section 3.1.3.2).
    """
    if not any(name.removeprefix(PREFIX) in REQUIRED for name, _ in headers):
        return {}
    attributes: dict[str, str] = {}
    for header, value in headers:
        name = header.removeprefix(PREFIX)
        if name in attributes:
            raise refuse(header, f"header '{header}' is there more than once; give it one value")
        if name in (DATA, DATA_BASE64, DATA_TYPE):
            raise refuse(header, f"header '{header}' can't be: the body is the data and 'Content-Type' its type")
        try:
            attributes[name] = unquote(value, errors="strict")
            attributes[name].encode()
        except UnicodeError as error:
            raise refuse(header, f"header '{header}' is no UTF-8 once it is percent-decoded") from error
    return attributes


def read_binary(
    attributes: Mapping[str, str],
    body: bytes,
    topic: str,
    *,
    depth_max: int,
    deadline_ms: int,
    timing: Timing = UNTIMED,
) -> PublishRequest:
    """The request of an event in binary mode. Raises: bad_request."""
    content_type = attributes.get(DATA_TYPE, "")
    message, encoding = body or b"null", None
    if body and is_json(content_type):
        _check_json(body, depth_max)
    elif body:
        message, how = raw_message(body, content_type)
        encoding = how.get("encoding")
    request = _request(attributes, message, encoding, topic, deadline_ms)
    return _timed(request, attributes, timing)


def read_structured(
    data: bytes, topic: str, *, depth_max: int, deadline_ms: int, timing: Timing = UNTIMED
) -> PublishRequest:
    """The request of an event in the JSON format. Raises: bad_request."""
    try:
        event = _event_decoder.decode(data)
        data.decode()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = str(error).removeprefix("JSON is malformed: ")[:200]
        raise FalconQError("bad_request", f"the event is not a JSON object: {text}") from error
    if depth_exceeds(data, depth_max):
        raise FalconQError("bad_request", f"the event is nested deeper than {depth_max} levels; flatten it")
    _check_count(len(event) - len({DATA, DATA_BASE64} & event.keys()))
    if repeated_name(data, {name: bytes(value) for name, value in event.items()}) is not None:
        raise FalconQError("bad_request", "the event has a name more than once; give it one value")
    content, base64 = event.pop(DATA, None), event.pop(DATA_BASE64, None)
    attributes = {name: value for name, raw in event.items() if (value := _text(name, bytes(raw))) is not None}
    if content is not None and base64 is not None:
        raise refuse(DATA, f"the event has both '{DATA}' and '{DATA_BASE64}'; give one of them")
    if base64 is not None and bytes(base64) != b"null":
        request = _request(attributes, _checked_base64(bytes(base64)), "base64", topic, deadline_ms)
    else:
        request = _request(attributes, b"null" if content is None else bytes(content), None, topic, deadline_ms)
    return _timed(request, attributes, timing)


def batch_key(keys: Sequence[str | None]) -> str:
    """Of all events of a batch in their order, for one that is appended as a whole.

    Raises: bad_request when two events are one: each is appended once, so the batch can't be appended as it is.
    """
    first: dict[str | None, int] = {}
    for place, key in enumerate(keys):
        if first.setdefault(key, place) != place:
            text = f"it has source and id of message {first[key]}; a batch that is all or nothing has each event once"
            raise refuse("id", text).at_place(place)
    return f"ces {blake2b(_encoder.encode(keys), digest_size=_DIGEST_BYTES).hexdigest()}"


def _timed(request: PublishRequest, attributes: Mapping[str, str], timing: Timing) -> PublishRequest:
    return replace(
        request,
        delay_ms=_time_of(attributes, DELAY_ATTRIBUTE, DELAY, timing.delay_ms),
        ttl_ms=_time_of(attributes, TTL_ATTRIBUTE, TTL, timing.ttl_ms),
    )


def _time_of(attributes: Mapping[str, str], attribute: Number, header: Number, beside: int | None) -> int:
    """What the attribute says, or the header beside it; 0 without both."""
    text = attributes.get(attribute.name)
    own = None if text is None else read_number(text, attribute)
    if own is not None and beside is not None and own != beside:
        names = f"header '{header.name}' is {beside} and attribute '{attribute.name}' is {own}"
        raise refuse(header.name, f"{names}; give one of them")
    return (beside if own is None else own) or 0


def _request(
    attributes: Mapping[str, str], message: bytes, encoding: str | None, topic: str, deadline_ms: int
) -> PublishRequest:
    _check(attributes)
    key = attributes.get(PARTITION_KEY)
    if key is not None and not 1 <= len(key) <= PARTITION_KEY_CHARS_MAX:
        raise refuse(
            PARTITION_KEY, f"'{PARTITION_KEY}' is {shown(key)}; a key has 1 to {PARTITION_KEY_CHARS_MAX} characters"
        )
    # In one order, whatever order they came in, so that a repeat is known as one.
    names = [*REQUIRED, *sorted(name for name in attributes if name not in (*REQUIRED, DATA_TYPE))]
    headers = {f"{PREFIX}{name}": attributes[name] for name in names}
    if DATA_TYPE in attributes:
        headers["contentType"] = attributes[DATA_TYPE]
    if encoding is not None:
        headers["encoding"] = encoding
    return PublishRequest(
        topic=topic,
        message=message,
        priority=level_of_text(attributes.get(PRIORITY)),
        partition_key=key,
        headers=_encoder.encode(headers),
        idempotency_key=_key(attributes),
        deadline_ms=deadline_ms,
    )


def _key(attributes: Mapping[str, str]) -> str:
    """Of source and id; no `Idempotency-Key` has a space."""
    both = _encoder.encode((attributes["source"], attributes["id"]))
    return f"ce {blake2b(both, digest_size=_DIGEST_BYTES).hexdigest()}"


def _check(attributes: Mapping[str, str]) -> None:
    for name in REQUIRED:
        if not attributes.get(name):
            raise refuse(
                name, f"an event has the attribute '{name}', and not empty; as a header it is '{PREFIX}{name}'"
            )
    if attributes["specversion"] != SPECVERSION:
        text = f"'specversion' is {shown(attributes['specversion'])}; events are taken as '{SPECVERSION}'"
        raise refuse("specversion", text)
    _check_count(len(attributes))
    for name, value in attributes.items():
        _check_name(name)
        if len(value) > HEADER_VALUE_CHARS_MAX:
            raise refuse(
                name, f"attribute '{name}' has {len(value)} characters; at most {HEADER_VALUE_CHARS_MAX} are kept"
            )
    time = attributes.get("time")
    if time is not None and _TIME.fullmatch(time) is None:
        raise refuse("time", f"'time' is {shown(time)}; write an RFC 3339 time such as 2026-01-31T12:00:00Z")


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise refuse(name[:100], f"an attribute is named {shown(name)}; names have 1 to 100 of a-z and 0-9")


def _check_count(count: int) -> None:
    if count > HEADER_COUNT_MAX - 2:
        raise refuse("body", f"an event has {count} attributes; at most {HEADER_COUNT_MAX - 2} are kept")


def _text(name: str, raw: bytes) -> str | None:
    """An attribute's value in its canonical text (CloudEvents section 2.4.1, type system); None of null."""
    _check_name(name)
    try:
        value = _value_decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise refuse(
            name[:100], f"attribute {shown(name)} is a string, a boolean or a whole number: {error}"
        ) from error
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and not -_INTEGER_MAX - 1 <= value <= _INTEGER_MAX:
        raise refuse(name[:100], f"attribute {shown(name)} is {value}; whole numbers have 32 bits")
    return None if value is None else str(value)


def is_json(content_type: str) -> bool:
    """Whether data of this type are JSON."""
    kind = media_type(content_type)
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def _check_json(data: bytes, depth_max: int) -> None:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
        data.decode()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = str(error).removeprefix("JSON is malformed: ")[:200]
        raise FalconQError("bad_request", f"the data is not valid JSON, as its Content-Type says: {text}") from error
    if depth_exceeds(data, depth_max):
        raise FalconQError("bad_request", f"the data is nested deeper than {depth_max} levels; flatten it")


def _checked_base64(raw: bytes) -> bytes:
    try:
        b64decode(msgspec.json.decode(raw, type=str), validate=True)
    except (msgspec.MsgspecError, ValueError) as error:
        raise refuse(DATA_BASE64, f"'{DATA_BASE64}' is a string in base64: {error}") from error
    return raw
