"""Who sees to it that what is to go goes: the leader.

What lives here: the proposal of one Trim or TrimLevels after the other, while there is something to trim.
Rules (PROTOCOL.md P12): at most one of them is under way in a term, and the next one waits for `trim_interval_ms`, so
that trimming millions of messages leaves the log to clients. Nothing is remembered that decides: what is left to be
trimmed is in the machine's state, so the next leader goes on where this one ended. A topic that grew too large is named
at once. Since time alone makes messages old, and consumers settle them, every topic that may have something to trim is
looked at again and again (machine/surveying.py): a bounded number of looks in a turn, and of a topic with very many
consumers in many turns, `trim_interval_ms` apart.
Must not know: what is trimmed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.machine.commands import (
    AnyOperation,
    Command,
    Trim,
    encode_command,
)
from falconq_cluster.machine.events import Event, LevelGrew, TopicChanged, TopicPurged
from falconq_cluster.machine.keeping import Survey as Found
from falconq_cluster.machine.keeping import TrimLevels
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.retention import is_over, is_over_size
from falconq_cluster.machine.surveying import Survey
from falconq_cluster.raft.seams import RaftView

TOPICS_MAX = 200
"""Topics that are looked at in one turn, and named by one command."""
LOOKS_MAX = 4_000
"""What one turn looks at, as a survey counts it: some 2 ms."""
PLACES_MAX = 500
"""What the surveys of one command name, beyond the last one's: it trims and erases no more at a time."""


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
        self._look_timer: Timer | None = None
        self._sweep_timer: Timer | None = None
        self._over: dict[str, None] = {}
        """Topics that may be over their age or size; each is judged again before it is named."""
        self._found: dict[str, Found] = {}
        """topic -> what was found to go because of consumers, and was not named yet."""
        self._next_ones: dict[str, None] = {}
        """Topics that are looked at before the round goes on: something has just happened to them."""
        self._round: deque[str] = deque()
        """What is left of this round."""
        self._survey: Survey | None = None
        """The look that is under way."""
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
        operation = None if has_deletions and not self._was_deletion else self._trim_levels()
        self._was_deletion = has_deletions and operation is None
        if operation is not None:
            return operation
        return Trim() if has_deletions else None

    def _trim_levels(self) -> TrimLevels | None:
        over = list(self._over)[:TOPICS_MAX]
        for name in over:
            del self._over[name]
        over = [name for name in over if self._is_over(name)]
        surveys: list[Found] = []
        while self._found and sum(found.place_count for found in surveys) < PLACES_MAX:
            surveys.append(self._found.pop(next(iter(self._found))))
        if not over and not surveys:
            return None
        # There may be more of them than one command takes.
        self._next_ones |= dict.fromkeys([*over, *(found.topic for found in surveys)])
        return TrimLevels(over, tuple(surveys))

    def _is_over(self, name: str) -> bool:
        topic = self._machine().state.topics.get(name)
        return topic is not None and is_over(topic, self._raft.log_time_ms())

    def applied(self) -> None:
        """A Trim or TrimLevels took effect; the next one comes a little later."""
        self._term = 0
        if self._raft.is_leader and self._timer is None:
            self._timer = self._clock.call_later(self._limits.trim_interval_ms, self._again)
            self.consider()

    def consider(self) -> None:
        """There may be something to trim by now, or this node may lead by now."""
        if not self._raft.is_leader:
            return
        if self._machine().state.deletions or self._over or self._found:
            self._raft.request_step()
        if self._look_timer is None and (self._next_ones or self._survey):
            self._look_timer = self._clock.call_later(self._limits.trim_interval_ms, self._look_on)
        if self._sweep_timer is None and self._machine().state.trimmable:
            self._sweep_timer = self._clock.call_later(self._limits.retention_interval_ms, self._sweep)

    def changed(self, events: Sequence[Event]) -> None:
        """Look at the topics that an entry changed."""
        state = self._machine().state
        if not self._raft.is_leader or not state.trimmable:
            return
        for event in events:
            if isinstance(event, LevelGrew):
                # What grew is only too large by it, which is known without a look.
                if event.topic in state.trimmable and is_over_size(state.topics[event.topic]):
                    self._over[event.topic] = None
            elif isinstance(event, TopicChanged | TopicPurged) and event.topic in state.trimmable:
                self._next_ones[event.topic] = None
        self.consider()

    def _again(self) -> None:
        self._timer = None
        self.consider()

    def _look_on(self) -> None:
        self._look_timer = None
        self._look()
        self.consider()

    def _sweep(self) -> None:
        """Look at the next topics of the round; a round is over before the next one begins."""
        self._sweep_timer = None
        if not self._round:
            self._round.extend(self._machine().state.trimmable)
        if self._survey is None:
            self._look(is_round=True)
        self.consider()

    def _look(self, *, is_round: bool = False) -> None:
        """Goes on looking, at what just changed or at the topics of the round."""
        if not self._raft.is_leader:
            self._forget()
            return
        looks, topics = LOOKS_MAX, 0
        while looks > 0 and topics < TOPICS_MAX and (survey := self._survey or self._begin(is_round=is_round)):
            self._survey = survey
            looks = survey.look(looks)
            if survey.is_done:
                self._survey = None
                topics += 1
                self._see(survey)

    def _begin(self, *, is_round: bool) -> Survey | None:
        """A survey of the next topic that is there."""
        machine = self._machine()
        while self._next_ones or (is_round and self._round):
            if self._next_ones:
                name = next(iter(self._next_ones))
                del self._next_ones[name]
            else:
                name = self._round.popleft()
            if name in machine.state.trimmable and name not in self._found:
                topic, now_ms = machine.state.topics[name], self._raft.log_time_ms()
                return Survey(topic, machine.applied_index, now_ms, machine.limits)
        return None

    def _see(self, survey: Survey) -> None:
        topic = survey.topic
        if self._machine().state.topics.get(topic.name) is not topic:
            return
        if survey.is_over:
            self._over[topic.name] = None
        found = survey.found
        if found.place_count:
            self._found[topic.name] = found

    def _forget(self) -> None:
        self._over.clear()
        self._found.clear()
        self._next_ones.clear()
        self._round.clear()
        self._survey = None

    def stop(self) -> None:
        """Propose no more."""
        for timer in (self._timer, self._look_timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._look_timer = self._sweep_timer = None
