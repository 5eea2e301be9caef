"""PySyncObj, held at arm's length: the algorithm runs here and nothing else of the library does.

What lives here: the subclass that takes the library's journal, poller, serializer, apply loop and transport away,
and named access to the private fields that the shell needs.
Rules: every private name is in PRIVATE_NAMES, with a contract test that fails when a release moves one. The library
never campaigns, applies, compacts or loads a snapshot by itself. Nothing is applied beyond the synced log (P2).
Must not know: sockets, disks, commands.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconq_cluster.raft.journal import Journal

NO_OP = b"\x01"
"""The library's no-op entry, appended by each new leader."""
APPEND_BYTES_MAX = 16 * 1024 * 1024
"""Larger entries are split with an off-by-one (RAFT.md L4); commands stay below 4 MiB."""
NEVER_S = 1e8
"""Elections are ours: the library's own timer must not fire (RAFT.md L2)."""

PRIVATE_NAMES = (
    "_SyncObj__applyLogEntries",
    "_SyncObj__connectedNodes",
    "_SyncObj__lastResponseTime",
    "_SyncObj__noopIDx",
    "_SyncObj__onMessageReceived",
    "_SyncObj__onNodeConnected",
    "_SyncObj__onNodeDisconnected",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__serializer",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
    "_SyncObj__tryLogCompaction",
    "_SyncObj__votedForNodeId",
)
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
Message = dict[str, Any]


class Member(Node):
    """A member by name, with a hash that is the same in every process: the library iterates over sets of them."""

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


class _NoPoller:
    def poll(self, timeout: float) -> None:
        """Sockets are not the library's."""


class _SnapshotTrigger:
    """Answers "send a snapshot" with a marker that the shell turns into an offer (RAFT.md L3)."""

    def getTransmissionData(self, _node: Node) -> tuple[bytes, bool, bool]:  # noqa: N802  # the library's name
        return b"", True, False

    def cancelTransmisstion(self, node: Node) -> None:  # noqa: N802  # the library's name
        """No transfer of the library's runs."""


class _Outlet(Transport):
    """Hands every message of the library to the shell."""

    def __init__(self, send: Callable[[str, Message], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    @property
    def ready(self) -> bool:
        return True

    def send(self, node: Node, message: Message) -> None:
        self._send(node.id, message)


class RaftLibrary(SyncObj):
    """The Raft algorithm over our journal; driven by calls, with all output through two callables."""

    def __init__(
        self,
        *,
        node_id: str,
        others: list[str],
        journal: Journal,
        applied_index: int,
        heartbeat_ms: int,
        fallback_ms: int,
        send: Callable[[str, Message], None],
        apply_committed: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._apply_committed = apply_committed
        self._members = {name: Member(name) for name in others}
        conf = SyncObjConf(
            autoTick=False,
            dynamicMembershipChange=False,
            raftMinTimeout=NEVER_S,
            raftMaxTimeout=NEVER_S * 10,
            connectionTimeout=NEVER_S * 10,
            appendEntriesPeriod=heartbeat_ms / 1000,
            leaderFallbackTimeout=fallback_ms / 1000,
            appendEntriesBatchSizeBytes=APPEND_BYTES_MAX,
            commandsWaitLeader=False,
        )
        with _replaced_parts(journal):
            super().__init__(
                Member(node_id), [self._members[name] for name in sorted(others)], conf, transport=_Outlet(send)
            )
        self._SyncObj__serializer = _SnapshotTrigger()
        self._SyncObj__raftLastApplied = applied_index
        self._SyncObj__raftCommitIndex = min(applied_index, journal.last_index)

    # What the library would do by itself, taken away.

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802  # replaces the library's loop (RAFT.md S14, S15)
        self.commit_index = min(self.commit_index, self._journal.synced_index)
        self._apply_committed()
        return False

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802  # the journal is cut by the replica (RAFT.md S4 to S6)
        return

    # Driving it.

    def tick(self) -> None:
        """Let the library campaign if told so, count commits, fall back, apply and send heartbeats."""
        self.doTick(0)

    def deliver(self, peer: str, message: Message) -> None:
        """Hand a message of the library's kinds to it, already guarded."""
        self._SyncObj__onMessageReceived(self._members[peer], message)

    def connect(self, peer: str) -> None:
        """Let the library send log entries to the peer."""
        self._SyncObj__onNodeConnected(self._members[peer])

    def disconnect(self, peer: str) -> None:
        """Make the library leave the peer alone."""
        self._SyncObj__onNodeDisconnected(self._members[peer])

    def is_peer_connected(self, peer: str) -> bool:
        """Whether the library sends to the peer."""
        return self._members[peer] in self._SyncObj__connectedNodes

    def send_entries(self) -> None:
        """Send what is new in log or commit index to every connected peer."""
        self._SyncObj__sendAppendEntries()

    def campaign(self) -> None:
        """Become a candidate at the next tick."""
        self._SyncObj__raftElectionDeadline = 0

    def step_down(self) -> None:
        """Follow nobody until a leader is heard."""
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def adopt_term(self, term: int) -> None:
        """Move to a higher term without a vote, as a follower of nobody."""
        self._SyncObj__setCurrentTerm(term, None)
        self.step_down()

    def follow(self, leader: str) -> None:
        """Believe in a leader of the present term that was heard outside the log's messages."""
        self.__dict__["_SyncObj__raftLeader"] = self._members[leader]
        self._SyncObj__setState(FOLLOWER)

    def restart_at(self, index: int) -> None:
        """Go on from a snapshot that has applied `index`, which the journal starts at or holds."""
        self._SyncObj__raftLastApplied = index
        self.commit_index = max(self.commit_index, index)

    # Its state, by name.

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def voted_for(self) -> str | None:
        vote = self._SyncObj__votedForNodeId
        return None if vote is None else str(vote)

    @property
    def leads(self) -> bool:
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def is_candidate(self) -> bool:
        return bool(self._SyncObj__raftState == CANDIDATE)

    @property
    def leader(self) -> str | None:
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def no_op_index(self) -> int:
        """Index of the no-op of the last term that this node led; 0 before."""
        return int(self._SyncObj__noopIDx or 0)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @commit_index.setter
    def commit_index(self, index: int) -> None:
        self._SyncObj__raftCommitIndex = index

    @property
    def last_applied(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @last_applied.setter
    def last_applied(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index

    def next_index(self, peer: str) -> int:
        """The next entry that would be sent to the peer."""
        return int(self._SyncObj__raftNextIndex.get(self._members[peer], 0))

    def set_next_index(self, peer: str, index: int) -> None:
        """Send from `index` on."""
        self._SyncObj__raftNextIndex[self._members[peer]] = index

    def match_index(self, peer: str) -> int:
        """The last entry that the peer is known to hold and that counts for commits."""
        return int(self._SyncObj__raftMatchIndex.get(self._members[peer], 0))

    def forget_match(self, peer: str) -> None:
        """Nothing that the peer holds counts, nor does its being alive."""
        self._SyncObj__raftMatchIndex[self._members[peer]] = 0
        self._SyncObj__lastResponseTime[self._members[peer]] = -NEVER_S

    def mark_alive(self, peer: str) -> None:
        """The peer answered just now: it counts for the leader's quorum."""
        self._SyncObj__lastResponseTime[self._members[peer]] = pysyncobj.syncobj.monotonicTime()


@contextmanager
def _replaced_parts(journal: Journal) -> Iterator[None]:
    """The library's factories give our parts, during construction only."""
    module = pysyncobj.syncobj
    saved = module.createJournal, module.createPoller
    module.createJournal = lambda _file: journal
    module.createPoller = lambda _kind: _NoPoller()
    try:
        yield
    finally:
        module.createJournal, module.createPoller = saved
