"""What a node says about itself: log lines and metrics.

What lives here: the log's shape, and every metric with its name.
Rules: a log event is a stable name in the past tense with fields, on stderr; never a body, key or token. A metric is
`falconq_<noun>_<unit>[_total]` with labels of few values, and has a row in docs/metrics.md. Consensus and storage
carry the label `shard`.
Must not know: who counts.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

__all__ = ("METRICS_CONTENT_TYPE", "SHARD", "Counter", "Histogram", "Metrics", "configure_logging")

METRICS_CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SHARD = "shard-0"
"""The one Raft group there is."""

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: a local sync is about 1 ms, a client gives up after 10 s, a long poll ends after 20 s."""
LEVELS_MAX = 16
"""Levels of a topic (machine/topics.py has the same bound)."""
SYNC_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds: from a fast SSD to the point where a leader steps down (sync_stall_ms)."""


def configure_logging(*, level: str, log_format: str, stream: TextIO | None = None, **fields: str) -> None:
    """From now on all log lines of the process have this shape, and `fields` in each of them."""
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = structlog.processors.JSONRenderer()
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**fields)
    # Libraries speak through the standard library; their lines get the same shape.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


class Metrics:
    """Every metric of a node, in a registry that is handed in."""

    def __init__(self, registry: CollectorRegistry, *, shard: str = SHARD) -> None:
        self._registry = registry
        self._shard = shard
        self._before_scrape: list[Callable[[], None]] = []
        self._http(registry)
        self._messages()
        self._broker()
        self._consumers()
        self._raft()
        self._disk()

    def _http(self, registry: CollectorRegistry) -> None:
        self.http_requests = Counter(
            "falconq_http_requests_total", "Answered requests.", ["route", "status"], registry=registry
        )
        self.http_latency = Histogram(
            "falconq_http_latency_seconds",
            "From the request's headers to its answer.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.http_inflight = Gauge("falconq_http_inflight_requests", "Requests in progress.", registry=registry)
        self.http_open = Gauge("falconq_http_open_connections", "Open client connections.", registry=registry)

    def _messages(self) -> None:
        self.published = self._by_level("falconq_published_messages_total", "Messages acknowledged by this node.")
        self.duplicates = self._counter(
            "falconq_duplicate_publishes_total", "Publishes on this node that repeated an earlier one."
        )
        self.delivered = self._by_level("falconq_delivered_messages_total", "Messages delivered by this node.")
        self.acked = self._counter("falconq_acked_messages_total", "Leased messages acknowledged through this node.")
        self.nacked = self._counter("falconq_nacked_messages_total", "Leased messages given back through this node.")
        self.rejected = self._counter("falconq_rejected_messages_total", "Leased messages rejected through this node.")
        self.changed = self._counter(
            "falconq_changed_messages_total", "Messages given another priority or time through this node."
        )
        self.cancelled = self._counter("falconq_cancelled_messages_total", "Messages cancelled through this node.")
        self.expired_leases = self._counter(
            "falconq_expired_leases_total", "Messages that this node gave again since their lease had ended by time."
        )
        self.held = self._gauge(
            "falconq_held_messages",
            "Messages in the hands of consumers, leased or to be given again; equal on all nodes.",
        )
        self.trimmed = self._counter("falconq_trimmed_messages_total", "On the leader: messages no longer kept.")
        self.trimmed_bytes = self._counter("falconq_trimmed_bytes_total", "On the leader: their bytes.")
        self.lost = self._counter(
            "falconq_lost_messages_total",
            "Messages trimmed before a consumer had settled them, as this node has noticed; about equal on all nodes.",
        )
        self.dead_letters = self._counter(
            "falconq_dead_letters_total", "On the leader: messages that went to the dead letters."
        )
        self.expired_messages = self._counter(
            "falconq_expired_messages_total",
            "On the leader: messages that a consumer was not given because their time to live was over.",
        )
        self.dedupe_keys = self._gauge("falconq_dedupe_remembered_keys", "Keys and producers that are remembered.")

    def _broker(self) -> None:
        self.commands = self._counter("falconq_broker_commands_total", "Commands that this node made for its clients.")
        self.operations = self._counter(
            "falconq_broker_operations_total", "Operations in those commands; messages that arrive together share one."
        )
        self.rewinds = self._counter("falconq_broker_rewinds_total", "Times that commands were sent again.")
        self.repeats = self._counter(
            "falconq_broker_repeats_total", "On the leader: commands that came again and were in the log already."
        )
        self.unknown_outcomes = self._counter(
            "falconq_broker_unknown_outcomes_total", "Operations whose client was told that the outcome is unknown."
        )
        self.expired = self._counter(
            "falconq_broker_expired_operations_total", "Operations whose deadline passed before they were sent."
        )
        self.overloaded = self._counter(
            "falconq_broker_refused_operations_total", "Operations refused because too many wait already."
        )
        self.pulls = self._counter("falconq_broker_pulls_total", "Pulls that this node proposed.")
        self.empty_pulls = self._counter(
            "falconq_broker_empty_pulls_total", "Pulls that found nothing when they were applied."
        )
        self.linearizable_reads = self._counter(
            "falconq_broker_linearizable_reads_total", "Reads on this node that asked to be linearizable."
        )
        self.read_rounds = self._counter(
            "falconq_broker_read_rounds_total", "Questions to the leader for them; reads that come together share one."
        )
        self.waiting = self._gauge("falconq_broker_waiting_operations", "Operations that wait to be sent.")
        self.outstanding = self._gauge("falconq_broker_outstanding_commands", "Own commands that aren't applied yet.")
        self.polls = self._gauge("falconq_broker_waiting_polls", "Consume requests that wait for a message.")

    def _consumers(self) -> None:
        labels = ["shard", "topic", "consumer", "level"]
        self._lag = Gauge(
            "falconq_consumer_lag_messages",
            "On the leader: messages that the consumer was not given yet.",
            labels,
            registry=self._registry,
        )
        self._oldest_age = Gauge(
            "falconq_consumer_oldest_age_seconds",
            "On the leader: how long ago the oldest of them was published; 0 when there is none.",
            labels,
            registry=self._registry,
        )
        self.unshown_consumers = self._gauge(
            "falconq_consumer_unshown_consumers", "On the leader: consumers beyond what one scrape looks up."
        )

    def forget_consumers(self) -> None:
        """Show no consumer, until each is shown anew."""
        self._lag.clear()
        self._oldest_age.clear()

    def show_consumer(self, topic: str, consumer: str, level: int, *, lag_count: int, oldest_age_s: float) -> None:
        """One level of one consumer as it stands now."""
        labels = self._shard, topic, consumer, str(level)
        self._lag.labels(*labels).set(lag_count)
        self._oldest_age.labels(*labels).set(oldest_age_s)

    def _raft(self) -> None:
        self.term = self._gauge("falconq_raft_current_term", "The term.")
        self.is_leader = self._gauge("falconq_raft_is_leader", "1 on the leader, else 0.")
        self.commit_index = self._gauge("falconq_raft_commit_index", "Last committed index.")
        self.applied_index = self._gauge("falconq_raft_applied_index", "Last applied index.")
        self.elections = self._counter("falconq_raft_elections_total", "Elections that this node began.")
        self.snapshots_sent = self._counter("falconq_raft_sent_snapshots_total", "Snapshots sent whole.")
        self.snapshots_installed = self._counter("falconq_raft_installed_snapshots_total", "Snapshots installed.")
        self.members = self._gauge("falconq_raft_configured_members", "Members of the cluster, this node too.")
        self.peers_connected = self._gauge("falconq_raft_connected_peers", "Other members that are connected.")
        self.is_ready = self._gauge("falconq_node_is_ready", "1 while /readyz says that this node serves, else 0.")
        self.log_time_skew = self._gauge(
            "falconq_raft_log_time_skew_seconds", "Log time minus the wall clock of this node."
        )

    def _disk(self) -> None:
        self.journal_syncs = self._counter("falconq_journal_syncs_total", "Journal groups synced (fdatasync).")
        self.journal_sync_latency = Histogram(
            "falconq_journal_sync_seconds",
            "Time to write and sync a group.",
            ["shard"],
            buckets=SYNC_BUCKETS,
            registry=self._registry,
        ).labels(self._shard)
        self.journal_bytes = self._gauge("falconq_journal_size_bytes", "Journal files on disk.")
        self.store_bytes = self._gauge("falconq_store_size_bytes", "Store files on disk.")
        self.disk_free = self._gauge("falconq_disk_free_bytes", "What the data directory's file system has left.")
        self.disk_size = self._gauge("falconq_disk_size_bytes", "Size of that file system.")

    def _by_level(self, name: str, meaning: str) -> list[Counter]:
        """One counter for each level that a topic can have; all are shown from the start."""
        counter = Counter(name, meaning, ["shard", "level"], registry=self._registry)
        return [counter.labels(self._shard, str(level)) for level in range(LEVELS_MAX)]

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, ["shard"], registry=self._registry).labels(self._shard)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, ["shard"], registry=self._registry).labels(self._shard)

    def before_scrape(self, update: Callable[[], None]) -> None:
        """Run `update` before each scrape: for gauges that are cheaper to read than to keep."""
        self._before_scrape.append(update)

    def scrape(self) -> bytes:
        """All metrics in Prometheus' text format."""
        for update in self._before_scrape:
            update()
        return generate_latest(self._registry)
