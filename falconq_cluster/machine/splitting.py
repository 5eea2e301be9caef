"""Splitting: one message is taken out of the record batch in which it is stored.

What lives here: what becomes of the batch, and of what knew it.
Rules: nobody is given the message any more. The others keep their offsets, ids, sizes and times in batches of their
own; what they were in front of and behind is counted as before. In the message's place stands a cancelled batch
without its record, so that offsets stay dense and nothing of what was cancelled is kept. What of the batch is trimmed
already becomes a batch too, since its share of the bytes is counted.
Must not know: why, and what becomes of the record.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.keys import CANCELLED_MS, Batch
from falconq_cluster.machine.levels import PartitionState
from falconq_cluster.machine.records import cut_records, pack_batch, read_batch
from falconq_cluster.machine.rows import PlacedRow
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.turn import Turn

KEYS_MAX = 11
"""The batch that goes, four at most that come, the same of the places of their ids, and the partition."""


def take_from_level(
    turn: Turn, topic: TopicState, partition: PartitionState, number: int, batch: Batch, offset: int
) -> bytes:
    """The record of the retained message at the offset, which is in this batch of the level. Raises: RecordError."""
    level = partition.levels[number]
    stored = keys.batch_key(level.prefix, batch)
    header, records = read_batch(turn.stored(stored))
    turn.delete(stored)
    if batch.log_index:
        turn.delete(keys.placed_key(topic.number, batch))
    place = offset - batch.base
    cuts = [place, place + 1]
    if level.trimmed_to > batch.base:
        cuts.insert(0, level.trimmed_to - batch.base)
        level.trimmed_base = level.trimmed_to
        turn.state.watch(topic)  # what was trimmed of the batch can be erased now
    pieces = cut_records(records, cuts)
    parts: list[Batch] = []
    bounds = [0, *cuts, batch.record_count]
    for first, end, piece in zip(bounds[:-1], bounds[1:], pieces, strict=True):
        if first < end:
            part = _part(batch, first, end)
            part_header = replace(
                header, count=end - first, first_id=header.first_id + first, before_count=header.before_count + first
            )
            if first == place:
                part = part._replace(expires_ms=CANCELLED_MS)
            parts.append(part)
            value = pack_batch(part_header, b"" if part.is_cancelled else piece)
            turn.changes.append((keys.batch_key(level.prefix, part), value))
            if part.log_index and not part.is_cancelled:
                turn.put(keys.placed_key(topic.number, part), PlacedRow(partition.number, number, part.base))
    level.split(batch, parts)
    turn.partition_changed(topic, partition)
    return pieces[-2]


def _part(batch: Batch, first: int, end: int) -> Batch:
    part = batch._replace(base=batch.base + first, record_count=end - first, size=batch.size_of(first, end))
    return part._replace(first_id=batch.first_id + first) if batch.log_index else part
