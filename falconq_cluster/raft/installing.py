"""Getting a snapshot in, and the store's flushes: the slow disk work beside the log.

What lives here: the follower's side of PROTOCOL.md P8, and the flush that lets the journal be cut (P1).
Rules: a snapshot is installed only in the term and under the leader that offered it, and only above the applied
index; a journal that holds the snapshot's last entry keeps what is behind it; no step runs while stores are switched.
Its rolling hash is compared with a second node's first, when one is there to ask.
Must not know: votes, clients.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.errors import StopProcess
from falconq_cluster.machine.machine import Machine
from falconq_cluster.raft.core import Core
from falconq_cluster.raft.frames import (
    Frame,
    HashQuery,
    HashReply,
    SnapshotChunk,
    SnapshotFailed,
    SnapshotFetch,
    SnapshotInstalled,
    SnapshotOffer,
)
from falconq_cluster.raft.seams import DiskWorker
from falconq_cluster.raft.snapshots import Pull, SnapshotPuller, SnapshotServer
from falconq_cluster.storage.store import StoreSnapshot

SECOND_OPINION_MS = 500
JOURNAL_PINNED_TIMES = 4
"""A transfer keeps the journal up to this many times its usual size."""


class Installing:
    """Snapshots in and out, and flushes, of one node."""

    def __init__(
        self,
        core: Core,
        *,
        background: DiskWorker,
        exclusive: Callable[[Callable[[], None], Callable[[], None]], None],
        installed: Callable[[], None],
        fatal: Callable[[StopProcess], None],
        needed_index: Callable[[], int | None],
    ) -> None:
        """`exclusive(work, then)` runs blocking work when no sync runs, keeps steps away, then calls `then`.

        `needed_index` is the lowest index that a connected follower still needs from this leader's journal.
        """
        self._core = core
        self._background = background
        self._exclusive = exclusive
        self._installed = installed
        self._fatal = fatal
        self._needed_index = needed_index
        self._is_flushing = False
        self._must_flush_again = False
        self._asked_index = 0
        self._verified: Pull | None = None
        self._switching: Pull | None = None
        """Its store may be the one on disk already: until `_switched`, no other pull may take its place."""
        self.server = SnapshotServer(
            freeze=self._freeze,
            send_bulk=core.network.send_bulk,
            now_ms=core.clock.monotonic_ms,
            chunk_bytes=core.times.snapshot_chunk_bytes,
        )
        self.puller = SnapshotPuller(
            incoming_store=core.replica.incoming_store,
            send_bulk=core.network.send_bulk,
            now_ms=core.clock.monotonic_ms,
            whole=self._flush_incoming,
        )

    @property
    def is_installing(self) -> bool:
        """Whether a snapshot is on its way in."""
        return self.puller.pull is not None

    def frame_received(self, peer: str, frame: Frame) -> bool:
        """Handle a frame of snapshots; returns whether it was one."""
        if isinstance(frame, SnapshotFetch):
            self.server.fetch_received(peer, frame)
        elif isinstance(frame, SnapshotChunk):
            problem = self.puller.chunk_received(peer, frame)
            if problem:
                self._core.log("snapshot_given_up", reason=problem)
        elif isinstance(frame, SnapshotFailed):
            self.puller.failed(peer, frame)
        elif isinstance(frame, SnapshotOffer):
            self._offered(peer, frame)
        elif isinstance(frame, HashReply):
            self._second_opinion(peer, frame)
            return False
        else:
            return False
        return True

    def beat(self) -> None:
        """Look after idle transfers."""
        self.server.close_idle()
        self.puller.check_idle()

    def close(self) -> None:
        """End all transfers."""
        self.server.close()
        self.puller.give_up()

    # Snapshots.

    def _freeze(self) -> tuple[StoreSnapshot, int, int]:
        replica = self._core.replica
        self._core.counters.snapshots_served += 1
        return replica.store.snapshot(), replica.machine.applied_index, replica.machine.applied_term

    def _offered(self, peer: str, frame: SnapshotOffer) -> None:
        core = self._core
        if frame.term < core.library.term or core.library.leads or self._switching is not None:
            return
        if frame.term > core.library.term:
            core.library.adopt_term(frame.term)
            core.request_step()
        if core.library.leader is None:
            core.library.follow(peer)
        if self.puller.pull is None:
            core.log("snapshot_pull_started", source=peer, term=frame.term, index=frame.index)
        core.election.leader_heard()
        self.puller.start(source=peer, term=frame.term)

    def _flush_incoming(self, pull: Pull) -> None:
        def flushed(error: BaseException | None) -> None:
            if error is not None:
                self._fatal(StopProcess(f"the incoming snapshot could not be flushed: {error}", 74))
            elif self.puller.pull is pull:
                self._ask_second(pull)

        self._background.submit([pull.store.flush], flushed)

    def _ask_second(self, pull: Pull) -> None:
        core = self._core
        self._verified = pull
        self._asked_index = pull.index
        asked = [peer for peer in core.others if peer != pull.source and core.network.is_connected(peer)]
        for peer in asked:
            core.send(peer, HashQuery(pull.index))
        core.clock.call_later(SECOND_OPINION_MS if asked else 0, lambda: self._install(pull))

    def _second_opinion(self, peer: str, frame: HashReply) -> None:
        pull = self._verified
        if pull is None or frame.index != self._asked_index:
            return
        if not frame.digest:
            return
        if frame.digest == Machine.load(pull.store).digest:
            self._install(pull)
            return
        self._core.log("snapshot_disagrees", source=pull.source, witness=peer, index=pull.index)
        self._verified = None
        self.puller.give_up()

    def _install(self, pull: Pull) -> None:
        """Install once: called by the second opinion or its deadline, whichever is first."""
        if self._verified is not pull or self.puller.pull is not pull:
            return
        self._verified = None
        self._switching = pull
        self._exclusive(self._switch_work(pull), lambda: self._switched(pull))

    def _switch_work(self, pull: Pull) -> Callable[[], None]:
        job = self._core.replica.switch_job()

        def work() -> None:
            if self.may_install(pull):
                job()

        return work

    def may_install(self, pull: Pull) -> bool:
        """Whether the snapshot is newer than what is applied, and its term and leader are still those that offered it.

        Else it could erase entries that were acknowledged meanwhile (RAFT.md S22).
        """
        core = self._core
        is_same_leader = core.library.term == pull.term and core.library.leader in (None, pull.source)
        return pull.index > core.library.last_applied and is_same_leader and not core.library.leads

    def _switched(self, pull: Pull) -> None:
        core = self._core
        self._switching = None
        if not self.may_install(pull):
            core.log("snapshot_too_late", index=pull.index, applied_index=core.library.last_applied)
            self.puller.give_up()
            return
        self.puller.pull = None
        remove_old = core.replica.switched(pull.store)
        if core.journal.term_at(pull.index) == pull.last_term:
            core.journal.cut_front(pull.index)
        else:
            core.journal.restart_at(pull.index, pull.last_term)
        core.library.restart_at(pull.index)
        core.counters.snapshots_installed += 1
        core.log("snapshot_installed", source=pull.source, index=pull.index, term=pull.last_term)
        core.promise(pull.source, SnapshotInstalled(pull.term, pull.index))
        self._background.submit([remove_old], self._background_done)
        self._installed()

    def _background_done(self, error: BaseException | None) -> None:
        if error is not None:
            self._fatal(StopProcess(f"disk work failed: {error}", 74))

    # Flushes.

    def consider_flush(self, *, is_urgent: bool = False) -> None:
        """Flush the store when much was applied since the last time, then cut the journal."""
        core = self._core
        replica = core.replica
        behind = replica.machine.applied_index - replica.flushed_index
        if self._is_flushing or behind <= 0:
            self._must_flush_again |= is_urgent and self._is_flushing
            return
        is_due = behind >= core.times.flush_entries or core.journal.bytes_on_disk > core.times.journal_bytes_max
        if not is_due and not is_urgent:
            return
        index, work = replica.flush_job()
        self._is_flushing = True

        def flushed(error: BaseException | None) -> None:
            self._is_flushing = False
            if error is not None:
                self._fatal(StopProcess(f"the store could not be flushed: {error}", 74))
            elif core.replica is replica and replica.machine.applied_index >= index:
                replica.flushed(index)
                core.counters.flushes += 1
                self.cut_journal()
            must_flush, self._must_flush_again = self._must_flush_again, False
            if must_flush:
                self.consider_flush(is_urgent=True)

        self._background.submit([work], flushed)

    def cut_journal(self) -> None:
        """Drop the journal behind the flushed index, but for a margin and for running transfers."""
        core = self._core
        journal = core.journal
        flushed = min(core.replica.flushed_index, core.library.last_applied)
        is_large = journal.bytes_on_disk > core.times.journal_bytes_max
        index = flushed if is_large else flushed - core.times.journal_keep_entries
        if journal.bytes_on_disk < JOURNAL_PINNED_TIMES * core.times.journal_bytes_max:
            needed = (self.server.pinned_index(), self._needed_index())
            index = min([index, *(each for each in needed if each is not None)])
        if index > journal.first_index:
            journal.cut_front(index)
            core.request_step()
