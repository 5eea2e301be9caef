"""Waiting for something to become true, with a deadline.

What lives here: `until` and `stays`, the only places of these tests that let time pass.
Rules: a wait that fails says what it waited for and what it saw last.
Must not know: nodes, clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02
DEADLINE_SECONDS = 30.0
"""Far beyond what anything here takes on a busy machine: it only bounds a test that fails."""


async def until(what: str, probe: Callable[[], Awaitable[T | None]], *, timeout: float = DEADLINE_SECONDS) -> T:
    """The first result of `probe` that is neither None nor False."""
    deadline = time.monotonic() + timeout
    while True:
        seen = await probe()
        if seen is not None and seen is not False:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:.0f} s for: {what}")
        await asyncio.sleep(POLL_SECONDS)


async def stays(what: str, probe: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
    """Asserts again and again, for so long, that the probe is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert await probe(), f"no longer so: {what}"
        await asyncio.sleep(POLL_SECONDS)
