"""Consumers: they are created, and their rows are written.

What lives here: what every operation of a consumer needs, whatever it does with messages.
Rules: a new consumer was given nothing.
Must not know: how messages are chosen.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Refused
from falconq_cluster.machine.holdings import Holdings
from falconq_cluster.machine.names import is_name
from falconq_cluster.machine.rows import ConsumerRow
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.turn import Turn


def refusal_of_new(turn: Turn, topic: TopicState, name: str) -> Refused | None:
    """Why the topic can't have one more consumer, of this name."""
    if not is_name(name):
        return Refused("bad_request", f"{name[:200]!r} can't be the name of a consumer")
    most = turn.limits.consumers_per_topic_max
    if len(topic.consumers) >= most:
        return Refused("overloaded", f"topic {topic.name!r} has {most} consumers, the most there may be")
    return None


def create_consumer(turn: Turn, topic: TopicState, name: str) -> ConsumerState:
    """A consumer of a new number, which `refusal_of_new` does not refuse."""
    holdings = Holdings(turn.state.held_count)
    consumer = ConsumerState(name, turn.next_number(), turn.log_time_ms, last_partition=-1, holdings=holdings)
    topic.consumers[name] = consumer
    put_consumer(turn, topic, consumer)
    return consumer


def put_consumer(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    """Write the consumer's row."""
    row = ConsumerRow(
        consumer.number, consumer.created_ms, consumer.last_partition, tuple(consumer.served), tuple(consumer.turns)
    )
    turn.put(keys.consumer_key(topic.number, consumer.name), row)
