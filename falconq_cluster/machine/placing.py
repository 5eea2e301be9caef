"""Placing: the cursors of a consumer that begins somewhere.

What lives here: cursors at an offset, at the start and at the end of a partition.
Rules: what is trimmed is passed and not lost. A cursor says how many messages of its level are before it, so that what
waits is known without looking: a batch says how many were before it, so a cursor is found by one key and one value,
however much is stored (PROTOCOL.md P12).
Must not know: who begins there and why.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from falconq_cluster.machine import keys
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.levels import Cursor, LevelState, PartitionState
from falconq_cluster.machine.records import read_batch_header
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import Start, StartKind
from falconq_cluster.machine.turn import Turn


def place(turn: Turn, topic: TopicState, consumer: ConsumerState, start: Start, offsets: Sequence[int]) -> None:
    """Put the cursors of a consumer, which was given nothing, where it begins."""
    for partition in topic.partitions:
        match start.kind:
            case StartKind.EARLIEST:
                offset = 0
            case StartKind.LATEST:
                offset = partition.next_offset
            case StartKind.OFFSET:
                offset = start.value
            case StartKind.TIME:
                # A partition that whoever looked did not know yet was empty then.
                offset = offsets[partition.number] if partition.number < len(offsets) else 0
        cursors = _cursors_at(turn, partition, max(offset, 0))
        if any(cursor != Cursor() for cursor in cursors):
            consumer.cursors[partition.number] = cursors
            turn.cursors_changed(topic, consumer, partition.number)


def _cursors_at(turn: Turn, partition: PartitionState, offset: int) -> list[Cursor]:
    """The cursors before the first messages at or behind the offset that are retained; no further than the end."""
    offset = min(offset, partition.next_offset)
    if offset == partition.next_offset:
        return [Cursor(offset, offset, level.appended_count) for level in partition.levels]
    return [_cursor_at(turn, level, offset) for level in partition.levels]


def _cursor_at(turn: Turn, level: LevelState, offset: int) -> Cursor:
    found = _batch_at(turn, level, offset) if offset > level.trimmed_to else None
    if found is None or found[1] + found[0].record_count <= level.trimmed_count:
        # Nothing that is retained is before it; and what was trimmed is not lost to who begins now.
        return level.start()
    batch, before_count = found
    if offset >= batch.end:
        return Cursor(offset, offset, before_count + batch.record_count)
    return Cursor(batch.base, offset, before_count + offset - batch.base)


def _batch_at(turn: Turn, level: LevelState, offset: int) -> tuple[Batch, int] | None:
    """The last batch that begins at or before the offset, and how many messages of the level are before it."""
    following = bisect_left(level.tail, (offset + 1,))
    if following:
        behind_count = sum(batch.record_count for batch in level.tail[following - 1 :])
        return level.tail[following - 1], level.appended_count - behind_count
    batch = level.last_batch(turn.reader, offset)
    if batch is None:
        return None
    return batch, read_batch_header(turn.stored(keys.batch_key(level.prefix, batch))).before_count
