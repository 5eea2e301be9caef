"""One member, put together: journal, replica, consensus and broker over the seams it is given.

What lives here: the order of a start and of a stop, for a process and for a simulation alike.
Rules: the journal and the store are made to agree before anything takes part (PROTOCOL.md P8): a store beyond the
journal restarts it, a store behind the journal's first entry refuses. A clean stop flushes the store.
Must not know: sockets, HTTP, threads, which clock runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.clock import Clock
from falconq_cluster.errors import ConfigurationError, CorruptionError, StopProcess
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import Machine
from falconq_cluster.raft.backup import refuse_unfinished
from falconq_cluster.raft.core import Core, EventLog, RaftTimes
from falconq_cluster.raft.driver import RaftDriver
from falconq_cluster.raft.election import Election, ElectionTimes
from falconq_cluster.raft.frames import Hello
from falconq_cluster.raft.identity import load_or_create_identity
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.logtime import LogTime
from falconq_cluster.raft.membership import Membership, Record
from falconq_cluster.raft.offline import FLOOR_FILE, RESTORE_FILE
from falconq_cluster.raft.replica import Replica
from falconq_cluster.raft.seams import DiskWorker, Network, PeerEvents
from falconq_cluster.raft.view import NodeView
from falconq_cluster.reclaiming import Reclaiming
from falconq_cluster.storage.files import FileSystem
from falconq_cluster.storage.store import Reader, Store

MakeNetwork = Callable[[PeerEvents, Callable[[], Hello], Callable[[Hello], str | None]], Network]


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a member is told; see docs/configuration.md."""

    node_id: str
    members: tuple[str, ...]
    """All member ids, this one too, sorted."""
    data_dir: str
    times: RaftTimes = field(default_factory=RaftTimes)
    broker: BrokerLimits = field(default_factory=BrokerLimits)
    machine: MachineLimits = field(default_factory=MachineLimits)
    journal_segment_bytes: int = 16 * 1024 * 1024
    journal_cache_bytes: int = 64 * 1024 * 1024
    http_address: str = ""
    """Where clients are served, as the other members show it."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """The world around a member."""

    clock: Clock
    files: FileSystem
    disk: DiskWorker
    """For syncs of the journal; nothing else may wait in it."""
    background: DiskWorker
    """For flushes, compactions and removals, which may take long."""
    open_store: Callable[[str], Store]
    chance: random.Random
    """For timeouts and ids; a process seeds it from the system."""
    make_network: MakeNetwork
    on_fatal: Callable[[StopProcess], None]
    log: EventLog


class Node:
    """A member that runs once `start` is called."""

    def __init__(self, settings: NodeSettings, parts: NodeParts) -> None:
        """Open what is on the disk. Raises: CorruptionError, ConfigurationError, OSError."""
        self.settings = settings
        self._parts = parts
        files, data_dir = parts.files, settings.data_dir
        refuse_unfinished(files, data_dir)
        identity = load_or_create_identity(files, data_dir, node_id=settings.node_id, chance=parts.chance)
        self.journal = Journal.open(
            files,
            f"{data_dir}/journal",
            node_id=settings.node_id,
            disk_id=identity.disk_id,
            segment_bytes=settings.journal_segment_bytes,
            cache_bytes=settings.journal_cache_bytes,
        )
        if self.journal.recovered is not None and self.journal.recovered.file is not None:
            parts.log("journal_tail_cut", detail=str(self.journal.recovered))
        self.replica = Replica(
            files=files, directory=f"{data_dir}/store", open_store=parts.open_store, limits=settings.machine
        )
        _check_members(self.replica.machine, settings)
        align_journal(self.journal, self.replica.machine)
        _raise_floor(files, data_dir, self.journal, self.replica.machine)
        self._restore_id = (files.read_file(f"{data_dir}/{RESTORE_FILE}") or b"").decode()
        self.driver = RaftDriver(
            self._make_core(identity.disk_id), disk=parts.disk, background=parts.background, fatal=parts.on_fatal
        )
        self.raft = NodeView(self.driver)
        self.broker = Broker(
            raft=self.raft,
            state=self.state,
            clock=parts.clock,
            limits=settings.broker,
            random_bytes=parts.chance.randbytes,
        )
        self.driver.upcalls = self.broker
        self._reclaiming = Reclaiming(lambda: self.store, parts.background, parts.on_fatal)
        self.broker.listen(self._reclaiming.applied)

    def _make_core(self, disk_id: str) -> Core:
        settings, parts, times = self.settings, self._parts, self.settings.times
        clock = parts.clock
        membership = Membership(
            node_id=settings.node_id,
            members=settings.members,
            disk_id=disk_id,
            restore_id=lambda: "" if self.machine.cluster_id else self._restore_id,
            own_record=lambda: _record_of(self.machine),
            now_ms=clock.monotonic_ms,
            http_address=settings.http_address,
        )
        network = parts.make_network(_LateEvents(lambda: self.driver), self.hello, membership.judge)
        return Core(
            node_id=settings.node_id,
            others=tuple(name for name in settings.members if name != settings.node_id),
            times=times,
            clock=clock,
            chance=parts.chance,
            network=network,
            membership=membership,
            election=Election(
                ElectionTimes(times.election_timeout_min_ms, times.election_timeout_max_ms, times.sync_stall_ms),
                now_ms=clock.monotonic_ms,
                chance=parts.chance,
            ),
            log_time=LogTime(clock),
            journal=self.journal,
            replica=self.replica,
            log=parts.log,
            request_step=lambda: None,
        )

    @property
    def machine(self) -> Machine:
        """The applied state; another object after a snapshot."""
        return self.replica.machine

    @property
    def store(self) -> Store:
        """The store under the machine; another object after a snapshot."""
        return self.replica.store

    @property
    def network(self) -> Network:
        """The connections to the other members."""
        return self.driver.core.network

    def state(self) -> tuple[Machine, Reader]:
        """The present machine and the store it reads."""
        return self.replica.machine, self.replica.store

    def hello(self) -> Hello:
        """What this member says at the start of a connection."""
        return self.driver.core.membership.hello(self._parts.clock.wall_ms())

    def start(self) -> None:
        """Take part."""
        self.driver.start()
        self.broker.start()

    def stop(self) -> None:
        """Take no further part and make the store durable; blocks for a flush."""
        self.raft.is_stopping = True
        self.broker.stop()
        self._reclaiming.stop()
        self.driver.stop()
        self.replica.close()


class _LateEvents:
    """Passes the network's events to a driver that is made after it."""

    def __init__(self, driver: Callable[[], RaftDriver]) -> None:
        self._driver = driver

    def peer_connected(self, peer: str, hello: Hello) -> None:
        self._driver().peer_connected(peer, hello)

    def peer_disconnected(self, peer: str) -> None:
        self._driver().peer_disconnected(peer)

    def frame_received(self, peer: str, frame: object) -> None:
        self._driver().frame_received(peer, frame)  # type: ignore[arg-type]  # the network decodes frames only


def _record_of(machine: Machine) -> Record:
    return Record(machine.cluster_id, machine.members, machine.record_index)


def _check_members(machine: Machine, settings: NodeSettings) -> None:
    recorded = sorted(machine.members)
    if machine.cluster_id and recorded != sorted(settings.members):
        message = (
            f"{settings.data_dir} holds the cluster of {', '.join(recorded)}, but this start names "
            f"{', '.join(sorted(settings.members))}: give the same members (addresses may change), "
            f"or stop all nodes and run 'falconq node reconfigure --members ...' on each"
        )
        raise ConfigurationError(message)


def align_journal(journal: Journal, machine: Machine) -> None:
    """Makes the journal begin at, or hold, what the store has applied, keeping term and vote (PROTOCOL.md P8).

    Raises: CorruptionError when entries between the two are missing.
    """
    index, term = machine.applied_index, machine.applied_term
    if index == 0 and len(journal) == 0:
        return
    if len(journal) and index < journal.first_index - 1:
        message = (
            f"the store has applied entry {index}, but the journal begins at {journal.first_index}: files of the store "
            f"are missing; restore them, or wipe the data directory so that the node gets all from the others"
        )
        raise CorruptionError(message)
    if index and (len(journal) == 0 or index > journal.last_index or journal.term_at(index) not in (term, None)):
        journal.restart_at(index, term)
        if journal.getCurrentTerm() < term:
            journal.setCurrentTerm(term, None)


def _raise_floor(files: FileSystem, data_dir: str, journal: Journal, machine: Machine) -> None:
    """Entries from before an offline change of members are never sent again: new members get a snapshot instead."""
    data = files.read_file(f"{data_dir}/{FLOOR_FILE}")
    if data is not None and len(journal):
        index = min(int(data), machine.applied_index, journal.last_index)
        if index > journal.first_index:
            journal.cut_front(index)
