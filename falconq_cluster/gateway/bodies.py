"""Judging bodies that are JSON objects of known fields.

What lives here: the reader of a body into its struct, each refusal with the field's name.
Rules: nothing unknown or repeated passes, at any depth of what is read. Bodies whose parts are kept as they came have
readers of their own.
Must not know: aiohttp, routes, the broker.
"""

from __future__ import annotations

import json
import re
from typing import TypeVar

import msgspec

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.fields import SHOWN_CHARS_MAX, refuse, shown
from falconq_cluster.gateway.nesting import depth_exceeds

T = TypeVar("T", bound=msgspec.Struct)

_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`(?: - at `\$(.*)`)?$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`(?: - at `\$(.*)`)?$", re.DOTALL)
_PLACE = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)


class _RepeatedFieldError(ValueError):
    """An object has a name more than once."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def read_body(data: bytes, shape: type[T], *, depth_max: int, example: str) -> T:
    """The body as its struct. Raises: bad_request, unknown_field."""
    try:
        text = data.decode()
        body = msgspec.json.decode(data, type=shape)
    except UnicodeDecodeError as error:
        raise FalconQError("bad_request", f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except msgspec.ValidationError as error:
        raise _explain(str(error), shape, example) from error
    except msgspec.DecodeError as error:
        why = str(error).removeprefix("JSON is malformed: ")
        raise FalconQError("bad_request", f"the body is not valid JSON: {why}; send {example}") from error
    except RecursionError as error:
        raise _too_deep(depth_max) from error
    if depth_exceeds(data, depth_max):
        raise _too_deep(depth_max)
    try:
        # Numbers stay text: a long one would be refused.
        json.loads(text, object_pairs_hook=_without_repeats, parse_int=str, parse_float=str)
    except _RepeatedFieldError as error:
        name = error.name[:SHOWN_CHARS_MAX]
        raise refuse(name, f"field {shown(error.name)} is there more than once; give it one value") from error
    return body


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values:
            raise _RepeatedFieldError(name)
        values[name] = value
    return values


def _too_deep(depth_max: int) -> FalconQError:
    return FalconQError("bad_request", f"the body is nested deeper than {depth_max} levels; flatten it")


def _explain(error: str, shape: type[msgspec.Struct], example: str) -> FalconQError:
    """Turns the decoder's words into a refusal that names the field."""
    if match := _UNKNOWN_FIELD.search(error):
        name = match[1][:SHOWN_CHARS_MAX]
        known = f"known here: {', '.join(shape.__struct_encode_fields__)}" if not match[2] else f"send {example}"
        return refuse(name, f"field {shown(match[1])} is not known; {known}", code="unknown_field")
    if match := _MISSING_FIELD.search(error):
        return refuse(match[1], f"field '{match[1]}' is missing; send {example}")
    what = _PLACE.sub("", error).replace("`", "").replace("Expected", "expected", 1)
    if (place := _PLACE.search(error)) and place[1]:
        name = place[1][:SHOWN_CHARS_MAX]
        return refuse(name, f"field {shown(place[1])} is not right: {what}")
    return FalconQError("bad_request", f"the body is not right: {what}; send {example}")
