"""A leader tells a read index only when a quorum has answered a round that began after the question (P17)."""

from __future__ import annotations

import pytest

from falconq_cluster.raft import frames as f
from tests.unit.raft.cluster_helpers import Bench
from tests.unit.raft.conftest import MakeBench


def ask(bench: Bench) -> list[int | None]:
    told: list[int | None] = []
    bench.node.raft.ask_read_index(told.append)
    bench.settle()
    return told


def last_round(bench: Bench) -> int:
    return bench.take(f.Keepalive, "n2")[-1].round


def answer(bench: Bench, peer: str, number: int, *, term: int | None = None) -> None:
    bench.receive(peer, f.KeepaliveReply(bench.library.term if term is None else term, number))


def test_a_round_that_began_before_the_question_confirms_nothing(bench: Bench):
    bench.lead()
    bench.advance(60)
    before = last_round(bench)
    told = ask(bench)
    answer(bench, "n2", before)
    answer(bench, "n3", before)
    assert not told
    after = last_round(bench)
    assert after > before
    answer(bench, "n2", after)
    assert told == [bench.library.commit_index]


def test_the_index_is_the_commit_index_at_the_question_and_the_next_question_needs_its_own_round(bench: Bench):
    bench.lead()
    first_told = ask(bench)
    asked_at = bench.library.commit_index
    first = last_round(bench)
    second_told = ask(bench)
    assert not bench.take(f.Keepalive, "n2"), "one round at a time"
    answer(bench, "n3", first)
    assert first_told == [asked_at]
    assert not second_told
    answer(bench, "n2", last_round(bench))
    assert second_told == [bench.library.commit_index]


def test_answers_of_another_term_or_of_a_disk_that_is_not_on_record_confirm_nothing(make_bench: MakeBench):
    bench = make_bench()
    bench.connect("n2")
    bench.connect_as("n3", disk_id="a new disk")
    bench.lead()
    told = ask(bench)
    number = last_round(bench)
    answer(bench, "n2", number, term=bench.library.term - 1)
    answer(bench, "n3", number)
    assert not told
    answer(bench, "n2", number)
    assert told == [bench.library.commit_index]


def test_five_members_need_two_answers(make_bench: MakeBench):
    bench = make_bench(member_count=5)
    bench.connect()
    bench.become_leader()
    for peer in ("n2", "n3"):
        bench.ack(peer, bench.last_index)
    told = ask(bench)
    number = last_round(bench)
    answer(bench, "n2", number)
    answer(bench, "n2", number)
    assert not told
    answer(bench, "n4", number)
    assert told == [bench.library.commit_index]


def test_a_leader_that_loses_its_term_tells_nothing(bench: Bench):
    bench.lead()
    told = ask(bench)
    number, term = last_round(bench), bench.library.term
    bench.receive("n2", f.StaleTerm(term + 1))
    assert told == [None]
    answer(bench, "n2", number, term=term)
    assert told == [None]
    assert ask(bench) == [None]


def test_a_leader_whose_no_op_is_not_applied_tells_nothing(bench: Bench):
    bench.become_leader()
    assert ask(bench) == [None]


def test_a_lone_node_confirms_itself(make_bench: MakeBench):
    bench = make_bench(member_count=1)
    bench.advance(2000)
    assert ask(bench) == [bench.library.commit_index]


def test_a_lost_round_is_made_good_by_the_next_heartbeat(bench: Bench):
    bench.lead()
    told = ask(bench)
    lost = last_round(bench)
    bench.advance(60)
    number = last_round(bench)
    assert number > lost
    answer(bench, "n3", number)
    assert told == [bench.library.commit_index]


@pytest.mark.parametrize("peer", ["n2", "n3"])
def test_a_follower_answers_the_round_that_it_heard(bench: Bench, peer: str):
    bench.receive(peer, f.Keepalive(7, 41, 0))
    assert bench.take(f.KeepaliveReply, peer) == [f.KeepaliveReply(7, 41)]
