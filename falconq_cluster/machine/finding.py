"""Finding: the message of an id among those that are stored in levels.

What lives here: where a message is, as the entry that is being applied leaves it.
Rules: a message that had its id before it entered its level has a key that says where. For all others whoever proposes
says where its store has it, and the batch there tells whether that is so: the machine itself never searches.
Must not know: what becomes of the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from falconq_cluster.machine import keys
from falconq_cluster.machine.amends import AmendOperation
from falconq_cluster.machine.commands import Refused
from falconq_cluster.machine.delaying import LastKey
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.levels import PartitionState
from falconq_cluster.machine.records import read_batch_header
from falconq_cluster.machine.rows import PlacedRow, decode_row
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.turn import Turn


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in its level."""

    partition: PartitionState
    level: int
    batch: Batch
    offset: int


def find_placed(last_key: LastKey, topic: int, log_index: int, number: int) -> bytes | None:
    """The key of the place of a message that had its id before."""
    key = last_key(*keys.ids_range(keys.PLACED, topic, log_index, number))
    if key is None:
        return None
    placed = keys.read_placed_key(key)
    return key if number < placed.first_id + placed.record_count else None


def find_stored(turn: Turn, topic: TopicState, operation: AmendOperation) -> Stored | Refused:
    """The message, which somebody may still be given; or why not."""
    partition, offset = operation.partition, operation.offset
    key = find_placed(turn.last_key, topic.number, operation.log_index, operation.number)
    if key is not None:
        row = decode_row(turn.latest(key), PlacedRow)
        partition = row.partition
        offset = row.base + operation.number - keys.read_placed_key(key).first_id
    if not 0 <= partition < len(topic.partitions) or offset < 0:
        return not_found(operation)
    found = _at(turn, topic.partitions[partition], offset)
    if found is None:
        return not_found(operation)
    batch = found.batch
    header = read_batch_header(turn.stored(keys.batch_key(found.partition.levels[found.level].prefix, batch)))
    if (header.log_index, header.first_id + offset - batch.base) != (operation.log_index, operation.number):
        return not_found(operation)
    if batch.is_cancelled:
        return not_found(operation, "it was cancelled")
    if batch.is_expired(turn.log_time_ms):
        return not_found(operation, "its time to live is over")
    return found


def not_found(operation: AmendOperation, why: str = "it never had, or the message is not kept any more") -> Refused:
    """The refusal of a message that is not there, and why."""
    message_id = f"{operation.log_index}.{operation.number}"
    return Refused("message_not_found", f"topic {operation.topic!r} has no message {message_id}: {why}")


def _at(turn: Turn, partition: PartitionState, offset: int) -> Stored | None:
    """What is retained at the offset."""
    for number, level in enumerate(partition.levels):
        batch = None if level.is_trimmed(offset) else level.batch_holding(turn.reader, offset)
        if batch is not None:
            return Stored(partition, number, batch, offset)
    return None
