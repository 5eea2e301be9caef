"""Changing members on stopped nodes (PROTOCOL.md P5)."""

from __future__ import annotations

import pytest

from falconq_cluster.errors import ConfigurationError
from falconq_cluster.raft import frames as f
from falconq_cluster.raft.offline import FLOOR_FILE, RESTORE_FILE, OfflineReport, reconfigure, recover
from tests.unit.raft.cluster_helpers import CLUSTER, DATA_DIR, Bench, disk, entries
from tests.unit.raft.conftest import MakeBench

FIVE = ("n1", "n2", "n3", "n4", "n5")


def stop(bench: Bench) -> None:
    bench.node.stop()
    bench.node.journal._destroy()


def run_reconfigure(bench: Bench, *members: str) -> OfflineReport:
    return reconfigure(bench.files, DATA_DIR, bench.files.open_store, members=members)


def run_recover(bench: Bench) -> OfflineReport:
    return recover(bench.files, DATA_DIR, bench.files.open_store, new_cluster_id="r1")


@pytest.fixture
def stopped(bench: Bench) -> Bench:
    """Holds entries 3..9, of which 6 are applied."""
    bench.append(entries(3, 9, 2), term=2, commit=6)
    stop(bench)
    return bench


def test_three_members_become_five_and_new_disks_do_not_count_yet(stopped: Bench):
    report = run_reconfigure(stopped, *reversed(FIVE))
    assert (report.members, report.applied_index, report.last_index) == (FIVE, 6, 9)
    stopped.members, stopped.others = FIVE, FIVE[1:]
    stopped.start()
    machine = stopped.node.machine
    assert machine.members == {
        "n1": stopped.disk_id, "n2": disk("n2"), "n3": disk("n3"), "n4": "", "n5": "",
    }  # fmt: skip
    assert machine.cluster_id == CLUSTER
    stopped.record = machine.members
    stopped.connect()
    counts = stopped.driver.core.membership.counts
    assert [name for name in FIVE[1:] if counts(name)] == ["n2", "n3"]


def test_entries_from_before_the_change_are_never_sent_to_the_new_members(stopped: Bench):
    run_reconfigure(stopped, *FIVE)
    stopped.members = FIVE
    stopped.start()
    assert stopped.node.journal.first_index == 6
    assert stopped.last_index == 9


def test_it_can_be_run_again(stopped: Bench):
    run_reconfigure(stopped, *FIVE)
    assert run_reconfigure(stopped, *FIVE).members == FIVE


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (("n1", "n2"), "leaves out n3"),
        (("n1", "n2", "n4"), "leaves out n3"),
        (("n1", "n2", "n3", "n4", "n5", "n6", "n7"), "can't grow to 7 in one step"),
    ],
)
def test_a_change_that_could_lose_something_is_refused_and_changes_nothing(
    stopped: Bench, members: tuple[str, ...], sentence: str
):
    with pytest.raises(ConfigurationError, match=sentence):
        run_reconfigure(stopped, *members)
    assert not stopped.files.exists(f"{DATA_DIR}/{FLOOR_FILE}")
    stopped.start()
    assert sorted(stopped.node.machine.members) == ["n1", "n2", "n3"]


def test_a_node_that_never_formed_and_an_empty_directory_are_refused(make_bench: MakeBench):
    bench = make_bench(is_formed=False)
    stop(bench)
    with pytest.raises(ConfigurationError, match="has not stored its cluster yet"):
        run_reconfigure(bench, *FIVE)
    with pytest.raises(ConfigurationError, match="nothing to recover"):
        run_recover(bench)
    with pytest.raises(ConfigurationError, match="holds no node"):
        recover(bench.files, "/elsewhere", bench.files.open_store, new_cluster_id="r1")


def test_a_sole_survivor_keeps_all_it_holds_applied_or_not_and_forms_anew(stopped: Bench):
    report = run_recover(stopped)
    assert (report.applied_index, report.last_index, report.replayed_count) == (9, 9, 3)
    assert report.members == ("n1", "n2", "n3")
    stopped.record = {}
    stopped.start()
    assert stopped.applied_index == 9
    assert stopped.node.machine.cluster_id == ""
    assert stopped.node.hello().restore_id == "r1"
    assert stopped.node.journal.first_index == 9


def test_the_recovered_cluster_gets_the_new_id_and_the_data_wins(stopped: Bench):
    run_recover(stopped)
    stopped.record = {}
    stopped.start()
    stopped.connect()
    for _ in range(12):
        for peer in stopped.others:
            stopped.receive(peer, f.Status("", True, "", {}, 0, stopped.clock.wall_ms(), False))
        stopped.receive("n2", f.RequestVote(9, 1, 0, False))
        assert not stopped.take(f.Vote)
        asked = stopped.take(f.PreVote)
        if asked:
            break
        stopped.advance(50)
    for peer in stopped.others:
        stopped.receive(peer, f.PreVoteReply(asked[-1].term, asked[-1].round, granted=True))
    for peer in stopped.others:
        stopped.receive(peer, f.Vote(asked[-1].term))
    for _ in range(2):
        stopped.ack("n2", stopped.last_index)
    assert stopped.node.machine.cluster_id == "r1"
    assert stopped.node.hello().restore_id == ""


def test_recovering_twice_is_the_same_as_once(stopped: Bench):
    run_recover(stopped)
    assert run_recover(stopped).applied_index == 9
    assert stopped.files.read_file(f"{DATA_DIR}/{RESTORE_FILE}") == b"r1"


def test_a_member_of_the_old_cluster_is_refused_by_the_recovered_one(stopped: Bench):
    run_recover(stopped)
    stopped.start()
    judge = stopped.driver.core.membership.judge
    assert "belongs to cluster c1, this node to r1" in (judge(stopped.hello("n2")) or "")
