"""Writing the journal's groups, in steps that a worker thread runs.

What lives here: the choice of where a group goes, and the steps that put it there.
Rules: everything is decided on the loop; a step touches only files and what it was given. A segment gets its name
only when its header is durable. New space is filled with zeros ahead of the groups, and segments that are no longer
needed are written over again, so that most syncs change no metadata of the file system. Behind the last group stands a
sector of zeros, which tells a clean end from a torn one. Segments are removed after the sync that made them needless.
Must not know: what the records mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from falconq_cluster.raft import journal_format as fmt
from falconq_cluster.raft.journal_recovery import SPARE_NAME, TEMPORARY_SUFFIX, Segment, Tail, segment_path
from falconq_cluster.storage.files import File, FileSystem

Step = Callable[[], None]

_PREFILLS_PER_SEGMENT = 16


class _Output:
    """The file that groups go to; opened and used by the worker only."""

    def __init__(self) -> None:
        self.file: File | None = None

    def write(self, position: int, data: bytes) -> None:
        assert self.file is not None
        self.file.write_at(position, data)

    def sync(self) -> None:
        assert self.file is not None
        self.file.sync()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class JournalWriter:
    """Appends groups to the newest segment and begins new ones; never writes to a segment of an earlier start."""

    def __init__(
        self,
        files: FileSystem,
        directory: str,
        *,
        node_id: str,
        disk_id: str,
        segment_bytes: int,
        segments: list[Segment],
        tail: Tail,
    ) -> None:
        self._files = files
        self._directory = directory
        self._node_id = node_id
        self._disk_id = disk_id
        self._segment_bytes = segment_bytes
        self._segments = segments
        self._position = tail.position
        self._next_sequence = tail.next_sequence
        self._output: _Output | None = None
        self._spare_bytes = _file_bytes(files, f"{directory}/{SPARE_NAME}")

    @property
    def bytes_on_disk(self) -> int:
        return sum(segment.bytes for segment in self._segments) + self._spare_bytes

    def seed(self, number: int) -> int:
        """What the checksums in the segment start from."""
        return fmt.segment_seed(number, self._node_id, self._disk_id)

    def append(
        self, records: Sequence[fmt.Record], *, term: int, vote: str, first_index: int
    ) -> tuple[list[Step], int, list[int]]:
        """The steps that make the records durable, and the segment and positions they will have.

        Term, vote and first index are those that all earlier groups lead to.
        """
        steps: list[Step] = []
        size = fmt.GROUP_HEADER_BYTES + sum(fmt.RECORD_HEADER_BYTES + len(record.body) for record in records)
        if self._output is None or self._position + size > self._segment_bytes:
            steps += self._begin_segment(term=term, vote=vote, first_index=first_index)
        output = self._output
        assert output is not None
        current = self._segments[-1]
        data, positions = fmt.encode_group(self._next_sequence, records, self._position, self.seed(current.number))
        end = self._position + len(data)
        zeros = fmt.SECTOR_BYTES
        if end + zeros > current.bytes:
            prefilled = min(current.bytes + self._segment_bytes // _PREFILLS_PER_SEGMENT, self._segment_bytes)
            zeros = max(fmt.align(prefilled) - end, zeros)
            self._segments[-1] = Segment(current.number, current.path, end + zeros)
        steps += [partial(output.write, self._position, data + bytes(zeros)), output.sync]
        self._position = end
        self._next_sequence += 1
        return steps, current.number, positions

    def remove_before(self, number: int | None) -> tuple[list[Step], list[int]]:
        """The steps that remove the segments below `number` (None: all but the newest), and their numbers."""
        limit = self._segments[-1].number if number is None else number
        removed = [segment for segment in self._segments if segment.number < limit]
        if not removed:
            return [], []
        self._segments = [segment for segment in self._segments if segment.number >= limit]
        spare: str | None = None
        for segment in removed:
            if not self._spare_bytes and self._segment_bytes // 2 <= segment.bytes <= self._segment_bytes * 2:
                spare = segment.path
                self._spare_bytes = segment.bytes
        step = partial(_remove, self._files, self._directory, [segment.path for segment in removed], spare)
        return [step], [segment.number for segment in removed]

    def close(self) -> None:
        """Release the file, without a sync."""
        if self._output is not None:
            self._output.close()

    def _begin_segment(self, *, term: int, vote: str, first_index: int) -> list[Step]:
        header = fmt.SegmentHeader(
            number=self._segments[-1].number + 1 if self._segments else 1,
            node_id=self._node_id,
            disk_id=self._disk_id,
            term=term,
            vote=vote,
            first_index=first_index,
            previous_end=self._position,
            first_sequence=self._next_sequence,
        )
        data = fmt.encode_segment_header(header)
        path = segment_path(self._directory, header.number)
        former, self._output = self._output, _Output()
        steps: list[Step] = [] if former is None else [former.close]
        use_spare = self._spare_bytes > 0
        steps.append(partial(_create, self._files, self._directory, path, data, self._output, use_spare=use_spare))
        self._segments.append(Segment(header.number, path, max(len(data) + fmt.SECTOR_BYTES, self._spare_bytes)))
        self._spare_bytes = 0
        self._position = len(data)
        return steps


def _create(files: FileSystem, directory: str, path: str, header: bytes, output: _Output, *, use_spare: bool) -> None:
    source = f"{directory}/{SPARE_NAME}" if use_spare else path + TEMPORARY_SUFFIX
    output.file = files.open_file(source, create=True)
    if not use_spare:
        output.file.truncate(0)
    output.write(0, header + bytes(fmt.SECTOR_BYTES))
    output.sync()
    files.rename(source, path)
    files.sync_directory(directory)


def _remove(files: FileSystem, directory: str, paths: Sequence[str], spare: str | None) -> None:
    for path in paths:
        if path == spare:
            files.rename(path, f"{directory}/{SPARE_NAME}")
        else:
            files.remove_file(path)
    files.sync_directory(directory)


def _file_bytes(files: FileSystem, path: str) -> int:
    if not files.exists(path):
        return 0
    file = files.open_file(path)
    try:
        return file.size()
    finally:
        file.close()
