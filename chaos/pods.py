"""Nodes as a kubelet runs them: started again when they end.

What lives here: one supervised process per node, what is preloaded into it, and its disk's and clock's controls.
Rules: a process dies with the run. What ends is started again after a second, then after longer, up to ten, unless it
is held down. Settings go in by the environment, none is inherited.
Must not know: which fault is performed, what answers mean.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

from chaos.place import Place

HTTP, RAFT = 8080, 7000
SECRET = "not-a-secret-outside-of-a-run"  # noqa: S105
RESTART_SECONDS, RESTART_SECONDS_MAX = 1.0, 10.0
STABLE_SECONDS = 10.0
STOP_SECONDS = 10.0
CLOCK_PLACE = 48
"""Of the clock's offset in the control file, behind the six numbers of the disk."""
ROOT = Path(__file__).parents[1]


class Pod:
    """One node."""

    def __init__(self, name: str, place: Place, peers: str, preload: list[Path], environment: dict[str, str]) -> None:
        self.name = name
        self.place = place
        self.url = f"http://{place.addresses[name]}:{HTTP}"
        self.disk = place.directory / name
        self.data = self.disk / "data"
        self.durable = place.directory / f"{name}.durable"
        self.platter_log = place.directory / f"{name}.platter"
        self.control = place.directory / f"{name}.control"
        self.log = place.directory / f"{name}.log"
        self.is_held = False
        self.ended_count = 0
        self._peers = peers
        self._preload = preload
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._is_booted = False
        self.disk.mkdir(exist_ok=True)
        self.set_disk()
        self.set_clock(0)

    def set_disk(
        self, methods: int = 0, percent: int = 0, delay_us: int = 0, errno: int = 0, mistakes: int = 0, length: int = 0
    ) -> None:
        """What is wrong with the disk from now on; by default nothing."""
        self._control("<6q", 0, methods, percent, delay_us, errno, mistakes, length)

    def set_clock(self, seconds: float) -> None:
        """How far the wall clock is ahead."""
        self._control("<q", CLOCK_PLACE, int(seconds * 1e9))

    def _control(self, form: str, place: int, *numbers: int) -> None:
        descriptor = os.open(self.control, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, struct.pack(form, *numbers), place)
        finally:
            os.close(descriptor)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FALCONQ_")}
        environment |= {"FALCONQ_CLUSTER_SECRET": SECRET, "PYTHONPATH": _path(), **self._environment}
        preload = ":".join(str(path) for path in self._preload)
        shim = [
            "env", f"LD_PRELOAD={preload}", f"DISK_SHIM_CONTROL={self.control}", f"DISK_SHIM_ROOT={self.data}",
            f"PLATTER_ROOT={self.disk}", f"PLATTER_LOG={self.platter_log}",
        ]  # fmt: skip
        address = self.place.addresses[self.name]
        serve = ["serve", "--node-id", self.name, "--data-dir", str(self.data), "--peers", self._peers, "--insecure"]
        serve += ["--http-address", f"{address}:{HTTP}", "--raft-address", f"{address}:{RAFT}"]
        inside = ["ip", "netns", "exec", self.place.namespace(self.name), "setpriv", "--pdeathsig", "KILL"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*inside, *shim, sys.executable, "-m", "falconq_cluster", *serve],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        group = self.place.cgroup(self.name)
        if group is not None:
            (group / "cgroup.procs").write_text(str(self.process.pid))
        self._started = time.monotonic()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)

    def stop(self) -> None:
        """End it in order, as a machine that is shut down does, or after a while in any way."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def wipe(self) -> None:
        """Lose the disk."""
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.durable, ignore_errors=True)
        self.platter_log.unlink(missing_ok=True)

    def boot(self) -> None:
        """No longer held down, and started at once, as on a machine that was switched on."""
        self.is_held = False
        self._is_booted = True

    async def supervise(self) -> None:
        """Start it, and again whenever it ended."""
        pause = RESTART_SECONDS
        self.start()
        while True:
            await asyncio.sleep(0.1)
            if self.is_running:
                self._is_booted = False
                continue
            self.ended_count += 1
            is_stable = time.monotonic() - self._started > STABLE_SECONDS
            pause = RESTART_SECONDS if is_stable else min(pause * 2, RESTART_SECONDS_MAX)
            end = time.monotonic() + pause
            while self.is_held or (time.monotonic() < end and not self._is_booted):
                await asyncio.sleep(0.05)
            if self._is_booted:
                pause = RESTART_SECONDS
            self.start()


def _path() -> str:
    """Where nodes find their code: here, and before it where CHAOS_NODE_PATH says, to judge a changed build."""
    changed = os.environ.get("CHAOS_NODE_PATH")
    return f"{changed}:{ROOT}" if changed else str(ROOT)


def build_shim(directory: Path, name: str) -> Path:
    """A shim of `chaos/shims`, compiled for this machine."""
    built = directory / f"{name}.so"
    source = Path(__file__).parent / "shims" / f"{name}.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)  # noqa: S607
    return built
