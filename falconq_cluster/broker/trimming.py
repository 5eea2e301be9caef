"""Who sees to it that deleted topics are trimmed: the leader.

What lives here: the proposal of one Trim after the other, while there is something to trim.
Rules (PROTOCOL.md P12): at most one Trim is under way in a term, and the next one waits for `trim_interval_ms`, so that
trimming millions of messages leaves the log to clients. Nothing is remembered: what is left to be trimmed is in the
machine's state, so the next leader goes on where this one ended.
Must not know: what a Trim does.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.machine.commands import Command, Trim, encode_command
from falconq_cluster.machine.state import State
from falconq_cluster.raft.seams import RaftView


class Trimming:
    """Proposes on the leader; idle elsewhere."""

    def __init__(self, *, raft: RaftView, state: Callable[[], State], clock: Clock, limits: BrokerLimits) -> None:
        self._raft = raft
        self._state = state
        self._clock = clock
        self._limits = limits
        self._term = 0
        """In which a Trim is under way; 0 when none is."""
        self._timer: Timer | None = None

    def take(self) -> list[bytes]:
        """On the leader: the Trim to append now, if it is time for one."""
        if self._timer is not None or self._term == self._raft.term or not self._state().deletions:
            return []
        self._term = self._raft.term
        return [encode_command(Command("", 0, 0, [Trim()]))]

    def applied(self) -> None:
        """A Trim took effect; the next one comes a little later."""
        self._term = 0
        if self._timer is None and self._raft.is_leader and self._state().deletions:
            self._timer = self._clock.call_later(self._limits.trim_interval_ms, self._again)

    def consider(self) -> None:
        """There may be something to trim by now, or this node may lead by now."""
        if self._raft.is_leader and self._state().deletions:
            self._raft.request_step()

    def stop(self) -> None:
        """Propose no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = None
        self.consider()
