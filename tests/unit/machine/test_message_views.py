"""What can be seen of one message: where it stands for each consumer."""

from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import LeasePull, Settle, SettleItem, SettleKind
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.message_states import ConsumersPart, MessagePlace
from falconq_cluster.machine.settings import WEIGHTED, Retry, Scheduler, TopicConfig
from falconq_cluster.machine.subscriptions import Reap
from tests.unit.machine.amends import cancel, change, explain, locate, split_id
from tests.unit.machine.helpers import Node

NONCE = b"n" * 16


def published(node: Node, *messages: str, level: int = 0, partition: int = 0) -> list[str]:
    appended = node.publish(*messages, level=level, partition=partition)
    return [f"{node.machine.applied_index}.{appended.first_id + place}" for place in range(len(messages))]


def part(node: Node, name: str, consumer: str = "c") -> ConsumersPart:
    view = explain(node, name, consumer=consumer)
    assert view is not None
    (found,) = view.consumers
    return found


def lease(node: Node, count: int) -> None:
    node.result(LeasePull(0, "t", "c", count, 1 << 20, 1000, 0, NONCE, 0))


def settle(node: Node, kind: SettleKind, offset: int, ms: int = 0) -> None:
    node.result(Settle(0, "t", "c", [SettleItem(kind, 0, offset, NONCE, ms=ms)]))


def test_a_message_is_shown_as_it_is():
    node = Node()
    _, name = published(node, "a", "b", level=1)
    view = explain(node, name)
    assert view is not None
    message = view.message
    assert (message.id, message.message, message.level, message.offset) == (name, b"b", 1, 1)
    assert (message.timestamp_ms, view.due_ms, view.expires_ms) == (node.now_ms, 0, 0)
    assert (view.consumers, view.has_more) == ([], False)


def test_a_message_is_ready_then_leased_then_acked():
    node = Node()
    node.publish("first")
    lease(node, 1)
    (name,) = published(node, "a")
    assert part(node, name) == ConsumersPart("c", "ready", 0, 0, 0)
    lease(node, 1)
    assert part(node, name) == ConsumersPart("c", "leased", None, 1, node.now_ms + 1000)
    settle(node, SettleKind.ACK, 1)
    assert part(node, name) == ConsumersPart("c", "acked", None, None, 0)


def test_what_was_given_back_waits_for_its_time_and_is_ready_then():
    node = Node()
    (name,) = published(node, "a")
    lease(node, 1)
    settle(node, SettleKind.NACK, 0, ms=500)
    assert part(node, name) == ConsumersPart("c", "delayed", None, 1, node.now_ms + 500)
    node.now_ms += 500
    node.command(Reap([("t", "c")], []))
    assert part(node, name) == ConsumersPart("c", "ready", 0, 1, 0)
    lease(node, 1)
    node.now_ms += 1000
    assert part(node, name).state == "ready"


def test_a_dead_message_is_dead_while_it_is_in_hand_and_after_it_was_buried():
    node = Node()
    node.add_topic("t", TopicConfig(deliveries_max=1, retry=Retry(0, 0)))
    first, second = published(node, "a", "b")
    lease(node, 2)
    settle(node, SettleKind.REJECT, 0)
    node.now_ms += 1000
    assert part(node, first) == ConsumersPart("c", "dead", None, None, 0)
    assert part(node, second) == ConsumersPart("c", "dead", None, 1, 0)
    node.command(Reap([("t", "c")], []))
    assert part(node, second) == ConsumersPart("c", "dead", None, None, 0)
    (dead,) = (m for m in node.views.peek("t.dead", partition=0, offset=0, count=9) if m.message == b"b")
    view = explain(node, dead.id, topic="t.dead", consumer="_redrive")
    assert view is not None
    assert view.consumers == [ConsumersPart("_redrive", "ready", 1, 0, 0)]


@pytest.mark.parametrize(("policy", "expected"), [(Scheduler(), 2 + 3), (Scheduler(WEIGHTED), 2)])
def test_ahead_is_what_would_be_given_before_if_nothing_new_came(policy: Scheduler, expected: int):
    node = Node()
    node.add_topic("t", TopicConfig(2, scheduler=policy))
    node.publish("given")
    node.consume()
    ids = published(node, *"abcd")
    cancel(node, ids[3])
    published(node, *"xy", level=1, partition=1)
    published(node, "z", level=1)
    assert part(node, ids[2]).ahead == expected
    if policy == Scheduler():
        assert len(node.consume(expected)) == expected
        assert node.consume() == ["c"]


def test_ahead_of_what_was_given_back_are_more_urgent_ones_and_what_came_back_before():
    node = Node()
    ids = published(node, *"abc")
    lease(node, 2)
    published(node, *"xyz", level=1)
    settle(node, SettleKind.RELEASE, 1)
    node.now_ms += 1
    settle(node, SettleKind.RELEASE, 0)
    node.command(Reap([("t", "c")], []))
    assert [part(node, name).ahead for name in ids] == [4, 3, 5]


def test_consumers_are_shown_page_by_page_in_the_order_of_their_names():
    node = Node()
    (name,) = published(node, "a")
    for consumer in ("d", "b", "c", "a"):
        node.consume(consumer=consumer)
    place = locate(node, name)
    assert place is not None
    views, names = node.views.messages, []
    after, has_more = "", True
    while has_more:
        view = views.explain("t", *split_id(name), place, log_time_ms=node.now_ms, after=after, limit=3)
        assert view is not None
        names += [found.consumer for found in view.consumers]
        after, has_more = names[-1], view.has_more
    assert names == ["a", "b", "c", "d"]
    one = views.explain("t", *split_id(name), place, log_time_ms=node.now_ms, consumer="nobody")
    assert one is not None
    assert one.consumers == []


def test_what_is_trimmed_cancelled_or_elsewhere_is_not_there():
    node = Node()
    ids = published(node, *"abc")
    places = [locate(node, name) for name in ids]
    cancel(node, ids[0])
    change(node, ids[1], level=1)
    views = node.views.messages
    for name, place in zip(ids[:2], places, strict=False):
        assert place is not None
        assert views.explain("t", *split_id(name), place, log_time_ms=node.now_ms) is None
    assert locate(node, ids[0]) is None
    assert locate(node, ids[1]) == MessagePlace(0, 1, 3)
    node.result(Purge(0, "t"))
    assert [locate(node, name) for name in ids] == [None] * 3 or explain(node, ids[1]) is None
    nowhere = MessagePlace(7, 7, 0)
    assert views.explain("t", *split_id(ids[2]), nowhere, log_time_ms=node.now_ms) is None
    assert views.explain("other", *split_id(ids[2]), nowhere, log_time_ms=node.now_ms) is None


def test_a_search_finds_what_changed_its_place_while_it_went_on():
    node = Node()
    node.add_topic("t", TopicConfig(2))
    ids = published(node, *"abc")
    search = node.views.messages.locate("t", *split_id(ids[1]))
    assert next(search) is None
    change(node, ids[1], level=1)
    assert [place for place in search if place is not None] == [MessagePlace(0, 1, 3)]
