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

from collections import deque
from dataclasses import dataclass, field
from math import gcd

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.consumers import put_consumer
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.settings import WEIGHTED, TopicConfig
from falconq_cluster.machine.state import ConsumerState, Cursor, PartitionState, TopicState, first_undelivered
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
    if len(choice.asked) == 1:
        partition = choice.asked[0]
        cursors = consumer.cursors_of(partition)
        choice.taken.start_offsets[partition.number] = first_undelivered(turn.reader, partition, cursors)
    before = consumer.last_partition, list(consumer.served), list(consumer.turns)
    if topic.config.scheduler.policy == WEIGHTED:
        _take_weighted(choice)
    else:
        last_partition = consumer.last_partition
        for number in reversed(range(demand.level_min, len(topic.config.levels))):
            if not choice.room.is_full:
                choice.take(choice.waiting(number, last_partition), demand.count_max)
    if before != (consumer.last_partition, consumer.served, consumer.turns):
        put_consumer(turn, topic, consumer)
    return choice.taken


def _take_weighted(choice: _Choice) -> None:
    """In rounds, of which each gives every level at most its share, the most urgent one first.

    A round ends as soon as nothing that waits has a share left, so what a level does not use goes to the others at
    once, and no level saves more than one round's share. Shares hold over any sizes of pulls, since the round is kept.
    """
    consumer = choice.consumer
    shares = _shares(choice.topic.config)
    consumer.served += [0] * (len(shares) - len(consumer.served))
    consumer.turns += [-1] * (len(shares) - len(consumer.turns))
    # Each level has its own turn of partitions: one turn for all would tie levels to partitions.
    numbers = reversed(range(choice.demand.level_min, len(shares)))
    waiting = {number: queues for number in numbers if (queues := choice.waiting(number, consumer.turns[number]))}
    while waiting and not choice.room.is_full:
        number = next((number for number in waiting if consumer.served[number] < shares[number]), None)
        if number is None:
            consumer.served = [0] * len(shares)
            continue
        given = choice.take(waiting[number], shares[number] - consumer.served[number])
        consumer.served[number] += given
        if given:
            consumer.turns[number] = consumer.last_partition
        if not waiting[number]:
            del waiting[number]


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

    def waiting(self, number: int, last_partition: int) -> deque[_Queue]:
        """What waits in the level, from the partition after the last one on. Made once a pull: it looks at each."""
        first = (last_partition + 1) % len(self.asked) if len(self.asked) > 1 else 0
        return deque(
            _Queue(self.turn, partition, number, cursor)
            for partition in self.asked[first:] + self.asked[:first]
            if (cursor := self.consumer.cursors_of(partition)[number]).delivered_count
            < partition.levels[number].appended_count
        )

    def take(self, queues: deque[_Queue], count_max: int) -> int:
        """Take up to so many messages of one level, each partition in its turn; returns how many."""
        room, taken, count = self.room, self.taken, 0
        while queues and count < count_max and not room.is_full:
            queue = queues.popleft()
            partition = queue.partition
            if partition.number not in taken.start_offsets:
                cursors = self.consumer.cursors_of(partition)
                taken.start_offsets[partition.number] = first_undelivered(self.turn.reader, partition, cursors)
            given = queue.give(room, taken, count_max - count)
            if given:
                count += given
                self.consumer.last_partition = partition.number
                self.turn.cursors_changed(self.topic, self.consumer, partition.number)
            if queue.left_count:
                queues.append(queue)
        return count


@dataclass(slots=True)
class _Room:
    """How much more may be taken."""

    count_left: int
    bytes_left: int
    is_full: bool = False


class _Queue:
    """What waits for the consumer in one level of one partition; a pull may come back to it."""

    __slots__ = ("_batch", "_batches", "_cursor", "_level", "_number", "partition")

    def __init__(self, turn: Turn, partition: PartitionState, number: int, cursor: Cursor) -> None:
        self.partition = partition
        self._number = number
        self._level = partition.levels[number]
        self._cursor = cursor
        self._batches = self._level.batches(turn.reader, cursor.batch_offset)
        self._batch: Batch | None = None
        """The one in which the cursor stands."""

    @property
    def left_count(self) -> int:
        return self._level.appended_count - self._cursor.delivered_count

    def give(self, room: _Room, taken: Taken, count_max: int) -> int:
        """Move up to so many messages into `taken`, as far as there is room; returns how many."""
        cursor, given = self._cursor, 0
        while given < count_max and self.left_count and not room.is_full:
            batch = self._batch = self._batch or self._next_batch()
            offset = max(batch.base, cursor.next_offset)
            left = batch.base + batch.record_count - offset
            message_bytes = -(-batch.size // batch.record_count)
            fitting = max(room.bytes_left // message_bytes, 0 if taken.ranges else 1)
            count = min(left, room.count_left, fitting, count_max - given)
            if count < 1:
                room.is_full = True
                break
            taken.ranges.append(Range(self.partition.number, self._number, batch.base, offset, count))
            given += count
            room.count_left -= count
            room.bytes_left = max(room.bytes_left - count * message_bytes, 0)
            room.is_full = room.count_left == 0
            cursor.next_offset = offset + count
            cursor.delivered_count += count
            cursor.batch_offset = batch.base
            if count == left:
                cursor.batch_offset, self._batch = cursor.next_offset, None
        return given

    def _next_batch(self) -> Batch:
        for batch in self._batches:
            return batch
        level, cursor = self._level, self._cursor
        message = f"level {level.prefix.hex()} holds {cursor.delivered_count} messages, not {level.appended_count}"
        raise CorruptionError(message)
