"""What can be asked about what a topic keeps, and what comes back.

What lives here: the operations of retention and purges, and their results, as data.
Rules: those of machine/commands.py, which lists them.
Must not know: what they do.
"""

from __future__ import annotations

import msgspec

from falconq_cluster.machine.operation import Operation


class Survey(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a look at all consumers of a topic found; whoever proposes has looked."""

    topic: str
    number: int
    """Of the topic."""
    index: int
    """That was applied when the look began: it saw all consumers that had their numbers by then."""
    acked: list[tuple[int, int, int]]
    """(partition, level, offset before which each consumer that it saw has settled everything)."""
    erasable: list[tuple[int, int, int]]
    """(partition, level, base offset before which all is trimmed and no attempt names anything)."""
    held: list[tuple[str, int, int]]
    """(consumer, partition, level) where what is trimmed is in hand."""

    @property
    def place_count(self) -> int:
        return len(self.acked) + len(self.erasable) + len(self.held)


class TrimLevels(Operation, frozen=True, tag=40):
    """Trim what the topics need not keep, and erase what is trimmed, within P12's bounds."""

    topics: list[str]
    """Those that may be over their age or size."""
    surveys: tuple[Survey, ...] = ()
    """Of others or the same, what is to go because of their consumers, or may."""


class Purge(Operation, frozen=True, tag=41):
    """Trim all that a topic holds; it is erased later (P12)."""

    not_after_ms: int
    topic: str


class Purged(msgspec.Struct, frozen=True, tag=True):
    """The topic is empty."""

    count: int
    """Messages that it held."""
