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

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.delaying import find_waiting
from falconq_cluster.machine.finding import find_placed
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.levels import LevelState, PartitionState
from falconq_cluster.machine.message_states import ConsumersPart, MessagePlace, MessageStates
from falconq_cluster.machine.reading import DeliveredMessage, read_messages
from falconq_cluster.machine.records import iter_records, read_batch_header
from falconq_cluster.machine.rows import DelayedRow, PlacedRow, decode_row
from falconq_cluster.machine.state import State, TopicState
from falconq_cluster.storage.store import Reader


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message as it stands."""

    message: DeliveredMessage
    """With the offset -1 and the timestamp 0 while it waits for its time."""
    due_ms: int
    """Log time at which it enters its level; 0 of what does not wait."""
    expires_ms: int
    """Log time from which on nobody is given it; 0 for never."""
    together: ConsumersPart
    """With the consumer that was asked for, or with all of the topic."""
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
        before_count = header.before_count + place.offset - batch.base
        buried = self._buried(found, place)

        def states() -> MessageStates:
            return MessageStates(found, place, before_count=before_count, buried=buried, now_ms=log_time_ms)

        message = next(read_messages(value, only))
        if consumer is not None:
            asked = found.consumers.get(consumer)
            part = states().of_nobody() if asked is None else states().of(asked)
            return MessageView(message, 0, batch.expires_ms, part, [] if asked is None else [part], has_more=False)
        names = [name for name in found.consumers if name > after]
        page, shown = states(), nsmallest(limit, names)
        parts = [page.of(found.consumers[name]) for name in shown]
        return MessageView(message, 0, batch.expires_ms, states().of_all(), parts, len(names) > len(shown))

    def _buried(self, topic: TopicState, place: MessagePlace) -> frozenset[int]:
        """Numbers of the consumers that buried the message."""
        prefix = topic.partitions[place.partition].levels[place.level].prefix
        start, stop = keys.buried_from(prefix, place.offset), keys.buried_from(prefix, place.offset + 1)
        return frozenset(map(keys.read_buried_consumer, self._reader.scan_keys(start, stop)))

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
        batch = level.batch_holding(self._reader, place.offset)
        return None if batch is None else (batch, self._get(keys.batch_key(level.prefix, batch)))

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
                waits = ConsumersPart("", "delayed", None, 0, waiting.due_ms)
                return MessageView(shown, waiting.due_ms, expires_ms, waits, [], has_more=False)
        return None


def _level(topic: TopicState, place: MessagePlace) -> LevelState | None:
    if not 0 <= place.partition < len(topic.partitions):
        return None
    levels = topic.partitions[place.partition].levels
    return levels[place.level] if 0 <= place.level < len(levels) else None
