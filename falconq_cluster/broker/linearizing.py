"""Linearizable reads: a read sees all that was acknowledged before it began, or is refused (PROTOCOL.md P17).

What lives here: the question to the leader for its confirmed commit index, and the wait until that is applied here.
Rules: an answer holds for those who asked before the question was sent, so one question serves all who came until
then, and those who come later share the next one. One question is on its way at a time; it is asked again after a
change of leader or connection, and when no answer comes. Who learns nothing in time is refused, never answered.
Must not know: what is read afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.broker.deadlines import Deadlines
from falconq_cluster.broker.freshness import IndexWait, IndexWaits
from falconq_cluster.broker.limits import BrokerLimits, BrokerMetrics
from falconq_cluster.broker.pending import Pending
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.errors import FalconQError
from falconq_cluster.raft.frames import ReadIndex, ReadIndexQuery
from falconq_cluster.raft.seams import RaftView

NONCE_BYTES = 6
"""Rounds begin somewhere in 48 bits: a late answer to the process before this one fits none of them."""


class Read(Pending[FalconQError | None]):
    """Somebody waits until this node may be read; the answer is why it may not, or None."""

    __slots__ = ("_reads", "deadline_ms", "wait")

    def __init__(self, reads: LinearizableReads, deadline_ms: int, done: Callable[[FalconQError | None], None]) -> None:
        super().__init__(done)
        self._reads = reads
        self.deadline_ms = deadline_ms
        self.wait: IndexWait | None = None

    def _given_up(self) -> None:
        self._reads.forget(self)


class LinearizableReads:
    """The reads of one node."""

    def __init__(
        self,
        *,
        raft: RaftView,
        clock: Clock,
        limits: BrokerLimits,
        metrics: BrokerMetrics,
        waits: IndexWaits,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._raft = raft
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._waits = waits
        self._random_bytes = random_bytes
        self._round = 0
        """Of the last question; 0 before the first."""
        self._asking: dict[Read, None] = {}
        self._next: dict[Read, None] = {}
        self._deadlines: Deadlines[Read] = Deadlines(clock, self._expired)
        self._timer: Timer | None = None

    def confirm(self, deadline_ms: int, done: Callable[[FalconQError | None], None]) -> Read:
        """`done(None)` once this node has applied all that was acknowledged anywhere before now, else `done(refusal)`.

        Called once, maybe at once. It waits no longer than writes wait for a leader.
        Raises: FalconQError (overloaded).
        """
        count = len(self._asking) + len(self._next)
        if count >= self._limits.index_waits_max:
            raise FalconQError("overloaded", f"{count} reads wait for the leader already; repeat a little later")
        deadline_ms = min(deadline_ms, self._clock.monotonic_ms() + self._limits.no_leader_wait_ms)
        read = Read(self, deadline_ms, done)
        self._metrics.linearizable_count += 1
        self._deadlines.add(read, deadline_ms)
        self._next[read] = None
        self._ask()
        return read

    def answer(self, peer: str, query: ReadIndexQuery) -> None:
        """Leader: tell a member the read index once it is confirmed; without a quorum, nothing."""

        def told(index: int | None) -> None:
            if index is not None:
                self._raft.send(peer, ReadIndex(query.round, index))

        if self._raft.is_leader:
            self._raft.ask_read_index(told)

    def answered(self, answer: ReadIndex) -> None:
        """The answer to a question has come; whoever gave it led after the question was sent."""
        self._told(answer.round, answer.index)

    def leadership_changed(self) -> None:
        """The question may be lost: ask whoever leads now."""
        self._again()

    def forget(self, read: Read) -> None:
        """Its client is gone."""
        self._leave(read)
        if read.wait is not None:
            read.wait.cancel()

    def stop(self) -> None:
        """Refuse all; none is answered from now on."""
        self._cancel_timer()
        self._deadlines.clear()
        reads = [*self._asking, *self._next]
        self._asking, self._next = {}, {}
        for read in reads:
            read.finish(FalconQError("not_ready", "this node is stopping; ask another one"))

    def _again(self) -> None:
        self._next = {**self._asking, **self._next}
        self._asking = {}
        self._ask()

    def _ask(self) -> None:
        if self._asking or not self._next:
            return
        self._cancel_timer()
        self._timer = self._clock.call_later(self._limits.resend_ms, self._resend)
        leader = self._raft.leader
        if leader is None or (leader == self._raft.node_id and not self._raft.is_leader):
            return
        self._asking, self._next = self._next, {}
        self._round = 1 + (self._round or int.from_bytes(self._random_bytes(NONCE_BYTES), "big"))
        self._metrics.read_round_count += 1
        asked = self._round
        if leader == self._raft.node_id:
            self._raft.ask_read_index(lambda index: self._told(asked, index))
        else:
            self._raft.send(leader, ReadIndexQuery(asked))

    def _resend(self) -> None:
        self._timer = None
        self._again()

    def _told(self, asked: int, index: int | None) -> None:
        if asked != self._round or not self._asking:
            return
        if index is None:
            # This node stopped leading: its broker hears of it next, and asks the new leader then.
            return
        reads, self._asking = self._asking, {}
        self._cancel_timer()
        for read in reads:
            self._wait(read, index)
        self._ask()

    def _wait(self, read: Read, index: int) -> None:
        """Wait until the index is applied here."""
        self._deadlines.remove(read, read.deadline_ms)

        def reached(is_reached: bool) -> None:  # noqa: FBT001  # the wait's shape
            read.wait = None
            here = self._raft.applied_index
            text = f"this node has applied entry {here}, not {index} yet, which was committed; ask another node"
            read.finish(None if is_reached else FalconQError("index_not_reached", text))

        try:
            read.wait = self._waits.wait(index, read.deadline_ms, reached)
        except FalconQError as error:
            read.finish(error)

    def _leave(self, read: Read) -> None:
        self._asking.pop(read, None)
        self._next.pop(read, None)
        self._deadlines.remove(read, read.deadline_ms)
        if not self._asking and not self._next:
            self._cancel_timer()

    def _expired(self, read: Read) -> None:
        self._leave(read)
        text = "no leader could confirm with a quorum that this read would be current; nothing was read"
        read.finish(FalconQError("no_leader", text))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
