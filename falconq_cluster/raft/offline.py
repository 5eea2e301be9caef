"""Changing who the cluster is, on stopped nodes.

What lives here: `falconq node reconfigure` and `falconq node recover` (PROTOCOL.md P5).
Rules: the store must have been flushed by a clean stop or the journal is replayed first; a crash at any point leaves
either the old cluster or a command that can be run again. Entries from before the change are never sent to members
that join: a floor under the journal makes them pull a snapshot, since old entries name the old members.
Must not know: how a running node works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from falconq_cluster.errors import ConfigurationError
from falconq_cluster.machine import keys
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.rows import ClusterRow, encode_row
from falconq_cluster.raft.identity import FILE_NAME, Identity, read_identity
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.replica import Replica
from falconq_cluster.storage.files import FileSystem
from falconq_cluster.storage.store import Store

FLOOR_FILE = "floor"
"""Holds the index below which entries are not sent any more."""
RESTORE_FILE = "restore"
"""Holds the id of recovered data, which becomes the id of the next cluster that forms with it."""


@dataclass(frozen=True, slots=True)
class OfflineReport:
    """What was done, for people."""

    node_id: str
    applied_index: int
    last_index: int
    members: tuple[str, ...]
    cluster_id: str
    replayed_count: int
    """Entries that this node held but had not applied: they may or may not have been acknowledged, and are kept."""


@dataclass(frozen=True, slots=True)
class OfflineNode:
    """A stopped node's data, open."""

    files: FileSystem
    data_dir: str
    identity: Identity
    journal: Journal
    replica: Replica

    @classmethod
    def open(cls, files: FileSystem, data_dir: str, open_store: Callable[[str], Store]) -> OfflineNode:
        """Open the data of a stopped node. Raises: ConfigurationError when there is none, CorruptionError."""
        identity = read_identity(files, data_dir)
        if identity is None:
            message = f"{data_dir} holds no node (there is no {FILE_NAME} in it): name the --data-dir of a stopped node"
            raise ConfigurationError(message)
        journal = Journal.open(files, f"{data_dir}/journal", node_id=identity.node_id, disk_id=identity.disk_id)
        replica = Replica(files=files, directory=f"{data_dir}/store", open_store=open_store, limits=MachineLimits())
        return cls(files, data_dir, identity, journal, replica)

    def write_cluster(self, row: ClusterRow | None) -> None:
        """Durably replace the record of members; None makes the node forming."""
        self.replica.store.write([(keys.CLUSTER, None if row is None else encode_row(row))])
        self.replica.store.flush()

    def raise_floor(self) -> None:
        """Durably keep entries up to the applied one from being sent."""
        index = self.replica.machine.applied_index
        self.files.replace_file(f"{self.data_dir}/{FLOOR_FILE}", str(index).encode())

    def close(self) -> None:
        """Release the files."""
        self.replica.close()
        self.journal._destroy()  # PySyncObj's name for close


def reconfigure(
    files: FileSystem, data_dir: str, open_store: Callable[[str], Store], *, members: tuple[str, ...]
) -> OfflineReport:
    """Adds members to the record of a stopped node; run it on each old node, then start all with the new members.

    A new member counts once the others confirmed its disk. Raises: ConfigurationError, CorruptionError.
    """
    node = OfflineNode.open(files, data_dir, open_store)
    try:
        machine = node.replica.machine
        _check_growth(node, machine.cluster_id, machine.members, members)
        node.raise_floor()
        recorded = {name: machine.members.get(name, "") for name in sorted(members)}
        node.write_cluster(ClusterRow(machine.cluster_id, recorded, machine.record_index))
        return OfflineReport(
            node_id=node.identity.node_id,
            applied_index=machine.applied_index,
            last_index=node.journal.last_index,
            members=tuple(sorted(members)),
            cluster_id=machine.cluster_id,
            replayed_count=0,
        )
    finally:
        node.close()


def _check_growth(node: OfflineNode, cluster_id: str, recorded: dict[str, str], members: tuple[str, ...]) -> None:
    if not cluster_id:
        message = (
            f"{node.data_dir} has not stored its cluster yet: start the cluster once with its old members, "
            f"stop every node with SIGTERM, and try again"
        )
        raise ConfigurationError(message)
    missing = sorted(set(recorded) - set(members))
    if missing:
        message = (
            f"--members leaves out {', '.join(missing)}: members can be added, not removed, because what was "
            f"acknowledged may be on the removed ones only"
        )
        raise ConfigurationError(message)
    needed = len(members) // 2 + 1
    if len(recorded) < needed:
        message = (
            f"{len(recorded)} members can't grow to {len(members)} in one step: {needed} of the new cluster must hold "
            f"data from the start. From one node, run 'falconq node recover --sole-survivor' on it and start all"
        )
        raise ConfigurationError(message)


def recover(
    files: FileSystem, data_dir: str, open_store: Callable[[str], Store], *, new_cluster_id: str
) -> OfflineReport:
    """Makes this stopped node's data the start of a new cluster; the other members must be empty, or wiped.

    All that it holds is kept, applied or not; what only the lost nodes held is lost.
    Raises: ConfigurationError, CorruptionError.
    """
    node = OfflineNode.open(files, data_dir, open_store)
    try:
        machine = node.replica.machine
        first = machine.applied_index + 1
        for entry, index, term in node.journal.entries(first, node.journal.last_index):
            node.replica.apply(index, term, entry)
        node.replica.store.flush()
        if not machine.cluster_id and not node.files.exists(f"{data_dir}/{RESTORE_FILE}"):
            message = (
                f"{data_dir} holds no data of a formed cluster, so there is nothing to recover: just start the nodes"
            )
            raise ConfigurationError(message)
        members = tuple(sorted(machine.members))
        node.raise_floor()
        files.replace_file(f"{data_dir}/{RESTORE_FILE}", new_cluster_id.encode())
        node.write_cluster(None)
        return OfflineReport(
            node_id=node.identity.node_id,
            applied_index=machine.applied_index,
            last_index=node.journal.last_index,
            members=members,
            cluster_id=new_cluster_id,
            replayed_count=machine.applied_index - first + 1,
        )
    finally:
        node.close()
