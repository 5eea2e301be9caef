"""The machine on its store: what a node has applied.

What lives here: applying entries, flushing the store so that the journal may be cut, and swapping in a snapshot.
Rules: one write batch an entry carries all its changes and the applied index, so a replay skips what is there (P1).
The journal is cut only behind an index that a finished flush covers. A snapshot becomes the store by replacing one
small file. Nothing here decides about terms or votes.
Must not know: PySyncObj, frames, HTTP.
"""

from __future__ import annotations

import collections
from collections.abc import Callable

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import Applied, Machine
from falconq_cluster.storage.files import FileSystem
from falconq_cluster.storage.store import Store

DIGESTS_KEPT = 8192
"""How many recent rolling hashes can be compared with other nodes (P18)."""
POINTER = "CURRENT"


class Replica:
    """Applied state: a machine in memory over a store in a directory."""

    def __init__(
        self, *, files: FileSystem, directory: str, open_store: Callable[[str], Store], limits: MachineLimits
    ) -> None:
        self._files = files
        self._directory = directory
        self._open_store = open_store
        self._limits = limits
        files.make_directory(directory)
        # The process before may have ended because this sync failed: what it renamed is seen, and not durable. A
        # journal that is aligned with a store that a power loss takes back has a hole.
        files.sync_directory(directory)
        self._generation = self._read_pointer()
        self._remove_leftovers()
        # LevelDB makes its directory without syncing its name; a power loss would take the whole store.
        files.make_directory(self._path(self._generation))
        self.store = open_store(self._path(self._generation))
        self.machine = Machine.load(self.store, limits)
        self.flushed_index = self.machine.applied_index
        """Everything up to here survives a power loss."""
        self._digests: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._remember_digest()

    def apply(self, index: int, term: int, entry: bytes) -> Applied:
        """Apply one committed entry and write what it changed."""
        applied = self.machine.apply(index, term, entry)
        self.store.write(applied.changes)
        self._remember_digest()
        return applied

    def digest_at(self, index: int) -> bytes | None:
        """The rolling hash when `index` was the last one applied, while it is remembered."""
        return self._digests.get(index)

    def flush_job(self) -> tuple[int, Callable[[], None]]:
        """(index, blocking work): once the work is done, all up to the index is durable; see `flushed`."""
        return self.machine.applied_index, self.store.flush

    def flushed(self, index: int) -> None:
        """A flush that began at this applied index has finished."""
        self.flushed_index = max(self.flushed_index, index)

    # Snapshots.

    def incoming_store(self) -> tuple[str, Store]:
        """A fresh store beside the present one, and its path."""
        path = self._path(self._generation + 1)
        self._files.remove_tree(path)
        self._files.make_directory(path)
        return path, self._open_store(path)

    def switch_job(self) -> Callable[[], None]:
        """Blocking work that makes the incoming store the one that a start would open."""
        name = str(self._generation + 1).encode()
        return lambda: self._files.replace_file(f"{self._directory}/{POINTER}", name)

    def switched(self, store: Store) -> Callable[[], None]:
        """Use the incoming store from now on; returns blocking work that removes the old one."""
        old_store, old_path = self.store, self._path(self._generation)
        self._generation += 1
        self.store = store
        self.machine = Machine.load(store, self._limits)
        self.flushed_index = self.machine.applied_index
        self._digests.clear()
        self._remember_digest()

        def remove_old() -> None:
            old_store.close()
            self._files.remove_tree(old_path)

        return remove_old

    def close(self) -> None:
        """Flush and close the store."""
        self.store.close()

    def _remember_digest(self) -> None:
        self._digests[self.machine.applied_index] = self.machine.digest
        if len(self._digests) > DIGESTS_KEPT:
            self._digests.popitem(last=False)

    def _path(self, generation: int) -> str:
        return f"{self._directory}/{generation}"

    def _read_pointer(self) -> int:
        data = self._files.read_file(f"{self._directory}/{POINTER}")
        if data is None:
            return 0
        if not data.isdigit():
            message = (
                f"{self._directory}/{POINTER} names no store ({data[:20]!r}); restore it or wipe the data directory"
            )
            raise CorruptionError(message)
        return int(data)

    def _remove_leftovers(self) -> None:
        """Directories of other generations are unfinished snapshots or old stores."""
        for name in self._files.list_directory(self._directory):
            if name.isdigit() and int(name) != self._generation:
                self._files.remove_tree(f"{self._directory}/{name}")
