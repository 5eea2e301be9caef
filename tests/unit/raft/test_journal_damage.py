"""Damage never changes the journal silently: it is cut where a crash explains it, else refused with its place."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.errors import CorruptionError
from falconq_cluster.raft import journal_format as fmt
from falconq_cluster.raft.journal_recovery import SegmentReader
from falconq_cluster.storage.files import RealFileSystem
from tests.unit.raft.journal_rig import DIRECTORY, State, open_journal, state_of, sync
from tests.unit.raft.memory_files import MemoryFileSystem


def _content(files: MemoryFileSystem) -> dict[str, bytes]:
    names = files.list_directory(DIRECTORY)
    return {f"{DIRECTORY}/{name}": files.read_file(f"{DIRECTORY}/{name}") or b"" for name in names}


def _files_with(content: dict[str, bytes]) -> MemoryFileSystem:
    files = MemoryFileSystem()
    files.make_directory(DIRECTORY)
    for path, data in content.items():
        files.replace_file(path, data)
    return files


class _Sample:
    """A small journal of two segments, and the states that lead to it within its last group."""

    def __init__(self) -> None:
        files = MemoryFileSystem()
        journal = open_journal(files)
        journal.setCurrentTerm(3, "node-2")
        for index in range(1, 13):
            journal.add(b"%02d" % index + bytes(900), index, 3)
            if index % 3 == 0:
                sync(journal)
        journal.deleteEntriesFrom(10)
        sync(journal)
        self.states = [state_of(journal)]
        for index, command in ((11, b"last but one"), (12, b"last" * 10)):
            journal.add(command, index, 3)
            self.states.append(state_of(journal))
        journal.setCurrentTerm(4, None)
        self.states.append(state_of(journal))
        job = journal.begin_sync()
        for step in job.steps:
            step()
        journal.end_sync(job)
        self.segments = _content(files)
        self.paths = sorted(self.segments)
        assert len(self.paths) == 2
        data = self.segments[self.paths[-1]]
        self.last_group = data.rindex(fmt.GROUP_MAGIC)
        header = fmt.decode_group_header(data[self.last_group :], self.last_group, fmt.segment_seed(2, "node-1", "d1"))
        assert header is not None
        self.end = self.last_group + fmt.GROUP_HEADER_BYTES + header.payload_bytes

    def check(self, path: str, data: bytes, position: int, *, may_shorten: bool) -> None:
        """Open with this content of one file: refused with its place, as it was, or shorter and said so."""
        files = _files_with(self.segments | {path: data})
        refusal = None
        try:
            journal = open_journal(files)
        except CorruptionError as error:
            refusal = str(error)
        if refusal is not None:
            assert re.match(rf"{DIRECTORY}/\w+\.seg at byte \d+: ", refusal), refusal
            return
        state = state_of(journal)
        if state != self.states[-1]:
            assert may_shorten, f"byte {position} of {path} changed the log silently"
            assert state in self.states
            assert journal.recovered.file == path
            assert journal.recovered.position is not None
            assert journal.recovered.position <= position


@pytest.fixture(scope="module")
def sample() -> _Sample:
    return _Sample()


def test_a_cut_at_any_byte_of_the_last_group_leaves_its_whole_records(sample: _Sample) -> None:
    path = sample.paths[-1]
    lengths = set()
    for position in range(sample.last_group, sample.end):
        journal = open_journal(_files_with(sample.segments | {path: sample.segments[path][:position]}))
        state = state_of(journal)
        assert state in sample.states[:-1]
        lengths.add(len(state.entries))
        # Without a byte of it, there was no group.
        assert (journal.recovered.position is not None) == (position > sample.last_group)
    assert len(lengths) == 3


def test_zeros_from_any_byte_of_the_last_group_on_leave_its_whole_records(sample: _Sample) -> None:
    path = sample.paths[-1]
    data = sample.segments[path]
    for position in range(sample.last_group + 1, sample.end):
        zeroed = data[:position] + bytes(len(data) - position)
        sample.check(path, zeroed, position, may_shorten=True)
        state = state_of(open_journal(_files_with(sample.segments | {path: zeroed})))
        assert state in sample.states


def test_a_cut_before_the_last_group_is_refused_where_a_later_segment_exists(sample: _Sample) -> None:
    path = sample.paths[0]
    data = sample.segments[path]
    end = data.rstrip(b"\0")
    for position in (0, 10, 511, 512, 513, 3000, len(end) - 1):
        with pytest.raises(CorruptionError, match=rf"{path} at byte \d+: "):
            open_journal(_files_with(sample.segments | {path: data[:position]}))


def test_a_flip_of_any_byte_is_refused_or_harmless_and_only_in_the_last_group_shortens(sample: _Sample) -> None:
    for path in sample.paths:
        data = sample.segments[path]
        written = fmt.align(len(data.rstrip(b"\0"))) + fmt.SECTOR_BYTES
        for position in range(min(written, len(data))):
            flipped = bytearray(data)
            flipped[position] ^= 0xFF
            in_last_group = path == sample.paths[-1] and sample.last_group <= position < sample.end
            sample.check(path, bytes(flipped), position, may_shorten=in_last_group)


def test_a_flip_of_any_bit_of_sampled_bytes_is_refused_or_harmless(sample: _Sample) -> None:
    chance = random.Random(5)
    for path in sample.paths:
        data = sample.segments[path]
        written = len(data.rstrip(b"\0"))
        headers = [at for at in range(written) if data.startswith(fmt.GROUP_MAGIC, at)]
        near = [at + offset for at in [0, *headers] for offset in range(0, fmt.GROUP_HEADER_BYTES + 9, 3)]
        for position in near + [chance.randrange(written) for _ in range(60)]:
            for bit in range(8):
                flipped = bytearray(data)
                flipped[position] ^= 1 << bit
                in_last_group = path == sample.paths[-1] and sample.last_group <= position < sample.end
                sample.check(path, bytes(flipped), position, may_shorten=in_last_group)


def test_a_missing_segment_is_refused(sample: _Sample) -> None:
    with pytest.raises(CorruptionError, match="a file is gone"):
        open_journal(_files_with({sample.paths[-1]: sample.segments[sample.paths[-1]]}))


def test_a_segment_under_another_number_is_refused(sample: _Sample) -> None:
    renamed = f"{DIRECTORY}/{3:016x}.seg"
    with pytest.raises(CorruptionError, match="the file holds segment 2"):
        open_journal(
            _files_with({sample.paths[0]: sample.segments[sample.paths[0]], renamed: sample.segments[sample.paths[1]]})
        )


def test_a_format_of_a_later_release_is_refused_as_such(sample: _Sample) -> None:
    data = bytearray(sample.segments[sample.paths[0]])
    data[8] = 2
    with pytest.raises(CorruptionError, match="format version 2, this release reads 1"):
        open_journal(_files_with(sample.segments | {sample.paths[0]: bytes(data)}))


def test_a_tail_that_was_cut_never_comes_back(sample: _Sample) -> None:
    path = sample.paths[-1]
    torn = bytearray(sample.segments[path])
    torn[sample.last_group + fmt.GROUP_HEADER_BYTES + 5] ^= 1
    files = _files_with(sample.segments | {path: bytes(torn)})
    journal = open_journal(files)
    assert state_of(journal) == sample.states[0]
    assert journal.recovered.cut_bytes > 0
    journal.add(b"another", 11, 5)
    sync(journal)
    expected = state_of(journal)
    torn[sample.last_group + fmt.GROUP_HEADER_BYTES + 5] ^= 1
    files.open_file(path).write_at(0, bytes(torn))
    again = open_journal(files)
    assert state_of(again) == expected
    assert again.recovered.position is None


def test_a_group_that_a_client_wrote_into_a_command_is_not_taken_for_one(tmp_path: Path) -> None:
    """The forger knows format, position and sequence, but not the disk id."""
    files = MemoryFileSystem()
    journal = open_journal(files)
    forged = b"".join(
        fmt.encode_group(2, [fmt.Record(fmt.META, 0, 99, b"evil")], position, fmt.segment_seed(1, "node-1", "d2"))[0]
        for position in range(1024, 4096, fmt.SECTOR_BYTES)
    )
    head = 2 * fmt.SECTOR_BYTES - fmt.SECTOR_BYTES - fmt.GROUP_HEADER_BYTES - fmt.RECORD_HEADER_BYTES
    journal.add(bytes(head) + forged, 1, 1)
    sync(journal)
    path = f"{DIRECTORY}/{1:016x}.seg"
    files.open_file(path).write_at(fmt.SECTOR_BYTES + 30, b"!")
    assert state_of(open_journal(files)) == State()


# The reader of a segment, alone.


class _ReadOnlyFile:
    """Bytes, with a record of the largest read; who reads a journal changes nothing, so any change fails the test."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.largest = 0

    def read_at(self, position: int, size: int) -> bytes:
        self.largest = max(self.largest, size)
        return self.data[position : position + size]

    def size(self) -> int:
        return len(self.data)

    def write_at(self, position: int, data: bytes) -> None:
        raise AssertionError("write_at")

    def sync(self) -> None:
        raise AssertionError("sync")

    def truncate(self, size: int) -> None:
        raise AssertionError("truncate")

    def close(self) -> None:
        raise AssertionError("close")


_SEED = fmt.segment_seed(1, "n", "d")
_CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=600),
        st.builds(bytes, st.integers(0, 1200)),
        st.tuples(st.integers(0, 3), st.integers(0, 2**40), st.integers(0, 2000)),
    ),
    max_size=6,
)


def _assemble(chunks: list[bytes | tuple[int, int, int]]) -> bytes:
    """Bytes, and group headers with valid checksums but any claim."""
    data = b""
    for chunk in chunks:
        if isinstance(chunk, bytes):
            data += chunk
            continue
        sequence, claimed, body = chunk
        data = data.ljust(fmt.align(len(data)), b"\0")
        group, _ = fmt.encode_group(sequence, [fmt.Record(fmt.ENTRY, 1, 1, bytes(body))], len(data), _SEED)
        if claimed % 2:
            checksum = fmt._group_checksum(sequence, claimed, len(data), _SEED)
            group = fmt._GROUP.pack(fmt.GROUP_MAGIC, sequence, claimed, checksum) + group[fmt.GROUP_HEADER_BYTES :]
        data += group
    return data


@settings(max_examples=300, deadline=None)
@given(_CHUNKS, st.none() | st.integers(0, 3000))
def test_any_bytes_are_read_or_refused_within_bounded_memory(
    chunks: list[bytes | tuple[int, int, int]], end: int | None
) -> None:
    file = _ReadOnlyFile(_assemble(chunks))
    refusal = None
    try:
        tail = SegmentReader(file, "f", _SEED).read(0, 0, end, lambda _record, _position: None)
    except CorruptionError as error:
        refusal = str(error)
    if refusal is None:
        assert tail.position <= max(len(file.data) + fmt.SECTOR_BYTES, end or 0)
    else:
        assert refusal.startswith("f at byte ")
    assert file.largest <= max(1024 * 1024, len(file.data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=700))
def test_any_segment_header_is_read_or_refused(data: bytes) -> None:
    header = fmt.SegmentHeader(1, "node", "disk", 3, "vote", 5, 6, 7)
    whole = fmt.encode_segment_header(header)
    assert fmt.decode_segment_header(whole) == (header, 512)
    for candidate in (data, whole[:8] + data, whole[: len(data)] if len(data) < 80 else data):
        with pytest.raises(fmt.FormatError):
            fmt.decode_segment_header(candidate)


_GOLDEN_HEADER = (
    "46414c434f4e514a010002000200020002000000000000000300000000000000280000000000000000020000000000000900"
    "0000000000006e3164316e3279d7ac56"
)
_GOLDEN_GROUP = (
    "f047525009000000000000003b00000000000000457eeeea01070000003eae55e42900000000000000030000000000000063"
    "6f6d6d616e6403020000002f3ff596000000000000000004000000000000006e33"
)


def test_the_formats_bytes_stay_what_they_are() -> None:
    header = fmt.encode_segment_header(fmt.SegmentHeader(2, "n1", "d1", 3, "n2", 40, 512, 9))
    assert header.rstrip(b"\0").hex() == _GOLDEN_HEADER
    records = [fmt.Record(fmt.ENTRY, 41, 3, b"command"), fmt.Record(fmt.META, 0, 4, b"n3")]
    group, positions = fmt.encode_group(9, records, 512, fmt.segment_seed(2, "n1", "d1"))
    assert group.rstrip(b"\0").hex() == _GOLDEN_GROUP
    assert positions == [536, 568]


def test_a_real_power_loss_shape_of_a_torn_real_file_is_cut(tmp_path: Path) -> None:
    files = RealFileSystem()
    directory = str(tmp_path / "journal")
    journal = open_journal(files, directory)
    for index in (1, 2):
        journal.add(b"command %d" % index, index, 1)
        sync(journal)
    journal._destroy()
    segment = tmp_path / "journal" / f"{1:016x}.seg"
    data = bytearray(segment.read_bytes())
    data[data.index(b"command 2")] ^= 1
    segment.write_bytes(data)
    again = open_journal(files, directory)
    assert again[:] == [(b"command 1", 1, 1)]
    assert again.recovered.file == str(segment)
    again._destroy()
