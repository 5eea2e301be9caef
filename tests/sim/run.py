"""One seed from start to verdict.

What lives here: the run: chaos, healing, convergence, the checks at the end.
Rules: everything comes from the seed. After healing there is one leader within 5 virtual seconds, every node serves
and has applied the same within 30, and every node takes a message.
Must not know: how runs are shown.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from random import Random

from falconq_cluster.machine.commands import Leased
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.settings import Retention
from falconq_cluster.machine.surveying import is_due
from tests.sim.batches import Batches
from tests.sim.clients import DONE, REFUSED, UNKNOWN, Asked, Clients
from tests.sim.cluster import RESTART_US_MAX, Host, SimCluster
from tests.sim.faults import Nemesis
from tests.sim.invariants import Invariants
from tests.sim.keep_end import check_kept
from tests.sim.keeping import KEPT_TOPICS, Keepers
from tests.sim.nodes import MACHINE_LIMITS, RunningNode, build_node, controlled_library, small_limits
from tests.sim.ordered import Ordered, has_left, short_expiry
from tests.sim.reads import SHOWN, Read, Reads
from tests.sim.reference import Reference
from tests.sim.store import SimStore
from tests.sim.swarm import Profile, draw_profile
from tests.sim.windows import Windows
from tests.sim.workers import Workers
from tests.sim.world import US_PER_MS, US_PER_S, Process, Violation, World

LEADER_WITHIN_US = 5 * US_PER_S
CONVERGED_WITHIN_US = 30 * US_PER_S
QUIET_US = 500 * US_PER_MS
NOT_CONVERGED = "not converged"
READERS_IN = (0, 3)
"""Seeds with one of these rests by 7 have readers; none that was kept before there were readers has."""
WORKERS_IN = (1, 7, 9, 12)
"""As `READERS_IN`, by 13: seeds with workers."""
BATCHES_IN = 6
"""Seeds with this rest by 11 have publishers of batches; none that was kept before there were such has."""
WINDOWS_IN = (6, 11, 13)
"""Seeds with one of these rests by 17 have short dedupe windows; none that was kept before there were such has."""
KEEPERS_IN = (0, 8, 12, 14)
"""As `READERS_IN`, by 17: seeds with clients of topics that do not keep everything."""
ORDERS_IN = (1, 5, 10, 13)
"""As `READERS_IN`, by 19: seeds with consumers that have an order, or are moved, and with event streams."""
ISOLATED_MS = 4000
"""Mean pause between two isolations of the leader, in the first of these."""


@dataclass(slots=True)
class Report:
    """What became of a seed."""

    seed: int
    node_count: int
    violation: str = ""
    digest: str = ""
    virtual_s: float = 0.0
    event_count: int = 0
    frame_count: int = 0
    acknowledged: int = 0
    reads: int = 0
    leases: int = 0
    batches: int = 0
    trimmed: int = 0
    expired: int = 0
    """Consumers."""
    refused: int = 0
    unknown: int = 0
    committed: int = 0
    elections: int = 0
    crashes: int = 0
    power_losses: int = 0
    disk_stops: int = 0
    wipes: int = 0
    refusals_to_start: int = 0
    snapshots: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    transcript: list[str] = field(default_factory=list)

    @property
    def is_liveness(self) -> bool:
        """Whether what failed is liveness, not safety."""
        return self.violation.startswith(NOT_CONVERGED)


class Run:
    """A seed's world with everything in it."""

    def __init__(self, seed: int, node_count: int, profile: Profile | None = None) -> None:
        self.world = World(f"{seed}/{node_count}")
        if profile is None:
            profile = _with_clients(draw_profile(self.world.random, node_count=node_count), seed)
        self.profile = profile
        self.invariants = Invariants(self.world)
        self.cluster = SimCluster(self.world, self.profile, build_node)
        self.cluster.on_start = self.invariants.started
        self.world.after_event = self._after_event
        self.clients = Clients(self.cluster, self._acknowledged, has_admin=seed % 2 == 0)
        self.reads = Reads(self.cluster, Random(f"{seed}/{node_count}/reads"))
        self.workers = Workers(self.cluster, self.clients, Random(f"{seed}/{node_count}/workers"))
        self.batches = Batches(self.cluster, Random(f"{seed}/{node_count}/batches"))
        self.windows = Windows(self.cluster, self.clients, Random(f"{seed}/{node_count}/windows"))
        self.keepers = Keepers(self.cluster, self.clients, Random(f"{seed}/{node_count}/keepers"))
        self.ordered = Ordered(self.cluster, self.clients, Random(f"{seed}/{node_count}/ordered"))
        self.nemesis = Nemesis(self.cluster, self.leader, _is_ready)
        self.report = Report(seed, node_count)
        self.snapshot_count = 0

    def go(self) -> Report:
        """Run all of it; a violation is in the report."""
        report = self.report
        expiry = short_expiry() if self.profile.has_orders else nullcontext()
        with controlled_library(self.world), small_limits(), expiry:
            try:
                self._go()
            except Violation as violation:
                report.violation = str(violation)
                self.world.note("checker", "VIOLATION", violation)
                report.transcript = self.world.trace.transcript(400)
        self._fill(report)
        return report

    def _go(self) -> None:
        self.world.note("checker", "profile", self.profile)
        self.cluster.start_all()
        self.clients.start()
        self.reads.start(self.profile.readers)
        if self.profile.has_workers:
            self.workers.start()
        if self.profile.has_keepers:
            self.keepers.start()
        if self.profile.has_orders:
            self.ordered.start()
        self.batches.start(self.profile.batch_publishers)
        if self.profile.has_windows:
            self.windows.start()
        self.nemesis.start()
        self.world.run(self.profile.chaos_ms * US_PER_MS)
        self.finish()

    def finish(self) -> None:
        """Heal everything and check all that must be true after any run. Raises: Violation."""
        self.nemesis.heal()
        damaged = {host.name for host in self.cluster.hosts.values() if host.is_damaged}
        self._expect("one leader", self._has_one_leader, LEADER_WITHIN_US)
        self._expect("all serve", self._all_serve, CONVERGED_WITHIN_US)
        self.clients.stop()
        self.reads.stop()
        self.workers.stop()
        self.keepers.stop()
        self.ordered.stop()
        self.batches.stop()
        self.windows.stop()
        for host in self.cluster.hosts.values():
            # A flipped bit that is found only now costs a wipe and the time until somebody starts the node again.
            within_us = LEADER_WITHIN_US + (RESTART_US_MAX if host.name in damaged else 0)
            self._expect_publish(host, within_us)
            self._expect_read(host, within_us)
        self._expect("deleted topics are trimmed", self._all_trimmed, CONVERGED_WITHIN_US)
        self._expect("all applied the same", self._all_equal, CONVERGED_WITHIN_US)
        self.world.run(self.world.now_us + QUIET_US)
        self._expect("all applied the same, at rest", self._all_equal, CONVERGED_WITHIN_US)
        self._check_end()

    def _expect(self, what: str, is_true: Callable[[], bool], within_us: int) -> None:
        if not is_true() and not self.world.run(self.world.now_us + within_us, stop=is_true):
            raise Violation(f"{NOT_CONVERGED}: {what}, within {within_us / US_PER_S:.0f} s of healing: {self.states()}")

    def _expect_publish(self, host: Host, within_us: int) -> None:
        """The node takes a message; clients repeat, as the first try may meet an opening or a change of leader."""
        answers: list[Asked] = []

        def again(asked: Asked) -> None:
            answers.append(asked)
            if asked.state != DONE:
                self.world.at(100 * US_PER_MS, lambda: self.clients.publish(host, again, deadline_ms=2000))

        self.clients.publish(host, again, deadline_ms=2000)
        self._expect(f"{host.name} takes a message", lambda: bool(answers) and answers[-1].state == DONE, within_us)

    def _expect_read(self, host: Host, within_us: int) -> None:
        """The node answers a linearizable read."""
        reads: list[Read] = []

        def again(read: Read) -> None:
            reads.append(read)
            if read.state != SHOWN:
                self.world.at(100 * US_PER_MS, ask)

        def ask() -> None:
            self.reads.read(host, 2000, again)

        ask()
        self._expect(f"{host.name} answers a read", lambda: bool(reads) and reads[-1].state == SHOWN, within_us)

    def _check_end(self) -> None:
        reference = Reference(self.invariants.committed, MACHINE_LIMITS)
        for host in self.cluster.hosts.values():
            node = _node(host)
            assert node is not None
            assert isinstance(node.node.store, SimStore)
            reference.check_store(host.name, node.node.store.pairs())
        reference.check_ledger(self.clients.ledger, self.invariants.committed)
        reference.check_deliveries()
        self.batches.check(reference.machine, reference.store)
        reference.check_topics(self.clients.ledger)
        check_kept(reference.kept, reference.machine, reference.store, self.clients.ledger.asked)
        self.report.trimmed = reference.kept.trimmed_count
        self.report.expired = reference.orders.expired_count

    # What is seen of the cluster.

    def leader(self) -> Host | None:
        """The host that leads the highest term, as far as anybody says so."""
        leading = [(node.term, host) for host in self.cluster.hosts.values() if (node := _node(host)) and node.leads]
        return max(leading, key=lambda pair: pair[0])[1] if leading else None

    def states(self) -> str:
        """Each node in a few words."""
        words = []
        for host in self.cluster.hosts.values():
            node = _node(host)
            if node is None:
                words.append(f"{host.name}: down")
                continue
            words.append(
                f"{host.name}: {node.node.raft.state()} term {node.term} applied {node.applied_index} "
                f"committed {node.commit_index} log {node.journal.first_index}..{node.journal.last_index} "
                f"{'; '.join(node.node.raft.readiness())}"
            )
        return " | ".join(words)

    def _has_one_leader(self) -> bool:
        nodes = [_node(host) for host in self.cluster.hosts.values()]
        leaders = [node for node in nodes if node is not None and node.leads]
        return len(leaders) == 1 and leaders[0].node.raft.is_leader

    def _all_serve(self) -> bool:
        return all(_serves(host) for host in self.cluster.hosts.values())

    def _all_trimmed(self) -> bool:
        nodes = [_node(host) for host in self.cluster.hosts.values()]
        return all(node is not None and _is_trimmed(node.node.machine) for node in nodes)

    def _all_equal(self) -> bool:
        nodes = [_node(host) for host in self.cluster.hosts.values()]
        applied = {None if node is None else node.applied_index for node in nodes}
        return len(applied) == 1 and applied == {self.invariants.committed.last_index} and self._all_serve()

    def _acknowledged(self, asked: Asked) -> None:
        """In the middle of the event that gives the answer: first see what the event has done so far."""
        # What a topic may drop, a reader need not see.
        is_kept = getattr(asked.operation, "topic", "") not in KEPT_TOPICS
        self.reads.acknowledged(asked.index, asked.result, asked.token if is_kept else b"")
        if not asked.token:
            return
        host = self.cluster.hosts[asked.node]
        if host.process is not None:
            self._after_event(host.process)
        self.invariants.acknowledged(self.cluster.hosts, asked.token, asked.index, asked.node)

    def _after_event(self, process: Process) -> None:
        host = self.cluster.hosts[process.name]
        node = host.node
        if node is not None and host.process is process:
            assert isinstance(node, RunningNode)
            self.invariants.check(host, node)

    def _fill(self, report: Report) -> None:
        counts, ledger = self.cluster.counts, self.clients.ledger
        report.digest = self.world.trace.digest()
        report.virtual_s = self.world.now_us / US_PER_S
        report.event_count = self.world.trace.event_count
        report.frame_count = self.cluster.network.frame_count
        report.acknowledged = ledger.count(DONE)
        report.reads = self.reads.count(SHOWN)
        report.leases = sum(len(asked.messages) for asked in ledger.asked if isinstance(asked.result, Leased))
        report.batches = self.batches.acknowledged_count
        report.refused, report.unknown = ledger.count(REFUSED), ledger.count(UNKNOWN)
        report.committed = self.invariants.committed.last_index
        report.elections = self.invariants.election_count
        report.crashes, report.power_losses = counts.crashes, counts.power_losses
        report.disk_stops, report.wipes = counts.disk_stops, counts.wipes
        report.refusals_to_start = counts.refusals_to_start
        report.faults = counts.faults


def _with_clients(profile: Profile, seed: int) -> Profile:
    """The profile with clients that came later, without a draw.

    The other seeds play as they did before there were such clients, so that what they found stays found.
    """
    profile = replace(profile, once_publishers=1 + seed // 5 % 4 if seed % 5 == 3 else 0)
    if seed % 7 in READERS_IN:
        # Only a leader that was replaced and does not know it could mislead a reader.
        faults = {**profile.faults, "leader_isolated": ISOLATED_MS} if seed % 7 == READERS_IN[0] else profile.faults
        profile = replace(profile, readers=2 + seed // 7 % 3, faults=faults)
    if seed % 11 == BATCHES_IN:
        profile = replace(profile, batch_publishers=1 + seed // 11 % 3)
    if seed % 17 in WINDOWS_IN:
        profile = replace(profile, has_windows=True, once_publishers=max(profile.once_publishers, 2))
    profile = replace(profile, has_workers=seed % 13 in WORKERS_IN, has_keepers=seed % 17 in KEEPERS_IN)
    return replace(profile, has_orders=seed % 19 in ORDERS_IN)


def run_seed(seed: int, node_count: int) -> Report:
    """Run one seed; nothing of it stays in memory but the report."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return Run(seed, node_count).go()
    finally:
        if was_enabled:
            gc.enable()
        gc.collect()


def _node(host: Host) -> RunningNode | None:
    return host.node if isinstance(host.node, RunningNode) else None


def _is_trimmed(machine: Machine) -> bool:
    """Whether nothing is to be trimmed, erased or expired, now or by time alone."""
    state = machine.state
    if state.deletions or has_left(state):
        return False
    return not any(
        is_due(machine, topic.name, machine.log_time_ms)
        or (topic.config.retention.ms and topic.retained_count)
        or (topic.config.retention != Retention() and topic.delayed_count)
        for topic in state.topics.values()
    )


def _is_ready(host: Host) -> bool:
    """What /readyz says: only then may an operator go on to the next disk (P4)."""
    node = _node(host)
    return node is not None and not node.node.raft.readiness()


def _serves(host: Host) -> bool:
    node = _node(host)
    return node is not None and node.is_serving
