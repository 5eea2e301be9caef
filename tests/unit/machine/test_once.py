"""Appends that happen once: keys, producers, the window, and a table that is full."""

from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import (
    Append,
    Appended,
    DeleteTopic,
    Duplicate,
    Refused,
    Result,
    Tick,
    Trim,
)
from falconq_cluster.machine.deduping import DROPPED_PER_COMMAND_MAX, KEYS_PER_APPEND_MAX
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.state import MachineLimits
from tests.unit.machine.helpers import Node, append

WINDOW_MS = 1000
LIMITS = MachineLimits(dedupe_window_ms=WINDOW_MS, dedupe_per_topic_max=3, dedupe_max=5)


def keyed(
    message: str, key: str = "k", *, topic: str = "t", level: int = 0, partition: int = 0, not_after_ms: int = 0
) -> Append:
    return append(message, topic=topic, level=level, partition=partition, not_after_ms=not_after_ms, once=Once(key))


def numbered(message: str, sequence: int, producer: str = "p") -> Append:
    return append(message, once=Once(producer, sequence))


def code_of(result: Result) -> str:
    assert isinstance(result, Refused), result
    assert result.detail
    return result.code


def appended(result: Result) -> Appended:
    assert isinstance(result, Appended), result
    return result


def stored(node: Node, topic: str = "t") -> list[str]:
    return [m.message.decode() for m in node.views.peek(topic, partition=0, offset=0, count=1000)]


def test_a_repeat_gets_the_first_result_and_appends_nothing():
    node = Node()
    node.publish("before")
    first = appended(node.result(keyed("a")))
    index = node.machine.applied_index
    node.now_ms += 10
    for _ in range(3):
        applied = node.command(keyed("a"))
        assert applied.results == [Duplicate("t", first, index)]
        assert [key for key, _ in applied.changes] == [b"\x01"]
        assert applied.events == []
        node.reload()
    assert stored(node) == ["before", "a"]


def test_a_repeat_in_the_same_command_is_one():
    node = Node()
    first, second, third = node.command(keyed("a"), keyed("a"), keyed("a", "other")).results
    assert second == Duplicate("t", appended(first), 1)
    assert isinstance(third, Appended)
    assert stored(node) == ["a", "a"]


def test_a_repeat_that_comes_to_another_partition_is_still_one():
    # Round robin picks another partition for each try.
    node = Node()
    node.add_topic("t", TopicConfig(partitions=2))
    first = appended(node.result(keyed("a", partition=1)))
    assert node.result(keyed("a", partition=0)) == Duplicate("t", first, node.machine.applied_index - 1)


def test_a_new_topic_of_a_deleted_ones_name_knows_none_of_its_keys():
    node, restarting = Node(), Node()
    first = appended(node.result(keyed("a")))
    node.command(DeleteTopic(0, "t", 0))
    node.command(Trim())
    assert appended(node.result(keyed("a"))) == first
    # The old row goes with its window, also on a node that has read it from its store.
    node.now_ms += MachineLimits().dedupe_window_ms
    node.command(Tick())
    for entry in node.entries:
        restarting.apply(entry)
        restarting.reload()
    assert restarting.machine.digest == node.machine.digest
    assert not [key for key, _ in node.everything() if key[0] == 0x60]


@pytest.mark.parametrize("other", [keyed("b"), keyed("a", level=1)])
def test_the_same_key_with_something_else_is_refused_and_the_first_stays_known(other: Append):
    node = Node()
    first = appended(node.result(keyed("a")))
    assert code_of(node.result(other)) == "key_reused"
    assert node.result(keyed("a")) == Duplicate("t", first, 1)
    assert stored(node) == ["a"]


def test_keys_of_topics_and_ids_of_producers_are_apart():
    node = Node()
    for operation in (keyed("a", "x"), keyed("a", "x", topic="other"), numbered("a", 1, "x")):
        assert isinstance(node.result(operation), Appended)


def test_a_refused_append_leaves_its_key_free():
    node = Node()
    assert code_of(node.result(keyed("a", partition=7))) == "unknown_partition"
    assert isinstance(node.result(keyed("a")), Appended)


def test_a_repeat_that_comes_too_late_is_refused_as_expired():
    node = Node()
    node.result(keyed("a"))
    assert code_of(node.result(keyed("a", not_after_ms=node.now_ms - 1))) == "expired"


def test_a_producer_counts_from_one_and_each_sequence_is_appended_once():
    node = Node()
    results = [appended(node.result(numbered(f"{n}", n))) for n in (1, 2, 3)]
    node.reload()
    assert node.result(numbered("3", 3)) == Duplicate("t", results[2], 3)
    assert node.result(numbered("1", 1)) == Duplicate("t", None, 0)
    assert isinstance(node.result(numbered("4", 4)), Appended)
    assert stored(node) == ["1", "2", "3", "4"]


def test_a_gap_is_refused_with_the_sequence_that_is_next():
    node = Node()
    result = node.result(numbered("b", 2))
    assert code_of(result) == "sequence_gap"
    assert "its next sequence is 1, not 2" in str(result)
    node.result(numbered("a", 1))
    result = node.result(numbered("c", 3))
    assert code_of(result) == "sequence_gap"
    assert "its next sequence is 2, not 3" in str(result)
    assert stored(node) == ["a"]


def test_the_last_sequence_with_another_message_is_refused():
    node = Node()
    node.result(numbered("a", 1))
    assert code_of(node.result(numbered("b", 1))) == "key_reused"


def test_a_key_is_known_until_its_window_is_over():
    node = Node(LIMITS)
    node.result(keyed("a"))
    node.now_ms += WINDOW_MS - 1
    assert isinstance(node.result(keyed("a")), Duplicate)
    node.now_ms += 1
    assert isinstance(node.result(keyed("a")), Appended)
    assert isinstance(node.result(keyed("a")), Duplicate)


def test_the_window_of_a_producer_begins_with_its_last_append():
    node = Node(LIMITS)
    for sequence in (1, 2, 3):
        assert isinstance(node.result(numbered("a", sequence)), Appended)
        node.now_ms += WINDOW_MS - 1
    assert isinstance(node.result(numbered("a", 3)), Duplicate)
    node.now_ms += 1
    # What nobody remembers is refused, never appended twice and never called a repeat.
    assert code_of(node.result(numbered("a", 3))) == "sequence_gap"
    assert code_of(node.result(numbered("a", 4))) == "sequence_gap"
    assert isinstance(node.result(numbered("a", 1)), Appended)


def test_a_full_table_refuses_new_keys_and_forgets_none_early():
    node = Node(LIMITS)
    for key in "abc":
        assert isinstance(node.result(keyed("m", key)), Appended)
        node.now_ms += 10
    assert code_of(node.result(keyed("m", "d"))) == "dedupe_full"
    assert all(isinstance(node.result(keyed("m", key)), Duplicate) for key in "abc")
    assert isinstance(node.result(append("without a key")), Appended)
    assert isinstance(node.result(keyed("m", "d", topic="other")), Appended)
    node.now_ms += WINDOW_MS - 30
    assert isinstance(node.result(keyed("m", "d")), Appended)
    assert code_of(node.result(keyed("m", "e"))) == "dedupe_full"


def test_a_topic_whose_keys_are_over_has_room_whatever_others_remember():
    limits = MachineLimits(dedupe_window_ms=WINDOW_MS, dedupe_per_topic_max=1)
    node = Node(limits)
    node.command(*(keyed("m", f"{n}", topic=f"t{n}") for n in range(40)), keyed("m", "a"))
    node.now_ms += WINDOW_MS
    assert isinstance(node.result(keyed("m", "b")), Appended)


def test_a_producer_that_is_known_goes_on_when_the_table_is_full():
    node = Node(LIMITS)
    node.result(numbered("a", 1))
    for key in "ab":
        node.result(keyed("m", key))
    assert code_of(node.result(keyed("m", "c"))) == "dedupe_full"
    assert isinstance(node.result(numbered("a", 2)), Appended)


def test_all_topics_together_have_a_limit_too():
    node = Node(LIMITS)
    for key in "abcde":
        assert isinstance(node.result(keyed("m", key, topic=f"t{key}")), Appended)
    assert code_of(node.result(keyed("m", "f", topic="tf"))) == "dedupe_full"
    node.now_ms += WINDOW_MS
    assert isinstance(node.result(keyed("m", "f", topic="tf")), Appended)


def test_rows_that_are_over_go_with_any_command_and_never_many_at_once():
    node = Node(MachineLimits(dedupe_window_ms=WINDOW_MS))
    node.command(*(keyed("m", f"{n}") for n in range(30)))
    node.now_ms += WINDOW_MS
    assert len(node.command(Tick()).changes) == DROPPED_PER_COMMAND_MAX + 1
    # Batch, partition and meta beside them.
    assert len(node.command(keyed("m", "29")).changes) <= 3 + KEYS_PER_APPEND_MAX + DROPPED_PER_COMMAND_MAX
    for _ in range(4):
        node.command(Tick())
    assert node.views.dedupe_count == 1
    assert len([key for key, _ in node.everything() if key[0] == 0x60]) == 1


@pytest.mark.parametrize("once", [Once(""), Once("k" * 257), Once("p", -1)])
def test_a_name_that_cant_be_kept_is_refused(once: Once):
    node = Node()
    assert code_of(node.result(append("a", once=once))) == "bad_request"
    assert stored(node) == []


def test_a_restarted_node_drops_the_same_rows_as_the_others():
    one, other = Node(LIMITS), Node(LIMITS)
    for turn in range(30):
        operation = numbered("m", turn // 3 + 1) if turn % 3 == 0 else keyed("m", f"{turn}", topic=f"t{turn % 2}")
        one.now_ms += 200
        applied = one.command(operation)
        other.reload()
        assert other.apply(one.entries[-1]) == applied
    assert one.everything() == other.everything()
