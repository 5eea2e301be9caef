"""Whether a consumer, with an order or without one, might be given what one pull gave it.

What lives here: the judgement of one pull, message by message, and of what it left.
Rules: of a lane nothing is given while something of it is in hand; of a line the first message is given; nothing
is given while a more urgent level has something that may surely be given, or as the policy says. A message of an added
partition may surely be given once all is given of its level that the others held then (PROTOCOL.md P16); with an order
it may be given earlier than that, and what a pull leaves lying comes within a bounded number of pulls (P12).
Must not know: how the machine remembers and chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from falconq_cluster.machine.settings import AGED, WEIGHTED
from falconq_cluster.machine.subscriptions import Ordering
from tests.sim.order_state import Consumer, Held, Lane, Message, Place, Topic
from tests.sim.world import Violation

HUNGRY_MAX = 2
ASIDE_PER_PULL = 50
"""A pull passes at least so many messages whose lane is taken, if nobody else does in the same entry."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What may be given now."""

    priority: int
    since_ms: int
    place: Place
    is_fresh: bool
    size: int


class Giving:
    """One pull."""

    def __init__(
        self,
        topic: Topic,
        consumer: Consumer,
        now_ms: int,
        *,
        bytes_max: int,
        partition: int = -1,
        level_min: int = 0,
        has_returned: bool = True,
    ) -> None:
        self._topic, self._consumer, self._now_ms = topic, consumer, now_ms
        self._partition, self._level_min, self._has_returned = partition, level_min, has_returned
        self._bytes_max = bytes_max
        self._bytes = 0
        self._count = 0
        self._is_ordered = consumer.config.ordering is not Ordering.NONE
        self._owned: set[Lane] = {consumer.lane(held.message) for held in consumer.held.values()}
        self._closed: set[tuple[int, int]] = set()
        if consumer.config.ordering is Ordering.KEY:
            self._look_at_additions()

    def _look_at_additions(self) -> None:
        """Where something may be left that was there before partitions were added."""
        consumer, levels = self._consumer, range(len(self._topic.config.levels))
        unknown = {(first, level) for first in self._topic.additions for level in levels} - consumer.opened
        if unknown:
            self._closed = {
                (first, level)
                for first, level in unknown
                for message in consumer.to_come()
                if message.level == level and message.offset < self._topic.additions[first].get(message.partition, 0)
            }
            consumer.opened |= unknown - self._closed

    def give(self, place: Place, level: int) -> Held | None:
        """The message is given now; how it was held before. Raises: Violation."""
        message = self._topic.by_place[place]
        if message.level != level:
            raise Violation(f"{message} is given as one of level {level}")
        held = self._consumer.held.get(place)
        if held is not None:
            self._give_again(held)
        else:
            self._give_fresh(message)
        self._count += 1
        self._bytes += message.size
        if self._count > 1 and self._bytes > self._bytes_max:
            raise Violation(f"{self._count} messages of {self._bytes} bytes are given, of at most {self._bytes_max}")
        return held

    def _give_again(self, held: Held) -> None:
        if not (self._has_returned and held.is_ready(self._now_ms) and held.priority >= self._level_min):
            raise Violation(f"what is in hand as {held} was not to give")
        self._judge(Waiting(held.priority, held.until_ms, held.message.place, is_fresh=False, size=0))
        del self._consumer.held[held.message.place]

    def _give_fresh(self, message: Message) -> None:
        consumer, lane = self._consumer, self._consumer.lane(message)
        line = consumer.lines.get(consumer.line_name(message))
        if line is None or line[0] is not message:
            raise Violation(f"{message} was not to give: the next of its line is {line and line[0]}")
        if lane is not None and lane in self._owned:
            raise Violation(f"{message} is given while its {lane} is in hand: {list(consumer.held.values())}")
        if message.level < self._level_min or self._partition not in (-1, message.partition):
            raise Violation(f"{message} was not asked for")
        self._judge(Waiting(message.level, message.stamp_ms, message.place, is_fresh=True, size=message.size))
        consumer.take(message)
        self._owned.add(lane)

    def expect_end(self, count_max: int) -> None:
        """It gave no more than it might, and all that it might. Raises: Violation."""
        if self._count > count_max:
            raise Violation(f"{self._count} are given, of at most {count_max}")
        heads = self._heads()
        sizes = [head.size for head in heads] + [waiting.size for waiting in self._returned()]
        is_out_of_room = self._count > 0 and any(self._bytes + size > self._bytes_max for size in sizes)
        if self._count == count_max:
            return
        left = self._sure()
        if is_out_of_room:
            # A round that was over for all that waits is over, although nothing fitted any more.
            self._with_a_share({waiting.priority for waiting in left})
            return
        if left and not self._is_ordered:
            raise Violation(f"{self._count} are given, of at most {count_max}; to come are {left}")
        if any(not waiting.is_fresh for waiting in left):
            raise Violation(f"{self._count} are given, of at most {count_max}; what came again is left: {left}")
        self._see_hunger({head.level for head in heads})

    def _see_hunger(self, levels: set[int]) -> None:
        consumer = self._consumer
        bound = HUNGRY_MAX + len(self._topic.additions) + sum(map(len, consumer.lines.values())) // ASIDE_PER_PULL
        for level in range(self._level_min, len(self._topic.config.levels)):
            consumer.hungry[level] = consumer.hungry.get(level, 0) + 1 if level in levels else 0
            if consumer.hungry[level] > bound:
                raise Violation(f"level {level} has something to give for {bound} pulls: {self._heads()}")

    # What may be given.

    def _heads(self) -> list[Message]:
        """The first of each line whose lane is free."""
        return [
            line[0]
            for (level, lane, partition), line in self._consumer.lines.items()
            if level >= self._level_min
            and (lane is None or lane not in self._owned)
            and self._partition in (-1, partition)
        ]

    def _returned(self) -> list[Waiting]:
        if not self._has_returned:
            return []
        return [
            Waiting(held.priority, held.until_ms, place, is_fresh=False, size=held.message.size)
            for place, held in self._consumer.held.items()
            if held.priority >= self._level_min and held.is_ready(self._now_ms)
        ]

    def _sure(self) -> list[Waiting]:
        """What may surely be given."""
        heads = self._heads()
        if self._is_ordered:
            best: dict[Lane, int] = {}
            for level, lane, _ in self._consumer.lines:
                best[lane] = max(level, best.get(lane, 0))
            heads = [head for head in heads if self._is_sure(head, best)]
        fresh = [Waiting(head.level, head.stamp_ms, head.place, is_fresh=True, size=head.size) for head in heads]
        return fresh + self._returned()

    def _is_sure(self, head: Message, best: dict[Lane, int]) -> bool:
        lane = self._consumer.lane(head)
        if lane is not None and (best[lane] > head.level or self._consumer.astray.get(lane)):
            # It may stand behind another one of its lane.
            return False
        first = max((first for first in self._topic.additions if first <= head.partition), default=None)
        return first is None or (first, head.level) not in self._closed

    # The policy.

    def _judge(self, given: Waiting) -> None:
        """Whether the policy gives this one now. Raises: Violation."""
        sure = self._sure()
        policy = self._topic.config.scheduler.policy
        if policy == AGED:
            overdue = [since for waiting in sure if (since := self._overdue_ms(waiting)) is not None]
            mine = self._overdue_ms(given)
            if overdue or mine is not None:
                if mine is None or any(other < mine for other in overdue):
                    raise Violation(f"{given} is given before what is further past its limit: {sure}")
                return
        levels = {waiting.priority for waiting in sure} | {given.priority}
        if policy == WEIGHTED:
            levels = self._with_a_share(levels)
        if given.priority != max(levels):
            raise Violation(f"{given} is given before level {max(levels)} by {policy}: {sure}")
        self._consumer.served[given.priority] += 1
        for waiting in sure:
            if waiting.is_fresh or waiting.priority != given.priority:
                continue
            # What an order has set aside stands among what comes again, by its time.
            is_before = (waiting.since_ms, waiting.place) < (given.since_ms, given.place)
            if is_before or (given.is_fresh and not self._is_ordered):
                raise Violation(f"{given} is given before what comes again of its level: {sure}")

    def _with_a_share(self, levels: set[int]) -> set[int]:
        served, weights = self._consumer.served, dict(self._topic.config.scheduler.weights)
        shares = [weights.get(name, 1) for name in self._topic.config.levels]
        shares = [share // gcd(*shares) for share in shares]
        if all(served[level] >= shares[level] for level in levels):
            served[:] = [0] * len(served)
        return {level for level in levels if served[level] < shares[level]}

    def _overdue_ms(self, waiting: Waiting) -> int | None:
        """Since when it is past its level's limit; None when it is not."""
        limit_ms = self._topic.limit_ms(waiting.priority)
        if limit_ms is None or waiting.since_ms + limit_ms > self._now_ms:
            return None
        return waiting.since_ms + limit_ms
