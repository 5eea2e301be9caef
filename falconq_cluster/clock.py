"""Time, as everything above and below asks for it.

What lives here: the clock seam, and the one that runs on an event loop.
Rules: monotonic time never goes back and is the only time that timers use; wall time is a hint from outside.
Must not know: what the time is used for. No other module reads a clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that waits for its moment."""

    def cancel(self) -> None:
        """Forget the callback; harmless when it already ran."""


class Clock(Protocol):
    """Reads time and runs callbacks later, all on one thread."""

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start; never goes back."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as the machine believes; may jump."""

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        """Run the callback once, `delay_ms` from now; 0 means after the current turn."""


class LoopClock:
    """The clock of a process: an asyncio loop's timers, the machine's two clocks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        if delay_ms <= 0:
            return self._loop.call_soon(callback)
        return self._loop.call_later(delay_ms / 1000, callback)
