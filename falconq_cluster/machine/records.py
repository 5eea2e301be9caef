"""Messages as they are packed at the gateway and stored, untouched, on every node.

What lives here: the format of a record, and of the record batch that holds records of one append.
Rules: all numbers little-endian. A record is: message length (u32), key length (u16, ffff for no key), headers length
(u32, ffffffff for none), then message, key and headers. A record batch is: version (u8), count (u32), log index (u64),
first id (u32), timestamp in ms (u64), count of the level before it (u64), then `count`
records. A new format takes a new version byte and is written only
once all nodes can read it (P18); version 1 stays readable.
Must not know: offsets, topics, what JSON says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

BATCH_VERSION = 1
RECORD_BYTES_MIN = 10

_RECORD = struct.Struct("<IHI")
_BATCH = struct.Struct("<BIQIQQ")
_NO_KEY = 0xFFFF
_NO_HEADERS = 0xFFFFFFFF


class RecordError(ValueError):
    """The bytes are not records; says where they went wrong."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as it was published."""

    message: bytes
    """JSON."""
    key: str | None
    headers: bytes | None
    """A JSON object, or None."""


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """What all records of a batch share."""

    count: int
    log_index: int
    first_id: int
    """Record i has the id "<log index>.<first_id + i>"."""
    timestamp_ms: int
    before_count: int
    """Messages that had been appended to the level before."""


def pack_record(message: bytes, key: str | None = None, headers: bytes | None = None) -> bytes:
    """One record. Raises: RecordError when the key or a part is longer than the format allows."""
    packed_key = b"" if key is None else key.encode()
    key_length = _NO_KEY if key is None else len(packed_key)
    headers_length = _NO_HEADERS if headers is None else len(headers)
    if len(packed_key) >= _NO_KEY:
        error = f"a partition key of {len(packed_key)} bytes is longer than {_NO_KEY - 1}"
        raise RecordError(error)
    return _RECORD.pack(len(message), key_length, headers_length) + message + packed_key + (headers or b"")


def pack_batch(header: BatchHeader, records: bytes) -> bytes:
    """A record batch, as it is stored."""
    fields = header.count, header.log_index, header.first_id, header.timestamp_ms, header.before_count
    return _BATCH.pack(BATCH_VERSION, *fields) + records


def read_batch_header(value: bytes) -> BatchHeader:
    """What stands before the records. Raises: RecordError."""
    if len(value) < _BATCH.size or value[0] != BATCH_VERSION:
        error = f"a record batch starts with {value[:1].hex() or 'nothing'}, expected version {BATCH_VERSION}"
        raise RecordError(error)
    return BatchHeader(*_BATCH.unpack_from(value)[1:])


def batch_records(value: bytes, *, skip: int = 0) -> Iterator[Record]:
    """The records of a stored batch, from its `skip`-th on. Raises: RecordError, at the record that is damaged."""
    return _records(value, _BATCH.size, skip)


def cut_records(records: bytes, places: Sequence[int]) -> list[bytes]:
    """Packed records as one piece more than there are places, cut before the record of each. Raises: RecordError."""
    pieces: list[bytes] = []
    start = position = number = 0
    for place in places:
        while number < place:
            position = _record_end(records, position)
            number += 1
        pieces.append(records[start:position])
        start = position
    return [*pieces, records[start:]]


def read_batch(value: bytes) -> tuple[BatchHeader, bytes]:
    """A stored batch as its header and its packed records. Raises: RecordError."""
    return read_batch_header(value), value[_BATCH.size :]


def record_keys(value: bytes) -> list[bytes | None]:
    """The keys of a stored batch's records, in their order. Raises: RecordError."""
    found: list[bytes | None] = []
    position = _BATCH.size
    while position < len(value):
        if position + _RECORD.size > len(value):
            raise RecordError(f"record {len(found)} at byte {position} is cut off in its lengths")
        message_length, key_length, headers_length = _RECORD.unpack_from(value, position)
        key_from = position + _RECORD.size + message_length
        key_to = key_from + (0 if key_length == _NO_KEY else key_length)
        found.append(None if key_length == _NO_KEY else value[key_from:key_to])
        position = key_to + (0 if headers_length == _NO_HEADERS else headers_length)
    return found


def iter_records(records: bytes) -> Iterator[Record]:
    """Packed records one by one. Raises: RecordError, at the record that is damaged."""
    return _records(records, 0, 0)


def _records(data: bytes, position: int, skip: int) -> Iterator[Record]:
    number = 0
    while position < len(data):
        if position + _RECORD.size > len(data):
            error = f"record {number} at byte {position} is cut off in its lengths"
            raise RecordError(error)
        message_length, key_length, headers_length = _RECORD.unpack_from(data, position)
        message_end = position + _RECORD.size + message_length
        key_end = message_end + (0 if key_length == _NO_KEY else key_length)
        end = key_end + (0 if headers_length == _NO_HEADERS else headers_length)
        if end > len(data):
            error = f"record {number} at byte {position} ends at {end}, behind the last byte {len(data)}"
            raise RecordError(error)
        if number >= skip:
            yield Record(
                data[position + _RECORD.size : message_end],
                None if key_length == _NO_KEY else _key(data[message_end:key_end], number),
                None if headers_length == _NO_HEADERS else data[key_end:end],
            )
        number += 1
        position = end


def _record_end(data: bytes, position: int) -> int:
    if position + _RECORD.size > len(data):
        error = f"there is no record at byte {position} of {len(data)}"
        raise RecordError(error)
    lengths: tuple[int, int, int] = _RECORD.unpack_from(data, position)
    message_length, key_length, headers_length = lengths
    optional = (0 if key_length == _NO_KEY else key_length) + (0 if headers_length == _NO_HEADERS else headers_length)
    return position + _RECORD.size + message_length + optional


def _key(data: bytes, number: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as cause:
        error = f"the key of record {number} is not UTF-8"
        raise RecordError(error) from cause
