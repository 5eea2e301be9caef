"""Whose votes and answers count: disks (PROTOCOL.md P4) and forming (P5)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from falconq_cluster.machine.commands import Form, SetDisk, decode_command, decode_entry
from falconq_cluster.raft import frames as f
from falconq_cluster.raft.membership import FRESH_MS, Membership, Record
from falconq_cluster.raft.replication import Replication
from tests.unit.raft.cluster_helpers import CLUSTER, Bench, disk
from tests.unit.raft.conftest import MakeBench
from tests.unit.raft.quiet_cluster import QuietCluster

FORMED = {"n1": "d1", "n2": "d2", "n3": "d3"}
FORMING = Record("", {}, 0)


@dataclass
class Hand:
    """The membership of n1, whose record and peers the test sets."""

    restore_id: str = ""
    record: Record = FORMING
    now_ms: int = 1000
    membership: Membership = field(init=False)

    def __post_init__(self) -> None:
        self.membership = Membership(
            node_id="n1",
            members=("n1", "n2", "n3"),
            disk_id="d1",
            restore_id=lambda: self.restore_id,
            own_record=lambda: self.record,
            now_ms=lambda: self.now_ms,
        )

    def hello(self, peer: str, disk_id: str, record: Record = FORMING, *, restore_id: str = "") -> f.Hello:
        is_forming = not record.cluster_id
        return f.Hello(
            peer, record.cluster_id, disk_id, is_forming, restore_id, dict(record.members), record.index, 5000
        )

    def hear(self, peer: str, disk_id: str, record: Record = FORMING, *, restore_id: str = "") -> None:
        self.membership.heard_hello(peer, self.hello(peer, disk_id, record, restore_id=restore_id))


@pytest.fixture
def forming() -> Hand:
    return Hand()


@pytest.fixture
def formed() -> Hand:
    return Hand(record=Record("c", FORMED, 5))


# Disks.


def test_a_member_counts_with_the_disk_on_record_and_only_while_connected(formed: Hand):
    who = formed.membership
    formed.hear("n2", "d2", formed.record)
    formed.hear("n3", "another", formed.record)
    assert (who.counts("n2"), who.counts("n3"), who.self_counts()) == (True, False, True)
    assert who.learners() == ["n3"]
    who.lost("n2")
    assert not who.counts("n2")


def test_a_newer_record_that_a_peer_has_applied_counts_already(formed: Hand):
    newer = Record("c", {**FORMED, "n3": "new"}, 9)
    formed.hear("n2", "d2", newer)
    formed.hear("n3", "new", FORMING)
    assert formed.membership.counts("n3")
    formed.hear("n2", "d2", Record("c", FORMED, 4))
    assert not formed.membership.counts("n3")


def test_one_formed_peer_makes_a_forming_node_a_learner(forming: Hand):
    forming.hear("n2", "d2", Record("c", {**FORMED, "n1": "the old one"}, 5))
    forming.hear("n3", "d3")
    who = forming.membership
    assert not who.self_counts()
    assert not who.may_campaign()
    assert not who.may_vote_for("n2")
    assert any("not on record" in reason for reason in who.explain())


def test_two_wiped_nodes_and_one_with_data_say_what_to_do(formed: Hand):
    formed.hear("n2", "new")
    formed.hear("n3", "new too")
    (reason,) = formed.membership.explain()
    assert "only 1 of 3 members are connected with a disk on record, 2 are needed" in reason
    assert "n2, n3 came back with another disk" in reason
    assert "falconq node recover --sole-survivor" in reason


def test_strangers_and_members_of_other_clusters_are_refused(formed: Hand):
    who = formed.membership
    assert "not another member" in (who.judge(formed.hello("n9", "d9")) or "")
    assert "not another member" in (who.judge(formed.hello("n1", "d1")) or "")
    assert "belongs to cluster other" in (who.judge(formed.hello("n2", "d2", Record("other", FORMED, 3))) or "")
    assert "belongs to cluster r1" in (who.judge(formed.hello("n2", "d2", restore_id="r1")) or "")
    assert who.judge(formed.hello("n2", "d2")) is None
    assert who.judge(formed.hello("n2", "d2", formed.record)) is None


# Forming.


def test_a_forming_node_votes_only_after_all_are_heard_lately_and_all_are_forming(forming: Hand):
    who = forming.membership
    forming.hear("n2", "d2")
    assert not who.may_vote_for("n2")
    assert who.explain() == ["the cluster is forming and has not heard n3: start them"]
    forming.hear("n3", "d3")
    assert who.may_vote_for("n2")
    assert who.may_campaign()
    assert who.grants_needed() == 3
    forming.now_ms += FRESH_MS + 1
    assert not who.may_vote_for("n2")


def test_the_word_of_a_member_is_renewed_by_its_status(forming: Hand):
    who = forming.membership
    forming.hear("n2", "d2")
    forming.hear("n3", "d3")
    forming.now_ms += FRESH_MS + 1
    for peer in ("n2", "n3", "n9"):
        who.heard_status(peer, who.status(5000))
    assert who.may_campaign()
    assert who.disk_of("n9") == ""


def test_recovered_data_wins_over_empty_disks(forming: Hand):
    who = forming.membership
    forming.hear("n2", "d2", restore_id="r1")
    forming.hear("n3", "d3")
    assert (who.may_campaign(), who.may_vote_for("n3"), who.may_vote_for("n2")) == (False, False, True)
    assert who.restore_id_to_form_with() == "r1"
    forming.restore_id = "r1"
    assert who.may_campaign()


def test_members_that_bring_different_data_do_not_form(forming: Hand):
    who = forming.membership
    forming.hear("n2", "d2", restore_id="r1")
    forming.hear("n3", "d3", restore_id="r2")
    assert not who.may_vote_for("n2")
    assert who.explain() == ["the cluster is forming: members bring different recovered data; wipe all but one of them"]


def test_once_a_leader_proposed_the_disks_only_they_count(forming: Hand):
    who = forming.membership
    forming.hear("n2", "d2")
    forming.hear("n3", "d3")
    assert who.disks_to_form_with() == FORMED
    who.proposes(FORMED)
    assert who.counts("n3")
    forming.hear("n3", "wiped meanwhile")
    assert not who.counts("n3")
    who.leadership_ended()
    assert who.counts("n3")


def test_walls_are_carried_forward_by_the_time_that_passed(forming: Hand):
    forming.hear("n2", "d2")
    forming.now_ms += 40
    assert forming.membership.walls_ms() == [5040]


# On a node.


def test_a_node_alone_neither_votes_nor_asks_before_all_are_heard(make_bench: MakeBench):
    bench = make_bench(is_formed=False)
    bench.connect("n2")
    bench.advance(3000)
    assert not bench.take(f.PreVote)
    bench.receive("n2", f.RequestVote(5, 9, 4, False))
    assert not bench.take(f.Vote)
    assert bench.library.term == 0


def forming_leader(bench: Bench) -> None:
    bench.connect()
    for _ in range(12):
        for peer in bench.others:
            bench.receive(peer, f.Status("", True, "", {}, 0, bench.clock.wall_ms(), False))
        asked = bench.take(f.PreVote)
        if asked:
            break
        bench.advance(50)
    for peer in bench.others:
        bench.receive(peer, f.PreVoteReply(asked[-1].term, asked[-1].round, granted=True))
    for peer in bench.others:
        bench.receive(peer, f.Vote(asked[-1].term))


def test_the_first_leader_forms_the_cluster_with_the_disks_of_all(make_bench: MakeBench):
    bench = make_bench(is_formed=False)
    forming_leader(bench)
    bench.ack("n2", bench.last_index)
    command = decode_command(decode_entry(bench.node.journal[-1][0])[1])
    (form,) = command.operations
    assert isinstance(form, Form)
    assert form.members == {"n1": bench.disk_id, "n2": disk("n2"), "n3": disk("n3")}
    assert not bench.node.raft.is_leader
    bench.ack("n2", bench.last_index)
    assert bench.node.machine.members == form.members
    assert bench.node.raft.is_leader


def test_a_forming_leader_needs_the_pre_vote_of_all(make_bench: MakeBench):
    bench = make_bench(is_formed=False)
    bench.connect()
    for _ in range(20):
        for peer in bench.others:
            bench.receive(peer, f.Status("", True, "", {}, 0, bench.clock.wall_ms(), False))
        for asked in bench.take(f.PreVote, "n2"):
            bench.receive("n2", f.PreVoteReply(asked.term, asked.round, granted=True))
        bench.advance(50)
    assert not bench.take(f.RequestVote)


def learner_catches_up(bench: Bench) -> list[SetDisk]:
    """n3 came back with another disk, and holds all that is committed."""
    bench.connect("n2")
    bench.connect_as("n3", disk_id="a new disk")
    bench.lead()
    bench.ack("n3", bench.last_index)
    bench.advance(10)
    return disks_proposed(bench)


def disks_proposed(bench: Bench) -> list[SetDisk]:
    operations = []
    for text, index, _ in bench.node.journal:
        if index > 3:
            operations += decode_command(decode_entry(text)[1]).operations
    return [operation for operation in operations if isinstance(operation, SetDisk)]


def disks_proposed_under_load(bench: Bench, *, behind_count: int) -> list[SetDisk]:
    """n3 came back with another disk, and whenever it answers, so many more entries are committed."""
    bench.connect("n2")
    bench.connect_as("n3", disk_id="a new disk")
    bench.lead()
    for number in range(100):
        bench.broker.publish(str(number))
        bench.driver.request_step()
        bench.settle()
        bench.ack("n2", bench.last_index)
        bench.ack("n3", bench.last_index - behind_count)
        bench.advance(20)
        assert bench.driver.replication.lag_of("n3") < bench.library.commit_index
    return disks_proposed(bench)


def test_a_new_disk_goes_on_record_under_a_load_that_never_ends(bench: Bench):
    assert disks_proposed_under_load(bench, behind_count=2) == [SetDisk("n3", "a new disk")]
    assert bench.driver.replication.behind_ms("n3") <= 200


def test_a_new_disk_that_is_more_than_a_moment_behind_does_not_go_on_record(bench: Bench):
    assert disks_proposed_under_load(bench, behind_count=60) == []
    assert bench.driver.replication.behind_ms("n3") > 500


def test_a_new_disk_goes_on_record_once_it_holds_all_and_counts_once_both_others_hold_the_entry(make_bench: MakeBench):
    bench = make_bench()
    assert learner_catches_up(bench) == [SetDisk("n3", "a new disk")]
    bench.ack("n3", bench.last_index)
    assert bench.library.commit_index < bench.last_index
    assert not bench.driver.core.membership.counts("n3")
    bench.ack("n2", bench.last_index)
    assert bench.driver.core.membership.counts("n3")


def test_without_disk_identity_the_new_disk_confirms_itself(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Membership, "counts", lambda membership, peer: bool(membership.disk_of(peer)))
    monkeypatch.setattr(Replication, "caught_up_learners", lambda _replication: ["n3"])
    bench = make_bench()
    assert learner_catches_up(bench)
    bench.ack("n3", bench.last_index)
    assert bench.library.commit_index == bench.last_index


# In a cluster.


def test_three_empty_nodes_form_one_cluster():
    with QuietCluster.formed() as cluster:
        machines = [cluster.node(name).node.machine for name in cluster.hosts]
        assert len({machine.cluster_id for machine in machines}) == 1
        assert all(sorted(machine.members) == ["n1", "n2", "n3"] for machine in machines)
        assert machines[0].cluster_id != CLUSTER


@pytest.mark.parametrize("ms", [0, 20, 60, 100, 400, 450, 500, 600, 700])
def test_a_power_loss_of_all_while_forming_still_ends_in_one_cluster(ms: int):
    with QuietCluster.started() as cluster:
        cluster.run(ms)
        for host in cluster.hosts.values():
            cluster.run_.cluster.crash(host, is_power_loss=True)
        cluster.until(lambda: all(_serves(cluster, name) for name in cluster.hosts), within_ms=15_000)
        cluster.until_equal()


def test_a_wiped_node_is_ready_only_after_it_holds_all_and_both_others_confirmed_it():
    with QuietCluster.formed() as cluster:
        cluster.publish_many(5)
        host = cluster.followers[0]
        before = cluster.leader.node
        cluster.run_.cluster.wipe(host)
        cluster.until(lambda: host.node is not None)
        assert not cluster.node(host.name).is_serving
        cluster.until_equal()
        assert cluster.leader.node is before
        assert cluster.node(host.name).node.machine.members[host.name] == cluster.node(host.name).node.hello().disk_id


def test_two_wiped_nodes_and_one_with_data_elect_nobody():
    with QuietCluster.formed() as cluster:
        cluster.publish_many(3)
        survivor = cluster.leader
        for host in cluster.followers:
            cluster.run_.cluster.wipe(host)
        cluster.run(20_000)
        assert not any(cluster.node(name).node.raft.is_leader for name in cluster.hosts)
        assert "recover --sole-survivor" in cluster.node(survivor.name).node.raft.readiness()[0]


def _serves(cluster: QuietCluster, name: str) -> bool:
    return cluster.hosts[name].node is not None and cluster.node(name).is_serving


def test_a_record_that_was_only_heard_counts_but_makes_nobody_ready():
    hand = Hand(record=Record("c", {**FORMED, "n1": "lost"}, 5))
    newer = Record("c", FORMED, 9)
    hand.hear("n2", "d2", newer)
    assert hand.membership.self_counts()
    assert hand.membership.explain() == ["this node has not applied the record of the members yet: catching up"]
    hand.record = newer
    assert hand.membership.explain() == []


def test_a_member_is_not_ready_before_its_record_would_survive_a_power_loss(bench: Bench):
    bench.lead()
    raft = bench.node.raft
    assert raft.readiness() == []
    bench.node.replica.flushed_index = 0
    assert raft.readiness() == ["the record of the members is being written to disk"]
