from __future__ import annotations

from random import Random

import pytest

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine.commands import Append, Range, SetTopic
from falconq_cluster.machine.keeping import TrimLevels
from falconq_cluster.machine.names import Named
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import DROP_LOWEST, Retention, TopicConfig, TopicSettings
from falconq_cluster.machine.views import Order
from tests.unit.machine.helpers import START_MS, Node


@pytest.fixture
def node() -> Node:
    """Two partitions: p0 holds l0 l1 h2 l3 h4 h5 by offset, p1 holds h0 l1."""
    node = Node()
    node.add_topic("t", TopicConfig(2))
    node.publish("l0", "l1")
    node.publish("h2", level=1)
    node.publish("l3")
    node.publish("h4", "h5", level=1)
    node.publish("h0", level=1, partition=1)
    node.publish("l1", partition=1)
    return node


def peek(node: Node, partition: int | None, offset: int, count: int = 100, order: Order = "offset") -> list[str]:
    found = node.views.peek("t", partition=partition, offset=offset, count=count, order=order)
    return [message.message.decode() for message in found]


def test_peek_gives_offset_order_over_the_levels(node: Node):
    assert peek(node, 0, 0) == ["l0", "l1", "h2", "l3", "h4", "h5"]
    assert peek(node, 0, 1, 3) == ["l1", "h2", "l3"]
    assert peek(node, 0, 5) == ["h5"]
    assert peek(node, 0, 3) == ["l3", "h4", "h5"]


def test_peek_over_all_partitions_orders_by_offset_then_partition(node: Node):
    assert peek(node, None, 0, 4) == ["l0", "h0", "l1", "l1"]


def test_peek_in_delivery_order_is_what_a_fresh_consumer_would_get(node: Node):
    expected = ["h2", "h4", "h5", "h0", "l0", "l1", "l3", "l1"]
    assert peek(node, None, 0, order="delivery") == expected
    assert node.consume(100, consumer="fresh") == expected
    assert peek(node, 0, 3, order="delivery") == ["h4", "h5", "l3"]


@pytest.mark.parametrize("offset", [6, 1 << 64, 1 << 200])
def test_peek_behind_the_end_gives_nothing(node: Node, offset: int):
    assert peek(node, 0, offset) == []
    assert peek(node, None, offset, order="delivery") == []


def test_peek_of_something_unknown_gives_nothing(node: Node):
    assert peek(node, 7, 0) == []
    assert peek(node, -3, 0) == []
    assert node.views.peek("missing", partition=None, offset=0, count=1) == []


def test_peek_from_a_negative_offset_starts_at_the_first(node: Node):
    assert peek(node, 0, -5, 1) == ["l0"]


def test_peek_is_bounded_by_bytes_but_gives_one_message(node: Node):
    assert len(node.views.peek("t", partition=0, offset=0, count=9, bytes_max=5)) == 2
    assert len(node.views.peek("t", partition=0, offset=0, count=9, bytes_max=0)) == 1


def test_peek_changes_nothing(node: Node):
    before = node.everything()
    peek(node, None, 0)
    assert node.everything() == before
    assert node.machine.state.topics["t"].consumers == {}


def test_messages_come_with_their_place_key_headers_and_time():
    node = Node()
    record = pack_record(b'{"a":1}', "user-7", b'{"h":"x"}')
    node.command(Append(0, "t", 0, 1, 2, pack_record(b"1") + record, may_create=True))
    (_, message) = node.read(node.pull())
    assert (message.message, message.key, message.headers) == (b'{"a":1}', "user-7", b'{"h":"x"}')
    assert (message.id, message.level, message.offset, message.partition) == ("1.1", 1, 1, 0)
    assert message.timestamp_ms == START_MS


def test_reading_a_range_that_is_not_stored_is_corruption(node: Node):
    with pytest.raises(CorruptionError, match=r"offset 1 of Range.* is not in the store"):
        node.views.read_ranges("t", [Range(0, 0, 1, 1, 1)])
    with pytest.raises(CorruptionError, match=r"offset 2 of Range.* is not in the store"):
        node.views.read_ranges("t", [Range(0, 0, 0, 1, 2)])


def test_lost_record_batch_is_corruption_not_an_endless_wait(node: Node):
    node.reload()
    batches = list(node.store.scan_keys(b"\x20", b"\x21"))
    node.store.write([(batches[1], None)])
    with pytest.raises(CorruptionError, match="holds 2 messages, not 3"):
        node.pull(partition=0)
    node.store.write([(key, None) for key in batches])
    with pytest.raises(CorruptionError, match="holds 0 messages, not 3"):
        node.pull(consumer="other")


def test_topics_are_sorted_and_partitions_listed(node: Node):
    node.publish("x", topic="b")
    node.publish("x", topic="a")
    assert node.views.topics() == ["a", "b", "t"]
    statuses = node.views.partition_status("t")
    assert [(s.partition, s.next_offset, s.depth) for s in statuses] == [(0, 6, [3, 3]), (1, 2, [1, 1])]
    assert node.views.partition_status("missing") == []
    assert node.views.topic("missing") is None


def test_deliverable_and_pending_follow_the_consumer(node: Node):
    views = node.views
    assert views.has_deliverable("t", "c")
    assert views.pending("t", "c") == [4, 4]
    node.consume(5)
    assert views.pending("t", "c") == [3, 0]
    assert views.pending("t", "c", 1) == [1, 0]
    node.consume(100, partition=1)
    assert not views.has_deliverable("t", "c", 1)
    assert views.has_deliverable("t", "c", 0)
    assert views.has_deliverable("t", "c")
    node.consume(100)
    assert not views.has_deliverable("t", "c")
    assert views.has_deliverable("t", "other", 1)


def test_what_is_unknown_has_nothing_deliverable(node: Node):
    views = node.views
    assert not views.has_deliverable("missing", "c")
    assert not views.has_deliverable("t", "c", 9)
    assert views.pending("missing", "c") == []
    assert views.next_offset("missing", "c", 0) is None
    assert views.next_offset("t", "c", 9) is None
    assert not views.consumer_exists("missing", "c")


def test_next_offset_is_the_lowest_that_was_not_delivered(node: Node):
    views = node.views
    assert views.next_offset("t", "c", 0) == 0
    node.consume(3, partition=0)
    assert views.next_offset("t", "c", 0) == 0
    node.consume(2, partition=0)
    assert views.next_offset("t", "c", 0) == 3
    node.consume(9, partition=0)
    assert views.next_offset("t", "c", 0) == 6


def test_pages_of_names_are_in_order_whatever_comes_and_goes() -> None:
    random, table = Random(1), Named[int]()
    for step in range(500):
        name = f"n{random.randrange(60)}"
        if name in table and random.random() < 0.4:
            del table[name]
        else:
            table[name] = step
        assert table.sorted_names == sorted(table)
        assert table.after(name, 3) == sorted(other for other in table if other > name)[:3]


@pytest.mark.parametrize("seed", range(10))
def test_a_peek_of_all_partitions_merges_levels_by_offset_from_any_offset_on(seed: int) -> None:
    random, node = Random(seed), Node()
    node.add_topic("t", TopicConfig(partitions=3, levels=("low", "mid", "high")))
    for number in range(60):
        texts = [f"{number}.{place}" for place in range(random.randrange(1, 5))]
        node.publish(*texts, partition=random.randrange(3), level=random.randrange(3))
    keep = TopicSettings(retention=Retention(messages=random.randrange(1, 200)), overflow=DROP_LOWEST)
    node.result(SetTopic(0, "t", 0, is_change=True, given=keep))
    node.command(TrimLevels(["t"]))
    every = [m for p in range(3) for m in node.views.peek("t", partition=p, offset=0, count=1000)]
    for offset in (0, 1, 7, 30, 1000):
        count = random.randrange(1, 80)
        expected = sorted((m.offset, m.partition) for m in every if m.offset >= offset)[:count]
        found = node.views.peek("t", partition=None, offset=offset, count=count)
        assert [(m.offset, m.partition) for m in found] == expected
