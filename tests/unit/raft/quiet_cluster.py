"""Three real nodes in the simulation's world, without its faults.

What lives here: `QuietCluster`; a test adds the faults that it is about.
Rules: every invariant of the simulation is checked after every event. The same run each time: one seed.
Must not know: which hole a test is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.sim.clients import DONE, Asked
from tests.sim.cluster import Host
from tests.sim.disk_speed import DiskSpeed
from tests.sim.nodes import RunningNode, controlled_library
from tests.sim.run import Run
from tests.sim.swarm import Profile
from tests.sim.world import US_PER_MS

QUIET = Profile(
    nodes=("n1", "n2", "n3"),
    chaos_ms=0,
    faults={},
    latency_us=300,
    jitter_us=100,
    slow_frames_share=0.0,
    bytes_per_s=100_000_000,
    disk=DiskSpeed(step_us=100, jitter_us=100, slow_share=0.0, slow_us=0),
    publish_interval_ms=100,
    publishers=0,
    consumers=0,
    message_bytes_max=40,
    flush_entries=1000,
    journal_keep_entries=200,
    segment_bytes=16 * 1024,
    snapshot_chunk_bytes=4000,
    is_wall_skewed=False,
)


class QuietCluster:
    """Three simulated nodes without faults; every invariant is checked after every event."""

    def __init__(self, run: Run) -> None:
        self.run_ = run
        self.world = run.world
        self.network = run.cluster.network
        self.hosts = run.cluster.hosts

    @classmethod
    @contextmanager
    def formed(cls, **changes: object) -> Iterator[QuietCluster]:
        """A cluster that has just formed and serves."""
        with cls.started(**changes) as cluster:
            cluster.until(lambda: all(cluster.node(name).is_serving for name in cluster.hosts))
            yield cluster

    @classmethod
    @contextmanager
    def started(cls, **changes: object) -> Iterator[QuietCluster]:
        """A cluster whose nodes were started this moment."""
        run = Run(1, 3, replace(QUIET, **changes))  # type: ignore[arg-type]
        with controlled_library(run.world):
            run.cluster.start_all()
            yield cls(run)

    def node(self, name: str) -> RunningNode:
        node = self.hosts[name].node
        assert isinstance(node, RunningNode)
        return node

    @property
    def leader(self) -> Host:
        leader = self.run_.leader()
        assert leader is not None
        return leader

    @property
    def followers(self) -> list[Host]:
        return [host for host in self.hosts.values() if host is not self.leader]

    def run(self, ms: int) -> None:
        self.world.run(self.world.now_us + ms * US_PER_MS)

    def until(self, is_true: Callable[[], bool], *, within_ms: int = 5000) -> None:
        has_come = is_true() or self.world.run(self.world.now_us + within_ms * US_PER_MS, stop=is_true)
        assert has_come, self.run_.states()

    def publish(self, host: Host, *, deadline_ms: int = 3000) -> Asked:
        """Publish through the node and wait for what becomes of it."""
        answers: list[Asked] = []
        self.run_.clients.publish(host, answers.append, deadline_ms=deadline_ms)
        self.until(lambda: bool(answers), within_ms=deadline_ms + 1000)
        return answers[0]

    def publish_many(self, count: int) -> None:
        for _ in range(count):
            assert self.publish(self.leader).state == DONE

    def isolate(self, host: Host) -> None:
        for other in self.hosts.values():
            if other is not host:
                self.network.block(host.name, other.name)
                self.network.block(other.name, host.name)

    def heal(self) -> None:
        for source in self.hosts:
            for target in self.hosts:
                if source != target:
                    self.network.unblock(source, target)

    def until_equal(self, *, within_ms: int = 30_000) -> None:
        """All nodes have applied the same, and serve."""
        self.until(self.run_._all_equal, within_ms=within_ms)
