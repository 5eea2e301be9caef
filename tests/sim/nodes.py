"""The real node in the simulated world.

What lives here: the construction of `falconq_cluster.node.Node` over simulated parts, and what is read of it.
Rules: the node is the product's, unchanged; only the parts that it is handed are simulated. PySyncObj's clock and
chance are the world's while a run lasts.
Must not know: faults, clients.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from unittest.mock import patch

import pysyncobj.syncobj

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.machine import topics
from falconq_cluster.machine.capacity import Capacity
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.node import Node, NodeParts, NodeSettings
from falconq_cluster.raft.core import RaftTimes
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.seams import PeerEvents
from tests.sim.cluster import Host, SimCluster
from tests.sim.network import NodeNetwork
from tests.sim.store import SimStore
from tests.sim.swarm import Profile
from tests.sim.worker import SimDiskWorker
from tests.sim.world import Process, World

DATA_DIR = "/data"
JOURNAL_CACHE_BYTES = 20_000
"""Small, so that entries are read back from the simulated disk."""

MACHINE_LIMITS = MachineLimits(trim_keys_max=5)
"""So few that a deletion takes several commands, over which leaders may change."""


class RunningNode:
    """A node with its probe; fulfils `cluster.SimNode` and `invariants.NodeProbe`."""

    __slots__ = ("_library", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self._library = node.driver.core.library

    def start(self) -> None:
        self.node.start()

    def leave(self, done: Callable[[], None]) -> None:
        """Hand leadership over, stop, and say so."""

        def stop(_moved: bool) -> None:
            self.node.stop()
            done()

        self.node.raft.transfer_leadership(stop)

    @property
    def term(self) -> int:
        return self._library.term

    @property
    def leads(self) -> bool:
        return self._library.leads

    @property
    def is_candidate(self) -> bool:
        return self._library.is_candidate

    @property
    def commit_index(self) -> int:
        return self._library.commit_index

    @property
    def applied_index(self) -> int:
        return self.node.replica.machine.applied_index

    @property
    def flushed_index(self) -> int:
        return self.node.replica.flushed_index

    @property
    def digest(self) -> bytes:
        return self.node.replica.machine.digest

    @property
    def journal(self) -> Journal:
        return self.node.journal

    @property
    def is_serving(self) -> bool:
        return self.node.raft.is_serving


def _capacity(profile: Profile, host: Host) -> Capacity:
    """Nodes may differ in what they allow: in some seeds one says so."""
    return Capacity(dedupe_max=1_000_000) if profile.has_windows and host.name == profile.nodes[-1] else Capacity()


def build_node(cluster: SimCluster, host: Host, process: Process) -> RunningNode:
    """The product's node on this host."""
    world, profile = cluster.world, cluster.profile
    files = cluster.files(host, process)
    networks: list[NodeNetwork] = []

    def make_network(events: PeerEvents, hello: object, judge: object) -> NodeNetwork:
        networks.append(NodeNetwork(cluster.network, process, events, hello, judge))  # type: ignore[arg-type]
        return networks[0]

    def log(event: str, **fields: object) -> None:
        if fields.pop("exc_info", False):
            fields["traceback"] = traceback.format_exc()
        world.note(host.name, event, " ".join(f"{name}={value}" for name, value in fields.items()))

    node = Node(
        NodeSettings(
            node_id=host.name,
            members=profile.nodes,
            data_dir=DATA_DIR,
            times=RaftTimes(
                flush_entries=profile.flush_entries,
                # A puller pins four times this: it has to hold what is written while a snapshot crosses a slow link.
                journal_bytes_max=max(16 * profile.segment_bytes, 1 << 20),
                journal_keep_entries=profile.journal_keep_entries,
                snapshot_chunk_bytes=profile.snapshot_chunk_bytes,
            ),
            broker=BrokerLimits(capacity=_capacity(profile, host)),
            machine=MACHINE_LIMITS,
            journal_segment_bytes=profile.segment_bytes,
            journal_cache_bytes=JOURNAL_CACHE_BYTES,
        ),
        NodeParts(
            clock=process.clock,
            files=files,
            disk=SimDiskWorker(world, process, host.speed),
            background=SimDiskWorker(world, process, host.speed),
            open_store=lambda path: SimStore(process, host.disk, files, path),
            chance=Random(world.random.getrandbits(64)),
            make_network=make_network,
            on_fatal=cluster.fatal(host, process),
            log=log,
        ),
    )
    cluster.network.attach(networks[0])
    return RunningNode(node)


@contextmanager
def controlled_library(world: World) -> Iterator[None]:
    """PySyncObj reads the world's clock and chance (RAFT.md section 4)."""

    def monotonic_time() -> float:
        process = world.current
        assert process is not None, "PySyncObj runs outside of a process"
        return process.library_clock_s()

    module = pysyncobj.syncobj
    saved = module.monotonicTime, module.random
    module.monotonicTime, module.random = monotonic_time, Random(world.random.getrandbits(64))
    try:
        yield
    finally:
        module.monotonicTime, module.random = saved


@contextmanager
def small_limits() -> Iterator[None]:
    """A topic may be limited to fewer bytes than a seed publishes."""
    with patch.object(topics, "RETENTION_BYTES_MIN", 1):
        yield
