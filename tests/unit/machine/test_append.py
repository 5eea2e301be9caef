from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import Append, Appended, Refused
from falconq_cluster.machine.events import LevelGrew, TopicChanged
from falconq_cluster.machine.settings import TopicConfig
from tests.unit.machine.helpers import START_MS, Node, append


def test_offsets_are_dense_over_the_levels_of_a_partition():
    node = Node()
    assert node.publish("a", "b", level=0).base_offset == 0
    assert node.publish("c", level=1).base_offset == 2
    assert node.publish("d", level=0).base_offset == 3


def test_ids_count_on_over_the_operations_of_one_entry():
    node = Node()
    applied = node.command(append("a", "b"), append("c", level=1), append("d", topic="other"))
    assert [result.first_id for result in applied.results if isinstance(result, Appended)] == [0, 2, 3]
    ids = [m.id for m in node.views.peek("t", partition=0, offset=0, count=10)]
    assert ids == ["1.0", "1.1", "1.2"]
    assert [m.id for m in node.views.peek("other", partition=0, offset=0, count=10)] == ["1.3"]


def test_first_message_creates_the_topic_with_one_partition_and_two_levels():
    node = Node()
    applied = node.command(append("a", level=1))
    assert applied.events == [TopicChanged("t"), LevelGrew("t", 0, 1)]
    view = node.views.topic("t")
    assert view is not None
    assert view.config == TopicConfig(1, ("low", "high"))
    assert view.created_ms == START_MS


def test_topics_made_by_one_entry_have_different_numbers():
    node = Node()
    node.command(append("a", topic="x"), append("b", topic="y"))
    numbers = {topic.number for topic in node.machine.state.topics.values()}
    assert len(numbers) == 2
    assert [m.message for m in node.views.peek("y", partition=0, offset=0, count=9)] == [b"b"]


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (append("m", topic="missing", may_create=False), "topic_not_found"),
        (append("m", topic="bad name"), "bad_request"),
        (append("m", topic=""), "bad_request"),
        (append("m", topic="new", partition=1), "unknown_partition"),
        (append("m", topic="new", level=2), "unknown_priority"),
        (append("m", partition=-1), "unknown_partition"),
        (append("m", level=-1), "unknown_priority"),
        (append("m", not_after_ms=START_MS - 1), "expired"),
        (append(), "bad_request"),
        (Append(0, "t", 0, 0, 2, b"x" * 19, may_create=True), "bad_request"),
        (Append(0, "t", 0, 0, 1 << 60, b"x" * 19, may_create=True), "bad_request"),
    ],
)
def test_refused_append_changes_nothing(operation: Append, code: str):
    node = Node()
    node.publish("a")
    before = [pair for pair in node.everything() if pair[0] != b"\x01"]
    applied = node.command(operation)
    (result,) = applied.results
    assert isinstance(result, Refused)
    assert result.code == code
    assert result.detail
    assert [key for key, _ in applied.changes] == [b"\x01"]
    assert applied.events == []
    assert [pair for pair in node.everything() if pair[0] != b"\x01"] == before
    assert node.publish("b").base_offset == 1


def test_operation_at_its_last_moment_is_applied():
    node = Node()
    assert isinstance(node.result(append("a", not_after_ms=START_MS)), Appended)


def test_refused_operation_leaves_the_others_of_its_command_alone():
    node = Node()
    applied = node.command(append("a"), append("b", level=7), append("c"))
    assert [type(result) for result in applied.results] == [Appended, Refused, Appended]
    assert node.consume() == ["a", "c"]


def test_partition_status_counts_messages_and_bytes_per_level():
    node = Node()
    node.publish("12345", "1", level=0)
    node.publish("1", level=1)
    (status,) = node.views.partition_status("t")
    assert (status.first_offset, status.next_offset, status.depth) == (0, 3, [2, 1])
    assert status.size_bytes == 3 * 10 + 7
