"""Consumers as resources: they are made, changed, moved, paused and deleted.

What lives here: the SetConsumer, DeleteConsumer, Seek and PauseConsumer operations, and the end of abandoned consumers.
Rules (PROTOCOL.md P12, P15): a consumer that is deleted, or moved, leaves its number: its cursors, attempts and what it
had in hand belong to that number and are trimmed later, so nothing of them is looked at and no operation writes more
keys than the topic has partitions. A move ends all leases. A consumer is abandoned when nobody has used it for the
time that it says, by log time, and nothing of it is leased.
Must not know: how messages are chosen, who proposes.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Done, Refused
from falconq_cluster.machine.consumers import create_consumer, new_consumer, refusal_of_new
from falconq_cluster.machine.events import ConsumerUnlinked, HoldingsChanged
from falconq_cluster.machine.placing import place
from falconq_cluster.machine.rows import DeletionRow
from falconq_cluster.machine.settings import LEASE_MS_MAX, LEASE_MS_MIN
from falconq_cluster.machine.state import ConsumerState, Deletion, TopicState
from falconq_cluster.machine.subscriptions import (
    ConsumerConfig,
    ConsumerOperation,
    ConsumerSet,
    DeleteConsumer,
    PauseConsumer,
    Seek,
    SetConsumer,
    Start,
    StartKind,
)
from falconq_cluster.machine.topics import IN_FLIGHT_MAX, Mistake
from falconq_cluster.machine.turn import Turn

EXPIRE_AFTER_MS_MIN = 600_000
EXPIRE_AFTER_MS_MAX = 315_360_000_000
"""Ten years."""
START_MAX = (1 << 63) - 1


def manage_consumer(turn: Turn, operation: ConsumerOperation) -> ConsumerSet | Done | Refused:
    """The consumer is as the operation says, or nothing is changed."""
    topic = turn.state.topics.get(operation.topic)
    if turn.is_expired(operation.not_after_ms):
        text = f"the time to change the consumer ran out at {operation.not_after_ms}, it is {turn.log_time_ms}"
        return Refused("expired", text)
    if topic is None:
        return Refused("topic_not_found", f"there is no topic {operation.topic[:200]!r}")
    if isinstance(operation, SetConsumer):
        return _set(turn, topic, operation)
    consumer = topic.consumers.get(operation.consumer)
    if consumer is None:
        return Refused("consumer_not_found", f"topic {topic.name!r} has no consumer {operation.consumer[:200]!r}")
    match operation:
        case DeleteConsumer():
            refusal = _no_room(turn)
            if refusal is not None:
                return refusal
            delete_consumer(turn, topic, consumer)
            return Done()
        case Seek():
            return _seek(turn, topic, consumer, operation)
        case PauseConsumer():
            consumer.is_paused = operation.is_paused
    turn.consumer_changed(topic, consumer)
    turn.events.append(HoldingsChanged(topic.name, consumer.name))
    return ConsumerSet(topic.name, consumer.name, is_new=False)


def delete_consumer(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    """The name is free at once, and what the consumer holds is left to be trimmed."""
    _unlink(turn, topic, consumer)
    del topic.consumers[consumer.name]
    turn.delete(keys.consumer_key(topic.number, consumer.name))


def is_abandoned(consumer: ConsumerState, now_ms: int) -> bool:
    """Whether nobody has used the consumer for so long that it is to be deleted. Reads only."""
    after_ms = consumer.config.expire_after_ms
    return 0 < after_ms <= now_ms - consumer.used_ms and not consumer.holdings.is_leased_at(now_ms)


def consumer_mistakes(config: ConsumerConfig) -> list[Mistake]:
    """What is wrong with the settings: a sentence for each mistake."""
    ranges = [
        ("leaseMs", config.lease_ms, LEASE_MS_MIN, LEASE_MS_MAX),
        ("maxInFlight", config.in_flight_max, 1, IN_FLIGHT_MAX),
        ("expireAfterMs", config.expire_after_ms, EXPIRE_AFTER_MS_MIN, EXPIRE_AFTER_MS_MAX),
    ]
    mistakes = [
        (name, f"'{name}' is {value}; it is from {least} to {most}, or 0.")
        for name, value, least, most in ranges
        if value and not least <= value <= most
    ]
    return mistakes + start_mistakes(config.start)


def start_mistakes(start: Start) -> list[Mistake]:
    """What is wrong with where a consumer shall begin."""
    if 0 <= start.value <= START_MAX and (start.value == 0 or start.kind in (StartKind.OFFSET, StartKind.TIME)):
        return []
    return [("start", f"'start' has the value {start.value}; an offset or a time is from 0 to {START_MAX}.")]


def _set(turn: Turn, topic: TopicState, operation: SetConsumer) -> ConsumerSet | Refused:
    mistakes = consumer_mistakes(operation.config)
    if mistakes:
        return Refused("bad_request", " ".join(sentence for _, sentence in mistakes))
    consumer = topic.consumers.get(operation.consumer)
    is_new = consumer is None
    if consumer is None:
        refusal = refusal_of_new(turn, topic, operation.consumer)
        if refusal is not None:
            return refusal
        consumer = create_consumer(turn, topic, operation.consumer)
        consumer.config = operation.config
        place(turn, topic, consumer, operation.config.start, operation.offsets)
    else:
        if operation.config.ordering != consumer.config.ordering and len(consumer.holdings):
            text = f"consumer {consumer.name!r} has messages in hand, so its order stays; settle them first"
            return Refused("bad_request", text)
        consumer.config = replace(operation.config, start=consumer.config.start)
        turn.consumer_changed(topic, consumer)
    turn.events.append(HoldingsChanged(topic.name, consumer.name))
    return ConsumerSet(topic.name, consumer.name, is_new)


def _seek(turn: Turn, topic: TopicState, consumer: ConsumerState, operation: Seek) -> ConsumerSet | Refused:
    mistakes = start_mistakes(operation.to)
    if mistakes:
        return Refused("bad_request", mistakes[0][1])
    refusal = _no_room(turn)
    if refusal is not None:
        return refusal
    _unlink(turn, topic, consumer)
    # A new object too: what this entry has changed of the old number is written under the old number.
    moved = new_consumer(turn, topic, consumer.name, created_ms=consumer.created_ms)
    moved.config, moved.is_paused = consumer.config, consumer.is_paused
    # A stream goes on, and no number comes twice.
    moved.delivery_number, moved.stream = consumer.delivery_number, consumer.stream
    topic.consumers[consumer.name] = moved
    turn.consumer_changed(topic, moved)
    place(turn, topic, moved, operation.to, operation.offsets)
    turn.events.append(HoldingsChanged(topic.name, consumer.name))
    return ConsumerSet(topic.name, consumer.name, is_new=False)


def _unlink(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    number = turn.next_number()
    turn.state.deletions[number] = deletion = Deletion(topic.number, b"", consumer.number)
    turn.put(keys.deletion_key(number), DeletionRow(deletion.topic, deletion.next_key, deletion.consumer))
    consumer.holdings.forget()
    turn.events.append(ConsumerUnlinked(topic.name, consumer.name))


def _no_room(turn: Turn) -> Refused | None:
    count, most = len(turn.state.deletions), turn.limits.deletions_max
    return None if count < most else Refused("overloaded", f"{count} deletions are to be trimmed first; repeat later")
