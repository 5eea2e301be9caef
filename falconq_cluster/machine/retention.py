"""Retention: what a topic need not keep is trimmed, and what is trimmed leaves the store.

What lives here: the TrimLevels and Purge operations, and whether a topic is full.
Rules: trimming moves counters: from then on nobody is given what was trimmed, however many consumers and batches there
are. Erasing takes the keys of whole batches out of the store afterwards. Both are bounded for each command
(PROTOCOL.md P12). What depends on all consumers is named by whoever proposes, who has looked at them in time of its own
(machine/surveying.py); only those that are newer than that look are looked at here. What a remembered attempt names is
trimmed like all else, but not erased before the attempt is over (P13). By size, `drop-oldest` trims the oldest messages
of all levels and partitions first, `drop-lowest` those of the least urgent level, and it takes in no message that more
urgent ones would have to give way to. What the present entry wrote is not in the store yet: a later one erases it.
Must not know: who proposes, and when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import Part
from falconq_cluster.machine.commands import (
    Append,
    Refused,
)
from falconq_cluster.machine.consumers import drop_if_trimmed
from falconq_cluster.machine.events import TopicPurged, Trimmed
from falconq_cluster.machine.keeping import Purge, Purged, Survey, TrimLevels
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.levels import LevelState, PartitionState
from falconq_cluster.machine.settings import DROP_LOWEST, DROP_OLDEST, REJECT, Retention
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.turn import Turn, index_of

_KEYS_LEAST = 3
"""A batch with the place of its ids and its partition's row, or more than a lease and its cursors' row."""

_LEVELS_MAX = 10_000
"""Levels of all topics that one command looks at, beyond those of the last topic."""
_CONSUMERS_MAX = 20_000
"""Consumers, of the topics that were surveyed, that one command looks at, beyond those of the first topic."""
_PAIRS_MAX = 10_000
"""Times that it looks how far a consumer that was not surveyed has come in a level."""

_Place = tuple[int, int]
"""(partition, level)."""


def refusal_of_full(topic: TopicState, parts: Sequence[Append | Part]) -> Refused | None:
    """Why the topic can't take these messages as well."""
    retention, overflow = topic.config.retention, topic.config.overflow
    if not retention.bytes and not retention.messages:
        return None
    count, size = sum(part.count for part in parts), sum(len(part.records) for part in parts)
    if retention.bytes and size > retention.bytes:
        text = f"the messages have {size} bytes together, topic {topic.name!r} keeps at most {retention.bytes}"
        return Refused("body_too_large", text)
    count_over = topic.retained_count + count - retention.messages if retention.messages else 0
    bytes_over = topic.retained_bytes + size - retention.bytes if retention.bytes else 0
    if (count_over <= 0 and bytes_over <= 0) or overflow == DROP_OLDEST:
        return None
    if overflow == DROP_LOWEST and _may_give_way(topic, parts):
        return None
    text = f"topic {topic.name!r} holds {topic.retained_count} messages of {topic.retained_bytes} bytes"
    why = "are as many as it keeps" if overflow == REJECT else "may not give way to less urgent ones"
    return Refused("topic_full", f"{text}, which {why}; consume some, or keep more")


def _may_give_way(topic: TopicState, parts: Sequence[Append | Part]) -> bool:
    """Whether messages that are no more urgent have the room that each part needs, after the parts before it."""
    retention, count_all, bytes_all = topic.config.retention, topic.retained_count, topic.retained_bytes
    counts, sizes = [0] * len(topic.config.levels), [0] * len(topic.config.levels)
    for (_, number), level in _levels(topic):
        counts[number] += level.retained_count
        sizes[number] += level.retained_bytes
    for part in parts:
        count_all, bytes_all = count_all + part.count, bytes_all + len(part.records)
        lower = slice(part.level + 1)
        if retention.messages and count_all - retention.messages > sum(counts[lower]):
            return False
        if retention.bytes and bytes_all - retention.bytes > sum(sizes[lower]):
            return False
        counts[part.level] += part.count
        sizes[part.level] += len(part.records)
    return True


def purge(turn: Turn, operation: Purge) -> Purged | Refused:
    """Trims all that the topic holds: a row for each partition, whatever is in it."""
    topic = turn.state.topics.get(operation.topic)
    if turn.is_expired(operation.not_after_ms):
        return Refused("expired", f"the time to purge ran out at {operation.not_after_ms}, it is {turn.log_time_ms}")
    if topic is None:
        return Refused("topic_not_found", f"there is no topic {operation.topic[:200]!r}")
    count, size = topic.retained_count, topic.retained_bytes
    for partition in topic.partitions:
        if any(level.retained_count for level in partition.levels):
            for level in partition.levels:
                level.purge(partition.next_offset)
            turn.partition_changed(topic, partition)
    topic.retained_count = topic.retained_bytes = 0
    turn.state.watch(topic)
    if count:
        turn.events.append(TopicPurged(topic.name, count, size))
    return Purged(count)


def trim_levels(turn: Turn, operation: TrimLevels) -> None:
    """Erases and trims what the bounds allow; what is left is for the next one."""
    work = _Work(turn.limits.trim_keys_max, turn.limits.trim_bytes_max, turn.limits.trim_batches_max)
    changed: dict[str, TopicState] = {}
    consumers_left, levels_left = _CONSUMERS_MAX, _LEVELS_MAX
    for survey in operation.surveys:
        topic = turn.state.topics.get(survey.topic)
        if topic is None or topic.number != survey.number:
            continue
        consumers_left -= len(topic.consumers)
        if consumers_left < 0 and changed:
            break
        changed[topic.name] = topic
        _erase(turn, topic, survey, work)
        _release(turn, topic, survey, work)
        _Trimming(turn, topic, work).drop_acked(survey)
    for topic in (turn.state.topics[name] for name in operation.topics if name in turn.state.topics):
        if levels_left < 1:
            break
        levels_left -= len(topic.partitions) * len(topic.config.levels)
        changed[topic.name] = topic
        _Trimming(turn, topic, work).run()
    for topic in changed.values():
        turn.state.watch(topic)
    is_over = all(topic.config.retention == Retention() and not topic.has_unerased for topic in changed.values())
    turn.events.append(Trimmed(tuple(work.ranges), work.erased_bytes, is_over, work.trimmed_count, work.trimmed_bytes))


def is_over(topic: TopicState, now_ms: int) -> bool:
    """Whether the topic has what is too old, or too much."""
    if is_over_size(topic):
        return True
    retention = topic.config.retention
    return retention.ms > 0 and any(
        _is_over_age(level, retention, now_ms) for _, level in _levels(topic) if level.retained_count
    )


def is_over_size(topic: TopicState) -> bool:
    """Whether the topic has too much."""
    return any(_over_size(topic))


def _is_over_age(level: LevelState, retention: Retention, now_ms: int) -> bool:
    """Whether the oldest message of the level, which retains one, has been kept for its time."""
    return 0 < retention.ms <= now_ms - level.first_ms


def _needed_by(consumers: list[ConsumerState], partition: PartitionState, number: int, offset: int) -> int:
    """The offset, or a lower one that one of the consumers needs: it was not given it, or has it in hand."""
    for consumer in consumers:
        held = consumer.holdings.lowest(partition.number, number)
        offset = min(
            offset, consumer.cursors_of(partition)[number].next_offset, offset if held is None else held.offset
        )
    return offset


@dataclass(slots=True)
class _Work:
    """What one command may still do, and what it erased."""

    keys_left: int
    bytes_left: int
    batches_left: int
    erased_bytes: int = 0
    trimmed_count: int = 0
    trimmed_bytes: int = 0
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)


def _levels(topic: TopicState) -> Iterator[tuple[_Place, LevelState]]:
    for partition in topic.partitions:
        for number, level in enumerate(partition.levels):
            yield (partition.number, number), level


def _over_size(topic: TopicState) -> tuple[int, int]:
    """(messages, bytes) that the topic has too many of and may drop."""
    retention = topic.config.retention
    if topic.config.overflow == REJECT:
        return 0, 0
    return (
        max(topic.retained_count - retention.messages, 0) if retention.messages else 0,
        max(topic.retained_bytes - retention.bytes, 0) if retention.bytes else 0,
    )


def _erase(turn: Turn, topic: TopicState, survey: Survey, work: _Work) -> None:
    """Take trimmed batches out of the store."""
    named = [(topic.partitions[partition], level, base) for partition, level, base in survey.erasable]
    # What this entry wrote is not in the store yet.
    for partition, number, base in [found for found in named if not turn.has_changed(topic, found[0])]:
        level = partition.levels[number]
        if work.keys_left < _KEYS_LEAST or work.bytes_left <= 0:
            return
        if level.erased_to < base:
            work.keys_left -= 1  # for the partition's row
            turn.partition_changed(topic, partition)
            _erase_level(turn, topic, level, base, work)


def _erase_level(turn: Turn, topic: TopicState, level: LevelState, limit: int, work: _Work) -> None:
    start, stop = keys.batches_from(level.prefix, level.erased_to), keys.batches_from(level.prefix, limit)
    buried = turn.reader.scan_keys(
        keys.buried_from(level.prefix, level.erased_to), keys.buried_from(level.prefix, limit)
    )
    grave = next(buried, None)
    level.erased_to = limit
    for key in turn.reader.scan_keys(start, stop):
        batch = keys.read_batch_key(key)
        while grave is not None and work.keys_left > 0 and keys.read_buried_offset(grave) < batch.end:
            turn.delete(grave)
            work.keys_left -= 1
            grave = next(buried, None)
        is_placed = batch.log_index > 0 and not batch.is_cancelled
        if work.keys_left < 1 + is_placed or work.bytes_left <= 0:
            level.erased_to, stop = batch.base, keys.batches_from(level.prefix, batch.base)
            break
        turn.delete(key)
        if is_placed:
            turn.delete(keys.placed_key(topic.number, batch))
        work.keys_left -= 1 + is_placed
        work.bytes_left -= batch.size
        work.erased_bytes += batch.size
    work.ranges.append((start, stop))


def _release(turn: Turn, topic: TopicState, survey: Survey, work: _Work) -> None:
    """End the leases of what is trimmed."""
    for name, partition, level in survey.held:
        consumer = topic.consumers.get(name)
        if consumer is None:
            continue
        while work.keys_left >= _KEYS_LEAST and (held := consumer.holdings.lowest(partition, level)) is not None:
            if not drop_if_trimmed(turn, topic, consumer, held):
                break
            work.keys_left -= 2  # for the lease, and the cursors' row


class _Trimming:
    """Trims one topic, as far as the work allows."""

    def __init__(self, turn: Turn, topic: TopicState, work: _Work) -> None:
        self._turn, self._topic, self._work = turn, topic, work
        self._batches: dict[_Place, Iterator[Batch]] = {}
        self._first: dict[_Place, Batch] = {}
        """The batch of the oldest retained message of each level that was looked at."""

    def run(self) -> None:
        """What is too old, then what is too much."""
        retention, now_ms = self._topic.config.retention, self._turn.log_time_ms
        if retention.ms:
            for place, level in _levels(self._topic):
                while level.retained_count and _is_over_age(level, retention, now_ms) and self._work.batches_left > 0:
                    self._drop(place, level, level.retained_count)
        if is_over_size(self._topic):
            self._trim_to_size()

    def drop_acked(self, survey: Survey) -> None:
        """What every consumer has settled: those that the survey saw, and those that are newer."""
        topic = self._topic
        if not topic.config.retention.acked or not topic.consumers:
            return
        newer = [consumer for consumer in topic.consumers.values() if index_of(consumer.number) > survey.index]
        for partition_number, number, offset in survey.acked[: _PAIRS_MAX // max(len(newer), 1)]:
            partition = topic.partitions[partition_number]
            level = partition.levels[number]
            needed = _needed_by(newer, partition, number, offset)
            while level.retained_count and needed > level.first_offset and self._work.batches_left > 0:
                self._drop((partition_number, number), level, needed - level.first_offset)

    def _trim_to_size(self) -> None:
        order = [(*self._rank(place, level), place) for place, level in _levels(self._topic) if level.retained_count]
        heapify(order)
        while order and self._work.batches_left > 0:
            count_over, bytes_over = _over_size(self._topic)
            if not count_over and not bytes_over:
                return
            place = order[0][-1]
            level = self._topic.partitions[place[0]].levels[place[1]]
            self._drop(place, level, max(count_over, self._count_of(place, level, bytes_over)))
            if level.retained_count:
                heapreplace(order, (*self._rank(place, level), place))
            else:
                heappop(order)

    def _rank(self, place: _Place, level: LevelState) -> tuple[int, int]:
        """What goes first has the least."""
        if self._topic.config.overflow == DROP_LOWEST:
            return place[1], level.first_ms
        return level.first_ms, place[1]

    def _count_of(self, place: _Place, level: LevelState, size: int) -> int:
        """How many messages from the oldest one on have so many bytes, or all that its batch has left."""
        batch = self._batch(place, level)
        before = max(level.trimmed_to - batch.base, 0)
        left_count = batch.record_count - before
        return min(-(-size * batch.record_count // batch.size), left_count)

    def _batch(self, place: _Place, level: LevelState) -> Batch:
        if place not in self._batches:
            self._batches[place] = level.batches(self._turn.reader, level.trimmed_base)
            self._first[place] = self._next(place, level)
        return self._first[place]

    def _next(self, place: _Place, level: LevelState) -> Batch:
        for batch in self._batches[place]:
            return batch
        raise CorruptionError(f"level {level.prefix.hex()} retains {level.retained_count} messages more than it has")

    def _drop(self, place: _Place, level: LevelState, count: int) -> None:
        """Trim up to so many of the oldest messages, of one batch."""
        batch = self._batch(place, level)
        before = max(level.trimmed_to - batch.base, 0)
        count = min(count, batch.record_count - before)
        size = batch.size_of(before, before + count)
        level.trimmed_count += count
        level.trimmed_bytes += size
        level.trimmed_base, level.trimmed_to = batch.base, batch.base + before + count
        level.first_offset = level.trimmed_to
        if before + count == batch.record_count:
            level.trimmed_base = level.trimmed_to
            if level.retained_count:
                batch = self._first[place] = self._next(place, level)
                level.first_offset, level.first_ms = batch.base, batch.stamp_ms
        self._topic.retained_count -= count
        self._topic.retained_bytes -= size
        self._work.trimmed_count += count
        self._work.trimmed_bytes += size
        self._work.batches_left -= 1
        self._turn.partition_changed(self._topic, self._topic.partitions[place[0]])
