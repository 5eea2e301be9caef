"""The bytes of the journal's segment files.

What lives here: the header of a segment, the header of a group, the records, and their checksums.
Rules: a number is little-endian; every checksum is a CRC-32. Groups begin on a sector, so no sync rewrites a sector
that an earlier one promised. The checksum of a group header or record covers its position, the segment number and the
identity of the disk: bytes that are left from a recycled file, or that a client sent, are never taken for others.
A layout never changes under one `FORMAT_VERSION`. To change it: add a version, keep reading the former one, write
only the new one; segments are read once at start and vanish by cutting, so no rewriting is needed.
Must not know: files, the order of segments, what a command means.

    segment:  SegmentHeader, padded to a sector | group | group | ...
    group:    GroupHeader | record | record | ... | zeros up to the next sector
    record:   kind u8, body length u32, checksum u32, number u64, term u64, body
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

FORMAT_VERSION = 1
SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""
SEGMENT_HEADER_BYTES_MAX = 4096

ENTRY = 1
"""number = index, body = command."""
TRUNCATE = 2
"""Entries from index `number` on are gone; 0 means all, and the next entry may have any index."""
META = 3
"""term, body = the vote in UTF-8, empty for none."""
BASE = 4
"""The log is this one entry; fields as in ENTRY, body = BASE_COMMAND."""
CUT = 5
"""Entries before index `number` are no longer needed."""
KINDS = frozenset((ENTRY, TRUNCATE, META, BASE, CUT))

BASE_COMMAND = b"\x01"
"""PySyncObj's no-op."""

_SEGMENT_MAGIC = b"FALCONQJ"
_SEGMENT = struct.Struct("<8sHHHHQQQQQ")
GROUP_MAGIC = b"\xf0GRP"
_GROUP = struct.Struct("<4sQQI")
_GROUP_CHECKED = struct.Struct("<QQQ")
_RECORD = struct.Struct("<BIIQQ")
_RECORD_CHECKED = struct.Struct("<QBIQQ")
_CHECKSUM = struct.Struct("<I")
GROUP_HEADER_BYTES = _GROUP.size
RECORD_HEADER_BYTES = _RECORD.size
RECORD_BODY_BYTES_MAX = 2**32 - 1


class Record(NamedTuple):
    """One change of the log; which fields count depends on the kind."""

    kind: int
    number: int
    term: int
    body: bytes


class GroupHeader(NamedTuple):
    """What opens the records of one sync."""

    sequence: int
    """Counts the groups of a journal, over all segments."""
    payload_bytes: int


class RecordHeader(NamedTuple):
    """A record without its body, as it claims to be: nothing is checked before the body is there."""

    kind: int
    body_bytes: int
    checksum: int
    number: int
    term: int


class FormatError(ValueError):
    """The bytes are not what they should be; says how."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What opens a segment: all that cutting everything before it would forget."""

    number: int
    node_id: str
    disk_id: str
    term: int
    vote: str
    """Empty for none."""
    first_index: int
    """The log's first index when the segment was begun, 0 for an empty log."""
    previous_end: int
    """Where the segment before this one ends, 0 for the first: what stands there after this position is not the log."""
    first_sequence: int


def align(position: int) -> int:
    """The next position at which a group may begin."""
    return -(-position // SECTOR_BYTES) * SECTOR_BYTES


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Whole sectors. Raises: FormatError when the names are too long."""
    names = [name.encode() for name in (header.node_id, header.disk_id, header.vote)]
    if sum(map(len, names)) + _SEGMENT.size + _CHECKSUM.size > SEGMENT_HEADER_BYTES_MAX:
        raise FormatError("node id, disk id and vote do not fit into a segment header")
    fixed = _SEGMENT.pack(
        _SEGMENT_MAGIC,
        FORMAT_VERSION,
        *map(len, names),
        header.number,
        header.term,
        header.first_index,
        header.previous_end,
        header.first_sequence,
    )
    checked = fixed + b"".join(names)
    data = checked + _CHECKSUM.pack(zlib.crc32(checked))
    return data.ljust(align(len(data)), b"\0")


def decode_segment_header(data: bytes) -> tuple[SegmentHeader, int]:
    """The header at the start of `data` (at most SEGMENT_HEADER_BYTES_MAX) and its length. Raises: FormatError."""
    if len(data) < _SEGMENT.size:
        raise FormatError("the segment header is cut off")
    magic, version, *lengths, number, term, first_index, previous_end, first_sequence = _SEGMENT.unpack_from(data)
    if magic != _SEGMENT_MAGIC:
        raise FormatError("the segment header does not begin with the journal's mark")
    if version != FORMAT_VERSION:
        raise FormatError(f"the segment has format version {version}, this release reads {FORMAT_VERSION}")
    end = _SEGMENT.size + sum(lengths)
    if len(data) < end + _CHECKSUM.size:
        raise FormatError("the segment header is cut off")
    if _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise FormatError("the segment header's checksum is wrong")
    names = []
    at = _SEGMENT.size
    for length in lengths:
        names.append(data[at : at + length].decode())
        at += length
    node_id, disk_id, vote = names
    header = SegmentHeader(number, node_id, disk_id, term, vote, first_index, previous_end, first_sequence)
    return header, align(end + _CHECKSUM.size)


def segment_seed(number: int, node_id: str, disk_id: str) -> int:
    """What the checksums in this segment start from."""
    return zlib.crc32(f"{number}\0{node_id}\0{disk_id}".encode())


def encode_group(sequence: int, records: Sequence[Record], position: int, seed: int) -> tuple[bytes, list[int]]:
    """The group's bytes when it stands at `position`, in whole sectors, and the position of each record."""
    parts = [b""]
    positions = []
    at = position + GROUP_HEADER_BYTES
    for kind, number, term, body in records:
        length = len(body)
        checked = zlib.crc32(body, zlib.crc32(_RECORD_CHECKED.pack(at, kind, length, number, term), seed))
        parts.append(_RECORD.pack(kind, length, checked, number, term))
        parts.append(body)
        positions.append(at)
        at += RECORD_HEADER_BYTES + length
    payload_bytes = at - position - GROUP_HEADER_BYTES
    parts[0] = _GROUP.pack(
        GROUP_MAGIC, sequence, payload_bytes, _group_checksum(sequence, payload_bytes, position, seed)
    )
    parts.append(bytes(align(at) - at))
    return b"".join(parts), positions


def decode_group_header(data: bytes, position: int, seed: int) -> GroupHeader | None:
    """The group header that `data` begins with, read at `position`; None when it is not one."""
    if len(data) < GROUP_HEADER_BYTES:
        return None
    magic, sequence, payload_bytes, checksum = _GROUP.unpack_from(data)
    if magic != GROUP_MAGIC or checksum != _group_checksum(sequence, payload_bytes, position, seed):
        return None
    return GroupHeader(sequence, payload_bytes)


def decode_record_header(data: bytes) -> RecordHeader:
    """The record header in `data`, of RECORD_HEADER_BYTES."""
    kind, body_bytes, checksum, number, term = _RECORD.unpack(data)
    return RecordHeader(kind, body_bytes, checksum, number, term)


def is_record_whole(header: RecordHeader, body: bytes, position: int, seed: int) -> bool:
    """Whether header and body are what was written at this position."""
    checked = _RECORD_CHECKED.pack(position, header.kind, len(body), header.number, header.term)
    return zlib.crc32(body, zlib.crc32(checked, seed)) == header.checksum


def _group_checksum(sequence: int, payload_bytes: int, position: int, seed: int) -> int:
    return zlib.crc32(_GROUP_CHECKED.pack(position, sequence, payload_bytes), seed)
