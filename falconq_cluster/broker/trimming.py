"""Who sees to it that what is to go goes: the leader.

What lives here: the proposal of one Trim or TrimLevels after the other, while there is something to trim.
Rules (PROTOCOL.md P12): at most one of them is under way in a term, and the next one waits for `trim_interval_ms`, so
that trimming millions of messages leaves the log to clients. Nothing is remembered that decides: what is left to be
trimmed is in the machine's state, so the next leader goes on where this one ended. A topic that grew is looked at as
soon as it did; since time alone makes messages old, and consumers settle them, every topic that may have something to
trim is looked at again and again, a bounded number at a time.
Must not know: what is trimmed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.machine.commands import (
    AnyOperation,
    Command,
    Trim,
    encode_command,
)
from falconq_cluster.machine.events import Event, LevelGrew, TopicChanged, TopicPurged
from falconq_cluster.machine.keeping import TrimLevels
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.retention import is_due
from falconq_cluster.raft.seams import RaftView

LOOKED_AT_MAX = 200
"""Topics that are looked at in one turn, and named by one command."""


class Trimming:
    """Proposes on the leader; idle elsewhere."""

    def __init__(
        self,
        *,
        raft: RaftView,
        machine: Callable[[], Machine],
        clock: Clock,
        limits: BrokerLimits,
    ) -> None:
        self._raft = raft
        self._machine = machine
        self._clock = clock
        self._limits = limits
        self._term = 0
        """In which a command of this is under way; 0 when none is."""
        self._timer: Timer | None = None
        self._sweep_timer: Timer | None = None
        self._due: dict[str, None] = {}
        """Topics of which something is to be trimmed now; each is judged again before it is named."""
        self._to_look_at: deque[str] = deque()
        """What is left of this round."""
        self._was_deletion = False
        """Deleted topics and others take turns."""

    def take(self) -> list[bytes]:
        """On the leader: the command to append now, if it is time for one."""
        if self._timer is not None or self._term == self._raft.term:
            return []
        operation = self._next()
        if operation is None:
            return []
        self._term = self._raft.term
        return [encode_command(Command("", 0, 0, [operation]))]

    def _next(self) -> AnyOperation | None:
        has_deletions = bool(self._machine().state.deletions)
        names = [] if has_deletions and not self._was_deletion else self._take_due()
        self._was_deletion = has_deletions and not names
        if names:
            return TrimLevels(names)
        return Trim() if has_deletions else None

    def _take_due(self) -> list[str]:
        names = list(self._due)[:LOOKED_AT_MAX]
        for name in names:
            # To the end, since there may be more of it than one command takes.
            del self._due[name]
        names = [name for name in names if self._is_due(name)]
        self._due |= dict.fromkeys(names)
        return names

    def _is_due(self, name: str) -> bool:
        topic = self._machine().state.topics.get(name)
        return topic is not None and is_due(topic, self._raft.log_time_ms(), self._machine().limits)

    def applied(self) -> None:
        """A Trim or TrimLevels took effect; the next one comes a little later."""
        self._term = 0
        if self._timer is None and self._raft.is_leader and (self._machine().state.deletions or self._due):
            self._timer = self._clock.call_later(self._limits.trim_interval_ms, self._again)

    def consider(self) -> None:
        """There may be something to trim by now, or this node may lead by now."""
        if not self._raft.is_leader:
            return
        if self._machine().state.deletions or self._due:
            self._raft.request_step()
        if self._sweep_timer is None and self._machine().state.trimmable:
            self._sweep_timer = self._clock.call_later(self._limits.retention_interval_ms, self._sweep)

    def changed(self, events: Sequence[Event]) -> None:
        """Look at the topics that an entry changed."""
        if not self._raft.is_leader or not self._machine().state.trimmable:
            return
        names = [event.topic for event in events if isinstance(event, LevelGrew | TopicChanged | TopicPurged)]
        self._look_at(name for name in dict.fromkeys(names) if name in self._machine().state.trimmable)
        self.consider()

    def _look_at(self, names: Iterable[str]) -> None:
        self._due |= dict.fromkeys(name for name in names if name not in self._due and self._is_due(name))

    def _sweep(self) -> None:
        """Look at the next topics of the round; a round is over before the next one begins."""
        self._sweep_timer = None
        if not self._raft.is_leader:
            self._due.clear()
            self._to_look_at.clear()
            return
        if not self._to_look_at:
            self._to_look_at.extend(self._machine().state.trimmable)
        self._look_at([self._to_look_at.popleft() for _ in range(min(LOOKED_AT_MAX, len(self._to_look_at)))])
        self.consider()

    def stop(self) -> None:
        """Propose no more."""
        for timer in (self._timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweep_timer = None

    def _again(self) -> None:
        self._timer = None
        self.consider()
