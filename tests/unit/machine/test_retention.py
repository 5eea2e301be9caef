"""What a topic need not keep is trimmed for everybody at once, and leaves the store within bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    Leased,
    LeasePull,
    Refused,
    Result,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.events import TopicPurged, Trimmed
from falconq_cluster.machine.keeping import Purge, Purged, TrimLevels
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import DEFAULT_LIMITS
from falconq_cluster.machine.settings import DROP_OLDEST, Retention, TopicSettings
from falconq_cluster.machine.surveying import is_due, trim_now
from tests.unit.machine.helpers import Node, append

MIB = 1 << 20


def topic(
    node: Node,
    retention: Retention,
    overflow: str = DROP_OLDEST,
    *,
    partitions: int = 1,
    levels: tuple[str, ...] = ("low", "high"),
) -> None:
    given = TopicSettings(partitions, levels, retention=retention, overflow=overflow)
    assert isinstance(node.result(SetTopic(0, "t", 0, is_change=False, given=given)), TopicSet)


def trim(node: Node) -> int:
    """How many commands it takes until nothing is due."""
    count = 0
    while is_due(node.machine, "t", node.now_ms):
        node.command(trim_now(node.machine, ["t"], node.now_ms))
        count += 1
        assert count < 10_000
    return count


def kept(node: Node, partition: int | None = None) -> list[str]:
    found = node.views.peek("t", partition=partition, offset=0, count=100_000, bytes_max=1 << 40)
    return [message.message.decode() for message in found]


def stored(node: Node) -> list[int]:
    """Base offsets of the batches that are in the store."""
    return sorted(keys.read_batch_key(key).base for key in node.store.scan_keys(keys.BATCH, b"\x21"))


def refused(result: Result) -> str:
    assert isinstance(result, Refused), result
    return result.code


def lease(node: Node, count: int, nonce: int = 1) -> list[int]:
    operation = LeasePull(0, "t", "c", count, 1 << 20, 30_000, 0, nonce.to_bytes(16, "big"), 0)
    (result,) = node.command(operation).results
    assert isinstance(result, Leased)
    found = [leased.messages for leased in result.ranges]
    return [offset for each in found for offset in range(each.offset, each.offset + each.count)]


def ack(node: Node, *offsets: int, nonce: int = 1) -> list[tuple[int, str, str]]:
    items = [SettleItem(SettleKind.ACK, 0, offset, nonce.to_bytes(16, "big")) for offset in offsets]
    (result,) = node.command(Settle(0, "t", "c", items)).results
    return result.failed  # type: ignore[union-attr]


def lost(node: Node, consumer: str = "c") -> int:
    topic = node.machine.state.topics["t"]
    state = topic.consumers[consumer]
    return sum(cursor.lost_count for partition in topic.partitions for cursor in state.cursors_of(partition))


def test_a_topic_keeps_its_newest_messages_exactly_also_out_of_larger_batches():
    node = Node()
    topic(node, Retention(messages=5))
    node.publish("0", "1", "2", "3")
    node.publish("4", level=1)
    node.now_ms += 10
    node.publish("5", "6")
    trim(node)
    assert kept(node) == ["2", "3", "4", "5", "6"]
    (status,) = node.views.partition_status("t")
    assert (status.first_offset, status.next_offset, status.depth) == (2, 7, [4, 1])
    # A batch is erased when nothing of it is kept.
    assert stored(node) == [0, 4, 5]
    node.publish("7", "8")
    trim(node)
    assert (kept(node), stored(node)) == (["4", "5", "6", "7", "8"], [4, 5, 7])


def test_by_size_the_oldest_of_all_levels_and_partitions_goes_first():
    node = Node()
    topic(node, Retention(messages=2), partitions=2)
    for text, level, partition in [("a", 1, 1), ("b", 0, 0), ("c", 1, 0), ("d", 0, 1)]:
        node.now_ms += 1
        node.publish(text, level=level, partition=partition)
    trim(node)
    assert sorted(kept(node)) == ["c", "d"]


def test_a_topic_keeps_no_more_bytes_than_it_may_and_no_message_less_than_it_must():
    node = Node()
    topic(node, Retention(bytes=MIB))
    text = "x" * (MIB // 8 - 10)
    for _ in range(3):
        node.publish(text, text, text, text)
    trim(node)
    (status,) = node.views.partition_status("t")
    assert (status.size_bytes, status.depth, status.first_offset) == (MIB, [8, 0], 4)
    assert refused(node.result(append("y" * MIB))) == "body_too_large"


def test_what_is_too_old_by_log_time_goes_and_what_is_a_millisecond_younger_stays():
    node = Node()
    topic(node, Retention(ms=1_000))
    node.publish("a", "b")
    node.now_ms += 1
    node.publish("c", level=1)
    node.now_ms += 998
    assert trim(node) == 0
    node.now_ms += 1
    trim(node)
    assert kept(node) == ["c"]
    node.now_ms += 1
    trim(node)
    assert (kept(node), node.views.partition_status("t")[0].first_offset) == ([], 3)
    node.publish("d")
    assert kept(node) == ["d"]


def test_with_acked_only_what_every_consumer_has_settled_goes_and_with_no_consumer_nothing():
    node = Node()
    topic(node, Retention(acked=True))
    node.publish(*"abcdef")
    assert trim(node) == 0
    assert node.consume(4, consumer="x") == ["a", "b", "c", "d"]
    trim(node)
    assert kept(node) == ["e", "f"]
    assert node.consume(1, consumer="late") == ["e"]
    node.consume(9, consumer="x")
    trim(node)
    assert kept(node) == ["f"]
    # What is in hand is not settled.
    assert lease(node, 1) == [5]
    node.consume(9, consumer="late")
    assert trim(node) == 0
    ack(node, 5)
    trim(node)
    assert (kept(node), stored(node)) == ([], [])
    assert [lost(node, name) for name in ("x", "late", "c")] == [0, 0, 0]


def test_consumers_go_on_at_what_is_kept_and_count_what_they_lost():
    node = Node()
    topic(node, Retention(messages=3))
    node.publish(*"abcdef")
    node.publish("g", level=1)
    assert node.consume(3, consumer="c") == ["g", "a", "b"]
    node.pull(1, consumer="other")
    trim(node)
    assert kept(node) == ["e", "f", "g"]
    assert node.views.pending("t", "c") == [2, 0]
    assert node.views.next_offset("t", "c", 0) == 4
    node.reload()
    assert node.consume(9, consumer="c") == ["e", "f"]
    assert node.consume(9, consumer="other") == ["e", "f"]
    # A consumer that comes later has lost nothing.
    assert node.views.pending("t", "new") == [2, 1]
    assert node.views.cursor("t", "new", 0) == [4, 0]
    assert node.consume(9, consumer="new") == ["g", "e", "f"]
    assert [lost(node, name) for name in ("c", "other", "new")] == [2, 4, 0]
    node.reload()
    assert [lost(node, name) for name in ("c", "other", "new")] == [2, 4, 0]


def test_trimming_a_leased_message_ends_its_lease_and_counts_as_lost():
    node = Node()
    topic(node, Retention(messages=2))
    node.publish(*"abcd")
    assert lease(node, 4) == [0, 1, 2, 3]
    node.command(trim_now(node.machine, ["t"], node.now_ms))
    # It is refused from the moment it is trimmed, whether its lease was looked at by then or not.
    (failed,) = ack(node, 0)
    assert (failed[1], "trimmed" in failed[2]) == ("lease_lost", True)
    assert lost(node) == 1
    trim(node)
    assert (lost(node), len(node.machine.state.topics["t"].consumers["c"].holdings)) == (2, 2)
    assert ack(node, 2, 3) == []
    assert not list(node.store.scan_keys(keys.LEASE, keys.prefix_end(keys.LEASE)))


def test_what_was_trimmed_while_it_waited_to_be_given_again_is_not_given_again():
    node = Node()
    topic(node, Retention())
    node.publish(*"ab")
    lease(node, 2)
    node.now_ms += 30_000
    node.publish("c")
    node.result(Purge(0, "t"))
    assert lease(node, 1, nonce=2) == []
    node.publish("d")
    assert lease(node, 9, nonce=3) == [3]
    assert lost(node) == 3


def test_a_purge_empties_the_topic_for_everybody_and_writes_a_row_for_each_partition():
    node = Node()
    topic(node, Retention(), partitions=3)
    for partition in (0, 2):
        for number in range(100):
            node.publish(f"{number}", partition=partition, level=number % 2)
    node.pull(5, consumer="c")
    applied = node.command(Purge(0, "t"))
    assert applied.results == [Purged(200)]
    assert [key[:1] for key, _ in applied.changes] == [keys.PARTITION, keys.PARTITION, keys.META]
    assert [event.count for event in applied.events if isinstance(event, TopicPurged)] == [200]
    assert (kept(node), node.views.pending("t", "c"), node.views.pending("t", "new")) == ([], [0, 0], [0, 0])
    assert [status.first_offset for status in node.views.partition_status("t")] == [100, 0, 100]
    assert len(stored(node)) == 200
    node.publish("after")
    trim(node)
    assert len(stored(node)) == 1
    assert node.consume(9) == ["after"]
    assert node.machine.state.trimmable == {}
    assert refused(node.result(Purge(0, "nothing"))) == "topic_not_found"
    assert refused(node.result(Purge(node.now_ms - 1, "t"))) == "expired"
    assert kept(node) == ["after"]


def test_what_an_attempt_names_is_not_erased_before_the_attempt_is_over():
    node = Node()
    topic(node, Retention(messages=1))
    node.publish("a", "b")
    node.publish("c")
    assert node.consume(1, attempt="once") == ["a"]
    trim(node)
    assert (kept(node), stored(node)) == (["c"], [0, 2])
    assert node.consume(1, attempt="once") == ["a"]
    node.now_ms += node.limits.attempt_ms
    trim(node)
    assert stored(node) == [2]
    assert node.consume(9, attempt="once") == ["c"]


@pytest.mark.parametrize("batch_max", [1, 3])
def test_one_command_trims_and_erases_no_more_than_its_bounds(batch_max: int):
    limits = MachineLimits(trim_keys_max=5, trim_batches_max=batch_max)
    node = Node(limits)
    topic(node, Retention(messages=1), partitions=2)
    for number in range(20):
        node.publish(str(number), partition=number % 2, level=number % 2)
    sizes = []
    while is_due(node.machine, "t", node.now_ms):
        applied = node.command(trim_now(node.machine, ["t"], node.now_ms))
        sizes.append(len(applied.changes) - 1)
        (event,) = applied.events
        assert isinstance(event, Trimmed)
        assert event.count <= batch_max
    assert max(sizes) <= 5 + batch_max
    assert len(sizes) >= 19 / batch_max
    assert (len(kept(node)), len(stored(node))) == (1, 1)


def test_by_bytes_one_command_erases_no_more_than_it_may():
    node = Node(replace(DEFAULT_LIMITS, trim_bytes_max=3_000))
    topic(node, Retention())
    for _ in range(20):
        node.publish("x" * 990)
    node.result(Purge(0, "t"))
    node.command(trim_now(node.machine, ["t"], node.now_ms))
    assert len(stored(node)) == 17
    trim(node)
    assert stored(node) == []


def test_what_the_same_entry_wrote_is_erased_by_a_later_one():
    node = Node()
    topic(node, Retention(messages=1))
    node.command(append("a"), append("b"), append("c"), TrimLevels(["t"]), Purge(0, "t"), TrimLevels(["t"]))
    assert (kept(node), stored(node)) == ([], [0, 1, 2])
    trim(node)
    assert stored(node) == []
    other = Node()
    for entry in node.entries:
        other.apply(entry)
        other.reload()
    assert other.everything() == node.everything()


def test_a_topic_that_is_gone_or_keeps_everything_is_trimmed_without_effect():
    node = Node()
    topic(node, Retention())
    node.publish("a")
    applied = node.command(TrimLevels(["t", "nothing"]))
    assert [key for key, _ in applied.changes] == [keys.META]
    assert kept(node) == ["a"]


@pytest.mark.parametrize(
    ("retention", "overflow", "sentence"),
    [
        (Retention(ms=999), DROP_OLDEST, "'retention' has 999 for 'ms'; it is from 1000 to"),
        (Retention(bytes=MIB - 1), DROP_OLDEST, "for 'bytes'; it is from 1048576 to"),
        (Retention(messages=-1), DROP_OLDEST, "for 'messages'; it is from 1 to"),
        (Retention(), "drop", "'overflow' is 'drop'; it is one of drop-oldest, reject, drop-lowest."),
    ],
)
def test_settings_that_no_topic_may_have_are_refused_with_a_sentence(
    retention: Retention, overflow: str, sentence: str
):
    given = TopicSettings(retention=retention, overflow=overflow)
    result = Node().result(SetTopic(0, "t", 0, is_change=False, given=given))
    assert refused(result) == "bad_request"
    assert sentence in result.detail  # type: ignore[union-attr]
