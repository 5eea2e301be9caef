"""The leader's side: which commands go into the log, in which order.

What lives here: the next sequence that is expected of each origin, and the queue of accepted commands.
Rules (PROTOCOL.md P9): in one term, what is accepted from an origin's epoch has no gap and no repeat, and begins
behind what the machine had applied when the term's no-op was. Nothing is kept over a change of term: the next
leader's machine says where each origin stands. The log and the machine would bear repeats and gaps; they only cost.
The queue is bounded by what origins may have outstanding, times the number of members.
Must not know: how commands arrive, what is in them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from falconq_cluster.broker.limits import BrokerMetrics
from falconq_cluster.machine.machine import Machine


@dataclass(slots=True)
class _Origin:
    """Where one origin stands in this term."""

    epoch: int
    next_sequence: int
    is_gap_answered: bool = False


class Intake:
    """Accepts commands while this node leads."""

    def __init__(self, machine: Callable[[], Machine], metrics: BrokerMetrics) -> None:
        self._machine = machine
        self._metrics = metrics
        self._term = 0
        self._origins: dict[str, _Origin] = {}
        self._queue: deque[bytes] = deque()
        self._openings: dict[str, bytes] = {}

    @property
    def term(self) -> int:
        """The term that commands are accepted in; 0 while another node leads."""
        return self._term

    @property
    def queue_count(self) -> int:
        return len(self._queue)

    def begin(self, term: int) -> bool:
        """This node leads in `term` and has applied its no-op. Whether that is new."""
        if term == self._term:
            return False
        self._reset(term)
        return True

    def end(self) -> None:
        """Another term has begun, or another node leads."""
        if self._term:
            self._reset(0)

    def _reset(self, term: int) -> None:
        self._term = term
        self._origins.clear()
        self._queue.clear()
        self._openings.clear()

    def offer(self, origin: str, epoch: int, sequence: int, command: bytes) -> int | None:
        """Accept the command if it is the next of its origin.

        Returns the sequence that is expected when one is missing; once for each gap, else None.
        """
        known = self._origin(origin, epoch)
        if known is None:
            return None
        if sequence == known.next_sequence:
            known.next_sequence += 1
            known.is_gap_answered = False
            self._queue.append(command)
            return None
        if sequence < known.next_sequence:
            self._metrics.repeat_count += 1
            return None
        self._metrics.gap_count += 1
        if known.is_gap_answered:
            return None
        known.is_gap_answered = True
        return known.next_sequence

    def offer_opening(self, node: str, command: bytes) -> None:
        """Accept the opening of an origin, once in a term."""
        if self._term and self._openings.get(node) != command:
            self._openings[node] = command
            self._queue.append(command)

    def connections_changed(self) -> None:
        """Frames and answers may have been lost: the next gap of each origin is a new one."""
        for known in self._origins.values():
            known.is_gap_answered = False

    def origin_opened(self, node: str) -> None:
        """The origin's new epoch is applied here; what follows under an older one is dropped."""
        self._origins.pop(node, None)

    def expected(self, origin: str) -> tuple[int, int] | None:
        """(epoch, sequence) that is next of the origin; None before its first epoch."""
        state = self._machine().origin(origin)
        known = None if state is None else self._origin(origin, state.epoch)
        return None if known is None else (known.epoch, known.next_sequence)

    def take(self, bytes_max: int) -> list[bytes]:
        """The next commands for the log, of about this size; at least one if there is any."""
        taken: list[bytes] = []
        size = 0
        while self._queue and (not taken or size + len(self._queue[0]) <= bytes_max):
            command = self._queue.popleft()
            size += len(command)
            taken.append(command)
        return taken

    def _origin(self, origin: str, epoch: int) -> _Origin | None:
        """Where the origin stands; None when the epoch is not its present one."""
        if not self._term:
            return None
        state = self._machine().origin(origin)
        if state is None or state.epoch != epoch:
            return None
        known = self._origins.get(origin)
        if known is None:
            known = self._origins[origin] = _Origin(epoch, state.last_sequence + 1)
        return known
