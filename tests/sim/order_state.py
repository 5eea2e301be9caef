"""What is known of topics with keys and of their consumers, as simply as it can be said.

What lives here: messages, what a consumer has in hand, and the lines in which messages wait for it.
Rules: a line is what a consumer gets in its order, one after the other. With the order `key` a key has one line for
each level, over all partitions, in the order of the log; with `partition` a partition has; without an order each level
of a partition is a line too, but no line waits for what is in hand of it.
Must not know: how the machine remembers, what may be given when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.subscriptions import ConsumerConfig, Ordering

Place = tuple[int, int]
"""(partition, offset)."""
Lane = tuple[str, str] | None
"""("key", key), ("partition", number), or of nothing."""
LineName = tuple[int, Lane, int]
"""(level, lane, partition); the partition is -1 for a line over all of them."""


@dataclass(frozen=True, slots=True)
class Message:
    partition: int
    offset: int
    level: int
    key: str | None
    size: int
    stamp_ms: int
    is_astray: bool
    """Whether its key's partition was another one by the time at which it was appended: a node did not know yet that
    there are more. Then nothing is promised of it and messages of other partitions."""

    @property
    def place(self) -> Place:
        return self.partition, self.offset


@dataclass(frozen=True, slots=True)
class Held:
    """A message that was handed out and is not settled."""

    message: Message
    priority: int
    nonce: bytes
    """Of its lease, or its last one; empty after it was given back."""
    until_ms: int
    """The end of its lease, or of the time for which it was given back."""
    failed_count: int
    acquired_count: int
    is_last: bool
    """Whether its topic gives it no more after this delivery fails."""
    number: int
    """Of the delivery to an event stream; 0 without one."""

    def is_leased(self, now_ms: int) -> bool:
        return bool(self.nonce) and self.until_ms > now_ms

    def is_dead(self, now_ms: int) -> bool:
        """Whether its last delivery failed by time."""
        return self.is_last and bool(self.nonce) and self.until_ms <= now_ms

    def is_ready(self, now_ms: int) -> bool:
        return self.until_ms <= now_ms and not self.is_dead(now_ms)


@dataclass(slots=True)
class Consumer:
    used_ms: int
    """When it was used last."""
    config: ConsumerConfig = field(default_factory=ConsumerConfig)
    is_paused: bool = False
    held: dict[Place, Held] = field(default_factory=dict)
    dead: set[Place] = field(default_factory=set)
    """What went to the dead letters."""
    lines: dict[LineName, deque[Message]] = field(default_factory=dict)
    """What is to come."""
    astray: dict[Lane, int] = field(default_factory=dict)
    """How many messages of the lane are to come of which nothing is promised."""
    opened: set[tuple[int, int]] = field(default_factory=set)
    """(first partition of an addition, level) of which all is given that was there before."""
    hungry: dict[int, int] = field(default_factory=dict)
    """level -> how many pulls in a row left something of it lying, though they had room."""
    served: list[int] = field(default_factory=lambda: [0] * 16)
    """By level, of the present round."""
    delivery_number: int = 0
    stream: bytes = b""

    def lane(self, message: Message) -> Lane:
        match self.config.ordering:
            case Ordering.KEY:
                return None if message.key is None else ("key", message.key)
            case Ordering.PARTITION:
                return "partition", str(message.partition)
        return None

    def line_name(self, message: Message) -> LineName:
        lane = self.lane(message)
        is_of_all = lane is not None and lane[0] == "key" and not message.is_astray
        return message.level, lane, -1 if is_of_all else message.partition

    def add(self, message: Message) -> None:
        """The message is to come."""
        self.lines.setdefault(self.line_name(message), deque()).append(message)
        if message.is_astray:
            lane = self.lane(message)
            self.astray[lane] = self.astray.get(lane, 0) + 1

    def take(self, message: Message) -> None:
        """The message, the first of its line, is given."""
        name = self.line_name(message)
        self.lines[name].popleft()
        if not self.lines[name]:
            del self.lines[name]
        if message.is_astray:
            self.astray[self.lane(message)] -= 1

    def to_come(self) -> Iterator[Message]:
        for line in self.lines.values():
            yield from line

    def arrange(self, messages: list[Message]) -> None:
        """Exactly these are to come, in lines of the present order."""
        self.lines.clear()
        self.astray.clear()
        for message in messages:
            self.add(message)

    def leased_count(self, now_ms: int) -> int:
        return sum(1 for held in self.held.values() if held.is_leased(now_ms))


@dataclass(slots=True)
class Topic:
    config: TopicConfig
    messages: list[Message] = field(default_factory=list)
    """In the order of the log."""
    by_place: dict[Place, Message] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    """partition -> offset of its next message."""
    additions: dict[int, dict[int, int]] = field(default_factory=dict)
    """First of the partitions that were added together -> `ends` then."""
    consumers: dict[str, Consumer] = field(default_factory=dict)

    def configure(self, config: TopicConfig) -> None:
        if config.partitions > self.config.partitions and self.ends:
            self.additions[self.config.partitions] = dict(self.ends)
        self.config = config

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self.by_place[message.place] = message
        self.ends[message.partition] = message.offset + 1
        for consumer in self.consumers.values():
            consumer.add(message)

    def limit_ms(self, level: int) -> int | None:
        """How long a message of the level waits before it goes first; None for as long as it takes."""
        return dict(self.config.scheduler.max_wait_ms).get(self.config.levels[level])

    def is_last(self, delivery_count: int) -> bool:
        return 0 < self.config.deliveries_max <= delivery_count
