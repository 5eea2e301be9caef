"""Lanes: of all messages that share one, a consumer with an order has one at a time.

What lives here: who has each lane, and what is set aside for it.
Rules (PROTOCOL.md P16): a lane is owned by the message that was handed out and is not settled: leased, waiting to be
given again, or dead and not buried. While it has no owner, the best of what is set aside may be given: the most urgent
one, of those the first by partition and offset. Which one that is follows from what is in hand alone.
Must not know: leases, time, what a lane stands for.
"""

from __future__ import annotations

from heapq import heappop, heappush

from falconq_cluster.machine.rows import LeaseRow

Place = tuple[int, int]
"""(partition, offset)."""


class _Lane:
    __slots__ = ("aside", "candidate", "owner")

    def __init__(self) -> None:
        self.owner: Place | None = None
        self.aside: list[tuple[int, int, int]] = []
        """Heap of (-priority, partition, offset); some may be set aside no more."""
        self.candidate: Place | None = None
        """The one of `aside` that may be given."""


class Lanes:
    """The lanes of one consumer."""

    __slots__ = ("_aside", "_lanes")

    def __init__(self) -> None:
        self._lanes: dict[bytes, _Lane] = {}
        self._aside: set[Place] = set()

    def enter(self, place: Place, row: LeaseRow) -> None:
        """The message came into hand: set aside, or as the lane's owner."""
        lane = self._lanes.setdefault(row.lane, _Lane())
        if row.is_aside:
            self._aside.add(place)
            heappush(lane.aside, (-row.priority, *place))
        else:
            lane.owner = place

    def leave(self, place: Place, row: LeaseRow) -> None:
        """The message is in hand no more."""
        self._aside.discard(place)
        lane = self._lanes.get(row.lane)
        if lane is not None and lane.owner == place:
            lane.owner = None

    def claim(self, name: bytes, place: Place) -> None:
        """The message is being handed out: the lane is its own from now on."""
        self._aside.discard(place)
        self._lanes.setdefault(name, _Lane()).owner = place

    def is_free(self, name: bytes, priority: int, place: Place) -> bool:
        """Whether a message that is not in hand may be handed out: nothing of the lane has to go before it."""
        lane = self._lanes.get(name)
        if lane is None:
            return True
        best = self._best(lane)
        return lane.owner is None and (best is None or (-priority, *place) < best)

    def changed(self, name: bytes) -> tuple[Place | None, Place | None]:
        """(the candidate that is one no more, the one that is one now), each None if there is none."""
        lane = self._lanes.get(name)
        if lane is None:
            return None, None
        best = None if lane.owner is not None else self._best(lane)
        before, after = lane.candidate, None if best is None else best[1:]
        lane.candidate = after
        if lane.owner is None and after is None:
            del self._lanes[name]
        return (None, None) if before == after else (before, after)

    def clear(self) -> None:
        """Nothing is in hand any more."""
        self._lanes.clear()
        self._aside.clear()

    def _best(self, lane: _Lane) -> tuple[int, int, int] | None:
        while lane.aside and lane.aside[0][1:] not in self._aside:
            heappop(lane.aside)
        return lane.aside[0] if lane.aside else None
