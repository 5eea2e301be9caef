"""Scheduling: which messages a consumer is given next.

What lives here: the choice of fresh messages, those that a consumer's cursors have not passed, for every kind of pull.
Rules: the most urgent level of all asked partitions goes first, ties go to the partition after the one that was
served last, and a partition that has its turn gives all it has of the level before the next one does. Within a level
nothing is skipped, given twice, or reordered. Bytes are counted from keys: a message of a batch counts as the batch's
average, rounded up, so a choice reads no values on any node and passes `bytes_max` by less than one batch.
Must not know: why messages are taken and what becomes of them, what is in a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.consumers import put_consumer
from falconq_cluster.machine.state import ConsumerState, Cursor, LevelState, TopicState, first_undelivered
from falconq_cluster.machine.turn import Turn

ALL_PARTITIONS = -1


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pull asks for."""

    partition: int
    """ALL_PARTITIONS, or one that the topic has."""
    count_max: int
    """At least 1; the caller has bounded it."""
    bytes_max: int
    """Of packed records; one message is given whatever its size."""
    level_min: int = 0
    """Only messages of this level or a more urgent one."""


@dataclass(slots=True)
class Taken:
    """What was chosen."""

    ranges: list[Range] = field(default_factory=list)
    """In delivery order."""
    start_offsets: dict[int, int] = field(default_factory=dict)
    """partition -> lowest offset that had not been delivered, in the order of service; of an only partition also
    when it gave nothing."""


def take_fresh(turn: Turn, topic: TopicState, consumer: ConsumerState, demand: Demand) -> Taken:
    """Chooses the next messages, moves the consumer's cursors past them, and leaves both rows in the turn."""
    room, taken = _Room(demand.count_max, demand.bytes_max), Taken()
    if demand.partition == ALL_PARTITIONS:
        first = (consumer.last_partition + 1) % len(topic.partitions)
        asked = topic.partitions[first:] + topic.partitions[:first]
    else:
        asked = [topic.partitions[demand.partition]]
    if len(asked) == 1:
        number = asked[0].number
        taken.start_offsets[number] = first_undelivered(turn.reader, asked[0], consumer.cursors_of(asked[0]))
    last_partition = consumer.last_partition
    for number in reversed(range(demand.level_min, len(topic.config.levels))):
        for partition in asked:
            level, cursors = partition.levels[number], consumer.cursors_of(partition)
            if room.is_full or cursors[number].delivered_count == level.appended_count:
                continue
            if partition.number not in taken.start_offsets:
                taken.start_offsets[partition.number] = first_undelivered(turn.reader, partition, cursors)
            ranges_before = len(taken.ranges)
            _take_level(turn, room, taken, level, cursors[number], partition.number, number)
            if len(taken.ranges) > ranges_before:
                last_partition = partition.number
                turn.cursors_changed(topic, consumer, partition.number)
    if last_partition != consumer.last_partition:
        consumer.last_partition = last_partition
        put_consumer(turn, topic, consumer)
    return taken


@dataclass(slots=True)
class _Room:
    """How much more may be taken."""

    count_left: int
    bytes_left: int
    is_full: bool = False


def _take_level(
    turn: Turn, room: _Room, taken: Taken, level: LevelState, cursor: Cursor, partition: int, number: int
) -> None:
    for batch in level.batches(turn.reader, cursor.batch_offset):
        offset = max(batch.base, cursor.next_offset)
        left = batch.base + batch.record_count - offset
        message_bytes = -(-batch.size // batch.record_count)
        fitting = max(room.bytes_left // message_bytes, 0 if taken.ranges else 1)
        count = min(left, room.count_left, fitting)
        if count < 1:
            room.is_full = True
            return
        taken.ranges.append(Range(partition, number, batch.base, offset, count))
        room.count_left -= count
        room.bytes_left = max(room.bytes_left - count * message_bytes, 0)
        cursor.next_offset = offset + count
        cursor.batch_offset = cursor.next_offset if count == left else batch.base
        cursor.delivered_count += count
        if count < left or room.count_left == 0:
            room.is_full = True
            return
    if cursor.delivered_count != level.appended_count:
        message = f"level {level.prefix.hex()} holds {cursor.delivered_count} messages, not {level.appended_count}"
        raise CorruptionError(message)
