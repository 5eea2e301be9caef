"""A simulated disk with a page cache; fulfils `storage.files.FileSystem`.

What lives here: the directory tree, files with what is synced and what is not, and the disk's faults.
Rules: a crash of the process loses nothing that was written; a power loss keeps a random subset of the 512-byte
sectors and of the directory operations that were not synced. A failed sync drops what it should have written.
A disk outlives the processes that use it; a dead process can reach it no more.
Must not know: formats.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from random import Random

from tests.sim.disk_tree import (
    SECTOR_BYTES,
    DirectoryNode,
    FileNode,
    Node,
    apply_sectors,
    directories_of,
    files_of,
    path_parts,
    put_name,
    shorten,
    used_bytes,
    write_bytes,
)
from tests.sim.world import Process

TOKEN = re.compile(rb"~[a-z]\d+~")
"""What clients put into payloads, so that the disk itself can say whose bytes it holds durably."""


@dataclass(slots=True)
class _Operation:
    """One directory operation: all of its entries or none survive."""

    entries: list[tuple[DirectoryNode, str, Node | None]]
    node: Node


class SimDisk:
    """One machine's disk."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.root = DirectoryNode()
        self.operations: list[_Operation] = []
        self.durable_tokens: set[bytes] = set()
        """Client tokens that are or were durable here, in a file or a store; a wipe takes none back."""
        self.bytes_max = 1 << 40
        self.used_bytes = 0
        self.failing_syncs = 0
        """So many of the coming syncs fail with EIO."""
        self.sync_count = 0

    # Faults.

    def lose_power(self) -> None:
        """Forget what was not synced, but for a random part of it."""
        keep = self.random.choice((0.0, 0.5, 0.9, 1.0))
        broken: set[int] = set()
        for operation in self.operations:
            # An operation on a thing survives only if the earlier ones on it did.
            if id(operation.node) in broken or self.random.random() >= keep:
                broken.add(id(operation.node))
                continue
            self._make_durable(operation)
        self.operations.clear()
        self._settle(self.root)
        self.used_bytes = used_bytes(self.root)
        for _, node in files_of(self.root, ""):
            self.durable_tokens.update(TOKEN.findall(node.durable))

    def lose_stores(self) -> None:
        """What a store did not flush is gone after any crash, but for a prefix of its batches (PROTOCOL.md P1)."""
        for directory in directories_of(self.root):
            if directory.store is not None:
                self.durable_tokens |= shorten(directory.store, self.random)

    def wipe(self) -> None:
        """An empty disk."""
        self.root = DirectoryNode()
        self.operations.clear()
        self.used_bytes = 0

    def flip_bit(self) -> str | None:
        """Damage one synced byte that a later sync follows; the path, or None when there is no such byte.

        What the last sync wrote is spared: there, damage cannot be told from a torn write (PROTOCOL.md P3).
        """
        paths = [(path, node) for path, node in files_of(self.root, "") if len(node.durable) > SECTOR_BYTES]
        if not paths:
            return None
        path, node = paths[self.random.randrange(len(paths))]
        position = self.random.randrange(len(node.durable))
        if any(start <= position < stop for start, stop in node.last_synced):
            return None
        mask = 1 << self.random.randrange(8)
        node.durable[position] ^= mask
        node.content[position : position + 1] = bytes([node.durable[position]])
        return f"{path} byte {position}"

    # What the files ask.

    def grow(self, size: int) -> None:
        """Account for new bytes. Raises: OSError (ENOSPC)."""
        if size > 0 and self.used_bytes + size > self.bytes_max:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self.used_bytes += size

    def sync(self, node: FileNode) -> None:
        """Make a file's content durable. Raises: OSError (EIO), and then forgets what it should have written."""
        self.sync_count += 1
        if self.failing_syncs:
            self.failing_syncs -= 1
            node.pending = [write for write in node.pending if self.random.random() < 0.5]
            apply_sectors(node, self.random, 0.5)
            raise OSError(errno.EIO, "simulated input/output error")
        if not node.pending:
            return
        node.last_synced = []
        for position, data in node.pending:
            write_bytes(node.durable, position, data)
            if data is not None:
                node.last_synced.append((position, position + len(data)))
                (self.durable_tokens if node.is_named else node.tokens).update(TOKEN.findall(data))
        node.pending.clear()

    def sync_directory(self, directory: DirectoryNode) -> None:
        """Make the operations in one directory durable, and those before them on the same things."""
        due = {id(op) for op in self.operations if any(entry[0] is directory for entry in op.entries)}
        for operation in self.operations:
            if id(operation) in due:
                self._make_durable(operation)
        self.operations = [operation for operation in self.operations if id(operation) not in due]

    def operate(self, node: Node, *entries: tuple[DirectoryNode, str, Node | None]) -> None:
        """Change names, durable later."""
        for directory, name, value in entries:
            put_name(directory.names, name, value)
        self.operations.append(_Operation(list(entries), node))

    def _make_durable(self, operation: _Operation) -> None:
        for directory, name, node in operation.entries:
            put_name(directory.durable, name, node)
            if isinstance(node, FileNode):
                node.is_named = True
                self.durable_tokens |= node.tokens
                node.tokens.clear()

    def _settle(self, directory: DirectoryNode) -> None:
        directory.names = dict(directory.durable)
        for node in directory.names.values():
            if isinstance(node, DirectoryNode):
                self._settle(node)
                continue
            apply_sectors(node, self.random, self.random.choice((0.0, 0.5, 1.0)))
            node.pending.clear()
            node.content = bytearray(node.durable)


class SimFile:
    """One open file of one process; fulfils `storage.files.File`."""

    def __init__(self, process: Process, disk: SimDisk, node: FileNode) -> None:
        self._process = process
        self.disk = disk
        self._node = node

    def read_at(self, position: int, size: int) -> bytes:
        self._process.touch("read")
        return bytes(self._node.content[position : position + size])

    def write_at(self, position: int, data: bytes) -> None:
        self._process.touch("write")
        self.disk.grow(position + len(data) - len(self._node.content))
        if self._process.crash_after_touches == 1 and len(data) > SECTOR_BYTES:
            # The next touch kills the process: a large write may stop in the middle as well.
            data = data[: SECTOR_BYTES * self.disk.random.randrange(1 + len(data) // SECTOR_BYTES)]
        write_bytes(self._node.content, position, data)
        self._node.pending.append((position, bytes(data)))
        if self._process.crash_after_touches == 1:
            self._process.touch("written")

    def sync(self) -> None:
        self._process.touch("sync")
        self.disk.sync(self._node)
        self._process.world.note(self._process.name, "synced", self.disk.sync_count)
        self._process.touch("synced")

    def truncate(self, size: int) -> None:
        self._process.touch("truncate")
        self.disk.grow(size - len(self._node.content))
        write_bytes(self._node.content, size, None)
        self._node.pending.append((size, None))

    def size(self) -> int:
        self._process.touch("size")
        return len(self._node.content)

    def close(self) -> None:
        """Closing promises nothing."""


class SimFileSystem:
    """One process's files on its machine's disk."""

    def __init__(self, process: Process, disk: SimDisk) -> None:
        self._process = process
        self.disk = disk

    def list_directory(self, path: str) -> list[str]:
        self._process.touch("list")
        node = self._find(path)
        return sorted(node.names) if isinstance(node, DirectoryNode) else []

    def make_directory(self, path: str) -> None:
        self._process.touch("make directory")
        directory = self.disk.root
        for name in path_parts(path):
            node = directory.names.get(name)
            if node is None:
                node = DirectoryNode()
                self.disk.operate(node, (directory, name, node))
                self.disk.sync_directory(directory)
            if not isinstance(node, DirectoryNode):
                raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", path)
            directory = node

    def exists(self, path: str) -> bool:
        self._process.touch("exists")
        return self._find(path) is not None

    def open_file(self, path: str, *, create: bool = False) -> SimFile:
        self._process.touch("open")
        directory, name = self._parent(path)
        node = directory.names.get(name)
        if node is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            node = FileNode()
            self.disk.operate(node, (directory, name, node))
        if not isinstance(node, FileNode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        return SimFile(self._process, self.disk, node)

    def read_file(self, path: str) -> bytes | None:
        self._process.touch("read file")
        node = self._find(path)
        return bytes(node.content) if isinstance(node, FileNode) else None

    def replace_file(self, path: str, data: bytes) -> None:
        self._process.touch("replace file")
        self.disk.grow(len(data))
        directory, name = self._parent(path)
        node = FileNode()
        node.content, node.durable = bytearray(data), bytearray(data)
        node.last_synced = [(0, len(data))]
        self.disk.operate(node, (directory, name, node))
        self._process.touch("replaced, not synced")
        if self.disk.failing_syncs:
            self.disk.failing_syncs -= 1
            raise OSError(errno.EIO, "simulated input/output error")
        self.disk.sync_directory(directory)
        self._process.touch("replaced")

    def rename(self, source: str, target: str) -> None:
        self._process.touch("rename")
        old_directory, old_name = self._parent(source)
        new_directory, new_name = self._parent(target)
        node = old_directory.names.get(old_name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", source)
        taken = new_directory.names.get(new_name)
        if isinstance(taken, DirectoryNode) and (taken.names or taken.store is not None):
            raise OSError(errno.ENOTEMPTY, "directory not empty", target)
        self.disk.operate(node, (old_directory, old_name, None), (new_directory, new_name, node))

    def remove_file(self, path: str) -> None:
        self._process.touch("remove")
        directory, name = self._parent(path)
        node = directory.names.get(name)
        if node is None:
            return
        if not isinstance(node, FileNode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        self.disk.used_bytes -= len(node.content)
        self.disk.operate(node, (directory, name, None))

    def remove_tree(self, path: str) -> None:
        self._process.touch("remove tree")
        node = self._find(path)
        if node is None:
            return
        directory, name = self._parent(path)
        self.disk.used_bytes -= used_bytes(node)
        self.disk.operate(node, (directory, name, None))

    def sync_directory(self, path: str) -> None:
        self._process.touch("sync directory")
        node = self._find(path)
        if not isinstance(node, DirectoryNode):
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        if self.disk.failing_syncs:
            self.disk.failing_syncs -= 1
            raise OSError(errno.EIO, "simulated input/output error")
        self.disk.sync_directory(node)
        self._process.touch("synced directory")

    def directory(self, path: str) -> DirectoryNode:
        """The directory node, made when missing: where a store lives."""
        self.make_directory(path)
        node = self._find(path)
        assert isinstance(node, DirectoryNode)
        return node

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.disk.root
        for name in path_parts(path):
            node = node.names.get(name) if isinstance(node, DirectoryNode) else None
        return node

    def _parent(self, path: str) -> tuple[DirectoryNode, str]:
        *parents, name = path_parts(path)
        node = self._find("/".join(parents))
        if not isinstance(node, DirectoryNode):
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        return node, name
