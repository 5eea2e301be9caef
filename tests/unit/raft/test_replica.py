"""What a node has applied, and starts on what the disk holds: RAFT.md S5, S7, S8 and PROTOCOL.md P1, P8."""

from __future__ import annotations

import pytest

from falconq_cluster.errors import ConfigurationError, CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.raft.library import RaftLibrary
from falconq_cluster.raft.replica import DIGESTS_KEPT, Replica
from tests.unit.raft.cluster_helpers import BASE, DATA_DIR, Bench, entries
from tests.unit.raft.hand_parts import Files

Reopen = pytest.MonkeyPatch
STORE = f"{DATA_DIR}/store"


def open_replica(files: Files) -> Replica:
    return Replica(files=files, directory=STORE, open_store=files.open_store, limits=MachineLimits())


def apply_some(replica: Replica, last: int) -> None:
    for text, index, term in entries(replica.machine.applied_index + 1, last, 1):
        replica.apply(index, term, text)


def test_what_was_applied_is_there_when_it_is_opened_again():
    files = Files()
    replica = open_replica(files)
    apply_some(replica, 5)
    again = open_replica(files)
    assert (again.machine.applied_index, again.machine.digest) == (5, replica.machine.digest)


def test_recent_hashes_are_remembered_by_index_and_a_bounded_number():
    replica = open_replica(Files())
    apply_some(replica, 3)
    assert replica.digest_at(3) == replica.machine.digest
    assert replica.digest_at(2) not in (None, replica.machine.digest)
    apply_some(replica, DIGESTS_KEPT + 10)
    assert replica.digest_at(3) is None
    assert len(replica._digests) == DIGESTS_KEPT


def test_a_flush_covers_what_was_applied_when_it_began():
    replica = open_replica(Files())
    apply_some(replica, 3)
    index, work = replica.flush_job()
    apply_some(replica, 5)
    work()
    replica.flushed(index)
    assert replica.flushed_index == 3
    replica.flushed(2)
    assert replica.flushed_index == 3


def test_a_switch_replaces_the_store_and_the_old_one_goes():
    files = Files()
    replica = open_replica(files)
    apply_some(replica, 3)
    path, incoming = replica.incoming_store()
    other = Files()
    source = open_replica(other)
    apply_some(source, 9)
    incoming.write(list(source.store.scan(b"", b"\xff" * 64)))
    replica.switch_job()()
    remove_old = replica.switched(incoming)
    assert (replica.machine.applied_index, replica.flushed_index) == (9, 9)
    assert replica.digest_at(9) == source.machine.digest
    assert replica.digest_at(3) is None
    remove_old()
    assert set(files.stores) == {path}
    assert open_replica(files).machine.applied_index == 9


def test_before_the_switch_the_old_store_is_opened_and_the_unfinished_one_removed():
    files = Files()
    replica = open_replica(files)
    apply_some(replica, 3)
    path, _ = replica.incoming_store()
    files.open_file(f"{path}/000001.ldb", create=True)
    assert open_replica(files).machine.applied_index == 3
    assert path not in files.stores


def test_each_pull_begins_with_an_empty_store():
    replica = open_replica(Files())
    _, incoming = replica.incoming_store()
    incoming.write([(b"k", b"of a pull that was given up")])
    assert replica.incoming_store()[1].get(b"k") is None


def test_a_pointer_that_names_no_store_refuses_to_start():
    files = Files()
    files.replace_file(f"{STORE}/CURRENT", b"x1")
    with pytest.raises(CorruptionError, match="names no store"):
        open_replica(files)


# Starts.


def test_a_store_that_is_not_readable_refuses_to_start(bench: Bench):
    bench.files.stores[f"{STORE}/0"].write([(keys.META, b"\x01not a row")])
    with pytest.raises(CorruptionError):
        bench.restart()


def test_a_store_within_the_journal_keeps_all_of_the_journal(bench: Bench):
    bench.append(entries(3, 9, 2), term=2, commit=6)
    bench.restart()
    assert (bench.applied_index, bench.node.journal.first_index, bench.last_index) == (6, 2, 9)


def test_a_store_beyond_the_journal_restarts_it_there_and_keeps_term_and_vote(bench: Bench):
    bench.append([], term=7)
    replica = bench.node.replica
    apply_some(replica, 9)
    bench.restart(is_power_loss=True)
    assert (bench.applied_index, bench.node.journal.first_index, bench.last_index) == (9, 9, 9)
    assert bench.node.journal.term_at(9) == 1
    assert bench.library.term == 7


def test_a_store_of_another_term_than_the_journals_entry_restarts_the_journal(bench: Bench):
    bench.append(entries(3, 5, 2), term=2)
    bench.node.replica.apply(3, 4, entries(3, 3, 4)[0][0])
    bench.restart(is_power_loss=True)
    assert (bench.node.journal.first_index, bench.last_index, bench.node.journal.last_term) == (3, 3, 4)
    assert bench.library.term == 4


def test_a_store_behind_the_journals_first_entry_refuses_to_start(bench: Bench):
    bench.append(entries(3, 20, 2), term=2, commit=20)
    bench.node.journal.cut_front(20)
    bench.advance(100)
    bench.files.stores.clear()
    with pytest.raises(CorruptionError, match="the journal begins at 20"):
        bench.restart()


def restarted_alone_with_a_tail(bench: Bench) -> int:
    """Entries that nobody called committed are in the journal, and no other member is there."""
    bench.append(entries(3, 9, 2), term=2, commit=4)
    bench.restart(is_power_loss=True)
    bench.advance(3000)
    return bench.applied_index


def test_a_restarted_node_that_is_alone_applies_nothing_that_no_leader_called_committed(bench: Bench):
    assert restarted_alone_with_a_tail(bench) == 4
    assert bench.library.commit_index <= 4


def test_with_a_stored_commit_index_an_isolated_node_applies_its_tail(bench: Bench, monkeypatch: Reopen):
    real = RaftLibrary.__init__

    def trusting(library: RaftLibrary, **parts: object) -> None:
        real(library, **parts)  # type: ignore[arg-type]
        library.commit_index = 99

    monkeypatch.setattr(RaftLibrary, "__init__", trusting)
    assert restarted_alone_with_a_tail(bench) == 9


def test_other_members_than_those_on_record_refuse_to_start(bench: Bench):
    bench.members = ("n1", "n2", "n4")
    with pytest.raises(ConfigurationError, match="reconfigure"):
        bench.restart()
    assert bench.applied_index == BASE[0]
