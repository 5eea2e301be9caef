"""Disk work at virtual times; fulfils `raft.seams.DiskWorker`.

What lives here: a job's steps spread over time, as slow as the machine's disk is at that moment.
Rules: one job at a time, in order; the loop goes on between the steps, so a crash can fall between any two.
Must not know: what a step does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from tests.sim.disk_speed import DiskSpeed
from tests.sim.world import Process, World

HUNG_STEP_US = 20_000

Steps = Sequence[Callable[[], None]]
Done = Callable[[BaseException | None], None]


class SimDiskWorker:
    """The disk thread of one process."""

    def __init__(self, world: World, process: Process, speed: DiskSpeed) -> None:
        self._world = world
        self._process = process
        self._speed = speed
        self._jobs: deque[tuple[Steps, Done]] = deque()
        self._is_busy = False

    def submit(self, steps: Steps, done: Done) -> None:
        self._process.touch("submit")
        self._jobs.append((list(steps), done))
        if not self._is_busy:
            self._start()

    def _start(self) -> None:
        if not self._jobs:
            self._is_busy = False
            return
        self._is_busy = True
        steps, done = self._jobs.popleft()
        self._step(steps, 0, done)

    def _step(self, steps: Steps, number: int, done: Done) -> None:
        if number == len(steps):
            self._world.at(self._world.random.randrange(100), lambda: self._finish(done, None), self._process)
            return

        def run() -> None:
            if self._speed.hung_until_us > self._world.now_us:
                # In small steps, since healing may end it early.
                self._world.at(min(self._speed.hung_until_us - self._world.now_us, HUNG_STEP_US), run, self._process)
                return
            try:
                steps[number]()
            except Exception as error:  # noqa: BLE001  # the worker hands any error to `done`
                failure = error
                self._world.at(0, lambda: self._finish(done, failure), self._process)
                return
            self._step(steps, number + 1, done)

        self._world.at(self._duration_us(), run, self._process)

    def _finish(self, done: Done, error: BaseException | None) -> None:
        # The next job begins beside the callback, as in a thread.
        self._start()
        done(error)

    def _duration_us(self) -> int:
        speed, random = self._speed, self._world.random
        duration_us = speed.step_us + int(speed.jitter_us * random.random())
        if speed.slow_share and random.random() < speed.slow_share:
            duration_us += int(speed.slow_us * random.random())
        return duration_us
