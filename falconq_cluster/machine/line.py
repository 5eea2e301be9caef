"""Things in a line, of which the first is known and any may leave.

What lives here: a binary heap that knows where each thing stands.
Rules: to enter, to move and to leave take no more steps than the heap is deep, and nothing is left for later: what one
command does to it is bounded (PROTOCOL.md P12). No two things have the same place in the order, so the first one
follows from what is in the line alone, and not from how it came there.
Must not know: what the things are.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

ThingT = TypeVar("ThingT", bound=Hashable)

Place = tuple[int, int]
"""Where a thing stands in the order; the lowest goes first."""


class Line(Generic[ThingT]):
    """Things by their places."""

    __slots__ = ("_heap", "_slots")

    def __init__(self) -> None:
        self._heap: list[tuple[Place, ThingT]] = []
        self._slots: dict[ThingT, int] = {}
        """thing -> where it is in the heap."""

    def __len__(self) -> int:
        return len(self._heap)

    def first(self) -> tuple[Place, ThingT] | None:
        """The thing with the lowest place; None when there is none."""
        return self._heap[0] if self._heap else None

    def put(self, thing: ThingT, place: Place) -> None:
        """Let the thing stand at this place, wherever it stood before."""
        slot = self._slots.get(thing)
        if slot is None:
            slot = len(self._heap)
            self._heap.append((place, thing))
        self._settle(slot, (place, thing))

    def drop(self, thing: ThingT) -> None:
        """Let the thing leave; harmless when it is not there."""
        slot = self._slots.pop(thing, None)
        if slot is None:
            return
        last = self._heap.pop()
        if slot < len(self._heap):
            self._settle(slot, last)

    def _settle(self, slot: int, entry: tuple[Place, ThingT]) -> None:
        """Put the entry into this slot, or where it belongs above or below it."""
        heap, slots = self._heap, self._slots
        while slot and entry[0] < heap[parent := (slot - 1) >> 1][0]:
            heap[slot] = heap[parent]
            slots[heap[slot][1]] = slot
            slot = parent
        while (child := 2 * slot + 1) < len(heap):
            if child + 1 < len(heap) and heap[child + 1][0] < heap[child][0]:
                child += 1
            if entry[0] <= heap[child][0]:
                break
            heap[slot] = heap[child]
            slots[heap[slot][1]] = slot
            slot = child
        heap[slot] = entry
        slots[entry[1]] = slot
