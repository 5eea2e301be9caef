"""Space comes back: what was trimmed is compacted away, on each node by itself.

What lives here: the listener that gathers trimmed ranges and hands them to the store.
Rules: one compaction at a time, in the background, of a bounded size: a flush that is due waits for no more than that.
Little is left to LevelDB, which merges its tables as they grow; so is what is gathered when the process ends.
Must not know: why keys were trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from falconq_cluster.errors import StopProcess
from falconq_cluster.machine import keys
from falconq_cluster.machine.events import Event, Trimmed
from falconq_cluster.raft.seams import DiskWorker
from falconq_cluster.storage.store import Store

COMPACTED_BYTES_MIN = 64 << 20
"""So much is compacted while more is to be trimmed."""
LAST_BYTES_MIN = 1 << 20
"""So much is compacted once nothing is left to be trimmed."""
RANGES_MAX = 100

_Range = tuple[bytes, bytes]


class Reclaiming:
    """Listens to the broker of one node."""

    def __init__(
        self, store: Callable[[], Store], background: DiskWorker, fatal: Callable[[StopProcess], None]
    ) -> None:
        self._store = store
        self._background = background
        self._fatal = fatal
        self._ranges: list[_Range] = []
        self._size_bytes = 0
        self._is_over = False
        self._is_busy = False
        self._is_stopped = False

    def applied(self, events: Sequence[Event]) -> None:
        """Gather what an entry trimmed."""
        for event in events:
            if isinstance(event, Trimmed):
                for trimmed in event.ranges:
                    self._add(trimmed)
                self._size_bytes += event.size_bytes
                self._is_over = event.is_over
                self._consider()

    def stop(self) -> None:
        """Begin nothing more."""
        self._is_stopped = True

    def _add(self, trimmed: _Range) -> None:
        if trimmed[0][:1] != keys.BATCH:
            return  # All else is small.
        for place, (start, stop) in enumerate(self._ranges):
            if stop == trimmed[0]:
                self._ranges[place] = start, trimmed[1]
                return
        if len(self._ranges) < RANGES_MAX:
            self._ranges.append(trimmed)

    def _consider(self) -> None:
        least = LAST_BYTES_MIN if self._is_over else COMPACTED_BYTES_MIN
        if self._is_busy or self._is_stopped or self._size_bytes < least:
            return
        store, ranges = self._store(), self._ranges
        self._ranges, self._size_bytes, self._is_busy = [], 0, True

        def compact() -> None:
            for start, stop in ranges:
                store.compact(start, stop)

        self._background.submit([compact], self._compacted)

    def _compacted(self, error: BaseException | None) -> None:
        self._is_busy = False
        if error is not None:
            self._fatal(StopProcess(f"the store could not be compacted: {error}", 74))
            return
        self._consider()
