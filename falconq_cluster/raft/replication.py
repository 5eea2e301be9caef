"""Entries from a leader to its followers, through the guards.

What lives here: the translation between the library's log messages and frames, on both sides.
Rules: those of guards.py, at the only places where log messages enter and leave; a learner's answers move what is
sent to it and nothing else (P4); a peer that needs a snapshot is hidden from the library until it has it (L3).
Must not know: votes, timers, disks.
"""

from __future__ import annotations

from falconq_cluster.errors import StopProcess
from falconq_cluster.raft import guards
from falconq_cluster.raft.core import Core
from falconq_cluster.raft.frames import Append, AppendReply, SnapshotInstalled, SnapshotOffer, StaleTerm
from falconq_cluster.raft.library import Message

OFFER_AGAIN_MS = 1000


class Replication:
    """Log frames of one node, as leader and as follower."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._epochs = dict.fromkeys(core.others, 0)
        self._learner_match = dict.fromkeys(core.others, 0)
        self._offered_ms: dict[str, int] = {}
        self._marks: dict[str, tuple[int, int]] = {}
        """peer -> (commit index, when it was that): the peer held all below it then, and strives for it now."""
        self._heard_ms: dict[str, int] = {}
        self._pending_commit = 0
        self.has_heard_commit = False
        """Whether a leader has said in this run what is committed, over a log that joins this node's."""
        self._answer_epoch = 0
        self._answer_next_index: int | None = None

    # The library speaks.

    def library_appends(self, peer: str, message: Message) -> None:
        """The library sends entries, a heartbeat, or asks for a snapshot to be sent."""
        core = self._core
        if "serialized" in message:
            self._offer_snapshot(peer)
            return
        core.send(
            peer,
            Append(
                term=message["term"],
                epoch=self._epochs[peer],
                previous_index=message["prevLogIdx"],
                previous_term=message["prevLogTerm"],
                commit_index=message["commit_index"],
                entries=message["entries"],
            ),
        )

    def library_answers(self, peer: str, message: Message) -> None:
        """The library answers entries: the answer waits for the sync, and says what was verified, not what is held."""
        core = self._core
        next_index = message["next_node_idx"] if self._answer_next_index is None else self._answer_next_index
        machine = core.replica.machine
        core.promise(
            peer,
            AppendReply(
                term=core.library.term,
                epoch=self._answer_epoch,
                next_index=next_index,
                reset=message["reset"],
                success=message["success"],
                applied_index=machine.applied_index,
                applied_hash=machine.digest,
            ),
        )

    # As a follower.

    def append_received(self, peer: str, frame: Append) -> None:
        """Entries or a heartbeat from a leader of this or a later term."""
        core = self._core
        library = core.library
        if frame.term < library.term:
            core.send(peer, StaleTerm(library.term))
            return
        stripped = guards.strip_matching(frame, core.journal)
        message: Message = {
            "type": "append_entries",
            "term": frame.term,
            "prevLogIdx": stripped.previous_index,
            "prevLogTerm": stripped.previous_term,
            "entries": stripped.entries,
            "commit_index": 0,
        }
        self._answer_epoch = frame.epoch
        if stripped.joins:
            if stripped.entries and stripped.previous_index < library.commit_index:
                reason = f"{peer} would overwrite entry {stripped.previous_index + 1}, committed here"
                raise StopProcess(reason)
            self.has_heard_commit = True
            self._pending_commit = max(self._pending_commit, min(frame.commit_index, stripped.verified_index))
            message["commit_index"] = guards.clamp_commit(
                leader_commit=frame.commit_index,
                verified_index=stripped.verified_index,
                synced_index=core.journal.synced_index,
            )
            self._answer_next_index = stripped.verified_index + 1
        else:
            self._answer_next_index = guards.conflict_next_index(frame, core.journal, library.commit_index)
        library.deliver(peer, message)
        if library.leader == peer:
            core.election.leader_heard()

    def raise_commit(self) -> None:
        """What a leader called committed becomes so here once it is synced (P2)."""
        core = self._core
        index = min(self._pending_commit, core.journal.synced_index)
        core.library.commit_index = max(core.library.commit_index, index)

    @property
    def known_commit_index(self) -> int:
        """The highest index that this node knows to be committed, synced here or not."""
        return max(self._pending_commit, self._core.library.commit_index)

    # As a leader.

    def reply_received(self, peer: str, frame: AppendReply) -> None:
        """A follower says what it holds, or where to go back to."""
        core = self._core
        library = core.library
        is_current = guards.is_reply_current(
            frame, term=library.term, epoch=self._epochs[peer], last_index=core.journal.last_index
        )
        if not library.leads or not is_current:
            return
        is_counted = core.membership.counts(peer)
        sent_next = library.next_index(peer)
        if is_counted:
            library.deliver(
                peer,
                {
                    "type": "next_node_idx",
                    "next_node_idx": frame.next_index,
                    "reset": frame.reset,
                    "success": frame.success,
                },
            )
        if frame.reset:
            self._epochs[peer] += 1
            library.set_next_index(peer, max(frame.next_index, library.match_index(peer) + 1))
        elif frame.success:
            self._learner_match[peer] = max(self._learner_match[peer], frame.next_index - 1)
            library.set_next_index(peer, max(sent_next, frame.next_index))

    def before_tick(self) -> None:
        """Answers of members that do not count are worth nothing to the library (P4)."""
        core = self._core
        if not core.library.leads:
            return
        for peer in core.others:
            if not core.membership.counts(peer):
                core.library.forget_match(peer)

    def caught_up_learners(self) -> list[str]:
        """Learners that hold everything that was committed a moment ago.

        All that is committed now would be too much to ask: under a steady load an answer always comes too late for it.
        What is missing is no danger, since the entry that puts a disk on record is committed without it (P4).
        """
        core = self._core
        now, found = core.clock.monotonic_ms(), []
        for peer in core.membership.learners():
            index, noted_ms = self._marks.get(peer, (core.library.commit_index, now))
            if self._learner_match[peer] >= index and now - noted_ms <= core.times.leader_fallback_ms:
                found.append(peer)
        return found

    def lag_of(self, peer: str) -> int:
        """The last index that the peer is known to hold, whether it counts or not."""
        return max(self._learner_match[peer], self._core.library.match_index(peer))

    def peer_heard(self, peer: str) -> None:
        """The peer answered this leader just now."""
        self._heard_ms[peer] = self._core.clock.monotonic_ms()

    def needed_index(self) -> int | None:
        """The lowest index that a follower is known to hold that answers and is fed from the log; None without one."""
        core = self._core
        if not core.library.leads:
            return None
        since = core.clock.monotonic_ms() - core.times.leader_fallback_ms
        heard = [peer for peer in core.others if self._heard_ms.get(peer, 0) > since]
        held = [self.lag_of(peer) for peer in heard if core.library.is_peer_connected(peer)]
        return min((index for index in held if index), default=None)

    def behind_ms(self, peer: str) -> int:
        """How long ago the peer was seen to hold all that was committed; 0 when it does now."""
        core = self._core
        if peer not in self._marks or self.lag_of(peer) >= core.library.commit_index:
            return 0
        return core.clock.monotonic_ms() - self._marks[peer][1]

    def note_lag(self) -> None:
        """Remember for each peer what it is to reach, once it has reached the last; called at each heartbeat."""
        core = self._core
        now = core.clock.monotonic_ms()
        if core.library.last_applied < core.library.no_op_index:
            return  # A new leader does not know yet how much is committed.
        for peer in core.others:
            if peer not in self._marks or self.lag_of(peer) >= self._marks[peer][0]:
                self._marks[peer] = core.library.commit_index, now

    def leadership_began(self) -> None:
        """Nothing is known yet of what the others hold."""
        self._learner_match = dict.fromkeys(self._core.others, 0)
        self._offered_ms.clear()
        self._marks.clear()
        for peer in self._core.others:
            if self._core.network.is_connected(peer):
                self._core.library.connect(peer)

    # Connections and snapshots.

    def peer_connected(self, peer: str) -> None:
        """A new connection: what was in flight on the old one is sent again."""
        core = self._core
        self._epochs[peer] += 1
        self._offered_ms.pop(peer, None)
        if core.library.leads:
            # What another disk of the peer held says nothing of this one.
            match = core.library.match_index(peer) if core.membership.counts(peer) else 0
            core.library.set_next_index(peer, match + 1 if match else core.journal.last_index + 1)
            self._learner_match[peer] = match
        core.library.connect(peer)

    def peer_disconnected(self, peer: str) -> None:
        """The connection is gone."""
        self._offered_ms.pop(peer, None)
        self._core.library.disconnect(peer)

    def _offer_snapshot(self, peer: str) -> None:
        core = self._core
        core.library.disconnect(peer)
        self._offered_ms[peer] = core.clock.monotonic_ms()
        core.send(peer, SnapshotOffer(core.library.term, core.replica.machine.applied_index))

    def offer_again(self) -> None:
        """Repeat offers that led to nothing yet; the puller ignores repeats."""
        if not self._core.library.leads:
            return
        now = self._core.clock.monotonic_ms()
        for peer, offered in list(self._offered_ms.items()):
            if now - offered >= OFFER_AGAIN_MS:
                self._offer_snapshot(peer)

    def installed_received(self, peer: str, frame: SnapshotInstalled) -> None:
        """The peer has the snapshot: go on behind it."""
        core = self._core
        if not core.library.leads or frame.term != core.library.term or peer not in self._offered_ms:
            return
        del self._offered_ms[peer]
        self._epochs[peer] += 1
        self._learner_match[peer] = max(self._learner_match[peer], frame.index)
        core.library.set_next_index(peer, frame.index + 1)
        core.library.connect(peer)
