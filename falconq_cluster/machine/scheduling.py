"""Scheduling: which messages a consumer is given next.

What lives here: the choice of fresh messages, those that a consumer's cursors have not passed, for every kind of pull.
Rules: `strict` gives the most urgent level of all asked partitions first; `weighted` gives each level its share of a
round. Ties go to the partition after the one that was served last, and a partition that has its turn gives all it has
of the level, or of the level's share, before the next one does. Within a level nothing is skipped, given twice, or
reordered. Bytes are counted from keys: a message of a batch counts as the batch's average, rounded up, so a choice
reads no values on any node and passes `bytes_max` by less than one batch.
Must not know: why messages are taken and what becomes of them, what is in a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.consumers import put_consumer
from falconq_cluster.machine.settings import WEIGHTED, TopicConfig
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
    choice = _Choice(turn, topic, consumer, demand)
    if demand.partition != ALL_PARTITIONS or len(topic.partitions) == 1:
        partition = topic.partitions[max(demand.partition, 0)]
        cursors = consumer.cursors_of(partition)
        choice.taken.start_offsets[partition.number] = first_undelivered(turn.reader, partition, cursors)
    before = consumer.last_partition, list(consumer.served), list(consumer.turns)
    if topic.config.scheduler.policy == WEIGHTED:
        _take_weighted(choice)
    else:
        last_partition = consumer.last_partition
        for number in reversed(range(demand.level_min, len(topic.config.levels))):
            choice.take(number, last_partition, demand.count_max)
    if before != (consumer.last_partition, consumer.served, consumer.turns):
        put_consumer(turn, topic, consumer)
    return choice.taken


def _take_weighted(choice: _Choice) -> None:
    """In rounds, of which each gives every level at most its share, the most urgent one first.

    A round ends as soon as nothing that waits has a share left, so what a level does not use goes to the others at
    once, and no level saves more than one round's share. Shares hold over any sizes of pulls, since the round is kept.
    """
    topic, consumer = choice.topic, choice.consumer
    shares = _shares(topic.config)
    consumer.served += [0] * (len(shares) - len(consumer.served))
    consumer.turns += [-1] * (len(shares) - len(consumer.turns))
    waiting = [number for number in reversed(range(choice.demand.level_min, len(shares))) if choice.has(number)]
    while waiting and not choice.room.is_full:
        number = next((number for number in waiting if consumer.served[number] < shares[number]), None)
        if number is None:
            consumer.served = [0] * len(shares)
            continue
        # Each level has its own turn of partitions: one turn for all would tie levels to partitions.
        given = choice.take(number, consumer.turns[number], shares[number] - consumer.served[number])
        consumer.served[number] += given
        if given:
            consumer.turns[number] = consumer.last_partition
        if not choice.has(number):
            waiting.remove(number)


def _shares(config: TopicConfig) -> list[int]:
    """What a round gives each level: the weights in their lowest terms, so that rounds are short."""
    weights = dict(config.scheduler.weights)
    shares = [weights.get(level, 1) for level in config.levels]
    divisor = gcd(*shares)
    return [share // divisor for share in shares]


class _Choice:
    """What one pull has so far."""

    __slots__ = ("asked", "consumer", "demand", "room", "taken", "topic", "turn")

    def __init__(self, turn: Turn, topic: TopicState, consumer: ConsumerState, demand: Demand) -> None:
        self.turn, self.topic, self.consumer, self.demand = turn, topic, consumer, demand
        self.room, self.taken = _Room(demand.count_max, demand.bytes_max), Taken()
        is_all = demand.partition == ALL_PARTITIONS
        self.asked = topic.partitions if is_all else [topic.partitions[demand.partition]]

    def has(self, number: int) -> bool:
        """Whether the level has something for the consumer in any asked partition."""
        return any(
            self.consumer.cursors_of(partition)[number].delivered_count < partition.levels[number].appended_count
            for partition in self.asked
        )

    def take(self, number: int, last_partition: int, count_max: int) -> int:
        """Take up to so many messages of the level, from the partition after the last one on; returns how many."""
        consumer, room, taken = self.consumer, self.room, self.taken
        first = (last_partition + 1) % len(self.topic.partitions) if len(self.asked) > 1 else 0
        count_before = room.count_left
        for partition in self.asked[first:] + self.asked[:first]:
            level, cursors = partition.levels[number], consumer.cursors_of(partition)
            allowed = count_max - (count_before - room.count_left)
            if room.is_full or allowed < 1 or cursors[number].delivered_count == level.appended_count:
                continue
            if partition.number not in taken.start_offsets:
                taken.start_offsets[partition.number] = first_undelivered(self.turn.reader, partition, cursors)
            ranges_before = len(taken.ranges)
            _take_level(self.turn, room, taken, level, cursors[number], partition.number, number, allowed)
            if len(taken.ranges) > ranges_before:
                consumer.last_partition = partition.number
                self.turn.cursors_changed(self.topic, consumer, partition.number)
        return count_before - room.count_left


@dataclass(slots=True)
class _Room:
    """How much more may be taken."""

    count_left: int
    bytes_left: int
    is_full: bool = False


def _take_level(
    turn: Turn,
    room: _Room,
    taken: Taken,
    level: LevelState,
    cursor: Cursor,
    partition: int,
    number: int,
    count_max: int,
) -> None:
    for batch in level.batches(turn.reader, cursor.batch_offset):
        offset = max(batch.base, cursor.next_offset)
        left = batch.base + batch.record_count - offset
        message_bytes = -(-batch.size // batch.record_count)
        fitting = max(room.bytes_left // message_bytes, 0 if taken.ranges else 1)
        count = min(left, room.count_left, fitting, count_max)
        if count < 1:
            room.is_full = True
            return
        taken.ranges.append(Range(partition, number, batch.base, offset, count))
        room.count_left -= count
        count_max -= count
        room.bytes_left = max(room.bytes_left - count * message_bytes, 0)
        cursor.next_offset = offset + count
        cursor.batch_offset = cursor.next_offset if count == left else batch.base
        cursor.delivered_count += count
        if count_max == 0 and room.count_left:
            return
        if count < left or room.count_left == 0:
            room.is_full = True
            return
    if cursor.delivered_count != level.appended_count:
        message = f"level {level.prefix.hex()} holds {cursor.delivered_count} messages, not {level.appended_count}"
        raise CorruptionError(message)
