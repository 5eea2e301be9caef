"""Deadlines of many things at the price of one timer.

What lives here: a set of items with a deadline each, kept in buckets.
Rules: an item expires once, not before its deadline and at most a grain after it, or a little later when thousands
expire at once; items of one bucket expire in the order in which they came. A removed item never expires.
Must not know: what the items are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

from falconq_cluster.clock import Clock, Timer

GRAIN_MS = 10
"""Fine enough for a request's timeout, coarse enough that a thousand requests share a bucket."""
EXPIRED_MAX = 100
"""Items that expire in one turn: each may answer a request, and the loop has other work."""

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Calls `expire(item)` when an item's deadline has passed."""

    def __init__(self, clock: Clock, expire: Callable[[Item], None]) -> None:
        self._clock = clock
        self._expire = expire
        self._buckets: dict[int, dict[Item, None]] = {}
        self._order: list[int] = []
        self._timer: Timer | None = None
        self._timer_bucket = 0

    def add(self, item: Item, deadline_ms: int) -> None:
        """Watch the item. It must not be watched already."""
        number = -(-deadline_ms // GRAIN_MS)
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = {item: None}
            heapq.heappush(self._order, number)
            self._arm()
        else:
            bucket[item] = None

    def remove(self, item: Item, deadline_ms: int) -> None:
        """Watch the item no more; `deadline_ms` as it was added. Harmless when it is not watched."""
        bucket = self._buckets.get(-(-deadline_ms // GRAIN_MS))
        if bucket is not None:
            bucket.pop(item, None)

    def clear(self) -> None:
        """Forget all items without expiring them."""
        self._buckets.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if not self._order or (self._timer is not None and self._timer_bucket <= self._order[0]):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_bucket = self._order[0]
        delay_ms = max(1, self._timer_bucket * GRAIN_MS - self._clock.monotonic_ms())
        self._timer = self._clock.call_later(delay_ms, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_ms = self._clock.monotonic_ms()
        left_count = EXPIRED_MAX
        while self._order and self._order[0] * GRAIN_MS <= now_ms and left_count > 0:
            number = self._order[0]
            bucket = self._buckets[number]
            while bucket and left_count > 0:
                # What expires may remove or add others meanwhile.
                item = next(iter(bucket))
                del bucket[item]
                left_count -= 1
                self._expire(item)
            if not bucket and self._buckets.get(number) is bucket:
                del self._buckets[number]
                heapq.heappop(self._order)
        self._arm()
