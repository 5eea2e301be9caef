"""Who waits for one answer.

What lives here: the answer that is given once, or to nobody.
Rules: after `finish` or `cancel` neither does anything.
Must not know: what is waited for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pending(ABC, Generic[T]):
    """Waits until it is answered or given up."""

    __slots__ = ("done",)

    def __init__(self, done: Callable[[T], None]) -> None:
        self.done: Callable[[T], None] | None = done
        """None once it is over."""

    def finish(self, answer: T) -> None:
        """Answer, once."""
        done, self.done = self.done, None
        if done is not None:
            done(answer)

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self.done is not None:
            self.done = None
            self._given_up()

    @abstractmethod
    def _given_up(self) -> None:
        """Its owner lets go of it."""
