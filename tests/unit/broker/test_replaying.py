"""Pages of a replay over real machines: nothing that is kept is skipped, and what is gone is said to be gone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.broker.replaying import replayed_page
from falconq_cluster.broker.requests import ReplayPage, ReplayRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import SetTopic
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.settings import DROP_LOWEST, Retention, TopicConfig, TopicSettings
from falconq_cluster.machine.surveying import trim_now
from tests.unit.machine.helpers import START_MS, Node

MIB = 1 << 20


def page(
    node: Node,
    offset: int | None = None,
    *,
    at_ms: int | None = None,
    limit: int = 100,
    partition: int | None = None,
    bytes_max: int = MIB,
) -> ReplayPage:
    request = ReplayRequest(topic="t", partition=partition, offset=offset, at_ms=at_ms, limit=limit)
    return replayed_page(node.views, request, bytes_max=bytes_max, index=node.machine.applied_index)


def pages(node: Node, offset: int | None = None, *, limit: int) -> list[str]:
    """All texts, page by page."""
    texts: list[str] = []
    while True:
        found = page(node, offset, limit=limit)
        texts += [message.message.decode() for message in found.messages]
        offset = found.next_offset
        if not found.has_more:
            return texts


def refused(node: Node, **arguments: int) -> FalconQError:
    with pytest.raises(FalconQError) as caught:
        page(node, **arguments)
    return caught.value


def test_pages_are_in_the_order_of_offsets_and_the_last_one_says_where_to_go_on():
    node = Node()
    node.publish("a", "b")
    node.publish("c", level=1)
    node.publish("d")
    first = page(node, 0, limit=3)
    assert ([m.message for m in first.messages], first.next_offset, first.has_more) == ([b"a", b"b", b"c"], 3, True)
    last = page(node, first.next_offset, limit=3)
    assert ([m.offset for m in last.messages], last.next_offset, last.has_more) == ([3], 4, False)
    empty = page(node, 4)
    assert (empty.messages, empty.next_offset, empty.has_more) == ([], 4, False)
    assert page(node, 1000).next_offset == 1000
    assert [m.message for m in page(node).messages] == [b"a", b"b", b"c", b"d"]


def test_a_page_ends_early_at_its_bytes_and_the_next_one_goes_on():
    node = Node()
    for number in range(5):
        node.publish(str(number) * 100)
    found = page(node, 0, bytes_max=250)
    assert (len(found.messages), found.next_offset, found.has_more) == (2, 2, True)


def test_a_time_begins_at_the_first_message_that_was_published_then_or_later():
    node = Node()
    for text in "abc":
        node.publish(text)
        node.now_ms += 10
    assert [m.message for m in page(node, at_ms=START_MS + 5).messages] == [b"b", b"c"]
    assert [m.message for m in page(node, at_ms=START_MS + 10).messages] == [b"b", b"c"]
    assert len(page(node, at_ms=0).messages) == 3
    assert page(node, at_ms=START_MS + 100).next_offset == 3


def test_of_several_partitions_one_is_named():
    node = Node()
    node.add_topic("t", TopicConfig(2))
    node.publish("a", partition=1)
    assert [m.message for m in page(node, partition=1).messages] == [b"a"]
    error = refused(node)
    assert (error.code.code, error.details["field"]) == ("bad_request", "partitionID")
    assert refused(node, partition=2).code.code == "unknown_partition"


def test_what_is_not_kept_is_gone_and_the_lowest_offset_is_told():
    node = Node()
    node.publish(*"abcdef")
    node.result(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(retention=Retention(messages=2))))
    node.command(trim_now(node.machine, ["t"], node.now_ms))
    error = refused(node, offset=3)
    assert (error.code.code, error.code.status, error.details["firstOffset"]) == ("offset_gone", 410, 4)
    assert [m.message for m in page(node, 4).messages] == [b"e", b"f"]
    assert [m.message for m in page(node, at_ms=0).messages] == [b"e", b"f"]
    node.result(Purge(0, "t"))
    assert refused(node, offset=5).details["firstOffset"] == 6
    assert page(node).next_offset == 6


@given(
    levels=st.lists(st.integers(0, 1), min_size=1, max_size=20),
    messages=st.integers(1, 12),
    limit=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_with_gaps_pages_of_any_size_give_all_that_is_kept_once_and_the_same_again(
    levels: list[int], messages: int, limit: int
) -> None:
    node = Node()
    node.add_topic("t", TopicConfig())
    for number, level in enumerate(levels):
        node.publish(str(number), level=level)
    given_settings = TopicSettings(retention=Retention(messages=messages), overflow=DROP_LOWEST)
    node.result(SetTopic(0, "t", 0, is_change=True, given=given_settings))
    for _ in range(3):
        node.command(trim_now(node.machine, ["t"], node.now_ms))
    low = [n for n, level in enumerate(levels) if level == 0]
    high = [n for n, level in enumerate(levels) if level == 1]
    kept = sorted((low + high)[-messages:])
    assert pages(node, limit=limit) == [str(number) for number in kept]
    node.reload()
    assert pages(node, kept[0], limit=limit) == [str(number) for number in kept]
