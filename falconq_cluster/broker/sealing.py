"""How waiting operations become a command's operations.

What lives here: the merging of single appends, the time at which operations expire, and how many keys they write.
Rules: only appends that differ in nothing but their records are merged, and their times to expire are equal after
rounding up: so one judgement of the machine is exact for each of them. An append that is to happen once stands alone.
Order within a (topic, partition, level) is the order of submission.
Must not know: sequences, epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.waiters import Waiter
from falconq_cluster.machine.amending import AMEND_KEYS_MAX
from falconq_cluster.machine.amends import AmendOperation
from falconq_cluster.machine.appends import AppendMany
from falconq_cluster.machine.capacity import Capacity, Within
from falconq_cluster.machine.commands import (
    Append,
    AppendOnce,
    ClientOperation,
    LeasePull,
    Settle,
    SettleKind,
    TopicOperation,
)
from falconq_cluster.machine.deduping import KEYS_PER_APPEND_MAX
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.subscriptions import ConsumerOperation, OpenStream, Redrive

EXPIRY_GRAIN_MS = 250
"""Times to expire are rounded up to it, so that requests of one moment can be merged."""


@dataclass(slots=True)
class SealedOperation:
    """An operation of a command, and who waits for its result."""

    operation: ClientOperation | Within
    waiters: list[Waiter]
    """One, or one for each message of a merged append; nobody waits for what the node says of itself."""


_ATTEMPTS_MAX = MachineLimits().attempts_per_consumer_max
"""A pull may drop so many that are over."""
_MOVED_MAX = MachineLimits().move_count_max
_PARTITIONS_MAX = MachineLimits().partitions_per_topic_max
_LEASES_MAX = MachineLimits().lease_count_max
"""Of one lease pull."""


class KeyCount:
    """Counts the keys that operations write at most, together (P12)."""

    def __init__(self) -> None:
        self.count = 0
        self._seen: set[tuple[str, str | int]] = set()

    def add(self, operation: ClientOperation, partitions: int) -> None:
        if isinstance(operation, TopicOperation):
            # The topic, and the deletion. A purge has the partitions, in a command of its own.
            self.count += 2
            return
        if isinstance(operation, ConsumerOperation):
            # The consumer, the deletion, and cursors.
            self.count += 2 + partitions
            return
        if isinstance(operation, OpenStream):
            # The consumer, and leases of earlier streams.
            self.count += 1 + _LEASES_MAX
            return
        if isinstance(operation, Settle):
            # A lease each, and cursors where it was trimmed, and the consumer; of a dead message a batch, its
            # partition and that it was buried, and their topic and consumer.
            dead_count = sum(item.kind in (SettleKind.NACK, SettleKind.REJECT) for item in operation.items)
            self.count += 2 * len(operation.items) + 1 + 3 * min(dead_count, _MOVED_MAX) + (2 if dead_count else 0)
            return
        if isinstance(operation, Redrive):
            # A batch and its partition each, the cursors, the topic and the consumer.
            self.count += 2 * _MOVED_MAX + _PARTITIONS_MAX + 2
            return
        if isinstance(operation, AmendOperation):
            self.count += AMEND_KEYS_MAX
            return
        if isinstance(operation, AppendMany):
            # A batch and perhaps a partition each, and the topic.
            self.count += 2 * len(operation.parts) + 1 + KEYS_PER_APPEND_MAX
            return
        if isinstance(operation, Append):
            # The batch; and once each, the partition and perhaps the topic.
            group: tuple[str, str | int] = (operation.topic, operation.partition)
            once, each = 2, 1 + KEYS_PER_APPEND_MAX if isinstance(operation, AppendOnce) else 1
        elif isinstance(operation, LeasePull):
            # The consumer, and a lease a message; and once each, cursors. No name of a consumer begins with a slash.
            group = (operation.topic, f"/{operation.consumer}")
            once, each = partitions, 1 + min(operation.count_max, _LEASES_MAX)
        else:
            # The consumer, an attempt and the one it displaces; and once each, cursors and attempts that are over.
            group = (operation.topic, operation.consumer)
            once, each = partitions + _ATTEMPTS_MAX, 3 if operation.attempt else 1
        if group not in self._seen:
            self._seen.add(group)
            self.count += once
        self.count += each


_Place = tuple[str, int, int]
"""(topic, partition, level)."""


def seal(waiters: Sequence[Waiter], limits: BrokerLimits, *, log_time_ms: int, now_ms: int) -> list[SealedOperation]:
    """The operations of one command for all the waiters, with their times to expire (P10).

    What this node says of its limits goes before them.
    """
    sealed: list[SealedOperation] = []
    # The last append of each place: an earlier one would put a message before those that came first.
    open_merges: dict[_Place, _Merge] = {}
    merges: list[_Merge] = []
    for waiter in waiters:
        remaining_ms = max(0, waiter.deadline_ms - now_ms) + limits.expiry_allowance_ms
        not_after_ms = -(-(log_time_ms + remaining_ms) // EXPIRY_GRAIN_MS) * EXPIRY_GRAIN_MS
        operation = waiter.operation
        if not isinstance(operation, Append):
            if isinstance(operation, AppendMany):
                for part in operation.parts:
                    open_merges.pop((operation.topic, part.partition, part.level), None)
            sealed.append(SealedOperation(replace(operation, not_after_ms=not_after_ms), [waiter]))
            continue
        place = (operation.topic, operation.partition, operation.level)
        if operation.count > 1 or isinstance(operation, AppendOnce):
            open_merges.pop(place, None)
            sealed.append(SealedOperation(replace(operation, not_after_ms=not_after_ms), [waiter]))
            continue
        merge = open_merges.get(place)
        if merge is None or not merge.takes(operation, not_after_ms, limits):
            merge = _Merge(SealedOperation(operation, []), [], 0, not_after_ms)
            open_merges[place] = merge
            merges.append(merge)
            sealed.append(merge.sealed)
        merge.add(operation, waiter)
    for merge in merges:
        merge.close()
    if limits.capacity != Capacity():
        sealed.insert(0, SealedOperation(Within(limits.capacity), []))
    return sealed


@dataclass(slots=True)
class _Merge:
    """An append that grows while the command is put together."""

    sealed: SealedOperation
    records: list[bytes]
    size_bytes: int
    not_after_ms: int

    def takes(self, operation: Append, not_after_ms: int, limits: BrokerLimits) -> bool:
        first = self.sealed.operation
        return (
            isinstance(first, Append)
            and first.may_create == operation.may_create
            and self.not_after_ms == not_after_ms
            and len(self.records) < limits.merge_count_max
            and self.size_bytes + len(operation.records) <= limits.merge_bytes_max
        )

    def add(self, operation: Append, waiter: Waiter) -> None:
        self.records.append(operation.records)
        self.size_bytes += len(operation.records)
        self.sealed.waiters.append(waiter)

    def close(self) -> None:
        operation = self.sealed.operation
        assert isinstance(operation, Append)
        self.sealed.operation = _append_until(operation, self.records, self.not_after_ms)


def _append_until(operation: Append, records: list[bytes], not_after_ms: int) -> Append:
    return Append(
        not_after_ms=not_after_ms,
        topic=operation.topic,
        partition=operation.partition,
        level=operation.level,
        count=operation.count if len(records) == 1 else len(records),
        records=records[0] if len(records) == 1 else b"".join(records),
        may_create=operation.may_create,
    )
