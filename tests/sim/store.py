"""A store on a simulated disk; fulfils `storage.store.Store`.

What lives here: ordered reads and atomic batches over a `disk.StoreImage`.
Rules: what survives a crash is a prefix of the batches that holds at least all flushed ones (PROTOCOL.md P1).
A snapshot is a copy: states are small here.
Must not know: what the bytes mean.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from falconq_cluster.storage.store import Change
from tests.sim.disk import TOKEN, SimDisk, SimFileSystem
from tests.sim.disk_tree import StoreImage
from tests.sim.world import Process


class _Reads:
    """Reads of one state."""

    _data: dict[bytes, bytes]
    _keys: list[bytes]

    def get(self, key: bytes) -> bytes | None:
        return self._data.get(key)

    def scan_keys(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, stop)]
        return iter(keys[::-1] if reverse else keys)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, stop)]
        data = self._data
        pairs = [(key, data[key]) for key in keys]
        return iter(pairs[::-1] if reverse else pairs)


class SimSnapshot(_Reads):
    def __init__(self, data: dict[bytes, bytes], keys: list[bytes]) -> None:
        self._data = data
        self._keys = keys

    def close(self) -> None:
        """Nothing is held."""


class SimStore(_Reads):
    """One process's store."""

    def __init__(self, process: Process, disk: SimDisk, files: SimFileSystem, path: str) -> None:
        directory = files.directory(path)
        if directory.store is None:
            directory.store = StoreImage()
        self._image = directory.store
        self._data = self._image.data
        self._keys = self._image.keys
        self._process = process
        self._disk = disk

    def write(self, changes: Sequence[Change]) -> None:
        self._process.touch("store write")
        data, keys = self._data, self._keys
        before: dict[bytes, bytes | None] = {}
        tokens: set[bytes] = set()
        for key, value in changes:
            old = data.get(key)
            before.setdefault(key, old)
            if value is None:
                if old is not None:
                    del data[key]
                    del keys[bisect_left(keys, key)]
                continue
            if old is None:
                if keys and key > keys[-1]:
                    keys.append(key)
                else:
                    insort(keys, key)
            data[key] = value
            tokens.update(TOKEN.findall(value))
        self._image.undo.append(before)
        self._image.flushed_tokens.append(tokens)

    def flush(self) -> None:
        self._process.touch("store flush")
        self._image.undo.clear()
        for tokens in self._image.flushed_tokens:
            self._disk.durable_tokens |= tokens
        self._image.flushed_tokens.clear()
        self._process.touch("store flushed")

    def snapshot(self) -> SimSnapshot:
        self._process.touch("store snapshot")
        return SimSnapshot(dict(self._data), list(self._keys))

    def approximate_bytes(self, start: bytes, stop: bytes) -> int:
        return sum(len(key) + len(self._data[key]) for key in self.scan_keys(start, stop))

    def compact(self, start: bytes, stop: bytes) -> None:
        self._process.touch("store compact")

    def pairs(self) -> dict[bytes, bytes]:
        """All that is visible."""
        return dict(self._data)

    def close(self) -> None:
        if self._process.is_alive:
            self.flush()
