"""Changes and cancels of messages by their ids, as a broker would propose them."""

from __future__ import annotations

from falconq_cluster.machine.amends import CancelMessage, ChangeMessage, MessageChanged
from falconq_cluster.machine.commands import Done, Refused
from falconq_cluster.machine.message_states import MessagePlace
from falconq_cluster.machine.message_views import MessageView
from tests.unit.machine.helpers import Node

NOWHERE = MessagePlace(-1, -1, -1)


def split_id(message_id: str) -> tuple[int, int]:
    log_index, number = message_id.split(".")
    return int(log_index), int(number)


def locate(node: Node, message_id: str, topic: str = "t") -> MessagePlace | None:
    found = None
    for found in node.views.messages.locate(topic, *split_id(message_id)):
        if found is not None:
            return found
    return None


def explain(node: Node, message_id: str, topic: str = "t", consumer: str | None = None) -> MessageView | None:
    place = locate(node, message_id, topic)
    if place is None:
        return None
    ids = split_id(message_id)
    return node.views.messages.explain(topic, *ids, place, log_time_ms=node.now_ms, consumer=consumer)


def changing(
    node: Node, message_id: str, *, topic: str = "t", level: int = -1, due_ms: int = -1, delay_ms: int = -1
) -> ChangeMessage:
    place = locate(node, message_id, topic) or NOWHERE
    ids = split_id(message_id)
    return ChangeMessage(0, topic, *ids, place.partition, place.offset, level, due_ms, delay_ms)


def cancelling(node: Node, message_id: str, *, topic: str = "t") -> CancelMessage:
    place = locate(node, message_id, topic) or NOWHERE
    return CancelMessage(0, topic, *split_id(message_id), place.partition, place.offset)


def change(
    node: Node, message_id: str, *, topic: str = "t", level: int = -1, due_ms: int = -1, delay_ms: int = -1
) -> MessageChanged | str:
    """What it is now, or the code of the refusal."""
    operation = changing(node, message_id, topic=topic, level=level, due_ms=due_ms, delay_ms=delay_ms)
    result = node.result(operation)
    assert isinstance(result, MessageChanged | Refused)
    return result.code if isinstance(result, Refused) else result


def cancel(node: Node, message_id: str, *, topic: str = "t") -> str:
    """`done`, or the code of the refusal."""
    result = node.result(cancelling(node, message_id, topic=topic))
    assert isinstance(result, Done | Refused)
    return result.code if isinstance(result, Refused) else "done"
