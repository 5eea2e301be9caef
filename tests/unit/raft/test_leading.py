"""A leader's duties beyond replicating: commands, members, time, followers' needs (PROTOCOL.md P4, P5, P7, P8, P11)."""

from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import SetDisk, decode_command, decode_entry
from falconq_cluster.raft import frames as f
from falconq_cluster.raft.core import RaftTimes
from falconq_cluster.raft.leading import Leading
from tests.unit.raft.cluster_helpers import BASE, Bench, entries
from tests.unit.raft.conftest import MakeBench


def publish(bench: Bench, *texts: str) -> None:
    for text in texts:
        bench.broker.publish(text)
        bench.driver.request_step()
        bench.settle()


def keep_alive(bench: Bench, ms: int) -> None:
    """Let time pass while both others answer."""
    for _ in range(ms // 200):
        bench.advance(200)
        for peer in bench.others:
            bench.receive(peer, f.KeepaliveReply(bench.library.term, 1))


def commands_behind_the_no_op(bench: Bench) -> list[object]:
    operations: list[object] = []
    for text, index, term in bench.node.journal:
        if index > BASE[0] and len(text) > 1:
            assert term == bench.library.term
            operations += decode_command(decode_entry(text)[1]).operations
    return operations


# Commands.


def test_a_leader_takes_commands_only_once_its_no_op_is_applied(bench: Bench):
    bench.become_leader()
    publish(bench, "x")
    assert not bench.node.raft.is_leader
    assert bench.broker.waiting
    bench.ack("n2", bench.last_index)
    assert bench.node.raft.is_leader
    bench.advance(60)
    assert not bench.broker.waiting


def test_without_waiting_for_the_no_op_a_leader_takes_commands_on_old_state(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Leading, "may_take_commands", property(lambda leading: leading._core.library.leads))
    bench.become_leader()
    publish(bench, "x")
    assert not bench.broker.waiting


# Members.


def test_a_new_disk_is_not_proposed_before_it_holds_all_that_was_committed_a_moment_ago(make_bench: MakeBench):
    bench = make_bench()
    bench.connect("n2")
    bench.connect_as("n3", disk_id="a new disk")
    bench.lead()
    bench.ack("n3", bench.library.commit_index - 1)
    bench.advance(300)
    assert not commands_behind_the_no_op(bench)
    bench.ack("n3", bench.library.commit_index)
    bench.advance(300)
    assert commands_behind_the_no_op(bench) == [SetDisk("n3", "a new disk")]
    bench.advance(300)
    assert len(commands_behind_the_no_op(bench)) == 1


def test_a_cluster_is_not_formed_while_a_member_is_away(make_bench: MakeBench):
    bench = make_bench(is_formed=False)
    bench.connect()
    asked: list[f.PreVote] = []
    while not asked:
        for peer in bench.others:
            bench.receive(peer, f.Status("", True, "", {}, 0, bench.clock.wall_ms(), False))
        asked = bench.take(f.PreVote)
        bench.advance(50)
    for peer in bench.others:
        bench.receive(peer, f.PreVoteReply(asked[-1].term, asked[-1].round, granted=True))
    for peer in bench.others:
        bench.receive(peer, f.Vote(asked[-1].term))
    bench.disconnect("n3")
    bench.ack("n2", bench.last_index)
    bench.advance(300)
    assert not commands_behind_the_no_op(bench)
    bench.connect("n3")
    bench.advance(60)
    assert len(commands_behind_the_no_op(bench)) == 1


def test_what_changes_the_members_is_flushed_at_once(make_bench: MakeBench):
    bench = make_bench()
    bench.connect("n2")
    bench.connect_as("n3", disk_id="a new disk")
    bench.lead()
    bench.ack("n3", bench.last_index)
    bench.advance(60)
    bench.ack("n2", bench.last_index)
    assert bench.node.replica.flushed_index == bench.node.machine.record_index == bench.last_index


# Followers.


def test_answers_of_another_term_keep_no_leader(bench: Bench):
    term = bench.lead()
    for _ in range(8):
        bench.advance(200)
        bench.receive("n2", f.KeepaliveReply(term - 1, 1))
    assert not bench.library.leads


def test_a_rewind_never_goes_behind_what_the_follower_is_known_to_hold(bench: Bench):
    bench.lead()
    publish(bench, "x", "y")
    bench.ack("n2", bench.last_index)
    bench.take(f.Append)
    bench.receive("n2", bench.reply("n2", BASE[0] + 1, is_reset=True))
    bench.advance(300)
    assert not any(frame.entries for frame in bench.take(f.Append, "n2"))


def test_an_installed_snapshot_of_another_term_is_not_believed(bench: Bench):
    term = bench.lead()
    publish(bench, "x", "y")
    bench.ack("n2", bench.last_index)
    bench.node.journal.cut_front(bench.last_index)
    bench.receive("n3", bench.reply("n3", BASE[0], is_reset=True))
    bench.advance(300)
    assert bench.take(f.SnapshotOffer, "n3")
    bench.receive("n3", f.SnapshotInstalled(term - 1, bench.last_index))
    assert bench.driver.replication.lag_of("n3") == 0
    bench.receive("n3", f.SnapshotInstalled(term, bench.last_index))
    assert bench.driver.replication.lag_of("n3") == bench.last_index


def journal_of_a_leader_whose_follower_lags(bench: Bench, *, is_heard: bool) -> int:
    """n3 answers, and holds little; everything is applied and flushed here."""
    bench.connect()
    bench.lead()
    bench.ack("n3", bench.last_index)
    for number in range(30):
        publish(bench, str(number))
        bench.ack("n2", bench.last_index)
        if is_heard:
            bench.receive("n3", f.KeepaliveReply(bench.library.term, 1))
    assert bench.node.replica.flushed_index > 20
    return bench.node.journal.first_index


def test_the_journal_is_kept_for_a_follower_that_is_fed_from_it(make_bench: MakeBench):
    times = RaftTimes(flush_entries=5, journal_keep_entries=0)
    assert journal_of_a_leader_whose_follower_lags(make_bench(times=times), is_heard=True) == 3


def test_the_journal_is_not_kept_for_a_follower_that_is_silent(make_bench: MakeBench):
    times = RaftTimes(flush_entries=5, journal_keep_entries=0)
    assert journal_of_a_leader_whose_follower_lags(make_bench(times=times), is_heard=False) > 20


def test_the_journal_is_not_kept_beyond_a_multiple_of_its_size(make_bench: MakeBench):
    times = RaftTimes(flush_entries=5, journal_keep_entries=0, journal_bytes_max=100)
    assert journal_of_a_leader_whose_follower_lags(make_bench(times=times), is_heard=True) > 20


# Divergence and time.


def test_what_a_disk_that_is_not_on_record_wrote_puts_nothing_in_doubt(make_bench: MakeBench):
    bench = make_bench()
    bench.connect("n2")
    bench.connect_as("n3", disk_id="a new disk")
    bench.lead()
    bench.receive("n3", bench.reply("n3", bench.last_index + 1, applied=(bench.applied_index, b"x" * 16)))
    assert bench.node.raft.is_leader


def test_after_a_restart_of_all_log_time_is_the_median_of_the_members_walls(make_bench: MakeBench):
    bench = make_bench()
    ahead = bench.clock.wall_ms() + 3_600_000
    for peer in bench.others:
        hello = bench.hello(peer)
        fields = {name: getattr(hello, name) for name in hello.__struct_fields__} | {"wall_ms": ahead}
        bench.connect(peer, hello=f.Hello(**fields))
    bench.become_leader()
    assert ahead <= bench.node.raft.log_time_ms() < ahead + 2000


def test_stamps_do_not_go_back_with_the_wall_clock(bench: Bench):
    bench.append([], term=2)
    ahead = bench.clock.wall_ms() + 3_600_000
    bench.receive("n2", f.Keepalive(2, 1, ahead))
    bench.lead()
    publish(bench, "x")
    assert decode_entry(bench.node.journal[-1][0])[0] >= ahead


def test_an_entry_with_a_later_stamp_moves_a_followers_log_time_forward(bench: Bench):
    bench.append([], term=2)
    bench.receive("n2", f.Keepalive(2, 1, 70_000))
    bench.append(entries(3, 3, 2), term=2, commit=3)
    stamp = decode_entry(bench.node.journal[-1][0])[0]
    assert bench.driver.core.log_time.now_ms() == stamp


def test_only_the_leader_is_heard_as_one(bench: Bench):
    bench.append([], term=2)
    bench.receive("n2", f.Keepalive(2, 1, bench.node.machine.log_time_ms + 90_000))
    reading = bench.node.raft.log_time_ms()
    bench.advance(250)
    bench.receive("n3", f.Keepalive(2, 1, reading + 1_000_000))
    assert bench.node.raft.log_time_ms() == reading + 250
    bench.advance(60)
    assert not bench.driver.core.election.hears_live_leader()


def test_the_leader_of_this_term_is_believed_by_its_keepalive(bench: Bench):
    bench.receive("n2", f.RequestVote(5, BASE[0], BASE[1], False))
    bench.receive("n2", f.Keepalive(5, 1, 70_000))
    assert bench.library.leader == "n2"
    keep_alive(bench, 200)
    assert not bench.take(f.PreVote)
