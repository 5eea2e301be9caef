"""What a topic with workers may give to whom, found out once more and by itself.

What lives here: a naive model of levels, schedulers and leases, fed with each applied entry.
Rules: a message in hand is leased to one at a time, by log time; what was acknowledged is never given again; nothing
fresh is skipped; what failed too often or was rejected is in hand or in the dead letters, once, and a redrive brings it
back once; an item of a settlement takes effect if and only if it names the lease that the message is under; a pull
gives as much as it may; and no delivery breaks the topic's policy (docs/topics.md, docs/queues.md).
Must not know: how the machine remembers and chooses.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import gcd

from falconq_cluster.machine import burying
from falconq_cluster.machine.commands import (
    AnyOperation,
    Append,
    Appended,
    Leased,
    LeasePull,
    LeaseSettled,
    Pull,
    Pulled,
    Range,
    Result,
    Settle,
    SettleItem,
    SettleKind,
    TopicSet,
)
from falconq_cluster.machine.machine import DEFAULT_LIMITS, Applied
from falconq_cluster.machine.settings import AGED, WEIGHTED, TopicConfig
from falconq_cluster.machine.state import ConsumerState, State
from falconq_cluster.machine.subscriptions import Reap, Redrive
from falconq_cluster.machine.views import Views
from tests.sim.world import Violation

FOREVER_MS = 1 << 60

Place = tuple[int, int]
"""(partition, offset)."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A message that was handed out and is not settled."""

    level: int
    priority: int
    nonce: bytes
    """Of its lease; empty after it was given back."""
    until_ms: int
    """The end of its lease, or of the time for which it was given back."""
    failed_count: int
    acquired_count: int
    is_last: bool
    """Whether its topic gives it no more after this delivery fails."""

    def is_dead(self, now_ms: int) -> bool:
        """Whether its last delivery failed by time."""
        return self.is_last and bool(self.nonce) and self.until_ms <= now_ms


@dataclass(slots=True)
class _Consumer:
    passed: dict[Place, int] = field(default_factory=dict)
    """(partition, level) -> how many of its messages were handed out."""
    held: dict[Place, _Held] = field(default_factory=dict)
    dead: set[Place] = field(default_factory=set)
    """Given back for the last time, or rejected."""
    served: list[int] = field(default_factory=lambda: [0] * 16)
    """By level, of the present round."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The next message of a line, in which each waits for those before it."""

    priority: int
    since_ms: int
    place: Place
    is_fresh: bool


@dataclass(slots=True)
class _Topic:
    config: TopicConfig
    lines: dict[Place, list[tuple[int, int]]] = field(default_factory=dict)
    """(partition, level) -> (offset, log time) of its messages."""
    consumers: dict[str, _Consumer] = field(default_factory=dict)

    def limit_ms(self, level: int) -> int:
        return dict(self.config.scheduler.max_wait_ms).get(self.config.levels[level], FOREVER_MS)

    def is_last(self, delivery_count: int) -> bool:
        return 0 < self.config.deliveries_max <= delivery_count

    def share(self, level: int) -> int:
        weights = dict(self.config.scheduler.weights)
        shares = [weights.get(name, 1) for name in self.config.levels]
        return shares[level] // gcd(*shares)


class QueueModel:
    """All topics that somebody made with settings, and was never deleted."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._topics: dict[str, _Topic] = {}
        self._now_ms = 0
        self.lease_count, self.dead_count = 0, 0

    def applied(self, applied: Applied, operations: Sequence[AnyOperation], views: Views) -> None:
        """Judge each result of the entry; the views show what it left. Raises: Violation."""
        self._now_ms = max(self._now_ms, applied.stamp_ms)
        for number, (operation, result) in enumerate(zip(operations, applied.results, strict=True)):
            try:
                self._applied(operation, result, applied.stamp_ms)
                if isinstance(operation, Redrive | Reap):
                    self._redriven(applied.results[number + 1 :], views)
            except Violation as violation:
                raise Violation(f"entry {applied.index} at {applied.stamp_ms}: {result}: {violation}") from violation

    def _redriven(self, later: Sequence[Result], views: Views) -> None:
        """Messages that came back stand in front of those that later operations of the entry appended."""
        for name, topic in self._topics.items():
            for partition in range(topic.config.partitions):
                appended = (
                    result.base_offset
                    for result in later
                    if isinstance(result, Appended) and (result.topic, result.partition) == (name, partition)
                )
                first = sum(len(line) for place, line in topic.lines.items() if place[0] == partition)
                end = next(appended, FOREVER_MS)
                for message in views.peek(name, partition=partition, offset=first, count=1000):
                    if message.offset < end:
                        line = topic.lines.setdefault((partition, message.level), [])
                        line.append((message.offset, self._now_ms))

    def _applied(self, operation: AnyOperation, result: Result, now_ms: int) -> None:
        if isinstance(result, TopicSet) and result.topic in self._names:
            self._topics.setdefault(result.topic, _Topic(result.config)).config = result.config
            return
        topic = self._topics.get(getattr(operation, "topic", ""))
        if topic is None:
            return
        match operation, result:
            case Append(), Appended():
                line = topic.lines.setdefault((result.partition, result.level), [])
                line += [(result.base_offset + number, now_ms) for number in range(result.count)]
            case Pull(), Pulled(is_replay=False):
                consumer = topic.consumers.setdefault(result.consumer, _Consumer())
                giving = _Giving(topic, consumer, now_ms, operation.partition, 0, has_returned=False)
                for message in _each(result.ranges):
                    giving.give(message)
                giving.expect_end(operation.count_max)
            case LeasePull(), Leased():
                self._leased(topic, operation, result, now_ms)
            case Settle(), LeaseSettled():
                consumer = topic.consumers.get(operation.consumer, _Consumer())
                failed = [
                    number for number, item in enumerate(operation.items) if not _settled(topic, consumer, item, now_ms)
                ]
                if [number for number, _, _ in result.failed] != failed:
                    raise Violation(f"of {operation.items} those at {failed} have no lease, in hand is {consumer.held}")
            case _:
                # Refused, or a repeat.
                pass

    def _leased(self, topic: _Topic, operation: LeasePull, result: Leased, now_ms: int) -> None:
        consumer = topic.consumers.setdefault(result.consumer, _Consumer())
        if result.ranges and result.expires_ms != now_ms + operation.lease_ms:
            raise Violation(f"a lease of {operation.lease_ms} ms ends at {result.expires_ms}")
        leased_count = sum(1 for held in consumer.held.values() if held.nonce and held.until_ms > now_ms)
        giving = _Giving(topic, consumer, now_ms, -1, operation.level_min, has_returned=True)
        for found in result.ranges:
            for message in _each([found.messages]):
                before = giving.give(message)
                held = _Held(message[1], message[1], result.nonce, result.expires_ms, 0, 1, topic.is_last(1))
                if before is not None:
                    failed_count = before.failed_count + bool(before.nonce)
                    held = replace(
                        before,
                        nonce=result.nonce,
                        until_ms=result.expires_ms,
                        failed_count=failed_count,
                        acquired_count=before.acquired_count + 1,
                        is_last=topic.is_last(failed_count + 1),
                    )
                if (held.failed_count + 1, held.acquired_count) != (found.delivery_count, found.acquired_count):
                    raise Violation(f"{message} is delivered as {found}, known is {held}")
                consumer.held[message[0]] = held
                self.lease_count += 1
        free = operation.in_flight_max - leased_count
        giving.expect_end(max(min(operation.count_max, free, DEFAULT_LIMITS.lease_count_max), 0))

    def check_end(self, views: Views, state: State) -> None:
        """Nothing is lost on the way: what is pending, in hand and in the dead letters is all. Raises: Violation."""
        for name, topic in self._topics.items():
            buried = buried_of(views, name)
            for consumer_name, consumer in topic.consumers.items():
                self._check_dead(
                    state.topics[name].consumers[consumer_name], consumer, buried.pop(consumer_name, set())
                )
            _check_redriven(views, name)
            if buried:
                raise Violation(f"{name} has dead letters of {list(buried)}, who had none")
            for consumer_name, consumer in topic.consumers.items():
                pending = [0] * len(topic.config.levels)
                for place, line in topic.lines.items():
                    pending[place[1]] += len(line) - consumer.passed.get(place, 0)
                if views.pending(name, consumer_name) != pending:
                    raise Violation(f"{consumer_name} of {name} has {pending} to come, not what the machine says")

    def _check_dead(self, state: ConsumerState, consumer: _Consumer, buried: set[Place]) -> None:
        """Each is in hand or buried, and nothing else is."""
        in_hand = {(held.partition, held.offset) for held in state.holdings}
        dead = consumer.dead | {place for place, held in consumer.held.items() if held.is_dead(self._now_ms)}
        self.dead_count += len(buried)
        if buried & in_hand or buried - dead or (consumer.dead | consumer.held.keys()) != buried | in_hand:
            raise Violation(
                f"{state.name}: dead are {sorted(dead)}, buried {sorted(buried)}, in hand {sorted(in_hand)}, "
                f"should be {sorted(consumer.held)}"
            )


def buried_of(views: Views, topic: str) -> dict[str, set[Place]]:
    """Consumer -> where its dead letters come from; each is as it was, and there once. Raises: Violation."""
    found: dict[str, set[Place]] = {}
    for dead in views.peek(f"{topic}.dead", partition=None, offset=0, count=1_000_000, bytes_max=1 << 40):
        marks = json.loads(dead.headers or b"{}")
        place = (int(marks[burying.PARTITION]), int(marks[burying.OFFSET]))
        places = found.setdefault(marks[burying.CONSUMER], set())
        if place in places:
            raise Violation(f"{place} of {topic} is in the dead letters twice")
        places.add(place)
        [first] = views.peek(topic, partition=place[0], offset=place[1], count=1)
        if (first.message, first.level, first.id) != (dead.message, dead.level, marks[burying.ID]):
            raise Violation(f"{first} of {topic} is in the dead letters as {dead}")
    return found


def _check_redriven(views: Views, topic: str) -> None:
    """What the redriver has passed is back, once each, and nothing else is. Raises: Violation."""
    dead, stored = (
        views.peek(name, partition=None, offset=0, count=1_000_000, bytes_max=1 << 40)
        for name in (f"{topic}.dead", topic)
    )
    back = Counter(message.message for message in stored if burying.CONSUMER.encode() in (message.headers or b""))
    count = len(dead) - sum(views.pending(f"{topic}.dead", burying.REDRIVER)) if dead else 0
    if back.total() != count or not back <= Counter(message.message for message in dead):
        raise Violation(f"{count} of {len(dead)} dead letters of {topic} were moved back, there are {back}")


def _each(ranges: Sequence[Range]) -> Iterator[tuple[Place, int]]:
    """(place, level) of each message."""
    for found in ranges:
        for number in range(found.count):
            yield (found.partition, found.offset + number), found.level


class _Giving:
    """One pull."""

    def __init__(
        self, topic: _Topic, consumer: _Consumer, now_ms: int, partition: int, level_min: int, *, has_returned: bool
    ) -> None:
        self._topic, self._consumer, self._now_ms = topic, consumer, now_ms
        self._partition, self._level_min, self._has_returned = partition, level_min, has_returned
        self._taken: set[Place] = set()
        """What this pull has given, which it can't give again."""
        self._count = 0

    def give(self, message: tuple[Place, int]) -> _Held | None:
        """The message is given now; how it was held before. Raises: Violation."""
        place, level = message
        lines = self._lines()
        found = next((line for line in lines if line.place == place), None)
        if found is None:
            held = self._consumer.held.get(place)
            raise Violation(f"{message} was not to give: in hand is {held}, to come are {lines}")
        self._judge(found, lines)
        self._taken.add(place)
        self._count += 1
        self._consumer.served[found.priority] += 1
        if found.is_fresh:
            line = (place[0], level)
            self._consumer.passed[line] = self._consumer.passed.get(line, 0) + 1
            return None
        return self._consumer.held.pop(place)

    def expect_end(self, count_max: int) -> None:
        """It gave no more than it might, and all that it might."""
        if self._count > count_max or (self._count < count_max and self._lines()):
            raise Violation(f"{self._count} are given, of at most {count_max}; to come are {self._lines()}")

    def _lines(self) -> list[_Waiting]:
        """The first message of each line: of fresh ones by partition and level, of returned ones by priority."""
        lines = []
        for (partition, level), line in self._topic.lines.items():
            passed = self._consumer.passed.get((partition, level), 0)
            if passed < len(line) and level >= self._level_min and self._partition in (-1, partition):
                offset, since_ms = line[passed]
                lines.append(_Waiting(level, since_ms, (partition, offset), is_fresh=True))
        returned: dict[int, _Waiting] = {}
        for place, held in self._consumer.held.items() if self._has_returned else ():
            is_ready = held.until_ms <= self._now_ms and not held.is_dead(self._now_ms)
            if is_ready and held.priority >= self._level_min and place not in self._taken:
                waiting = _Waiting(held.priority, held.until_ms, place, is_fresh=False)
                first = returned.setdefault(held.priority, waiting)
                if (waiting.since_ms, place) < (first.since_ms, first.place):
                    returned[held.priority] = waiting
        return lines + list(returned.values())

    def _judge(self, given: _Waiting, lines: list[_Waiting]) -> None:
        """Whether the policy gives this one of all lines now. Raises: Violation."""
        policy = self._topic.config.scheduler.policy
        if policy == AGED:
            overdue = [line for line in lines if self._overdue_from_ms(line) <= self._now_ms]
            if overdue:
                if self._overdue_from_ms(given) > min(map(self._overdue_from_ms, overdue)):
                    raise Violation(f"{given} is given before what is further past its limit: {overdue}")
                return
        levels = {line.priority for line in lines}
        if policy == WEIGHTED:
            served = self._consumer.served
            if all(served[level] >= self._topic.share(level) for level in levels):
                served[:] = [0] * len(served)
            levels = {level for level in levels if served[level] < self._topic.share(level)}
        if given.priority != max(levels):
            raise Violation(f"{given} is given before level {max(levels)} by {policy}: {lines}")
        if given.is_fresh and any(line.priority == given.priority and not line.is_fresh for line in lines):
            raise Violation(f"{given} is given before what comes again of its level: {lines}")

    def _overdue_from_ms(self, line: _Waiting) -> int:
        return line.since_ms + self._topic.limit_ms(line.priority)


def _settled(topic: _Topic, consumer: _Consumer, item: SettleItem, now_ms: int) -> bool:
    """Whether the item names a lease that is not over; then it has its effect."""
    place = (item.partition, item.offset)
    held = consumer.held.get(place)
    if held is None or not item.nonce or held.nonce != item.nonce or held.until_ms <= now_ms:
        return False
    match item.kind:
        case SettleKind.ACK:
            del consumer.held[place]
        case SettleKind.EXTEND:
            consumer.held[place] = replace(held, until_ms=now_ms + item.ms)
        case SettleKind.RELEASE:
            consumer.held[place] = replace(held, nonce=b"", until_ms=now_ms)
        case SettleKind.NACK:
            failed_count = held.failed_count + 1
            wait_ms = topic.config.retry.wait_ms(failed_count) if item.ms < 0 else item.ms
            priority = held.priority if item.priority < 0 else item.priority
            consumer.held[place] = replace(
                held, priority=priority, nonce=b"", until_ms=now_ms + wait_ms, failed_count=failed_count
            )
            if held.is_last:
                del consumer.held[place]
                consumer.dead.add(place)
        case SettleKind.REJECT:
            del consumer.held[place]
            consumer.dead.add(place)
    return True
