"""Finding out who wrote something else (PROTOCOL.md P18), as a rule and on a leader."""

from __future__ import annotations

import pytest

from falconq_cluster.raft import frames as f
from falconq_cluster.raft.divergence import DivergenceCheck, Verdict
from falconq_cluster.raft.leading import Leading
from tests.unit.raft.cluster_helpers import Bench

OWN, OTHER, THIRD = b"own", b"other", b"third"


def check_of(member_count: int = 3) -> DivergenceCheck:
    return DivergenceCheck(members_count=member_count, digest_at=lambda index: OWN if 5 <= index <= 9 else None)


def test_equal_unknown_and_forgotten_hashes_say_nothing():
    check = check_of()
    assert check.reported("n2", index=7, digest=OWN) is Verdict.AGREES
    assert check.reported("n2", index=7, digest=b"") is Verdict.AGREES
    assert check.reported("n2", index=3, digest=OTHER) is Verdict.AGREES
    assert not check.is_disputed


def test_a_difference_is_undecided_until_a_majority_wrote_the_same():
    check = check_of()
    assert check.reported("n2", index=7, digest=OTHER) is Verdict.UNDECIDED
    assert check.disputed_index == 7
    assert check.reported("n3", index=8, digest=OWN) is Verdict.UNDECIDED
    assert check.reported("n3", index=7, digest=OWN) is Verdict.PEER_DIVERGED
    assert check.diverged_peers() == ["n2"]
    check.settled()
    assert not check.is_disputed


def test_a_leader_in_the_minority_learns_that_it_is_the_one():
    check = check_of()
    check.reported("n2", index=7, digest=OTHER)
    assert check.reported("n3", index=7, digest=OTHER) is Verdict.SELF_DIVERGED


def test_three_that_all_differ_stay_undecided():
    check = check_of()
    check.reported("n2", index=7, digest=OTHER)
    assert check.reported("n3", index=7, digest=THIRD) is Verdict.UNDECIDED


def test_a_member_that_repeats_itself_is_one_voice_of_five():
    check = check_of(5)
    for _ in range(5):
        assert check.reported("n2", index=7, digest=OTHER) is Verdict.UNDECIDED
    assert check.reported("n3", index=7, digest=OTHER) is Verdict.UNDECIDED
    assert check.reported("n4", index=7, digest=OTHER) is Verdict.SELF_DIVERGED


# On a leader.


def report(bench: Bench, peer: str, digest: bytes) -> None:
    bench.receive(peer, bench.reply(peer, bench.last_index + 1, applied=(bench.applied_index, digest)))


def test_a_leader_takes_no_commands_while_a_difference_is_undecided_and_stops_the_minority(bench: Bench):
    bench.lead()
    report(bench, "n3", b"x" * 16)
    assert not bench.node.raft.is_leader
    bench.broker.publish("x")
    bench.advance(60)
    assert bench.broker.waiting
    assert [query.index for query in bench.take(f.HashQuery, "n2")] == [bench.applied_index]
    bench.receive("n2", f.HashReply(bench.applied_index, bench.node.machine.digest))
    assert [told.index for told in bench.take(f.Diverged)] == [bench.applied_index]
    assert not bench.take(f.Diverged, "n2")
    assert bench.node.raft.is_leader
    assert not bench.fatal


def test_a_leader_in_the_minority_steps_down_and_stops(bench: Bench):
    bench.lead()
    report(bench, "n3", b"x" * 16)
    report(bench, "n2", b"x" * 16)
    assert "majority wrote something else" in bench.stop.reason
    assert bench.stop.exit_code == 70
    assert not bench.library.leads


def test_a_follower_that_is_told_that_it_differs_stops(bench: Bench):
    bench.receive("n2", f.Diverged(2))
    assert "n2 and a majority" in bench.stop.reason


def test_a_follower_says_what_it_wrote_with_each_answer_and_when_asked(bench: Bench):
    bench.append([], term=2)
    reply = bench.take(f.AppendReply)[-1]
    assert (reply.applied_index, reply.applied_hash) == (2, bench.node.machine.digest)
    bench.receive("n3", f.HashQuery(2), f.HashQuery(99))
    assert bench.take(f.HashReply) == [f.HashReply(2, bench.node.machine.digest), f.HashReply(99, b"")]


def test_without_the_check_replicas_that_differ_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Leading, "check_digest", lambda *_args, **_named: None)
    bench.lead()
    report(bench, "n3", b"x" * 16)
    report(bench, "n2", b"y" * 16)
    assert bench.node.raft.is_leader
