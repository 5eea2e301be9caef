"""The bounds of the state.

What lives here: every limit that is judged while the log is applied, with its value.
Rules: all nodes decide by the same ones, so none is a node's setting by itself (machine/capacity.py).
Must not know: who is refused, and how.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Bounds of the state, the same on all nodes, and changed only by a version command (P18).

    A command may say others for those that are a matter of capacity (machine/capacity.py).
    """

    topics_max: int = 100_000
    """Deleted ones count until they are trimmed, and so do deleted consumers."""
    deletions_max: int = 100_000
    """With more to be trimmed, no consumer is deleted or moved."""
    partitions_per_topic_max: int = 256
    """A pull over all partitions looks at each, and may move a cursor in each."""
    trim_keys_max: int = 500
    """Keys that one command takes out of the store: below P12's 1,000, since a turn shall not last 5 ms."""
    trim_bytes_max: int = 2 * 1024 * 1024
    """P12: it takes no more keys once their records have so many bytes, since a scan of keys reads what is between."""
    move_count_max: int = 200
    """Messages that one entry moves to the dead letters or back: a key or two each (P12)."""
    move_bytes_max: int = 2 * 1024 * 1024
    """Read and written for it; one message alone may be larger."""
    amend_bytes_max: int = 2 * 1024 * 1024
    """Of the record batches out of which one entry takes messages; one batch alone may be larger."""
    trim_batches_max: int = 400
    """Record batches of which one command trims something: each may be of another partition, whose row is a key."""
    aside_max: int = 100
    """Messages that one entry sets aside for consumers with an order: a key each (P12)."""
    consumers_per_topic_max: int = 10_000
    """The deletion of a topic looks at each."""
    attempts_per_consumer_max: int = 16
    attempt_ms: int = 300_000
    """How long an attempt is remembered, in log time. Published."""
    pull_count_max: int = 1000
    """P12: the ranges of one pull stay small enough for one command."""
    lease_count_max: int = 400
    """Messages that one LeasePull hands out, and leases that one Settle names: a key each (P12)."""
    held_per_consumer_max: int = 50_000
    """Messages that a consumer may have in hand: about 25 MB of memory."""
    held_max: int = 300_000
    """Of all consumers: about 150 MB of memory."""
    append_parts_max: int = 400
    """Record batches of one AppendMany: two keys each (P12)."""
    delayed_per_topic_max: int = 100_000
    """Messages that wait for their time. Published."""
    delayed_max: int = 1_000_000
    """Of all topics."""
    ripen_keys_max: int = 500
    """Keys that one Ripen writes: below P12's 1,000, since a turn shall not last 5 ms."""
    ripen_bytes_max: int = 2 * 1024 * 1024
    """A Ripen moves no more once its messages have so many bytes."""
    dedupe_per_topic_max: int = 100_000
    dedupe_max: int = 300_000
    """Of all topics: about 150 MB of memory."""
