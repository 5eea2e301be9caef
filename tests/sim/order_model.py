"""What consumers with an order, moved consumers and event streams may be given, found out once more and by itself.

What lives here: a naive model of consumers as resources and of streams, fed with each applied entry.
Rules: a key, or partition, has one message in hand at a time, in order, and what comes again holds it up; a paused
consumer is given nothing; after a seek exactly what lies at or behind its place is to come, and nothing is in hand; a
consumer that was deleted or has expired leaves nothing to its name, and expires not before its time; numbers of
deliveries to streams rise by one; a stream that goes on from n acknowledges what is up to n and gives back the rest;
one that was replaced is given nothing (PROTOCOL.md P15, P16, P20; docs/consumers.md).
Must not know: how the machine remembers and chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec.structs import replace as changed

from falconq_cluster.broker.partitioner import partition_of_key
from falconq_cluster.machine.commands import (
    AnyOperation,
    Append,
    Appended,
    Done,
    Leased,
    LeasePull,
    LeaseSettled,
    Pull,
    Pulled,
    Refused,
    Result,
    Settle,
    SettleItem,
    SettleKind,
    TopicSet,
)
from falconq_cluster.machine.events import ConsumerUnlinked
from falconq_cluster.machine.holdings import Phase
from falconq_cluster.machine.machine import DEFAULT_LIMITS, Applied
from falconq_cluster.machine.records import iter_records
from falconq_cluster.machine.state import ConsumerState, State
from falconq_cluster.machine.subscriptions import (
    ConsumerSet,
    DeleteConsumer,
    OpenStream,
    Ordering,
    PauseConsumer,
    Reap,
    Seek,
    SetConsumer,
    Start,
    StartKind,
    StreamKind,
    StreamOpened,
)
from falconq_cluster.machine.views import Views
from tests.sim.order_giving import Giving
from tests.sim.order_state import Consumer, Held, Message, Place, Topic
from tests.sim.ordered import USED_GRAIN_MS
from tests.sim.queue_model import buried_of
from tests.sim.world import Violation


class OrderModel:
    """All topics of these names that somebody made with settings."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._topics: dict[str, Topic] = {}
        self._now_ms = 0
        self.expired_count = 0

    def applied(self, applied: Applied, operations: Sequence[AnyOperation]) -> None:
        """Judge each result of the entry. Raises: Violation."""
        self._now_ms = max(self._now_ms, applied.stamp_ms)
        for operation, result in zip(operations, applied.results, strict=True):
            try:
                if isinstance(operation, Reap):
                    self._reaped(operation, applied)
                else:
                    self._applied(operation, result)
            except Violation as violation:
                text = f"entry {applied.index} at {applied.stamp_ms}: {operation} -> {result}: {violation}"
                raise Violation(text) from violation

    def _applied(self, operation: AnyOperation, result: Result) -> None:
        if isinstance(result, TopicSet) and result.topic in self._names:
            self._topics.setdefault(result.topic, Topic(result.config)).configure(result.config)
            return
        topic = self._topics.get(getattr(operation, "topic", ""))
        if topic is None:
            return
        match operation, result:
            case Append(), Appended():
                self._appended(topic, operation, result)
            case LeasePull(), _:
                self._lease_pull(topic, operation, result)
            case Pull(), Pulled(is_replay=is_replay):
                self._pulled(topic, operation, result, is_replay=is_replay)
            case Settle(), LeaseSettled():
                self._settled(topic, operation, result)
            case OpenStream(), _:
                self._open_stream(topic, operation, result)
            case SetConsumer(), ConsumerSet():
                self._set(topic, operation, result)
            case Seek() | PauseConsumer(), ConsumerSet():
                self._changed(topic, operation)
            case DeleteConsumer(), Done():
                del topic.consumers[operation.consumer]
            case Seek() | PauseConsumer() | DeleteConsumer(), Refused(code="consumer_not_found"):
                if operation.consumer in topic.consumers:
                    raise Violation("it is there")
            case _:
                # Refused, or a repeat.
                pass

    def _appended(self, topic: Topic, operation: Append, result: Appended) -> None:
        size = -(-len(operation.records) // operation.count)
        for number, record in enumerate(iter_records(operation.records)):
            is_astray = record.key is not None and result.partition != partition_of_key(
                record.key, topic.config.partitions
            )
            offset = result.base_offset + number
            topic.append(Message(result.partition, offset, result.level, record.key, size, self._now_ms, is_astray))

    def _use(self, topic: Topic, name: str) -> Consumer:
        """The consumer, made if it is not there."""
        consumer = topic.consumers.get(name)
        if consumer is None:
            consumer = topic.consumers[name] = Consumer(self._now_ms)
            consumer.arrange(topic.messages)
        consumer.used_ms = self._now_ms
        return consumer

    # Pulls.

    def _lease_pull(self, topic: Topic, operation: LeasePull, result: Result) -> None:
        known = topic.consumers.get(operation.consumer)
        is_replaced = bool(operation.stream) and (
            known is None or (operation.stream is StreamKind.ALONE and known.stream != operation.nonce)
        )
        if isinstance(result, Refused):
            if result.code == "lease_lost" and not is_replaced:
                raise Violation("the stream is its consumer's")
            return
        assert isinstance(result, Leased)
        if is_replaced:
            raise Violation("another stream took its place")
        consumer = self._use(topic, operation.consumer)
        if operation.auto_commit and consumer.config.ordering is not Ordering.NONE:
            raise Violation("a consumer with an order gives messages without leases")
        if consumer.is_paused:
            _expect_nothing(result)
            return
        lease_ms = operation.lease_ms or consumer.config.lease_ms or topic.config.lease_ms
        expires_ms = 0 if operation.auto_commit else self._now_ms + lease_ms
        if result.ranges and result.expires_ms != expires_ms:
            raise Violation(f"its leases end at {result.expires_ms}, not {expires_ms}")
        free = min(operation.count_max, DEFAULT_LIMITS.lease_count_max)
        if not operation.auto_commit:
            most = operation.in_flight_max or consumer.config.in_flight_max or topic.config.in_flight_max
            free = max(min(free, most - consumer.leased_count(self._now_ms)), 0)
        self._hand_out(topic, consumer, operation, result, free)

    def _hand_out(self, topic: Topic, consumer: Consumer, operation: LeasePull, result: Leased, free: int) -> None:
        giving = Giving(topic, consumer, self._now_ms, bytes_max=operation.bytes_max, level_min=operation.level_min)
        number = consumer.delivery_number + 1 if operation.stream else 0
        if result.ranges and result.first_number != number:
            raise Violation(f"its first number is {result.first_number}, not {number}")
        for found in result.ranges:
            for offset in range(found.messages.offset, found.messages.offset + found.messages.count):
                place = found.messages.partition, offset
                before = giving.give(place, found.messages.level)
                held = self._leased(topic, topic.by_place[place], before, result, number)
                if (held.failed_count + 1, held.acquired_count) != (found.delivery_count, found.acquired_count):
                    raise Violation(f"{place} is delivered as {found}, known is {held}")
                if not operation.auto_commit:
                    consumer.held[place] = held
                if number:
                    consumer.delivery_number, number = number, number + 1
        giving.expect_end(free)

    def _leased(self, topic: Topic, message: Message, before: Held | None, result: Leased, number: int) -> Held:
        failed_count = 0 if before is None else before.failed_count + bool(before.nonce)
        return Held(
            message=message,
            priority=message.level if before is None else before.priority,
            nonce=result.nonce,
            until_ms=result.expires_ms,
            failed_count=failed_count,
            acquired_count=1 if before is None else before.acquired_count + 1,
            is_last=topic.is_last(failed_count + 1),
            number=number,
        )

    def _pulled(self, topic: Topic, operation: Pull, result: Pulled, *, is_replay: bool) -> None:
        consumer = self._use(topic, operation.consumer)
        if is_replay:
            return
        if consumer.config.ordering is not Ordering.NONE:
            raise Violation("a consumer with an order gives messages without leases")
        if consumer.is_paused:
            _expect_nothing(result)
            return
        giving = Giving(
            topic,
            consumer,
            self._now_ms,
            bytes_max=operation.bytes_max,
            partition=operation.partition,
            has_returned=False,
        )
        for found in result.ranges:
            for offset in range(found.offset, found.offset + found.count):
                giving.give((found.partition, offset), found.level)
        giving.expect_end(operation.count_max)

    # What is in hand.

    def _settled(self, topic: Topic, operation: Settle, result: LeaseSettled) -> None:
        consumer = topic.consumers.get(operation.consumer)
        if consumer is not None:
            consumer.used_ms = self._now_ms
        failed = [
            number
            for number, item in enumerate(operation.items)
            if consumer is None or not self._settle(topic, consumer, item)
        ]
        if [number for number, _, _ in result.failed] != failed:
            raise Violation(f"those at {failed} have no lease; in hand is {consumer and consumer.held}")

    def _settle(self, topic: Topic, consumer: Consumer, item: SettleItem) -> bool:
        """Whether the item names a lease that is not over; then it has its effect."""
        place = (item.partition, item.offset)
        held = consumer.held.get(place)
        if held is None or held.nonce != item.nonce or not held.is_leased(self._now_ms):
            return False
        back = replace(held, nonce=b"", until_ms=self._now_ms, number=0)
        match item.kind:
            case SettleKind.ACK:
                del consumer.held[place]
            case SettleKind.EXTEND:
                consumer.held[place] = replace(held, until_ms=self._now_ms + item.ms)
            case SettleKind.RELEASE:
                consumer.held[place] = back
            case SettleKind.NACK:
                failed_count = held.failed_count + 1
                wait_ms = topic.config.retry.wait_ms(failed_count) if item.ms < 0 else item.ms
                priority = held.priority if item.priority < 0 else item.priority
                until_ms = self._now_ms + wait_ms
                consumer.held[place] = replace(back, until_ms=until_ms, priority=priority, failed_count=failed_count)
        if item.kind is SettleKind.REJECT or (item.kind is SettleKind.NACK and held.is_last):
            del consumer.held[place]
            consumer.dead.add(place)
        return True

    def _open_stream(self, topic: Topic, operation: OpenStream, result: Result) -> None:
        known = topic.consumers.get(operation.consumer)
        is_possible = operation.acked_number <= (0 if known is None else known.delivery_number)
        if isinstance(result, Refused):
            if result.code == "bad_request" and is_possible:
                raise Violation("a delivery has the number")
            return
        assert isinstance(result, StreamOpened)
        if not is_possible:
            raise Violation("no delivery has the number")
        consumer = self._use(topic, operation.consumer)
        is_alone = operation.stream is StreamKind.ALONE
        if is_alone:
            consumer.stream = operation.nonce
        for place, held in list(consumer.held.items()):
            is_mine = held.nonce != operation.nonce if is_alone else held.nonce == operation.acked_nonce
            if not held.number or not is_mine:
                continue
            if held.number <= operation.acked_number:
                del consumer.held[place]
            elif held.is_leased(self._now_ms):
                consumer.held[place] = replace(held, nonce=b"", until_ms=self._now_ms, number=0)
            else:
                consumer.held[place] = replace(held, number=0)

    # Consumers as resources.

    def _set(self, topic: Topic, operation: SetConsumer, result: ConsumerSet) -> None:
        consumer = topic.consumers.get(operation.consumer)
        if (consumer is None) is not result.is_new:
            raise Violation(f"known is {consumer}")
        if consumer is None:
            consumer = self._use(topic, operation.consumer)
            consumer.config = operation.config
            self._place(topic, consumer, operation.config.start, operation.offsets)
            return
        is_reordered = operation.config.ordering is not consumer.config.ordering
        if is_reordered and consumer.held:
            raise Violation(f"it has a new order, and in hand {consumer.held}")
        consumer.config = changed(operation.config, start=consumer.config.start)
        if is_reordered:
            to_come = {message.place for message in consumer.to_come()}
            consumer.arrange([message for message in topic.messages if message.place in to_come])

    def _changed(self, topic: Topic, operation: Seek | PauseConsumer) -> None:
        consumer = topic.consumers[operation.consumer]
        if isinstance(operation, PauseConsumer):
            consumer.is_paused = operation.is_paused
            return
        topic.consumers[operation.consumer] = moved = Consumer(
            self._now_ms,
            config=consumer.config,
            is_paused=consumer.is_paused,
            delivery_number=consumer.delivery_number,
            stream=consumer.stream,
        )
        self._place(topic, moved, operation.to, operation.offsets)

    def _place(self, topic: Topic, consumer: Consumer, start: Start, offsets: Sequence[int]) -> None:
        def is_to_come(message: Message) -> bool:
            match start.kind:
                case StartKind.OFFSET:
                    return message.offset >= start.value
                case StartKind.TIME:
                    return message.stamp_ms >= start.value
                case StartKind.LATEST:
                    return False
            return True

        consumer.arrange([message for message in topic.messages if is_to_come(message)])

    def _reaped(self, operation: Reap, applied: Applied) -> None:
        unlinked = {(e.topic, e.consumer) for e in applied.events if isinstance(e, ConsumerUnlinked)}
        for name in operation.consumers:
            topic = self._topics.get(name[0])
            consumer = None if topic is None else topic.consumers.get(name[1])
            if topic is None or consumer is None:
                continue
            dead = {place for place, held in consumer.held.items() if held.is_dead(self._now_ms)}
            idle_ms, after_ms = self._now_ms - consumer.used_ms, consumer.config.expire_after_ms
            has_leases = consumer.leased_count(self._now_ms) > 0
            if name in unlinked:
                if dead or has_leases or not 0 < after_ms < idle_ms + USED_GRAIN_MS:
                    raise Violation(f"{name} expires after {idle_ms} of {after_ms} ms: {consumer.held}")
                del topic.consumers[name[1]]
                self.expired_count += 1
            elif not dead and not has_leases and 0 < after_ms <= idle_ms:
                raise Violation(f"{name} does not expire after {idle_ms} of {after_ms} ms")
            consumer.dead |= dead
            for place in dead:
                del consumer.held[place]

    # At the end.

    def check_end(self, views: Views, state: State) -> None:
        """Nothing is lost on the way: what is to come, in hand and in the dead letters is all. Raises: Violation."""
        for name, topic in self._topics.items():
            found = state.topics[name].consumers
            if found.keys() != topic.consumers.keys():
                raise Violation(f"{name} has the consumers {sorted(found)}, not {sorted(topic.consumers)}")
            buried = buried_of(views, name)
            for consumer_name, consumer in topic.consumers.items():
                pending = views.pending(name, consumer_name)
                _check_consumer(f"{consumer_name} of {name}", consumer, found[consumer_name], pending)
                if buried.pop(consumer_name, set()) != consumer.dead:
                    raise Violation(f"{consumer_name} of {name} has other dead letters than {consumer.dead}")
            if buried:
                raise Violation(f"{name} has dead letters of {list(buried)}, who had none")


def _expect_nothing(result: Leased | Pulled) -> None:
    if result.ranges:
        raise Violation("a paused consumer is given messages")


def _check_consumer(name: str, consumer: Consumer, found: ConsumerState, pending: list[int]) -> None:
    in_hand: set[Place] = set()
    to_come = [0] * len(pending)
    for message in consumer.to_come():
        to_come[message.level] += 1
    for held in found.holdings:
        if held.phase is Phase.ASIDE or not held.row.acquired_count:
            pending[held.row.level] += 1
        else:
            in_hand.add((held.partition, held.offset))
    if pending != to_come or in_hand != consumer.held.keys():
        raise Violation(
            f"{name} has {pending} to come and {sorted(in_hand)} in hand, not {to_come} and {sorted(consumer.held)}"
        )
    known = consumer.is_paused, consumer.delivery_number, consumer.stream
    if known != (found.is_paused, found.delivery_number, found.stream):
        raise Violation(f"{name} is {found}, not {known}")
