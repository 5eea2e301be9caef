"""The one thread that waits for the disk, so that the loop never does.

What lives here: the `DiskWorker` of a process.
Rules: jobs run one at a time, in the order in which they were submitted; `done` runs on the loop, in the same order.
A job that was submitted is run, also when the worker is stopped behind it.
Must not know: what the steps do.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Job:
    steps: tuple[Callable[[], None], ...]
    done: Callable[[BaseException | None], None]


class ThreadDiskWorker:
    """Runs disk work in a dedicated thread and tells the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, name: str = "falconq-disk") -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_stopped = False
        # Else `done` would run in the thread's empty context, and its log lines lack the node's fields.
        self._context = contextvars.copy_context()
        # A daemon: a disk that hangs for ever must not keep a stopped process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, steps: Sequence[Callable[[], None]], done: Callable[[BaseException | None], None]) -> None:
        """Run the steps in order in the worker, then `done(error)` on the loop; the first error ends the job.

        Raises: RuntimeError after `stop`.
        """
        if self._is_stopped:
            raise RuntimeError("the disk worker is stopped")
        self._jobs.put(_Job(tuple(steps), done))

    def stop(self, timeout_ms: int = 5000) -> bool:
        """Takes no more jobs and waits until those it has are run; False when the disk took longer than the timeout."""
        if not self._is_stopped:
            self._is_stopped = True
            self._jobs.put(None)
        self._thread.join(timeout_ms / 1000)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            error: BaseException | None = None
            try:
                for step in job.steps:
                    step()
            except BaseException as raised:  # noqa: BLE001 - also StopProcess: whoever waits for the job decides.
                error = raised
            # A closed loop is a process that ends: the bytes are on disk, and nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(job.done, error, context=self._context)
