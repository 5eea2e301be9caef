"""The file seam: the few file operations that durable code needs, with their durability said.

What lives here: the protocol, and the real file system.
Rules: nothing is durable before `File.sync` (its bytes) or `sync_directory` (its name) returned; `replace_file`
is durable and atomic when it returns.
Must not know: formats.
"""

from __future__ import annotations

import os
import shutil
from typing import Protocol


class File(Protocol):
    """One open file, addressed by position."""

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from `position`; fewer at the end of the file."""

    def write_at(self, position: int, data: bytes) -> None:
        """Write all of `data`, in the page cache only. Raises: OSError (ENOSPC, EIO)."""

    def sync(self) -> None:
        """fdatasync: what was written, and the size, is on disk. Raises: OSError."""

    def truncate(self, size: int) -> None:
        """Cut or extend to `size`, not durable before `sync`."""

    def size(self) -> int:
        """Bytes in the file."""

    def close(self) -> None:
        """Release it, without a sync; idempotent."""


class FileSystem(Protocol):
    """Files by path; every method may raise OSError."""

    def list_directory(self, path: str) -> list[str]:
        """Names in the directory, sorted; empty when it does not exist."""

    def make_directory(self, path: str) -> None:
        """Create it and its missing parents, durably by name when it returns; harmless when there."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory has this path."""

    def open_file(self, path: str, *, create: bool = False) -> File:
        """Open for reading and writing; with `create`, make an empty file when there is none."""

    def read_file(self, path: str) -> bytes | None:
        """All bytes, or None when there is no such file."""

    def replace_file(self, path: str, data: bytes) -> None:
        """Atomically and durably give the path this content (temporary file, fsync, rename, fsync directory)."""

    def rename(self, source: str, target: str) -> None:
        """Rename; durable after `sync_directory`."""

    def remove_file(self, path: str) -> None:
        """Remove; durable after `sync_directory`; harmless when absent."""

    def remove_tree(self, path: str) -> None:
        """Remove a directory with all it holds; harmless when absent."""

    def sync_directory(self, path: str) -> None:
        """Make names made, renamed or removed in this directory durable."""


class _RealFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_at(self, position: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, position)

    def write_at(self, position: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, position)
            view = view[written:]
            position += written

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RealFileSystem:
    """The machine's file system."""

    def list_directory(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def make_directory(self, path: str) -> None:
        missing: list[str] = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path) or "."
        for directory in reversed(missing):
            os.makedirs(directory, exist_ok=True)
            self.sync_directory(os.path.dirname(directory) or ".")

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def open_file(self, path: str, *, create: bool = False) -> File:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return _RealFile(os.open(path, flags, 0o600))

    def read_file(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def replace_file(self, path: str, data: bytes) -> None:
        temporary = f"{path}.tmp"
        file = self.open_file(temporary, create=True)
        try:
            file.truncate(0)
            file.write_at(0, data)
            file.sync()
        finally:
            file.close()
        os.rename(temporary, path)
        self.sync_directory(os.path.dirname(path) or ".")

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def remove_file(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    def remove_tree(self, path: str) -> None:
        if os.path.exists(path):
            shutil.rmtree(path)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
