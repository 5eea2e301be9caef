"""Topics are made, changed and deleted by commands, and what a deleted one leaves behind goes within bounds."""

from __future__ import annotations

import pytest

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    EXISTING_VERSION,
    MISSING_VERSION,
    DeleteTopic,
    Done,
    Refused,
    Result,
    SetTopic,
    TopicSet,
    Trim,
)
from falconq_cluster.machine.events import TopicDeleted, Trimmed
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from tests.unit.machine.helpers import Node, append, pull


def put(
    topic: str = "t",
    partitions: int | None = None,
    levels: tuple[str, ...] | None = None,
    *,
    if_version: int = ANY_VERSION,
    is_change: bool = False,
    not_after_ms: int = 0,
) -> SetTopic:
    return SetTopic(not_after_ms, topic, if_version, is_change, TopicSettings(partitions, levels))


def delete(topic: str = "t", *, if_version: int = ANY_VERSION, not_after_ms: int = 0) -> DeleteTopic:
    return DeleteTopic(not_after_ms, topic, if_version)


def made(result: Result) -> TopicSet:
    assert isinstance(result, TopicSet), result
    return result


def refused(result: Result) -> str:
    assert isinstance(result, Refused), result
    return result.code


def trim_all(node: Node) -> int:
    """How many commands it took."""
    for count in range(1, 10_000):
        node.command(Trim())
        if not node.machine.state.deletions:
            return count
    raise AssertionError("trimming does not end")


def test_a_topic_is_created_with_its_settings_and_defaults_and_put_again_without_effect():
    node = Node()
    first = made(node.result(put(partitions=3)))
    assert (first.config.partitions, first.config.levels, first.is_new) == (3, ("low", "high"), True)
    applied = node.command(put(partitions=3))
    again = made(applied.results[0])
    assert (again.version, again.is_new) == (first.version, False)
    assert [key for key, _ in applied.changes] == [keys.META]
    view = node.views.topic("t")
    assert view is not None
    assert (view.config, view.version) == (TopicConfig(3), first.version)


def test_each_change_has_a_version_that_nothing_else_ever_has():
    node = Node()
    versions = [made(node.result(put(partitions=n))).version for n in (1, 2, 3)]
    # Also two changes of one entry, and a topic that was deleted and made again.
    versions += [made(result).version for result in node.command(put(partitions=4), put(partitions=5)).results]
    node.result(delete())
    versions.append(made(node.result(put())).version)
    assert len(set(versions)) == len(versions)
    node.reload()
    assert node.machine.state.topics["t"].version == versions[-1]


def test_a_change_keeps_what_it_does_not_give_and_a_put_does_not():
    node = Node()
    node.result(put(partitions=2, levels=("low", "mid", "high")))
    assert made(node.result(put(partitions=4, is_change=True))).config.levels == ("low", "mid", "high")
    assert refused(node.result(put(partitions=4))) == "bad_request"
    assert refused(node.result(put("u", is_change=True))) == "topic_not_found"


@pytest.mark.parametrize(
    ("partitions", "levels", "sentence"),
    [
        (0, None, "'partitions' is 0; a topic has 1 to 256 (partitions_per_topic_max)."),
        (257, None, "'partitions' is 257; a topic has 1 to 256 (partitions_per_topic_max)."),
        (None, (), "'levels' has 0 names; a topic has 1 to 16 levels."),
        (None, tuple(f"l{n}" for n in range(17)), "'levels' has 17 names"),
        (None, ("low", "-high"), "Level 1 is '-high'; a name has 1 to 200 of"),
        (None, ("low", "high", "low"), "Level 'low' is there more than once"),
    ],
)
def test_settings_that_no_topic_may_have_are_refused_with_a_sentence(partitions, levels, sentence):
    node = Node()
    result = node.result(put(partitions=partitions, levels=levels))
    assert refused(result) == "bad_request"
    assert sentence in result.detail  # type: ignore[union-attr]
    assert node.views.topics() == []


def test_partitions_never_shrink_and_levels_are_only_added_at_the_end():
    node = Node()
    node.result(put(partitions=3, levels=("a", "b")))
    for partitions, levels, sentence in [
        (2, ("a", "b"), "the topic has 3; partitions never shrink."),
        (3, ("a",), "levels never change their name or place"),
        (3, ("b", "a"), "levels never change"),
        (3, ("x", "a", "b"), "levels never change"),
        (3, ("a", "c"), "levels never change"),
    ]:
        result = node.result(put(partitions=partitions, levels=levels))
        assert refused(result) == "bad_request"
        assert sentence in result.detail  # type: ignore[union-attr]
    both = node.result(put(partitions=1, levels=("b",)))
    assert isinstance(both, Refused)
    assert "partitions never shrink." in both.detail
    assert "levels never change" in both.detail
    assert made(node.result(put(partitions=4, levels=("a", "b", "c")))).config.levels == ("a", "b", "c")


def test_of_two_changes_that_saw_the_same_version_one_is_refused():
    node = Node()
    version = made(node.result(put())).version
    assert made(node.result(put(partitions=2, if_version=version))).version != version
    assert refused(node.result(put(partitions=3, if_version=version))) == "precondition_failed"
    assert refused(node.result(delete(if_version=version))) == "precondition_failed"
    assert refused(node.result(put(if_version=MISSING_VERSION))) == "precondition_failed"
    assert refused(node.result(put("u", if_version=EXISTING_VERSION))) == "precondition_failed"
    assert refused(node.result(put("u", if_version=version))) == "precondition_failed"
    assert made(node.result(put(partitions=3, if_version=EXISTING_VERSION))).config.partitions == 3
    assert made(node.result(put("u", if_version=MISSING_VERSION))).is_new


def test_what_comes_too_late_or_has_no_possible_name_changes_nothing():
    node = Node(MachineLimits(topics_max=2))
    late = 1
    assert refused(node.result(put(not_after_ms=late))) == "expired"
    assert refused(node.result(put("-t"))) == "bad_request"
    node.result(put("a"))
    node.result(put("b"))
    assert refused(node.result(delete("a", not_after_ms=late))) == "expired"
    assert refused(node.result(put("c"))) == "overloaded"
    node.result(delete("a"))
    # Else making and deleting would pile up work without a bound.
    assert refused(node.result(put("c"))) == "overloaded"
    assert refused(node.result(append("m", topic="c"))) == "overloaded"
    trim_all(node)
    assert made(node.result(put("c"))).is_new


def test_added_partitions_and_levels_are_delivered_from_their_start_whatever_a_consumer_had():
    node = Node()
    node.result(put())
    node.publish("a", level=0)
    node.publish("b", level=1)
    assert node.consume() == ["b", "a"]
    applied = node.command(put(partitions=3, levels=("low", "high", "urgent"), is_change=True))
    assert [key for key, _ in applied.changes] == [keys.addition_key(1 << 20, 1), keys.topic_key("t"), keys.META]
    node.publish("c", level=0, partition=2)
    node.publish("d", level=2, partition=0)
    assert node.views.pending("t", "c") == [1, 0, 1]
    assert node.views.next_offset("t", "c", 2) == 0
    node.reload()
    assert node.views.pending("t", "c") == [1, 0, 1]
    assert node.views.cursor("t", "c", 0) == [1, 2, 0]
    assert node.consume() == ["d", "c"]
    node.reload()
    assert node.consume() == []


def test_a_deleted_topic_is_gone_at_once_and_a_new_one_of_its_name_inherits_nothing():
    node = Node()
    node.publish("a", "b")
    node.pull(1, attempt="x")
    applied = node.command(delete())
    assert applied.results == [Done()]
    assert applied.events == [TopicDeleted("t")]
    assert node.views.topic("t") is None
    assert refused(node.result(pull())) == "topic_not_found"
    assert refused(node.result(delete())) == "topic_not_found"
    assert refused(node.result(append("m", may_create=False))) == "topic_not_found"
    node.publish("c")
    assert node.consume(attempt="x") == ["c"]
    trim_all(node)
    assert [m.message for m in node.views.peek("t", partition=0, offset=0, count=9)] == [b"c"]
    node.reload()
    assert node.consume() == []
    assert node.consume(consumer="other") == ["c"]


def test_trimming_takes_a_bounded_number_of_keys_with_each_command_and_leaves_nothing():
    limits = MachineLimits(trim_keys_max=7)
    node = Node(limits)
    node.result(put("empty"))
    before = {key for key, _ in node.everything()}
    for topic in ("t", "u"):
        node.result(put(topic, partitions=3))
        for n in range(20):
            node.publish(str(n), partition=n % 3, topic=topic)
        node.result(pull(3, topic=topic, attempt="a"))
    node.publish("kept", topic="kept")
    kept = [pair for pair in node.everything() if pair[0][0] == 0x20][-1]
    node.result(delete("t"))
    node.result(delete("u"))
    trimmed = 0
    while node.machine.state.deletions:
        node.reload()
        applied = node.command(Trim())
        assert len(applied.changes) <= 7 + 1
        (event,) = applied.events
        assert isinstance(event, Trimmed)
        assert event.is_over == (not node.machine.state.deletions)
        trimmed += 1
    assert trimmed >= 50 // 7
    left = {key for key, _ in node.everything()}
    assert kept in node.everything()
    assert {key for key in left - before if key[0] in (0x12, 0x13, 0x14, 0x68)} == set()
    assert {key[1:9] for key in left if key[0] == 0x20} == {kept[0][1:9]}
    assert node.command(Trim()).changes[:-1] == []


def test_trimming_takes_a_bounded_size_with_each_command():
    node = Node(MachineLimits(trim_bytes_max=1_000))
    for n in range(10):
        node.publish(f"{n}" * 400)
    node.result(delete())
    sizes = []
    while node.machine.state.deletions:
        (event,) = node.command(Trim()).events
        assert isinstance(event, Trimmed)
        sizes.append(event.size_bytes)
    assert sizes == [3 * 410] * 3 + [410]


def test_what_the_trims_entry_itself_wrote_is_trimmed_by_a_later_one():
    node = Node()
    node.publish("a")
    node.command(append("b"), delete(), Trim(), append("c"))
    assert node.machine.state.deletions
    trim_all(node)
    assert len([key for key, _ in node.everything() if key[0] == 0x20]) == 1
    assert node.consume() == ["c"]


def test_a_restart_in_the_middle_of_trimming_goes_on_where_it_was():
    one, other = Node(MachineLimits(trim_keys_max=5)), Node(MachineLimits(trim_keys_max=5))
    for n in range(30):
        one.publish(str(n), level=n % 2)
    one.result(delete())
    one.publish("new")
    trim_all(one)
    for entry in one.entries:
        other.apply(entry)
        other.reload()
    assert other.machine.digest == one.machine.digest
    assert other.everything() == one.everything()
