"""What consumers of topics that do not keep everything may be given, found out once more and by itself.

What lives here: messages, and the places and hands of consumers, as a naive model has them.
Rules: what is expired by log time, or trimmed, is given to nobody from then on, whether it is fresh or comes back. All
else is given: nothing fresh is skipped, what is leased is with one worker at a time, a pull gives as much as it may. A
strict topic gives the most urgent level first. A lease is settled by whoever names it in time, also of what is expired
by then, but not of what is trimmed. An attempt that comes again gets what it got.
Must not know: why something is trimmed, how the machine remembers and chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from falconq_cluster.machine.commands import Leased, LeasePull, Pull, Pulled, Range, SettleItem, SettleKind
from falconq_cluster.machine.machine import DEFAULT_LIMITS
from falconq_cluster.machine.settings import STRICT, TopicConfig
from tests.sim.world import Violation

Place = tuple[int, int]
"""(partition, offset), or (partition, level)."""


@dataclass(slots=True, eq=False)
class Message:
    """One message for ever."""

    place: Place
    level: int
    number: int
    """In its level of its partition."""
    stamp_ms: int
    expires_ms: int
    id: str
    record: bytes
    bases: list[int]
    """Offsets of the first message of its record batch, which may be split: the last one is that of now."""
    had_id: bool = False
    """Whether it had its id before it came here."""
    is_gone: bool = False
    """Trimmed."""
    is_cancelled: bool = False
    """Or it is somewhere else since; it keeps its offset."""

    @property
    def line(self) -> Place:
        return self.place[0], self.level

    @property
    def base(self) -> int:
        return self.bases[-1]

    def is_over(self, now_ms: int) -> bool:
        """Whether nobody may be given it any more."""
        return self.is_gone or self.is_cancelled or 0 < self.expires_ms <= now_ms


@dataclass(frozen=True, slots=True)
class Held:
    """A message that was handed out and is not settled."""

    message: Message
    priority: int
    nonce: bytes
    """Of its lease; empty after it was given back."""
    until_ms: int
    failed_count: int
    is_last: bool

    def is_leased(self, now_ms: int) -> bool:
        return bool(self.nonce) and self.until_ms > now_ms

    def is_dead(self, now_ms: int) -> bool:
        """Whether its last delivery failed by time."""
        return self.is_last and bool(self.nonce) and self.until_ms <= now_ms


@dataclass(slots=True)
class Consumer:
    """Where one consumer stands."""

    passed: dict[Place, int] = field(default_factory=dict)
    """(partition, level) -> number behind the last message that was handed out."""
    held: dict[Place, Held] = field(default_factory=dict)
    dead: dict[Place, Message] = field(default_factory=dict)
    """Given back for the last time, or rejected."""
    attempts: dict[str, tuple[int, list[Range]]] = field(default_factory=dict)
    """What is remembered of attempts, oldest first, and since when."""
    lost_least: int = 0
    lost_most: int = 0
    """Trimmed before they were settled. What was expired and is trimmed may have been passed over before, or not."""

    def has_passed(self, message: Message) -> bool:
        return message.number < self.passed.get(message.line, 0)

    def may_be_done_with(self, message: Message, now_ms: int) -> bool:
        """Whether the consumer needs the message no more, unless it died and is not buried."""
        held = self.held.get(message.place)
        if held is not None and not held.is_dead(now_ms):
            return message.is_over(now_ms) and not held.is_leased(now_ms)
        return self.has_passed(message) or message.is_over(now_ms)

    def has_died(self, message: Message, now_ms: int) -> bool:
        """Whether it goes to the dead letters, or is there."""
        held = self.held.get(message.place)
        return message.place in self.dead or (held is not None and held.is_dead(now_ms))

    def is_done_with(self, message: Message) -> bool:
        """Whether it surely was given and settled."""
        return self.has_passed(message) and message.place not in self.held and message.place not in self.dead

    def trimmed(self, message: Message, now_ms: int) -> None:
        """The message is gone from now on."""
        held = self.held.get(message.place)
        if self.has_died(message, now_ms):
            # It may be in the dead letters by now.
            self.lost_most += 1
        elif held is not None or not self.has_passed(message):
            is_sure = held.is_leased(now_ms) if held is not None else False
            self.lost_most += 1
            self.lost_least += is_sure or not message.is_over(now_ms)


@dataclass(slots=True)
class Stock:
    """What a topic has for consumers."""

    config: TopicConfig
    partitions: list[list[Message]]
    """By offset."""
    lines: dict[Place, list[Message]]
    """(partition, level) -> its messages."""

    def at(self, place: Place) -> Message:
        return self.partitions[place[0]][place[1]]

    def is_last(self, delivery_count: int) -> bool:
        return 0 < self.config.deliveries_max <= delivery_count

    def messages_of(self, ranges: Sequence[Range]) -> Iterator[Message]:
        """Raises: Violation."""
        for found in ranges:
            for offset in range(found.offset, found.offset + found.count):
                if offset >= len(self.partitions[found.partition]):
                    raise Violation(f"{found} names what was never appended")
                message = self.at((found.partition, offset))
                if message.level != found.level or found.batch_offset not in message.bases:
                    raise Violation(f"{message} is named as {found}")
                yield message


def pulled(stock: Stock, consumer: Consumer, operation: Pull, result: Pulled, now_ms: int) -> None:
    """Judge a pull without leases. Raises: Violation."""
    attempt = operation.attempt
    for old in [name for name, (since_ms, _) in consumer.attempts.items() if is_forgotten(since_ms, now_ms)]:
        del consumer.attempts[old]
    if result.is_replay or attempt in consumer.attempts:
        if not result.is_replay or consumer.attempts.get(attempt, (0, []))[1] != result.ranges:
            raise Violation(f"attempt {attempt} was given {consumer.attempts.get(attempt)}, and now {result}")
        return
    giving = Giving(stock, consumer, now_ms, 0, has_returned=False)
    for message in stock.messages_of(result.ranges):
        giving.give(message)
    giving.expect_end(operation.count_max, operation.count_max)
    if attempt and result.ranges:
        while len(consumer.attempts) >= DEFAULT_LIMITS.attempts_per_consumer_max:
            del consumer.attempts[next(iter(consumer.attempts))]
        consumer.attempts[attempt] = now_ms, result.ranges


def is_forgotten(since_ms: int, now_ms: int) -> bool:
    """Whether the time is over for which an attempt is remembered."""
    return now_ms - since_ms >= DEFAULT_LIMITS.attempt_ms


def leased(stock: Stock, consumer: Consumer, operation: LeasePull, result: Leased, now_ms: int) -> None:
    """Judge a pull under leases. Raises: Violation."""
    in_flight = [held for held in consumer.held.values() if held.is_leased(now_ms)]
    gone_count = sum(held.message.is_gone for held in in_flight)
    free = operation.in_flight_max - len(in_flight)
    giving = Giving(stock, consumer, now_ms, operation.level_min, has_returned=True)
    for found in result.ranges:
        for message in stock.messages_of([found.messages]):
            before = giving.give(message)
            failed_count = 0 if before is None else before.failed_count + bool(before.nonce)
            if failed_count + 1 != found.delivery_count:
                raise Violation(f"{message} is delivered as {found}, {failed_count} deliveries of it failed")
            consumer.held[message.place] = Held(
                message,
                message.level if before is None else before.priority,
                result.nonce,
                result.expires_ms,
                failed_count,
                stock.is_last(failed_count + 1),
            )
    # Leases of what is trimmed end a little later.
    giving.expect_end(*(max(min(operation.count_max, room), 0) for room in (free, free + gone_count)))


def settled(stock: Stock, consumer: Consumer, item: SettleItem, now_ms: int) -> bool:
    """Whether the item names a lease that is not over; then it has its effect."""
    place = (item.partition, item.offset)
    held = consumer.held.get(place)
    if held is None or held.nonce != item.nonce or not held.is_leased(now_ms) or held.message.is_gone:
        return False
    match item.kind:
        case SettleKind.ACK:
            del consumer.held[place]
        case SettleKind.EXTEND:
            consumer.held[place] = replace(held, until_ms=now_ms + item.ms)
        case SettleKind.NACK if not held.is_last:
            failed_count = held.failed_count + 1
            wait_ms = stock.config.retry.wait_ms(failed_count) if item.ms < 0 else item.ms
            priority = held.priority if item.priority < 0 else item.priority
            consumer.held[place] = replace(
                held, priority=priority, nonce=b"", until_ms=now_ms + wait_ms, failed_count=failed_count
            )
        case _:
            del consumer.held[place]
            consumer.dead[place] = held.message
    return True


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What would be given next of a line, in which each waits for those before it."""

    priority: int
    since_ms: int
    message: Message
    is_fresh: bool


class Giving:
    """One pull."""

    def __init__(self, stock: Stock, consumer: Consumer, now_ms: int, level_min: int, *, has_returned: bool) -> None:
        self._stock, self._consumer, self._now_ms = stock, consumer, now_ms
        self._level_min, self._has_returned = level_min, has_returned
        self._given: set[Place] = set()
        self._over_count = self._count_over()
        self._expired_partitions = len({place[0] for place in self._lines_with_expired()})

    def give(self, message: Message) -> Held | None:
        """The message is given now; how it was held before. Raises: Violation."""
        waiting = self._waiting()
        found = next((line for line in waiting if line.message is message), None)
        if found is None:
            held = self._consumer.held.get(message.place)
            text = f"{message} was not to give at {self._now_ms}: in hand is {held}, to come are {waiting}"
            raise Violation(text)
        if self._stock.config.scheduler.policy == STRICT:
            most = max(line.priority for line in waiting)
            if found.priority != most:
                raise Violation(f"{found} is given before level {most}: {waiting}")
        self._given.add(message.place)
        if not found.is_fresh:
            return self._consumer.held.pop(message.place)
        self._consumer.passed[message.line] = message.number + 1
        return None

    def expect_end(self, count_least: int, count_most: int) -> None:
        """It gave no more than it might, and all that it might. Raises: Violation."""
        count, waiting = len(self._given), self._waiting()
        if count > count_most:
            raise Violation(f"{count} are given, at most {count_most} might be")
        # What is over in hand counts as given; and a pull passes over what is expired in so many partitions only.
        if count + self._over_count < count_least and waiting and self._expired_partitions <= count_least:
            raise Violation(f"{count} are given, of at most {count_least}; to come are {waiting}")

    def _waiting(self) -> list[_Waiting]:
        """The first message of each line: of fresh ones by partition and level, of returned ones by priority."""
        waiting = []
        for (partition, level), line in self._stock.lines.items():
            if level < self._level_min:
                continue
            for message in line[self._consumer.passed.get((partition, level), 0) :]:
                if not message.is_over(self._now_ms):
                    waiting.append(_Waiting(level, message.stamp_ms, message, is_fresh=True))
                    break
        returned: dict[int, _Waiting] = {}
        for held in self._returned():
            if not held.message.is_over(self._now_ms):
                again = _Waiting(held.priority, held.until_ms, held.message, is_fresh=False)
                first = returned.setdefault(held.priority, again)
                if (again.since_ms, again.message.place) < (first.since_ms, first.message.place):
                    returned[held.priority] = again
        return waiting + list(returned.values())

    def _returned(self) -> Iterator[Held]:
        """What is in hand, may be given again by its time, and was not given by this pull."""
        for place, held in self._consumer.held.items() if self._has_returned else ():
            is_ready = held.until_ms <= self._now_ms and not held.is_dead(self._now_ms)
            if is_ready and held.priority >= self._level_min and place not in self._given:
                yield held

    def _count_over(self) -> int:
        return sum(held.message.is_over(self._now_ms) for held in self._returned())

    def _lines_with_expired(self) -> Iterator[Place]:
        for place, line in self._stock.lines.items():
            for message in line[self._consumer.passed.get(place, 0) :]:
                if message.is_over(self._now_ms) and not message.is_gone:
                    yield place
                    break
