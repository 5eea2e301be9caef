"""What gives way in a topic that is full."""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendedMany, AppendMany, Part
from falconq_cluster.machine.commands import Appended, Duplicate, Result
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import DROP_LOWEST, REJECT, Retention
from tests.unit.machine.helpers import Node, append
from tests.unit.machine.test_retention import kept, refused, topic, trim


def test_a_full_topic_that_rejects_takes_nothing_and_changes_nothing():
    node = Node()
    topic(node, Retention(messages=3), REJECT)
    node.publish("a", "b")
    before = node.everything()
    applied = node.command(append("c", "d"))
    assert refused(applied.results[0]) == "topic_full"
    assert [key for key, _ in applied.changes] == [keys.META]
    assert len(node.everything()) == len(before)
    node.publish("c", level=1)
    assert refused(node.result(append("d"))) == "topic_full"
    # What is there already is not dropped when less is kept from now on.
    topic(node, Retention(messages=1), REJECT)
    assert trim(node) == 0
    assert kept(node) == ["a", "b", "c"]


def test_drop_lowest_drops_the_oldest_of_the_least_urgent_level_and_never_a_more_urgent_one():
    node = Node()
    topic(node, Retention(messages=4), DROP_LOWEST, levels=("low", "mid", "high"))
    # The more urgent, the older: age decides only within a level.
    for level, texts in ((2, ["h1"]), (1, ["m1", "m2"]), (0, ["l1"]), (0, ["l2"])):
        node.now_ms += 1
        node.publish(*texts, level=level)
    trim(node)
    assert kept(node) == ["h1", "m1", "m2", "l2"]
    node.publish("h2", "h3", level=2)
    trim(node)
    assert kept(node) == ["h1", "m2", "h2", "h3"]
    assert refused(node.result(append("l3"))) == "topic_full"
    node.publish("m3", level=1)
    # Judged before it is trimmed as well: what is over already has a claim on the less urgent ones.
    assert refused(node.result(append("m4", "m5", level=1))) == "topic_full"
    trim(node)
    assert kept(node) == ["h1", "h2", "h3", "m3"]
    assert refused(node.result(append("l4"))) == "topic_full"


def test_a_repeat_of_an_append_is_told_what_the_first_one_did_though_the_topic_is_full():
    node = Node()
    topic(node, Retention(messages=1), REJECT)
    node.result(append("a", once=Once("k")))
    assert isinstance(node.result(append("a", once=Once("k"))), Duplicate)
    assert refused(node.result(append("a", once=Once("l")))) == "topic_full"


def test_parts_of_one_append_are_judged_together_and_each_by_its_own_level():
    node = Node()
    topic(node, Retention(messages=3), DROP_LOWEST)
    node.publish("l1", "l2")

    def send(*parts: tuple[int, int]) -> Result:
        packed = [Part(0, level, count, pack_record(b"x") * count) for level, count in parts]
        return node.result(AppendMany(0, "t", packed, may_create=False))

    # The first part takes the last room; the second one makes the two low ones go.
    assert isinstance(send((1, 1), (1, 2)), AppendedMany)
    assert refused(send((0, 1))) == "topic_full"
    assert refused(send((1, 1), (0, 1))) == "topic_full"
    trim(node)
    assert kept(node) == ["x", "x", "x"]
    topic(node, Retention(messages=4), REJECT)
    assert refused(send((0, 1), (1, 1))) == "topic_full"
    assert isinstance(send((0, 1)), Appended)
