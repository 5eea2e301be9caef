"""What stands between a peer's frame and PySyncObj, so that its holes can't be reached.

What lives here: pure checks and rewrites of log frames, each named after the hole of RAFT.md that it closes.
Rules: a follower never shortens a log that matches (S2), never believes a commit index beyond what it verified (S1)
and synced (P2); a leader counts an answer only for the term, member and reset it belongs to (S11, S12, L1).
Must not know: PySyncObj's objects, sockets, time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from falconq_cluster.raft.frames import Append, AppendReply


class LogView(Protocol):
    """What the guards read of the journal."""

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def last_term(self) -> int: ...
    @property
    def synced_index(self) -> int: ...
    def term_at(self, index: int) -> int | None:
        """Term of the entry, or None when the log does not hold it."""


@dataclass(frozen=True, slots=True)
class StrippedAppend:
    """An Append without what the log already holds."""

    previous_index: int
    previous_term: int
    entries: list[tuple[bytes, int, int]]
    verified_index: int
    """Up to here the log equals the leader's once the entries are in; 0 when the logs do not join."""
    joins: bool
    """Whether the log holds (previous_index, previous_term)."""


def strip_matching(frame: Append, log: LogView) -> StrippedAppend:
    """Cuts off the entries that the log holds with the same term, so that the library can't truncate them (S2).

    When all match, what is left is a heartbeat at the log's own end: late and repeated frames shorten nothing.
    """
    end = frame.previous_index + len(frame.entries)
    if frame.previous_index > log.last_index:
        return StrippedAppend(frame.previous_index, frame.previous_term, [], 0, joins=False)
    known = log.term_at(frame.previous_index)
    if known is not None and known != frame.previous_term:
        return StrippedAppend(frame.previous_index, frame.previous_term, [], 0, joins=False)
    position = 0
    if known is None:  # before the log's first entry: committed long ago, so equal on both sides
        position = min(len(frame.entries), log.first_index - frame.previous_index)
        end = max(end, log.first_index)
    while position < len(frame.entries) and log.term_at(frame.entries[position][1]) == frame.entries[position][2]:
        position += 1
    entries = frame.entries[position:]
    if not entries:
        return StrippedAppend(log.last_index, log.last_term, [], end, joins=True)
    previous_index = entries[0][1] - 1
    previous_term = log.term_at(previous_index)
    if previous_term is None:
        message = f"entry {entries[0][1]} does not join a log of {log.first_index}..{log.last_index}"
        raise AssertionError(message)
    return StrippedAppend(previous_index, previous_term, entries, end, joins=True)


def clamp_commit(*, leader_commit: int, verified_index: int, synced_index: int) -> int:
    """The commit index that a follower may act on: verified against this leader's log (S1), and on its disk (P2)."""
    return min(leader_commit, verified_index, synced_index)


def conflict_next_index(frame: Append, log: LogView, commit_index: int) -> int:
    """Where the leader should try next when the logs do not join: the start of the follower's conflicting term.

    Never at or below the follower's commit index, which is equal on both sides.
    """
    if frame.previous_index > log.last_index:
        return log.last_index + 1
    term = log.term_at(frame.previous_index)
    index = frame.previous_index
    while index - 1 > commit_index and log.term_at(index - 1) == term:
        index -= 1
    return max(index, commit_index + 1)


def is_reply_current(reply: AppendReply, *, term: int, epoch: int, last_index: int) -> bool:
    """Whether an answer belongs to this term (S11), and if it rewinds, to the last rewind (L1)."""
    if reply.term != term or reply.next_index < 1 or reply.next_index > last_index + 1:
        return False
    return reply.epoch == epoch if reply.reset else True


class VoteTally:
    """Counts each voter once a term (S12)."""

    def __init__(self) -> None:
        self._term = 0
        self._voters: set[str] = set()

    def is_new(self, *, voter: str, term: int) -> bool:
        """Whether this voter has not been counted in this term; it now is."""
        if term > self._term:
            self._term = term
            self._voters = set()
        if term < self._term or voter in self._voters:
            return False
        self._voters.add(voter)
        return True
