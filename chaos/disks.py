"""What happens to disks and no Chaos Mesh performs: `chaos/disk/*.yaml`.

What lives here: a loss of power, a wiped disk, a full one, and a flipped bit, with their ends.
Rules: a loss of power takes only what was not synced. A node whose disk lost more is wiped before it counts again, as
an operator would do it, and the cluster is whole before it: two such disks at once are another promise.
Must not know: the plan, the clients.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from chaos.platter import lose_power
from chaos.pods import Pod

End = Callable[[], None]
FLIPPED_PARTS = ("journal", "store")
SPARED = ("LOG", "LOCK")
"""Names of files that nothing reads."""


class Disks:
    """Begins and ends faults of disks."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.dropped_bytes = 0
        """What losses of power took, of the bytes that were written."""
        self._begins = {"power-loss": self._lose_power, "wipe": self._wipe, "full": self._fill, "flip": self._flip}

    def begin(self, action: str, pods: list[Pod]) -> End:
        """How it ends. Raises: KeyError for what nothing here performs."""
        return self._begins[action](pods)

    def _lose_power(self, pods: list[Pod]) -> End:
        _stop(pods)
        # In half of them nothing that was not synced is left, in the other half any part of it.
        draw = random.Random(self._chance.getrandbits(32)) if self._chance.random() < 1 / 2 else None  # noqa: S311
        for pod in pods:
            self.dropped_bytes += lose_power(pod.disk, pod.durable, pod.platter_log, draw)
        return lambda: _start(pods)

    def _wipe(self, pods: list[Pod]) -> End:
        _stop(pods)
        for pod in pods:
            pod.wipe()
        _start(pods)
        return lambda: None

    def _fill(self, pods: list[Pod]) -> End:
        for pod in pods:
            _fill(pod.disk / "ballast")

        def end() -> None:
            for pod in pods:
                (pod.disk / "ballast").unlink()
            _start(pods)

        return end

    def _flip(self, pods: list[Pod]) -> End:
        """In the journal or in the store, which is whole on the disk since the node was stopped in order."""
        for pod in pods:
            pod.is_held = True
            pod.stop()
            part = pod.data / self._chance.choice(FLIPPED_PARTS)
            files = sorted(path for path in part.rglob("*") if path.is_file() and not path.name.startswith(SPARED))
            # Any byte that is not zero, of all files alike.
            counts = [len(data) - data.count(0) for data in map(Path.read_bytes, files)]
            (path,) = self._chance.choices(files, counts)
            data = bytearray(path.read_bytes())
            at = self._chance.choice([at for at, byte in enumerate(data) if byte])
            data[at] ^= 1 << self._chance.randrange(8)
            path.write_bytes(data)
        _start(pods)

        def end() -> None:
            _stop(pods)
            for pod in pods:
                pod.wipe()
            _start(pods)

        return end


def _stop(pods: list[Pod]) -> None:
    """At once, and none comes back before `_start`."""
    for pod in pods:
        pod.is_held = True
        if pod.process is not None:
            pod.process.kill()
    for pod in pods:
        pod.kill()


def _start(pods: list[Pod]) -> None:
    for pod in pods:
        pod.boot()


def _fill(path: Path) -> None:
    """Take every block of the file system."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        at, size = 0, 1 << 20
        while size >= 512:  # noqa: PLR2004
            try:
                os.posix_fallocate(descriptor, at, size)
                at += size
            except OSError:
                size //= 2
    finally:
        os.close(descriptor)
