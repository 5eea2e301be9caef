"""What can be seen of one message by its id.

What lives here: finding a message, and what each consumer makes of it.
Rules: as in machine/views.py. A search goes on step by step, of which each looks at one level of one partition, so
that other work may come between; what it finds is right at the last step. The batches of a level entered it in the
order of their ids, so a message is found by bisection. What an answer says of consumers comes from counters.
Must not know: HTTP, how a level or a time is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import Literal

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.delaying import find_waiting
from falconq_cluster.machine.finding import find_placed
from falconq_cluster.machine.holdings import Held, Phase
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.levels import LevelState, PartitionState
from falconq_cluster.machine.reading import DeliveredMessage, read_messages
from falconq_cluster.machine.records import iter_records, read_batch_header
from falconq_cluster.machine.rows import DelayedRow, PlacedRow, decode_row
from falconq_cluster.machine.settings import WEIGHTED
from falconq_cluster.machine.state import ConsumerState, State, TopicState
from falconq_cluster.storage.store import Reader

RETURNED_MAX = 1_000
"""Messages in hand among which the place of one is counted."""

MessageState = Literal["delayed", "ready", "leased", "acked", "dead"]


@dataclass(frozen=True, slots=True)
class MessagePlace:
    """Where a message is."""

    partition: int
    level: int
    offset: int
    """-1 while it waits for its time."""


@dataclass(frozen=True, slots=True)
class ConsumersPart:
    """What one consumer makes of a message."""

    consumer: str
    state: MessageState
    """`delayed` is what waits to be given again; `acked` what it was given and has not in hand, or passed over."""
    ahead: int | None
    """Messages that it would be given before, if nothing new came, with those that will be passed over; of its own
    level only those of its partition. None if it is not to be given, or nobody has counted."""
    deliveries: int | None
    """How often it was handed out; None where that is settled and not known any more."""
    until_ms: int
    """Log time at which its lease ends, or from which on it is given again; 0 of all else."""


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message as it stands."""

    message: DeliveredMessage
    """With the offset -1 and the timestamp 0 while it waits for its time."""
    due_ms: int
    """Log time at which it enters its level; 0 of what does not wait."""
    expires_ms: int
    """Log time from which on nobody is given it; 0 for never."""
    consumers: list[ConsumersPart]
    """In the order of their names; none while it waits for its time."""
    has_more: bool
    """Whether there are consumers behind the last one."""


class MessageViews:
    """Reads a state and the store that belongs to it."""

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader

    def locate(self, topic: str, log_index: int, number: int) -> Iterator[MessagePlace | None]:
        """Search the message "<log_index>.<number>": None after each step, the place at last; without one, not found.

        The state may change between two steps: then the place is to be judged again, as operations and `explain` do.
        """
        found = self._state.topics.get(topic)
        if found is None or not (0 <= log_index <= keys.INDEX_MAX and 0 <= number <= keys.NUMBER_MAX):
            return
        place = self._known(found, log_index, number)
        for partition in found.partitions if place is None else ():
            for level in range(len(partition.levels)):
                yield None
                place = self._in_level(partition, level, log_index, number)
                if place is not None:
                    yield place
                    return
        # It may have got its place behind the search.
        place = place or self._known(found, log_index, number)
        if place is not None:
            yield place

    def explain(
        self,
        topic: str,
        log_index: int,
        number: int,
        place: MessagePlace,
        *,
        log_time_ms: int,
        consumer: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> MessageView | None:
        """The message at this place, and what the asked consumer makes of it, or the first ones behind a name.

        None if it is not there, or nobody is given it any more: then it has another place, or was cancelled, trimmed,
        or its time is over. Raises: RecordError.
        """
        found = self._state.topics.get(topic)
        if found is None:
            return None
        if place.offset < 0:
            return self._delayed(found, log_index, number)
        at = self._batch_at(found, place)
        if at is None or at[0].is_expired(log_time_ms):
            return None
        batch, value = at
        header = read_batch_header(value)
        if (header.log_index, header.first_id + place.offset - batch.base) != (log_index, number):
            return None
        only = Range(place.partition, place.level, batch.base, place.offset, 1)
        names = [name for name in found.consumers if name > after] if consumer is None else [consumer]
        shown = nsmallest(limit, names)
        before_count = header.before_count + place.offset - batch.base
        parts = [
            self._part(found, found.consumers[name], place, before_count, log_time_ms)
            for name in shown
            if name in found.consumers
        ]
        return MessageView(next(read_messages(value, only)), 0, batch.expires_ms, parts, len(names) > len(shown))

    def _known(self, topic: TopicState, log_index: int, number: int) -> MessagePlace | None:
        """The place of a message whose id has a key of its own."""
        waiting = find_waiting(self._last_key, topic, log_index, number)
        if waiting is not None:
            row = decode_row(self._get(keys.delayed_key(waiting)), DelayedRow)
            return MessagePlace(row.partition, row.level, -1)
        key = find_placed(self._last_key, topic.number, log_index, number)
        if key is None:
            return None
        placed = decode_row(self._get(key), PlacedRow)
        offset = placed.base + number - keys.read_placed_key(key).first_id
        return MessagePlace(placed.partition, placed.level, offset)

    def _get(self, key: bytes) -> bytes:
        value = self._reader.get(key)
        if value is None:
            raise CorruptionError(f"there is nothing at key {key.hex()}")
        return value

    def _last_key(self, start: bytes, stop: bytes) -> bytes | None:
        return next(iter(self._reader.scan_keys(start, stop, reverse=True)), None)

    def _in_level(self, partition: PartitionState, number: int, log_index: int, message: int) -> MessagePlace | None:
        """By bisection: of the batches that begin at or before the id, the last one."""
        level = partition.levels[number]
        low, high = level.erased_to, partition.next_offset
        found: tuple[Batch, int] | None = None
        while low < high:
            middle = (low + high) >> 1
            key = self._last_key(keys.batches_from(level.prefix, low), keys.batches_from(level.prefix, middle + 1))
            if key is None:
                low = middle + 1
                continue
            batch = keys.read_batch_key(key)
            index, first_id = self._entered(key, batch)
            if (index, first_id) <= (log_index, message):
                low = batch.end
                found = (batch, first_id) if index == log_index else None
            else:
                high = batch.base
        if found is None or found[0].log_index or found[0].is_cancelled:
            return None
        place = message - found[1]
        if place >= found[0].record_count or level.is_trimmed(found[0].base + place):
            return None
        return MessagePlace(partition.number, number, found[0].base + place)

    def _entered(self, key: bytes, batch: Batch) -> tuple[int, int]:
        """The ids with which the batch entered its level, or would have."""
        if batch.log_index:
            return batch.entered_index, batch.entered_id
        header = read_batch_header(self._get(key))
        return header.log_index, header.first_id

    def _batch_at(self, topic: TopicState, place: MessagePlace) -> tuple[Batch, bytes] | None:
        level = _level(topic, place)
        if level is None or level.is_trimmed(place.offset):
            return None
        key = self._last_key(
            keys.batches_from(level.prefix, level.erased_to), keys.batches_from(level.prefix, place.offset + 1)
        )
        batch = None if key is None else keys.read_batch_key(key)
        if key is None or batch is None or place.offset >= batch.base + batch.record_count:
            return None
        return batch, self._get(key)

    def _part(
        self, topic: TopicState, consumer: ConsumerState, place: MessagePlace, before_count: int, now_ms: int
    ) -> ConsumersPart:
        held = consumer.holdings.get(place.partition, place.offset)
        if held is not None:
            return _held_part(topic, consumer, held, now_ms)
        partition = topic.partitions[place.partition]
        cursor = consumer.cursors_of(partition)[place.level]
        if cursor.next_offset > place.offset:
            grave = keys.buried_key(partition.levels[place.level].prefix, place.offset, consumer.number)
            is_buried = self._reader.get(grave) is not None
            return ConsumersPart(consumer.name, "dead" if is_buried else "acked", None, None, 0)
        ahead = _urgent_count(topic, consumer, place.level) + consumer.holdings.ready_count(place.level)
        return ConsumersPart(consumer.name, "ready", ahead + before_count - cursor.delivered_count, 0, 0)

    def _delayed(self, topic: TopicState, log_index: int, number: int) -> MessageView | None:
        waiting = find_waiting(self._last_key, topic, log_index, number)
        if waiting is None:
            return None
        row = decode_row(self._get(keys.delayed_key(waiting)), DelayedRow)
        for place, record in enumerate(iter_records(row.records), start=waiting.first_id):
            if place == number:
                shown = DeliveredMessage(
                    id=f"{log_index}.{number}",
                    message=record.message,
                    level=row.level,
                    offset=-1,
                    partition=row.partition,
                    timestamp_ms=0,
                    headers=record.headers,
                    key=record.key,
                )
                expires_ms = waiting.due_ms + row.ttl_ms if row.ttl_ms else 0
                return MessageView(shown, waiting.due_ms, expires_ms, [], has_more=False)
        return None


def _level(topic: TopicState, place: MessagePlace) -> LevelState | None:
    if not 0 <= place.partition < len(topic.partitions):
        return None
    levels = topic.partitions[place.partition].levels
    return levels[place.level] if 0 <= place.level < len(levels) else None


def _held_part(topic: TopicState, consumer: ConsumerState, held: Held, now_ms: int) -> ConsumersPart:
    row, count = held.row, held.row.acquired_count
    if row.nonce and row.until_ms > now_ms:
        return ConsumersPart(consumer.name, "leased", None, count, row.until_ms)
    if held.phase is Phase.DEAD or (row.nonce and row.is_last):
        return ConsumersPart(consumer.name, "dead", None, count, 0)
    until_ms = row.until_ms + (row.backoff_ms if row.nonce else 0)
    if held.phase is not Phase.ASIDE and until_ms > now_ms:
        return ConsumersPart(consumer.name, "delayed", None, count, until_ms)
    ahead = None
    if held.phase is Phase.READY and len(consumer.holdings) <= RETURNED_MAX:
        others = (other for other in consumer.holdings if other.phase is Phase.READY)
        own_count = sum(other.row.priority == row.priority and other.entry < held.entry for other in others)
        ahead = _urgent_count(topic, consumer, row.priority) + own_count
    return ConsumersPart(consumer.name, "ready", ahead, count, 0)


def _urgent_count(topic: TopicState, consumer: ConsumerState, level: int) -> int:
    """Messages of more urgent levels, which all go first, unless levels have shares."""
    if topic.config.scheduler.policy == WEIGHTED:
        return 0
    count = sum(consumer.holdings.ready_count(number) for number in range(level + 1, len(topic.config.levels)))
    for partition in topic.partitions:
        cursors = consumer.cursors_of(partition)
        for state, cursor in zip(partition.levels[level + 1 :], cursors[level + 1 :], strict=True):
            count += state.appended_count - cursor.delivered_count
    return count
