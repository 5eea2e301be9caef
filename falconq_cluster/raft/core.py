"""The parts that the pieces of the shell share, and how they send.

What lives here: one object with the library, the journal, who counts, and the outgoing queue of promises.
Rules: a frame that promises durability (an answer to entries, a vote, a vote request) goes through `promise` and
leaves only after the sync that covers everything written before it; everything else leaves at once.
Must not know: when steps run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from falconq_cluster.clock import Clock
from falconq_cluster.raft.election import Election
from falconq_cluster.raft.frames import Frame
from falconq_cluster.raft.logtime import LogTime
from falconq_cluster.raft.membership import Membership
from falconq_cluster.raft.seams import Network

if TYPE_CHECKING:
    from falconq_cluster.raft.journal import Journal
    from falconq_cluster.raft.library import RaftLibrary
    from falconq_cluster.raft.replica import Replica


class EventLog(Protocol):
    """Takes events by stable name, with fields."""

    def __call__(self, event: str, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True)
class RaftTimes:
    """Limits of the shell; defaults are those of docs/configuration.md."""

    heartbeat_ms: int = 50
    election_timeout_min_ms: int = 300
    election_timeout_max_ms: int = 600
    leader_fallback_ms: int = 1000
    sync_stall_ms: int = 800
    flush_entries: int = 50_000
    """The store is flushed when this many entries were applied since the last flush."""
    journal_bytes_max: int = 256 * 1024 * 1024
    """The store is flushed, and the journal cut to what is needed, when it grows beyond this."""
    journal_keep_entries: int = 10_000
    """Entries kept behind the flushed index for followers that are a little behind."""
    snapshot_chunk_bytes: int = 256 * 1024
    uncommitted_entries_max: int = 1024
    """The leader takes no commands while this many entries wait for their commit."""
    step_bytes_max: int = 8 * 1024 * 1024
    apply_entries_max: int = 128
    """Entries applied in one turn of the loop."""


@dataclass(slots=True)
class RaftCounters:
    """What happened since the start; read by telemetry."""

    elections_won: int = 0
    campaigns: int = 0
    step_downs: int = 0
    syncs: int = 0
    sync_ms_total: int = 0
    entries_appended: int = 0
    entries_applied: int = 0
    snapshots_served: int = 0
    snapshots_installed: int = 0
    flushes: int = 0
    stale_terms: int = 0


@dataclass(slots=True)
class Core:
    """What replication, voting and the driver work on."""

    node_id: str
    others: tuple[str, ...]
    times: RaftTimes
    clock: Clock
    chance: random.Random
    network: Network
    membership: Membership
    election: Election
    log_time: LogTime
    journal: Journal
    replica: Replica
    log: EventLog
    request_step: Callable[[], None]
    counters: RaftCounters = field(default_factory=RaftCounters)
    promises: list[tuple[str, Frame]] = field(default_factory=list)
    library: RaftLibrary = field(init=False)

    def send(self, peer: str, frame: Frame) -> None:
        """Send at once: the frame promises nothing."""
        self.network.send(peer, frame)

    def promise(self, peer: str, frame: Frame) -> None:
        """Send after the next sync: the frame says that something is on this node's disk."""
        self.promises.append((peer, frame))

    def send_to_others(self, frame: Frame) -> None:
        """Send to every connected member."""
        for peer in self.others:
            if self.network.is_connected(peer):
                self.network.send(peer, frame)
