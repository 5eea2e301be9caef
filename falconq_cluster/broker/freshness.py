"""How this node knows that its state is not stale, and waits until it has applied an index.

What lives here: waits for an index, and the question to the leader for its commit index.
Rules: an answer holds for those who asked before the question was sent, so one question serves all who came until
then, and those who come later share the next one. One question is on its way at a time. It is no proof of leadership
(that is P17): it makes a node show what was acknowledged elsewhere. Every wait has a deadline.
Must not know: what is read afterwards.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from falconq_cluster.broker.deadlines import Deadlines
from falconq_cluster.broker.limits import BrokerLimits, BrokerMetrics
from falconq_cluster.broker.pending import Pending
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.errors import FalconQError
from falconq_cluster.raft.frames import FreshIndex, FreshIndexQuery
from falconq_cluster.raft.seams import RaftView


class IndexWait(Pending[bool]):
    """Somebody waits until an index is applied here; the answer is whether it was in time."""

    __slots__ = ("_waits", "deadline_ms", "index")

    def __init__(self, waits: IndexWaits, index: int, deadline_ms: int, done: Callable[[bool], None]) -> None:
        super().__init__(done)
        self._waits = waits
        self.index = index
        self.deadline_ms = deadline_ms

    def _given_up(self) -> None:
        self._waits.forget(self)


class IndexWaits:
    """Waits for indexes, lowest first."""

    def __init__(self, *, raft: RaftView, clock: Clock, limits: BrokerLimits) -> None:
        self._raft = raft
        self._limits = limits
        self._waiting: list[tuple[int, int, IndexWait]] = []
        self._count = 0
        self._live = 0
        self._deadlines: Deadlines[IndexWait] = Deadlines(clock, self._expired)

    def wait(self, index: int, deadline_ms: int, done: Callable[[bool], None]) -> IndexWait | None:
        """Call `done(True)` once the index is applied, `done(False)` at the deadline.

        None when it is applied already; `done` was called then. Raises: FalconQError (overloaded).
        """
        if index <= self._raft.applied_index:
            done(True)
            return None
        if self._live >= self._limits.index_waits_max:
            raise FalconQError("overloaded", f"{self._live} requests wait for an index already; repeat a little later")
        wait = IndexWait(self, index, deadline_ms, done)
        self._count += 1
        self._live += 1
        heapq.heappush(self._waiting, (index, self._count, wait))
        self._deadlines.add(wait, deadline_ms)
        return wait

    def applied(self, index: int) -> None:
        """Wake those who waited for this index or a lower one."""
        while self._waiting and self._waiting[0][0] <= index:
            wait = heapq.heappop(self._waiting)[2]
            if wait.done is not None:
                self._live -= 1
                self._deadlines.remove(wait, wait.deadline_ms)
                wait.finish(True)

    def forget(self, wait: IndexWait) -> None:
        self._deadlines.remove(wait, wait.deadline_ms)
        self._gone()

    def stop(self) -> None:
        """End all waits."""
        waiting, self._waiting = self._waiting, []
        self._deadlines.clear()
        self._live = 0
        for _, _, wait in waiting:
            wait.finish(False)

    def _expired(self, wait: IndexWait) -> None:
        wait.finish(False)
        self._gone()

    def _gone(self) -> None:
        self._live -= 1
        if len(self._waiting) > 2 * self._live + 16:
            # Waits for an index that never comes must not gather.
            self._waiting = [entry for entry in self._waiting if entry[2].done is not None]
            heapq.heapify(self._waiting)


class Freshness:
    """Asks the leader which index is committed, for all who need to know at once."""

    def __init__(
        self, *, raft: RaftView, clock: Clock, limits: BrokerLimits, metrics: BrokerMetrics, waits: IndexWaits
    ) -> None:
        self._raft = raft
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._waits = waits
        self._round = 0
        self._asking: list[tuple[int, Callable[[], None]]] = []
        self._next: list[tuple[int, Callable[[], None]]] = []
        self._timer: Timer | None = None

    def when_fresh(self, done: Callable[[], None]) -> None:
        """Call `done()` once this node has applied all that was committed now, or could not learn it in time."""
        give_up_ms = self._clock.monotonic_ms() + self._limits.fresh_wait_ms
        self._next.append((give_up_ms, done))
        self._ask()

    def answer(self, peer: str, query: FreshIndexQuery) -> None:
        """Leader: tell a member the commit index."""
        if self._raft.is_leader:
            self._raft.send(peer, FreshIndex(query.round, self._raft.term, self._raft.commit_index))

    def answered(self, peer: str, answer: FreshIndex) -> None:
        """The leader's answer has come."""
        if answer.round != self._round or not self._asking or peer != self._raft.leader:
            return
        asking, self._asking = self._asking, []
        self._cancel_timer()
        for give_up_ms, done in asking:
            self._wait(answer.index, give_up_ms, done)
        self._ask()

    def leadership_changed(self) -> None:
        """The question may be lost: ask whoever leads now."""
        if self._asking:
            self._next = self._asking + self._next
            self._asking = []
            self._cancel_timer()
        self._ask()

    def stop(self) -> None:
        """Nobody is asked any more; who waits goes on with what is here."""
        self._cancel_timer()
        waiting = self._asking + self._next
        self._asking, self._next = [], []
        for _, done in waiting:
            done()

    def _ask(self) -> None:
        if self._asking or not self._next:
            return
        if self._raft.is_leader:
            here, self._next = self._next, []
            for give_up_ms, done in here:
                self._wait(self._raft.commit_index, give_up_ms, done)
            return
        self._asking, self._next = self._next, []
        self._round += 1
        self._metrics.fresh_round_count += 1
        delay_ms = max(0, self._asking[0][0] - self._clock.monotonic_ms())
        self._timer = self._clock.call_later(delay_ms, self._give_up)
        leader = self._raft.leader
        if leader is not None and leader != self._raft.node_id:
            self._raft.send(leader, FreshIndexQuery(self._round))

    def _give_up(self) -> None:
        """No leader answered those whose time is over; the others ask again."""
        self._timer = None
        now_ms = self._clock.monotonic_ms()
        asking, self._asking = self._asking, []
        over = [done for give_up_ms, done in asking if give_up_ms <= now_ms]
        self._next = [entry for entry in asking if entry[0] > now_ms] + self._next
        self._ask()
        for done in over:
            done()

    def _wait(self, index: int, give_up_ms: int, done: Callable[[], None]) -> None:
        try:
            self._waits.wait(index, give_up_ms, lambda _is_reached: done())
        except FalconQError:
            # Too many wait: an answer that may be stale is better than none.
            done()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
