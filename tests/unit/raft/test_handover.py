"""Leadership moves to whoever can take it, and to the member that somebody asks for."""

from __future__ import annotations

import pytest

from falconq_cluster.raft import frames as f
from tests.unit.raft.cluster_helpers import Bench
from tests.unit.raft.quiet_cluster import QuietCluster


def test_a_leader_hands_over_to_a_follower_that_holds_all_and_takes_no_commands_meanwhile(bench: Bench):
    bench.lead()
    bench.broker.publish("x")
    bench.driver.request_step()
    bench.settle()
    bench.ack("n3", bench.last_index - 1)
    moved: list[bool] = []
    bench.node.raft.transfer_leadership(moved.append)
    bench.settle()
    assert not bench.take(f.TimeoutNow)
    assert not bench.node.raft.is_leader
    bench.ack("n3", bench.last_index)
    bench.advance(10)
    assert bench.take(f.TimeoutNow, "n3")
    bench.append([], term=bench.library.term + 1, leader="n3", previous=(bench.last_index, bench.library.term))
    bench.advance(10)
    assert moved == [True]


def test_a_transfer_that_nobody_takes_ends_and_the_leader_goes_on(bench: Bench):
    bench.lead()
    moved: list[bool] = []
    bench.broker.publish("x")
    bench.driver.request_step()
    bench.settle()
    bench.node.raft.transfer_leadership(moved.append)
    for _ in range(4):
        bench.advance(400)
        for peer in bench.others:
            bench.receive(peer, f.KeepaliveReply(bench.library.term, 1))
    assert moved == [False]
    assert bench.node.raft.is_leader


def test_only_the_wished_member_is_offered_the_leadership(bench: Bench):
    bench.lead()
    bench.driver.request_step()
    bench.settle()
    for peer in bench.others:
        bench.ack(peer, bench.last_index)
    bench.receive("n2", f.TransferWanted("n3"))
    bench.settle()
    assert not bench.take(f.TimeoutNow, "n2")
    assert bench.take(f.TimeoutNow, "n3")


@pytest.mark.parametrize("to", ["n1", "n9"])
def test_a_wish_for_who_leads_or_is_no_other_member_holds_nothing_up(bench: Bench, to: str):
    bench.lead()
    bench.receive("n2", f.TransferWanted(to))
    bench.settle()
    assert bench.node.raft.is_leader
    assert not bench.take(f.TimeoutNow)


def test_a_follower_passes_the_wish_on_once_a_term_and_sees_whether_it_is_fulfilled(bench: Bench):
    bench.append([], term=2)
    told: list[bool] = []
    bench.node.raft.move_leadership("n3", told.append)
    bench.advance(50)
    assert bench.take(f.TransferWanted, "n2") == [f.TransferWanted("n3")]
    bench.append([], term=3, leader="n3")
    bench.advance(10)
    assert told == [True]


def test_a_wish_that_nobody_fulfils_ends(bench: Bench):
    bench.append([], term=2)
    told: list[bool] = []
    bench.node.raft.move_leadership("n3", told.append)
    for _ in range(40):
        bench.append([], term=2)
        bench.advance(100)
    assert told == [False]


@pytest.mark.parametrize("asked", ["n1", "n2", "n3"])
@pytest.mark.parametrize("to", ["n1", "n2", "n3"])
def test_any_member_can_be_asked_to_let_any_member_lead(asked: str, to: str):
    with QuietCluster.formed() as cluster:
        told: list[bool] = []
        node = cluster.node(asked)
        cluster.run_.cluster.run_as(cluster.hosts[asked], lambda: node.node.raft.move_leadership(to, told.append))
        cluster.until(lambda: bool(told))
        assert told == [True]
        assert cluster.node(to).node.raft.is_leader
