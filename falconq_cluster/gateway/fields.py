"""Judging what clients send: headers and bodies.

What lives here: readers of headers and of the publish body, each refusal with the field's name.
Rules: what passes here has valid names and numbers; nothing unknown, repeated or ambiguous passes. A message's JSON
bytes are kept as they came. What can only be judged with the topic's configuration is left to the broker.
Must not know: aiohttp, routes, the broker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from falconq_cluster.config import NAME_PATTERN
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.describing import IDEMPOTENCY_KEY, NAME_SCHEMA, NUMBER_MAX, PARTITION_MAX, says
from falconq_cluster.gateway.nesting import depth_exceeds
from falconq_cluster.machine.delaying import DELAY_MS_MAX

PARTITION_KEY_CHARS_MAX = 256
HEADER_COUNT_MAX = 64
HEADER_NAME_CHARS_MAX = 128
HEADER_VALUE_CHARS_MAX = 4096
SEQUENCE_MAX = 2**53 - 1
"""The largest that every JSON reader keeps exact (RFC 8259 section 6)."""
IDEMPOTENCY_KEY_CHARS_MAX = 256
SHOWN_CHARS_MAX = 80
"""How much of a refused value is repeated in the refusal."""
_COUNTED_BYTES = 4096
"""In so many, counting the names is quicker than going from one to the next."""
_PAIR_QUOTES = 4
"""Of a name and a string."""

_FIELD_OF_ERROR = re.compile(r"`\$\.(\w+)")
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `(\w+)`")
_KEY = re.compile(IDEMPOTENCY_KEY.pattern, re.ASCII)
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NAME_AND_COLON = re.compile(rb"[ \t\r\n]*(" + _STRING + rb")[ \t\r\n]*:[ \t\r\n]*", re.DOTALL)
_SCALAR = re.compile(_STRING + rb"|[^ \t\r\n,}]+", re.DOTALL)
_AFTER_VALUE = re.compile(rb"[ \t\r\n]*[,}]")


class ProducerBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who publishes, and which of its messages this is: each sequence is appended once."""

    id: Annotated[str, says("A name that no other producer of the topic has.", pattern=NAME_SCHEMA["pattern"])]
    sequence: Annotated[int, says("1, 2, 3 … in each topic."), msgspec.Meta(ge=1, le=SEQUENCE_MAX)]


class PublishBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One message to publish."""

    message: Annotated[msgspec.Raw, says("Any JSON, kept byte for byte.")]
    priority: Annotated[
        str | Annotated[int, msgspec.Meta(ge=0, le=PARTITION_MAX)] | None,
        says("A level's name or its number; a larger number is more urgent. Unset: the least urgent."),
    ] = None
    partition_key: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=PARTITION_KEY_CHARS_MAX)] | None,
        says("The same key goes to the same partition. Unset: the partitions take turns."),
    ] = msgspec.field(name="partitionKey", default=None)
    partition: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=PARTITION_MAX)] | None, says("The partition itself; wins over the key.")
    ] = msgspec.field(name="partitionID", default=None)
    headers: Annotated[
        msgspec.Raw,
        says(
            "Given back on delivery.",
            type=["object", "null"],
            maxProperties=HEADER_COUNT_MAX,
            propertyNames={"minLength": 1, "maxLength": HEADER_NAME_CHARS_MAX},
            additionalProperties={"type": "string", "maxLength": HEADER_VALUE_CHARS_MAX},
        ),
    ] = msgspec.field(default_factory=msgspec.Raw)
    producer: Annotated[
        msgspec.Raw,
        says(
            "Append this sequence of this producer once; not together with an `Idempotency-Key`.",
            anyOf=[{"$ref": "#/components/schemas/ProducerBody"}, {"type": "null"}],
        ),
    ] = msgspec.field(default_factory=msgspec.Raw)
    delay_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=DELAY_MS_MAX)] | None,
        says("How long it waits before it enters its level and gets its offset, in ms. Not with `expectedLastOffset`."),
    ] = msgspec.field(name="delayMs", default=None)
    ttl_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=DELAY_MS_MAX)] | None,
        says("How long it may be given from when it enters its level on, in ms. Unset: for ever."),
    ] = msgspec.field(name="ttlMs", default=None)
    expected_last_offset: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=NUMBER_MAX)] | None,
        says("Append only if this is the last offset of `partitionID`, which it needs; -1 of an empty partition."),
    ] = msgspec.field(name="expectedLastOffset", default=None)


_FIELD_TOKENS = tuple(f'"{name}"'.encode() for name in PublishBody.__struct_encode_fields__)
_publish_decoder = msgspec.json.Decoder(PublishBody)
_name_decoder = msgspec.json.Decoder(str)
_producer_decoder = msgspec.json.Decoder(ProducerBody)
_headers_decoder: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])


def refuse(field: str, text: str, *, code: str = "bad_request") -> FalconQError:
    """A refusal that names the field."""
    return FalconQError(code, text, details={"field": field})


def shown(value: str) -> str:
    """The value in quotes as it may be repeated to the client: one line, bounded."""
    text = value if len(value) <= SHOWN_CHARS_MAX else value[:SHOWN_CHARS_MAX] + "…"
    return "'" + "".join(char if char.isprintable() else "�" for char in text) + "'"


def read_name(value: str, field: str) -> str:
    """A topic's or consumer's name. Raises: bad_request."""
    if NAME_PATTERN.fullmatch(value) is None:
        raise refuse(
            field, f"{field} is {shown(value)}; a name has 1 to 200 of A-Z a-z 0-9 . _ - and does not start with . or -"
        )
    return value


def read_idempotency_key(values: Sequence[str]) -> str | None:
    """The key of an `Idempotency-Key` header, kept as it came; None without one. Raises: bad_request."""
    if not values:
        return None
    if len(values) > 1:
        raise refuse("Idempotency-Key", "header 'Idempotency-Key' is there more than once; give it one value")
    if _KEY.fullmatch(values[0]) is None:
        raise refuse(
            "Idempotency-Key",
            f"header 'Idempotency-Key' is {shown(values[0])}; a key has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII "
            "characters and no space, such as a UUID",
        )
    return values[0]


def read_producer(raw: bytes) -> tuple[str, int] | None:
    """(id, sequence) of the publish body's `producer`, None without one. Raises: bad_request, unknown_field."""
    if raw in (b"", b"null"):
        return None
    try:
        producer = _producer_decoder.decode(raw)
    except msgspec.ValidationError as error:
        code = "unknown_field" if "unknown field" in str(error) else "bad_request"
        text = str(error).replace("`", "'")
        raise refuse("producer", f'field \'producer\' is {{"id": …, "sequence": 1 …}}: {text}', code=code) from error
    if repeated_name(raw, {}) is not None:
        raise refuse("producer", "field 'producer' has a name more than once; give it one value")
    return read_name(producer.id, "producer.id"), producer.sequence


def media_type(value: str) -> str:
    """A Content-Type without its parameters."""
    return value.partition(";")[0].strip().lower()


def check_encoding(encoding: str | None) -> None:
    """Raises: unsupported_media_type when the body is compressed."""
    if encoding is not None and encoding.strip().lower() != "identity":
        message = f"Content-Encoding is {shown(encoding)}; send the body without compression"
        raise FalconQError("unsupported_media_type", message)


def check_content_type(value: str | None, encoding: str | None) -> None:
    """Raises: unsupported_media_type when the body isn't plain JSON in UTF-8."""
    check_encoding(encoding)
    if value is None or value == "application/json":
        return
    kind, *parameters = (part.strip().lower() for part in value.split(";"))
    charsets = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
    if kind != "application/json" or any(charset not in ("utf-8", "utf8") for charset in charsets):
        message = f"Content-Type is {shown(value)}; send JSON in UTF-8 with 'Content-Type: application/json'"
        raise FalconQError("unsupported_media_type", message)


def read_publish(data: bytes, *, depth_max: int) -> PublishBody:
    """The publish body; its headers are a JSON object of strings or empty. Raises: bad_request, unknown_field."""
    if not data:
        raise FalconQError(
            "bad_request", 'the body is empty; send JSON such as {"message": "hello", "priority": "high"}'
        )
    try:
        body = _publish_decoder.decode(data)
        if not data.isascii():
            data.decode()  # The message itself is kept as it came, so the decoder has not looked at its encoding.
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from error
    except UnicodeDecodeError as error:
        raise FalconQError("bad_request", f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except msgspec.DecodeError as error:
        text = str(error).removeprefix("JSON is malformed: ")
        raise FalconQError("bad_request", f"the body is not valid JSON: {text}") from error
    except RecursionError as error:
        raise FalconQError("bad_request", f"the body is nested deeper than {depth_max} levels; flatten it") from error
    if depth_exceeds(data, depth_max):
        raise FalconQError("bad_request", f"the body is nested deeper than {depth_max} levels; flatten it")
    _refuse_repeated_fields(data, body)
    _check_headers(bytes(body.headers))
    return body


def _explain(error: str) -> FalconQError:
    """Turns the decoder's words into a refusal that names the field."""
    if match := _UNKNOWN_FIELD.search(error):
        known = ", ".join(PublishBody.__struct_encode_fields__)
        name = match[1]
        text = f"field {shown(name)} is not known; known here: {known}"
        return refuse(name[:SHOWN_CHARS_MAX], text, code="unknown_field")
    if match := _MISSING_FIELD.search(error):
        return refuse(match[1], f"field '{match[1]}' is missing; the body needs at least {{\"message\": …}}")
    what, _, _ = error.partition(" - at ")
    what = what.replace("`", "").replace("Expected", "expected", 1)
    if match := _FIELD_OF_ERROR.search(error):
        return refuse(match[1], f"field '{match[1]}' is not right: {what}")
    return FalconQError("bad_request", f'the body is not right: {what}; send {{"message": …}}')


def _refuse_repeated_fields(data: bytes, body: PublishBody) -> None:
    """Raises: bad_request when a field of the body itself is there twice; the message's own are its owner's matter."""
    if len(data) <= _COUNTED_BYTES and all(data.count(token) <= 1 for token in _FIELD_TOKENS) and b"\\u" not in data:
        return  # A repeated field would show twice, unless it were spelled with escapes.
    raw = (("message", body.message), ("headers", body.headers), ("producer", body.producer))
    name = repeated_name(data, {name: bytes(value) for name, value in raw if bytes(value)})
    if name is not None:
        raise refuse(name, f"field '{name}' is there more than once; give it one value")


def repeated_name(data: bytes, values: Mapping[str, bytes]) -> str | None:
    """The first name of a valid JSON object that is found to be there more than once, None without one.

    `values` has the last value of each name whose values may be objects or arrays, byte for byte: so they are passed
    over without being read. A value that differs from it is not the last one of its name.
    """
    names: set[str] = set()
    position = data.index(b"{") + 1
    while found := _NAME_AND_COLON.match(data, position):
        name = _name_decoder.decode(found[1])
        if name in names:
            return name
        names.add(name)
        position, value = found.end(), values.get(name)
        if value is None and (scalar := _SCALAR.match(data, position)):
            value = scalar[0]
        if value is None or not data.startswith(value, position):
            return name
        after = _AFTER_VALUE.match(data, position + len(value))
        if after is None:
            return name  # Only the beginning of a longer number.
        position = after.end()
    return None


def _check_headers(raw: bytes) -> None:
    if raw in (b"", b"null"):
        return
    try:
        headers = _headers_decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise refuse("headers", f"field 'headers' is an object of strings: {error}") from error
    if len(headers) * _PAIR_QUOTES != raw.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"'):
        raise refuse("headers", "field 'headers' has a name more than once; give it one value")
    if len(headers) > HEADER_COUNT_MAX:
        raise refuse("headers", f"field 'headers' has {len(headers)} names; at most {HEADER_COUNT_MAX} are kept")
    for name, value in headers.items():
        if not 1 <= len(name) <= HEADER_NAME_CHARS_MAX or len(value) > HEADER_VALUE_CHARS_MAX:
            raise refuse(
                "headers",
                f"header {shown(name)} is too long; a name has 1 to {HEADER_NAME_CHARS_MAX} characters, "
                f"a value up to {HEADER_VALUE_CHARS_MAX}",
            )
