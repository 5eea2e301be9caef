"""Getting a snapshot in, flushing, cutting the journal: RAFT.md S4 to S7, S22 and PROTOCOL.md P1, P8."""

from __future__ import annotations

import pytest

from falconq_cluster.raft import frames as f
from falconq_cluster.raft.core import RaftTimes
from falconq_cluster.raft.frames import SnapshotOffer
from falconq_cluster.raft.installing import SECOND_OPINION_MS, Installing
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.replica import Replica
from falconq_cluster.raft.snapshots import SnapshotServer
from falconq_cluster.storage.memory import MemoryStore
from tests.unit.raft.cluster_helpers import BASE, Bench, entries
from tests.unit.raft.conftest import MakeBench
from tests.unit.raft.quiet_cluster import QuietCluster

Reopen = pytest.MonkeyPatch
SNAPSHOT = (20, 3)
"""(index, term) that the leader's snapshot has applied."""


class Source:
    """The leader n2 of term 3, with a store that is far ahead."""

    def __init__(self, bench: Bench, *, last: int = SNAPSHOT[0]) -> None:
        self.bench = bench
        store = MemoryStore()
        machine = bench.form_store(store)
        for text, index, _ in entries(3, last, 3):
            store.write(machine.apply(index, SNAPSHOT[1], text).changes)
        self.machine = machine
        self.store = store
        self.server = SnapshotServer(
            freeze=lambda: (store.snapshot(), machine.applied_index, machine.applied_term),
            send_bulk=lambda peer, frame: bench.receive("n2", frame),
            now_ms=bench.clock.monotonic_ms,
            chunk_bytes=200,
        )

    def offer(self, *, term: int = 3) -> None:
        self.bench.receive("n2", SnapshotOffer(term, self.machine.applied_index))

    def serve(self) -> None:
        """Serve until the whole is there."""
        while asked := self.bench.take(f.SnapshotFetch, "n2"):
            for frame in asked:
                self.server.fetch_received("n1", frame)

    def confirm(self) -> None:
        """The second node knows the same hash."""
        for query in self.bench.take(f.HashQuery, "n3"):
            self.bench.receive("n3", f.HashReply(query.index, self.machine.digest))


def test_a_snapshot_replaces_store_and_journal_and_the_log_goes_on_behind_it(bench: Bench):
    source = Source(bench)
    source.offer()
    assert bench.node.raft.readiness() == ["a snapshot is being installed"]
    source.serve()
    assert bench.applied_index == BASE[0]
    source.confirm()
    assert bench.applied_index == SNAPSHOT[0]
    assert bench.node.machine.digest == source.machine.digest
    assert (bench.node.journal.first_index, bench.last_index) == (SNAPSHOT[0], SNAPSHOT[0])
    assert bench.broker.jumps == 1
    assert bench.take(f.SnapshotInstalled, "n2") == [f.SnapshotInstalled(3, SNAPSHOT[0])]
    bench.append(entries(21, 22, 3), term=3, previous=SNAPSHOT, commit=22)
    assert bench.applied_index == 22


def test_an_installed_snapshot_is_there_after_a_power_loss_with_term_and_vote(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    source.confirm()
    bench.restart(is_power_loss=True)
    assert (bench.applied_index, bench.last_index, bench.library.term) == (SNAPSHOT[0], SNAPSHOT[0], 3)
    assert set(bench.files.stores) >= {"/data/store/1"}
    assert bench.node.store is bench.files.stores["/data/store/1"]


def test_a_power_loss_during_the_pull_leaves_the_old_store(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    bench.restart(is_power_loss=True)
    assert bench.applied_index == BASE[0]


def test_the_snapshot_is_announced_after_it_is_on_disk(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    bench.disk.is_held = True
    source.confirm()
    assert bench.applied_index == BASE[0]
    assert not bench.take(f.SnapshotInstalled)
    bench.disk.is_held = False
    bench.settle()
    assert bench.take(f.SnapshotInstalled)


def snapshot_below_the_journals_end(bench: Bench) -> int:
    """The journal has acknowledged entries behind the snapshot's last one, not committed yet."""
    bench.append(entries(3, 25, 3), term=3)
    source = Source(bench)
    source.offer()
    source.serve()
    source.confirm()
    assert bench.applied_index == SNAPSHOT[0]
    return bench.last_index


def test_the_leader_is_told_after_the_journal_behind_the_snapshot_is_on_disk(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    bench.background.is_held = True

    def hold_the_disk() -> None:
        bench.disk.is_held = True

    bench.broker.when_jumped = hold_the_disk
    source.confirm()
    assert bench.applied_index == SNAPSHOT[0]
    assert not bench.take(f.SnapshotInstalled)
    bench.disk.is_held = False
    bench.settle()
    assert bench.take(f.SnapshotInstalled, "n2")


def test_a_snapshot_is_flushed_before_it_is_put_in_place(bench: Bench):
    source = Source(bench)
    source.offer()
    bench.background.is_held = True
    source.serve()
    bench.advance(SECOND_OPINION_MS + 10)
    assert bench.applied_index == BASE[0]
    assert not bench.take(f.HashQuery)


def test_the_journals_tail_is_kept_when_it_holds_the_snapshots_last_entry(bench: Bench):
    assert snapshot_below_the_journals_end(bench) == 25
    assert bench.node.journal.first_index == SNAPSHOT[0]


def test_clearing_the_journal_for_a_snapshot_would_erase_acknowledged_entries(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Journal, "cut_front", lambda journal, index: journal.restart_at(index, SNAPSHOT[1]))
    assert snapshot_below_the_journals_end(bench) == SNAPSHOT[0]


AHEAD = [*entries(3, 20, 3), *entries(21, 30, 4)]
"""What the next leader has: all that the snapshot holds, and more."""


def late_snapshot(bench: Bench) -> list[int]:
    """A snapshot is whole when the next leader's entries are committed and applied; the indexes that were applied."""
    source = Source(bench)
    source.offer()
    source.serve()
    bench.append(AHEAD, term=4, leader="n3", commit=25)
    assert bench.take(f.AppendReply)[-1].next_index == 31
    source.confirm()
    bench.advance(SECOND_OPINION_MS + 10)
    return [applied.index for applied in bench.broker.applied_entries]


def test_a_late_snapshot_of_an_old_leader_takes_nothing_back(bench: Bench):
    assert late_snapshot(bench) == list(range(3, 26))
    assert bench.last_index == 30
    assert not bench.take(f.SnapshotInstalled)
    assert not bench.driver.installing.is_installing
    assert bench.files.read_file("/data/store/CURRENT") is None


def test_a_snapshot_of_an_earlier_term_is_not_installed_although_it_is_newer(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    bench.append(AHEAD, term=4, leader="n3")
    source.confirm()
    assert (bench.applied_index, bench.last_index) == (BASE[0], 30)


def test_a_journal_that_holds_another_entry_at_the_snapshots_index_begins_anew_there(bench: Bench):
    bench.append(entries(3, 25, 2), term=2)
    source = Source(bench)
    source.offer()
    source.serve()
    source.confirm()
    assert (bench.node.journal.first_index, bench.last_index) == (SNAPSHOT[0], SNAPSHOT[0])
    assert bench.node.journal.last_term == SNAPSHOT[1]


def test_nobody_campaigns_while_it_installs_a_snapshot(bench: Bench):
    Source(bench).offer()
    bench.advance(3000)
    assert not bench.take(f.PreVote)


def test_without_the_check_a_late_snapshot_takes_back_what_was_applied(bench: Bench, monkeypatch: Reopen):
    monkeypatch.setattr(Installing, "may_install", lambda *_args: True)
    assert late_snapshot(bench) == [*range(3, 26), *range(21, 26)]


@pytest.mark.parametrize("commit", [20, 24])
def test_a_snapshot_that_is_not_above_the_applied_index_is_not_installed(bench: Bench, commit: int):
    source = Source(bench)
    source.offer()
    source.serve()
    bench.append(entries(3, 24, 3), term=3, commit=commit)
    source.confirm()
    assert (bench.applied_index, bench.last_index) == (commit, 24)
    assert bench.broker.jumps == 0


def test_entries_that_come_while_the_switch_is_written_are_taken_behind_it(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    bench.disk.is_held = True
    source.confirm()
    bench.append(AHEAD, term=4, leader="n3", commit=25)
    bench.disk.is_held = False
    bench.settle()
    assert (bench.applied_index, bench.last_index) == (25, 30)


def test_another_offer_while_the_switch_is_written_changes_nothing_about_it(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    bench.disk.is_mute = True
    source.confirm()
    bench.receive("n3", SnapshotOffer(4, 30))
    bench.disk.is_mute = False
    bench.settle()
    assert bench.applied_index == SNAPSHOT[0]
    bench.restart(is_power_loss=True)
    assert bench.applied_index == SNAPSHOT[0]
    assert bench.node.machine.digest == source.machine.digest


def test_a_snapshot_that_the_second_node_disagrees_with_is_given_up(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    (query,) = bench.take(f.HashQuery, "n3")
    bench.receive("n3", f.HashReply(query.index, b"x" * 16))
    bench.advance(SECOND_OPINION_MS + 10)
    assert bench.applied_index == BASE[0]
    assert bench.events("snapshot_disagrees")


def test_without_a_second_node_that_knows_the_snapshot_is_installed_after_a_moment(bench: Bench):
    source = Source(bench)
    source.offer()
    source.serve()
    (query,) = bench.take(f.HashQuery, "n3")
    bench.receive("n3", f.HashReply(query.index, b""))
    bench.advance(SECOND_OPINION_MS + 10)
    assert bench.applied_index == SNAPSHOT[0]


def test_an_offer_of_an_older_term_is_ignored(bench: Bench):
    bench.append([], term=5, leader="n3")
    Source(bench).offer(term=3)
    assert not bench.take(f.SnapshotFetch)


def test_a_damaged_chunk_ends_the_pull_and_nothing_of_it_is_installed(bench: Bench):
    source = Source(bench)
    source.offer()
    (asked,) = bench.take(f.SnapshotFetch, "n2")
    bench.receive("n2", f.SnapshotChunk(asked.transfer_id, 0, 20, 3, [(b"k", b"v")], True, b"wrong"))
    assert bench.events("snapshot_given_up")
    assert not bench.driver.installing.is_installing
    source.offer()
    source.serve()
    source.confirm()
    assert bench.applied_index == SNAPSHOT[0]


# Flushes and the journal's front.


SMALL = RaftTimes(flush_entries=5, journal_keep_entries=0, apply_entries_max=10)


def apply_many(bench: Bench, last: int = 40) -> int:
    """Apply much while the flush hangs; the journal's first entry."""
    bench.background.is_held = True
    bench.append(entries(3, last, 2), term=2, commit=last)
    assert bench.applied_index == last
    return bench.node.journal.first_index


def test_the_journal_is_cut_only_behind_what_a_finished_flush_covers(make_bench: MakeBench):
    bench = make_bench(times=SMALL)
    bench.connect()
    assert apply_many(bench) == BASE[0]
    assert bench.background.waiting_count == 1
    bench.background.is_held = False
    bench.settle()
    flushed = bench.node.replica.flushed_index
    assert BASE[0] < flushed < 40
    assert bench.node.journal.first_index == flushed


def test_without_waiting_for_the_flush_the_journal_lacks_what_the_disk_lacks(
    make_bench: MakeBench, monkeypatch: Reopen
):
    def hasty(replica: Replica) -> tuple[int, object]:
        replica.flushed_index = replica.machine.applied_index
        return replica.machine.applied_index, replica.store.flush

    monkeypatch.setattr(Replica, "flush_job", hasty)
    bench = make_bench(times=SMALL)
    bench.connect()
    apply_many(bench)
    bench.driver.installing.cut_journal()
    assert bench.node.journal.first_index > BASE[0]


def test_what_was_applied_and_not_flushed_is_applied_again_after_a_power_loss(make_bench: MakeBench):
    bench = make_bench(times=SMALL)
    bench.connect()
    apply_many(bench)
    digest = bench.node.machine.digest
    # LevelDB's own log does not count: the store is as the last finished flush left it (P1).
    bench.files.stores["/data/store/0"] = store = MemoryStore()
    bench.form_store(store)
    bench.restart(is_power_loss=True)
    assert bench.applied_index == BASE[0]
    bench.connect()
    bench.append([], term=2, previous=(40, 2), commit=40)
    assert bench.node.machine.digest == digest


def test_a_margin_of_entries_is_kept_for_followers_that_are_a_little_behind(make_bench: MakeBench):
    bench = make_bench(times=RaftTimes(flush_entries=5, journal_keep_entries=10))
    bench.connect()
    apply_many(bench)
    bench.background.is_held = False
    bench.settle()
    assert bench.node.journal.first_index == bench.node.replica.flushed_index - 10


def test_a_running_transfer_keeps_the_journal_from_its_index_on(make_bench: MakeBench):
    bench = make_bench(times=SMALL)
    bench.connect()
    bench.receive("n3", f.SnapshotFetch(1, 0))
    (chunk,) = bench.take(f.SnapshotChunk, "n3")
    assert chunk.index == BASE[0]
    bench.append(entries(3, 40, 2), term=2, commit=40)
    assert bench.node.replica.flushed_index > 5
    assert bench.node.journal.first_index == BASE[0]


def test_a_flush_that_fails_stops_the_process(make_bench: MakeBench):
    bench = make_bench(times=SMALL)
    bench.connect()
    bench.background.error = OSError(5, "input/output error")
    apply_many(bench)
    bench.background.is_held = False
    bench.settle()
    assert bench.stop.exit_code == 74


# In a cluster.


def test_a_follower_that_is_behind_the_log_comes_back_by_snapshot_while_writes_go_on():
    with QuietCluster.formed(flush_entries=5, journal_keep_entries=0) as cluster:
        host = cluster.followers[0]
        cluster.run_.cluster.crash(host, restart=False)
        cluster.publish_many(60)
        cluster.run_.cluster.start(host)
        cluster.publish_many(10)
        cluster.until_equal()
        assert cluster.node(host.name).node.driver.core.counters.snapshots_installed == 1
        machines = [cluster.node(name).node.machine for name in cluster.hosts]
        assert len({machine.digest for machine in machines}) == 1
