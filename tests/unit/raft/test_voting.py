"""Asking for votes, granting them, handing over: RAFT.md S3, S9, S12, S20, L2 and PROTOCOL.md P4, P6."""

from __future__ import annotations

import pytest

from falconq_cluster.raft import frames as f
from falconq_cluster.raft.core import Core
from falconq_cluster.raft.election import Election
from falconq_cluster.raft.guards import VoteTally
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.membership import Membership
from tests.unit.raft.cluster_helpers import BASE, Bench, disk, entries
from tests.unit.raft.conftest import MakeBench

Reopen = pytest.MonkeyPatch


def ask(term: int, *, last: tuple[int, int] = BASE, is_transfer: bool = False) -> f.RequestVote:
    return f.RequestVote(term, last[0], last[1], is_transfer)


# Asking.


def test_a_node_that_hears_no_leader_asks_for_pre_votes_then_votes_and_leads(bench: Bench):
    term = bench.become_candidate("n2")
    assert bench.library.is_candidate
    assert {frame.term for frame in bench.take(f.RequestVote)} == {term}
    bench.receive("n2", f.Vote(term))
    assert bench.library.leads
    assert bench.terms == [term]


def test_without_pre_votes_of_a_majority_no_term_is_begun(bench: Bench):
    bench.advance(5000)
    assert len(bench.take(f.PreVote)) > 4
    assert bench.library.term == 1
    assert not bench.take(f.RequestVote)


def test_with_fewer_pre_votes_than_a_majority_a_lonely_node_raises_its_term(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Membership, "grants_needed", lambda _membership: 1)
    bench.advance(5000)
    assert bench.library.term > 1


def test_a_pre_vote_of_an_earlier_round_or_term_counts_for_nothing(bench: Bench):
    bench.advance(700)
    old = bench.take(f.PreVote)[-1]
    bench.advance(700)
    assert bench.take(f.PreVote)
    bench.receive("n2", f.PreVoteReply(old.term, old.round, granted=True))
    bench.receive("n2", f.PreVoteReply(old.term + 1, old.round + 1, granted=True))
    assert not bench.take(f.RequestVote)


def one_voter_twice(bench: Bench) -> bool:
    """In a cluster of five, one member's vote comes two times."""
    bench.connect()
    term = bench.become_candidate()
    bench.receive("n2", f.Vote(term), f.Vote(term))
    return bench.library.leads


def test_a_voter_counts_once(make_bench: MakeBench):
    bench = make_bench(member_count=5)
    assert not one_voter_twice(bench)
    bench.receive("n3", f.Vote(bench.library.term))
    assert bench.library.leads


def test_without_the_tally_one_voter_elects_a_leader_of_five(make_bench: MakeBench, monkeypatch: Reopen):
    monkeypatch.setattr(VoteTally, "is_new", lambda *_args, **_named: True)
    assert one_voter_twice(make_bench(member_count=5))


def test_a_vote_of_another_term_does_not_count(bench: Bench):
    term = bench.become_candidate("n2")
    bench.receive("n2", f.Vote(term - 1))
    bench.receive("n3", f.Vote(term + 1))
    assert not bench.library.leads


def test_a_pre_vote_of_a_disk_that_is_not_on_record_does_not_count(make_bench: MakeBench):
    bench = make_bench()
    bench.connect("n3")
    bench.connect_as("n2", disk_id="a new disk")
    bench.become_candidate("n2")
    assert not bench.take(f.RequestVote)


def test_a_node_that_learns_that_its_disk_is_not_on_record_does_not_campaign_any_more(bench: Bench):
    bench.advance(700)
    asked = bench.take(f.PreVote)[-1]
    record = {**bench.record, "n1": "a newer disk"}
    bench.receive("n2", f.Status("c1", False, "", record, 50, bench.clock.wall_ms(), False))
    bench.receive("n3", f.PreVoteReply(asked.term, asked.round, granted=True))
    assert not bench.take(f.RequestVote)


def vote_of_another_disk(bench: Bench) -> bool:
    """n2 has lost its disk; it has forgotten what it voted and acknowledged."""
    bench.connect("n3")
    bench.connect_as("n2", disk_id="a new disk")
    term = bench.become_candidate("n2", "n3")
    bench.receive("n2", f.Vote(term))
    return bench.library.leads


def test_the_vote_of_a_disk_that_is_not_on_record_does_not_count(make_bench: MakeBench):
    bench = make_bench()
    assert not vote_of_another_disk(bench)
    bench.receive("n3", f.Vote(bench.library.term))
    assert bench.library.leads


def test_without_disk_identity_a_wiped_members_vote_elects(make_bench: MakeBench, monkeypatch: Reopen):
    monkeypatch.setattr(Membership, "counts", lambda membership, peer: bool(membership.disk_of(peer)))
    assert vote_of_another_disk(make_bench())


def test_a_vote_request_leaves_after_the_own_vote_is_on_disk(bench: Bench):
    bench.disk.is_held = True
    term = bench.become_candidate("n2")
    assert not bench.take(f.RequestVote)
    bench.disk.is_held = False
    bench.settle()
    assert len(bench.take(f.RequestVote)) == 2
    bench.restart(is_power_loss=True)
    assert (bench.library.term, bench.library.voted_for) == (term, "n1")


def test_without_promises_a_vote_request_leaves_before_the_own_vote_is_on_disk(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Core, "promise", Core.send)
    bench.disk.is_held = True
    bench.become_candidate("n2")
    assert bench.take(f.RequestVote)


# Granting.


def test_a_vote_leaves_after_it_is_on_disk(bench: Bench):
    bench.disk.is_held = True
    bench.receive("n2", ask(5))
    assert not bench.take(f.Vote)
    bench.disk.is_held = False
    bench.settle()
    assert [vote.term for vote in bench.take(f.Vote, "n2")] == [5]


def second_vote_after_a_restart(bench: Bench) -> list[f.Vote]:
    bench.receive("n2", ask(5))
    assert bench.take(f.Vote, "n2")
    bench.restart(is_power_loss=True)
    bench.connect()
    bench.receive("n3", ask(5))
    return bench.take(f.Vote, "n3")


def test_a_node_votes_once_a_term_also_over_a_power_loss(bench: Bench):
    assert not second_vote_after_a_restart(bench)
    bench.receive("n3", ask(6))
    assert bench.take(f.Vote, "n3")


def test_without_the_stored_vote_a_node_votes_twice_in_a_term(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Journal, "getVotedForNodeId", lambda _journal: None)
    assert second_vote_after_a_restart(bench)


@pytest.mark.parametrize(("last", "granted"), [((5, 2), True), ((4, 3), True), ((4, 2), False), ((9, 1), False)])
def test_only_a_log_that_is_up_to_date_gets_the_pre_vote_and_the_vote(
    bench: Bench, last: tuple[int, int], granted: bool
):
    bench.append(entries(3, 5, 2), term=2)
    bench.disconnect("n2")
    bench.receive("n3", f.PreVote(6, last[0], last[1], 1))
    assert [reply.granted for reply in bench.take(f.PreVoteReply, "n3")] == [granted]
    bench.receive("n3", ask(6, last=last))
    assert [vote.term for vote in bench.take(f.Vote, "n3")] == ([6] if granted else [])


def test_a_pre_vote_for_a_term_that_is_not_new_is_refused(bench: Bench):
    bench.append([], term=5)
    bench.disconnect("n2")
    bench.receive("n3", f.PreVote(5, 9, 4, 1))
    assert bench.take(f.PreVoteReply, "n3") == [f.PreVoteReply(5, 1, granted=False)]


def test_a_node_that_voted_waits_a_full_timeout_before_it_asks_itself(bench: Bench):
    bench.advance(280)
    bench.receive("n2", ask(5))
    voted_ms = bench.clock.now_ms
    bench.take(f.PreVote)
    while not bench.take(f.PreVote):
        bench.advance(5)
    assert bench.clock.now_ms - voted_ms >= bench.times.election_timeout_min_ms


def rejoining_candidate(bench: Bench) -> tuple[int, bool]:
    """A healed node asks for votes at a higher term while the leader lives; (own term, was the pre-vote granted)."""
    bench.append(entries(3, 3, 2), term=2)
    bench.advance(100)
    bench.receive("n3", f.PreVote(9, 3, 2, 1), ask(9, last=(3, 2)))
    return bench.library.term, bench.take(f.PreVoteReply, "n3")[0].granted


def test_a_node_that_hears_a_live_leader_helps_nobody_to_depose_it(bench: Bench):
    assert rejoining_candidate(bench) == (2, False)
    assert bench.library.leader == "n2"


def test_without_stickiness_a_healed_node_deposes_the_leader(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Election, "hears_live_leader", lambda _election: False)
    assert rejoining_candidate(bench) == (9, True)


def test_a_leader_is_not_deposed_by_a_vote_request(bench: Bench):
    term = bench.lead()
    bench.receive("n3", ask(term + 5, last=(bench.last_index, term)))
    assert bench.library.leads
    assert bench.library.term == term


def test_once_the_leader_was_silent_for_the_minimum_timeout_others_get_the_vote(bench: Bench):
    bench.append(entries(3, 3, 2), term=2)
    bench.advance(bench.times.election_timeout_min_ms)
    bench.receive("n3", ask(9, last=(3, 2)))
    assert bench.take(f.Vote, "n3")


def test_a_member_whose_disk_is_not_on_record_gets_no_vote(make_bench: MakeBench):
    bench = make_bench()
    bench.connect_as("n2", disk_id="a new disk")
    bench.receive("n2", f.PreVote(5, 9, 4, 1), ask(5, last=(9, 4)))
    assert not bench.take(f.PreVoteReply)[0].granted
    assert not bench.take(f.Vote)
    assert bench.library.term == 1


def wiped_node_is_asked(bench: Bench) -> list[f.Vote]:
    """This node's disk is not the one on record."""
    bench.connect()
    bench.advance(3000)
    assert not bench.take(f.PreVote)
    bench.receive("n2", ask(9, last=(9, 4)))
    return bench.take(f.Vote)


def test_a_wiped_node_grants_no_vote_and_asks_for_none(make_bench: MakeBench):
    bench = make_bench(is_on_record=False)
    assert not wiped_node_is_asked(bench)
    assert bench.node.raft.state() == "learner"
    assert disk("n2") in bench.record.values()
    assert any("not on record" in reason for reason in bench.node.raft.readiness())


def test_without_disk_identity_a_wiped_node_votes_at_once(make_bench: MakeBench, monkeypatch: Reopen):
    monkeypatch.setattr(Membership, "may_vote_for", lambda *_args: True)
    assert wiped_node_is_asked(make_bench(is_on_record=False))


# Terms and transfers.


def rejoined_at_a_higher_term(bench: Bench) -> int:
    """A follower at term 9, which it got in an election that it lost, answers the leader's entries."""
    bench.lead()
    bench.receive("n3", f.StaleTerm(9))
    return bench.library.term


def test_a_leader_that_hears_of_a_higher_term_takes_it_and_steps_down_once(bench: Bench):
    assert rejoined_at_a_higher_term(bench) == 9
    assert not bench.library.leads
    bench.receive("n3", f.StaleTerm(12))
    assert bench.library.term == 9
    assert not bench.library.leads


def test_a_leader_that_stepped_down_for_a_higher_term_campaigns_within_a_moment(bench: Bench):
    bench.lead()
    for _ in range(10):
        bench.advance(200)
        bench.receive("n2", f.KeepaliveReply(bench.library.term, 1))
    bench.receive("n3", f.StaleTerm(9))
    bench.take(f.PreVote)
    bench.advance(180)
    assert {asked.term for asked in bench.take(f.PreVote, "n2")} == {10}


def test_a_higher_term_of_a_disk_that_is_not_on_record_deposes_nobody(make_bench: MakeBench):
    bench = make_bench()
    bench.connect("n2")
    bench.connect_as("n3", disk_id="a new disk")
    bench.lead()
    bench.receive("n3", f.StaleTerm(9))
    assert bench.library.leads


def test_a_node_at_a_higher_term_tells_the_leader_and_its_keepalives_too(bench: Bench):
    bench.append([], term=9, leader="n3")
    bench.disconnect("n3")
    bench.append(entries(3, 3, 4), term=4)
    bench.receive("n2", f.Keepalive(4, 1, 0))
    assert [frame.term for frame in bench.take(f.StaleTerm, "n2")] == [9, 9]
    assert bench.terms == []


def test_a_refused_pre_vote_tells_the_term(bench: Bench):
    bench.advance(700)
    asked = bench.take(f.PreVote)[-1]
    bench.receive("n2", f.PreVoteReply(8, asked.round, granted=False))
    assert bench.library.term == 8


def test_the_leader_may_hand_over_at_once_and_its_successor_is_voted_for_in_spite_of_it(bench: Bench):
    bench.append(entries(3, 3, 2), term=2)
    bench.receive("n2", f.TimeoutNow(2))
    assert {asked.is_transfer for asked in bench.take(f.RequestVote)} == {True}
    assert bench.library.term == 3
    bench.append([], term=4, previous=(3, 2))
    bench.receive("n3", ask(5, last=(3, 2), is_transfer=True))
    assert bench.take(f.Vote, "n3")


def test_nobody_but_the_leader_of_this_term_can_make_a_node_campaign(bench: Bench):
    bench.append(entries(3, 3, 2), term=2)
    bench.receive("n3", f.TimeoutNow(2))
    bench.receive("n2", f.TimeoutNow(1))
    assert not bench.take(f.RequestVote)
