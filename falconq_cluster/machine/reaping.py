"""Reaping: what time alone makes due, and what earlier entries had no room for.

What lives here: the Reap operation.
Rules (PROTOCOL.md P12, P15): whoever proposes names the consumers and dead-letter topics that it thinks have something
due; each is judged here again, by log time. Abandoned consumers are deleted, dead messages are buried, and redrives go
on, as far as the entry has room. Whether something named is left is told, so that it is named again.
Must not know: who proposes, when.
"""

from __future__ import annotations

from falconq_cluster.machine.burying import bury_dead
from falconq_cluster.machine.events import HoldingsChanged, LeftUndone, Reaped
from falconq_cluster.machine.managing import delete_consumer, is_abandoned
from falconq_cluster.machine.redriving import redrive_on
from falconq_cluster.machine.state import ConsumerState, State, TopicState
from falconq_cluster.machine.subscriptions import Reap
from falconq_cluster.machine.turn import Turn

REAPED_MAX = 100
"""Consumers, and topics, that one operation looks at."""


def is_due(consumer: ConsumerState, now_ms: int) -> bool:
    """Whether a Reap has something to do for the consumer at this time. Reads only."""
    return consumer.holdings.has_dead_at(now_ms) or is_abandoned(consumer, now_ms)


def reap(turn: Turn, operation: Reap) -> None:
    """Does what is due."""
    left: list[tuple[str, str]] = []
    for name in operation.consumers[:REAPED_MAX]:
        found = _find(turn.state, *name)
        if found is not None and _reap_consumer(turn, *found):
            left.append(name)
    redrives: list[str] = []
    for topic_name in operation.redrives[:REAPED_MAX]:
        grave = turn.state.topics.get(topic_name)
        if grave is not None:
            redrive_on(turn, grave)
            if grave.redrive_left:
                redrives.append(topic_name)
    turn.events.append(Reaped())
    if left or redrives:
        turn.events.append(LeftUndone(tuple(left), tuple(redrives)))


def _reap_consumer(turn: Turn, topic: TopicState, consumer: ConsumerState) -> bool:
    """Whether something is left to be done."""
    if consumer.holdings.advance(turn.log_time_ms):
        turn.events.append(HoldingsChanged(topic.name, consumer.name))
    if consumer.holdings.first_dead() is not None:
        bury_dead(turn, topic, consumer)
        return consumer.holdings.first_dead() is not None
    if is_abandoned(consumer, turn.log_time_ms):
        delete_consumer(turn, topic, consumer)
    return False


def _find(state: State, topic_name: str, name: str) -> tuple[TopicState, ConsumerState] | None:
    topic = state.topics.get(topic_name)
    consumer = None if topic is None else topic.consumers.get(name)
    return None if topic is None or consumer is None else (topic, consumer)
