"""Whose votes and acknowledgements count.

What lives here: disk identity (PROTOCOL.md P4) and forming (P5).
Rules: once a cluster has formed, a member counts only with the disk that is on record; while it forms, members vote
only when all of them are heard, all are forming, and all bring the same data (or one brings recovered data and the
others none, which then must win). A forming candidate needs every member's pre-vote, so that no log is shorter than
another member's when it wins: a member that holds entries which it has not applied yet still says that it is forming.
Must not know: frames' transport, PySyncObj, the machine's keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from falconq_cluster.raft.frames import Hello, Status

FRESH_MS = 1000
"""While forming, a member's word is good for this long: it repeats it every FORMING_STATUS_MS."""
FORMING_STATUS_MS = 250


@dataclass(frozen=True, slots=True)
class Record:
    """What an applied entry says about the members."""

    cluster_id: str
    """Empty while forming."""
    members: Mapping[str, str]
    """member -> disk id, "" for a vacancy."""
    index: int


@dataclass(frozen=True, slots=True)
class _Peer:
    disk_id: str
    record: Record
    is_forming: bool
    restore_id: str
    heard_ms: int
    wall_ms: int
    heard_all: bool


class Membership:
    """This node's knowledge of who counts; reads the machine's record through a callable."""

    def __init__(
        self,
        *,
        node_id: str,
        members: tuple[str, ...],
        disk_id: str,
        restore_id: Callable[[], str],
        own_record: Callable[[], Record],
        now_ms: Callable[[], int],
        http_address: str = "",
    ) -> None:
        self._http_addresses = {node_id: http_address}
        self.node_id = node_id
        self.members = members
        self.disk_id = disk_id
        self._restore_id = restore_id
        self._own_record = own_record
        self._now_ms = now_ms
        self._peers: dict[str, _Peer] = {}
        self._proposed: Mapping[str, str] | None = None

    # What peers say.

    def heard_hello(self, peer: str, hello: Hello) -> None:
        """A connection to the peer began."""
        self._http_addresses[peer] = hello.http_address
        self._heard(peer, hello.disk_id, hello, heard_all=False)

    def heard_status(self, peer: str, status: Status) -> None:
        """The peer repeated or changed its word."""
        known = self._peers.get(peer)
        if known is not None:
            self._heard(peer, known.disk_id, status, heard_all=status.heard_all)

    def _heard(self, peer: str, disk_id: str, word: Hello | Status, *, heard_all: bool) -> None:
        self._peers[peer] = _Peer(
            disk_id=disk_id,
            record=Record(word.cluster_id, word.members, word.record_index),
            is_forming=word.forming,
            restore_id=word.restore_id,
            heard_ms=self._now_ms(),
            wall_ms=word.wall_ms,
            heard_all=heard_all,
        )

    def lost(self, peer: str) -> None:
        """The connection to the peer is gone, and its word with it."""
        self._peers.pop(peer, None)

    def judge(self, hello: Hello) -> str | None:
        """Why this peer may not connect, or None."""
        own = self._own_record().cluster_id or self._restore_id()
        theirs = hello.cluster_id or hello.restore_id
        if hello.node not in self.members or hello.node == self.node_id:
            return f"{hello.node!r} is not another member of {', '.join(self.members)}"
        if own and theirs and own != theirs:
            return (
                f"{hello.node} belongs to cluster {theirs}, this node to {own}: "
                f"one of them has the data of another cluster; wipe its data directory if that data is not wanted"
            )
        return None

    # The record that counts.

    def record(self) -> Record:
        """The newest record that this node has applied or heard of; of an unformed cluster when there is none."""
        newest = self._own_record()
        for name in sorted(self._peers):
            record = self._peers[name].record
            if record.cluster_id and (not newest.cluster_id or record.index > newest.index):
                newest = record
        return newest

    @property
    def is_forming(self) -> bool:
        """Whether this node itself has not applied `formed`."""
        return not self._own_record().cluster_id

    def proposes(self, members: Mapping[str, str]) -> None:
        """This leader proposed to form with these disks: until it is applied, only they count."""
        self._proposed = members

    def leadership_ended(self) -> None:
        """What this node proposed as a leader no longer guides it."""
        self._proposed = None

    def disk_of(self, peer: str) -> str:
        """The disk id that the peer is connected with, "" when it is not."""
        known = self._peers.get(peer)
        return "" if known is None else known.disk_id

    def counts(self, peer: str) -> bool:
        """Whether the peer's votes and acknowledgements count now."""
        disk_id = self.disk_of(peer)
        record = self.record()
        if not disk_id:
            return False
        if record.cluster_id:
            return record.members.get(peer) == disk_id
        if self._proposed is not None:
            return self._proposed.get(peer) == disk_id
        return self._peers[peer].is_forming

    def self_counts(self) -> bool:
        """Whether this node's own votes and acknowledgements count: a learner's do not."""
        record = self.record()
        return not record.cluster_id or record.members.get(self.node_id) == self.disk_id

    def heard_all_forming(self) -> bool:
        """Whether every other member is connected, lately said that it is forming, and its data can meet ours."""
        now = self._now_ms()
        for name in self._others():
            peer = self._peers.get(name)
            if peer is None or not peer.is_forming or now - peer.heard_ms > FRESH_MS:
                return False
        return len({value for value in self._restore_ids().values() if value}) <= 1

    def may_campaign(self) -> bool:
        """Whether this node may ask for votes at all."""
        if self.record().cluster_id:
            return self.self_counts()
        return self.heard_all_forming() and self._brings_the_data(self.node_id)

    def may_vote_for(self, peer: str) -> bool:
        """Whether this node may grant the peer a vote, as far as disks and forming go."""
        if self.record().cluster_id:
            return self.self_counts() and self.counts(peer)
        return self.heard_all_forming() and self._brings_the_data(peer)

    def grants_needed(self) -> int:
        """How many members, itself included, must grant a pre-vote: all while forming, else a majority."""
        count = len(self.members)
        return count // 2 + 1 if self.record().cluster_id else count

    def disks_to_form_with(self) -> dict[str, str]:
        """Disk ids of all members by name, members as they are heard now; "" for one that is away."""
        return {name: self.disk_id if name == self.node_id else self.disk_of(name) for name in self.members}

    def restore_id_to_form_with(self) -> str:
        """The id of the recovered data that a member brings, "" when none does; it becomes the cluster's id."""
        return max(self._restore_ids().values())

    def learners(self) -> list[str]:
        """Connected members whose disk is not on record."""
        return [name for name in self._others() if self.disk_of(name) and not self.counts(name)]

    def walls_ms(self) -> list[int]:
        """Wall clocks of the connected members now, as they said and time has passed since."""
        now = self._now_ms()
        return [peer.wall_ms + now - peer.heard_ms for _, peer in sorted(self._peers.items())]

    def status(self, wall_ms: int) -> Status:
        """This node's own word."""
        own = self._own_record()
        return Status(
            cluster_id=own.cluster_id,
            forming=self.is_forming,
            restore_id=self._restore_id(),
            members=dict(own.members),
            record_index=own.index,
            wall_ms=wall_ms,
            heard_all=self.heard_all_forming(),
        )

    def hello(self, wall_ms: int) -> Hello:
        """What this node says at the start of a connection."""
        own = self._own_record()
        return Hello(
            node=self.node_id,
            cluster_id=own.cluster_id,
            disk_id=self.disk_id,
            forming=self.is_forming,
            restore_id=self._restore_id(),
            members=dict(own.members),
            record_index=own.index,
            wall_ms=wall_ms,
            http_address=self._http_addresses[self.node_id],
        )

    def http_address_of(self, member: str) -> str:
        """Where the member serves clients as it last said, "" when it was never heard."""
        return self._http_addresses.get(member, "")

    def explain(self) -> list[str]:
        """Why this node can't serve yet as far as membership goes, each with what to do; empty when it can."""
        record = self.record()
        missing = [name for name in self._others() if name not in self._peers]
        if not record.cluster_id:
            if missing:
                return [f"the cluster is forming and has not heard {', '.join(missing)}: start them"]
            if not self.heard_all_forming():
                return ["the cluster is forming: members bring different recovered data; wipe all but one of them"]
            return ["the cluster is forming: a first leader is being elected"]
        if self.self_counts():
            return self._explain_quorum(record)
        counted = [name for name in self._others() if self.counts(name)]
        needed = len(self.members) // 2 + 1
        text = f"the disk of {self.node_id} is not on record: it counts again once {needed} other members confirm it"
        if len(counted) < needed:
            text += f" (connected with a disk on record: {', '.join(counted) or 'none'}; {self._way_out()})"
        return [text]

    def _explain_quorum(self, record: Record) -> list[str]:
        counted = 1 + sum(1 for name in self._others() if self.counts(name))
        needed = len(self.members) // 2 + 1
        if counted >= needed:
            # What was only heard may be lost with who said it: ready is who has applied it.
            is_own = self._own_record().members.get(self.node_id) == self.disk_id
            return [] if is_own else ["this node has not applied the record of the members yet: catching up"]
        strangers = [name for name in self.learners() if record.members.get(name)]
        text = f"only {counted} of {len(self.members)} members are connected with a disk on record, {needed} are needed"
        if strangers:
            text += f"; {', '.join(strangers)} came back with another disk: {self._way_out()}"
        return [text]

    @staticmethod
    def _way_out() -> str:
        return (
            "bring back a member with its data, or stop all and run "
            "'falconq node recover --sole-survivor' on the one that has it"
        )

    def _others(self) -> list[str]:
        return [name for name in self.members if name != self.node_id]

    def _restore_ids(self) -> dict[str, str]:
        ids = {name: self._peers[name].restore_id for name in self._others() if name in self._peers}
        ids[self.node_id] = self._restore_id()
        return ids

    def _brings_the_data(self, member: str) -> bool:
        """Whether the member has what one of them has to bring: recovered data must win over empty disks."""
        ids = self._restore_ids()
        return bool(ids.get(member)) or not any(ids.values())
