"""What knew a record batch before it was split knows its parts afterwards, in memory as after a restart."""

from __future__ import annotations

from falconq_cluster.machine.commands import SetTopic
from falconq_cluster.machine.levels import Cursor
from falconq_cluster.machine.settings import Retention, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, SetConsumer
from falconq_cluster.machine.surveying import is_due, trim_now
from tests.unit.machine.amends import cancel
from tests.unit.machine.helpers import Node


def cursor(node: Node) -> Cursor:
    topic = node.machine.state.topics["t"]
    return topic.consumers["c"].cursors_of(topic.partitions[0])[0]


def test_a_cursor_that_was_moved_behind_what_is_trimmed_stands_after_a_split_where_a_restart_puts_it():
    node = Node()
    appended = node.publish("a", "b", "c")
    node.result(SetConsumer(0, "t", "c", ConsumerConfig()))
    node.result(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(retention=Retention(messages=2))))
    while is_due(node.machine, "t", node.now_ms):
        node.command(trim_now(node.machine, ["t"], node.now_ms))
    assert (cursor(node).batch_offset, cursor(node).next_offset) == (0, 1)
    assert cancel(node, f"1.{appended.first_id + 2}") == "done"
    moved = cursor(node)
    assert (moved.batch_offset, moved.next_offset) == (1, 1)
    node.reload()
    assert cursor(node) == moved
    assert node.consume() == ["b"]
