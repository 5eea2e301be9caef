"""When to campaign: the timer, the leader's liveness, and pre-vote.

What lives here: PROTOCOL.md P6, and the disk's part of P7.
Rules: a node campaigns only when no live leader was heard for the timeout and a majority says that it would vote; a
node that hears a live leader helps nobody to depose it; a timer that fires late first lets waiting frames be read; a
node whose disk stalled does not campaign before a sync was fast again.
Must not know: the library, the journal, frames on the wire.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

LATE_MS = 60
"""A timer this late means that the process stood still: frames may wait in the sockets."""
LATE_GRACE_MS = 40
LOST_LEADER_MS = (20, 120)
"""After the leader's connection dropped: a killed process is replaced fast, and two candidates seldom collide."""
FAST_SYNC_MS = 100


@dataclass(frozen=True, slots=True)
class ElectionTimes:
    """Limits of the election timer in milliseconds."""

    timeout_min_ms: int
    timeout_max_ms: int
    sync_stall_ms: int


class Election:
    """Decides when this node may ask for votes."""

    def __init__(self, times: ElectionTimes, *, now_ms: Callable[[], int], chance: random.Random) -> None:
        self._times = times
        self._now_ms = now_ms
        self._chance = chance
        self._leader_heard_ms: int | None = None
        self._round = 0
        self._granted: set[str] = set()
        self._asks_term = 0
        self._sync_started_ms: int | None = None
        self.is_disk_suspect = False
        """A sync stalled and none has been fast since (P7)."""
        self.deadline_ms = 0
        self.postpone()

    # The timer.

    def postpone(self) -> None:
        """Wait a full random timeout from now."""
        span = self._times.timeout_max_ms - self._times.timeout_min_ms
        self.deadline_ms = self._now_ms() + self._times.timeout_min_ms + int(self._chance.random() * span)

    def leader_heard(self) -> None:
        """The leader of the present term sent something."""
        self._leader_heard_ms = self._now_ms()
        self.postpone()

    def leader_lost(self) -> None:
        """The connection to the leader dropped: campaign soon."""
        self._leader_heard_ms = None
        low, high = LOST_LEADER_MS
        self.deadline_ms = min(self.deadline_ms, self._now_ms() + low + int(self._chance.random() * (high - low)))

    def is_due(self) -> bool:
        """Whether the timeout has passed; a late timer grants the sockets a moment first."""
        late_ms = self._now_ms() - self.deadline_ms
        if late_ms < 0:
            return False
        if late_ms > LATE_MS:
            self.deadline_ms = self._now_ms() + LATE_GRACE_MS
            return False
        return True

    def hears_live_leader(self) -> bool:
        """Whether a leader was heard within the minimum timeout: then nobody gets a vote (stickiness)."""
        heard = self._leader_heard_ms
        return heard is not None and self._now_ms() - heard < self._times.timeout_min_ms

    def leader_is_silent(self) -> bool:
        """Whether no leader was heard for as long as the longest timeout: whoever it was, it can't be counted on."""
        heard = self._leader_heard_ms
        return heard is None or self._now_ms() - heard > self._times.timeout_max_ms

    # Pre-vote.

    def ask(self, *, term: int) -> int:
        """Begin a pre-vote round for `term`; returns its number."""
        self._round += 1
        self._granted = set()
        self._asks_term = term
        self.postpone()
        return self._round

    def grant_received(self, *, voter: str, round_number: int, term: int) -> int:
        """Count a grant; returns how many voters granted this round so far, 0 for another round's answer."""
        if round_number != self._round or term != self._asks_term:
            return 0
        self._granted.add(voter)
        return len(self._granted)

    def round_is_over(self) -> None:
        """Later answers to the present round count for nothing."""
        self._round += 1

    # The disk.

    def sync_started(self) -> None:
        """A sync runs from now on."""
        self._sync_started_ms = self._now_ms()

    def sync_finished(self) -> int:
        """A sync succeeded; returns how long it took. A fast one clears the suspicion."""
        started = self._sync_started_ms
        self._sync_started_ms = None
        took_ms = 0 if started is None else self._now_ms() - started
        if took_ms >= self._times.sync_stall_ms:
            self.is_disk_suspect = True
        elif took_ms < FAST_SYNC_MS:
            self.is_disk_suspect = False
        return took_ms

    def is_disk_stalled(self) -> bool:
        """Whether the running sync has lasted too long; from then on the disk is suspect."""
        started = self._sync_started_ms
        if started is not None and self._now_ms() - started >= self._times.sync_stall_ms:
            self.is_disk_suspect = True
            return True
        return False
