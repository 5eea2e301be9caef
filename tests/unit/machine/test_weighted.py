"""Weighted priority: every level has its share, whatever the sizes of pulls, and what it leaves goes to the others."""

from __future__ import annotations

from collections import Counter
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.machine.commands import Leased, LeasePull, Refused, Settle, SettleItem, SettleKind, SetTopic
from falconq_cluster.machine.settings import Scheduler, TopicSettings
from tests.unit.machine.helpers import Node

LEVELS = tuple(f"l{n}" for n in range(16))
SETTINGS = settings(max_examples=60, deadline=None)


def make(node: Node, weights: list[int], partition_count: int = 1, *, is_change: bool = False) -> None:
    levels = LEVELS[: len(weights)]
    scheduler = Scheduler("weighted", tuple(sorted(zip(levels, weights, strict=True))))
    node.result(SetTopic(0, "t", 0, is_change=is_change, given=TopicSettings(partition_count, levels, scheduler)))


def fill(node: Node, level: int, count: int, partition: int = 0) -> None:
    node.publish(*(str(n) for n in range(count)), level=level, partition=partition)


@SETTINGS
@given(
    weights=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    partition_count=st.integers(1, 3),
    is_reloaded=st.booleans(),
)
def test_under_saturation_each_round_gives_every_level_exactly_its_share(
    weights: list[int], sizes: list[int], partition_count: int, *, is_reloaded: bool
) -> None:
    node = Node()
    make(node, weights, partition_count)
    divisor = gcd(*weights)
    round_size = sum(weights) // divisor
    rounds = 3
    for level in range(len(weights)):
        for partition in range(partition_count):
            fill(node, level, rounds * max(weights), partition)
    given_levels: list[int] = []
    turn = 0
    while len(given_levels) < rounds * round_size:
        size = min(sizes[turn % len(sizes)], rounds * round_size - len(given_levels))
        given_levels += [message.level for message in node.read(node.pull(size))]
        turn += 1
        if is_reloaded:
            node.reload()
    for number in range(rounds):
        of_round = given_levels[number * round_size : (number + 1) * round_size]
        assert Counter(of_round) == {level: weight // divisor for level, weight in enumerate(weights)}
        assert of_round == sorted(of_round, reverse=True)


@SETTINGS
@given(
    steps=st.lists(st.tuples(st.sampled_from("ppqgr"), st.integers(0, 15), st.integers(0, 15)), max_size=50),
    weights=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_each_message_comes_once_in_its_order_and_nothing_waits_while_a_pull_has_room(
    steps: list[tuple[str, int, int]], weights: list[int]
) -> None:
    node = Node()
    make(node, weights, 2)
    waiting: dict[tuple[int, int], list[str]] = {}
    count = 0

    def take(size: int) -> None:
        messages = node.read(node.pull(size))
        assert len(messages) == min(size, sum(map(len, waiting.values())))
        for message in messages:
            assert waiting[message.level, message.partition].pop(0) == message.message.decode()

    for kind, one, two in steps:
        if kind == "p":
            texts = [str(count + n) for n in range(1 + two % 5)]
            count += len(texts)
            node.publish(*texts, level=one % len(weights), partition=two % 2)
            waiting.setdefault((one % len(weights), two % 2), []).extend(texts)
        elif kind == "q":
            take(1 + one)
        elif kind == "g" and len(weights) < 16:
            weights = [*weights[1:], 1 + one % 4, 1 + two % 4]
            make(node, weights, 2, is_change=True)
        else:
            node.reload()
    take(1000)


def test_what_a_level_leaves_goes_to_the_others_at_once_and_is_not_saved():
    node = Node()
    make(node, [1, 3])
    fill(node, 0, 30)
    assert [m.level for m in node.read(node.pull(10))] == [0] * 10
    fill(node, 1, 30)
    # The low level had its share of the round that was under way.
    assert [m.level for m in node.read(node.pull(8))] == [1, 1, 1, 1, 1, 1, 0, 1]


def test_no_level_is_tied_to_one_partition():
    node = Node()
    make(node, [1, 1], 2)
    for level in range(2):
        for partition in range(2):
            fill(node, level, 10, partition)
    places = Counter((m.level, m.partition) for _ in range(20) for m in node.read(node.pull(1)))
    assert places == {(level, partition): 5 for level in range(2) for partition in range(2)}


def test_weights_of_unknown_levels_are_refused():
    node = Node()
    scheduler = Scheduler("weighted", (("urgent", 2),))
    result = node.result(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(scheduler=scheduler)))
    assert isinstance(result, Refused)
    assert "'urgent'; the topic's levels are [low, high]" in result.detail


@pytest.mark.parametrize("weights", [[1000, 999], [1, 1000]])
def test_one_pull_of_many_has_the_shares_too(weights: list[int]):
    node = Node()
    make(node, weights)
    for level in range(2):
        fill(node, level, 900)
    counts = Counter(m.level for m in node.read(node.pull(1000)))
    assert counts[1] == min(weights[1], 900)
    assert sum(counts.values()) == 1000


@SETTINGS
@given(
    weights=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    pulls=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=8),
    is_reloaded=st.booleans(),
)
def test_what_is_given_again_counts_as_a_delivery_of_the_level_that_it_has_then(
    weights: list[int], pulls: list[tuple[int, int, int]], *, is_reloaded: bool
) -> None:
    node = Node()
    make(node, weights)
    shares = {level: weight // gcd(*weights) for level, weight in enumerate(weights)}
    rounds = 4
    for level in range(len(weights)):
        fill(node, level, rounds * max(weights))
    priorities: dict[int, int] = {}
    charged: list[int] = []
    for turn in range(rounds * sum(shares.values())):
        count, nacked_count, priority = pulls[turn % len(pulls)]
        count = min(count, rounds * sum(shares.values()) - len(charged))
        if not count:
            break
        leased = node.result(LeasePull(0, "t", "c", count, 1 << 20, 1000, 0, turn.to_bytes(16), 10_000))
        assert isinstance(leased, Leased)
        offsets = [found.messages.offset + n for found in leased.ranges for n in range(found.messages.count)]
        levels = [found.messages.level for found in leased.ranges for _ in range(found.messages.count)]
        charged += [priorities.pop(offset, level) for offset, level in zip(offsets, levels, strict=True)]
        nacked = list(zip(offsets, levels, strict=True))[:nacked_count]
        wanted = priority if priority < len(weights) else -1
        items = [SettleItem(SettleKind.NACK, 0, offset, turn.to_bytes(16), 0, wanted) for offset, _ in nacked]
        node.result(Settle(0, "t", "c", items))
        for place, (offset, _) in enumerate(nacked):
            priorities[offset] = charged[-count:][place] if wanted < 0 else wanted
        if is_reloaded:
            node.reload()
    size = sum(shares.values())
    assert len(charged) == rounds * size
    for number in range(rounds):
        assert Counter(charged[number * size : (number + 1) * size]) == shares
