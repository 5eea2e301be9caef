"""The journal keeps what it was given, in PySyncObj's shape and over reopening."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysyncobj.journal import Journal as JournalInterface
from pysyncobj.journal import MemoryJournal

from falconq_cluster.errors import ConfigurationError, CorruptionError
from falconq_cluster.raft.journal import Journal, SyncJob
from falconq_cluster.storage.files import RealFileSystem
from tests.unit.raft.journal_rig import DIRECTORY, SEGMENT_BYTES, State, open_journal, state_of, sync
from tests.unit.raft.memory_files import MemoryFileSystem


def _segment_count(files: MemoryFileSystem) -> int:
    return len([name for name in files.list_directory(DIRECTORY) if name.endswith(".seg")])


def _fill(journal: Journal, first: int, last: int, *, command_bytes: int = 300) -> None:
    for index in range(first, last + 1):
        journal.add(b"%06d" % index + bytes(command_bytes), index, 1)
        if index % 5 == 0:
            sync(journal)
    if journal.is_dirty:
        sync(journal)


def test_it_has_every_method_that_pysyncobj_calls() -> None:
    wanted = {
        name for name in vars(JournalInterface) if not name.startswith("__") or name in ("__getitem__", "__len__")
    }
    assert wanted - {"onOneSecondTimer"} <= set(vars(Journal))


def test_positions_and_slices_are_those_of_a_list() -> None:
    journal, model = open_journal(MemoryFileSystem()), MemoryJournal()
    for index in range(10, 20):
        for log in (journal, model):
            log.add(b"%d" % index, index, 3)
    for at in (0, 5, 9, -1, -10):
        assert journal[at] == model[at]
    for part in (slice(None), slice(3, None), slice(2, 5), slice(8, 50), slice(50, None), slice(-3, None)):
        assert journal[part] == model[part]
    for at in (10, -11):
        with pytest.raises(IndexError):
            journal[at]
    assert list(journal) == model[:]
    assert len(journal) == 10
    assert journal.getRaftCommitIndex() == 1
    journal.setRaftCommitIndex(12)
    assert journal.getRaftCommitIndex() == 1


def test_terms_and_entries_are_found_by_index_and_absent_ones_are_none() -> None:
    journal = open_journal(MemoryFileSystem())
    assert (journal.first_index, journal.last_index, journal.last_term) == (0, 0, 0)
    assert journal.term_at(0) is None
    for index in range(5, 9):
        journal.add(b"x", index, index // 2)
    assert [journal.term_at(index) for index in range(4, 10)] == [None, 2, 3, 3, 4, None]
    assert journal.entries(0, 6) == [(b"x", 5, 2), (b"x", 6, 3)]
    assert journal.entries(8, 100) == [(b"x", 8, 4)]
    assert not journal.entries(9, 100)


def test_only_the_end_of_a_sync_makes_an_entry_synced() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files)
    journal.add(b"a", 1, 1)
    job = journal.begin_sync()
    journal.add(b"b", 2, 1)
    for step in job.steps:
        step()
    assert journal.synced_index == 0
    journal.end_sync(job)
    assert journal.synced_index == 1
    assert journal.is_dirty
    files.power_loss(random.Random(1))
    again = open_journal(files)
    assert again[:] == [(b"a", 1, 1)]
    assert again.synced_index == 1


def test_a_truncation_during_a_sync_takes_back_what_the_sync_would_have_covered() -> None:
    journal = open_journal(MemoryFileSystem())
    for index in range(1, 6):
        journal.add(b"old", index, 1)
    job = journal.begin_sync()
    journal.deleteEntriesFrom(2)
    journal.add(b"new", 3, 2)
    for step in job.steps:
        step()
    journal.end_sync(job)
    assert journal.synced_index == 2
    sync(journal)
    assert journal.synced_index == 3
    assert journal[:] == [(b"old", 1, 1), (b"old", 2, 1), (b"new", 3, 2)]


def test_an_entry_that_does_not_follow_is_a_bug() -> None:
    journal = open_journal(MemoryFileSystem())
    journal.add(b"a", 1, 1)
    for index in (1, 3):
        with pytest.raises(AssertionError):
            journal.add(b"b", index, 1)


def test_one_sync_runs_at_a_time() -> None:
    journal = open_journal(MemoryFileSystem())
    journal.add(b"a", 1, 1)
    journal.begin_sync()
    assert journal.is_syncing
    journal.add(b"b", 2, 1)
    with pytest.raises(AssertionError):
        journal.begin_sync()


def test_older_commands_are_read_from_disk_and_memory_stays_bounded() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files, cache_bytes=2000)
    _fill(journal, 1, 200)
    assert journal._table._cached_bytes <= 2000
    assert [command[:6] for command, _index, _term in journal[:]] == [b"%06d" % index for index in range(1, 201)]
    again = open_journal(files, cache_bytes=2000)
    assert again._table._cached_bytes <= 2000
    assert again[:] == journal[:]


def test_a_damaged_command_that_is_read_later_is_refused_with_its_place() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files, cache_bytes=0)
    _fill(journal, 1, 10)
    path = f"{DIRECTORY}/{1:016x}.seg"
    data = files.read_file(path) or b""
    at = data.index(b"000003")
    files.open_file(path).write_at(at, b"x")
    assert journal.entries(2, 2)
    with pytest.raises(CorruptionError, match=rf"{path} at byte \d+: entry 3"):
        journal.entries(3, 3)


def test_unsynced_commands_are_in_memory_whatever_the_bound_is() -> None:
    journal = open_journal(MemoryFileSystem(), cache_bytes=10)
    for index in range(1, 10):
        journal.add(bytes(100), index, 1)
    assert len(journal[:]) == 9


def test_cutting_the_front_removes_only_whole_segments_behind_the_cut() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files)
    _fill(journal, 1, 100)
    before = _segment_count(files)
    assert before > 4
    journal.cut_front(60)
    assert _segment_count(files) == before
    sync(journal)
    assert journal.first_index == 60
    assert 1 < _segment_count(files) < before
    files.power_loss(random.Random(3))
    again = open_journal(files)
    assert (again.first_index, again.last_index) == (60, 100)
    assert again.entries(60, 100) == journal.entries(60, 100)


def test_term_and_vote_survive_cutting_the_front() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files)
    journal.setCurrentTerm(7, "node-2")
    _fill(journal, 1, 100)
    journal.deleteEntriesTo(99)
    sync(journal)
    _fill(journal, 101, 150)
    journal.cut_front(150)
    sync(journal)
    again = open_journal(files)
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (7, "node-2")
    again.setCurrentTerm(8, None)
    sync(again)
    assert state_of(open_journal(files)) == State(again[:], 8, None)


def test_a_segment_that_is_no_longer_needed_is_written_over() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files)
    for first in range(1, 1000, 50):
        _fill(journal, first, first + 49)
        journal.cut_front(first + 45)
    sync(journal)
    assert files.exists(f"{DIRECTORY}/spare")
    assert _segment_count(files) <= 5
    assert journal.bytes_on_disk == sum(
        len(files.read_file(f"{DIRECTORY}/{name}") or b"") for name in files.list_directory(DIRECTORY)
    )
    again = open_journal(files)
    assert again.recovered.position is None
    assert again[:] == journal[:]


def test_the_log_restarts_at_a_snapshot_with_term_and_vote() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files)
    journal.setCurrentTerm(4, "node-3")
    _fill(journal, 1, 60)
    job = _begin_with(journal, 61)
    journal.restart_at(5000, 4)
    assert journal[:] == [(b"\x01", 5000, 4)]
    for step in job.steps:
        step()
    journal.end_sync(job)
    assert journal.synced_index == 4999
    sync(journal)
    assert journal.synced_index == 5000
    assert _segment_count(files) == 1
    journal.add(b"next", 5001, 4)
    sync(journal)
    again = open_journal(files, cache_bytes=0)
    assert state_of(again) == State([(b"\x01", 5000, 4), (b"next", 5001, 4)], 4, "node-3")


def _begin_with(journal: Journal, index: int) -> SyncJob:
    journal.add(b"x", index, 4)
    return journal.begin_sync()


def test_a_cleared_log_may_begin_anywhere() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files)
    _fill(journal, 1, 60)
    journal.clear()
    assert (len(journal), journal.synced_index) == (0, 0)
    journal.add(b"a", 900, 2)
    journal.add(b"b", 901, 2)
    sync(journal)
    assert open_journal(files)[:] == [(b"a", 900, 2), (b"b", 901, 2)]


def test_a_group_larger_than_a_segment_gets_a_larger_segment() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files, cache_bytes=0)
    _fill(journal, 1, 3)
    journal.add(bytes(5 * SEGMENT_BYTES), 4, 1)
    sync(journal)
    _fill(journal, 5, 8)
    again = open_journal(files)
    assert len(again[3][0]) == 5 * SEGMENT_BYTES
    assert again[:] == journal[:]


def test_indexes_and_terms_beyond_32_bits_are_kept() -> None:
    files = MemoryFileSystem()
    journal = open_journal(files)
    journal.add(b"a", 2**63, 2**64 - 1)
    journal.setCurrentTerm(2**64 - 1, None)
    sync(journal)
    assert state_of(open_journal(files)) == State([(b"a", 2**63, 2**64 - 1)], 2**64 - 1, None)


def test_another_nodes_or_disks_journal_is_refused() -> None:
    files = MemoryFileSystem()
    _fill(open_journal(files), 1, 3)
    for node_id, disk_id in (("node-2", "d1"), ("node-1", "d2")):
        with pytest.raises(ConfigurationError, match="belongs to node 'node-1' with disk 'd1'"):
            Journal.open(files, DIRECTORY, node_id=node_id, disk_id=disk_id)


def test_a_start_that_writes_nothing_leaves_nothing_and_a_clean_end_is_given_back() -> None:
    files = MemoryFileSystem()
    for _ in range(5):
        open_journal(files)
    assert not files.list_directory(DIRECTORY)
    _fill(open_journal(files), 1, 1)
    open_journal(files)
    assert open_journal(files).bytes_on_disk == 2 * 512


def test_a_real_directory_works_as_the_one_in_memory(tmp_path: Path) -> None:
    files = RealFileSystem()
    directory = str(tmp_path / "deep" / "journal")
    journal = open_journal(files, directory, cache_bytes=1000)
    _fill(journal, 1, 200)
    journal.cut_front(150)
    sync(journal)
    _fill(journal, 201, 260)
    expected = state_of(journal)
    journal._destroy()
    again = open_journal(files, directory)
    assert state_of(again) == expected
    assert again.recovered.position is None
    again._destroy()


_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 900)),
        st.tuples(st.just("truncate"), st.integers(0, 30)),
        st.tuples(st.just("cut"), st.integers(0, 30)),
        st.tuples(st.just("meta"), st.integers(0, 3)),
        st.tuples(st.just("restart"), st.integers(1, 50)),
        st.tuples(st.just("begin"), st.just(0)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=80,
)


class _Twin:
    """A journal and a plain state that undergo the same."""

    def __init__(self) -> None:
        self.files = MemoryFileSystem()
        self.state = State()
        self.journal = open_journal(self.files, cache_bytes=1500)
        self.job: SyncJob | None = None

    def finish(self) -> None:
        if self.job is not None:
            for step in self.job.steps:
                step()
            self.journal.end_sync(self.job)
            self.job = None

    def run(self, operation: str, argument: int) -> None:
        journal, state = self.journal, self.state
        entries = state.entries
        if operation == "add":
            index = entries[-1][1] + 1 if entries else 1 + argument
            entry = (bytes([index % 256]) * argument, index, state.term)
            entries.append(entry)
            journal.add(*entry)
        elif operation == "truncate":
            del entries[max(len(entries) - argument, 0) :]
            journal.deleteEntriesFrom(max(len(journal) - argument, 0))
        elif operation == "cut":
            del entries[: min(argument, len(entries))]
            journal.deleteEntriesTo(argument)
        elif operation == "meta":
            state.term += argument
            state.vote = [None, "node-1", "node-2", "node-3"][argument]
            journal.setCurrentTerm(state.term, state.vote)
        elif operation == "restart":
            index = (entries[-1][1] if entries else 0) + argument
            entries[:] = [(b"\x01", index, state.term)]
            journal.restart_at(index, state.term)
        elif operation == "begin":
            if self.job is None and journal.is_dirty:
                self.job = journal.begin_sync()
        elif operation == "end":
            self.finish()
        else:
            self.finish()
            if journal.is_dirty:
                sync(journal)
            self.files.power_loss(random.Random(7))
            self.journal = open_journal(self.files, cache_bytes=1500)
            assert self.journal.recovered.position is None


@settings(max_examples=150, deadline=None)
@given(_OPERATIONS)
def test_any_sequence_of_operations_agrees_with_a_list(operations: list[tuple[str, int]]) -> None:
    twin = _Twin()
    for operation, argument in operations:
        twin.run(operation, argument)
        assert twin.journal.last_index == (twin.state.entries[-1][1] if twin.state.entries else 0)
        assert twin.journal.synced_index <= max(twin.journal.last_index, twin.journal.first_index)
    assert state_of(twin.journal) == twin.state
    twin.run("reopen", 0)
    assert state_of(twin.journal) == twin.state
    assert twin.journal.synced_index == twin.journal.last_index
