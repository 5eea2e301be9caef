"""Keys stay where they are when partitions are added, but for the share that must move."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.partitioner import Turns, partition_of_key

KEYS = [f"customer-{n}" for n in range(20_000)]


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 3), (4, 5), (7, 8), (16, 17), (4, 8), (100, 128), (255, 256)])
def test_an_addition_moves_the_share_of_the_new_partitions_and_no_other_key(old: int, new: int):
    before = [partition_of_key(key, old) for key in KEYS]
    after = [partition_of_key(key, new) for key in KEYS]
    moved = [place for was, place in zip(before, after, strict=True) if was != place]
    assert all(old <= place < new for place in moved), "a key moved between old partitions"
    share = (new - old) / new
    # Six standard deviations of as many coins with this share.
    tolerance = 6 * (share * (1 - share) / len(KEYS)) ** 0.5
    assert abs(len(moved) / len(KEYS) - share) < tolerance
    print(f"{old} -> {new} partitions: {len(moved) / len(KEYS):.4f} of the keys moved, {share:.4f} must")


@pytest.mark.parametrize("partitions", [2, 5, 16, 256])
def test_keys_spread_evenly(partitions: int):
    counts = [0] * partitions
    for key in KEYS:
        counts[partition_of_key(key, partitions)] += 1
    mean = len(KEYS) / partitions
    assert max(abs(count - mean) for count in counts) < 6 * mean**0.5


def test_turns_go_on_over_an_addition():
    turns = Turns()
    assert [turns.take("t", 2) for _ in range(3)] == [0, 1, 0]
    assert sorted(turns.take("t", 4) for _ in range(4)) == [0, 1, 2, 3]
