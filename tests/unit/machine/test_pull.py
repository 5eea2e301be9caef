from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import Pull, Pulled, Range, Refused
from falconq_cluster.machine.levels import TAIL_KEPT_COUNT
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import TopicConfig
from tests.unit.machine.helpers import START_MS, Node, append, pull


def test_more_urgent_messages_come_first_and_each_level_in_order():
    node = Node()
    node.publish("low1", "low2", level=0)
    node.publish("high1", level=1)
    node.publish("low3", level=0)
    node.publish("high2", level=1)
    assert node.consume() == ["high1", "high2", "low1", "low2", "low3"]


def test_mixed_priorities_over_many_batches_are_never_skipped_or_repeated():
    node = Node()
    seen: list[str] = []
    for turn in range(50):
        node.publish(f"l{turn}a", f"l{turn}b", f"l{turn}c", level=0)
        seen += node.consume(2)
        node.publish(f"h{turn}", level=1)
        seen += node.consume(1)
    seen += node.consume(1000)
    assert len(seen) == len(set(seen)) == 200
    assert [m for m in seen if m[0] == "l"] == [f"l{turn}{part}" for turn in range(50) for part in "abc"]
    assert [m for m in seen if m[0] == "h"] == [f"h{turn}" for turn in range(50)]


def test_consumers_get_everything_each():
    node = Node()
    node.publish("a", "b")
    assert node.consume(consumer="x") == ["a", "b"]
    assert node.consume(consumer="y") == ["a", "b"]
    assert node.consume(consumer="x") == []


def test_pull_sees_what_an_earlier_operation_of_its_command_appended():
    node = Node()
    applied = node.command(append("a"), pull(), append("b", level=1), pull())
    pulls = [result for result in applied.results if isinstance(result, Pulled)]
    assert [[m.message for m in node.read(pulled)] for pulled in pulls] == [[b"a"], [b"b"]]


def test_most_urgent_level_of_any_partition_goes_first_and_ties_after_the_last_served():
    node = Node()
    node.add_topic("t", TopicConfig(3, ("low", "mid", "high")))
    for partition in range(3):
        node.publish(f"l{partition}a", f"l{partition}b", level=0, partition=partition)
    node.publish("m1", level=1, partition=1)
    node.publish("h2", level=2, partition=2)
    assert node.consume(3) == ["h2", "m1", "l0a"]
    assert node.consume(2) == ["l1a", "l1b"]
    node.reload()
    assert node.consume(2) == ["l2a", "l2b"]
    assert node.consume() == ["l0b"]


def test_one_partition_can_be_asked_alone():
    node = Node()
    node.add_topic("t", TopicConfig(2))
    node.publish("a", partition=0, level=1)
    node.publish("b", partition=1)
    assert node.consume(partition=1) == ["b"]
    assert node.consume(partition=1) == []
    assert node.consume() == ["a"]


def test_batch_is_taken_in_parts_and_ranges_name_it():
    node = Node()
    node.publish("a", level=1)
    node.publish("b", "c", "d")
    assert node.pull(2).ranges == [Range(0, 1, 0, 0, 1), Range(0, 0, 1, 1, 1)]
    node.reload()
    assert node.pull(1).ranges == [Range(0, 0, 1, 2, 1)]
    assert node.pull(9).ranges == [Range(0, 0, 1, 3, 1)]
    assert node.pull(9).ranges == []


def test_bytes_bound_a_pull_but_one_message_is_always_given():
    node = Node()
    node.publish("a" * 90, "b" * 90, "c" * 90)
    node.publish("d" * 40)
    assert [r.count for r in node.pull(bytes_max=1).ranges] == [1]
    assert [r.count for r in node.pull(bytes_max=249).ranges] == [2]
    assert [r.count for r in node.pull(bytes_max=-5).ranges] == [1]


def test_pull_never_takes_a_smaller_message_past_one_that_does_not_fit():
    node = Node()
    node.publish("a" * 10, level=1)
    node.publish("b" * 500, level=1)
    node.publish("c", level=0)
    assert [r.count for r in node.pull(bytes_max=100).ranges] == [1]
    assert node.consume() == ["b" * 500, "c"]


def test_count_of_one_pull_is_bounded_by_the_limits():
    node = Node(MachineLimits(pull_count_max=3))
    node.publish(*"abcdef")
    assert node.consume(1 << 60) == ["a", "b", "c"]


def test_start_offset_is_the_lowest_that_was_not_delivered_before():
    node = Node()
    node.publish("a", "b", level=0)
    node.publish("c", level=1)
    assert node.pull(1).start_offsets == {0: 0}
    assert node.views.next_offset("t", "c", 0) == 0
    assert node.pull(1).start_offsets == {0: 0}
    assert node.views.next_offset("t", "c", 0) == 1
    assert node.pull(1).start_offsets == {0: 1}
    assert node.views.next_offset("t", "c", 0) == 3
    assert node.pull(1).start_offsets == {0: 3}


def test_backlog_longer_than_the_tail_in_memory_is_read_from_the_store():
    node = Node()
    batches = 5 * TAIL_KEPT_COUNT
    for number in range(batches):
        node.publish(str(number))
    assert node.consume(7) == [str(n) for n in range(7)]
    node.reload()
    node.publish("last")
    assert node.consume(1000) == [*(str(n) for n in range(7, batches)), "last"]


def test_empty_pull_creates_a_consumer_but_never_a_topic():
    node = Node()
    refused = node.result(pull())
    assert isinstance(refused, Refused)
    assert refused.code == "topic_not_found"
    assert node.views.topics() == []
    node.publish("a", topic="t")
    assert not node.views.consumer_exists("t", "c")
    node.consume()
    assert node.views.consumer_exists("t", "c")
    node.reload()
    assert node.views.consumer_exists("t", "c")


def test_empty_pull_of_a_known_consumer_writes_nothing():
    node = Node()
    node.publish("a")
    node.consume()
    applied = node.command(pull(attempt="x"))
    assert [key for key, _ in applied.changes] == [b"\x01"]


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (pull(partition=1), "unknown_partition"),
        (pull(partition=-2), "unknown_partition"),
        (pull(0), "bad_request"),
        (pull(-1), "bad_request"),
        (pull(consumer=""), "bad_request"),
        (pull(consumer="a/b"), "bad_request"),
        (pull(attempt="x" * 201), "bad_request"),
        (pull(not_after_ms=START_MS - 1), "expired"),
        (pull(topic="missing", not_after_ms=START_MS - 1), "expired"),
        (pull(topic="missing"), "topic_not_found"),
    ],
)
def test_refused_pull_moves_no_cursor_and_creates_nothing(operation: Pull, code: str):
    node = Node()
    node.publish("a", "b")
    applied = node.command(operation)
    (result,) = applied.results
    assert isinstance(result, Refused)
    assert result.code == code
    assert [key for key, _ in applied.changes] == [b"\x01"]
    assert node.machine.state.topics["t"].consumers == {}
    assert node.consume() == ["a", "b"]


def test_limits_on_topics_and_consumers_refuse_early():
    node = Node(MachineLimits(topics_max=1, consumers_per_topic_max=1))
    node.publish("a")
    node.consume(consumer="x")
    for operation in (append("b", topic="other"), pull(consumer="y")):
        refused = node.result(operation)
        assert isinstance(refused, Refused)
        assert refused.code == "overloaded"
    assert node.views.topics() == ["t"]


def test_repeated_attempt_gets_the_same_batch_and_moves_nothing():
    node = Node()
    node.publish("a", "b", "c")
    first = node.pull(2, attempt="one")
    node.reload()
    again = node.pull(2, attempt="one")
    assert again.is_replay
    assert (again.ranges, again.start_offsets) == (first.ranges, first.start_offsets)
    assert node.consume(attempt="two") == ["c"]
    assert node.consume(attempt="one") == ["a", "b"]


def test_attempts_belong_to_their_consumer():
    node = Node()
    node.publish("a")
    assert node.consume(consumer="x", attempt="one") == ["a"]
    assert node.consume(consumer="y", attempt="one") == ["a"]
    assert not node.pull(consumer="z", attempt="one").is_replay


def test_attempt_that_got_nothing_is_not_remembered():
    node = Node()
    node.publish("a")
    node.consume()
    assert node.consume(attempt="one") == []
    node.publish("b")
    assert node.consume(attempt="one") == ["b"]


def test_oldest_attempt_is_dropped_for_the_one_after_the_sixteenth():
    node = Node()
    node.publish(*(str(n) for n in range(18)))
    for number in range(17):
        node.consume(1, attempt=f"a{number}")
    assert node.pull(1, attempt="a1").is_replay
    assert node.consume(1, attempt="a0") == ["17"]
    assert sum(key[:1] == b"\x14" for key, _ in node.everything()) == 16
    node.reload()
    assert list(node.machine.state.topics["t"].consumers["c"].attempts)[:2] == ["a2", "a3"]


def test_attempt_is_forgotten_after_five_minutes_of_log_time():
    node = Node()
    node.publish("a", "b")
    assert node.consume(1, attempt="one") == ["a"]
    node.now_ms += 299_999
    assert node.consume(1, attempt="one") == ["a"]
    node.now_ms += 1
    assert node.consume(1, attempt="one") == ["b"]
    assert sum(key[:1] == b"\x14" for key, _ in node.everything()) == 1


def test_batches_in_memory_stay_bounded_however_long_the_backlog():
    node = Node()
    for number in range(5 * TAIL_KEPT_COUNT):
        node.publish(str(number))
        (level, _) = node.machine.state.topics["t"].partitions[0].levels
        assert len(level.tail) <= 2 * TAIL_KEPT_COUNT
