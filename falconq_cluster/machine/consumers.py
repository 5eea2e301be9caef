"""Consumers: they are created, and their rows are written.

What lives here: what every operation of a consumer needs, whatever it does with messages.
Rules: the caller has judged the name and the room for it. A new consumer was given nothing.
Must not know: how messages are chosen.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.rows import ConsumerRow
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.turn import Turn


def create_consumer(turn: Turn, topic: TopicState, name: str) -> ConsumerState:
    """A consumer of a new number."""
    consumer = ConsumerState(name, turn.next_number(), turn.log_time_ms, last_partition=-1)
    topic.consumers[name] = consumer
    put_consumer(turn, topic, consumer)
    return consumer


def put_consumer(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    """Write the consumer's row."""
    row = ConsumerRow(
        consumer.number, consumer.created_ms, consumer.last_partition, tuple(consumer.served), tuple(consumer.turns)
    )
    turn.put(keys.consumer_key(topic.number, consumer.name), row)
