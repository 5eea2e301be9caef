"""Scheduling: which messages a consumer is given next.

What lives here: the choice for every kind of pull, of fresh messages, those that a consumer's cursors have not passed,
and of returned ones, which it had in hand.
Rules: `strict` gives the most urgent level of all asked partitions first; `weighted` gives each level its share of a
round; `aged` first gives what waited longer than its level's limit, the longest overdue first, and then goes on as
`strict` does. A returned message counts as one of the level that it has as its priority, and goes before what is fresh
of that level. Of what is fresh, ties go to the partition after the one that was served last, and a partition that has
its turn gives all it has of the level, or of the level's share, before the next one does. Within a level of a partition
nothing fresh is skipped, given twice, or reordered. Bytes are counted from keys: a message of a batch counts as the
batch's average, rounded up, so a choice reads no values on any node and passes `bytes_max` by less than one batch.
Only for a consumer with an order are keys of messages read, and messages set aside (machine/ordering.py).
What is expired is passed over, a bounded number with each pull.
Must not know: why messages are taken and what becomes of them, what is in a message.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from math import gcd

from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.consumers import drop_if_expired, drop_if_trimmed
from falconq_cluster.machine.levels import first_undelivered
from falconq_cluster.machine.ordering import Gate
from falconq_cluster.machine.queueing import Queue, Room, Taken
from falconq_cluster.machine.settings import AGED, WEIGHTED, TopicConfig
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import Ordering
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
    fresh_max: int | None = None
    """With a number, no more fresh ones than so many, and returned ones too; with None, fresh ones alone."""


def take_next(turn: Turn, topic: TopicState, consumer: ConsumerState, demand: Demand) -> Taken:
    """Chooses the next messages, moves the consumer's cursors past them, and leaves both rows in the turn."""
    choice = _Choice(turn, topic, consumer, demand)
    if len(choice.asked) == 1:
        partition = choice.asked[0]
        cursors = choice.cursors[partition.number]
        choice.taken.start_offsets[partition.number] = first_undelivered(turn.reader, partition, cursors)
    before = consumer.last_partition, list(consumer.served), list(consumer.turns)
    if topic.config.scheduler.policy == WEIGHTED:
        _take_weighted(choice)
    else:
        if topic.config.scheduler.policy == AGED:
            _take_overdue(choice)
        _take_strict(choice)
    if before != (consumer.last_partition, consumer.served, consumer.turns):
        turn.consumer_changed(topic, consumer)
    return choice.taken


def _take_strict(choice: _Choice) -> None:
    last_partition = choice.consumer.last_partition
    for number in reversed(range(choice.demand.level_min, len(choice.topic.config.levels))):
        if not choice.room.is_full:
            choice.take(choice.waiting(number, last_partition), choice.demand.count_max)


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
    waiting = {number: level for number in numbers if (level := choice.waiting(number, consumer.turns[number])).has_any}
    while waiting and not choice.room.is_full:
        number = next((number for number in waiting if consumer.served[number] < shares[number]), None)
        if number is None:
            consumer.served = [0] * len(shares)
            continue
        level = waiting[number]
        consumer.served[number] += choice.take(level, shares[number] - consumer.served[number])
        if level.last_partition is not None:
            consumer.turns[number] = level.last_partition
        if not level.has_any:
            del waiting[number]


def _take_overdue(choice: _Choice) -> None:
    """What reached its level's limit by log time, the longest overdue first; ties go to the more urgent level.

    A fresh message waits from its append on, a returned one from the moment at which it might be given again. So no
    message is older than the one before it in its line, and only the first one of each line is looked at.
    """
    lines = []
    limits, last_partition = dict(choice.topic.config.scheduler.max_wait_ms), choice.consumer.last_partition
    for number, name in enumerate(choice.topic.config.levels[choice.demand.level_min :], choice.demand.level_min):
        if name in limits:
            level = choice.waiting(number, last_partition)
            lines += [_Line(choice, level, limits[name], queue) for queue in (None, *level.queues)]
    overdue: list[tuple[int, int, int]] = []
    for place, line in enumerate(lines):
        line.enter(overdue, place)
    while overdue and not choice.room.is_full:
        _, _, place = heappop(overdue)
        if lines[place].take():
            lines[place].enter(overdue, place)


def _shares(config: TopicConfig) -> list[int]:
    """What a round gives each level: the weights in their lowest terms, so that rounds are short."""
    weights = dict(config.scheduler.weights)
    shares = [weights.get(level, 1) for level in config.levels]
    divisor = gcd(*shares)
    return [share // divisor for share in shares]


class _Choice:
    """What one pull has so far."""

    __slots__ = ("asked", "consumer", "cursors", "demand", "gate", "room", "taken", "topic", "turn")

    def __init__(self, turn: Turn, topic: TopicState, consumer: ConsumerState, demand: Demand) -> None:
        self.turn, self.topic, self.consumer, self.demand = turn, topic, consumer, demand
        fresh_max = demand.count_max if demand.fresh_max is None else demand.fresh_max
        self.room, self.taken = Room(demand.count_max, fresh_max, demand.bytes_max), Taken()
        is_ordered = consumer.config.ordering is not Ordering.NONE and demand.fresh_max is not None
        self.gate = Gate(turn, topic, consumer) if is_ordered else None
        self.room.passed_max = demand.count_max
        is_all = demand.partition == ALL_PARTITIONS
        self.asked = topic.partitions if is_all else [topic.partitions[demand.partition]]
        self.cursors = {partition.number: consumer.cursors_of(partition) for partition in self.asked}

    def waiting(self, number: int, last_partition: int) -> _Level:
        """What waits in the level, from the partition after the last one on. Made once a pull: it looks at each."""
        first = (last_partition + 1) % len(self.asked) if len(self.asked) > 1 else 0
        queues = deque(
            Queue(self.turn, self.topic, self.consumer, self.room, partition, number, cursor)
            for partition in self.asked[first:] + self.asked[:first]
            if (cursor := self.cursors[partition.number][number]).delivered_count
            < partition.levels[number].appended_count
            and (self.gate is None or self.gate.is_open(partition.number, number))
        )
        returned_count = 0 if self.demand.fresh_max is None else self.consumer.holdings.ready_count(number)
        return _Level(number, self.room, queues, returned_count)

    def take(self, level: _Level, count_max: int) -> int:
        """Take up to so many messages of one level, what was returned first; returns how many."""
        count = 0
        while level.returned_count and count < count_max and not self.room.is_full:
            count += self.take_returned(level)
        return count + self._take_fresh(level, count_max - count)

    def take_returned(self, level: _Level) -> int:
        """Take the returned message that is the level's next; 0 when it does not fit."""
        holdings = self.consumer.holdings
        held = holdings.first_ready(level.number)
        if held is None:
            # Another message of its lane went before it meanwhile.
            level.returned_count = 0
        if held is not None and drop_if_trimmed(self.turn, self.topic, self.consumer, held):
            level.returned_count -= 1
            # A key like one that is given, so that the pull writes no more of them than it has messages (P12).
            self.room.take(1, 1)
            return 0
        if held is not None and drop_if_expired(self.turn, self.topic, self.consumer, held):
            level.returned_count -= 1
            self.room.take(1, 1)
            return 0
        if held is None or not self.room.take(1, held.row.size_bytes):
            return 0
        row, place = held.row, (held.partition, held.offset)
        holdings.take(held)
        level.returned_count -= 1
        self.taken.returned[place] = row
        self.taken.ranges.append(Range(held.partition, row.level, row.batch_offset, held.offset, 1))
        return 1

    def _take_fresh(self, level: _Level, count_max: int) -> int:
        """Each partition in its turn."""
        count = 0
        while level.has_fresh and count < count_max and not self.room.is_full:
            queue = level.queues.popleft()
            count += self._take_from(level, queue, count_max - count)
            if queue.left_count:
                level.queues.append(queue)
        return count

    def take_batch(self, level: _Level, queue: Queue) -> None:
        """Take of the first batch in one partition what is left of it, as far as there is room."""
        self._take_from(level, queue, queue.left_of_batch, is_one_batch=True)

    def _take_from(self, level: _Level, queue: Queue, count_max: int, *, is_one_batch: bool = False) -> int:
        """Take up to so many of what is fresh in one partition; returns how many."""
        partition, taken = queue.partition, self.taken
        if self.gate is not None:
            given = queue.give_in_order(taken, count_max, self.gate, is_one_batch=is_one_batch)
            taken.aside_count = self.gate.aside_count
            self.turn.cursors_changed(self.topic, self.consumer, partition.number)
        else:
            given = queue.give(taken, count_max)
        if given:
            level.last_partition = self.consumer.last_partition = partition.number
            self.turn.cursors_changed(self.topic, self.consumer, partition.number)
        return given


@dataclass(slots=True)
class _Level:
    """What waits for the consumer in one level."""

    number: int
    room: Room
    queues: deque[Queue]
    """Of fresh messages, by partition, in the order of their turns."""
    returned_count: int
    last_partition: int | None = None
    """The one that this pull took fresh messages of last."""

    @property
    def has_fresh(self) -> bool:
        """Whether there is something fresh that the consumer may still have."""
        return bool(self.queues) and self.room.fresh_left > 0

    @property
    def has_any(self) -> bool:
        return self.returned_count > 0 or self.has_fresh


@dataclass(frozen=True, slots=True)
class _Line:
    """Messages of a level with a limit that wait in the order of their age."""

    choice: _Choice
    level: _Level
    limit_ms: int
    queue: Queue | None
    """Of one partition's fresh messages; None is the line of what was returned."""

    def enter(self, overdue: list[tuple[int, int, int]], place: int) -> None:
        """Stand in the heap as (end of the limit, ..., place) if the first message is overdue."""
        since_ms = self._since_ms()
        if since_ms is not None and since_ms + self.limit_ms <= self.choice.turn.log_time_ms:
            heappush(overdue, (since_ms + self.limit_ms, -self.level.number, place))

    def take(self) -> bool:
        """Take those that are as old as the first; False when none fits, and the line is where it was.

        They may be gone without being given: trimmed, expired, or set aside for another worker.
        """
        before = self._left_count
        if self.queue is None:
            self.choice.take_returned(self.level)
        else:
            self.choice.take_batch(self.level, self.queue)
        return self._left_count < before

    @property
    def _left_count(self) -> int:
        return self.level.returned_count if self.queue is None else self.queue.left_count

    def _since_ms(self) -> int | None:
        """Since when the first message waits; None without one."""
        if self.queue is not None:
            return self.queue.oldest_ms
        held = self.choice.consumer.holdings.first_ready(self.level.number) if self.level.returned_count else None
        return None if held is None else held.entry[0]
