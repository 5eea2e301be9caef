"""What consumers make of one message: each of them, and all together.

What lives here: where a message stands with a consumer, what goes before it, and the same for all of its topic.
Rules: it comes from counters and from what is in hand, and no message is read. An answer counts over a bounded number
of levels and of messages in hand; what is beyond is not counted, and never guessed.
Must not know: ids of messages, how one is found, HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from falconq_cluster.machine.holdings import Held, Phase
from falconq_cluster.machine.settings import WEIGHTED
from falconq_cluster.machine.state import ConsumerState, TopicState

RETURNED_MAX = 1_000
"""Messages in hand among which the place of one is counted."""
COUNTED_MAX = 10_000
"""Levels of partitions, and messages in hand, that are counted for one page of consumers: some 3 ms."""
CONSUMER_COST = 10
"""As many levels as one consumer counts for beside its own."""

MessageState = Literal["delayed", "ready", "leased", "acked", "dead"]
ORDER: tuple[MessageState, ...] = ("leased", "ready", "delayed", "dead", "acked")
"""With all consumers together a message stands where it does with the one that comes first here."""


@dataclass(frozen=True, slots=True)
class MessagePlace:
    """Where a message is."""

    partition: int
    level: int
    offset: int
    """-1 while it waits for its time."""


@dataclass(frozen=True, slots=True)
class ConsumersPart:
    """What one consumer makes of a message, or all together."""

    consumer: str
    """Empty for all together."""
    state: MessageState
    """`delayed` is what waits to be given again; `acked` what it was given and has not in hand, or passed over."""
    ahead: int | None
    """Messages that it would be given before, if nothing new came, with those that will be passed over; of its own
    level only those of its partition. None if it is not to be given, or nobody has counted."""
    deliveries: int | None
    """How often it was handed out; None where that is settled and not known any more."""
    until_ms: int
    """Log time at which its lease ends, or from which on it is given again; 0 of all else."""


class MessageStates:
    """Judges one message in its level, at one time."""

    def __init__(
        self, topic: TopicState, place: MessagePlace, *, before_count: int, buried: Collection[int], now_ms: int
    ) -> None:
        self._topic = topic
        self._place = place
        self._before_count = before_count
        """Messages that entered its level before it, from the first one ever on."""
        self._buried = buried
        """Numbers of the consumers that buried it."""
        self._now_ms = now_ms
        self._counted_left = COUNTED_MAX

    def of(self, consumer: ConsumerState) -> ConsumersPart:
        """With this consumer."""
        held = consumer.holdings.get(self._place.partition, self._place.offset)
        if held is not None:
            return self._held(consumer, held)
        if self._is_passed(consumer):
            state: MessageState = "dead" if consumer.number in self._buried else "acked"
            return ConsumersPart(consumer.name, state, None, None, 0)
        return ConsumersPart(consumer.name, "ready", self._ahead(consumer), 0, 0)

    def of_all(self) -> ConsumersPart:
        """With all together: the least that is ahead, the earliest time, the most deliveries that are known."""
        if not self._topic.consumers:
            return self.of_nobody()
        parts: list[ConsumersPart] = []
        fresh: list[ConsumerState] = []
        has_acked = False
        for consumer in self._topic.consumers.values():
            held = consumer.holdings.get(self._place.partition, self._place.offset)
            if held is None and not self._is_passed(consumer):
                fresh.append(consumer)
            elif held is not None or consumer.number in self._buried:
                parts.append(self.of(consumer))
            else:
                has_acked = True
        if fresh:
            parts.append(ConsumersPart("", "ready", self._least_ahead(fresh), 0, 0))
        if has_acked:
            parts.append(ConsumersPart("", "acked", None, None, 0))
        return _together(parts)

    def _least_ahead(self, consumers: Iterable[ConsumerState]) -> int | None:
        """None if not all could be counted: the least of some is not the least."""
        least: int | None = None
        for consumer in consumers:
            ahead = self._ahead(consumer)
            if ahead is None:
                return None
            least = ahead if least is None else min(least, ahead)
        return least

    def of_nobody(self) -> ConsumersPart:
        """With a consumer that comes next, and begins with the oldest message."""
        place, partitions = self._place, self._topic.partitions
        ahead = self._before_count - partitions[place.partition].levels[place.level].trimmed_count
        if self._topic.config.scheduler.policy != WEIGHTED:
            ahead += sum(level.retained_count for p in partitions for level in p.levels[place.level + 1 :])
        return ConsumersPart("", "ready", ahead, 0, 0)

    def _is_passed(self, consumer: ConsumerState) -> bool:
        # Read as it stands: what moves cursors over what is trimmed moves none over what is not.
        cursors = consumer.cursors.get(self._place.partition, [])
        return len(cursors) > self._place.level and cursors[self._place.level].next_offset > self._place.offset

    def _held(self, consumer: ConsumerState, held: Held) -> ConsumersPart:
        row, count, now_ms = held.row, held.row.acquired_count, self._now_ms
        if row.nonce and row.until_ms > now_ms:
            return ConsumersPart(consumer.name, "leased", None, count, row.until_ms)
        if held.phase is Phase.DEAD or (row.nonce and row.is_last):
            return ConsumersPart(consumer.name, "dead", None, count, 0)
        until_ms = row.until_ms + (row.backoff_ms if row.nonce else 0)
        if held.phase is not Phase.ASIDE and until_ms > now_ms:
            return ConsumersPart(consumer.name, "delayed", None, count, until_ms)
        return ConsumersPart(consumer.name, "ready", self._ahead_of_held(consumer, held), count, 0)

    def _ahead_of_held(self, consumer: ConsumerState, held: Held) -> int | None:
        if held.phase is not Phase.READY or len(consumer.holdings) > RETURNED_MAX:
            return None
        urgent_count = self._urgent_count(consumer, held.row.priority)
        if urgent_count is None or self._counted_left < len(consumer.holdings):
            return None
        self._counted_left -= len(consumer.holdings)
        others = (other for other in consumer.holdings if other.phase is Phase.READY)
        return urgent_count + sum(
            other.row.priority == held.row.priority and other.entry < held.entry for other in others
        )

    def _ahead(self, consumer: ConsumerState) -> int | None:
        """Of a message that it was not given yet."""
        place = self._place
        urgent_count = self._urgent_count(consumer, place.level)
        if urgent_count is None:
            return None
        cursor = consumer.cursors_of(self._topic.partitions[place.partition])[place.level]
        returned_count = consumer.holdings.ready_count(place.level)
        return urgent_count + returned_count + self._before_count - cursor.delivered_count

    def _urgent_count(self, consumer: ConsumerState, level: int) -> int | None:
        """Messages of more urgent levels, which all go first, unless levels have shares; None if too many to count."""
        levels_count = len(self._topic.config.levels)
        is_weighted = self._topic.config.scheduler.policy == WEIGHTED
        counted = CONSUMER_COST + (0 if is_weighted else len(self._topic.partitions) * (levels_count - level))
        if self._counted_left < counted:
            return None
        self._counted_left -= counted
        if is_weighted:
            return 0
        count = sum(consumer.holdings.ready_count(number) for number in range(level + 1, levels_count))
        for partition in self._topic.partitions:
            cursors = consumer.cursors_of(partition)
            for state, cursor in zip(partition.levels[level + 1 :], cursors[level + 1 :], strict=True):
                count += state.appended_count - cursor.delivered_count
        return count


def _together(parts: Collection[ConsumersPart]) -> ConsumersPart:
    """Of several, of which each counts."""
    state = min((part.state for part in parts), key=ORDER.index)
    those = [part for part in parts if part.state == state]
    return ConsumersPart(
        consumer="",
        state=state,
        ahead=min((part.ahead for part in those if part.ahead is not None), default=None),
        deliveries=max((part.deliveries for part in parts if part.deliveries is not None), default=None),
        until_ms=min(part.until_ms for part in those) if state == "delayed" else 0,
    )
