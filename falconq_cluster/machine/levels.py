"""The messages of a partition as they stand in memory: counts and places, by level.

What lives here: levels and partitions, the places of consumers in them, and finding record batches.
Rules: a level's messages are a sequence; what is trimmed is the beginning of it, what a consumer was given too, and
both are counted from the first message that was ever appended. Everything here can be rebuilt from the store, except
`tail`: a cache of the newest batches of a level, which holds at least those of the command that is being applied (the
store does not have them yet). A batch may be split: what names it by its base offset finds the part that holds the
offset.
Must not know: commands, topics, who writes changes to the store.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.rows import CursorPosition, CursorRow, LevelCounts, PartitionRow
from falconq_cluster.storage.store import Reader

TAIL_KEPT_COUNT = 32
"""Batches of a level that stay in memory; enough that a consumer which keeps up never scans the store."""


@dataclass(slots=True)
class Cursor:
    """Where a consumer stands in one level; the fields are those of `rows.CursorPosition`."""

    batch_offset: int = 0
    next_offset: int = 0
    delivered_count: int = 0
    lost_count: int = 0
    head_offset: int = field(default=-1, compare=False)
    head_ms: int = field(default=0, compare=False)
    head_expires_ms: int = field(default=0, compare=False)
    head_splits: int = field(default=0, compare=False)
    """A cache: while `head_offset` is the `batch_offset` and `head_splits` the level's `split_count`, log times of the
    batch at or behind it: its append, and until when it is given."""


@dataclass(slots=True)
class LevelState:
    prefix: bytes
    """What the keys of the level's batches start with."""
    tail_from: int
    """Every batch of the level with this base offset or a later one is in `tail`."""
    appended_count: int = 0
    appended_bytes: int = 0
    trimmed_count: int = 0
    trimmed_bytes: int = 0
    """A message of a batch counts as the batch's average."""
    trimmed_to: int = 0
    """Offset behind the last message that is trimmed. Only trimming moves it, so that a cursor that is moved to it
    later is moved to the same place."""
    trimmed_base: int = 0
    """Base offset of the batch in which `trimmed_to` lies; equal to it between two batches."""
    first_offset: int = 0
    """Of the oldest message that is retained; of no meaning with none."""
    first_ms: int = 0
    """Log time of the oldest message that is retained; of no meaning with none."""
    erased_to: int = 0
    """The store holds no batch of the level before this base offset. What is between it and `trimmed_base` is trimmed
    and not erased yet."""
    tail: list[Batch] = field(default_factory=list)
    parts: list[Batch] = field(default_factory=list)
    """Batches before `tail_from` that the present entry made out of others, in order: the store has them later."""
    split_bases: set[int] = field(default_factory=set)
    """Base offsets of those others, which the store still shows."""
    split_count: int = field(default=0, compare=False)
    """Splits of batches that this process has seen."""

    @property
    def retained_count(self) -> int:
        return self.appended_count - self.trimmed_count

    @property
    def retained_bytes(self) -> int:
        return self.appended_bytes - self.trimmed_bytes

    def is_trimmed(self, offset: int) -> bool:
        """Whether a message that the level had at this offset is not retained: it may not be read any more."""
        return offset < self.trimmed_to

    def start(self) -> Cursor:
        """Where who was given nothing begins."""
        return Cursor(self.trimmed_base, self.trimmed_to, self.trimmed_count)

    def append(self, batch: Batch) -> None:
        """Take a batch behind all others."""
        if not self.retained_count:
            self.first_offset, self.first_ms = batch.base, batch.stamp_ms
        self.tail.append(batch)
        self.appended_count += batch.record_count
        self.appended_bytes += batch.size

    def purge(self, next_offset: int) -> None:
        """Trim all that is there."""
        if self.retained_count:
            self.trimmed_count, self.trimmed_bytes = self.appended_count, self.appended_bytes
            self.trimmed_base = self.trimmed_to = next_offset

    def batches(self, reader: Reader, base: int) -> Iterator[Batch]:
        """The level's batches with a base offset of at least `base`, in order."""
        if base < self.tail_from:
            stop = keys.batches_from(self.prefix, self.tail_from)
            found = map(keys.read_batch_key, reader.scan_keys(keys.batches_from(self.prefix, base), stop))
            yield from self._with_parts(found, base) if self.parts else found
        yield from self.tail[bisect_left(self.tail, (base,)) :]

    def _with_parts(self, found: Iterator[Batch], base: int) -> Iterator[Batch]:
        whole = (batch for batch in found if batch.base not in self.split_bases)
        return merge(whole, self.parts[bisect_left(self.parts, (base,)) :])

    def first_batch(self, reader: Reader, base: int) -> Batch:
        """The first batch with a base offset of at least `base`, which must exist. Raises: CorruptionError."""
        for batch in self.batches(reader, base):
            return batch
        raise CorruptionError(f"level {self.prefix.hex()} holds no record batch at or behind offset {base}")

    def last_batch(self, reader: Reader, offset: int) -> Batch | None:
        """The last batch that begins at or before the offset; None without one that is not erased."""
        following = bisect_left(self.tail, (offset + 1,))
        if following:
            return self.tail[following - 1]
        start, stop = self.erased_to, min(offset + 1, self.tail_from)
        keys_before = reader.scan_keys(
            keys.batches_from(self.prefix, start), keys.batches_from(self.prefix, stop), reverse=True
        )
        whole = (batch for batch in map(keys.read_batch_key, keys_before) if batch.base not in self.split_bases)
        found = next(whole, None)
        part = bisect_left(self.parts, (offset + 1,))
        if part and (found is None or found.base < self.parts[part - 1].base):
            return self.parts[part - 1]
        return found

    def batch_holding(self, reader: Reader, offset: int) -> Batch | None:
        """The batch in which the offset lies, if it is not erased; None where it is not the level's."""
        found = self.last_batch(reader, offset)
        return found if found is not None and offset < found.end else None

    def batch_of(self, reader: Reader, batch_offset: int, offset: int) -> Batch:
        """The batch that holds the offset, once in one that began at `batch_offset`: it may have been split since.

        Raises: CorruptionError.
        """
        batch = self.first_batch(reader, batch_offset)
        if batch.base <= offset < batch.end:
            return batch
        part = self.batch_holding(reader, offset)
        if part is None:
            raise CorruptionError(f"level {self.prefix.hex()} holds no record batch with offset {offset}")
        return part

    def split(self, batch: Batch, parts: Sequence[Batch]) -> None:
        """Have the parts in the place of the batch that they were."""
        self.split_count += 1
        batches = self.tail if batch.base >= self.tail_from else self.parts
        place = bisect_left(batches, (batch.base,))
        is_known = batches[place : place + 1] == [batch]
        batches[place : place + is_known] = parts
        if not is_known:
            self.split_bases.add(batch.base)

    def settle(self) -> None:
        """Forget what the store has by now, but for the newest batches."""
        self.parts.clear()
        self.split_bases.clear()
        if len(self.tail) > 2 * TAIL_KEPT_COUNT:
            del self.tail[:-TAIL_KEPT_COUNT]
            self.tail_from = self.tail[0].base


@dataclass(slots=True)
class PartitionState:
    number: int
    levels: list[LevelState]
    next_offset: int = 0

    def grow(self, topic: int, level_count: int) -> None:
        """Have at least so many levels."""
        for number in range(len(self.levels), level_count):
            self.levels.append(LevelState(keys.level_prefix(topic, self.number, number), 0))

    @property
    def first_offset(self) -> int:
        """Lowest offset that is retained; the next one when none is."""
        firsts = (level.first_offset for level in self.levels if level.retained_count)
        return min(firsts, default=self.next_offset)

    def row(self) -> PartitionRow:
        counts = [
            LevelCounts(
                level.appended_count,
                level.appended_bytes,
                level.trimmed_count,
                level.trimmed_bytes,
                level.trimmed_to,
                level.trimmed_base,
                level.first_offset,
                level.first_ms,
                level.erased_to,
            )
            for level in self.levels
        ]
        return PartitionRow(self.first_offset, self.next_offset, counts)


def first_undelivered(reader: Reader, partition: PartitionState, cursors: list[Cursor]) -> int:
    """The lowest offset of the partition that these cursors have not passed."""
    lowest = partition.next_offset
    for level, cursor in zip(partition.levels, cursors, strict=True):
        if cursor.next_offset > cursor.batch_offset:
            lowest = min(lowest, cursor.next_offset)
        elif cursor.delivered_count < level.appended_count:
            lowest = min(lowest, level.first_batch(reader, cursor.next_offset).base)
    return lowest


def offset_at(reader: Reader, partition: PartitionState, time_ms: int, *, least: int = 0) -> int:
    """The lowest retained offset, `least` or more, that was published at this time or later; the next one if none was.

    By bisection of each level, whose batches tell by their keys when they were appended: that is what is shown as the
    time of their messages, also of delayed and moved ones. Log time never goes back (P11), so all before the offset
    were published earlier.
    """
    lowest = max(least, partition.next_offset)
    for level in partition.levels:
        low, high = max(level.trimmed_to, least), lowest
        holding = level.batch_holding(reader, low)
        if holding is not None:
            if holding.stamp_ms >= time_ms:
                lowest = min(lowest, low)
                continue
            low = holding.end
        while low < high:
            middle = (low + high) >> 1
            batch = next(level.batches(reader, middle), None)
            if batch is None or batch.base >= high or batch.stamp_ms >= time_ms:
                high = middle
            else:
                low = batch.base + 1
        batch = next(level.batches(reader, low), None)
        if batch is not None and batch.stamp_ms >= time_ms:
            lowest = min(lowest, batch.base)
    return lowest


def cursor_row(cursors: list[Cursor]) -> CursorRow:
    return CursorRow([CursorPosition(c.batch_offset, c.next_offset, c.delivered_count, c.lost_count) for c in cursors])
