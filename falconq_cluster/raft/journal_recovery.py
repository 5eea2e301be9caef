"""Reading a journal's segments back after a stop, a crash or a power loss.

What lives here: which files are the journal, the reader of one segment, and the replay of all of them.
Rules (PROTOCOL.md P3): a group is written only after the one before it was synced, and a segment is begun only after
the one before it was. So damage with a whole group header or a segment behind it is corruption, and refuses. Damage in
the last group is a torn tail: nothing in it was promised, and it is cut behind its last whole record.
No length that was read is used before it was compared with what the file holds.
Must not know: how groups get written, PySyncObj.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from falconq_cluster.errors import ConfigurationError, CorruptionError
from falconq_cluster.raft import journal_format as fmt
from falconq_cluster.raft.journal_table import EntryTable
from falconq_cluster.storage.files import File, FileSystem

SPARE_NAME = "spare"
"""A segment that is no longer needed, to be written over by a new one."""
TEMPORARY_SUFFIX = ".tmp"
_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})\.seg")
_READ_BYTES = 1024 * 1024
_ADVICE = "restore this node's data directory as a whole, or wipe it and let the node join again as a learner"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery cut off, for the log; a flipped bit in the last group can't be told from a tear."""

    file: str | None = None
    position: int | None = None
    """Where the log ends in `file`; None when nothing was cut."""
    cut_bytes: int = 0
    """Bytes of the torn group behind `position`, as far as its header tells."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file that belongs to the log."""

    number: int
    path: str
    bytes: int


@dataclass(slots=True)
class Replay:
    """The state that the records lead to."""

    table: EntryTable
    term: int = 0
    vote: str = ""
    required_index: int = 0
    """The log must hold this index; 0 while it is empty."""

    def apply(self, segment: int, record: fmt.Record, position: int) -> None:
        """Take the record of this place. Raises: FormatError when it can't follow the ones before it."""
        kind, number, term, body = record
        if kind == fmt.ENTRY:
            if len(self.table) and number != self.table.last_index + 1:
                raise fmt.FormatError(f"entry {number} follows entry {self.table.last_index}")
            self.table.append(number, term, body)
            self.table.set_place(number, segment, position)
            self.table.evict(number)
            self.required_index = self.required_index or number
        elif kind == fmt.TRUNCATE:
            self.table.truncate(number)
            self.required_index = self.required_index if number else 0
        elif kind == fmt.META:
            self.term, self.vote = term, body.decode()
        elif kind == fmt.BASE:
            self.table.truncate(0)
            self.table.append(number, term, body)
            self.table.set_place(number, segment, position)
            self.required_index = number
        elif kind == fmt.CUT:
            self.required_index = number
        else:
            raise fmt.FormatError(f"a record is of unknown kind {kind}")


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the log ends in a segment."""

    position: int
    next_sequence: int
    last_group: int | None
    """Where the last group begins, None when the segment has none."""
    torn_bytes: int | None = None
    """None when the end is clean."""


class SegmentReader:
    """Reads the groups of one segment in order."""

    def __init__(self, file: File, path: str, seed: int) -> None:
        self._file = file
        self._path = path
        self._seed = seed
        self._size = file.size()
        self._window = b""
        self._window_start = 0

    def read(self, start: int, sequence: int, end: int | None, visit: Callable[[fmt.Record, int], None]) -> Tail:
        """Visit each whole record with its position, from the group `sequence` at `start` up to `end`.

        With `end` None this is the last segment, whose end is to be found. Raises: CorruptionError.
        """
        position = start
        last_group: int | None = None
        while position != end:
            header = fmt.decode_group_header(self._bytes(position, fmt.GROUP_HEADER_BYTES), position, self._seed)
            if header is None or header.sequence != sequence:
                return self._damaged(Tail(position, sequence, last_group), position, end)
            last_group = position
            sequence += 1
            payload_end = position + fmt.GROUP_HEADER_BYTES + header.payload_bytes
            stop = self._read_records(position + fmt.GROUP_HEADER_BYTES, payload_end, end, visit)
            if stop == end:
                position = stop
            elif stop != payload_end:
                torn = Tail(stop, sequence, last_group, min(payload_end, self._size) - stop)
                return self._damaged(torn, stop, end)
            else:
                position = fmt.align(payload_end)
        return Tail(position, sequence, last_group)

    def _read_records(
        self, position: int, payload_end: int, end: int | None, visit: Callable[[fmt.Record, int], None]
    ) -> int:
        """Where the group's whole records stop; `payload_end` when all are whole."""
        limit = min(payload_end, self._size)
        while position not in (payload_end, end):
            body_at = position + fmt.RECORD_HEADER_BYTES
            if body_at > limit:
                break
            header = fmt.decode_record_header(self._bytes(position, fmt.RECORD_HEADER_BYTES))
            if body_at + header.body_bytes > limit:
                break
            body = self._bytes(body_at, header.body_bytes)
            if not fmt.is_record_whole(header, body, position, self._seed):
                break
            try:
                visit(fmt.Record(header.kind, header.number, header.term, body), position)
            except (fmt.FormatError, UnicodeDecodeError) as error:
                raise corruption(self._path, position, str(error)) from error
            position = body_at + header.body_bytes
        return position

    def _damaged(self, tail: Tail, position: int, end: int | None) -> Tail:
        """The tail, when nothing behind `position` shows that what is damaged there had been synced."""
        if end is not None:
            raise corruption(self._path, position, "a group is damaged and a later segment exists")
        later = self._find_group(position)
        if later is not None:
            raise corruption(self._path, position, f"a group is damaged and a later one is whole, at byte {later}")
        if tail.torn_bytes is None and any(self._bytes(position, fmt.GROUP_HEADER_BYTES)):
            # A whole group leaves zeros behind it, so these bytes are of a group whose header is torn.
            return Tail(tail.position, tail.next_sequence, tail.last_group, fmt.GROUP_HEADER_BYTES)
        return tail

    def _find_group(self, position: int) -> int | None:
        """The first sector at or behind `position` where a group begins."""
        position = fmt.align(position)
        while position + fmt.GROUP_HEADER_BYTES <= self._size:
            data = self._bytes(position, fmt.GROUP_HEADER_BYTES)
            if fmt.decode_group_header(data, position, self._seed) is not None:
                return position
            position += fmt.SECTOR_BYTES
        return None

    def _bytes(self, position: int, size: int) -> bytes:
        start = position - self._window_start
        if start < 0 or start + size > len(self._window):
            self._window = self._file.read_at(position, max(size, _READ_BYTES))
            self._window_start = position
            start = 0
        return self._window[start : start + size]


def segment_path(directory: str, number: int) -> str:
    return f"{directory}/{number:016x}.seg"


def corruption(path: str, position: int, what: str) -> CorruptionError:
    return CorruptionError(f"{path} at byte {position}: {what}; {_ADVICE}")


@dataclass(frozen=True, slots=True)
class Recovery:
    """A journal as it was found."""

    replay: Replay
    segments: list[Segment]
    """Ascending and contiguous; the last one ends at `tail`."""
    tail: Tail
    leftovers: list[str]
    """Paths of files that may go."""

    @property
    def recovered(self) -> Recovered:
        if self.tail.torn_bytes is None:
            return Recovered()
        return Recovered(self.segments[-1].path, self.tail.position, self.tail.torn_bytes)


def recover(files: FileSystem, directory: str, *, node_id: str, disk_id: str, cache_bytes: int) -> Recovery:
    """Read the journal, and make durable what was found.

    Raises: CorruptionError; ConfigurationError when it is another node's or disk's; OSError.
    """
    numbers, leftovers = _segments_of_the_log(files, directory)
    headers = [_read_header(files, directory, number, node_id=node_id, disk_id=disk_id) for number in numbers]
    replay = Replay(EntryTable(cache_bytes))
    segments: list[Segment] = []
    tail = Tail(0, 1, None)
    if headers:
        first = headers[0][0]
        replay.term, replay.vote, replay.required_index = first.term, first.vote, first.first_index
        tail = Tail(0, first.first_sequence, None)
    for at, (header, start) in enumerate(headers):
        path = segment_path(directory, header.number)
        end = headers[at + 1][0].previous_end if at + 1 < len(headers) else None
        if header.first_sequence != tail.next_sequence:
            raise corruption(path, 0, f"its groups begin with {header.first_sequence}, not {tail.next_sequence}")
        if end is not None and end < start:
            raise corruption(path, end, "the next segment says that this one ends within its header")
        file = files.open_file(path)
        try:
            reader = SegmentReader(file, path, fmt.segment_seed(header.number, node_id, disk_id))
            tail = reader.read(start, header.first_sequence, end, partial(replay.apply, header.number))
            if end is None:
                _make_durable(file, tail)
            segments.append(Segment(header.number, path, file.size()))
        finally:
            file.close()
    _check_whole(replay, segments)
    replay.table.cut(replay.required_index)
    return Recovery(replay, segments, tail, leftovers)


def _segments_of_the_log(files: FileSystem, directory: str) -> tuple[list[int], list[str]]:
    """The numbers of the segments, and the paths of files that a crash left behind.

    Segments are removed from the front; a power loss may undo some of the removals. So those that do not connect to
    the newest are leftovers; that none is missing is checked after the replay, by `required_index`.
    """
    numbers: list[int] = []
    leftovers: list[str] = []
    for name in files.list_directory(directory):
        match = _SEGMENT_NAME.fullmatch(name)
        if match:
            numbers.append(int(match[1], 16))
        elif name.endswith(TEMPORARY_SUFFIX):
            leftovers.append(f"{directory}/{name}")
    connected = [number for at, number in enumerate(numbers) if numbers[-1] - number == len(numbers) - 1 - at]
    leftovers += [segment_path(directory, number) for number in numbers if number not in connected]
    return connected, leftovers


def _read_header(
    files: FileSystem, directory: str, number: int, *, node_id: str, disk_id: str
) -> tuple[fmt.SegmentHeader, int]:
    """The header and its length. A segment gets its name when its header is durable, so it must be whole."""
    path = segment_path(directory, number)
    file = files.open_file(path)
    try:
        header, length = fmt.decode_segment_header(file.read_at(0, fmt.SEGMENT_HEADER_BYTES_MAX))
    except (fmt.FormatError, UnicodeDecodeError) as error:
        raise corruption(path, 0, str(error)) from error
    finally:
        file.close()
    if (header.node_id, header.disk_id) != (node_id, disk_id):
        raise ConfigurationError(
            f"{path} belongs to node {header.node_id!r} with disk {header.disk_id!r}, this is {node_id!r} with"
            f" {disk_id!r}; mount the data directory of this node"
        )
    if header.number != number:
        raise corruption(path, 0, f"the file holds segment {header.number}")
    return header, length


def _make_durable(file: File, tail: Tail) -> None:
    """Put the last group onto the disk for sure.

    The process that wrote it may have died before its sync, or because its sync failed; after a failed sync the page
    cache can hold pages that count as written and are not, so they are written again.
    """
    if tail.last_group is not None:
        file.write_at(tail.last_group, file.read_at(tail.last_group, tail.position - tail.last_group))
    if tail.torn_bytes is None:
        file.truncate(tail.position)
    file.sync()


def _check_whole(replay: Replay, segments: list[Segment]) -> None:
    table = replay.table
    required = replay.required_index
    if required and not (len(table) and table.first_index <= required <= table.last_index):
        held = f"{table.first_index} to {table.last_index}" if len(table) else "nothing"
        raise corruption(segments[0].path, 0, f"entry {required} is missing, the segments hold {held}: a file is gone")
