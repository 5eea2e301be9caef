"""Appends that happen once: keys, producers, the window, and a table that is full."""

from __future__ import annotations

import msgspec
import pytest

from falconq_cluster.machine import keys, rows
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    Append,
    Appended,
    DeleteTopic,
    Duplicate,
    Refused,
    Result,
    SetTopic,
    Tick,
    Trim,
)
from falconq_cluster.machine.deduping import DROPPED_PER_COMMAND_MAX, KEYS_PER_APPEND_MAX
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.settings import DEDUPE_WINDOW_MS, TopicConfig, TopicSettings
from tests.unit.machine.helpers import Node, append

WINDOW_MS = DEDUPE_WINDOW_MS
LIMITS = MachineLimits(dedupe_per_topic_max=3, dedupe_max=5)


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
    assert appended(node.result(keyed("a"))) == first
    assert node.views.dedupe_count == 2
    # The old row goes with the rest of the topic, also on a node that has read it from its store.
    node.command(Trim())
    assert node.views.dedupe_count == 1
    assert isinstance(node.result(keyed("a")), Duplicate)
    for entry in node.entries:
        restarting.apply(entry)
        restarting.reload()
    assert restarting.machine.digest == node.machine.digest
    assert restarting.views.dedupe_count == len([key for key, _ in node.everything() if key[:1] == keys.ONCE]) == 1


def test_a_deleted_topics_keys_go_a_bounded_number_with_each_trim():
    node = Node(MachineLimits(trim_keys_max=50))
    for number in range(4):
        node.command(*(keyed("m", f"{number}.{n}") for n in range(60)))
    node.command(DeleteTopic(0, "t", ANY_VERSION))
    while node.machine.state.deletions:
        assert len(node.command(Trim()).changes) <= 50 + DROPPED_PER_COMMAND_MAX + 1
        node.reload()
    assert node.views.dedupe_count == 0
    assert {key[:1] for key, _ in node.everything()} == {keys.META}


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
    limits = MachineLimits(dedupe_per_topic_max=1)
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
    node = Node(MachineLimits())
    node.command(*(keyed("m", f"{n}") for n in range(30)))
    node.now_ms += WINDOW_MS
    assert len(node.command(Tick()).changes) == DROPPED_PER_COMMAND_MAX + 1
    # Batch, partition and meta beside them.
    assert len(node.command(keyed("m", "29")).changes) <= 3 + KEYS_PER_APPEND_MAX + DROPPED_PER_COMMAND_MAX
    for _ in range(4):
        node.command(Tick())
    assert node.views.dedupe_count == 1
    assert len([key for key, _ in node.everything() if key[0] == 0x60]) == 1


def set_window(node: Node, window_ms: int, topic: str = "t") -> None:
    given = TopicSettings(dedupe_window_ms=window_ms)
    result = node.result(SetTopic(0, topic, ANY_VERSION, is_change=False, given=given))
    assert not isinstance(result, Refused), result


def test_each_topic_has_its_own_window():
    node = Node()
    for topic, window_ms in (("short", 1000), ("long", 604_800_000)):
        set_window(node, window_ms, topic)
        node.result(keyed("m", topic=topic))
    node.result(keyed("m", topic="default"))
    for ms, known in ((999, 3), (1, 2), (WINDOW_MS - 1001, 2), (1, 1), (604_800_000 - WINDOW_MS - 1, 1), (1, 0)):
        node.now_ms += ms
        node.command(Tick())
        node.reload()
        assert node.views.dedupe_count == known


def test_a_shorter_window_forgets_nothing_that_was_promised():
    node = Node()
    set_window(node, 10_000)
    node.result(keyed("m", "before"))
    node.now_ms += 1000
    set_window(node, 1000)
    node.result(keyed("m", "after"))
    for ms, before, after in ((999, Duplicate, Duplicate), (1, Duplicate, Appended), (7999, Duplicate, Appended)):
        node.now_ms += ms
        node.reload()
        assert isinstance(node.result(keyed("m", "before")), before)
        assert isinstance(node.result(keyed("m", "after")), after)
    node.now_ms += 1
    assert isinstance(node.result(keyed("m", "before")), Appended)


def test_a_longer_window_holds_for_what_is_appended_from_then_on():
    node = Node()
    set_window(node, 1000)
    node.result(keyed("m", "before"))
    set_window(node, 5000)
    node.result(keyed("m", "after"))
    node.now_ms += 1000
    assert isinstance(node.result(keyed("m", "before")), Appended)
    node.now_ms += 3999
    assert isinstance(node.result(keyed("m", "after")), Duplicate)
    node.now_ms += 1
    assert isinstance(node.result(keyed("m", "after")), Appended)


def test_a_producer_that_goes_on_is_known_as_long_as_before_its_window_was_shortened():
    node = Node()
    set_window(node, 10_000)
    node.result(numbered("a", 1))
    set_window(node, 1000)
    node.now_ms += 100
    node.result(numbered("b", 2))
    node.now_ms += 9_899
    assert node.result(numbered("a", 1)) == Duplicate("t", None, 0)
    node.now_ms += 1
    assert isinstance(node.result(numbered("a", 1)), Appended)


def test_a_row_of_before_there_were_windows_is_known_for_five_minutes():
    node = Node()
    set_window(node, 1000)
    first = appended(node.result(keyed("a")))
    ((key, value),) = [(key, value) for key, value in node.everything() if key[:1] == keys.ONCE]
    row = msgspec.structs.replace(rows.decode_row(value, rows.OnceRow), until_ms=0)
    node.store.write([(key, rows.encode_row(row))])
    node.reload()
    node.now_ms += 299_999
    assert isinstance(node.result(keyed("a")), Duplicate)
    node.now_ms += 1
    assert appended(node.result(keyed("a"))).base_offset == first.base_offset + 1


def test_what_is_over_first_goes_first_whenever_it_was_appended():
    node = Node(MachineLimits(dedupe_max=3))
    for topic, window_ms in (("long", 9000), ("middle", 2000), ("short", 1000)):
        set_window(node, window_ms, topic)
        node.result(keyed("m", topic=topic))
    assert code_of(node.result(keyed("m", topic="other"))) == "dedupe_full"
    node.now_ms += 1000
    assert isinstance(node.result(keyed("m", topic="other")), Appended)
    assert code_of(node.result(keyed("m", topic="another"))) == "dedupe_full"
    node.now_ms += 1000
    assert isinstance(node.result(keyed("m", topic="another")), Appended)
    assert isinstance(node.result(keyed("m", topic="long")), Duplicate)


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
