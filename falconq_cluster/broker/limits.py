"""How much the broker holds at once, and what it counts.

What lives here: the limits with their defaults, and the counters that telemetry reads.
Rules: every queue of the broker is bounded by one of these; at a bound there is an early, clear refusal. Limits
are of one node: members may differ.
Must not know: where the values come from, Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from falconq_cluster.machine.capacity import Capacity
from falconq_cluster.machine.commands import Leased, Range, Result, SettleItem, SettleKind
from falconq_cluster.machine.topics import LEVELS_MAX

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """The bounds of one node's broker."""

    command_bytes_max: int = MIB
    """A command takes no more operations once it has this many bytes."""
    operation_bytes_max: int = 4 * MIB - 65_536
    """One operation must fit a command of 4 MiB, with the command's head and keys (P12)."""
    command_operations_max: int = 500
    command_keys_max: int = 980
    """Keys that a command may write, of the 1,000 that P12 allows; the rest is for its own records."""
    outstanding_commands_max: int = 8
    """Commands that are sequenced and not applied; what comes meanwhile gathers for the next one."""
    outstanding_bytes_max: int = 16 * MIB
    waiting_operations_max: int = 20_000
    """Operations without a sequence."""
    waiting_bytes_max: int = 64 * MIB
    merge_count_max: int = 256
    """Messages of one record batch: whoever reads one message reads its batch."""
    merge_bytes_max: int = 65_536
    pull_bytes_max: int = 4 * MIB
    """Bytes of messages in one answer; one message always fits."""
    polls_max: int = 10_000
    """Consumes that wait for messages."""
    index_waits_max: int = 10_000
    searches_max: int = 1_000
    """Requests that look for a message by its id, or wait until others have found theirs."""
    no_leader_wait_ms: int = 5_000
    """Requests wait this long for an election; then writes are refused at once until there is a leader."""
    fresh_wait_ms: int = 1_000
    """How long an empty answer waits for the leader's word that it is not stale."""
    expiry_allowance_ms: int = 250
    """How much later than its client's deadline an operation still takes effect: what two clocks may differ."""
    resend_ms: int = 1_000
    """Outstanding commands without progress for so long are sent again; then after twice as long, up to 8 times."""
    open_retry_ms: int = 500
    """An origin's opening that is not applied after so long is proposed again."""
    stream_heartbeat_ms: int = 10_000
    """An event stream says something at least so often, so that its client and all between know that it lives."""
    trim_interval_ms: int = 20
    """The least time between two commands that trim deleted topics: clients come first."""
    reap_interval_ms: int = 1_000
    """How often the leader looks for consumers that have something due by time alone."""
    retention_interval_ms: int = 500
    """The least time between two looks at topics for what became old or was settled."""
    auto_create: bool = True
    """Publishing creates a missing topic."""
    capacity: Capacity = field(default_factory=Capacity)
    """How much the state may hold as far as requests of this node go; its commands say so."""


def _ignore(_value: int) -> None:
    return


@dataclass(slots=True)
class BrokerMetrics:
    """What happened since the start; plain numbers that telemetry reads, and hooks for distributions."""

    command_count: int = 0
    """Commands sealed here."""
    operation_count: int = 0
    """Operations in them, after merging."""
    published_counts: list[int] = field(default_factory=lambda: [0] * LEVELS_MAX)
    """Messages appended for clients of this node, by level."""
    duplicate_count: int = 0
    """Publishes that repeated an earlier one."""
    delivered_counts: list[int] = field(default_factory=lambda: [0] * LEVELS_MAX)
    """Messages handed to clients of this node, by level."""
    acked_count: int = 0
    nacked_count: int = 0
    rejected_count: int = 0
    lease_expired_count: int = 0
    """Messages given again since their lease had ended by time."""
    trimmed_count: int = 0
    """Leader: messages that topics stopped keeping."""
    trimmed_bytes: int = 0
    changed_count: int = 0
    """Messages changed for clients of this node."""
    cancelled_count: int = 0
    pull_count: int = 0
    """Pulls proposed."""
    pull_empty_count: int = 0
    """Pulls that found nothing when they were applied."""
    forward_count: int = 0
    """Commands sent to a leader elsewhere, repeats included."""
    rewind_count: int = 0
    repeat_count: int = 0
    """Leader: forwarded commands dropped because they were in the log already."""
    gap_count: int = 0
    """Leader: forwarded commands dropped because an earlier one is missing."""
    overloaded_count: int = 0
    expired_message_count: int = 0
    """Leader: messages that a consumer was not given because their time to live was over."""
    dead_letter_count: int = 0
    """Messages that went to the dead letters while this node led."""
    unknown_outcome_count: int = 0
    expired_count: int = 0
    """Operations whose deadline passed before they got a sequence."""
    resubmitted_count: int = 0
    """Operations that were sealed under an epoch that ended before they were applied."""
    fresh_round_count: int = 0
    linearizable_count: int = 0
    """Reads that asked to be linearizable."""
    read_round_count: int = 0
    """Questions to a leader for them; reads that come together share one."""
    observe_messages_per_command: Callable[[int], None] = _ignore
    observe_commit_ms: Callable[[int], None] = _ignore
    """From sealing a command to applying it here."""

    def count_delivered(self, ranges: Sequence[Range], result: Result) -> None:
        """A pull was answered with these."""
        for found in ranges:
            self.delivered_counts[found.level] += found.count
        if isinstance(result, Leased):
            self.lease_expired_count += result.expired_count

    def count_settled(self, items: Sequence[SettleItem], failed: Collection[int]) -> None:
        """These leases were settled, but for those at the places that failed."""
        kinds = [item.kind for place, item in enumerate(items) if place not in failed]
        self.acked_count += kinds.count(SettleKind.ACK)
        self.nacked_count += kinds.count(SettleKind.NACK)
        self.rejected_count += kinds.count(SettleKind.REJECT)
