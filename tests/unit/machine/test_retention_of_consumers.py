"""Consumers of topics that do not keep everything: where they begin, what they lose, and what dies in their hands."""

from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import SetTopic
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.settings import Retention, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, Reap, Seek, SetConsumer, Start, StartKind
from falconq_cluster.machine.surveying import trim_now
from tests.unit.machine.helpers import START_MS, Node
from tests.unit.machine.test_retention import kept, lease, stored, topic, trim


def trimmed_node() -> Node:
    """Offsets 0 to 9 of a millisecond each, of which 6 to 9 are kept and the batches before them erased."""
    node = Node()
    topic(node, Retention(messages=4))
    for number in range(10):
        node.now_ms = START_MS + number
        node.publish(str(number), level=number % 2)
    trim(node)
    assert (kept(node), stored(node)) == (["6", "7", "8", "9"], [6, 7, 8, 9])
    return node


def lost(node: Node) -> list[int]:
    view = node.views.consumers.consumer("t", "c")
    assert view is not None
    return view.lost


@pytest.mark.parametrize(
    ("start", "offsets", "given"),
    [
        (Start(), (), "7968"),
        (Start(StartKind.OFFSET, 3), (), "7968"),
        (Start(StartKind.OFFSET, 7), (), "798"),
        (Start(StartKind.OFFSET, 8), (), "98"),
        (Start(StartKind.OFFSET, 99), (), ""),
        (Start(StartKind.LATEST), (), ""),
        (Start(StartKind.TIME, START_MS), (0,), "7968"),
        (Start(StartKind.TIME, START_MS + 8), (8,), "98"),
    ],
)
@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("is_reloaded", [False, True])
def test_a_consumer_begins_at_what_is_kept_and_has_lost_nothing(
    start: Start, offsets: tuple[int, ...], given: str, is_moved: bool, is_reloaded: bool
) -> None:
    node = trimmed_node()
    if is_moved:
        node.pull(9)
        node.result(Seek(0, "t", "c", start, offsets))
    else:
        node.result(SetConsumer(0, "t", "c", ConsumerConfig(start), offsets))
    if is_reloaded:
        node.reload()
    assert sum(node.views.pending("t", "c")) == len(given)
    assert "".join(node.consume(9)) == given
    assert lost(node) == [0, 0]


def test_the_offset_of_a_time_is_found_where_messages_are_kept() -> None:
    node = trimmed_node()
    offset_at = node.views.consumers.offset_at
    assert [offset_at("t", 0, START_MS + ms) for ms in (0, 6, 7, 20)] == [6, 6, 7, 10]
    assert [offset_at("t", 1, START_MS), offset_at("u", 0, START_MS)] == [None, None]
    node.result(Purge(0, "t"))
    assert offset_at("t", 0, 0) == 10


def test_what_a_consumer_lost_is_told_by_level() -> None:
    node = Node()
    topic(node, Retention())
    node.publish("a", "b", "c")
    node.publish("d", level=1)
    assert node.consume(2) == ["d", "a"]
    node.result(Purge(0, "t"))
    assert lost(node) == [2, 0]
    node.publish("e")
    node.reload()
    assert node.consume(9) == ["e"]
    assert lost(node) == [2, 0]


def test_a_dead_message_that_was_trimmed_is_not_buried_and_holds_up_nothing() -> None:
    node = Node()
    settings = TopicSettings(deliveries_max=1, retention=Retention(messages=1))
    node.result(SetTopic(0, "t", 0, is_change=False, given=settings))
    node.publish("a", "b")
    assert lease(node, 2) == [0, 1]
    node.command(trim_now(node.machine, ["t"], node.now_ms))
    node.now_ms += 300_000
    # Erased before anybody looked at what died.
    trim_without_release = trim_now(node.machine, ["t"], node.now_ms)
    node.command(Reap([("t", "c")], []))
    assert kept(node) == ["b"]
    assert [m.message for m in node.views.peek("t.dead", partition=0, offset=0, count=9)] == [b"b"]
    node.command(trim_without_release, Reap([("t", "c")], []))
    assert lost(node) == [1, 0]


def test_messages_trimmed_and_erased_in_hand_are_passed_over_by_a_reap_of_any_size() -> None:
    node = Node()
    node.result(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(deliveries_max=1)))
    node.publish(*(str(number) for number in range(350)))
    assert len(lease(node, 350)) == 350
    node.result(Purge(0, "t"))
    node.now_ms += 300_000
    for _ in range(3):
        node.command(Reap([("t", "c")], []))
    assert node.views.topic("t.dead") is None
    assert lost(node) == [350, 0]
