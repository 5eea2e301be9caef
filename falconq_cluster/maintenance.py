"""Work on the data of a stopped node, with the real disk.

What lives here: the lock, the file system and the store around `raft.offline` and `raft.backup`.
Rules: nothing is read before the data directory is ours, so a running node is never disturbed.
Must not know: prompts, what the work means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from falconq_cluster.errors import ConfigurationError
from falconq_cluster.raft import backup, offline
from falconq_cluster.raft.backup import Checked, Source
from falconq_cluster.raft.identity import read_identity
from falconq_cluster.storage.files import RealFileSystem
from falconq_cluster.storage.leveldb import LevelStore
from falconq_cluster.storage.lock import DirectoryLock


@dataclass(frozen=True, slots=True)
class StoppedNode:
    """A node that this process has to itself."""

    node_id: str
    data_dir: str

    def reconfigure(self, members: tuple[str, ...]) -> offline.OfflineReport:
        """Adds members. Raises: ConfigurationError, CorruptionError."""
        return offline.reconfigure(RealFileSystem(), self.data_dir, LevelStore.open, members=members)

    def recover(self, new_cluster_id: str) -> offline.OfflineReport:
        """Makes the data the start of a new cluster. Raises: ConfigurationError, CorruptionError."""
        return offline.recover(RealFileSystem(), self.data_dir, LevelStore.open, new_cluster_id=new_cluster_id)


def restore_backup(source: Path, data_dir: Path) -> Checked:
    """Makes the backup the data of a node that never ran. Raises: ConfigurationError, CorruptionError."""
    RealFileSystem().make_directory(str(data_dir))
    with DirectoryLock(data_dir), source.open("rb") as opened:

        def again() -> Source:
            opened.seek(0)
            return opened

        return backup.restore(RealFileSystem(), str(data_dir), LevelStore.open, again)


def check_backup(source: Path) -> Checked:
    """What the backup is of, all of it read. Raises: CorruptionError."""
    with source.open("rb") as opened:
        return backup.check_backup(opened)


@contextmanager
def stopped_node(data_dir: Path) -> Iterator[StoppedNode]:
    """The node whose data is there. Raises: ConfigurationError when there is none or it runs, CorruptionError."""
    if not data_dir.is_dir():
        raise ConfigurationError(f"{data_dir} is not a directory: name the --data-dir of a stopped node")
    with DirectoryLock(data_dir):
        identity = read_identity(RealFileSystem(), str(data_dir))
        if identity is None:
            raise ConfigurationError(f"{data_dir} holds no node: name the --data-dir of a stopped node")
        yield StoppedNode(identity.node_id, str(data_dir))
