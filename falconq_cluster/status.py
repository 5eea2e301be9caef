"""What a node says about itself to probes and people.

What lives here: the body of /v1/cluster and the answers of the probes, read from the node.
Rules: everything is as this node sees it, at once, also without a leader; what only a leader knows is null elsewhere.
A wish for another leader ends in a bounded time.
Must not know: HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator

from falconq_cluster.errors import FalconQError
from falconq_cluster.node import Node
from falconq_cluster.raft.backup import write_backup
from falconq_cluster.raft.view import NodeView


class NodeReport:
    """Reads a node; fulfils `gateway.seams.NodeStatus`."""

    def __init__(self, node: Node, raft_addresses: dict[str, str]) -> None:
        self._node = node
        self._raft_addresses = raft_addresses

    @property
    def _raft(self) -> NodeView:
        return self._node.raft

    @property
    def node_id(self) -> str:
        return self._raft.node_id

    @property
    def leader(self) -> str | None:
        return self._raft.leader

    @property
    def applied_index(self) -> int:
        return self._raft.applied_index

    def status(self) -> dict[str, object]:
        """The body of /v1/cluster."""
        raft = self._raft
        return {
            "clusterID": self._node.machine.cluster_id or None,
            "node": raft.node_id,
            "state": raft.state(),
            "leader": raft.leader,
            "term": raft.term,
            "commitIndex": raft.commit_index,
            "appliedIndex": raft.applied_index,
            "nodes": [self._member(name) for name in raft.members],
        }

    def _member(self, name: str) -> dict[str, object]:
        raft = self._raft
        is_self = name == raft.node_id
        match_index = raft.match_index(name)
        state = raft.state() if is_self else raft.state_of(name)
        return {
            "id": name,
            "raftAddress": self._raft_addresses.get(name),
            "httpAddress": raft.http_address(name) or None,
            "state": state,
            "connected": raft.is_connected(name),
            "matchIndex": match_index,
            "lagMs": raft.lag_ms(name),
        }

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the node serves, and if not, why."""
        reasons = self._raft.readiness()
        return not reasons, reasons

    async def move_leader(self, to: str) -> bool:
        """Let the member lead; whether it does. Raises: FalconQError (bad_request) for a stranger."""
        members = self._raft.members
        if to not in members:
            known = ", ".join(members)
            raise FalconQError("bad_request", f"{to[:200]!r} is no member: use {known}", details={"field": "to"})
        moved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._raft.move_leadership(to, lambda leads: None if moved.done() else moved.set_result(leads))
        return await moved

    def backup(self) -> tuple[int, Generator[bytes]]:
        """(log index, parts) of a backup of all that this node shows now, to be closed in the end.

        Raises: FalconQError (not_ready) while the node holds no whole state.
        """
        reasons = self._raft.readiness()
        if reasons:
            raise FalconQError("not_ready", f"this node can't write a backup: {'; '.join(reasons)}; ask another one")
        parts = write_backup(self._node.store.snapshot(), node=self.node_id, cluster_id=self._node.machine.cluster_id)
        return self._raft.applied_index, parts

    def needed(self) -> list[str]:
        """Why the cluster can't do without this node: fewer than a majority of its members would be left."""
        raft = self._raft
        others = [name for name in raft.members if name != raft.node_id]
        serving = [name for name in others if raft.state_of(name) in ("leader", "follower")]
        wanted = (len(others) + 1) // 2 + 1
        if len(serving) >= wanted:
            return []
        if not others:
            return ["this node is the only member"]
        missing = ", ".join(name for name in others if name not in serving) or "nobody"
        left = f"without this node {len(serving)} of {len(others) + 1} members would serve and {wanted} are needed"
        return [f"{left}; not serving as this node sees it: {missing}"]

    def live(self) -> bool:
        """Whether the process works: it answers, and consensus has not stopped."""
        return self._raft.state() != "stopped"
