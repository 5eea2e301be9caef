"""The one loop: frames in, a step of the algorithm, a sync, then everything that promises.

What lives here: when steps run, how frames reach the pieces, and what is done at each heartbeat (DESIGN.md section 3).
Rules: no step runs while a sync runs, so a commit counts only what is synced; promises leave after the sync that
covers them; keepalives go on meanwhile, but not when the sync stalls (P7); any unexpected exception in a step or a
callback stops the process before it can diverge (L12).
Must not know: HTTP, what commands mean.
"""

from __future__ import annotations

import collections
from collections.abc import Callable

from falconq_cluster.errors import StopProcess
from falconq_cluster.raft import frames as f
from falconq_cluster.raft.confirming import Told
from falconq_cluster.raft.core import Core
from falconq_cluster.raft.handover import Handover
from falconq_cluster.raft.heartbeats import Heartbeats
from falconq_cluster.raft.installing import Installing
from falconq_cluster.raft.leading import Leading
from falconq_cluster.raft.library import Message, RaftLibrary
from falconq_cluster.raft.replication import Replication
from falconq_cluster.raft.seams import DiskWorker, Upcalls
from falconq_cluster.raft.voting import Voting

_BROKER_FRAMES = (
    f.Forward, f.Expected, f.Propose, f.FreshIndexQuery, f.FreshIndex, f.ReadIndexQuery, f.ReadIndex,
)  # fmt: skip
_LOG_FRAMES = (
    f.Append, f.AppendReply, f.RequestVote, f.Vote, f.PreVoteReply, f.StaleTerm, f.TimeoutNow, f.SnapshotInstalled,
)  # fmt: skip


class RaftDriver:
    """Runs one member; implements `PeerEvents` for the network and `RaftView` for the broker."""

    def __init__(
        self,
        core: Core,
        *,
        disk: DiskWorker,
        background: DiskWorker,
        fatal: Callable[[StopProcess], None],
    ) -> None:
        self.core = core
        core.request_step = self.request_step
        self._disk = disk
        self._report_fatal = fatal
        self.upcalls: Upcalls | None = None
        self._inbox: collections.deque[tuple[str, f.Frame]] = collections.deque()
        self._handlers: dict[type, Callable[[str, f.Frame], None]] = {}
        self._is_scheduled = False
        self._is_busy = False
        self._is_round_due = False
        self._exclusive_work: tuple[Callable[[], None], Callable[[], None]] | None = None
        self._sent_until = (0, 0)
        self._seen_leadership: tuple[object, ...] = ()
        self.is_stopped = False
        self.replication = Replication(core)
        self.voting = Voting(core)
        self.installing = Installing(
            core,
            background=background,
            exclusive=self._run_exclusive,
            installed=self._snapshot_installed,
            fatal=self.stop_with,
            needed_index=self.replication.needed_index,
        )
        core.library = RaftLibrary(
            node_id=core.node_id,
            others=list(core.others),
            journal=core.journal,
            applied_index=core.replica.machine.applied_index,
            heartbeat_ms=core.times.heartbeat_ms * 4,
            fallback_ms=core.times.leader_fallback_ms,
            send=self._library_sends,
            apply_committed=self._apply_committed,
        )
        self.leading = Leading(core, self.replication)
        self.heartbeats = Heartbeats(core, self.leading, stepped_down=self._leadership_given_up)
        self.handover = Handover(core, self.leading, self.voting, lambda: self.live_leader, lambda: self.is_stopped)
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[type, Callable[..., None]]:
        return {
            f.Append: self.replication.append_received,
            f.AppendReply: self._reply_received,
            f.RequestVote: self.voting.request_received,
            f.Vote: self.voting.vote_received,
            f.PreVote: self.voting.pre_vote_received,
            f.PreVoteReply: self.voting.pre_vote_reply_received,
            f.StaleTerm: self.voting.stale_term_received,
            f.TimeoutNow: self.voting.timeout_now_received,
            f.SnapshotInstalled: self.replication.installed_received,
            f.Keepalive: self.heartbeats.keepalive_received,
            f.KeepaliveReply: self.leading.keepalive_reply_received,
            f.Status: self.heartbeats.status_received,
            f.HashQuery: self._hash_query_received,
            f.HashReply: self._hash_reply_received,
            f.Diverged: self._diverged_received,
            f.TransferWanted: self.handover.wanted,
        }

    # Life.

    def start(self) -> None:
        """Begin to take part."""
        self.core.clock.call_later(self.core.times.heartbeat_ms, self._beat)
        self.request_step()

    def stop(self) -> None:
        """Take no further part; what is on disk stays as it is."""
        self.is_stopped = True
        self.installing.close()

    def stop_with(self, reason: StopProcess) -> None:
        """Stop because going on would be wrong."""
        if not self.is_stopped:
            self.is_stopped = True
            self._report_fatal(reason)

    def guarded(self, call: Callable[[], None]) -> None:
        """Run a callback; an exception in it is a bug and stops the process."""
        if self.is_stopped:
            return
        try:
            call()
        except StopProcess as stop:
            self.stop_with(stop)
        except Exception as error:  # noqa: BLE001  # the door of the driver: anything unexpected stops (L12)
            self.core.log("driver_failed", error=repr(error), exc_info=True)
            self.stop_with(StopProcess(f"unexpected {error!r} in a step"))

    # The network speaks.

    def peer_connected(self, peer: str, hello: f.Hello) -> None:
        def connected() -> None:
            self.core.membership.heard_hello(peer, hello)
            self.replication.peer_connected(peer)
            self.core.send(peer, self.core.membership.status(self.core.clock.wall_ms()))
            self._tell_leadership(is_forced=True)
            self.request_step()

        self.guarded(connected)

    def peer_disconnected(self, peer: str) -> None:
        def disconnected() -> None:
            self.core.membership.lost(peer)
            self.replication.peer_disconnected(peer)
            self.installing.server.peer_lost(peer)
            self._inbox = collections.deque(item for item in self._inbox if item[0] != peer)
            if self.core.library.leader == peer:
                self.core.election.leader_lost()
                self._step_when_due()
            self._tell_leadership(is_forced=True)
            self.request_step()

        self.guarded(disconnected)

    def frame_received(self, peer: str, frame: f.Frame) -> None:
        if self.is_stopped:
            return
        if isinstance(frame, _LOG_FRAMES):
            self._inbox.append((peer, frame))
            self.request_step()
        elif isinstance(frame, _BROKER_FRAMES):
            if self.upcalls is not None:
                upcalls = self.upcalls
                self.guarded(lambda: upcalls.broker_frame(peer, frame))
        else:
            self.guarded(lambda: self._handle(peer, frame))

    def _handle(self, peer: str, frame: f.Frame) -> None:
        if self.installing.frame_received(peer, frame):
            return
        handler = self._handlers.get(type(frame))
        if handler is not None:
            handler(peer, frame)

    def _library_sends(self, peer: str, message: Message) -> None:
        kind = message["type"]
        if kind == "append_entries":
            self.replication.library_appends(peer, message)
        elif kind == "next_node_idx":
            self.replication.library_answers(peer, message)
        elif kind == "request_vote":
            self.voting.library_asks(peer, message)
        elif kind == "response_vote":
            self.voting.library_votes(peer, message)
        else:
            reason = f"PySyncObj sends {kind!r}, which the shell does not know"
            raise StopProcess(reason)

    # The step.

    def request_step(self) -> None:
        """Run a step in the next turn of the loop, or after the running sync."""
        if not self._is_scheduled and not self._is_busy and not self.is_stopped:
            self._is_scheduled = True
            self.core.clock.call_later(0, self._scheduled_step)

    def _scheduled_step(self) -> None:
        self._is_scheduled = False
        if not self._is_busy:
            self.guarded(self._step)

    def _step(self) -> None:
        core = self.core
        while self._inbox:
            peer, frame = self._inbox.popleft()
            self._handle(peer, frame)
            self._observe()
        self.replication.raise_commit()
        self.voting.consider(is_installing=self.installing.is_installing)
        self.replication.before_tick()
        core.library.tick()
        self.voting.after_tick()
        self._observe()
        if core.library.leads:
            self.leading.append_commands(self.upcalls)
            sent = (core.journal.last_index, core.library.commit_index)
            if sent != self._sent_until:
                self._sent_until = sent
                core.library.send_entries()
        self._tell_leadership()
        self._sync()

    def _sync(self) -> None:
        core = self.core
        if not core.journal.is_dirty:
            self._release_promises()
            self._start_exclusive()
            return
        job = core.journal.begin_sync()
        self._is_busy = True
        core.election.sync_started()

        def synced(error: BaseException | None) -> None:
            if error is not None:
                self.stop_with(StopProcess(f"the journal could not be synced: {error}", 74))
                return
            core.journal.end_sync(job)
            core.counters.syncs += 1
            core.counters.sync_ms_total += core.election.sync_finished()
            self._release_promises()
            self._is_busy = False
            self._start_exclusive()
            if not self._is_busy:
                self._step()

        self._disk.submit(job.steps, lambda error: self.guarded(lambda: synced(error)))

    def _release_promises(self) -> None:
        promises, self.core.promises = self.core.promises, []
        for peer, frame in promises:
            self.core.network.send(peer, frame)

    def _run_exclusive(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self._exclusive_work = (work, then)
        self.request_step()

    def _start_exclusive(self) -> None:
        if self._exclusive_work is None:
            return
        work, then = self._exclusive_work
        self._exclusive_work = None
        self._is_busy = True

        def done(error: BaseException | None) -> None:
            if error is not None:
                self.stop_with(StopProcess(f"disk work failed: {error}", 74))
                return
            self._is_busy = False
            then()
            self.request_step()

        self._disk.submit([work], lambda error: self.guarded(lambda: done(error)))

    # Applying.

    def _apply_committed(self) -> None:
        core = self.core
        library = core.library
        last = min(library.commit_index, core.journal.synced_index)
        first = library.last_applied + 1
        if first > last:
            return
        last = min(last, first + core.times.apply_entries_max - 1)
        for entry, index, term in core.journal.entries(first, last):
            self._apply_one(entry, index, term)
        if library.last_applied < library.commit_index:
            core.clock.call_later(0, self.request_step)
        self.installing.consider_flush()

    def _apply_one(self, entry: bytes, index: int, term: int) -> None:
        core = self.core
        if index <= core.library.last_applied:
            return
        record_before = core.replica.machine.record_index
        applied = core.replica.apply(index, term, entry)
        core.library.last_applied = index
        core.log_time.not_before(applied.stamp_ms)
        core.counters.entries_applied += 1
        if core.replica.machine.record_index != record_before:
            core.log("members_recorded", cluster_id=core.replica.machine.cluster_id, index=index)
            self.installing.consider_flush(is_urgent=True)
        if self.upcalls is not None:
            self.upcalls.applied(applied)

    def _snapshot_installed(self) -> None:
        if self.upcalls is not None:
            self.upcalls.snapshot_installed()

    # Leadership.

    def _observe(self) -> None:
        if self.core.library.leads != self.leading.is_active:
            if self.core.library.leads:
                self._sent_until = (0, 0)
                self.leading.began()
            else:
                self.leading.ended()

    def ask_read_index(self, told: Told) -> None:
        """See `RaftView.ask_read_index`; what is asked in one turn of the loop shares a round."""
        if self.is_stopped:
            told(None)
            return
        self.leading.ask_read_index(told)
        if self.leading.confirming.wants_round and not self._is_round_due:
            self._is_round_due = True
            self.core.clock.call_later(0, lambda: self.guarded(self._begin_round))

    def _begin_round(self) -> None:
        self._is_round_due = False
        self.leading.begin_wanted_round()

    @property
    def live_leader(self) -> str | None:
        """Who leads, as long as it was heard lately."""
        library = self.core.library
        return library.leader if library.leads or not self.core.election.leader_is_silent() else None

    def _tell_leadership(self, *, is_forced: bool = False) -> None:
        library = self.core.library
        seen = (library.term, self.live_leader, self.leading.may_take_commands)
        if (seen != self._seen_leadership or is_forced) and self.upcalls is not None:
            self._seen_leadership = seen
            self.upcalls.leadership_changed()

    def _reply_received(self, peer: str, frame: f.Frame) -> None:
        assert isinstance(frame, f.AppendReply)  # by the handler table
        self.replication.reply_received(peer, frame)
        self.leading.check_digest(peer, index=frame.applied_index, digest=frame.applied_hash)
        self._stop_if_diverged()

    def _stop_if_diverged(self) -> None:
        if self.leading.self_diverged_index:
            reason = f"a majority wrote something else than this node up to entry {self.leading.self_diverged_index}"
            raise StopProcess(reason)

    def _hash_query_received(self, peer: str, frame: f.HashQuery) -> None:
        self.core.send(peer, f.HashReply(frame.index, self.core.replica.digest_at(frame.index) or b""))

    def _hash_reply_received(self, peer: str, frame: f.HashReply) -> None:
        self.leading.check_digest(peer, index=frame.index, digest=frame.digest)
        self._stop_if_diverged()

    def _diverged_received(self, peer: str, frame: f.Diverged) -> None:
        reason = f"{peer} and a majority wrote something else than this node up to entry {frame.index}"
        raise StopProcess(reason)

    # Heartbeats.

    def _beat(self) -> None:
        if self.is_stopped:
            return
        self.guarded(self._do_beat)
        self.core.clock.call_later(self.core.times.heartbeat_ms, self._beat)

    def _do_beat(self) -> None:
        self.heartbeats.beat(is_syncing=self._is_busy)
        self.replication.offer_again()
        self.installing.beat()
        self.request_step()

    def _step_when_due(self) -> None:
        delay_ms = max(0, self.core.election.deadline_ms - self.core.clock.monotonic_ms())
        self.core.clock.call_later(delay_ms + 1, self.request_step)

    def _leadership_given_up(self) -> None:
        self._observe()
        self._tell_leadership()
