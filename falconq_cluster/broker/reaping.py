"""Who sees to it that what is due by time is done: the leader.

What lives here: the proposal of one Reap after the other, while consumers have dead messages or are abandoned, or a
redrive goes on.
Rules (PROTOCOL.md P12, P15): at most one Reap is under way in a term. What an entry leaves undone is named by the next
one `trim_interval_ms` later; what only time makes due is found by looking at all consumers in rounds, a bounded number
every `reap_interval_ms`. Nothing is remembered that decides: the next leader finds what is due in the machine's state.
Must not know: what a Reap does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.machine.commands import Command, encode_command
from falconq_cluster.machine.events import LeftUndone
from falconq_cluster.machine.reaping import REAPED_MAX, is_due
from falconq_cluster.machine.state import State
from falconq_cluster.machine.subscriptions import Reap
from falconq_cluster.raft.seams import RaftView

LOOKED_AT_MAX = 2_000
"""Consumers, and topics, that are looked at in one turn: some 2 ms."""


class Reaping:
    """Proposes on the leader; idle elsewhere."""

    def __init__(self, *, raft: RaftView, state: Callable[[], State], clock: Clock, limits: BrokerLimits) -> None:
        self._raft = raft
        self._state = state
        self._clock = clock
        self._limits = limits
        self._term = 0
        """In which a Reap is under way; 0 when none is."""
        self._timer: Timer | None = None
        self._sweep_timer: Timer | None = None
        self._due: dict[tuple[str, str], None] = {}
        """(topic, consumer); each is judged again before it is named."""
        self._redrives: dict[str, None] = {}
        self._to_look_at: deque[tuple[str, str]] = deque()
        """(topic, consumer behind whose name to go on) of what is left of this round."""

    def take(self) -> list[bytes]:
        """On the leader: the Reap to append now, if it is time for one."""
        if self._timer is not None or self._term == self._raft.term or not (self._due or self._redrives):
            return []
        topics, now_ms = self._state().topics, self._raft.log_time_ms()
        consumers: list[tuple[str, str]] = []
        while self._due and len(consumers) < REAPED_MAX:
            name = next(iter(self._due))
            del self._due[name]
            found = topics.get(name[0])
            consumer = None if found is None else found.consumers.get(name[1])
            if consumer is not None and is_due(consumer, now_ms):
                consumers.append(name)
        going_on = [name for name in self._redrives if name in topics and topics[name].redrive_left]
        redrives, self._redrives = going_on[:REAPED_MAX], dict.fromkeys(going_on[REAPED_MAX:])
        if not consumers and not redrives:
            return []
        self._term = self._raft.term
        return [encode_command(Command("", 0, 0, [Reap(consumers, redrives)]))]

    def left_undone(self, event: LeftUndone) -> None:
        """An entry had no room for all of it."""
        if not self._raft.is_leader:
            return
        self._due |= dict.fromkeys(event.consumers)
        self._redrives |= dict.fromkeys(event.redrives)
        self._soon()

    def applied(self) -> None:
        """A Reap took effect; the next one comes a little later."""
        self._term = 0
        self._soon()

    def consider(self) -> None:
        """This node may lead by now."""
        if self._raft.is_leader and self._sweep_timer is None:
            self._sweep_timer = self._clock.call_later(self._limits.reap_interval_ms, self._sweep)

    def stop(self) -> None:
        """Propose no more."""
        for timer in (self._timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweep_timer = None

    def _soon(self) -> None:
        if self._timer is None and self._raft.is_leader and (self._due or self._redrives):
            self._timer = self._clock.call_later(self._limits.trim_interval_ms, self._again)

    def _again(self) -> None:
        self._timer = None
        if self._raft.is_leader:
            self._raft.request_step()

    def _sweep(self) -> None:
        """Look at the next consumers of the round."""
        self._sweep_timer = None
        if not self._raft.is_leader:
            self._due.clear()
            self._redrives.clear()
            self._to_look_at.clear()
            return
        topics, now_ms, count = self._state().topics, self._raft.log_time_ms(), 0
        if not self._to_look_at:
            self._to_look_at.extend((name, "") for name in topics)
        while self._to_look_at and count < LOOKED_AT_MAX:
            name, after = self._to_look_at.popleft()
            topic = topics.get(name)
            if topic is None:
                continue
            names = topic.consumers.after(after, LOOKED_AT_MAX - count)
            if len(names) == LOOKED_AT_MAX - count:
                self._to_look_at.appendleft((name, names[-1]))
            count += 1 + len(names)
            if topic.redrive_left:
                self._redrives[name] = None
            self._due |= {(name, found): None for found in names if is_due(topic.consumers[found], now_ms)}
        if self._due or self._redrives:
            self._raft.request_step()
        self.consider()
