"""The Raft log, term and vote on disk: what every promise of this node rests on.

What lives here: PySyncObj's journal interface, and what the driver needs beside it.
Rules (PROTOCOL.md P2, P3): a change is in memory at once and durable when the sync that took it has ended; at most one
sync runs at a time, and changes gather meanwhile. `synced_index` never covers an entry that could be lost. After a
step failed the object is unusable and the process must stop.
Must not know: when to sync, who leads, what a command means. Only `SyncJob.steps` run off the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import overload

from pysyncobj.journal import Journal as JournalInterface

from falconq_cluster.raft import journal_format as fmt
from falconq_cluster.raft.journal_recovery import Recovered, Recovery, corruption, recover, segment_path
from falconq_cluster.raft.journal_table import EntryTable
from falconq_cluster.raft.journal_writer import JournalWriter, Step
from falconq_cluster.storage.files import File, FileSystem

Entry = tuple[bytes, int, int]
"""(command, index, term), as PySyncObj has it."""

_OPEN_READERS_MAX = 32


@dataclass(slots=True)
class SyncJob:
    """One group on its way to the disk."""

    steps: list[Step]
    """To be run in order, in a worker thread; an OSError from one means that the process must stop."""
    last_index: int
    """What will be durable; lowered when the log is truncated meanwhile."""
    written_bytes: int = field(default=0)
    """Of records, for metrics."""


class Journal(JournalInterface):
    """The log from `first_index` to `last_index`; positions in PySyncObj's methods count from its first entry."""

    def __init__(self, files: FileSystem, directory: str, writer: JournalWriter, recovery: Recovery) -> None:
        self.recovered: Recovered = recovery.recovered
        self._files = files
        self._directory = directory
        self._writer = writer
        self._table: EntryTable = recovery.replay.table
        self._term = recovery.replay.term
        self._vote = recovery.replay.vote
        self._synced_index = self._table.last_index
        self._pending: list[fmt.Record] = []
        self._job: SyncJob | None = None
        self._written = (self._term, self._vote, self._table.first_index)
        """Term, vote and first index that the groups written so far lead to."""
        self._readers: dict[int, File] = {}
        """Segment number -> file, the last used last; apart from the worker's, so that no file is shared."""

    @classmethod
    def open(
        cls,
        files: FileSystem,
        directory: str,
        *,
        node_id: str,
        disk_id: str,
        segment_bytes: int = 16 * 1024 * 1024,
        cache_bytes: int = 64 * 1024 * 1024,
    ) -> Journal:
        """Recover the log, all of it durable when this returns; `recovered` says what was cut.

        Raises: CorruptionError, ConfigurationError (another node's journal), OSError.
        """
        files.make_directory(directory)
        files.sync_directory(directory.rpartition("/")[0] or ".")
        recovery = recover(files, directory, node_id=node_id, disk_id=disk_id, cache_bytes=cache_bytes)
        for path in recovery.leftovers:
            files.remove_file(path)
        files.sync_directory(directory)
        writer = JournalWriter(
            files,
            directory,
            node_id=node_id,
            disk_id=disk_id,
            segment_bytes=segment_bytes,
            segments=recovery.segments,
            tail=recovery.tail,
        )
        return cls(files, directory, writer, recovery)

    @property
    def first_index(self) -> int:
        """0 while the log is empty."""
        return self._table.first_index

    @property
    def last_index(self) -> int:
        """0 while the log is empty."""
        return self._table.last_index

    @property
    def last_term(self) -> int:
        return self.term_at(self.last_index) or 0

    @property
    def synced_index(self) -> int:
        """The last index that this disk holds for sure."""
        return self._synced_index

    @property
    def is_dirty(self) -> bool:
        """Whether something changed that no sync has taken yet."""
        return bool(self._pending)

    @property
    def is_syncing(self) -> bool:
        return self._job is not None

    @property
    def bytes_on_disk(self) -> int:
        return self._writer.bytes_on_disk

    def term_at(self, index: int) -> int | None:
        """The entry's term, None when the log does not have it."""
        return self._table.term(index) if index in self._indexes() else None

    def entries(self, first: int, last: int) -> list[Entry]:
        """The entries with first <= index <= last that the log has. Raises: CorruptionError, OSError."""
        held = self._indexes()
        return [self._entry(index) for index in range(max(first, held.start), min(last + 1, held.stop))]

    def restart_at(self, index: int, term: int) -> None:
        """Make the log the one entry that a snapshot up to `index` ends with; term and vote stay."""
        self._table.truncate(0)
        self._table.append(index, term, fmt.BASE_COMMAND)
        self._pending.append(fmt.Record(fmt.BASE, index, term, fmt.BASE_COMMAND))
        self._limit_synced(0)
        # The snapshot's store holds what was before, so a commit index clamped to this one stays in range.
        self._synced_index = index - 1

    def cut_front(self, index: int) -> None:
        """Let the entries before `index` go; whole segments leave the disk with the next sync."""
        assert index <= self.last_index, f"cut at {index} behind the last entry {self.last_index}"
        if index > self.first_index:
            self._table.cut(index)
            self._pending.append(fmt.Record(fmt.CUT, index, 0, b""))

    def touch(self) -> None:
        """Write term and vote once more with the next sync, so that the disk is tried although nothing changed."""
        self._pending.append(fmt.Record(fmt.META, 0, self._term, self._vote.encode()))

    def begin_sync(self) -> SyncJob:
        """Take all changes so far; the caller runs the steps and then calls `end_sync`."""
        assert self._job is None, "one sync at a time"
        assert self._pending, "nothing to sync"
        records, self._pending = self._pending, []
        term, vote, first_index = self._written
        steps, segment, positions = self._writer.append(records, term=term, vote=vote, first_index=first_index)
        for record, position in zip(records, positions, strict=True):
            if record.kind in (fmt.ENTRY, fmt.BASE):
                self._table.set_place(record.number, segment, position)
        self._written = (self._term, self._vote, self.first_index)
        oldest = self._table.place(self.first_index).segment if len(self._table) else None
        removal, removed = self._writer.remove_before(oldest)
        for number in removed:
            self._close_reader(number)
        self._job = SyncJob(steps + removal, self.last_index, sum(len(record.body) for record in records))
        return self._job

    def end_sync(self, job: SyncJob) -> None:
        """All steps of the job succeeded."""
        assert job is self._job, "not the sync that is running"
        self._job = None
        self._synced_index = max(self._synced_index, job.last_index)
        self._table.evict(self._synced_index)

    # The interface that PySyncObj calls.

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._table.append(idx, term, command)
        self._pending.append(fmt.Record(fmt.ENTRY, idx, term, command))
        self._table.evict(self._synced_index)

    def clear(self) -> None:
        self._drop_from(0)

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - PySyncObj's name
        if entryFrom < len(self):
            self._drop_from(entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803 - PySyncObj's name
        if entryTo < len(self):
            self.cut_front(self.first_index + entryTo)
        else:
            self._drop_from(0)

    @overload
    def __getitem__(self, item: int) -> Entry: ...

    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        held = self._indexes()[item]
        if isinstance(held, int):
            return self._entry(held)
        return [self._entry(index) for index in held]

    def __iter__(self) -> Iterator[Entry]:
        return (self._entry(index) for index in self._indexes())

    def __len__(self) -> int:
        return len(self._table)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803 - PySyncObj's name
        """Nothing: a stored commit index may exceed the log (RAFT.md S8); the driver derives it from the store."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - PySyncObj's name
        return 1

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803 - PySyncObj's name
        vote = votedForNodeId or ""
        if (term, vote) != (self._term, self._vote):
            self._term, self._vote = term, vote
            self._pending.append(fmt.Record(fmt.META, 0, term, vote.encode()))

    def getCurrentTerm(self) -> int:  # noqa: N802 - PySyncObj's name
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - PySyncObj's name
        return self._vote or None

    def _destroy(self) -> None:
        """Release the files; what is pending is lost."""
        self._writer.close()
        for number in list(self._readers):
            self._close_reader(number)

    def _indexes(self) -> range:
        first = self._table.first_index
        return range(first, first + len(self._table))

    def _drop_from(self, position: int) -> None:
        """Forget the entries from this position on; from 0, the next entry may have any index."""
        if len(self._table) == 0:
            return
        index = self.first_index + position
        self._table.truncate(index)
        self._pending.append(fmt.Record(fmt.TRUNCATE, index if position else 0, 0, b""))
        self._limit_synced(index - 1 if position else 0)

    def _limit_synced(self, index: int) -> None:
        self._synced_index = min(self._synced_index, index)
        if self._job is not None:
            self._job.last_index = min(self._job.last_index, index)

    def _entry(self, index: int) -> Entry:
        command = self._table.cached(index)
        if command is None:
            command = self._read_command(index)
        return command, index, self._table.term(index)

    def _read_command(self, index: int) -> bytes:
        segment, position, command_bytes = self._table.place(index)
        data = self._reader(segment).read_at(position, fmt.RECORD_HEADER_BYTES + command_bytes)
        body = data[fmt.RECORD_HEADER_BYTES :]
        if len(body) == command_bytes:
            header = fmt.decode_record_header(data[: fmt.RECORD_HEADER_BYTES])
            if header.number == index and fmt.is_record_whole(header, body, position, self._writer.seed(segment)):
                return body
        path = segment_path(self._directory, segment)
        raise corruption(path, position, f"entry {index} was written here and is damaged")

    def _reader(self, number: int) -> File:
        file = self._readers.pop(number, None)
        if file is None:
            if len(self._readers) == _OPEN_READERS_MAX:
                self._close_reader(next(iter(self._readers)))
            file = self._files.open_file(segment_path(self._directory, number))
        self._readers[number] = file
        return file

    def _close_reader(self, number: int) -> None:
        file = self._readers.pop(number, None)
        if file is not None:
            file.close()
