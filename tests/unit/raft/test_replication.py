"""Entries from a leader to its followers: RAFT.md S1, S2, S3, S11, L1, L3 to L6 and PROTOCOL.md P2, on both sides."""

from __future__ import annotations

import pysyncobj.syncobj
import pytest

from falconq_cluster.raft import frames as f
from falconq_cluster.raft import guards, library
from falconq_cluster.raft.core import Core, RaftTimes
from falconq_cluster.raft.guards import LogView, StrippedAppend
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.library import RaftLibrary
from falconq_cluster.raft.replication import OFFER_AGAIN_MS, Replication
from tests.unit.raft.cluster_helpers import BASE, Bench, entries
from tests.unit.raft.conftest import MakeBench

Reopen = pytest.MonkeyPatch


def reopen_s1(patch: Reopen) -> None:
    """Everything in the log counts as verified against any leader."""
    real = guards.strip_matching

    def unverified(frame: f.Append, log: LogView) -> StrippedAppend:
        stripped = real(frame, log)
        return StrippedAppend(
            stripped.previous_index, stripped.previous_term, stripped.entries, log.last_index, stripped.joins
        )

    patch.setattr(guards, "strip_matching", unverified)


def reopen_s2(patch: Reopen) -> None:
    """Frames reach the library as they come."""

    def unstripped(frame: f.Append, log: LogView) -> StrippedAppend:
        end = frame.previous_index + len(frame.entries)
        return StrippedAppend(frame.previous_index, frame.previous_term, frame.entries, end, joins=True)

    patch.setattr(guards, "strip_matching", unstripped)


# As a follower.


def heartbeat_over_a_divergent_tail(bench: Bench) -> int:
    """An ex-leader holds 3..5 of term 2; the leader of term 3 has committed other entries there."""
    bench.append(entries(3, 5, 2), term=2)
    bench.append([], term=3, leader="n3", commit=9)
    return bench.applied_index


def test_a_divergent_tail_is_not_applied_when_a_leader_with_a_higher_commit_is_heard(bench: Bench):
    assert heartbeat_over_a_divergent_tail(bench) == 2
    assert bench.library.commit_index == 2
    bench.append([*entries(3, 3, 3), *entries(4, 4, 3)], term=3, leader="n3", commit=9)
    assert bench.terms == [3, 3]
    assert bench.applied_index == 4


def test_without_the_verified_index_the_divergent_tail_is_applied(bench: Bench, monkeypatch: Reopen):
    reopen_s1(monkeypatch)
    assert heartbeat_over_a_divergent_tail(bench) == 5


def test_a_snapshot_offer_moves_no_commit_index(bench: Bench):
    bench.append(entries(3, 5, 2), term=2)
    bench.receive("n3", f.SnapshotOffer(3, 9))
    bench.advance(200)
    assert (bench.library.term, bench.library.commit_index, bench.applied_index) == (3, 2, 2)


def late_frame(bench: Bench) -> int:
    """All of 3..6 is acknowledged, then the first frame comes once more."""
    bench.append(entries(3, 4, 2), term=2)
    bench.append(entries(5, 6, 2), term=2, previous=(4, 2))
    assert bench.take(f.AppendReply)[-1].next_index == 7
    bench.append(entries(3, 4, 2), term=2)
    return bench.last_index


def test_a_late_frame_shortens_no_acknowledged_log(bench: Bench):
    assert late_frame(bench) == 6
    assert bench.take(f.AppendReply)[-1].next_index == 5  # what this frame verified, not what is held


def test_without_stripping_a_late_frame_takes_acknowledged_entries_away(bench: Bench, monkeypatch: Reopen):
    reopen_s2(monkeypatch)
    assert late_frame(bench) == 4


def test_a_conflict_replaces_the_tail_from_the_conflict_on(bench: Bench):
    bench.append(entries(3, 6, 2), term=2)
    bench.append([*entries(3, 4, 2), *entries(5, 5, 3)], term=3, leader="n3")
    assert bench.terms == [2, 2, 3]
    reply = bench.take(f.AppendReply, "n3")[-1]
    assert (reply.success, reply.next_index, reply.term) == (True, 6, 3)


def test_a_frame_that_does_not_join_sends_the_leader_back_over_the_whole_conflicting_term(bench: Bench):
    bench.append(entries(3, 8, 2), term=2)
    bench.append([], term=3, leader="n3", previous=(8, 3), epoch=4)
    reply = bench.take(f.AppendReply, "n3")[-1]
    assert (reply.reset, reply.success, reply.next_index, reply.epoch) == (True, False, 3, 4)
    bench.append([], term=3, leader="n3", previous=(20, 3))
    assert bench.take(f.AppendReply, "n3")[-1].next_index == 9
    assert bench.last_index == 8


def test_a_leader_that_would_overwrite_what_is_committed_here_stops_the_process(bench: Bench):
    bench.append(entries(3, 4, 2), term=2, commit=4)
    assert bench.applied_index == 4
    bench.append(entries(4, 4, 3), term=3, leader="n3", previous=(3, 2))
    assert "committed here" in bench.stop.reason
    assert bench.terms == [2, 2]


def test_an_older_leader_is_told_the_term_and_changes_nothing(bench: Bench):
    bench.append(entries(3, 4, 5), term=5)
    bench.append(entries(3, 3, 4), term=4, leader="n3")
    assert [frame.term for frame in bench.take(f.StaleTerm, "n3")] == [5]
    assert bench.terms == [5, 5]
    assert bench.library.leader == "n2"


def committed_before_the_sync(bench: Bench) -> int:
    """Entries come together with their commit, while the disk is slow."""
    bench.disk.is_held = True
    bench.append(entries(3, 5, 2), term=2, commit=5)
    return bench.applied_index


def test_nothing_is_applied_before_it_is_on_this_nodes_disk(bench: Bench):
    assert committed_before_the_sync(bench) == 2
    bench.disk.is_held = False
    bench.settle()
    assert bench.applied_index == 5


def test_without_the_synced_index_entries_are_applied_before_they_are_on_disk(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Journal, "synced_index", property(lambda journal: journal.last_index))
    assert committed_before_the_sync(bench) == 5


def test_an_answer_to_entries_leaves_after_the_sync_that_covers_them(bench: Bench):
    bench.disk.is_held = True
    bench.append(entries(3, 5, 2), term=2)
    assert not bench.take(f.AppendReply)
    bench.disk.is_held = False
    bench.settle()
    assert [reply.next_index for reply in bench.take(f.AppendReply)] == [6]
    bench.restart(is_power_loss=True)
    assert bench.terms == [2, 2, 2]


def test_without_promises_an_answer_leaves_before_the_sync(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Core, "promise", Core.send)
    bench.disk.is_held = True
    bench.append(entries(3, 5, 2), term=2)
    assert bench.take(f.AppendReply)


def test_frames_that_come_during_a_sync_wait_for_the_next_step(bench: Bench):
    bench.disk.is_held = True
    bench.append(entries(3, 3, 2), term=2)
    bench.append(entries(4, 4, 2), term=2, previous=(3, 2), commit=4)
    assert bench.terms == [2]
    bench.disk.is_held = False
    bench.settle()
    assert bench.applied_index == 4


# As a leader.


def stale_ack(bench: Bench) -> int:
    """A follower's answer of an earlier term names an index that the log has again, with another entry."""
    term = bench.lead()
    bench.broker.publish("x")
    bench.driver.request_step()
    bench.settle()
    bench.ack("n2", bench.last_index, term=term - 1)
    return bench.last_index - bench.library.commit_index


def test_an_answer_of_another_term_commits_nothing(bench: Bench):
    assert stale_ack(bench) == 1
    bench.ack("n2", bench.last_index)
    assert bench.library.commit_index == bench.last_index


def test_without_the_terms_check_a_stale_answer_commits(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(guards, "is_reply_current", lambda *_args, **_named: True)
    assert stale_ack(bench) == 0


def ack_of_the_first_while_more_is_in_flight(bench: Bench) -> int:
    """Three entries are on their way one by one when the first is answered; how many are sent once more."""
    bench.lead()
    for text in ("x", "y", "z"):
        bench.broker.publish(text)
        bench.driver.request_step()
        bench.settle()
    first = bench.last_index - 2
    bench.take(f.Append)
    bench.ack("n2", first)
    bench.advance(300)
    return sum(len(frame.entries) for frame in bench.take(f.Append, "n2"))


def test_an_answer_sends_nothing_twice_that_is_in_flight(bench: Bench):
    assert ack_of_the_first_while_more_is_in_flight(bench) == 0


def test_without_keeping_the_higher_next_index_each_answer_sends_all_in_flight_again(bench: Bench, monkeypatch: Reopen):
    real = Replication.reply_received

    def rewinding(replication: Replication, peer: str, frame: f.AppendReply) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RaftLibrary, "set_next_index", lambda *_args: None)
            real(replication, peer, frame)

    monkeypatch.setattr(Replication, "reply_received", rewinding)
    assert ack_of_the_first_while_more_is_in_flight(bench) == 2


def test_a_rewind_is_done_once_however_many_frames_in_flight_ask_for_it(bench: Bench):
    bench.lead()
    rewind = bench.reply("n3", 3, is_reset=True)
    bench.take(f.Append)
    bench.receive("n3", rewind)
    bench.advance(300)
    assert sum(len(frame.entries) for frame in bench.take(f.Append, "n3")) == 1
    bench.receive("n3", rewind, rewind)
    bench.advance(300)
    assert sum(len(frame.entries) for frame in bench.take(f.Append, "n3")) == 0


def test_a_new_connection_gets_again_what_was_in_flight_on_the_old_one(bench: Bench):
    bench.lead()
    bench.broker.publish("x")
    bench.driver.request_step()
    bench.settle()
    bench.take(f.Append)
    bench.connect("n2")
    bench.advance(300)
    assert [index for frame in bench.take(f.Append, "n2") for _, index, _ in frame.entries] == [bench.last_index]


def test_a_learners_answers_move_what_is_sent_to_it_and_commit_nothing(bench: Bench):
    term = bench.become_leader()
    bench.disconnect("n2")
    bench.connect_as("n2", disk_id="a new disk")
    bench.ack("n2", bench.last_index, term=term)
    bench.advance(100)
    assert bench.library.commit_index < bench.last_index
    assert bench.driver.replication.lag_of("n2") == bench.last_index


# What it costs.


def offers_to_a_follower_behind_the_log(bench: Bench, ms: int) -> int:
    """The journal begins behind what n3 has; how often it is told so."""
    bench.lead()
    for number in range(4):
        bench.broker.publish(str(number))
        bench.driver.request_step()
        bench.settle()
        bench.ack("n2", bench.last_index)
    bench.node.journal.cut_front(bench.last_index)
    bench.take(f.SnapshotOffer)
    bench.receive("n3", bench.reply("n3", BASE[0], is_reset=True))
    bench.take(f.Append)
    bench.advance(ms)
    return len(bench.take(f.SnapshotOffer, "n3"))


def test_a_follower_behind_the_log_is_told_so_once_a_second_and_is_sent_nothing_else(bench: Bench):
    assert offers_to_a_follower_behind_the_log(bench, 300) == 1
    for _ in range(6):
        bench.advance(OFFER_AGAIN_MS // 2)
        for peer in bench.others:
            bench.receive(peer, f.KeepaliveReply(bench.library.term, 1))
    assert 2 <= len(bench.take(f.SnapshotOffer, "n3")) <= 3
    assert not bench.take(f.Append, "n3")


def test_without_hiding_the_peer_a_follower_behind_the_log_is_told_so_again_and_again(
    bench: Bench, monkeypatch: Reopen
):
    monkeypatch.setattr(library.RaftLibrary, "disconnect", lambda *_args: None)
    assert offers_to_a_follower_behind_the_log(bench, 300) > 1


def test_after_the_snapshot_the_log_goes_on_behind_it(bench: Bench):
    offers_to_a_follower_behind_the_log(bench, 300)
    bench.receive("n3", f.SnapshotInstalled(bench.library.term, bench.last_index))
    bench.broker.publish("x")
    bench.driver.request_step()
    bench.settle()
    assert [index for frame in bench.take(f.Append, "n3") for _, index, _ in frame.entries][-1:] == [bench.last_index]


def send_large(bench: Bench) -> list[f.Append]:
    bench.lead()
    bench.take(f.Append)
    bench.broker.publish("x" * (4 << 20))
    bench.broker.publish("y" * (4 << 20))
    bench.driver.request_step()
    bench.settle()
    return [frame for frame in bench.take(f.Append, "n2") if frame.entries]


def test_the_largest_commands_are_sent_whole(bench: Bench):
    sent = send_large(bench)
    assert [len(text) > 4 << 20 for frame in sent for text, _, _ in frame.entries] == [True, True]
    assert not bench.fatal


def test_with_a_batch_size_below_the_command_the_library_splits_it(make_bench: MakeBench, monkeypatch: Reopen):
    monkeypatch.setattr(library, "APPEND_BYTES_MAX", 1024)
    bench = make_bench()
    bench.connect()
    send_large(bench)
    assert bench.fatal


def test_nothing_is_pickled_on_the_way_of_a_command(bench: Bench, monkeypatch: Reopen):
    class NoPickle:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"pickle.{name}")

    monkeypatch.setattr(pysyncobj.syncobj, "pickle", NoPickle())
    assert len(send_large(bench)) >= 1
    bench.ack("n2", bench.last_index)
    assert bench.applied_index == bench.last_index
    assert not bench.fatal


def publish_and_look_at_once(bench: Bench) -> int:
    bench.lead()
    bench.advance(20)
    bench.take(f.Append)
    bench.broker.publish("x")
    bench.driver.request_step()
    bench.settle()
    return sum(len(frame.entries) for frame in bench.take(f.Append, "n2"))


def test_entries_leave_in_the_step_that_appends_them(bench: Bench):
    assert publish_and_look_at_once(bench) == 1


def test_without_sending_in_the_step_entries_wait_for_a_heartbeat(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(RaftLibrary, "send_entries", lambda _library: None)
    assert publish_and_look_at_once(bench) == 0


def test_a_leader_takes_no_commands_while_too_many_wait_for_their_commit(make_bench: MakeBench):
    bench = make_bench(times=RaftTimes(uncommitted_entries_max=8))
    bench.connect()
    bench.lead()
    for number in range(30):
        bench.broker.publish(str(number))
        bench.driver.request_step()
        bench.settle()
        if bench.broker.waiting:
            break
    assert bench.last_index - bench.library.commit_index == 8
    bench.ack("n2", bench.last_index)
    assert not bench.broker.waiting
