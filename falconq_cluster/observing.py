"""From plain counters to metrics.

What lives here: the wiring between what the floors count and what telemetry shows.
Rules: counters are read at each scrape, so counting costs the floors an addition; only syncs are timed as they run.
Must not know: HTTP, how metrics are rendered.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from falconq_cluster.broker.service import BrokerService
from falconq_cluster.node import Node
from falconq_cluster.raft.seams import DiskWorker
from falconq_cluster.storage.leveldb import LevelStore
from falconq_cluster.telemetry import Metrics

LOOKUPS_MAX = 500
"""Levels of partitions whose oldest message one scrape looks up: some 5 ms, in which the loop does nothing else."""


class TimedDiskWorker:
    """A disk worker that says how long each job took, in seconds."""

    def __init__(self, worker: DiskWorker, observe: Callable[[float], None]) -> None:
        self._worker = worker
        self._observe = observe

    def submit(self, steps: Sequence[Callable[[], None]], done: Callable[[BaseException | None], None]) -> None:
        """Run the job as the worker does, then report its time."""

        def timed() -> None:
            started = time.perf_counter()
            for step in steps:
                step()
            self._observe(time.perf_counter() - started)

        self._worker.submit([timed], done)


class NodeObserver:
    """Copies one node's counters into its metrics before each scrape."""

    def __init__(self, node: Node, service: BrokerService, metrics: Metrics) -> None:
        self._node = node
        self._service = service
        self._metrics = metrics
        self._seen: dict[str, int] = {}
        metrics.before_scrape(self.update)

    def update(self) -> None:
        """Bring every metric up to date."""
        self._update_raft()
        self._update_broker()
        self._update_consumers()
        self._update_disk()

    def _grown(self, name: str, value: int) -> int:
        grown = value - self._seen.get(name, 0)
        self._seen[name] = value
        return grown

    def _update_raft(self) -> None:
        metrics, raft = self._metrics, self._node.raft
        core = self._node.driver.core
        counters = core.counters
        metrics.term.set(raft.term)
        metrics.is_leader.set(1 if raft.leads else 0)
        metrics.commit_index.set(raft.commit_index)
        metrics.applied_index.set(raft.applied_index)
        metrics.elections.inc(self._grown("campaigns", counters.campaigns))
        metrics.snapshots_sent.inc(self._grown("snapshots_served", counters.snapshots_served))
        metrics.snapshots_installed.inc(self._grown("snapshots_installed", counters.snapshots_installed))
        metrics.is_ready.set(0 if raft.readiness() else 1)
        metrics.members.set(1 + len(core.others))
        metrics.peers_connected.set(sum(raft.is_connected(peer) for peer in core.others))
        metrics.log_time_skew.set(-core.log_time.gap_ms() / 1000)

    def _update_broker(self) -> None:
        metrics, counted = self._metrics, self._node.broker.metrics
        for level, (published, delivered) in enumerate(
            zip(counted.published_counts, counted.delivered_counts, strict=True)
        ):
            metrics.published[level].inc(self._grown(f"published{level}", published))
            metrics.delivered[level].inc(self._grown(f"delivered{level}", delivered))
        metrics.duplicates.inc(self._grown("duplicates", counted.duplicate_count))
        metrics.acked.inc(self._grown("acked", counted.acked_count))
        metrics.nacked.inc(self._grown("nacked", counted.nacked_count))
        metrics.rejected.inc(self._grown("rejected", counted.rejected_count))
        metrics.changed.inc(self._grown("changed", counted.changed_count))
        metrics.cancelled.inc(self._grown("cancelled", counted.cancelled_count))
        metrics.expired_leases.inc(self._grown("expired leases", counted.lease_expired_count))
        metrics.held.set(self._node.broker.views().held_count)
        metrics.trimmed.inc(self._grown("trimmed", counted.trimmed_count))
        metrics.trimmed_bytes.inc(self._grown("trimmed_bytes", counted.trimmed_bytes))
        # A snapshot brings a new state, which has noticed nothing yet.
        metrics.lost.inc(max(self._grown("lost", self._node.broker.views().lost_count), 0))
        metrics.commands.inc(self._grown("commands", counted.command_count))
        metrics.operations.inc(self._grown("operations", counted.operation_count))
        metrics.rewinds.inc(self._grown("rewinds", counted.rewind_count))
        metrics.repeats.inc(self._grown("repeats", counted.repeat_count))
        metrics.unknown_outcomes.inc(self._grown("unknown_outcomes", counted.unknown_outcome_count))
        metrics.expired.inc(self._grown("expired", counted.expired_count))
        metrics.overloaded.inc(self._grown("overloaded", counted.overloaded_count))
        metrics.pulls.inc(self._grown("pulls", counted.pull_count))
        metrics.empty_pulls.inc(self._grown("empty_pulls", counted.pull_empty_count))
        metrics.linearizable_reads.inc(self._grown("linearizable_reads", counted.linearizable_count))
        metrics.read_rounds.inc(self._grown("read_rounds", counted.read_round_count))
        metrics.expired_messages.inc(self._grown("expired_messages", counted.expired_message_count))
        metrics.dead_letters.inc(self._grown("dead_letters", counted.dead_letter_count))
        metrics.dedupe_keys.set(self._node.broker.views().dedupe_count)
        metrics.waiting.set(self._node.broker.outbox.waiting_count)
        metrics.outstanding.set(self._node.broker.outbox.outstanding_count)
        metrics.polls.set(self._service.polls_count)

    def _update_consumers(self) -> None:
        """The leader's view alone: three of them would differ by what is on its way."""
        metrics, raft = self._metrics, self._node.raft
        metrics.forget_consumers()
        left, unshown_count = LOOKUPS_MAX, 0
        topics = self._node.machine.state.topics.values() if raft.leads else ()
        views = self._node.broker.views().consumers
        for topic in [topic for topic in topics if topic.consumers]:
            lookups = len(topic.partitions) * len(topic.config.levels)
            shown = views.consumers_after(topic.name, "", left // lookups) if lookups <= left else []
            left -= lookups * len(shown)
            unshown_count += len(topic.consumers) - len(shown)
            for consumer in shown:
                for level, (lag, oldest_ms) in enumerate(zip(consumer.lag, consumer.oldest_ms, strict=True)):
                    age_ms = 0 if oldest_ms is None else max(raft.log_time_ms() - oldest_ms, 0)
                    metrics.show_consumer(topic.name, consumer.name, level, lag_count=lag, oldest_age_s=age_ms / 1000)
        metrics.unshown_consumers.set(unshown_count)

    def _update_disk(self) -> None:
        metrics = self._metrics
        metrics.journal_syncs.inc(self._grown("syncs", self._node.driver.core.counters.syncs))
        metrics.journal_bytes.set(self._node.journal.bytes_on_disk)
        store = self._node.store
        metrics.store_bytes.set(store.disk_bytes if isinstance(store, LevelStore) else 0)
        file_system = os.statvfs(self._node.settings.data_dir)
        # What root alone may fill is of no use to a node.
        metrics.disk_free.set(file_system.f_bavail * file_system.f_frsize)
        metrics.disk_size.set(file_system.f_blocks * file_system.f_frsize)
