"""What can be seen of consumers without changing them.

What lives here: a consumer's settings, how far it is behind, and how old what it was not given is.
Rules: as in machine/views.py. Ages come from the keys of record batches, so nothing reads a message; what one page of
consumers may look up is bounded.
Must not know: HTTP, how a level or a time is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from falconq_cluster.machine.consumers import USED_GRAIN_MS
from falconq_cluster.machine.levels import offset_at
from falconq_cluster.machine.state import ConsumerState, State, TopicState
from falconq_cluster.machine.subscriptions import ConsumerConfig
from falconq_cluster.storage.store import Reader

LOOKUPS_MAX = 1_000
"""Levels of partitions whose oldest message one page looks up: some 10 ms. One consumer is always shown whole."""
_USED_SHARE = 8
"""A use is noted again after an eighth of the time after which the consumer would be deleted."""


@dataclass(frozen=True, slots=True)
class ConsumerView:
    """A consumer as it stands."""

    name: str
    created_ms: int
    config: ConsumerConfig
    is_paused: bool
    used_ms: int
    """Log time of its last use, to the minute."""
    lag: list[int]
    """By level, messages that it was not given yet."""
    oldest_ms: list[int | None]
    """By level, log time at which the oldest of them was published; None where there is none."""
    leased_count: int
    """Messages whose leases had not ended when something was last given or settled."""
    returned_count: int
    """Messages in hand that are to be given again."""
    lost: list[int]
    """By level, messages that were trimmed before it was given them or had settled them."""


class ConsumerViews:
    """Reads a state and the store that belongs to it."""

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader

    def consumer(self, topic: str, name: str) -> ConsumerView | None:
        """The consumer; None for an unknown one, also of an unknown topic."""
        found = self._state.topics.get(topic)
        consumer = None if found is None else found.consumers.get(name)
        return None if found is None or consumer is None else _view(self._reader, found, consumer)

    def stream_of(self, topic: str, name: str) -> bytes | None:
        """Nonce of the last event stream that had the consumer alone, empty before it; None for an unknown one."""
        found = self._state.topics.get(topic)
        consumer = None if found is None else found.consumers.get(name)
        return None if consumer is None else consumer.stream

    def consumers_after(self, topic: str, after: str, limit: int) -> list[ConsumerView]:
        """Up to so many consumers behind this name, in the order of their names; at least one if there is one."""
        found = self._state.topics.get(topic)
        if found is None:
            return []
        lookups = len(found.partitions) * len(found.config.levels)
        names = found.consumers.after(after, min(limit, max(LOOKUPS_MAX // lookups, 1)))
        return [_view(self._reader, found, found.consumers[name]) for name in names]

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int | None:
        """The lowest offset that was published at this time or later; None for an unknown topic or partition.

        Log time never goes back (P11), so all before it were published earlier.
        """
        found = self._state.topics.get(topic)
        if found is None or partition >= len(found.partitions):
            return None
        return offset_at(self._reader, found.partitions[partition], time_ms)

    def more_after(self, topic: str, name: str) -> bool:
        """Whether there is a consumer behind this name."""
        found = self._state.topics.get(topic)
        return found is not None and bool(found.consumers.after(name, 1))

    def is_paused(self, topic: str, name: str) -> bool:
        """Whether the consumer is given nothing."""
        consumer = self._find(topic, name)
        return consumer is not None and consumer.is_paused

    def is_to_be_used(self, topic: str, name: str, log_time_ms: int) -> bool:
        """Whether a use of the consumer should go through the log, though it gives nothing: so that it is noted."""
        consumer = self._find(topic, name)
        if consumer is None or not consumer.config.expire_after_ms:
            return False
        return log_time_ms - consumer.used_ms >= max(consumer.config.expire_after_ms // _USED_SHARE, USED_GRAIN_MS)

    def _find(self, topic: str, name: str) -> ConsumerState | None:
        found = self._state.topics.get(topic)
        return None if found is None else found.consumers.get(name)


def _view(reader: Reader, topic: TopicState, consumer: ConsumerState) -> ConsumerView:
    levels = range(len(topic.config.levels))
    lag = [0 for _ in levels]
    lost = [0 for _ in levels]
    oldest: list[int | None] = [None for _ in levels]
    for partition in topic.partitions:
        for number, (level, cursor) in enumerate(zip(partition.levels, consumer.cursors_of(partition), strict=True)):
            lost[number] += cursor.lost_count
            waiting = level.appended_count - cursor.delivered_count
            if waiting:
                lag[number] += waiting
                stamp_ms, known_ms = level.first_batch(reader, cursor.batch_offset).stamp_ms, oldest[number]
                oldest[number] = stamp_ms if known_ms is None else min(known_ms, stamp_ms)
    holdings = consumer.holdings
    return ConsumerView(
        name=consumer.name,
        created_ms=consumer.created_ms,
        config=consumer.config,
        is_paused=consumer.is_paused,
        used_ms=consumer.used_ms,
        lag=lag,
        oldest_ms=oldest,
        leased_count=holdings.leased_count,
        returned_count=len(holdings) - holdings.leased_count,
        lost=lost,
    )
