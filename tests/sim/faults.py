"""The nemesis: what goes wrong, when, and how it is put right.

What lives here: every kind of fault of `swarm.FAULTS`, their schedule, and the healing of all.
Rules: at most a minority has lost or damaged disks at a time (more than that no quorum survives, and nothing is
promised); every fault ends by itself or by `heal`. What a fault draws comes from the world's random.
Must not know: what nodes do about it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.cluster import Host, SimCluster
from tests.sim.world import US_PER_MS, US_PER_S

DISK_TROUBLE_MARGIN_US = 15 * US_PER_S
"""A sync that fails may be asked for long after the fault was set."""


class Nemesis:
    """Makes trouble by a profile's rates until it is told to heal."""

    def __init__(self, cluster: SimCluster, leader: Callable[[], Host | None], counts_again: Callable[[Host], bool]):
        self._cluster = cluster
        self._world = cluster.world
        self._leader = leader
        self._counts_again = counts_again
        self._is_over = False

    def start(self) -> None:
        """Schedule the first fault of each kind."""
        for fault, mean_ms in self._cluster.profile.faults.items():
            self._again(fault, mean_ms)

    def heal(self) -> None:
        """End every fault and start every node."""
        self._is_over = True
        cluster = self._cluster
        for source in cluster.hosts:
            for target in cluster.hosts:
                if source != target:
                    cluster.network.unblock(source, target)
                    link = cluster.network.link(source, target)
                    link.stalled_until_us, link.slow_share = 0, 0.0
        for host in cluster.hosts.values():
            host.speed.hung_until_us = 0
            host.speed.slow_share = 0.0
            host.disk.failing_syncs = 0
            host.disk.bytes_max = 1 << 40
            host.is_held_down = False
            if host.process is not None:
                host.process.crash_after_touches = 0
                self._world.resume(host.process)
            cluster.start(host)
        self._world.note("nemesis", "heals", "")

    def _again(self, fault: str, mean_ms: int) -> None:
        delay_us = int(self._world.random.expovariate(1 / mean_ms) * US_PER_MS)

        def strike() -> None:
            if self._is_over:
                return
            self.strike(fault)
            self._again(fault, mean_ms)

        self._world.at(delay_us, strike)

    def strike(self, fault: str) -> None:
        """Do one fault of this kind now, if it can be done."""
        action: Callable[[], object] = getattr(self, f"_{fault}")
        if action() is not False:
            counts = self._cluster.counts.faults
            counts[fault] = counts.get(fault, 0) + 1
            self._world.note("nemesis", "strikes", fault)

    # Processes.

    def _crash(self) -> bool:
        host = self._any_live()
        if host is None:
            return False
        self._cluster.counts.crashes += 1
        self._cluster.crash(host)
        return True

    def _leader_crash(self) -> bool:
        host = self._leader()
        if host is None:
            return False
        self._cluster.counts.crashes += 1
        self._cluster.crash(host, is_power_loss=self._world.chance(0.5))
        return True

    def _crash_inside(self) -> bool:
        host = self._any_live()
        if host is None:
            return False
        self._cluster.crash_within(host, self._world.random.randrange(1, self._world.random.choice((10, 100, 1000))))
        return True

    def _power_loss(self) -> bool:
        host = self._any_live()
        if host is None:
            return False
        self._cluster.crash(host, is_power_loss=True)
        return True

    def _power_loss_of_all(self) -> None:
        for host in self._cluster.hosts.values():
            self._cluster.crash(host, is_power_loss=True)

    def _crash_of_all(self) -> None:
        for host in self._cluster.hosts.values():
            self._cluster.counts.crashes += 1
            self._cluster.crash(host)

    def _restart_loop(self) -> bool:
        host = self._any_live()
        if host is None:
            return False
        at_us = 0
        for _ in range(self._world.random.randrange(3, 8)):
            at_us += self._world.random.randrange(10 * US_PER_MS, 700 * US_PER_MS)
            self._later(at_us, lambda: self._crash_and_start(host))
        return True

    def _crash_and_start(self, host: Host) -> None:
        self._cluster.counts.crashes += 1
        self._cluster.crash(host, is_power_loss=self._world.chance(0.3), restart=False)
        self._cluster.restart_later(host, self._world.random.randrange(50 * US_PER_MS))

    def _pause(self) -> bool:
        host = self._any_live()
        if host is None:
            return False
        self._cluster.pause(host, self._world.random.randrange(50 * US_PER_MS, 4 * US_PER_S))
        return True

    def _long_pause(self) -> bool:
        host = self._any_live()
        if host is None:
            return False
        self._cluster.pause(host, self._world.random.randrange(4 * US_PER_S, 60 * US_PER_S))
        return True

    def _handover(self) -> bool:
        """A graceful end of a node, then a start."""
        host = self._leader() if self._world.chance(0.7) else self._any_live()
        if host is None or host.node is None:
            return False
        node = host.node

        def end() -> None:
            if host.node is node:
                self._cluster.crash(host)

        def schedule_end() -> None:
            self._world.at(0, end)

        def leave() -> None:
            node.leave(schedule_end)

        # Should it be killed, stand still or fail on the way, the machine does not wait for ever.
        self._world.at(4 * US_PER_S, end)
        return self._cluster.run_as(host, leave)

    # The network.

    def _partition(self) -> None:
        names = list(self._cluster.hosts)
        self._world.random.shuffle(names)
        split = self._world.random.randrange(1, len(names) // 2 + 1)
        self._cut_off(names[:split], names[split:], both_ways=True)

    def _leader_isolated(self) -> bool:
        host = self._leader()
        if host is None:
            return False
        others = [name for name in self._cluster.hosts if name != host.name]
        self._cut_off([host.name], others, both_ways=self._world.chance(0.7))
        return True

    def _one_way(self) -> None:
        source, *rest = self._shuffled()
        targets = rest if self._world.chance(0.5) else rest[:1]
        if self._world.chance(0.5):
            self._cut_off([source], targets, both_ways=False)
        else:
            self._cut_off(targets, [source], both_ways=False)

    def _partial(self) -> None:
        first, second, *_ = self._shuffled()
        self._cut_off([first], [second], both_ways=True)

    def _cut_off(self, sources: list[str], targets: list[str], *, both_ways: bool) -> None:
        network = self._cluster.network
        pairs = [(source, target) for source in sources for target in targets]
        if both_ways:
            pairs += [(target, source) for source, target in pairs]
        for pair in pairs:
            network.block(*pair)
        self._world.note("nemesis", "blocks", " ".join(f"{source}>{target}" for source, target in pairs))

        def mend() -> None:
            for pair in pairs:
                network.unblock(*pair)
            self._world.note("nemesis", "unblocks", " ".join(f"{source}>{target}" for source, target in pairs))

        longest_us = self._world.random.choice((1, 5, 12)) * US_PER_S
        self._later(self._world.random.randrange(100 * US_PER_MS, longest_us), mend)

    def _cut(self) -> None:
        first, second, *_ = self._shuffled()
        self._cluster.network.cut(first, second)

    def _stall(self) -> None:
        source, target, *_ = self._shuffled()
        until_us = self._world.now_us + self._world.random.randrange(50 * US_PER_MS, 3 * US_PER_S)
        self._cluster.network.link(source, target).stalled_until_us = until_us

    # Disks.

    def _slow_disk(self) -> None:
        host = self._any()
        before = host.speed.slow_share, host.speed.slow_us
        host.speed.slow_share, host.speed.slow_us = 0.7, self._world.random.choice((50, 300, 1500)) * US_PER_MS

        def mend() -> None:
            host.speed.slow_share, host.speed.slow_us = before

        self._later(self._world.random.randrange(US_PER_S, 8 * US_PER_S), mend)

    def _hung_disk(self) -> None:
        host = self._leader() if self._world.chance(0.5) else self._any()
        host = host or self._any()
        host.speed.hung_until_us = self._world.now_us + self._world.random.randrange(300 * US_PER_MS, 9 * US_PER_S)
        self._world.note(host.name, "disk hangs", f"until {host.speed.hung_until_us / US_PER_S:.3f}")

    def _failing_sync(self) -> None:
        host = self._any()
        host.disk.failing_syncs = self._world.random.choice((1, 1, 2, 5))
        host.disk_trouble_until_us = self._world.now_us + DISK_TROUBLE_MARGIN_US

        def mend() -> None:
            host.disk.failing_syncs = 0

        self._later(self._world.random.randrange(US_PER_S, 6 * US_PER_S), mend)
        self._world.note(host.name, "syncs fail", host.disk.failing_syncs)

    def _full_disk(self) -> None:
        host = self._leader() if self._world.chance(0.5) else self._any()
        host = host or self._any()
        host.disk.bytes_max = host.disk.used_bytes + self._world.random.choice((0, 500, 5000))
        host.disk_trouble_until_us = self._world.now_us + DISK_TROUBLE_MARGIN_US

        def mend() -> None:
            host.disk.bytes_max = 1 << 40

        self._later(self._world.random.randrange(US_PER_S, 8 * US_PER_S), mend)
        self._world.note(host.name, "disk is full", "")

    def _wipe(self) -> bool:
        host = self._any()
        if not self._may_lose(host):
            return False
        self._cluster.wipe(host)
        return True

    def _bit_flip(self) -> bool:
        host = self._any()
        if not self._may_lose(host):
            return False
        self._cluster.crash(host, restart=False)
        damage = host.disk.flip_bit()
        self._cluster.restart_later(host)
        if damage is None:
            return False
        host.is_damaged = host.is_lossy = True
        self._world.note(host.name, "bit flipped", damage)

        def find_out() -> None:
            if host.is_damaged:
                self._cluster.wipe(host)

        self._world.at(self._world.random.randrange(US_PER_S, 15 * US_PER_S), find_out)
        return True

    def _may_lose(self, host: Host) -> bool:
        """Whether this disk may be lost: with it, only a minority must be without its data."""
        hosts = self._cluster.hosts.values()
        for other in hosts:
            if other.is_lossy and not other.is_damaged and self._counts_again(other):
                other.is_lossy = False
        lossy = sum(1 for other in hosts if other.is_lossy and other is not host)
        return lossy + 1 <= (len(self._cluster.hosts) - 1) // 2

    # Clocks.

    def _clock_jump(self) -> None:
        host = self._any()
        jump_us = self._world.random.choice((-1, 1)) * self._world.random.randrange(
            self._world.random.choice((1, 60, 8 * 3600)) * US_PER_S
        )
        host.wall_offset_us += jump_us
        if host.process is not None:
            host.process.clock.wall_offset_us += jump_us
        self._world.note(host.name, "clock jumps", f"{jump_us / US_PER_S:.1f} s")

    def _clock_drift(self) -> None:
        host = self._any()
        host.rate = 1 + self._world.random.uniform(-0.03, 0.03)
        if host.process is not None:
            host.process.clock.rate = host.rate

    # Choosing.

    def _later(self, delay_us: int, action: Callable[[], None]) -> None:
        def act() -> None:
            if not self._is_over:
                action()

        self._world.at(delay_us, act)

    def _any(self) -> Host:
        return self._world.random.choice(list(self._cluster.hosts.values()))

    def _any_live(self) -> Host | None:
        hosts = self._cluster.live_hosts()
        return self._world.random.choice(hosts) if hosts else None

    def _shuffled(self) -> list[str]:
        names = list(self._cluster.hosts)
        self._world.random.shuffle(names)
        return names
