"""Machines that run nodes: starts, crashes, pauses, and who brings them back.

What lives here: hosts with their disks and clocks, the life of the processes on them, and what a death may mean.
Rules: a process dies at once and its machine may lose power with it; something restarts it later, as a supervisor
does. A node may stop by itself only for a reason that the faults gave it: anything else ends the run.
Must not know: which faults come when, what clients do.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from falconq_cluster.errors import CorruptionError, StopProcess
from tests.sim.disk import SimDisk, SimFileSystem
from tests.sim.disk_speed import DiskSpeed
from tests.sim.network import SimNetwork
from tests.sim.swarm import Profile
from tests.sim.world import US_PER_MS, US_PER_S, Process, ProcessClock, Violation, World

EXIT_DISK = 74
START_OF_TIME_US = 1_700_000_000 * US_PER_S
RESTART_US_MAX = 4 * US_PER_S


class SimNode(Protocol):
    """What runs on a host."""

    def start(self) -> None: ...

    def leave(self, done: Callable[[], None]) -> None: ...


@dataclass(slots=True)
class Host:
    """One machine."""

    name: str
    disk: SimDisk
    speed: DiskSpeed
    rate: float
    wall_offset_us: int
    process: Process | None = None
    node: SimNode | None = None
    incarnation: int = 0
    is_held_down: bool = False
    """Not to be restarted before the nemesis says so."""
    is_damaged: bool = False
    """Bytes of its disk were flipped: it may refuse to start, and is wiped then."""
    disk_trouble_until_us: int = 0
    """Up to here (and a little later) a stop for disk errors is what should happen."""
    is_lossy: bool = False
    """It lost its disk and does not count again yet."""


@dataclass(slots=True)
class Counts:
    """What happened in a run, for the table."""

    crashes: int = 0
    power_losses: int = 0
    disk_stops: int = 0
    wipes: int = 0
    refusals_to_start: int = 0
    faults: dict[str, int] = field(default_factory=dict)


Build = Callable[["SimCluster", Host, Process], SimNode]


class SimCluster:
    """All hosts of a world and the network between them."""

    def __init__(self, world: World, profile: Profile, build: Build) -> None:
        self.world = world
        self.profile = profile
        self.counts = Counts()
        self.network = SimNetwork(world, lambda source, target: profile.make_link(world.random))
        self._build = build
        self.hosts = {name: self._make_host(name) for name in profile.nodes}
        self.on_start: Callable[[Host], None] = lambda host: None
        self.on_end: Callable[[Host], None] = lambda host: None
        world.on_crash = self._process_crashed
        world.on_error = self._process_failed

    def live_hosts(self) -> list[Host]:
        """Hosts whose process runs, paused or not."""
        return [host for host in self.hosts.values() if host.process is not None and host.node is not None]

    # Life of a process.

    def start_all(self) -> None:
        for host in self.hosts.values():
            self.start(host)

    def start(self, host: Host) -> None:
        """Start the node, unless one runs."""
        if host.process is not None or host.is_held_down:
            return
        host.incarnation += 1
        clock = ProcessClock(self.world, rate=host.rate, wall_offset_us=host.wall_offset_us)
        process = Process(self.world, host.name, clock)
        host.process = process
        self.world.note(host.name, "starts", f"run {host.incarnation}")

        def begin() -> None:
            node = self._build(self, host, process)
            host.node = node
            self.on_start(host)
            node.start()

        self.world.enter(process, begin)

    def crash(self, host: Host, *, is_power_loss: bool = False, restart: bool = True) -> None:
        """Kill the process, and with a power loss everything that was not synced."""
        process = host.process
        if process is not None:
            process.is_alive = False
            self.world.note(host.name, "loses power" if is_power_loss else "is killed", "")
            self._bury(host, process, is_power_loss=is_power_loss)
        elif is_power_loss:
            host.disk.lose_power()
        if restart:
            self.restart_later(host)

    def restart_later(self, host: Host, delay_us: int | None = None) -> None:
        """Start the node again after a while."""
        if delay_us is None:
            delay_us = int(RESTART_US_MAX * self.world.random.random() ** 3)
        self.world.at(delay_us, lambda: self.start(host))

    def crash_within(self, host: Host, touches: int) -> None:
        """Let the process die in the middle of what it does, at one of its next calls to the outside."""
        if host.process is not None:
            host.process.crash_after_touches = touches

    def pause(self, host: Host, duration_us: int) -> None:
        """Let the process stand still."""
        process = host.process
        if process is None:
            return
        self.world.pause(process, duration_us)
        self.world.note(host.name, "stands still", f"{duration_us / US_PER_MS:.0f} ms")
        self.network.paused(process)

    def wipe(self, host: Host) -> None:
        """Kill the process and empty its disk."""
        self.crash(host, restart=False)
        host.disk.wipe()
        host.is_damaged = False
        host.is_lossy = True
        self.counts.wipes += 1
        self.world.note(host.name, "is wiped", "")
        self.restart_later(host)

    def run_as(self, host: Host, call: Callable[[], None]) -> bool:
        """Run a call in the host's process as its own event would; False when there is none that could."""
        process = host.process
        if process is None or host.node is None or process.paused_until_us > self.world.now_us:
            return False
        self.world.enter(process, call)
        return True

    def is_paused(self, host: Host) -> bool:
        return host.process is not None and host.process.paused_until_us > self.world.now_us

    def fatal(self, host: Host, process: Process) -> Callable[[StopProcess], None]:
        """What a node calls when it must not go on."""

        def stop(reason: StopProcess) -> None:
            if process.is_alive:
                process.is_alive = False
                self._judge_stop(host, process, reason)

        return stop

    # How it ends.

    def _process_crashed(self, process: Process) -> None:
        host = self.hosts[process.name]
        if host.process is process:
            self.counts.crashes += 1
            self._bury(host, process, is_power_loss=self.world.chance(0.3))
            self.restart_later(host)

    def _process_failed(self, process: Process, error: BaseException) -> None:
        """An exception left the node."""
        host = self.hosts[process.name]
        process.is_alive = False
        if isinstance(error, StopProcess):
            self._judge_stop(host, process, error)
            return
        if isinstance(error, CorruptionError) and host.is_damaged:
            self.counts.refusals_to_start += 1
            self._bury(host, process, is_power_loss=False)
            self.wipe(host)
            return
        if isinstance(error, OSError) and self._has_disk_trouble(host):
            self._stopped_for_disk(host, process)
            return
        text = "".join(traceback.format_exception(error)[-6:])
        raise Violation(f"{host.name} failed with {error!r}\n{text}")

    def _judge_stop(self, host: Host, process: Process, reason: StopProcess) -> None:
        self.world.note(host.name, "stops itself", reason.reason)
        if reason.exit_code == EXIT_DISK and self._has_disk_trouble(host):
            self._stopped_for_disk(host, process)
            return
        if host.is_damaged:
            self.counts.refusals_to_start += 1
            self._bury(host, process, is_power_loss=False)
            self.wipe(host)
            return
        raise Violation(f"{host.name} stopped itself: {reason.reason} (exit code {reason.exit_code})")

    def _stopped_for_disk(self, host: Host, process: Process) -> None:
        self.counts.disk_stops += 1
        self._bury(host, process, is_power_loss=False)
        self.restart_later(host, self.world.random.randrange(200 * US_PER_MS, RESTART_US_MAX))

    def _has_disk_trouble(self, host: Host) -> bool:
        return self.world.now_us <= host.disk_trouble_until_us

    def _bury(self, host: Host, process: Process, *, is_power_loss: bool) -> None:
        """Take a dead process off its host."""
        if is_power_loss:
            self.counts.power_losses += 1
            host.disk.lose_power()
        host.disk.lose_stores()
        self.network.detach(process, is_power_loss=is_power_loss)
        host.process = None
        host.node = None
        self.on_end(host)

    def files(self, host: Host, process: Process) -> SimFileSystem:
        """The process's files."""
        return SimFileSystem(process, host.disk)

    def _make_host(self, name: str) -> Host:
        random = self.world.random
        skew_us = random.randrange(-3600, 3600) * US_PER_S if self.profile.is_wall_skewed else random.randrange(50_000)
        profile_disk = self.profile.disk
        speed = DiskSpeed(profile_disk.step_us, profile_disk.jitter_us, profile_disk.slow_share, profile_disk.slow_us)
        disk = SimDisk(Random(random.getrandbits(64)))
        return Host(name, disk, speed, rate=1.0, wall_offset_us=START_OF_TIME_US + skew_us)
