"""What a consumer holds: messages that it was handed under a lease and has not settled.

What lives here: the messages in hand of one consumer, by place, and which of them may be given again.
Rules: all of it follows from the stored rows and log time, so a lease ends without a write: `advance` only moves what
is due. A message is leased until its lease ends; then, or after a nack, it waits for its time; then it is ready. What
is ready goes by priority, then by the time from which it was ready, then by partition and offset. What has a lane is
ready only while the lane is its own or free. Entries of the heaps
that no longer hold are passed over, and the heaps are made anew before those are more than the others.
Must not know: commands, the store, fresh messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from heapq import heapify, heappop, heappush

from falconq_cluster.machine.lanes import Lanes
from falconq_cluster.machine.rows import LeaseRow

_SLACK = 64
"""Entries that a heap may have beyond twice what is held, before it is made anew."""

_Entry = tuple[int, int, int]
"""(time, partition, offset)."""


class Phase(Enum):
    """Where a message in hand stands."""

    LEASED = 1
    WAITING = 2
    READY = 3
    DEAD = 4
    """Given to nobody any more; it goes to the dead letters."""
    ASIDE = 5
    """Never given yet: another message of its lane goes first."""


class Held:
    """One message in hand."""

    __slots__ = ("offset", "partition", "phase", "row")

    def __init__(self, partition: int, offset: int, row: LeaseRow) -> None:
        self.partition = partition
        self.offset = offset
        self.row = row
        self.phase = Phase.WAITING
        if row.nonce:
            self.phase = Phase.LEASED
        elif row.reason or row.is_aside:
            self.phase = Phase.DEAD if row.reason else Phase.ASIDE

    @property
    def entry(self) -> _Entry:
        """What stands for it in the heap of its phase."""
        row = self.row
        if self.phase in (Phase.LEASED, Phase.DEAD) or not row.nonce:
            return row.until_ms, self.partition, self.offset
        return row.until_ms + row.backoff_ms, self.partition, self.offset


class HeldCount:
    """How many messages the consumers of a topic have in hand, or all consumers."""

    __slots__ = ("_whole", "value")

    def __init__(self, whole: HeldCount | None = None) -> None:
        """`whole` is the count that this one is a part of."""
        self._whole = whole
        self.value = 0

    def add(self, count: int) -> None:
        self.value += count
        if self._whole is not None:
            self._whole.add(count)


class Holdings:
    """All messages in hand of one consumer."""

    __slots__ = (
        "_dead",
        "_held",
        "_last",
        "_leased",
        "_numbered",
        "_places",
        "_ready",
        "_ready_counts",
        "_total",
        "_waiting",
        "lanes",
        "leased_count",
    )

    def __init__(self, total: HeldCount) -> None:
        self._total = total
        self._held: dict[tuple[int, int], Held] = {}
        self._leased: list[_Entry] = []
        self._waiting: list[_Entry] = []
        self._dead: list[_Entry] = []
        self._last: list[_Entry] = []
        """Of those that are leased, the ones that are dead when their lease ends by time."""
        self._ready: dict[int, list[_Entry]] = {}
        self._ready_counts: dict[int, int] = {}
        self._numbered: dict[int, tuple[int, int]] = {}
        self._places: dict[tuple[int, int], list[int]] = {}
        """(partition, level) -> heap of offsets."""
        self.lanes = Lanes()
        """For reading only."""
        self.leased_count = 0
        """Messages whose lease had not ended at the last `advance`."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def get(self, partition: int, offset: int) -> Held | None:
        return self._held.get((partition, offset))

    def numbered(self) -> list[Held]:
        """What was delivered to event streams, in the order of the deliveries."""
        return [self._held[self._numbered[number]] for number in sorted(self._numbered)]

    def lowest(self, partition: int, level: int) -> Held | None:
        """What is in hand of the level with the lowest offset."""
        offsets = self._places.get((partition, level), [])
        while offsets:
            held = self._held.get((partition, offsets[0]))
            if held is not None and held.row.level == level:
                return held
            heappop(offsets)
        return None

    def lowest_of_levels(self) -> Iterator[Held]:
        """The same of each level of which something is in hand, in the order of partitions and levels."""
        for place in sorted(self._places):
            held = self.lowest(*place)
            if held is not None:
                yield held

    def ready_count(self, priority: int) -> int:
        """Messages of this priority that may be given again, at the last `advance`."""
        return self._ready_counts.get(priority, 0)

    def next_ms(self) -> int | None:
        """When the next lease ends or the next wait is over; None when nothing is to come by time alone."""
        self._drop_stale(self._leased, Phase.LEASED)
        self._drop_stale(self._waiting, Phase.WAITING)
        times = [heap[0][0] for heap in (self._leased, self._waiting) if heap]
        return min(times) if times else None

    def is_leased_at(self, now_ms: int) -> bool:
        """Whether a lease goes on at this time, which may be later than that of the last `advance`. Reads only."""
        return any(held.row.nonce and held.row.until_ms > now_ms for held in self._held.values())

    def put(self, partition: int, offset: int, row: LeaseRow) -> None:
        """Hold the message as the row says, in the place of what was held there."""
        self._remove(partition, offset)
        self._add_place(partition, row.level, offset)
        held = self._held[partition, offset] = Held(partition, offset, row)
        self._total.add(1)
        if row.number:
            self._numbered[row.number] = (partition, offset)
        if held.phase is Phase.LEASED:
            self.leased_count += 1
        if held.phase is not Phase.ASIDE:
            self._enqueue(held)
        if row.lane:
            self.lanes.enter((partition, offset), row)
            self._see_lane(row.lane)

    def drop(self, partition: int, offset: int) -> None:
        """Hold the message no more; harmless when it is not held."""
        row = self._remove(partition, offset)
        if row is not None and row.lane:
            self.lanes.leave((partition, offset), row)
            self._see_lane(row.lane)

    def take(self, held: Held) -> None:
        """Hold the message no more, since it is given again: its lane stays its own."""
        place, lane = (held.partition, held.offset), held.row.lane
        self._remove(*place)
        if lane:
            self.claim(lane, place)

    def claim(self, lane: bytes, place: tuple[int, int]) -> None:
        """A message of the lane is being given; `put` follows."""
        self.lanes.claim(lane, place)
        self._see_lane(lane)

    def _remove(self, partition: int, offset: int) -> LeaseRow | None:
        held = self._held.pop((partition, offset), None)
        if held is None:
            return None
        self._total.add(-1)
        self._numbered.pop(held.row.number, None)
        self._left(held)
        return held.row

    def _see_lane(self, lane: bytes) -> None:
        """What is set aside and may be given is ready, and what may be no more is set aside again."""
        before, after = self.lanes.changed(lane)
        for place, phase in ((before, Phase.ASIDE), (after, Phase.READY)):
            held = None if place is None else self._held.get(place)
            if held is not None and held.row.is_aside:
                self._move(held, phase)

    def forget(self) -> None:
        """The consumer is gone, and nobody holds anything for it."""
        self._total.add(-len(self._held))
        self._held.clear()
        self._numbered.clear()
        self._places.clear()
        self.lanes.clear()

    def advance(self, now_ms: int) -> bool:
        """End what is over by this time; whether something is ready since. A lease is over once its end is reached."""
        has_ready = False
        while (held := self._pop_due(self._leased, Phase.LEASED, now_ms)) is not None:
            phase = Phase.DEAD if held.row.is_last else Phase.WAITING
            if phase is Phase.WAITING and held.row.until_ms + held.row.backoff_ms <= now_ms:
                # Tens of thousands may end at once, so what has waited long enough does not go through two heaps.
                phase, has_ready = Phase.READY, True
            self._move(held, phase)
        while (held := self._pop_due(self._waiting, Phase.WAITING, now_ms)) is not None:
            self._move(held, Phase.READY)
            has_ready = True
        return has_ready

    def first_ready(self, priority: int) -> Held | None:
        """What of this priority is given next."""
        heap = self._ready.get(priority, [])
        self._drop_stale(heap, Phase.READY, priority)
        return self._held[heap[0][1:]] if heap else None

    def first_dead(self) -> Held | None:
        """What goes to the dead letters next, at the last `advance`."""
        self._drop_stale(self._dead, Phase.DEAD)
        return self._held[self._dead[0][1:]] if self._dead else None

    def has_dead_at(self, now_ms: int) -> bool:
        """Whether something is dead at this time, which may be later than that of the last `advance`."""
        if self.first_dead() is not None:
            return True
        self._drop_stale(self._last, Phase.LEASED)
        return bool(self._last) and self._last[0][0] <= now_ms

    def _pop_due(self, heap: list[_Entry], phase: Phase, now_ms: int) -> Held | None:
        """Take the next that is due out of the heap; whoever calls moves it to another phase."""
        while heap and heap[0][0] <= now_ms:
            entry = heappop(heap)
            held = self._held.get(entry[1:])
            if held is not None and held.phase is phase and held.entry == entry:
                return held
        return None

    def _move(self, held: Held, phase: Phase) -> None:
        self._left(held)
        held.phase = phase
        if phase is Phase.READY:
            priority = held.row.priority
            self._ready_counts[priority] = self._ready_counts.get(priority, 0) + 1
        if phase is not Phase.ASIDE:
            self._enqueue(held)

    def _left(self, held: Held) -> None:
        if held.phase is Phase.LEASED:
            self.leased_count -= 1
        elif held.phase is Phase.READY:
            self._ready_counts[held.row.priority] -= 1

    def _heap(self, held: Held) -> list[_Entry]:
        if held.phase is Phase.READY:
            return self._ready.setdefault(held.row.priority, [])
        if held.phase is Phase.DEAD:
            return self._dead
        return self._leased if held.phase is Phase.LEASED else self._waiting

    def _add_place(self, partition: int, level: int, offset: int) -> None:
        offsets = self._places.setdefault((partition, level), [])
        heappush(offsets, offset)
        if len(offsets) > 2 * len(self._held) + _SLACK:
            there = (h.offset for h in self._held.values() if (h.partition, h.row.level) == (partition, level))
            offsets[:] = [*there, offset]
            heapify(offsets)

    def _enqueue(self, held: Held) -> None:
        heap = self._heap(held)
        heappush(heap, held.entry)
        if len(heap) > 2 * len(self._held) + _SLACK:
            heap[:] = [other.entry for other in self._held.values() if self._heap(other) is heap]
            heapify(heap)
        if held.phase is Phase.LEASED and held.row.is_last:
            heappush(self._last, held.entry)
            if len(self._last) > 2 * len(self._held) + _SLACK:
                leased = (other for other in self._held.values() if other.phase is Phase.LEASED)
                self._last[:] = [other.entry for other in leased if other.row.is_last]
                heapify(self._last)

    def _drop_stale(self, heap: list[_Entry], phase: Phase, priority: int | None = None) -> None:
        while heap:
            held = self._held.get(heap[0][1:])
            is_there = held is not None and held.phase is phase and held.entry == heap[0]
            if held is not None and is_there and priority in (None, held.row.priority):
                return
            heappop(heap)
