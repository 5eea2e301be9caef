"""What can be seen of the state without changing it.

What lives here: answers about topics and consumers from memory, and messages from the store.
Rules: an answer is of the machine's applied index and is right only until the next `apply`, so callers finish within
the turn (P13). Reads of messages are bounded by count and bytes; one message is always given if there is one.
Must not know: HTTP, how a level or a time is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import Literal

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.consumer_views import ConsumerViews
from falconq_cluster.machine.consumers import in_flight_max_of
from falconq_cluster.machine.levels import LevelState, PartitionState, first_undelivered, offset_at
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.message_views import MessageViews
from falconq_cluster.machine.reading import DeliveredMessage, Reading, read_messages
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.state import TopicState
from falconq_cluster.storage.store import Reader

PEEK_BYTES_MAX = 4 * 1024 * 1024

Order = Literal["offset", "delivery"]


@dataclass(frozen=True, slots=True)
class TopicView:
    """A topic's settings."""

    name: str
    number: int
    created_ms: int
    config: TopicConfig
    version: int


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """What a partition holds."""

    partition: int
    first_offset: int
    next_offset: int
    depth: list[int]
    """Messages stored, by level."""
    size_bytes: int
    """Of the packed records stored."""


class Views:
    """Reads a machine and the store that belongs to it."""

    def __init__(self, machine: Machine, reader: Reader) -> None:
        self._machine = machine
        self._reader = reader

    def is_same_as(self, other: Views) -> bool:
        """Whether both read one state; an installed snapshot brings another."""
        return self._machine is other._machine and self._reader is other._reader

    @property
    def dedupe_count(self) -> int:
        """Idempotency keys and producers that are remembered, of all topics."""
        return len(self._machine.state.once)

    @property
    def held_count(self) -> int:
        """Messages that all consumers have in hand."""
        return self._machine.state.held_count.value

    @property
    def lost_count(self) -> int:
        """Messages that were trimmed before their consumers had settled them, as far as this process has noticed."""
        return self._machine.state.lost_count.value

    def topics(self) -> list[str]:
        """All names, sorted."""
        return list(self._machine.state.topics.sorted_names)

    def topic(self, name: str) -> TopicView | None:
        topic = self._topic(name)
        return None if topic is None else _view(topic)

    def topics_after(self, after: str, limit: int) -> list[TopicView]:
        """The first topics behind this name, in the order of their names."""
        topics = self._machine.state.topics
        return [_view(topics[name]) for name in topics.after(after, limit)]

    def partition_status(self, name: str) -> list[PartitionStatus]:
        """One per partition, in order; empty for an unknown topic."""
        topic = self._topic(name)
        return [] if topic is None else [_status(partition) for partition in topic.partitions]

    def partition(self, name: str, number: int) -> PartitionStatus:
        """One of them, which there must be."""
        return _status(self._machine.state.topics[name].partitions[number])

    @property
    def consumers(self) -> ConsumerViews:
        """What can be seen of consumers."""
        return ConsumerViews(self._machine.state, self._reader)

    @property
    def messages(self) -> MessageViews:
        """What can be seen of one message by its id."""
        return MessageViews(self._machine.state, self._reader)

    def consumer_exists(self, name: str, consumer: str) -> bool:
        topic = self._topic(name)
        return topic is not None and consumer in topic.consumers

    def has_deliverable(self, name: str, consumer: str, partition: int = -1) -> bool:
        """Whether a pull would give something; -1 for all partitions. An unknown consumer was given nothing yet."""
        topic = self._topic(name)
        if topic is None or self.consumers.is_paused(name, consumer):
            return False
        return any(count for _, count in _waiting(topic, consumer, partition))

    def pending(self, name: str, consumer: str, partition: int = -1) -> list[int]:
        """Messages that the consumer was not given yet, by level; -1 for all partitions together."""
        topic = self._topic(name)
        if topic is None:
            return []
        counts = [0] * len(topic.config.levels)
        for level, count in _waiting(topic, consumer, partition):
            counts[level] += count
        return counts

    def leasable_count(self, name: str, consumer: str, level_min: int, log_time_ms: int) -> int:
        """About how many messages a lease pull would give at this time, at least 1 if it would give one.

        What is due by time since the last lease counts as one. A consumer that may hold no more is not told from
        one that may: the pull is refused.
        """
        topic = self._topic(name)
        if topic is None:
            return 0
        fresh_count = sum(self.pending(name, consumer)[level_min:])
        state = topic.consumers.get(consumer)
        if state is None:
            return fresh_count
        if state.is_paused:
            return 0
        holdings = state.holdings
        return_ms = holdings.next_ms()
        due_count = 0 if return_ms is None or return_ms > log_time_ms else 1
        ready_count = sum(holdings.ready_count(level) for level in range(level_min, len(topic.config.levels)))
        room = in_flight_max_of(topic, state) - holdings.leased_count
        return min(fresh_count + ready_count + due_count, max(room, due_count))

    def next_return_ms(self, name: str, consumer: str) -> int | None:
        """Log time at which something in the consumer's hand may come back by time alone; None when nothing may."""
        topic = self._topic(name)
        state = None if topic is None else topic.consumers.get(consumer)
        return None if state is None else state.holdings.next_ms()

    def next_offset(self, name: str, consumer: str, partition: int) -> int | None:
        """The lowest offset that the consumer was not given yet; None for an unknown topic or partition."""
        topic = self._topic(name)
        if topic is None or not 0 <= partition < len(topic.partitions):
            return None
        asked = topic.partitions[partition]
        state = topic.consumers.get(consumer)
        if state is None:
            return asked.first_offset
        return first_undelivered(self._reader, asked, state.cursors_of(asked))

    def cursor(self, name: str, consumer: str, partition: int) -> list[int]:
        """Offset behind the last message that the consumer was given, by level; empty for an unknown place."""
        topic = self._topic(name)
        if topic is None or not 0 <= partition < len(topic.partitions):
            return []
        state = topic.consumers.get(consumer)
        if state is None:
            return [level.start().next_offset for level in topic.partitions[partition].levels]
        return [cursor.next_offset for cursor in state.cursors_of(topic.partitions[partition])]

    def read_ranges(self, name: str, ranges: Sequence[Range]) -> list[DeliveredMessage]:
        """The messages of a pull, in its order. Raises: CorruptionError when one is not there, RecordError."""
        topic = self._machine.state.topics[name]
        messages: list[DeliveredMessage] = []
        readings: dict[bytes, Reading] = {}
        for wanted in ranges:
            prefix = topic.partitions[wanted.partition].levels[wanted.level].prefix
            reading = readings.get(prefix)
            if reading is None:
                reading = readings[prefix] = Reading(self._reader, prefix)
            messages += reading.read(wanted)
        return messages

    def peek(
        self,
        name: str,
        *,
        partition: int | None,
        offset: int,
        count: int,
        order: Order = "offset",
        bytes_max: int = PEEK_BYTES_MAX,
        at_ms: int = 0,
    ) -> list[DeliveredMessage]:
        """Up to `count` messages at or behind `offset`, published at `at_ms` or later.

        In offset order, ties by partition (None is all partitions); or in the order in which a consumer that was
        given nothing would get them. Empty for an unknown topic or partition. Raises: RecordError.
        """
        topic = self._topic(name)
        if topic is None:
            return []
        asked = _asked(topic, -1 if partition is None else partition)
        offset = max(offset, 0)
        starts = [(p, offset_at(self._reader, p, at_ms, least=offset) if at_ms else offset) for p in asked]
        levels = [
            (level, state, p.number, start)
            for p, start in starts
            if start < p.next_offset
            for level, state in enumerate(p.levels)
            if state.retained_count
        ]
        if order == "offset":
            found = self._in_offset_order(levels)
        else:
            levels.sort(key=lambda entry: -entry[0])
            found = (
                message
                for level, state, number, start in levels
                for message in self._level_from(state, number, level, start)
            )
        return _bounded(found, count, bytes_max)

    def offset_at(self, name: str, partition: int, at_ms: int, *, least: int = 0) -> int:
        """The lowest offset of the partition, which is there, not below `least` and published at `at_ms` or later."""
        return offset_at(self._reader, self._machine.state.topics[name].partitions[partition], at_ms, least=least)

    def _in_offset_order(self, levels: list[tuple[int, LevelState, int, int]]) -> Iterator[DeliveredMessage]:
        """Merges levels, each of which is looked up when its turn may have come: there may be thousands of them."""
        opened: dict[tuple[int, int], tuple[DeliveredMessage, Iterator[DeliveredMessage]]] = {}
        sources = {(number, level): (state, start) for level, state, number, start in levels}
        # (offset of the level's next message, or a lower one while it is not looked up, partition, level)
        heap = [(max(start, state.first_offset), *place) for place, (state, start) in sources.items()]
        heapify(heap)
        while heap:
            place = heap[0][1:]
            if place in opened:
                message, source = opened[place]
                yield message
            else:
                state, start = sources[place]
                source = self._level_from(state, *place, start)
            following = next(source, None)
            if following is None:
                heappop(heap)
            else:
                opened[place] = following, source
                heapreplace(heap, (following.offset, *place))

    def _topic(self, name: str) -> TopicState | None:
        return self._machine.state.topics.get(name)

    def _level_from(self, state: LevelState, partition: int, level: int, offset: int) -> Iterator[DeliveredMessage]:
        """The level's retained messages at or behind the offset."""
        offset = max(offset, state.trimmed_to)
        start, stop = keys.batches_from(state.prefix, offset), keys.prefix_end(state.prefix)
        # The batch that holds the offset may begin before it.
        for key in self._reader.scan_keys(keys.batches_from(state.prefix, state.trimmed_base), start, reverse=True):
            before = keys.read_batch_key(key)
            if offset < before.end:
                start = key
            break
        for key, value in self._reader.scan(start, stop):
            batch = keys.read_batch_key(key)
            first = max(batch.base, offset)
            count = batch.end - first
            yield from read_messages(value, Range(partition, level, batch.base, first, count))


def _view(topic: TopicState) -> TopicView:
    return TopicView(topic.name, topic.number, topic.created_ms, topic.config, topic.version)


def _asked(topic: TopicState, partition: int) -> list[PartitionState]:
    if partition == -1:
        return topic.partitions
    return topic.partitions[partition : partition + 1] if partition >= 0 else []


def _waiting(topic: TopicState, consumer: str, partition: int) -> Iterator[tuple[int, int]]:
    """(level, messages not delivered yet) of each level of each asked partition."""
    state = topic.consumers.get(consumer)
    for asked in _asked(topic, partition):
        if state is None:
            yield from ((number, level.retained_count) for number, level in enumerate(asked.levels))
            continue
        for number, (level, cursor) in enumerate(zip(asked.levels, state.cursors_of(asked), strict=True)):
            yield number, level.appended_count - cursor.delivered_count


def _status(partition: PartitionState) -> PartitionStatus:
    return PartitionStatus(
        partition=partition.number,
        first_offset=partition.first_offset,
        next_offset=partition.next_offset,
        depth=[level.retained_count for level in partition.levels],
        size_bytes=sum(level.retained_bytes for level in partition.levels),
    )


def _bounded(found: Iterator[DeliveredMessage], count: int, bytes_max: int) -> list[DeliveredMessage]:
    messages: list[DeliveredMessage] = []
    for message in found:
        bytes_max -= len(message.message) + len(message.headers or b"")
        if len(messages) >= count or (messages and bytes_max < 0):
            break
        messages.append(message)
    return messages
