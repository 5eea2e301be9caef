"""Lease pulls: a consumer is handed messages for a time, and settles them.

What lives here: the LeasePull and Settle operations.
Rules: the most urgent level goes first; of a level, what is to be given again goes before what is fresh. A message in
hand is leased to one worker at a time: whoever settles it names its place and the nonce of the pull that handed it out,
while log time has not reached the end of the lease. A settled message is never given again. A nack with a priority
changes only where the message stands among those that are given again (PROTOCOL.md P14). Each message in hand is one
key, so an operation writes no more keys than it has messages (P12).
Must not know: what is in a message, who waits.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    Leased,
    LeasedRange,
    LeasePull,
    LeaseSettled,
    Range,
    Refused,
    Settle,
    SettleItem,
    SettleKind,
)
from falconq_cluster.machine.consumers import create_consumer, refusal_of_new
from falconq_cluster.machine.holdings import Held, Phase
from falconq_cluster.machine.rows import LeaseRow
from falconq_cluster.machine.scheduling import ALL_PARTITIONS, Demand, take_fresh
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.turn import Turn

NONCE_BYTES = 16
LEASE_MS_MIN = 100
LEASE_MS_MAX = 43_200_000
NACK_DELAY_MS_MAX = 604_800_000


def lease_pull(turn: Turn, operation: LeasePull) -> Leased | Refused:
    """Hands out messages, or changes nothing."""
    topic = turn.state.topics.get(operation.topic)
    if topic is None or turn.is_expired(operation.not_after_ms):
        return _refused_early(turn, operation.not_after_ms, operation.topic)
    consumer = topic.consumers.get(operation.consumer)
    refusal = _refusal(turn, operation, topic, consumer)
    if refusal is not None:
        return refusal
    if consumer is None:
        consumer = create_consumer(turn, topic, operation.consumer)
    consumer.holdings.advance(turn.log_time_ms)
    handing = _Handing(turn, topic, consumer, operation)
    for level in reversed(range(operation.level_min, len(topic.config.levels))):
        handing.take_ready(level)
        handing.take_fresh(level)
    if handing.is_held_up and not handing.ranges:
        count = len(consumer.holdings)
        return Refused("leases_full", f"consumer {consumer.name!r} has {count} messages in hand; settle some first")
    return Leased(topic.name, consumer.name, handing.ranges, operation.nonce, handing.expires_ms)


def settle(turn: Turn, operation: Settle) -> LeaseSettled | Refused:
    """Judges the items in their order, each alone."""
    topic = turn.state.topics.get(operation.topic)
    if topic is None or turn.is_expired(operation.not_after_ms):
        return _refused_early(turn, operation.not_after_ms, operation.topic)
    if len(operation.items) > turn.limits.lease_count_max:
        return Refused("bad_request", f"at most {turn.limits.lease_count_max} leases are settled at a time")
    consumer = topic.consumers.get(operation.consumer)
    if consumer is not None:
        consumer.holdings.advance(turn.log_time_ms)
    failed: list[tuple[int, str, str]] = []
    for place, item in enumerate(operation.items):
        held = None if consumer is None else consumer.holdings.get(item.partition, item.offset)
        if consumer is None or held is None or held.phase is not Phase.LEASED or held.row.nonce != item.nonce:
            failed.append((place, "lease_lost", "the lease was settled, or its time is over"))
            continue
        mistake = _mistake(item, len(topic.config.levels))
        if mistake is not None:
            failed.append((place, "bad_request", mistake))
            continue
        _settle_one(turn, topic, consumer, held, item)
    return LeaseSettled(len(operation.items) - len(failed), failed)


def _refused_early(turn: Turn, not_after_ms: int, topic: str) -> Refused:
    if turn.is_expired(not_after_ms):
        return Refused("expired", f"the time ran out at {not_after_ms}, it is {turn.log_time_ms}")
    return Refused("topic_not_found", f"there is no topic {topic[:200]!r}")


def _refusal(turn: Turn, operation: LeasePull, topic: TopicState, consumer: ConsumerState | None) -> Refused | None:
    if operation.count_max < 1 or operation.in_flight_max < 1:
        return Refused("bad_request", "a pull takes at least 1 message, and allows at least 1 in flight")
    if len(operation.nonce) != NONCE_BYTES:
        return Refused("bad_request", f"a nonce has {NONCE_BYTES} bytes, not {len(operation.nonce)}")
    if not LEASE_MS_MIN <= operation.lease_ms <= LEASE_MS_MAX:
        return Refused("bad_request", f"a lease takes {LEASE_MS_MIN} to {LEASE_MS_MAX} ms, not {operation.lease_ms}")
    if not 0 <= operation.level_min < len(topic.config.levels):
        return Refused("unknown_priority", f"topic {topic.name!r} has no level {operation.level_min}")
    return None if consumer is not None else refusal_of_new(turn, topic, operation.consumer)


class _Handing:
    """What one pull hands out so far, and how much more it may."""

    def __init__(self, turn: Turn, topic: TopicState, consumer: ConsumerState, operation: LeasePull) -> None:
        self._turn, self._topic, self._consumer = turn, topic, consumer
        self._nonce = operation.nonce
        self.expires_ms = turn.log_time_ms + operation.lease_ms
        in_flight_left = operation.in_flight_max - consumer.holdings.leased_count
        self._count_left = min(operation.count_max, turn.limits.lease_count_max, in_flight_left)
        self._bytes_left = operation.bytes_max
        self.ranges: list[LeasedRange] = []
        self.is_held_up = False
        """Whether something fresh was not given because the consumer has too much in hand."""

    @property
    def _is_full(self) -> bool:
        return self._count_left < 1 or (bool(self.ranges) and self._bytes_left < 1)

    def take_ready(self, priority: int) -> None:
        """Hand out again what waits with this priority."""
        holdings = self._consumer.holdings
        while not self._is_full:
            held = holdings.first_ready(priority)
            if held is None:
                return
            row = held.row
            if self.ranges and row.size_bytes > self._bytes_left:
                self._bytes_left = 0
                return
            # A lease that ended by time is a delivery that failed.
            failed_count = row.failed_count + (1 if row.nonce else 0)
            self._hand_out(
                Range(held.partition, row.level, row.batch_offset, held.offset, 1),
                LeaseRow(
                    level=row.level,
                    batch_offset=row.batch_offset,
                    size_bytes=row.size_bytes,
                    priority=row.priority,
                    failed_count=failed_count,
                    acquired_count=row.acquired_count + 1,
                    nonce=self._nonce,
                    until_ms=self.expires_ms,
                    backoff_ms=0,
                ),
            )

    def take_fresh(self, level: int) -> None:
        """Hand out what the cursors have not passed of this level or a more urgent one."""
        if self._is_full:
            return
        topic, consumer = self._topic, self._consumer
        count = min(self._count_left, self._turn.limits.held_per_consumer_max - len(consumer.holdings))
        if count < 1:
            self.is_held_up = self.is_held_up or self._has_fresh(level)
            return
        demand = Demand(ALL_PARTITIONS, count, self._bytes_left, level)
        for found in take_fresh(self._turn, topic, consumer, demand).ranges:
            state = topic.partitions[found.partition].levels[found.level]
            batch = state.first_batch(self._turn.reader, found.batch_offset)
            row = LeaseRow(
                level=found.level,
                batch_offset=found.batch_offset,
                size_bytes=-(-batch.size // batch.record_count),
                priority=found.level,
                failed_count=0,
                acquired_count=1,
                nonce=self._nonce,
                until_ms=self.expires_ms,
                backoff_ms=0,
            )
            self._hand_out(found, row)

    def _has_fresh(self, level: int) -> bool:
        return any(
            self._consumer.cursors_of(partition)[level].delivered_count < partition.levels[level].appended_count
            for partition in self._topic.partitions
        )

    def _hand_out(self, messages: Range, row: LeaseRow) -> None:
        for offset in range(messages.offset, messages.offset + messages.count):
            _put(self._turn, self._topic, self._consumer, (messages.partition, offset), row)
        self.ranges.append(LeasedRange(messages, row.failed_count + 1, row.acquired_count))
        self._count_left -= messages.count
        self._bytes_left -= messages.count * row.size_bytes


def _mistake(item: SettleItem, level_count: int) -> str | None:
    if item.kind is SettleKind.EXTEND and not LEASE_MS_MIN <= item.ms <= LEASE_MS_MAX:
        return f"a lease is extended by {LEASE_MS_MIN} to {LEASE_MS_MAX} ms, not {item.ms}"
    if item.kind is SettleKind.NACK and not 0 <= item.ms <= NACK_DELAY_MS_MAX:
        return f"a message is given back for 0 to {NACK_DELAY_MS_MAX} ms, not {item.ms}"
    if not -1 <= item.priority < level_count:
        return f"the topic has levels 0 to {level_count - 1}, not {item.priority}"
    return None


def _settle_one(turn: Turn, topic: TopicState, consumer: ConsumerState, held: Held, item: SettleItem) -> None:
    place, row = (held.partition, held.offset), held.row
    now_ms = turn.log_time_ms
    match item.kind:
        case SettleKind.ACK:
            consumer.holdings.drop(*place)
            turn.delete(keys.lease_key(topic.number, consumer.number, *place))
        case SettleKind.EXTEND:
            _put(turn, topic, consumer, place, replace(row, until_ms=now_ms + item.ms))
        case SettleKind.RELEASE:
            _put(turn, topic, consumer, place, replace(row, nonce=b"", until_ms=now_ms))
        case SettleKind.NACK:
            priority = row.priority if item.priority < 0 else item.priority
            failed_count = row.failed_count + 1
            until_ms = now_ms + item.ms
            waiting = replace(row, nonce=b"", until_ms=until_ms, priority=priority, failed_count=failed_count)
            _put(turn, topic, consumer, place, waiting)


def _put(turn: Turn, topic: TopicState, consumer: ConsumerState, place: tuple[int, int], row: LeaseRow) -> None:
    consumer.holdings.put(*place, row)
    turn.put(keys.lease_key(topic.number, consumer.number, *place), row)
