"""Finding out who wrote something else.

What lives here: PROTOCOL.md P18, the leader's side.
Rules: replicas report (index, rolling hash) with their answers; a difference is judged by the hashes of all members
at that one index. A majority goes on, the minority stops; until a majority is known the leader takes no commands.
Must not know: the machine, the library, frames' transport.
"""

from __future__ import annotations

import enum
from collections.abc import Callable


class Verdict(enum.Enum):
    """What to do after a report."""

    AGREES = "agrees"
    UNDECIDED = "undecided"
    """Hashes differ and no majority is known yet: ask the others, take no commands."""
    PEER_DIVERGED = "peer_diverged"
    SELF_DIVERGED = "self_diverged"


class DivergenceCheck:
    """Compares the members' rolling hashes at one index."""

    def __init__(self, *, members_count: int, digest_at: Callable[[int], bytes | None]) -> None:
        self._majority = members_count // 2 + 1
        self._digest_at = digest_at
        self.disputed_index = 0
        """The index at which hashes differ; 0 when none is known to."""
        self._votes: dict[str, bytes] = {}

    @property
    def is_disputed(self) -> bool:
        """Whether a difference waits for its verdict."""
        return self.disputed_index != 0

    def reported(self, peer: str, *, index: int, digest: bytes) -> Verdict:
        """A member says what it had written up to `index`."""
        if not digest:
            return Verdict.AGREES
        own = self._digest_at(index)
        if own is None:
            return Verdict.AGREES
        if self.is_disputed and index != self.disputed_index:
            return Verdict.UNDECIDED
        if not self.is_disputed:
            if own == digest:
                return Verdict.AGREES
            self.disputed_index = index
            self._votes = {}
        self._votes[peer] = digest
        return self._judge(own)

    def settled(self) -> None:
        """The diverged member was told to stop."""
        self.disputed_index = 0
        self._votes = {}

    def _judge(self, own: bytes) -> Verdict:
        tally: dict[bytes, int] = {own: 1}
        for digest in self._votes.values():
            tally[digest] = tally.get(digest, 0) + 1
        if tally[own] >= self._majority:
            return Verdict.PEER_DIVERGED
        if max(tally.values()) >= self._majority:
            return Verdict.SELF_DIVERGED
        return Verdict.UNDECIDED

    def diverged_peers(self) -> list[str]:
        """Members whose hash at the disputed index is not this node's."""
        own = self._digest_at(self.disputed_index)
        return sorted(peer for peer, digest in self._votes.items() if digest != own)
