"""The dead letters of topics that do not keep everything.

What lives here: which messages are in them, and whether these are the right ones.
Rules: what died of a consumer is there once, as it was published, or was trimmed before it could be moved.
Must not know: why something is trimmed.
"""

from __future__ import annotations

import json

from falconq_cluster.machine import burying
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.state import ConsumerState
from falconq_cluster.machine.views import Views
from tests.sim.keep_consumers import Consumer, Place, Stock
from tests.sim.world import Violation

PEEKED_MAX = 1_000_000


def is_buried(views: Views, topic: str, consumer: str, place: Place) -> bool:
    """Whether the message died of the consumer and is in the dead letters."""
    return (consumer, place) in _buried(views, topic)


def check_graves(views: Views, topic: str, stock: Stock, consumers: dict[str, Consumer], now_ms: int) -> None:
    """What is in the dead letters died, and is as it was. Raises: Violation."""
    for (name, place), dead in _buried(views, topic).items():
        message = stock.at(place)
        if not consumers.get(name, Consumer()).has_died(message, now_ms):
            raise Violation(f"{dead} of {topic} did not die of {name}")
        marks = json.loads(dead.headers or b"{}")
        if (pack_record(dead.message), dead.level, marks[burying.ID]) != (message.record, message.level, message.id):
            raise Violation(f"{message} of {topic} is in the dead letters as {dead}")


def check_hand(views: Views, topic: str, state: ConsumerState, consumer: Consumer, now_ms: int) -> None:
    """What is in the consumer's hand was given and not settled; all that died is there or buried. Raises: Violation."""
    in_hand = {(held.partition, held.offset) for held in state.holdings}
    buried = {place for name, place in _buried(views, topic) if name == state.name}
    known = {place: held.message for place, held in consumer.held.items()} | consumer.dead
    wrong = [place for place in in_hand if place not in known or known[place].is_gone or place in buried]
    missing = [
        place
        for place, message in known.items()
        if place not in in_hand
        and place not in buried
        and not message.is_gone
        # A pull that met it dropped it: it is expired, and was not leased.
        and not (place in consumer.held and message.is_over(now_ms))
    ]
    if wrong or missing:
        raise Violation(f"{state.name} of {topic} has {wrong} in hand and not {missing}, known is {known}")


def _buried(views: Views, topic: str) -> dict[tuple[str, Place], DeliveredMessage]:
    """(consumer, place) -> dead letter. Raises: Violation."""
    found: dict[tuple[str, Place], DeliveredMessage] = {}
    for dead in views.peek(f"{topic}.dead", partition=None, offset=0, count=PEEKED_MAX, bytes_max=1 << 40):
        marks = json.loads(dead.headers or b"{}")
        key = marks[burying.CONSUMER], (int(marks[burying.PARTITION]), int(marks[burying.OFFSET]))
        if key in found:
            raise Violation(f"{key} of {topic} is in the dead letters twice")
        found[key] = dead
    return found
