"""The loop: steps, syncs, promises, applying, and what stops a node (RAFT.md S3, S14, S15, S18, L12, P6, P7, P11)."""

from __future__ import annotations

import errno

import pytest

from falconq_cluster.machine.machine import Applied
from falconq_cluster.raft import frames as f
from falconq_cluster.raft.core import RaftTimes
from falconq_cluster.raft.driver import RaftDriver
from falconq_cluster.raft.election import Election
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.library import RaftLibrary
from tests.unit.raft.cluster_helpers import BASE, Bench, entries
from tests.unit.raft.conftest import MakeBench

Reopen = pytest.MonkeyPatch


def publish(bench: Bench, *texts: str) -> None:
    for text in texts:
        bench.broker.publish(text)
    bench.driver.request_step()
    bench.settle()


# Syncs.


def test_a_single_node_commits_after_its_own_sync(make_bench: MakeBench):
    bench = make_bench(member_count=1)
    bench.advance(1000)
    assert bench.node.raft.is_leader
    bench.disk.is_held = True
    publish(bench, "x")
    bench.advance(200)
    assert bench.library.commit_index == bench.last_index - 1
    bench.disk.is_held = False
    bench.settle()
    assert bench.applied_index == bench.last_index


def test_without_the_synced_index_a_single_node_applies_before_its_sync(make_bench: MakeBench, monkeypatch: Reopen):
    bench = make_bench(member_count=1)
    bench.advance(1000)
    monkeypatch.setattr(Journal, "synced_index", property(lambda journal: journal.last_index))
    monkeypatch.setattr(RaftDriver, "_sync", RaftDriver._release_promises)
    publish(bench, "x")
    bench.advance(200)
    assert bench.applied_index == bench.last_index


def test_commands_that_come_during_a_sync_share_the_next_one(bench: Bench):
    bench.lead()
    before = bench.driver.core.counters.syncs
    bench.disk.is_held = True
    for number in range(20):
        publish(bench, str(number))
    bench.disk.is_held = False
    bench.settle()
    assert bench.driver.core.counters.syncs - before == 2
    assert not bench.broker.waiting


@pytest.mark.parametrize("error", [OSError(errno.EIO, "input/output error"), OSError(errno.ENOSPC, "no space left")])
def test_a_failed_sync_stops_the_process_and_nothing_that_it_covered_is_promised(bench: Bench, error: OSError):
    bench.disk.error = error
    bench.append(entries(3, 3, 2), term=2)
    assert bench.stop.exit_code == 74
    assert "could not be synced" in bench.stop.reason
    bench.disk.error = None
    bench.append(entries(4, 4, 2), term=2, previous=(3, 2))
    bench.advance(1000)
    assert not bench.take(f.AppendReply)
    assert len(bench.fatal) == 1


# Applying.


def unreadable_command(bench: Bench) -> None:
    bench.append([(b"\x00\x07not of this version", 3, 2), *entries(4, 4, 2)], term=2, commit=4)


def test_an_entry_that_is_not_readable_stops_the_process_before_anything_behind_it(bench: Bench):
    unreadable_command(bench)
    assert "CommandError" in bench.stop.reason
    assert bench.stop.exit_code == 70
    assert bench.applied_index == BASE[0]


def test_without_the_door_an_entry_that_is_not_readable_leaves_the_node_running(bench: Bench, monkeypatch: Reopen):
    def swallow(driver: RaftDriver, reason: object) -> None:
        """As the library's tick thread does."""

    monkeypatch.setattr(RaftDriver, "stop_with", swallow)
    unreadable_command(bench)
    bench.advance(500)
    assert not bench.driver.is_stopped


def failing_callback(bench: Bench) -> list[int]:
    """Whoever is told of what was applied fails at entry 4; the indexes that were applied."""

    def fail(applied: Applied) -> None:
        if applied.index == 4:
            raise KeyError("a defect in a callback")

    bench.broker.when_applied = fail
    bench.append(entries(3, 6, 2), term=2, commit=6)
    bench.advance(500)
    return [applied.index for applied in bench.broker.applied_entries]


def test_an_exception_in_a_callback_applies_nothing_twice_and_stops_the_process(bench: Bench):
    assert failing_callback(bench) == [3, 4]
    assert "KeyError" in bench.stop.reason
    assert (bench.applied_index, bench.library.last_applied) == (4, 4)
    bench.restart()
    bench.connect()
    bench.append([], term=2, previous=(6, 2), commit=6)
    assert [applied.index for applied in bench.broker.applied_entries] == [5, 6]


def test_an_entry_that_is_applied_already_is_skipped(bench: Bench):
    bench.append(entries(3, 4, 2), term=2, commit=4)
    bench.driver._apply_one(bench.node.journal[-1][0], 4, 2)
    assert [applied.index for applied in bench.broker.applied_entries] == [3, 4]


def test_a_backlog_is_applied_in_turns_of_bounded_length(make_bench: MakeBench):
    bench = make_bench(times=RaftTimes(apply_entries_max=10))
    bench.connect()
    turns: list[int] = []
    real = bench.driver._apply_committed

    def counted() -> None:
        before = bench.applied_index
        real()
        turns.append(bench.applied_index - before)

    bench.library._apply_committed = counted
    bench.append(entries(3, 60, 2), term=2, commit=60)
    assert bench.applied_index == 60
    assert max(turns) == 10


# What stops a node.


def defect_in_a_step(bench: Bench, monkeypatch: Reopen) -> None:
    def fail(library: RaftLibrary) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(RaftLibrary, "tick", fail)
    bench.advance(200)


def test_any_exception_in_a_step_stops_the_process(bench: Bench, monkeypatch: Reopen):
    defect_in_a_step(bench, monkeypatch)
    assert "ZeroDivisionError" in bench.stop.reason
    assert bench.events("driver_failed")
    bench.append(entries(3, 3, 2), term=2)
    assert bench.last_index == BASE[0]


def test_an_exception_in_a_frame_that_is_handled_at_once_stops_the_process(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Election, "leader_heard", lambda _election: 1 // 0)
    bench.receive("n2", f.Keepalive(1, 1, 70_000))
    assert "ZeroDivisionError" in bench.stop.reason


def test_a_stopped_node_sends_nothing_more(bench: Bench):
    bench.driver.stop()
    bench.network.sent.clear()
    bench.append(entries(3, 3, 2), term=2)
    bench.advance(2000)
    assert not bench.network.sent
    assert bench.node.raft.state() == "stopped"


# Leaders without followers, followers without leader.


def unanswered_leader(bench: Bench, ms: int) -> bool:
    bench.lead()
    bench.advance(ms)
    return bench.library.leads


def test_a_leader_that_nobody_answers_steps_down_within_about_a_second(bench: Bench):
    assert not unanswered_leader(bench, 1200)
    assert bench.node.raft.leader is None


def test_with_the_librarys_own_fallback_a_leader_stays_stale(make_bench: MakeBench):
    bench = make_bench(times=RaftTimes(leader_fallback_ms=30_000))
    bench.connect()
    assert unanswered_leader(bench, 1200)


def test_a_leader_that_a_majority_answers_stays(bench: Bench):
    term = bench.lead()
    for _ in range(20):
        bench.advance(200)
        bench.receive("n2", f.KeepaliveReply(term, 1))
    assert bench.library.leads


def test_answers_of_a_disk_that_is_not_on_record_keep_no_leader(bench: Bench):
    bench.disconnect("n3")
    bench.connect_as("n3", disk_id="a new disk")
    term = bench.lead()
    for _ in range(8):
        bench.advance(200)
        bench.receive("n3", f.KeepaliveReply(term, 1))
    assert not bench.library.leads


def test_a_lost_connection_to_the_leader_starts_a_campaign_within_a_moment(bench: Bench):
    bench.append(entries(3, 3, 2), term=2)
    bench.disconnect("n2")
    bench.advance(130)
    assert bench.take(f.PreVote, "n3")


def test_frames_of_a_lost_connection_that_wait_are_dropped(bench: Bench):
    bench.disk.is_held = True
    bench.append(entries(3, 3, 2), term=2)
    bench.append(entries(4, 4, 2), term=2, previous=(3, 2))
    bench.disconnect("n2")
    bench.disk.is_held = False
    bench.settle()
    assert bench.terms == [2]


# Slow disks.


def test_keepalives_go_on_while_a_sync_runs_and_stop_when_it_stalls(bench: Bench):
    bench.lead()
    bench.disk.is_held = True
    publish(bench, "x")
    bench.take(f.Keepalive)
    bench.advance(750)
    assert len(bench.take(f.Keepalive, "n2")) >= 14
    bench.advance(100)
    bench.take(f.Keepalive)
    assert not bench.library.leads
    bench.advance(1000)
    assert not bench.take(f.Keepalive)
    assert bench.events("leader_stepped_down")


def stalled_leader(bench: Bench) -> bool:
    term = bench.lead()
    bench.disk.is_held = True
    publish(bench, "x")
    for _ in range(20):
        bench.advance(100)
        bench.receive("n2", f.KeepaliveReply(term, 1))
    return bench.library.leads


def test_a_leader_whose_disk_hangs_under_a_live_network_steps_down(bench: Bench):
    assert not stalled_leader(bench)


def test_without_the_watch_over_the_disk_a_leader_that_can_commit_nothing_stays(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Election, "is_disk_stalled", lambda _election: False)
    assert stalled_leader(bench)


def test_a_node_whose_disk_stalled_does_not_campaign_before_a_sync_was_fast_again(bench: Bench):
    stalled_leader(bench)
    bench.take(f.PreVote)
    bench.advance(3000)
    assert not bench.take(f.PreVote)
    bench.disk.is_held = False
    bench.settle()
    assert bench.driver.core.election.is_disk_suspect
    bench.disk.is_held = True
    bench.advance(2000)
    assert not bench.take(f.PreVote)
    bench.disk.is_held = False
    bench.advance(1500)
    assert bench.take(f.PreVote, "n2")


def test_a_single_node_whose_disk_stalled_leads_again_once_the_disk_is_fast(make_bench: MakeBench):
    bench = make_bench(member_count=1)
    bench.advance(1000)
    bench.disk.is_held = True
    publish(bench, "x")
    bench.advance(1000)
    assert not bench.library.leads
    bench.disk.is_held = False
    bench.advance(2000)
    assert bench.node.raft.is_leader
    bench.restart(is_power_loss=True)
    assert bench.library.voted_for == "n1"


def test_a_node_whose_disk_stalled_is_not_handed_leadership(bench: Bench):
    bench.disk.is_held = True
    bench.append(entries(3, 3, 2), term=2)
    bench.advance(900)
    assert bench.driver.core.election.is_disk_stalled()
    bench.receive("n2", f.TimeoutNow(2))
    bench.disk.is_held = False
    bench.settle()
    assert not bench.take(f.RequestVote)


def test_a_followers_slow_disk_delays_no_answer_to_the_leaders_keepalives(bench: Bench):
    bench.disk.is_held = True
    bench.append(entries(3, 3, 2), term=2)
    bench.receive("n2", f.Keepalive(2, 7, 70_000))
    assert bench.take(f.KeepaliveReply, "n2") == [f.KeepaliveReply(2, 7)]
    assert not bench.take(f.AppendReply)


# Log time.


def test_keepalives_carry_log_time_and_a_follower_goes_on_from_it(bench: Bench):
    bench.append([], term=2)
    bench.receive("n2", f.Keepalive(2, 1, bench.node.machine.log_time_ms + 90_000))
    reading = bench.node.raft.log_time_ms()
    bench.advance(40)
    assert bench.node.raft.log_time_ms() == reading + 40
    bench.receive("n3", f.Keepalive(1, 1, 5))
    assert bench.node.raft.log_time_ms() == reading + 40


def test_a_new_leader_does_not_step_back_behind_what_it_heard(bench: Bench):
    bench.append([], term=2)
    ahead = bench.clock.wall_ms() + 3_600_000
    bench.receive("n2", f.Keepalive(2, 1, ahead))
    term = bench.become_leader()
    assert bench.node.raft.log_time_ms() >= ahead
    assert [beat.term for beat in bench.take(f.Keepalive, "n3")][-1:] == [term]
