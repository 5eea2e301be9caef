"""Where a message stands with all consumers together, and what is counted for it."""

from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import LeasePull, Settle, SettleItem, SettleKind
from falconq_cluster.machine.message_states import COUNTED_MAX, ConsumersPart
from falconq_cluster.machine.settings import WEIGHTED, Scheduler, TopicConfig
from falconq_cluster.machine.subscriptions import ConsumerConfig, SetConsumer
from tests.unit.machine.amends import explain
from tests.unit.machine.helpers import Node

NONCE = b"n" * 16


def published(node: Node, *messages: str, level: int = 0, partition: int = 0) -> list[str]:
    appended = node.publish(*messages, level=level, partition=partition)
    return [f"{node.machine.applied_index}.{appended.first_id + place}" for place in range(len(messages))]


def make(node: Node, *consumers: str) -> None:
    for name in consumers:
        node.result(SetConsumer(0, "t", name, ConsumerConfig()))


def lease(node: Node, consumer: str, lease_ms: int = 1000) -> None:
    node.result(LeasePull(0, "t", consumer, 1, 1 << 20, lease_ms, 0, NONCE, 0))


def settle(node: Node, consumer: str, kind: SettleKind, ms: int = 0) -> None:
    node.result(Settle(0, "t", consumer, [SettleItem(kind, 0, 0, NONCE, ms=ms)]))


def together(node: Node, name: str, consumer: str | None = None) -> ConsumersPart:
    view = explain(node, name, consumer=consumer)
    assert view is not None
    return view.together


def test_a_message_stands_with_all_where_it_does_with_the_one_that_is_least_done():
    node = Node()
    (name,) = published(node, "a")
    consumers = ("acked", "dead", "delayed", "ready", "leased")
    make(node, *consumers)
    for consumer in ("acked", "dead", "delayed", "leased"):
        lease(node, consumer)
    settle(node, "acked", SettleKind.ACK)
    settle(node, "dead", SettleKind.REJECT)
    settle(node, "delayed", SettleKind.NACK, ms=500)
    for consumer in consumers:
        part = together(node, name, consumer)
        assert (part.consumer, part.state) == (consumer, consumer)
    assert together(node, name) == ConsumersPart("", "leased", None, 1, 0)
    settle(node, "leased", SettleKind.ACK)
    assert together(node, name) == ConsumersPart("", "ready", 0, 1, 0)
    node.consume(1, consumer="ready")
    assert together(node, name) == ConsumersPart("", "delayed", None, 1, node.now_ms + 500)
    node.now_ms += 500
    lease(node, "delayed")
    settle(node, "delayed", SettleKind.ACK)
    assert together(node, name) == ConsumersPart("", "dead", None, None, 0)
    node.reload()
    assert together(node, name) == ConsumersPart("", "dead", None, None, 0)


def test_a_message_that_all_have_settled_is_acked():
    node = Node()
    (name,) = published(node, "a")
    make(node, "b", "c")
    for consumer in ("b", "c"):
        node.consume(1, consumer=consumer)
    assert together(node, name) == ConsumersPart("", "acked", None, None, 0)


def test_ahead_is_the_least_of_all_that_are_still_to_be_given_it():
    node = Node()
    *_, name = published(node, "a", "b", "c", "d")
    make(node, "first", "second", "third")
    node.consume(1, consumer="first")
    node.consume(3, consumer="second")
    node.consume(4, consumer="third")
    assert [together(node, name, consumer).ahead for consumer in ("first", "second", "third")] == [2, 0, None]
    assert together(node, name) == ConsumersPart("", "ready", 0, 0, 0)


@pytest.mark.parametrize(("policy", "ahead"), [("strict", 3), (WEIGHTED, 1)])
def test_without_consumers_a_message_is_as_far_back_as_for_one_that_comes_next(policy: str, ahead: int):
    node = Node()
    node.add_topic("t", TopicConfig(2, scheduler=Scheduler(policy)))
    node.publish("low")
    (name,) = published(node, "a")
    node.publish("x", level=1)
    node.publish("y", level=1, partition=1)
    assert together(node, name) == ConsumersPart("", "ready", ahead, 0, 0)
    make(node, "c")
    assert together(node, name, "c").ahead == ahead


def test_what_would_take_too_long_to_count_is_not_counted_and_the_state_is_known():
    node = Node()
    node.add_topic("t", TopicConfig(64, tuple(f"l{number}" for number in range(16))))
    (name,) = published(node, "a")
    lookups = 64 * 16
    names = [f"c{number:02}" for number in range(COUNTED_MAX // lookups + 2)]
    make(node, *names)
    view = explain(node, name)
    assert view is not None
    assert view.together == ConsumersPart("", "ready", None, 0, 0)
    assert {part.state for part in view.consumers} == {"ready"}
    assert [part.ahead for part in view.consumers][:3] == [0, 0, 0]
    assert view.consumers[-1].ahead is None
    assert together(node, name, names[-1]).ahead == 0
