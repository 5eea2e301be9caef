"""Queues: the fresh messages of one level of one partition, and how much of them a pull may take.

What lives here: moving a consumer's cursor over a level, with or without an order, and what a pull has taken so far.
Rules: within a level of a partition nothing fresh is skipped, given twice, or reordered; what a consumer with an order
may not be given yet is set aside. Bytes are counted from keys. What is expired is passed over: a bounded number of
batches in a bounded number of partitions, and if there are more, the pull is over (PROTOCOL.md P12). Nothing is decided
by what only a node that was not restarted knows.
Must not know: levels' priorities, what was returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.events import Expired
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.levels import Cursor, PartitionState
from falconq_cluster.machine.ordering import Gate
from falconq_cluster.machine.rows import LeaseRow
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.turn import Turn

PASSES_MAX = 1000
"""Expired batches that a pull passes over: a key each is read, none is written."""


@dataclass(slots=True)
class Taken:
    """What was chosen."""

    ranges: list[Range] = field(default_factory=list)
    """In delivery order."""
    start_offsets: dict[int, int] = field(default_factory=dict)
    """partition -> lowest offset that had not been delivered; only of a partition that was asked alone: it takes a
    look into the store for each level (P12)."""
    returned: dict[tuple[int, int], LeaseRow] = field(default_factory=dict)
    """(partition, offset) -> row of what was in hand before. The consumer does not hold it any more, its key stands."""
    lanes: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """(partition, offset) -> lane of each fresh message, for a consumer with an order."""
    aside_count: int = 0
    """Messages that were set aside: they are in hand by now."""


@dataclass(slots=True)
class Room:
    """How much more may be taken."""

    count_left: int
    fresh_left: int
    bytes_left: int
    is_full: bool = False
    is_empty: bool = True
    passes_left: int = PASSES_MAX
    passed: set[int] = field(default_factory=set)
    """Partitions in which expired messages were passed over."""
    passed_max: int = 1

    def may_pass(self, partition: int) -> bool:
        """Whether one more expired batch may be passed over; if not, the pull is over (P12)."""
        if self.passes_left and (partition in self.passed or len(self.passed) < self.passed_max):
            self.passes_left -= 1
            self.passed.add(partition)
            return True
        self.is_full = True
        return False

    def take(self, count: int, message_bytes: int) -> int:
        """How many of so many messages fit, which then are in. The first one fits whatever its size."""
        fitting = max(self.bytes_left // message_bytes, 1 if self.is_empty else 0)
        count = min(count, self.count_left, fitting)
        if count < 1:
            self.is_full = True
            return 0
        self.is_empty = False
        self.count_left -= count
        self.bytes_left = max(self.bytes_left - count * message_bytes, 0)
        self.is_full = self.count_left == 0
        return count


class Queue:
    """What waits for the consumer in one level of one partition; a pull may come back to it."""

    __slots__ = (
        "_batch",
        "_batches",
        "_consumer",
        "_cursor",
        "_level",
        "_number",
        "_room",
        "_topic",
        "_turn",
        "partition",
    )

    def __init__(
        self,
        turn: Turn,
        topic: TopicState,
        consumer: ConsumerState,
        room: Room,
        partition: PartitionState,
        number: int,
        cursor: Cursor,
    ) -> None:
        self._turn, self._topic, self._consumer, self._room = turn, topic, consumer, room
        self.partition = partition
        self._number = number
        self._level = partition.levels[number]
        self._cursor = cursor
        self._batches = self._level.batches(turn.reader, cursor.batch_offset)
        self._batch: Batch | None = None
        """The one in which the cursor stands."""

    @property
    def left_count(self) -> int:
        return self._level.appended_count - self._cursor.delivered_count

    @property
    def first_batch(self) -> Batch | None:
        """The batch of the next message, behind those that are expired; None when there is none, or too many are."""
        while self.left_count:
            batch = self._batch = self._batch or self._next_batch()
            if not batch.is_expired(self._turn.log_time_ms):
                return batch
            if not self._room.may_pass(self.partition.number):
                return None
            offset = max(batch.base, self._cursor.next_offset)
            count = batch.end - offset
            self._pass(batch, offset, count)
            self._turn.cursors_changed(self._topic, self._consumer, self.partition.number)
            if not batch.is_cancelled:
                self._turn.events.append(Expired(self._topic.name, count))
        return None

    @property
    def oldest_ms(self) -> int | None:
        """Log time of the next message; None without one. Looked up once for each batch, not for each pull."""
        cursor = self._cursor
        if not self.left_count:
            return None
        # What is kept is passed over when it expires, as what is looked up is: a restarted node has kept nothing.
        is_kept = cursor.head_offset == cursor.batch_offset and cursor.head_splits == self._level.split_count
        if not is_kept or 0 < cursor.head_expires_ms <= self._turn.log_time_ms:
            batch = self.first_batch
            if batch is None:
                return None
            cursor.head_offset, cursor.head_ms = cursor.batch_offset, batch.stamp_ms
            cursor.head_expires_ms, cursor.head_splits = batch.expires_ms, self._level.split_count
        return cursor.head_ms

    @property
    def left_of_batch(self) -> int:
        """Messages that are left of the first batch."""
        batch = self.first_batch
        return 0 if batch is None else batch.end - max(batch.base, self._cursor.next_offset)

    def give(self, taken: Taken, count_max: int) -> int:
        """Move up to so many messages into `taken`, as far as there is room; returns how many."""
        cursor, room, given = self._cursor, self._room, 0
        while given < count_max and not room.is_full and (batch := self.first_batch) is not None:
            offset = max(batch.base, cursor.next_offset)
            left = batch.end - offset
            wanted = min(left, room.fresh_left, count_max - given)
            count = room.take(wanted, -(-batch.size // batch.record_count)) if wanted else 0
            if count < 1:
                break
            taken.ranges.append(Range(self.partition.number, self._number, batch.base, offset, count))
            given += count
            room.fresh_left -= count
            self._pass(batch, offset, count)
        return given

    def give_in_order(self, taken: Taken, count_max: int, gate: Gate, *, is_one_batch: bool = False) -> int:
        """The same for a consumer with an order: what may not be given is set aside."""
        room, given, partition = self._room, 0, self.partition.number
        first = self.first_batch if is_one_batch else None
        while given < count_max and room.fresh_left > 0 and not room.is_full:
            batch = self.first_batch
            if batch is None or (first is not None and batch.base != first.base):
                break
            offset = max(batch.base, self._cursor.next_offset)
            place, lane = (partition, offset), gate.lane(partition, self._level, batch, offset)
            if lane is not None and gate.lets(lane, self._number, place):
                if room.take(1, -(-batch.size // batch.record_count)) < 1:
                    break
                gate.claim(lane, place)
                taken.lanes[place] = lane
                taken.ranges.append(Range(partition, self._number, batch.base, offset, 1))
                given += 1
            elif lane is None or not gate.set_aside(lane, self._number, batch, place):
                # The next pull goes on here.
                room.is_full = True
                break
            room.fresh_left -= 1
            self._pass(batch, offset, 1)
        return given

    def _pass(self, batch: Batch, offset: int, count: int) -> None:
        """Move the cursor behind the messages."""
        cursor = self._cursor
        cursor.next_offset = offset + count
        cursor.delivered_count += count
        cursor.batch_offset = batch.base
        if cursor.next_offset == batch.end:
            cursor.batch_offset, self._batch = cursor.next_offset, None

    def _next_batch(self) -> Batch:
        for batch in self._batches:
            # In the midst of a batch that was split since, the cursor names it as it was.
            if batch.end > self._cursor.next_offset:
                return batch
        level, cursor = self._level, self._cursor
        message = f"level {level.prefix.hex()} holds {cursor.delivered_count} messages, not {level.appended_count}"
        raise CorruptionError(message)
