"""The store of a node: LevelDB, with what survives a power loss made exact.

What lives here: the only use of plyvel.
Rules (PROTOCOL.md P1): writes are not synced, and LevelDB's own `*.log` files are removed before opening, since
they may have holes after a power loss; what is left, the tables, is a prefix of the writes, and the Raft journal
replays the rest. Each block of a table is checked when it is read from the disk: a flipped bit is an error, never
another value. `flush` turns all that was written before it into tables, and raises when it can't tell that it did.
Must not know: what the bytes mean, the journal.
"""

from __future__ import annotations

import errno
import os
import threading
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plyvel

from falconq_cluster.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from falconq_cluster.storage.store import Change

_KEY_SPACE_END = b"\xff" * 32
"""No table covers it, so compacting this range only flushes."""

_FLUSH_ATTEMPTS = 5
"""A log of a finished flush may be seen for the moment before it is unlinked; flushing once more waits for that."""


def _nobody_is_told(_damage: CorruptionError) -> None:
    """Whoever opened the store looks after what it raises alone."""


class _LevelReader:
    """Reads; each may raise CorruptionError."""

    def __init__(self, path: str, source: Any, on_damage: Callable[[CorruptionError], None]) -> None:
        self._path = path
        self._source = source
        self._on_damage = on_damage

    def _damaged(self, error: Exception) -> CorruptionError:
        damage = _damage(self._path, error)
        self._on_damage(damage)
        return damage

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._source.get(key, verify_checksums=True)
        except plyvel.CorruptionError as error:
            raise self._damaged(error) from error
        return value

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if start >= stop:
            return iter(())
        pairs = self._iterator(start, stop, reverse=reverse)
        return self._to_the_end(pairs, start, takewhile(lambda pair: pair[0] >= start, pairs) if reverse else pairs)

    def scan_keys(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        if start >= stop:
            return iter(())
        found = self._iterator(start, stop, reverse=reverse, include_value=False)
        return self._to_the_end(found, start, takewhile(lambda key: key >= start, found) if reverse else found)

    def _iterator(self, start: bytes, stop: bytes, *, reverse: bool, include_value: bool = True) -> Any:
        """The library's; a reversed one has no start, since with one it misses a key that is alone and equal to it."""
        return self._source.iterator(
            start=None if reverse else start,
            stop=stop,
            reverse=reverse,
            include_value=include_value,
            verify_checksums=True,
        )

    def _to_the_end(self, scanned: Any, start: bytes, wanted: Iterator[Any]) -> Iterator[Any]:
        """All of it, or an error when it ended at a damaged block, which plyvel tells only at a later step.

        A step to a place where something is tells of all damage that was met; when nothing was found at all, only a
        raw iterator does.
        """
        try:
            first = next(wanted, None)
            if first is None:
                raw = self._source.raw_iterator(verify_checksums=True)
                raw.seek(start)
                raw.close()
                return
            yield first
            yield from wanted
            scanned.seek(start)
        except plyvel.CorruptionError as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        self._source.close()


class LevelStore(_LevelReader):
    """Fulfils `Store` on a directory that nobody else has open."""

    def __init__(self, path: str, database: Any, on_damage: Callable[[CorruptionError], None]) -> None:
        super().__init__(path, database, on_damage)
        self._compacting = threading.Lock()

    @classmethod
    def open(
        cls,
        path: str,
        *,
        write_buffer_bytes: int = 16 * 1024 * 1024,
        cache_bytes: int = 64 * 1024 * 1024,
        on_damage: Callable[[CorruptionError], None] = _nobody_is_told,
    ) -> LevelStore:
        """Open or create the store at its last durable prefix.

        Once it is open, `on_damage` is called with what is raised, on the thread that met it, before it is raised.
        Raises: OSError (also when another process has it open), CorruptionError when tables are damaged.
        """
        Path(path).mkdir(parents=True, exist_ok=True)
        for log in _log_files(path):
            log.unlink()
        try:
            database = plyvel.DB(
                path,
                create_if_missing=True,
                write_buffer_size=write_buffer_bytes,
                lru_cache_size=cache_bytes,
                bloom_filter_bits=10,
                paranoid_checks=True,  # so that a merge of tables does not carry on what is damaged
            )
        except plyvel.CorruptionError as error:
            raise _damage(path, error) from error
        return cls(path, database, on_damage)

    def write(self, changes: Sequence[Change]) -> None:
        try:
            with self._source.write_batch(transaction=True) as batch:
                for key, value in changes:
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
        except plyvel.CorruptionError as error:  # A merge of tables met it before, and no write is taken since.
            raise self._damaged(error) from error

    def flush(self) -> None:
        """Block until every batch written before the call is in a synced table that the manifest names.

        LevelDB drops the status of this kind of flush (a log that can't be created, a full disk), but it unlinks a
        log only when its writes are in a table: the flush is done when the logs that were there before it are gone.
        Raises: OSError.
        """
        before = _log_files(self._path)
        for _attempt in range(_FLUSH_ATTEMPTS):
            self._source.compact_range(start=_KEY_SPACE_END, stop=_KEY_SPACE_END)
            # An empty batch changes nothing, but is refused once a background write has failed.
            self.write(())
            if before and not before & _log_files(self._path):
                return
        raise OSError(errno.EIO, "LevelDB did not finish a flush; see its LOG file", self._path)

    def snapshot(self) -> _LevelReader:
        return _LevelReader(self._path, self._source.snapshot(), self._on_damage)

    def approximate_bytes(self, start: bytes, stop: bytes) -> int:
        if start >= stop:
            return 0
        size: int = self._source.approximate_size(start, stop)
        return size

    def compact(self, start: bytes, stop: bytes) -> None:
        """Merge the tables of the range, so that LevelDB drops what was deleted; it may be long in doing so by itself.

        Nothing when the store is closed; a close that comes meanwhile waits, since LevelDB would free what is in use.
        """
        with self._compacting:
            if not self._source.closed:
                self._source.compact_range(start=start, stop=stop)

    @property
    def level0_file_count(self) -> int:
        """Tables not yet merged; LevelDB slows writers down from 8 and stops them at 12."""
        return int(self._source.get_property(b"leveldb.num-files-at-level0"))

    @property
    def disk_bytes(self) -> int:
        """Bytes of all files of the store."""
        total = 0
        with os.scandir(self._path) as entries:
            for entry in entries:
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:  # a compaction removed it meanwhile
                    continue
        return total

    def close(self) -> None:
        with self._compacting:
            if not self._source.closed:
                self.flush()
                self._source.close()


def _damage(path: str, error: Exception) -> CorruptionError:
    return CorruptionError(
        f"{path}: a table is damaged ({error}); restore this node's data directory as a whole, or wipe it and let the "
        "node join again as a learner"
    )


def _log_files(path: str) -> set[Path]:
    return set(Path(path).glob("*.log"))
