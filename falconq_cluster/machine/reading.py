"""Reading: stored messages as they are shown and handed out.

What lives here: messages out of record batches, and of ranges of a level.
Rules: a message's id, place and time come from its batch. Ranges that are in the order of a level cost one scan.
Must not know: who reads, HTTP, how a level or a time is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgspec

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.records import batch_records, read_batch_header
from falconq_cluster.storage.store import Reader

_NO_OFFSET = (1 << 64) - 1
_NO_BATCH = (keys.batch_key(keys.level_prefix(0, 0, 0), Batch(_NO_OFFSET, 0, 0, 0)), b"")
"""Stands behind all batches."""


class DeliveredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message with its place."""

    id: str
    message: bytes
    """JSON, as it was published."""
    level: int
    offset: int
    partition: int
    timestamp_ms: int
    headers: bytes | None
    """A JSON object."""
    key: str | None


class Reading:
    """Reads ranges of one level; those that are in its order, with others between them or not, cost one scan."""

    def __init__(self, reader: Reader, prefix: bytes) -> None:
        self._reader = reader
        self._prefix = prefix
        self._batches: Iterator[tuple[bytes, bytes]] = iter(())
        self._base = _NO_OFFSET
        """Of the batch that is being read."""
        self._value = b""
        self._messages: Iterator[DeliveredMessage] = iter(())
        self._next = 0
        """Offset of what `_messages` gives next."""

    def read(self, wanted: Range) -> list[DeliveredMessage]:
        """Raises: CorruptionError when one is not there, RecordError."""
        if wanted.batch_offset != self._base:
            self._seek(wanted.batch_offset)
            self._next = -1
        if wanted.offset != self._next:
            rest = Range(wanted.partition, wanted.level, self._base, wanted.offset, _NO_OFFSET)
            self._messages = read_messages(self._value, rest)
        found = list(islice(self._messages, wanted.count)) if self._base == wanted.batch_offset else []
        if len(found) != wanted.count:
            raise CorruptionError(f"{len(found)} of {wanted} are in the store, in level {self._prefix.hex()}")
        self._next = wanted.offset + wanted.count
        return found

    def _seek(self, base: int) -> None:
        """Stand at the batch of this base offset, or behind where it would be."""
        if base < self._base:
            self._base = -1
            self._batches = self._reader.scan(keys.batches_from(self._prefix, base), keys.prefix_end(self._prefix))
        while self._base < base:
            key, self._value = next(self._batches, _NO_BATCH)
            self._base = keys.read_batch_key(key).base


def read_messages(value: bytes, wanted: Range) -> Iterator[DeliveredMessage]:
    header = read_batch_header(value)
    skip = wanted.offset - wanted.batch_offset
    for place, record in enumerate(batch_records(value, skip=skip), start=skip):
        if place == skip + wanted.count:
            return
        yield DeliveredMessage(
            id=f"{header.log_index}.{header.first_id + place}",
            message=record.message,
            level=wanted.level,
            offset=wanted.batch_offset + place,
            partition=wanted.partition,
            timestamp_ms=header.timestamp_ms,
            headers=record.headers,
            key=record.key,
        )
