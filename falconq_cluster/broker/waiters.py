"""One operation on its way, and what became of it.

What lives here: the outcome that a submitter gets, and the waiter that stands for the operation meanwhile.
Rules: every waiter ends exactly once: with the operation's result, with an error that says whether it may have been
applied, or cancelled. A submitter's defect never reaches the apply that woke it.
Must not know: where operations wait and how they travel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import ClientOperation, Refused, Result


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation."""

    result: Result | FalconQError
    """A result is exact and final. An error of status 504 leaves open whether the operation was or will be applied;
    with any other error it surely was not and never will be."""
    index: int = 0
    """Log index at which it was applied; 0 with an error."""


ResultT = TypeVar("ResultT", bound=Result)


def accepted(outcome: Outcome, kind: type[ResultT]) -> ResultT:
    """The result of an operation that took effect. Raises: FalconQError when it did not, or may not have."""
    result = outcome.result
    if isinstance(result, FalconQError):
        raise result
    if isinstance(result, Refused):
        raise FalconQError(result.code, result.detail)
    if not isinstance(result, kind):
        message = f"an operation was answered with {type(result).__name__}, not {kind.__name__}"
        raise TypeError(message)
    return result


class Owner(Protocol):
    """Who holds a waiter."""

    def cancelled(self, waiter: Waiter) -> None:
        """The submitter of an operation without a sequence is gone."""


class Waiter:
    """A submitted operation."""

    __slots__ = (
        "_done",
        "_owner",
        "deadline_ms",
        "is_cancelled",
        "is_sequenced",
        "operation",
        "partitions",
        "size_bytes",
    )

    def __init__(
        self,
        owner: Owner,
        operation: ClientOperation,
        *,
        size_bytes: int,
        partitions: int,
        deadline_ms: int,
        done: Callable[[Outcome], None],
    ) -> None:
        self._owner = owner
        self._done: Callable[[Outcome], None] | None = done
        self.operation = operation
        self.size_bytes = size_bytes
        self.partitions = partitions
        """The operation touches at most so many."""
        self.deadline_ms = deadline_ms
        self.is_cancelled = False
        self.is_sequenced = False
        """Whether the operation is part of a command: from then on it may be applied."""

    @property
    def is_over(self) -> bool:
        return self._done is None

    def cancel(self) -> None:
        """Give up. An operation without a sequence is not proposed, and ends without a word.

        One that has a sequence is not proposed again under another; its outcome is told as ever.
        """
        self.is_cancelled = True
        if self._done is not None and not self.is_sequenced:
            self._done = None
            self._owner.cancelled(self)

    def finish(self, outcome: Outcome) -> None:
        """Tell the submitter, once."""
        done, self._done = self._done, None
        if done is None:
            return
        try:
            done(outcome)
        except Exception:  # noqa: BLE001
            # A door (STYLE.md): the log goes on whatever a waiter does with its result.
            structlog.get_logger().exception("waiter_failed", index=outcome.index)
