"""A file system in memory that loses power as a disk does.

What lives here: `MemoryFileSystem`, for the journal's tests and the simulation.
Rules: reads see every write at once. A power loss keeps what was synced, and of the rest any subset: sectors of
unsynced writes, and changes of names since the last sync of their directory. Files opened before it are dead after it.
Must not know: formats.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

_SECTOR_BYTES = 512

Fault = Callable[[str, str], None]
"""Called with (operation, path) before each operation that changes something; may raise OSError."""


class _Content:
    """An inode: what programs see, what the disk holds, and the unsynced changes between the two, in order."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = bytearray()
        self.unsynced: list[tuple[int, bytes] | int] = []

    def write(self, position: int, data: bytes) -> None:
        _put(self.seen, position, data)
        at = 0
        while at < len(data):
            size = min(_SECTOR_BYTES - (position + at) % _SECTOR_BYTES, len(data) - at)
            self.unsynced.append((position + at, bytes(data[at : at + size])))
            at += size

    def truncate(self, size: int) -> None:
        _resize(self.seen, size)
        self.unsynced.append(size)

    def sync(self) -> None:
        for change in self.unsynced:
            self._persist(change)
        self.unsynced.clear()

    def lose_power(self, chance: random.Random) -> None:
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for change in self.unsynced:
            if chance.random() < share:
                self._persist(change)
        self.unsynced.clear()
        self.seen = bytearray(self.durable)

    def _persist(self, change: tuple[int, bytes] | int) -> None:
        if isinstance(change, int):
            _resize(self.durable, change)
        else:
            _put(self.durable, *change)


_Naming = dict[str, _Content | None]
"""Paths that change in one step, with what they name from then on; a rename is one step."""


class _MemoryFile:
    def __init__(self, owner: MemoryFileSystem, path: str, content: _Content) -> None:
        self._owner = owner
        self._path = path
        self._content = content
        self._era = owner.era

    def read_at(self, position: int, size: int) -> bytes:
        self._check()
        return bytes(self._content.seen[position : position + size])

    def write_at(self, position: int, data: bytes) -> None:
        self._check()
        self._owner.before("write", self._path)
        self._content.write(position, data)

    def sync(self) -> None:
        self._check()
        self._owner.before("sync", self._path)
        self._content.sync()

    def truncate(self, size: int) -> None:
        self._check()
        self._owner.before("truncate", self._path)
        self._content.truncate(size)

    def size(self) -> int:
        self._check()
        return len(self._content.seen)

    def close(self) -> None:
        self._era = -1

    def _check(self) -> None:
        if self._era != self._owner.era:
            raise OSError(errno.EBADF, "the file was closed or lost its power", self._path)


class MemoryFileSystem:
    """Fulfils `FileSystem`; paths are plain strings, directories exist when made."""

    def __init__(self) -> None:
        self.era = 0
        self.fault: Fault | None = None
        self._directories: set[str] = set()
        self._seen: dict[str, _Content] = {}
        self._durable: dict[str, _Content] = {}
        self._unsynced: list[_Naming] = []

    def before(self, operation: str, path: str) -> None:
        """Give the fault its chance."""
        if self.fault is not None:
            self.fault(operation, path)

    def power_loss(self, chance: random.Random) -> None:
        """Drop what the disk need not hold; the choice of what it does hold is `chance`'s."""
        self.era += 1
        # A journalling file system keeps the order of changes to one directory only by chance, so any subset may stay.
        share = chance.choice((0.0, 0.5, 1.0))
        for naming in self._unsynced:
            if chance.random() < share:
                self._persist(naming)
        self._unsynced.clear()
        for content in self._durable.values():
            content.lose_power(chance)
        self._seen = dict(self._durable)

    def list_directory(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        return sorted({name[len(prefix) :].split("/")[0] for name in self._seen if name.startswith(prefix)})

    def make_directory(self, path: str) -> None:
        self._directories.add(path)

    def exists(self, path: str) -> bool:
        return path in self._seen or path in self._directories

    def open_file(self, path: str, *, create: bool = False) -> _MemoryFile:
        content = self._seen.get(path)
        if content is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self.before("create", path)
            content = _Content()
            self._name({path: content})
        return _MemoryFile(self, path, content)

    def read_file(self, path: str) -> bytes | None:
        content = self._seen.get(path)
        return None if content is None else bytes(content.seen)

    def replace_file(self, path: str, data: bytes) -> None:
        self.before("replace", path)
        content = _Content()
        content.write(0, data)
        content.sync()
        self._name({path: content})
        self.sync_directory(_parent(path))

    def rename(self, source: str, target: str) -> None:
        self.before("rename", source)
        naming: _Naming = {}
        for name, content in self._seen.items():
            if name == source or name.startswith(source + "/"):
                naming |= {name: None, target + name[len(source) :]: content}
        if not naming:
            raise FileNotFoundError(errno.ENOENT, "no such file", source)
        self._name(naming)

    def remove_file(self, path: str) -> None:
        self.before("remove", path)
        if path in self._seen:
            self._name({path: None})

    def remove_tree(self, path: str) -> None:
        self.before("remove", path)
        for name in [name for name in self._seen if name.startswith(path + "/")]:
            self._name({name: None})
        self._directories = {name for name in self._directories if name != path and not name.startswith(path + "/")}

    def sync_directory(self, path: str) -> None:
        self.before("sync_directory", path)
        left = []
        for naming in self._unsynced:
            if any(_parent(name) == path for name in naming):
                self._persist(naming)
            else:
                left.append(naming)
        self._unsynced = left

    def _name(self, naming: _Naming) -> None:
        _apply(naming, self._seen)
        self._unsynced.append(naming)

    def _persist(self, naming: _Naming) -> None:
        _apply(naming, self._durable)


def _apply(naming: _Naming, names: dict[str, _Content]) -> None:
    for path, content in naming.items():
        if content is None:
            names.pop(path, None)
        else:
            names[path] = content


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _put(target: bytearray, position: int, data: bytes) -> None:
    if len(target) < position:
        _resize(target, position)
    target[position : position + len(data)] = data


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))
