"""The small parts: deadlines, waits for an index, and the choice of a partition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.broker.deadlines import EXPIRED_MAX, GRAIN_MS, Deadlines
from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.partitioner import Turns, partition_of_key
from falconq_cluster.errors import FalconQError
from tests.unit.broker.loopback import Loopback, ManualClock


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=30), st.integers(1, 37))
def test_items_expire_once_not_early_and_at_most_a_grain_late(items: list[tuple[int, bool]], step_ms: int):
    clock = ManualClock()
    expired: dict[int, int] = {}
    deadlines: Deadlines[int] = Deadlines(clock, lambda item: expired.update({item: clock.now_ms}))
    start_ms = clock.now_ms
    for number, (delay_ms, _) in enumerate(items):
        deadlines.add(number, start_ms + delay_ms)
    for number, (delay_ms, is_removed) in enumerate(items):
        if is_removed:
            deadlines.remove(number, start_ms + delay_ms)
    for now_ms in range(start_ms, start_ms + 600, step_ms):
        clock.now_ms = now_ms
        clock.run_due()
    clock.now_ms = start_ms + 700
    clock.run_due()
    assert sorted(expired) == [number for number, (_, is_removed) in enumerate(items) if not is_removed]
    for number, at_ms in expired.items():
        assert 0 <= at_ms - start_ms - items[number][0] <= GRAIN_MS + step_ms + 100 * (at_ms == start_ms + 700)
    assert clock.live_count == 0


def test_what_expires_may_remove_and_add_others_of_its_moment():
    clock = ManualClock()
    expired: list[str] = []

    def expire(item: str) -> None:
        expired.append(item)
        if item == "a":
            deadlines.remove("b", 1_005)
            deadlines.add("d", 1_005)

    deadlines: Deadlines[str] = Deadlines(clock, expire)
    for item in ("a", "b", "c"):
        deadlines.add(item, 1_005)
    clock.now_ms = 1_020
    clock.run_due()
    assert expired == ["a", "c", "d"]


def test_of_very_many_items_of_one_moment_each_expires_once_in_its_order_over_several_turns():
    clock, expired, turns = ManualClock(), list[int](), set[int]()

    def expire(item: int) -> None:
        expired.append(item)
        turns.add(clock.now_ms)

    deadlines: Deadlines[int] = Deadlines(clock, expire)
    for item in range(5 * EXPIRED_MAX):
        deadlines.add(item, 1_005)
    deadlines.remove(7, 1_005)
    for now_ms in range(1_000, 1_050):
        clock.now_ms = now_ms
        clock.run_due()
    assert expired == [item for item in range(5 * EXPIRED_MAX) if item != 7]
    assert len(turns) == 5
    assert clock.live_count == 0


def test_waits_for_an_index_are_bounded_and_those_that_ended_do_not_gather():
    cluster = Loopback("n1", limits=BrokerLimits(index_waits_max=5))
    waits, done = cluster["n1"].broker.index_waits, list[bool]()
    live = [waits.wait(1_000, 2_000, done.append) for _ in range(5)]
    with pytest.raises(FalconQError):
        waits.wait(1_000, 2_000, done.append)
    for _ in range(200):
        wait = live.pop()
        assert wait is not None
        wait.cancel()
        wait.cancel()
        live.append(waits.wait(1_000, 2_000, done.append))
    assert len(waits._waiting) <= 30
    cluster.advance(1_100)
    assert done == [False] * 5
    waits.wait(1_000, 5_000, done.append)


@given(st.text(max_size=40), st.integers(1, 64))
def test_a_key_stays_or_moves_to_the_new_partition_when_one_is_added(key: str, count: int):
    before, after = partition_of_key(key, count), partition_of_key(key, count + 1)
    assert 0 <= before < count
    assert after in (before, count)


def test_keys_spread_evenly_and_the_share_that_moves_is_the_new_partitions():
    keys = [f"customer-{n}" for n in range(20_000)]
    for count in (2, 7, 16):
        load = [0] * count
        for key in keys:
            load[partition_of_key(key, count)] += 1
        assert max(load) < 1.15 * len(keys) / count
        moved = sum(partition_of_key(key, count) != partition_of_key(key, count + 1) for key in keys)
        assert abs(moved - len(keys) / (count + 1)) < 0.1 * len(keys) / (count + 1)


def test_a_keys_partition_is_the_same_in_every_release():
    assert [partition_of_key(key, 16) for key in ("a", "b", "customer-1", "ü", "")] == [11, 13, 9, 2, 5]


def test_turns_of_two_topics_do_not_disturb_each_other():
    turns = Turns()
    taken = [(turns.take("a", 2), turns.take("b", 2)) for _ in range(4)]
    assert taken == [(0, 0), (1, 1), (0, 0), (1, 1)]
