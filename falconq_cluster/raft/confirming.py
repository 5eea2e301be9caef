"""How a leader proves that it still leads: a quorum answers a round that began after the question (PROTOCOL.md P17).

What lives here: the questions for a read index, the rounds of keepalives, and who has answered which.
Rules: the index is the commit index when the question came. It is told once a majority, by disks on record, has
answered a round that began later: each of them was then at no higher term, so nobody else had committed anything that
the index does not cover. A herd of questions shares a round.
Must not know: what is read, who asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Told = Callable[[int | None], None]
"""Takes the read index, or None when this node could not prove that it leads."""


@dataclass(frozen=True, slots=True)
class _Question:
    round: int
    """The first round that began after the question came."""
    index: int
    told: Told


class Confirming:
    """The rounds of one node, as long as it leads one term."""

    def __init__(
        self, *, others: Sequence[str], counts: Callable[[str], bool], self_counts: Callable[[], bool]
    ) -> None:
        self._others = tuple(others)
        self._counts = counts
        self._self_counts = self_counts
        self._round = 0
        self._answered = dict.fromkeys(self._others, 0)
        self._questions: deque[_Question] = deque()
        """In the order in which they came, so their rounds and indexes never fall."""

    @property
    def wants_round(self) -> bool:
        """Whether a question waits for a round to begin and no earlier one is under way that will end soon."""
        return bool(self._questions) and self._questions[0].round > self._round

    def ask(self, commit_index: int, told: Told) -> None:
        """`told(index)` once the leadership is confirmed, `told(None)` when it ends first."""
        self._questions.append(_Question(self._round + 1, commit_index, told))

    def begin_round(self) -> int:
        """The number of the round that begins now; numbers are never used again."""
        self._round += 1
        return self._round

    def answered(self, peer: str, round_number: int) -> None:
        """The peer, at this term, answered a round of it; a disk that is not on record proves nothing (P4)."""
        if self._counts(peer):
            self._answered[peer] = max(self._answered[peer], round_number)

    def settle(self) -> None:
        """Tell those whose round a majority has answered."""
        if not self._questions:
            return
        confirmed = self._confirmed_round()
        while self._questions and self._questions[0].round <= confirmed:
            question = self._questions.popleft()
            question.told(question.index)

    def end(self) -> None:
        """Another node leads, or none: nothing that was answered proves anything any more."""
        self._answered = dict.fromkeys(self._others, 0)
        questions, self._questions = self._questions, deque()
        for question in questions:
            question.told(None)

    def _confirmed_round(self) -> int:
        """The last round that a majority has answered; this node answers its own at once."""
        rounds = sorted((self._round if self._self_counts() else 0, *self._answered.values()), reverse=True)
        return rounds[len(rounds) // 2]
