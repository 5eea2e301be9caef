"""Lease pulls: a consumer is handed messages for a time, and settles them.

What lives here: the LeasePull and Settle operations.
Rules: what is given is the scheduler's choice, in which what is to be given again counts as a delivery of the level
that it has as its priority. A message in hand is leased to one worker at a time: whoever settles it names its place and
the nonce of the pull that handed it out, while log time has not reached the end of the lease. A settled message is
never given again. A nack with a priority changes only where the message stands among those that are given again
(PROTOCOL.md P14). Each message in hand is one key, so an operation writes no more keys than it has messages (P12).
Must not know: what is in a message, who waits.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.burying import REASON_CHARS_MAX, TOO_OFTEN, Burial
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
from falconq_cluster.machine.consumers import (
    create_consumer,
    drop_if_trimmed,
    drop_in_hand,
    in_flight_max_of,
    lease_ms_of,
    put_in_hand,
    refusal_of_new,
    used,
)
from falconq_cluster.machine.events import HoldingsChanged, LeftUndone
from falconq_cluster.machine.holdings import Held, Phase
from falconq_cluster.machine.queueing import Taken
from falconq_cluster.machine.rows import LeaseRow
from falconq_cluster.machine.scheduling import ALL_PARTITIONS, Demand, take_next
from falconq_cluster.machine.settings import LEASE_MS_MAX, LEASE_MS_MIN, RETURN_MS_MAX
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import Ordering, StreamKind
from falconq_cluster.machine.turn import Turn

NONCE_BYTES = 16
_LOST = "the lease was settled, or its time is over"
REJECTED = "rejected"
"""The reason of what was rejected without one."""


def lease_pull(turn: Turn, operation: LeasePull) -> Leased | Refused:
    """Hands out messages, or changes nothing."""
    topic = turn.state.topics.get(operation.topic)
    if topic is None or turn.is_expired(operation.not_after_ms):
        return refused_early(turn, operation.not_after_ms, operation.topic)
    consumer = topic.consumers.get(operation.consumer)
    refusal = _refusal(turn, operation, topic, consumer)
    if refusal is not None:
        return refusal
    if consumer is None:
        consumer = create_consumer(turn, topic, operation.consumer)
    used(turn, topic, consumer)
    advance(turn, topic, consumer)
    if consumer.is_paused:
        return Leased(topic.name, consumer.name, [], operation.nonce, 0)
    taken = _choose(turn, topic, consumer, operation)
    if isinstance(taken, Refused):
        return taken
    expires_ms = 0 if operation.auto_commit else turn.log_time_ms + (operation.lease_ms or lease_ms_of(topic, consumer))
    first_number = consumer.delivery_number + 1 if operation.stream else 0
    leasing = _Leasing(turn, topic, consumer, operation.nonce, expires_ms, first_number, taken.lanes)
    ranges = [leasing.hand_out(found, taken.returned.get((found.partition, found.offset))) for found in taken.ranges]
    if ranges or taken.aside_count:
        turn.events.append(HoldingsChanged(topic.name, consumer.name))
    if ranges and operation.stream:
        consumer.delivery_number += sum(found.count for found in taken.ranges)
        turn.consumer_changed(topic, consumer)
    expired_count = sum(1 for row in taken.returned.values() if row.nonce)
    return Leased(topic.name, consumer.name, ranges, operation.nonce, expires_ms, first_number, expired_count)


def settle(turn: Turn, operation: Settle) -> LeaseSettled | Refused:
    """Judges the items in their order, each alone."""
    topic = turn.state.topics.get(operation.topic)
    if topic is None or turn.is_expired(operation.not_after_ms):
        return refused_early(turn, operation.not_after_ms, operation.topic)
    if len(operation.items) > turn.limits.lease_count_max:
        return Refused("bad_request", f"at most {turn.limits.lease_count_max} leases are settled at a time")
    consumer = topic.consumers.get(operation.consumer)
    if consumer is None:
        return LeaseSettled(0, [(place, "lease_lost", _LOST) for place in range(len(operation.items))])
    used(turn, topic, consumer)
    advance(turn, topic, consumer)
    burial = Burial(turn, topic, consumer)
    failed: list[tuple[int, str, str]] = []
    for place, item in enumerate(operation.items):
        held = consumer.holdings.get(item.partition, item.offset)
        if held is None or held.phase is not Phase.LEASED or held.row.nonce != item.nonce:
            failed.append((place, "lease_lost", _LOST))
            continue
        if drop_if_trimmed(turn, topic, consumer, held):
            failed.append((place, "lease_lost", "the message was trimmed: its topic keeps it no more"))
            continue
        mistake = _mistake(item, topic)
        if mistake is not None:
            failed.append((place, "bad_request", mistake))
            continue
        _settle_one(turn, topic, consumer, held, item, burial)
    burial.close()
    if consumer.holdings.first_dead() is not None:
        turn.events.append(LeftUndone(((topic.name, consumer.name),), ()))
    if len(failed) < len(operation.items):
        turn.events.append(HoldingsChanged(topic.name, consumer.name))
    return LeaseSettled(len(operation.items) - len(failed), failed)


def refused_early(turn: Turn, not_after_ms: int, topic: str) -> Refused:
    """Why an operation on a topic that is not there, or that came too late, does nothing."""
    if turn.is_expired(not_after_ms):
        return Refused("expired", f"the time ran out at {not_after_ms}, it is {turn.log_time_ms}")
    return Refused("topic_not_found", f"there is no topic {topic[:200]!r}")


def _refusal(turn: Turn, operation: LeasePull, topic: TopicState, consumer: ConsumerState | None) -> Refused | None:
    if operation.count_max < 1 or operation.in_flight_max < 0:
        return Refused("bad_request", "a pull takes at least 1 message, and allows at least 1 in flight")
    if len(operation.nonce) != NONCE_BYTES:
        return Refused("bad_request", f"a nonce has {NONCE_BYTES} bytes, not {len(operation.nonce)}")
    if operation.lease_ms and not LEASE_MS_MIN <= operation.lease_ms <= LEASE_MS_MAX:
        return Refused("bad_request", f"a lease takes {LEASE_MS_MIN} to {LEASE_MS_MAX} ms, not {operation.lease_ms}")
    if not 0 <= operation.level_min < len(topic.config.levels):
        return Refused("unknown_priority", f"topic {topic.name!r} has no level {operation.level_min}")
    if operation.auto_commit and consumer is not None and consumer.config.ordering is not Ordering.NONE:
        return Refused("bad_request", f"consumer {operation.consumer!r} has an order, and takes messages under leases")
    if operation.stream and (
        consumer is None or (operation.stream is StreamKind.ALONE and consumer.stream != operation.nonce)
    ):
        return Refused("lease_lost", f"the stream of consumer {operation.consumer!r} is over: another took its place")
    return None if consumer is not None else refusal_of_new(turn, topic, operation.consumer)


def advance(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    """End what is over by now in the consumer's hand."""
    if consumer.holdings.advance(turn.log_time_ms):
        turn.events.append(HoldingsChanged(topic.name, consumer.name))


def _has_fresh(topic: TopicState, consumer: ConsumerState, level_min: int) -> bool:
    return any(
        cursor.delivered_count < level.appended_count
        for partition in topic.partitions
        for cursor, level in zip(consumer.cursors_of(partition)[level_min:], partition.levels[level_min:], strict=True)
    )


def _choose(turn: Turn, topic: TopicState, consumer: ConsumerState, operation: LeasePull) -> Taken | Refused:
    holdings, limits = consumer.holdings, turn.limits
    count = fresh_max = min(operation.count_max, limits.lease_count_max)
    if not operation.auto_commit:
        count = min(count, (operation.in_flight_max or in_flight_max_of(topic, consumer)) - holdings.leased_count)
        held_left = limits.held_per_consumer_max - len(holdings)
        fresh_max = max(min(held_left, limits.held_max - turn.state.held_count.value), 0)
    if count < 1:
        return Taken()
    demand = Demand(ALL_PARTITIONS, count, operation.bytes_max, operation.level_min, fresh_max)
    taken = take_next(turn, topic, consumer, demand)
    if not taken.ranges and not fresh_max and _has_fresh(topic, consumer, operation.level_min):
        if len(holdings) >= limits.held_per_consumer_max:
            most = limits.held_per_consumer_max
            text = (
                f"consumer {consumer.name!r} has {len(holdings)} messages in hand, and held_per_consumer_max is {most}"
            )
        else:
            everywhere = turn.state.held_count.value
            text = f"all consumers have {everywhere} messages in hand, and held_max is {limits.held_max}"
        return Refused("leases_full", f"{text}; settle some, or raise it on the nodes")
    return taken


class _Leasing:
    """Hands out what was chosen."""

    def __init__(
        self,
        turn: Turn,
        topic: TopicState,
        consumer: ConsumerState,
        nonce: bytes,
        until_ms: int,
        number: int,
        lanes: dict[tuple[int, int], bytes],
    ) -> None:
        self._turn, self._topic, self._consumer = turn, topic, consumer
        self._nonce, self._until_ms = nonce, until_ms
        """The leases' end; 0 when the messages are settled at once."""
        self._number = number
        """Of the next delivery to a stream; 0 without one."""
        self._lanes = lanes

    def hand_out(self, found: Range, before: LeaseRow | None) -> LeasedRange:
        """`before` is the row of a message that is given again."""
        row = self._fresh(found) if before is None else self._again(before)
        for offset in range(found.offset, found.offset + found.count):
            place = (found.partition, offset)
            if self._until_ms and self._number:
                put_in_hand(self._turn, self._topic, self._consumer, place, replace(row, number=self._number))
                self._number += 1
            elif self._until_ms:
                put_in_hand(self._turn, self._topic, self._consumer, place, row)
            elif before is not None:
                self._turn.delete(_key(self._topic, self._consumer, place))
        return LeasedRange(found, row.failed_count + 1, row.acquired_count)

    def _fresh(self, found: Range) -> LeaseRow:
        level = self._topic.partitions[found.partition].levels[found.level]
        batch = level.first_batch(self._turn.reader, found.batch_offset)
        return LeaseRow(
            level=found.level,
            batch_offset=found.batch_offset,
            size_bytes=-(-batch.size // batch.record_count),
            priority=found.level,
            failed_count=0,
            acquired_count=1,
            nonce=self._nonce,
            until_ms=self._until_ms,
            backoff_ms=self._topic.config.retry.wait_ms(1),
            is_last=self._is_last(1),
            lane=self._lanes.get((found.partition, found.offset), b""),
            expires_ms=batch.expires_ms,
        )

    def _again(self, before: LeaseRow) -> LeaseRow:
        # A lease that ended by time is a delivery that failed.
        failed_count = before.failed_count + (1 if before.nonce else 0)
        return replace(
            before,
            failed_count=failed_count,
            acquired_count=before.acquired_count + 1,
            nonce=self._nonce,
            until_ms=self._until_ms,
            backoff_ms=self._topic.config.retry.wait_ms(failed_count + 1),
            is_last=self._is_last(failed_count + 1),
            number=0,
            is_aside=False,
        )

    def _is_last(self, delivery_count: int) -> bool:
        most = self._topic.config.deliveries_max
        return 0 < most <= delivery_count and not self._topic.is_dead_letters


def _mistake(item: SettleItem, topic: TopicState) -> str | None:
    level_count = len(topic.config.levels)
    if item.kind is SettleKind.REJECT and topic.is_dead_letters:
        return "dead letters have no dead letters of their own; ack the message, or redrive"
    if len(item.reason) > REASON_CHARS_MAX:
        return f"a reason has at most {REASON_CHARS_MAX} characters, not {len(item.reason)}"
    if item.kind is SettleKind.EXTEND and not LEASE_MS_MIN <= item.ms <= LEASE_MS_MAX:
        return f"a lease is extended by {LEASE_MS_MIN} to {LEASE_MS_MAX} ms, not {item.ms}"
    if item.kind is SettleKind.NACK and not -1 <= item.ms <= RETURN_MS_MAX:
        return f"a message is given back for 0 to {RETURN_MS_MAX} ms, not {item.ms}"
    if not -1 <= item.priority < level_count:
        return f"the topic has levels 0 to {level_count - 1}, not {item.priority}"
    return None


def _settle_one(
    turn: Turn, topic: TopicState, consumer: ConsumerState, held: Held, item: SettleItem, burial: Burial
) -> None:
    place, row = (held.partition, held.offset), held.row
    now_ms = turn.log_time_ms
    match item.kind:
        case SettleKind.ACK:
            drop_in_hand(turn, topic, consumer, held)
        case SettleKind.EXTEND:
            put_in_hand(turn, topic, consumer, place, replace(row, until_ms=now_ms + item.ms))
        case SettleKind.RELEASE:
            put_in_hand(turn, topic, consumer, place, replace(row, nonce=b"", until_ms=now_ms, number=0))
        case SettleKind.NACK:
            priority = row.priority if item.priority < 0 else item.priority
            failed_count = row.failed_count + 1
            until_ms = now_ms + (topic.config.retry.wait_ms(failed_count) if item.ms < 0 else item.ms)
            waiting = replace(row, nonce=b"", until_ms=until_ms, priority=priority, failed_count=failed_count, number=0)
            if row.is_last and not topic.is_dead_letters:
                _bury(turn, topic, consumer, place, replace(waiting, until_ms=now_ms, reason=TOO_OFTEN), burial)
            else:
                put_in_hand(turn, topic, consumer, place, waiting)
        case SettleKind.REJECT:
            failed_count, reason = row.failed_count + 1, item.reason or REJECTED
            dead = replace(row, nonce=b"", until_ms=now_ms, failed_count=failed_count, reason=reason, number=0)
            _bury(turn, topic, consumer, place, dead, burial)


def _bury(
    turn: Turn, topic: TopicState, consumer: ConsumerState, place: tuple[int, int], dead: LeaseRow, burial: Burial
) -> None:
    """At once if the entry has room for it, else by a later one."""
    consumer.holdings.put(*place, dead)
    held = consumer.holdings.get(*place)
    if held is not None and not burial.take(held):
        put_in_hand(turn, topic, consumer, place, dead)


def _key(topic: TopicState, consumer: ConsumerState, place: tuple[int, int]) -> bytes:
    return keys.lease_key(topic.number, consumer.number, *place)
