"""Virtual time: one heap of events, one order, one source of chance.

What lives here: the world (events, time, random, trace), processes that can crash or pause, and a process's clock.
Rules: time moves only to the next event; events of one instant run in the order in which they were asked for; a dead
process runs nothing, a paused one runs everything later, in order. Every call of a process into the outside goes
through `Process.touch`, where a planned crash strikes, so a crash can fall between any two effects.
Must not know: what a node is, how disks and networks behave.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from tests.sim.trace import Trace

US_PER_MS = 1000
US_PER_S = 1_000_000
EVENTS_PER_INSTANT_MAX = 20_000
"""So many events without time going on is a loop that would never end."""
LIBRARY_CLOCK_STEP_S = 1e-6
"""PySyncObj waits inside a call for its clock to move (RAFT.md section 4); small, so that timers do not lag."""


class Crashed(BaseException):
    """The process died in the middle of a call; unwinds what it was doing."""


class Violation(BaseException):
    """Something that must be true is not; the run ends here.

    Not an `Exception`, so that no door of the product takes it for a failed callback.
    """


class Process:
    """One run of a program on a machine, from its start to its death."""

    __slots__ = (
        "_library_clock_s", "clock", "crash_after_touches", "deferred", "is_alive", "name", "paused_until_us", "world",
    )  # fmt: skip

    def __init__(self, world: World, name: str, clock: ProcessClock) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.is_alive = True
        self.paused_until_us = 0
        self.deferred: list[tuple[int, Event]] = []
        """(order, event) that came due while it stood still."""
        self.crash_after_touches = 0
        self._library_clock_s = 0.0
        clock.process = self

    def touch(self, what: str) -> None:
        """Reach for the outside. Raises: Crashed, when the process is dead or dies right here."""
        if not self.is_alive:
            raise Crashed(what)
        if self.crash_after_touches:
            self.crash_after_touches -= 1
            if not self.crash_after_touches:
                self.is_alive = False
                self.world.trace.add(self.world.now_us, self.name, "died at", what)
                raise Crashed(what)

    def library_clock_s(self) -> float:
        """The process's monotonic time for PySyncObj, which moves a little at each call."""
        now_s = self.clock.monotonic_us() / US_PER_S
        self._library_clock_s = max(now_s, self._library_clock_s + LIBRARY_CLOCK_STEP_S)
        return self._library_clock_s


class Event:
    """A callback at its moment."""

    __slots__ = ("callback", "is_cancelled", "process")

    def __init__(self, callback: Callable[[], None], process: Process | None) -> None:
        self.callback = callback
        self.process = process
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """Everything that a run shares: time, order, chance, trace."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.now_us = 0
        self.trace = Trace()
        self.current: Process | None = None
        self.on_crash: Callable[[Process], None] = lambda process: None
        self.on_error: Callable[[Process, BaseException], None] = _raise
        self.after_event: Callable[[Process], None] = lambda process: None
        self._heap: list[tuple[int, int, Event]] = []
        self._order = 0
        self._instant_count = 0

    def at(self, delay_us: int, callback: Callable[[], None], process: Process | None = None) -> Event:
        """Run the callback `delay_us` from now, as long as the process lives (None: the world's own)."""
        event = Event(callback, process)
        self._order += 1
        heapq.heappush(self._heap, (self.now_us + max(0, delay_us), self._order, event))
        return event

    def run(self, until_us: int, *, stop: Callable[[], bool] | None = None) -> bool:
        """Run events up to a moment, or until `stop` says so after one; True when `stop` ended it."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            time_us, order, event = heapq.heappop(heap)
            process = event.process
            if event.is_cancelled or (process is not None and not process.is_alive):
                continue
            if process is not None and process.paused_until_us > time_us:
                process.deferred.append((order, event))
                continue
            self._advance(time_us)
            if process is None:
                event.callback()
            else:
                self.enter(process, event.callback)
            if stop is not None and stop():
                return True
        self._advance(until_us)
        return False

    def pause(self, process: Process, duration_us: int) -> None:
        """Let the process stand still: what comes due waits."""
        process.paused_until_us = max(process.paused_until_us, self.now_us + duration_us)
        self.at(duration_us, lambda: self.resume(process, is_early=False))

    def resume(self, process: Process, *, is_early: bool = True) -> None:
        """Let a process go on, once its pause is over or at once; what waited runs in its old order."""
        if is_early:
            process.paused_until_us = min(process.paused_until_us, self.now_us)
        if process.paused_until_us > self.now_us:
            return
        deferred, process.deferred = process.deferred, []
        for order, event in deferred:
            heapq.heappush(self._heap, (self.now_us, order, event))

    def enter(self, process: Process, call: Callable[[], None]) -> None:
        """Run a call as the process: crashes and errors in it end there."""
        outer, self.current = self.current, process
        try:
            call()
        except Crashed:
            self.on_crash(process)
        except Violation:
            raise
        except BaseException as error:  # noqa: BLE001  # the door of a simulated process
            self.on_error(process, error)
        else:
            if process.is_alive:
                self.after_event(process)
        finally:
            self.current = outer

    def note(self, who: str, what: str, detail: object = "", fingerprint: bytes = b"") -> None:
        """Add to the trace."""
        self.trace.add(self.now_us, who, what, detail, fingerprint)

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return self.random.random() < probability

    def _advance(self, time_us: int) -> None:
        if time_us > self.now_us:
            self.now_us = time_us
            self._instant_count = 0
            return
        self._instant_count += 1
        if self._instant_count > EVENTS_PER_INSTANT_MAX:
            raise Violation(f"livelock: {EVENTS_PER_INSTANT_MAX} events at {self.now_us} us")


class ProcessClock:
    """A process's clocks: monotonic with a drift, wall with an offset that may jump; fulfils `clock.Clock`."""

    def __init__(self, world: World, *, rate: float, wall_offset_us: int) -> None:
        self._world = world
        self._rate = rate
        self._mark_us = world.now_us
        self._mark_monotonic_us = float(world.now_us)
        self.wall_offset_us = wall_offset_us
        self.process: Process | None = None

    @property
    def rate(self) -> float:
        """Local microseconds per microsecond of the world."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._mark_monotonic_us = self.monotonic_us()
        self._mark_us = self._world.now_us
        self._rate = rate

    def monotonic_us(self) -> float:
        return self._mark_monotonic_us + (self._world.now_us - self._mark_us) * self._rate

    def monotonic_ms(self) -> int:
        return int(self.monotonic_us()) // US_PER_MS

    def wall_ms(self) -> int:
        return (int(self.monotonic_us()) + self.wall_offset_us) // US_PER_MS

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Event:
        if self.process is not None:
            self.process.touch("timer")
        return self._world.at(int(delay_ms * US_PER_MS / self._rate), callback, self.process)


def _raise(process: Process, error: BaseException) -> None:
    raise error
