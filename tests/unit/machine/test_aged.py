"""Aged priority: what waited longer than its level's limit goes first, the longest overdue before the others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.machine.commands import (
    Append,
    Leased,
    LeasePull,
    Refused,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
)
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import Scheduler, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, Ordering, SetConsumer
from tests.unit.machine.helpers import Node

LEVELS = ("low", "normal", "high")
FOREVER_MS = 1 << 60
LEASE_MS = 100
NEVER_MS = 10_000_000

Step = tuple[str, int, int, int]
"""(kind, two numbers, milliseconds that pass before it)."""


def steps_of(kinds: str) -> st.SearchStrategy[list[Step]]:
    numbers = st.integers(0, 20)
    return st.lists(st.tuples(st.sampled_from(kinds), numbers, numbers, st.integers(0, 12)), min_size=8, max_size=40)


limits_of = st.tuples(*[st.one_of(st.none(), st.integers(1, 40))] * 3).filter(any)
"""By level."""


@dataclass(frozen=True)
class Message:
    """One that waits."""

    level: int
    since_ms: int
    limit_ms: int

    @property
    def overdue_from_ms(self) -> int:
        return self.since_ms + self.limit_ms


Limits = tuple[int | None, ...]


def make(node: Node, limits: Limits, partition_count: int = 2, *, policy: str = "aged") -> None:
    waits = tuple(sorted((LEVELS[level], limit_ms) for level, limit_ms in enumerate(limits) if limit_ms))
    scheduler = Scheduler(policy, (), waits) if policy == "aged" else Scheduler(policy)
    node.result(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(partition_count, LEVELS, scheduler)))


def judge(given_ones: list[Message], waiting: list[Message], now_ms: int) -> None:
    """Each was the one to give before those behind it and those that still wait: the promise, word for word."""
    for place, message in enumerate(given_ones):
        others = [*given_ones[place + 1 :], *waiting]
        overdue = [other for other in others if other.overdue_from_ms <= now_ms]
        if message.overdue_from_ms <= now_ms:
            assert all(message.overdue_from_ms <= other.overdue_from_ms for other in overdue)
        else:
            assert not overdue
            assert all(message.level >= other.level for other in others)


@settings(max_examples=150, deadline=None)
@given(steps=steps_of("ppppqqqrx"), limits=limits_of)
def test_nothing_is_given_before_what_is_further_past_its_limit_and_the_rest_is_strict(
    steps: list[Step], limits: Limits
) -> None:
    node = Node()
    make(node, limits)
    waiting: dict[tuple[int, int], list[tuple[str, Message]]] = {}
    count = 0
    for kind, one, two, passed_ms in [*steps, ("q", 1000, 0, 0)]:
        node.now_ms += passed_ms
        if kind == "p":
            level, partition = one % 3, two % 2
            texts = [str(count + number) for number in range(1 + two % 4)]
            count += len(texts)
            node.publish(*texts, level=level, partition=partition)
            message = Message(level, node.now_ms, limits[level] or FOREVER_MS)
            waiting.setdefault((level, partition), []).extend((text, message) for text in texts)
        elif kind == "q":
            partition = (-1, -1, 0, 1)[two % 4]
            taken = []
            for found in node.read(node.pull(1 + one, partition=partition)):
                text, message = waiting[found.level, found.partition].pop(0)
                assert found.message.decode() == text
                taken.append(message)
            asked = [line for place, line in waiting.items() if partition in (-1, place[1])]
            left = [message for line in asked for _, message in line]
            assert len(taken) == 1 + one or not left
            judge(taken, left, node.now_ms)
        elif kind == "x":
            node.result(Purge(0, "t"))
            waiting.clear()
        else:
            node.reload()


@settings(max_examples=80, deadline=None)
@given(steps=steps_of("ppq"), partition_count=st.integers(1, 3))
def test_without_anything_overdue_it_gives_what_strict_gives(steps: list[Step], partition_count: int) -> None:
    aged, strict = Node(), Node()
    make(aged, (NEVER_MS, NEVER_MS, None), partition_count)
    make(strict, (), partition_count, policy="strict")
    for kind, one, two, passed_ms in steps:
        for node in (aged, strict):
            node.now_ms += passed_ms
            if kind == "p":
                node.publish(*("x" for _ in range(1 + two % 4)), level=one % 3, partition=two % partition_count)
        if kind == "q":
            assert aged.pull(1 + one) == strict.pull(1 + one)


@settings(max_examples=100, deadline=None)
@given(steps=steps_of("ppllnnr"), limits=limits_of)
def test_what_is_given_again_waits_from_the_moment_at_which_it_may_be_given_again(
    steps: list[Step], limits: Limits
) -> None:
    node = Node()
    make(node, limits, 1)
    fresh: dict[int, Message] = {}
    held: dict[int, tuple[Message, bytes, int]] = {}
    """offset -> (as it waits, nonce, from when on)."""
    for number, (kind, one, two, passed_ms) in enumerate(steps):
        node.now_ms += 4 * passed_ms
        if kind == "p":
            message = Message(one % 3, node.now_ms, limits[one % 3] or FOREVER_MS)
            fresh[node.publish("x", level=one % 3).base_offset] = message
        elif kind == "l":
            nonce = number.to_bytes(16)
            leased = node.result(LeasePull(0, "t", "c", 1 + one % 4, 1 << 20, LEASE_MS, 0, nonce, 1000))
            assert isinstance(leased, Leased)
            ready = {offset: message for offset, (message, _, from_ms) in held.items() if from_ms <= node.now_ms}
            waiting = fresh | ready
            taken = []
            for found in leased.ranges:
                for offset in range(found.messages.offset, found.messages.offset + found.messages.count):
                    message = waiting.pop(offset)
                    taken.append(message)
                    fresh.pop(offset, None)
                    until_ms = node.now_ms + LEASE_MS
                    held[offset] = Message(message.level, until_ms, message.limit_ms), nonce, until_ms
            judge(taken, list(waiting.values()), node.now_ms)
        elif kind == "n" and held:
            offset = sorted(held)[one % len(held)]
            message, nonce, from_ms = held[offset]
            level = two % 4 - 1
            node.result(Settle(0, "t", "c", [SettleItem(SettleKind.NACK, 0, offset, nonce, one, level)]))
            if from_ms > node.now_ms and nonce:
                level = message.level if level < 0 else level
                again_ms = node.now_ms + one
                held[offset] = Message(level, again_ms, limits[level] or FOREVER_MS), b"", again_ms
        else:
            node.reload()


def test_a_level_without_a_limit_waits_as_long_as_something_more_urgent_is_there():
    node = Node()
    make(node, (None, 10, None))
    node.publish("low", level=0)
    node.now_ms += 1_000_000
    node.publish("normal", level=1)
    node.publish("high", level=2)
    assert node.consume() == ["high", "normal", "low"]


def test_a_limit_is_reached_at_its_millisecond():
    for waited_ms, expected in ((9, ["high", "low"]), (10, ["low", "high"])):
        node = Node()
        make(node, (10, None, None))
        node.publish("low", level=0)
        node.now_ms += waited_ms
        node.publish("high", level=2)
        assert node.consume() == expected


def test_a_pull_goes_on_as_strict_once_nothing_is_overdue():
    node = Node()
    make(node, (10, None, None))
    node.publish("old 1", "old 2", level=0)
    node.now_ms += 10
    node.publish("young", level=0)
    node.publish("high", level=2)
    assert node.consume(3) == ["old 1", "old 2", "high"]


def test_limits_of_unknown_levels_are_refused():
    node = Node()
    scheduler = Scheduler("aged", (), (("urgent", 2),))
    result = node.result(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(scheduler=scheduler)))
    assert isinstance(result, Refused)
    assert "'urgent'; the topic's levels are [low, high]" in result.detail


def test_what_was_trimmed_in_hand_does_not_hold_up_what_is_overdue_behind_it():
    node = Node()
    make(node, (10, None, None), 1)

    def lease(count: int, nonce: bytes) -> list[int]:
        leased = node.result(LeasePull(0, "t", "c", count, 1 << 20, LEASE_MS, 0, nonce, 1000))
        assert isinstance(leased, Leased)
        return [found.messages.offset for found in leased.ranges]

    for number in range(2):
        node.publish("low", level=0)
        nonce = number.to_bytes(16)
        assert lease(1, nonce) == [number]
        node.result(Settle(0, "t", "c", [SettleItem(SettleKind.NACK, 0, number, nonce, 5 + number)]))
        if number == 0:
            node.result(Purge(0, "t"))
    node.now_ms += 20
    node.publish("high", level=2)
    assert lease(3, b"n" * 16) == [1, 2]


@pytest.mark.parametrize(("keys", "expected"), [("a", [3, 2]), ("ab", [2, 4, 3]), ("aab", [3, 5, 4])])
def test_what_is_set_aside_for_its_order_moves_nothing_behind_it(keys: str, expected: list[int]):
    node = Node()
    make(node, (10, None, None), 1)
    node.result(SetConsumer(0, "t", "c", ConsumerConfig(ordering=Ordering.KEY)))

    def publish(key: str, level: int = 0) -> None:
        node.result(Append(0, "t", 0, level, 1, pack_record(b"1", key), may_create=False))

    def lease(nonce: bytes) -> list[int]:
        leased = node.result(LeasePull(0, "t", "c", 5, 1 << 20, 1000, 0, nonce, 1000))
        assert isinstance(leased, Leased)
        return [found.messages.offset for found in leased.ranges]

    publish("a")
    assert lease(b"m" * 16) == [0]
    for key in keys:  # overdue below, and those of key a set aside then: it is with a worker
        publish(key)
    node.now_ms += 8
    publish("c")
    node.now_ms += 4
    publish("d", level=2)
    assert lease(b"n" * 16) == expected
