"""Log time: the leader's clock as all nodes see it.

What lives here: PROTOCOL.md P11.
Rules: the leader's reading never goes back and is drawn to the wall clock by at most 5 %; followers extrapolate the
last reading by their monotonic clock; only a leader that has nothing to extrapolate from steps forward at once.
Must not know: entries, leases, the network.
"""

from __future__ import annotations

from collections.abc import Sequence

from falconq_cluster.clock import Clock

DRAW_PERCENT = 5
"""How much faster or slower than the monotonic clock log time may run to meet the wall clock."""


class LogTime:
    """One node's view of log time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._time_ms = 0
        self._read_ms = clock.monotonic_ms()
        self._is_known = False

    @property
    def is_known(self) -> bool:
        """Whether a leader's reading was ever heard or made since the start."""
        return self._is_known

    def heard(self, log_time_ms: int) -> None:
        """A keepalive carried the leader's reading."""
        self._time_ms = log_time_ms
        self._read_ms = self._clock.monotonic_ms()
        self._is_known = True

    def not_before(self, stamp_ms: int) -> None:
        """An entry with this stamp was applied: the reading is not below it, here or on the next leader."""
        if self._is_known and self.now_ms() < stamp_ms:
            self._time_ms = stamp_ms
            self._read_ms = self._clock.monotonic_ms()

    def now_ms(self) -> int:
        """The leader's reading, extrapolated; 0 when never heard."""
        if not self._is_known:
            return 0
        return self._time_ms + self._clock.monotonic_ms() - self._read_ms

    def begin_leading(self, *, last_stamp_ms: int, walls_ms: Sequence[int]) -> None:
        """Start from max(last stamp, extrapolation), or when nothing was heard from the median of these wall clocks."""
        ordered = sorted(walls_ms)
        median = ordered[(len(ordered) - 1) // 2] if ordered else 0
        start = max(last_stamp_ms, self.now_ms() if self._is_known else median)
        self.heard(start)

    def lead_ms(self) -> int:
        """The leader's reading now: monotonic time, drawn to the wall clock by at most DRAW_PERCENT."""
        now = self._clock.monotonic_ms()
        elapsed = now - self._read_ms
        step_max = elapsed * DRAW_PERCENT // 100
        if elapsed and not step_max:
            return self._time_ms + elapsed  # too short to draw: keep the base so that the remainder adds up
        gap = self._clock.wall_ms() - (self._time_ms + elapsed)
        self._time_ms += elapsed + max(-step_max, min(step_max, gap))
        self._read_ms = now
        return self._time_ms

    def gap_ms(self) -> int:
        """Wall clock minus log time."""
        return self._clock.wall_ms() - self.now_ms() if self._is_known else 0
