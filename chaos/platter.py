"""What a loss of power leaves of a directory, from the log of all that was asked of it (`chaos/shims/platter.c`).

What lives here: reading the log, what is durable at its end, and putting the directory back to that.
Rules: bytes are durable after a sync of their file, names after a sync of their directory, and not before: in this way
it is harsher than most file systems. Of the rest nothing is left, or, with chance, any of its 512-byte sectors and a
first part of what was done to names, in its order, as a file system with a journal does it.
Must not know: nodes, formats.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
HEAD = struct.Struct("<IIqII")
START, OPEN, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR = range(1, 9)
CREATES, EMPTIES = 1, 2
Record = tuple[int, int, int, bytes, bytes]
"""Operation, serial of an open file, position, and what follows."""


def read_log(path: Path) -> Iterator[Record]:
    """The records; one that the kill tore was told to nobody and is left out."""
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at + HEAD.size <= len(data):
        op, serial, position, first, second = HEAD.unpack_from(data, at)
        at += HEAD.size
        if at + first + second > len(data):
            return
        yield op, serial, position, data[at : at + first], data[at + first : at + first + second]
        at += first + second


@dataclass(slots=True, eq=False)
class _File:
    kept: bytearray
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    """What was not synced, in its order: bytes at a position, or None: the file got this size."""

    def sync(self) -> None:
        for at, data in self.changes:
            _change(self.kept, at, data)
        self.changes.clear()

    def keep_some(self, chance: random.Random) -> None:
        share = chance.random()
        for at, data in self.changes:
            if data is None:
                if chance.random() < share:
                    _change(self.kept, at, None)
                continue
            begin = at
            while begin < at + len(data):
                end = min((begin // SECTOR + 1) * SECTOR, at + len(data))
                if chance.random() < share:
                    _change(self.kept, begin, data[begin - at : end - at])
                begin = end
        self.changes.clear()

    def seen(self) -> bytes:
        """With all that was written."""
        whole = bytearray(self.kept)
        for at, data in self.changes:
            _change(whole, at, data)
        return bytes(whole)


@dataclass(slots=True, eq=False)
class _Directory:
    names: dict[str, _Node] = field(default_factory=dict)
    kept: dict[str, _Node] = field(default_factory=dict)
    """Durably."""


_Node = _File | _Directory


def _change(kept: bytearray, at: int, data: bytes | None) -> None:
    end = at + len(data or b"")
    if len(kept) < end:
        kept.extend(bytes(end - len(kept)))
    if data is None:
        del kept[at:]
    else:
        kept[at:end] = data


class Disk:
    """A directory as it was durably at first, and all that was asked of it since."""

    def __init__(self, root: Path, durable: Path) -> None:
        self._root = root
        self._tree = _load(durable) if durable.exists() else _Directory()
        self._pending: list[tuple[_Directory, dict[str, _Node | None]]] = []
        """What was done to names and is not durable: the directory, and what each name stands for since."""
        self._open: dict[int, _Node] = {}

    def replay(self, records: Iterator[Record]) -> None:
        """Raises: AssertionError, ValueError for what is not modelled."""
        for op, serial, at, first, second in records:
            node = self._open.get(serial)
            if op == START:
                self._open.clear()
            elif op == OPEN:
                self._opened(serial, at, first.decode())
            elif op == SYNC and isinstance(node, _Directory):
                self._sync_names(node)
            elif op == SYNC and isinstance(node, _File):
                node.sync()
            elif op in (WRITE, TRUNCATE) and isinstance(node, _File):
                node.changes.append((at, first if op == WRITE else None))
            elif op in (UNLINK, MKDIR):
                self._put(first.decode(), _Directory() if op == MKDIR else None)
            elif op == RENAME:
                self._rename(first.decode(), second.decode())

    def lose_power(self, chance: random.Random | None) -> int:
        """Only what is durable is left; with chance also some of the rest. How many bytes were not synced."""
        unsynced = 0
        kept_count = chance.randint(0, len(self._pending)) if chance is not None else 0
        for directory, changed in self._pending[:kept_count]:
            _apply(directory.kept, changed)
        self._pending.clear()
        self._open.clear()
        for node in list(_walk(self._tree)):
            if isinstance(node, _File):
                unsynced += sum(len(data or b"") for _, data in node.changes)
                if chance is not None:
                    node.keep_some(chance)
                node.changes.clear()
            else:
                node.names = dict(node.kept)
        return unsynced

    def write_to(self, target: Path) -> None:
        """Make the directory what is here."""
        target.mkdir(exist_ok=True)
        for child in target.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
        _store(self._tree, target)

    def seen(self) -> dict[str, bytes]:
        """Each file's path below the root, with what a reader saw at the end of the log."""
        return dict(_contents(self._tree, ""))

    def _find(self, path: str) -> tuple[_Directory, str]:
        *parents, name = Path(path).relative_to(self._root).parts
        directory = self._tree
        for parent in parents:
            found = directory.names.get(parent)
            assert isinstance(found, _Directory), f"{path}: {parent} is no directory that was made under the shim"
            directory = found
        return directory, name

    def _opened(self, serial: int, how: int, path: str) -> None:
        if Path(path) == self._root:
            self._open[serial] = self._tree
            return
        directory, name = self._find(path)
        if name not in directory.names and how & CREATES:
            self._put(path, _File(bytearray()))
        node = directory.names.get(name)
        if node is None:  # made by what the shim does not see, such as the text log of LevelDB
            return
        if isinstance(node, _File) and how & EMPTIES:
            node.changes.append((0, None))
        self._open[serial] = node

    def _put(self, path: str, node: _Node | None) -> None:
        directory, name = self._find(path)
        changed = {name: node}
        _apply(directory.names, changed)
        self._pending.append((directory, changed))

    def _rename(self, source: str, target: str) -> None:
        directory, old = self._find(source)
        other, new = self._find(target)
        if directory is not other:
            raise ValueError(f"{source} is renamed into another directory, {target}")
        if old not in directory.names:
            return
        changed = {old: None, new: directory.names[old]}
        _apply(directory.names, changed)
        self._pending.append((directory, changed))

    def _sync_names(self, directory: _Directory) -> None:
        rest = []
        for pending in self._pending:
            if pending[0] is directory:
                _apply(directory.kept, pending[1])
            else:
                rest.append(pending)
        self._pending = rest


def _apply(names: dict[str, _Node], changed: dict[str, _Node | None]) -> None:
    for name, node in changed.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _walk(directory: _Directory) -> Iterator[_Node]:
    yield directory
    for node in directory.kept.values():
        if isinstance(node, _Directory):
            yield from _walk(node)
        else:
            yield node


def _load(path: Path) -> _Directory:
    found: dict[str, _Node] = {
        child.name: _load(child) if child.is_dir() else _File(bytearray(child.read_bytes())) for child in path.iterdir()
    }
    return _Directory(found, dict(found))


def _store(directory: _Directory, target: Path) -> None:
    for name, node in directory.names.items():
        if isinstance(node, _Directory):
            (target / name).mkdir()
            _store(node, target / name)
        else:
            (target / name).write_bytes(node.seen())


def _contents(directory: _Directory, prefix: str) -> Iterator[tuple[str, bytes]]:
    for name, node in directory.names.items():
        if isinstance(node, _Directory):
            yield from _contents(node, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", node.seen()


def lose_power(root: Path, durable: Path, log: Path, chance: random.Random | None) -> int:
    """Put `root` back to what was durable when its processes were killed; `durable` and `log` begin anew there."""
    disk = Disk(root, durable)
    disk.replay(read_log(log))
    unsynced = disk.lose_power(chance)
    disk.write_to(durable)
    disk.write_to(root)
    log.unlink(missing_ok=True)
    return unsynced
