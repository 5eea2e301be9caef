"""What a leader does beyond replicating: taking commands, time, members, keepalives, and watching for divergence.

What lives here: the leader's duties of PROTOCOL.md P4, P5, P7, P11, P17 and P18.
Rules: commands are taken only after the term's no-op is applied, in a formed cluster, while no difference between
replicas is undecided; a disk goes on record only when its node holds all that was committed a moment ago.
Must not know: the library's messages, clients.
"""

from __future__ import annotations

from falconq_cluster.machine.commands import Command, Form, SetDisk, encode_command, encode_entry
from falconq_cluster.raft.confirming import Confirming, Told
from falconq_cluster.raft.core import Core
from falconq_cluster.raft.divergence import DivergenceCheck, Verdict
from falconq_cluster.raft.frames import Diverged, Frame, HashQuery, Keepalive, KeepaliveReply
from falconq_cluster.raft.replication import Replication
from falconq_cluster.raft.seams import Upcalls


class Leading:
    """The leader's duties of one node; idle while another leads."""

    def __init__(self, core: Core, replication: Replication) -> None:
        self._core = core
        self._replication = replication
        self._divergence = DivergenceCheck(members_count=len(core.others) + 1, digest_at=core.replica.digest_at)
        membership = core.membership
        self.confirming = Confirming(others=core.others, counts=membership.counts, self_counts=membership.self_counts)
        self._proposed: set[tuple[str, str]] = set()
        self.is_active = False
        self.is_handing_over = False
        self.self_diverged_index = 0

    @property
    def may_take_commands(self) -> bool:
        """Whether this node leads, has applied its no-op, and nothing forbids new commands."""
        core = self._core
        library = core.library
        return (
            self.is_active
            and library.leads
            and library.last_applied >= library.no_op_index
            and bool(core.replica.machine.cluster_id)
            and not self._divergence.is_disputed
            and not self.is_handing_over
        )

    def began(self) -> None:
        """This node was elected."""
        core = self._core
        self.is_active = True
        self._proposed.clear()
        core.counters.elections_won += 1
        core.log("leader_elected", term=core.library.term, last_index=core.journal.last_index)
        core.log_time.begin_leading(
            last_stamp_ms=core.replica.machine.log_time_ms,
            walls_ms=[core.clock.wall_ms(), *core.membership.walls_ms()],
        )
        self._replication.leadership_began()
        self.beat()

    def ended(self) -> None:
        """Another node leads, or none."""
        core = self._core
        self.is_active = False
        self.is_handing_over = False
        self.confirming.end()
        core.membership.leadership_ended()
        core.log("leadership_lost", term=core.library.term)
        # The timer did not run meanwhile; it is ahead only when this node is to campaign soon.
        if core.election.deadline_ms <= core.clock.monotonic_ms():
            core.election.postpone()

    # Commands.

    def append_commands(self, upcalls: Upcalls | None) -> None:
        """Put what waits into the log."""
        core = self._core
        for command in self._own_commands():
            self._append(command)
        waiting = core.journal.last_index - core.library.commit_index
        if upcalls is None or not self.may_take_commands or waiting >= core.times.uncommitted_entries_max:
            return
        for command in upcalls.collect(core.times.step_bytes_max):
            self._append(command)

    def _append(self, command: bytes) -> None:
        core = self._core
        stamp_ms = max(core.log_time.lead_ms(), core.replica.machine.log_time_ms)
        core.journal.add(encode_entry(command, stamp_ms), core.journal.last_index + 1, core.library.term)
        core.counters.entries_appended += 1

    def _own_commands(self) -> list[bytes]:
        core = self._core
        library = core.library
        if library.last_applied < library.no_op_index:
            return []
        if not core.replica.machine.cluster_id:
            return self._form()
        operations: list[SetDisk] = []
        for peer in self._replication.caught_up_learners():
            key = (peer, core.membership.disk_of(peer))
            if key not in self._proposed:
                self._proposed.add(key)
                core.log("disk_proposed", peer=peer)
                operations.append(SetDisk(*key))
        return [_command(operation) for operation in operations]

    def _form(self) -> list[bytes]:
        core = self._core
        disks = core.membership.disks_to_form_with()
        if ("", "") in self._proposed or not all(disks.values()):
            return []
        self._proposed.add(("", ""))
        core.membership.proposes(disks)
        cluster_id = core.membership.restore_id_to_form_with() or f"{core.chance.getrandbits(64):016x}"
        core.log("cluster_forming", cluster_id=cluster_id)
        return [_command(Form(cluster_id, disks))]

    # Keepalives.

    def beat(self) -> None:
        """Say that this leader lives, unless its disk does not."""
        core = self._core
        if not core.library.leads or core.election.is_disk_stalled():
            return
        self._replication.note_lag()
        core.send_to_others(Keepalive(core.library.term, self.confirming.begin_round(), core.log_time.lead_ms()))
        self.confirming.settle()
        if self._divergence.is_disputed:
            core.send_to_others(HashQuery(self._divergence.disputed_index))

    def keepalive_reply_received(self, peer: str, frame: Frame) -> None:
        """A follower hears this leader."""
        core = self._core
        assert isinstance(frame, KeepaliveReply)  # by the handler table
        self._replication.peer_heard(peer)
        if core.library.leads and frame.term == core.library.term and core.membership.counts(peer):
            core.library.mark_alive(peer)
            self.confirming.answered(peer, frame.round)
            self.confirming.settle()
            self.begin_wanted_round()

    def ask_read_index(self, told: Told) -> None:
        """`told` gets the commit index of now once a quorum confirms this leader, None when it can't (P17)."""
        if self.may_take_commands:
            self.confirming.ask(self._core.library.commit_index, told)
        else:
            told(None)

    def begin_wanted_round(self) -> None:
        """Do not let those who ask wait for the next heartbeat; a round that is under way is ended first."""
        if self.confirming.wants_round:
            self.beat()

    # Handing over.

    def best_follower(self, only: str | None = None) -> str | None:
        """A connected member that counts and holds the whole log, if there is one; with `only`, no other than that."""
        core = self._core
        for peer in core.others if only is None else (only,):
            is_whole = core.library.match_index(peer) == core.journal.last_index
            if is_whole and core.membership.counts(peer) and core.network.is_connected(peer):
                return peer
        return None

    # Divergence.

    def check_digest(self, peer: str, *, index: int, digest: bytes) -> None:
        """Compare what a member wrote with what this node wrote."""
        core = self._core
        if not core.library.leads or not core.membership.counts(peer):
            return
        was_disputed = self._divergence.is_disputed
        verdict = self._divergence.reported(peer, index=index, digest=digest)
        if verdict is Verdict.AGREES or (verdict is Verdict.UNDECIDED and was_disputed):
            return
        disputed = self._divergence.disputed_index
        core.log("replicas_differ", peer=peer, index=disputed, verdict=verdict.value)
        if verdict is Verdict.PEER_DIVERGED:
            for name in self._divergence.diverged_peers():
                core.send(name, Diverged(disputed))
            self._divergence.settled()
        elif verdict is Verdict.SELF_DIVERGED:
            self.self_diverged_index = disputed
            core.library.step_down()


def _command(operation: Form | SetDisk) -> bytes:
    return encode_command(Command("", 0, 0, [operation]))
