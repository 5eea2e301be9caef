"""Who sees to it that delayed messages enter their level in time: the leader.

What lives here: the proposal of a Ripen when something is due, and the timer until then.
Rules (PROTOCOL.md P11, P12): due is judged by log time. At most one Ripen is under way in a term; while more is due,
the next one follows at once, since clients wait for it. Nothing is remembered: when the next is due is in the machine's
state, so the next leader goes on where this one ended.
Must not know: what a Ripen does.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.clock import Clock, Timer
from falconq_cluster.machine.appends import Ripen
from falconq_cluster.machine.commands import Command, encode_command
from falconq_cluster.machine.state import State
from falconq_cluster.raft.seams import RaftView

WAIT_MS_MAX = 10_000
"""Log time and this node's clock may run apart by 5 % (P11): a far time is looked at again."""


class Ripening:
    """Proposes on the leader; idle elsewhere."""

    def __init__(self, *, raft: RaftView, state: Callable[[], State], clock: Clock) -> None:
        self._raft = raft
        self._state = state
        self._clock = clock
        self._term = 0
        """In which a Ripen is under way; 0 when none is."""
        self._timer: Timer | None = None
        self._timer_ms = 0
        """Of the log, for which the timer is."""

    def take(self) -> list[bytes]:
        """On the leader: the Ripen to append now, if something is due."""
        next_ms = self._state().delays.next_ms
        if next_ms is None or self._term == self._raft.term or next_ms > self._raft.log_time_ms():
            return []
        self._term = self._raft.term
        return [encode_command(Command("", 0, 0, [Ripen()]))]

    def applied(self) -> None:
        """A Ripen took effect."""
        self._term = 0
        self.consider()

    def consider(self) -> None:
        """Something may be due sooner by now, or this node may lead by now."""
        next_ms = self._state().delays.next_ms
        if next_ms is None or not self._raft.is_leader:
            return
        wait_ms = min(next_ms - self._raft.log_time_ms(), WAIT_MS_MAX)
        if wait_ms <= 0:
            self._raft.request_step()
        elif self._timer is None or next_ms < self._timer_ms:
            self.stop()
            self._timer_ms = next_ms
            self._timer = self._clock.call_later(wait_ms, self._again)

    def stop(self) -> None:
        """Propose no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = None
        self.consider()
