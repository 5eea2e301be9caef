"""When a node may campaign (PROTOCOL.md P6, and the disk's part of P7)."""

from __future__ import annotations

from random import Random

import pytest

from falconq_cluster.raft.election import FAST_SYNC_MS, LATE_GRACE_MS, LATE_MS, LOST_LEADER_MS, Election, ElectionTimes


class Hand:
    """An election timer on a clock that moves by hand."""

    def __init__(self, seed: int = 1) -> None:
        self.now_ms = 1000
        times = ElectionTimes(timeout_min_ms=300, timeout_max_ms=600, sync_stall_ms=800)
        self.election = Election(times, now_ms=lambda: self.now_ms, chance=Random(seed))


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_the_timeout_is_random_between_its_limits():
    waits = {Hand(seed).election.deadline_ms - 1000 for seed in range(200)}
    assert min(waits) < 320
    assert max(waits) > 580
    assert all(300 <= wait <= 600 for wait in waits)


def test_a_leader_that_is_heard_puts_the_timeout_off(hand: Hand):
    for _ in range(20):
        hand.now_ms += 250
        hand.election.leader_heard()
        assert not hand.election.is_due()
    hand.now_ms = hand.election.deadline_ms
    assert hand.election.is_due()


def test_a_timer_that_fires_late_lets_waiting_frames_be_read_first(hand: Hand):
    hand.now_ms = hand.election.deadline_ms + LATE_MS + 1
    assert not hand.election.is_due()
    hand.now_ms += LATE_GRACE_MS - 1
    assert not hand.election.is_due()
    hand.now_ms += 1
    assert hand.election.is_due()


def test_a_lost_connection_to_the_leader_brings_the_campaign_within_a_moment():
    waits = set()
    for seed in range(200):
        hand = Hand(seed)
        hand.election.leader_heard()
        hand.election.leader_lost()
        assert not hand.election.hears_live_leader()
        waits.add(hand.election.deadline_ms - hand.now_ms)
    assert all(LOST_LEADER_MS[0] <= wait <= LOST_LEADER_MS[1] for wait in waits)
    assert len(waits) > 30


def test_a_lost_connection_puts_no_campaign_off(hand: Hand):
    hand.now_ms = hand.election.deadline_ms - 5
    hand.election.leader_lost()
    assert hand.election.deadline_ms - hand.now_ms == 5


def test_a_leader_counts_as_live_for_the_minimum_timeout(hand: Hand):
    assert not hand.election.hears_live_leader()
    hand.election.leader_heard()
    hand.now_ms += 299
    assert hand.election.hears_live_leader()
    hand.now_ms += 1
    assert not hand.election.hears_live_leader()


def test_grants_count_once_a_voter_and_only_in_their_round_and_term(hand: Hand):
    first = hand.election.ask(term=5)
    assert hand.election.grant_received(voter="n2", round_number=first, term=5) == 1
    assert hand.election.grant_received(voter="n2", round_number=first, term=5) == 1
    assert hand.election.grant_received(voter="n3", round_number=first, term=6) == 0
    second = hand.election.ask(term=5)
    assert hand.election.grant_received(voter="n3", round_number=first, term=5) == 0
    assert hand.election.grant_received(voter="n3", round_number=second, term=5) == 1
    hand.election.round_is_over()
    assert hand.election.grant_received(voter="n2", round_number=second, term=5) == 0


def test_a_sync_that_lasts_too_long_makes_the_disk_suspect_until_one_is_fast(hand: Hand):
    hand.election.sync_started()
    hand.now_ms += 799
    assert not hand.election.is_disk_stalled()
    hand.now_ms += 1
    assert hand.election.is_disk_stalled()
    assert hand.election.sync_finished() == 800
    assert not hand.election.is_disk_stalled()
    assert hand.election.is_disk_suspect
    hand.election.sync_started()
    hand.now_ms += FAST_SYNC_MS
    hand.election.sync_finished()
    assert hand.election.is_disk_suspect
    hand.election.sync_started()
    hand.now_ms += FAST_SYNC_MS - 1
    hand.election.sync_finished()
    assert not hand.election.is_disk_suspect


def test_a_stall_that_nobody_looked_at_is_seen_when_the_sync_ends(hand: Hand):
    hand.election.sync_started()
    hand.now_ms += 5000
    hand.election.sync_finished()
    assert hand.election.is_disk_suspect
