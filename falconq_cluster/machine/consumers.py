"""Consumers: they are created, and their rows are written.

What lives here: what every operation of a consumer needs, whatever it does with messages.
Rules: a new consumer was given nothing, and begins at what is retained.
Must not know: how messages are chosen.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Refused
from falconq_cluster.machine.events import Expired, HoldingsChanged
from falconq_cluster.machine.holdings import Held, Holdings
from falconq_cluster.machine.names import is_name
from falconq_cluster.machine.rows import LeaseRow
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.turn import Turn

USED_GRAIN_MS = 60_000
"""How exactly it is known when a consumer was last used: each time costs a key."""


def refusal_of_new(turn: Turn, topic: TopicState, name: str) -> Refused | None:
    """Why the topic can't have one more consumer, of this name."""
    if not is_name(name):
        return Refused("bad_request", f"{name[:200]!r} can't be the name of a consumer")
    most = turn.limits.consumers_per_topic_max
    if len(topic.consumers) >= most:
        text = f"topic {topic.name!r} has {len(topic.consumers)} consumers, and consumers_per_topic_max is {most}"
        return Refused("overloaded", f"{text}; delete some, or raise it on the nodes")
    return None


def create_consumer(turn: Turn, topic: TopicState, name: str) -> ConsumerState:
    """A consumer of a new number, which `refusal_of_new` does not refuse."""
    consumer = new_consumer(turn, topic, name, created_ms=turn.log_time_ms)
    topic.consumers[name] = consumer
    turn.consumer_changed(topic, consumer)
    start_at_retained(turn, topic, consumer)
    return consumer


def new_consumer(turn: Turn, topic: TopicState, name: str, *, created_ms: int) -> ConsumerState:
    """A consumer of a new number that was given nothing; the topic does not have it yet."""
    holdings = Holdings(topic.held_count)
    consumer = ConsumerState(
        name,
        turn.next_number(),
        created_ms,
        last_partition=-1,
        holdings=holdings,
        lost_count=turn.state.lost_count,
    )
    consumer.used_ms = turn.log_time_ms
    return consumer


def used(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    """Note that somebody uses the consumer."""
    if turn.log_time_ms - consumer.used_ms >= USED_GRAIN_MS:
        consumer.used_ms = turn.log_time_ms
        turn.consumer_changed(topic, consumer)


def put_in_hand(turn: Turn, topic: TopicState, consumer: ConsumerState, place: tuple[int, int], row: LeaseRow) -> None:
    """The consumer has the message at (partition, offset) in hand, as the row says."""
    consumer.holdings.put(*place, row)
    turn.put(keys.lease_key(topic.number, consumer.number, *place), row)


def drop_in_hand(turn: Turn, topic: TopicState, consumer: ConsumerState, held: Held) -> None:
    """The consumer has the message in hand no more: it may have room for another one, or for the next of its key."""
    consumer.holdings.drop(held.partition, held.offset)
    turn.delete(keys.lease_key(topic.number, consumer.number, held.partition, held.offset))
    changed = HoldingsChanged(topic.name, consumer.name)
    if not turn.events or turn.events[-1] != changed:  # of many messages in a row, once
        turn.events.append(changed)


def lease_ms_of(topic: TopicState, consumer: ConsumerState) -> int:
    """How long a lease lasts for which nobody said otherwise."""
    return consumer.config.lease_ms or topic.config.lease_ms


def in_flight_max_of(topic: TopicState, consumer: ConsumerState) -> int:
    """How many messages of the consumer are leased at a time."""
    return consumer.config.in_flight_max or topic.config.in_flight_max


def start_at_retained(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    """Have nothing in hand and nothing lost, and what is retained to come: what was trimmed before is no loss."""
    for partition in topic.partitions:
        if any(level.trimmed_count for level in partition.levels):
            consumer.cursors[partition.number] = [level.start() for level in partition.levels]
            turn.cursors_changed(topic, consumer, partition.number)


def drop_if_trimmed(turn: Turn, topic: TopicState, consumer: ConsumerState, held: Held) -> bool:
    """Whether what is in hand was trimmed meanwhile: then it is in hand no more, and lost (PROTOCOL.md P15)."""
    number, partition = held.row.level, topic.partitions[held.partition]
    if not partition.levels[number].is_trimmed(held.offset):
        return False
    drop_in_hand(turn, topic, consumer, held)
    consumer.cursors_of(partition)[number].lost_count += 1
    consumer.lost_count.value += 1
    turn.cursors_changed(topic, consumer, partition.number)
    return True


def drop_if_expired(turn: Turn, topic: TopicState, consumer: ConsumerState, held: Held) -> bool:
    """Whether the time of what is in hand is over: then it is in hand no more."""
    if not 0 < held.row.expires_ms <= turn.log_time_ms:
        return False
    drop_in_hand(turn, topic, consumer, held)
    turn.events.append(Expired(topic.name, 1))
    return True
