"""Reading: stored messages as they are shown and handed out.

What lives here: messages out of record batches, and of ranges of a level.
Rules: a message's id, place and time come from its batch. A cancelled message is not shown. Ranges that are in the
order of a level cost one scan.
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
_BEFORE_ALL, _NO_BATCH = Batch(0, 0, 0, 0), Batch(_NO_OFFSET, 1, 0, 0)
"""Stand before and behind all batches."""


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
        self._batch = _NO_BATCH
        """The one that is being read."""
        self._value = b""
        self._messages: Iterator[DeliveredMessage] = iter(())
        self._next = -1
        """Offset of what `_messages` gives next."""

    def read(self, wanted: Range) -> list[DeliveredMessage]:
        """Raises: CorruptionError when one is not there, RecordError."""
        found: list[DeliveredMessage] = []
        offset, end = wanted.offset, wanted.offset + wanted.count
        while offset < end:
            # What the range names as one batch may have been split since.
            self._seek(wanted.batch_offset, offset)
            if offset != self._next:
                rest = Range(wanted.partition, wanted.level, self._batch.base, offset, _NO_OFFSET)
                self._messages = read_messages(self._value, rest)
            taken = list(islice(self._messages, end - offset)) if self._batch.base <= offset else []
            if not taken:
                raise CorruptionError(f"offset {offset} of {wanted} is not in the store, in level {self._prefix.hex()}")
            found += taken
            offset = self._next = offset + len(taken)
        return found

    def _seek(self, base: int, offset: int) -> None:
        """Stand at the batch that ends behind the offset, or behind all, looking from this base offset on."""
        if offset < self._batch.base:
            self._batches = self._reader.scan(keys.batches_from(self._prefix, base), keys.prefix_end(self._prefix))
            self._batch = _BEFORE_ALL
        while self._batch.end <= offset:
            key, self._value = next(self._batches, (b"", b""))
            self._batch = keys.read_batch_key(key) if key else _NO_BATCH
            self._next = -1


def read_messages(value: bytes, wanted: Range) -> Iterator[DeliveredMessage]:
    """The wanted messages of a record batch, as far as it has them. Raises: RecordError."""
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
