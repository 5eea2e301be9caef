"""What can be asked about what a topic keeps, and what comes back.

What lives here: the operations of retention and purges, and their results, as data.
Rules: those of machine/commands.py, which lists them.
Must not know: what they do.
"""

from __future__ import annotations

import msgspec

from falconq_cluster.machine.operation import Operation


class TrimLevels(Operation, frozen=True, tag=40):
    """Trim what the topics need not keep, and erase what is trimmed, within P12's bounds."""

    topics: list[str]


class Purge(Operation, frozen=True, tag=41):
    """Trim all that a topic holds; it is erased later (P12)."""

    not_after_ms: int
    topic: str


class Purged(msgspec.Struct, frozen=True, tag=True):
    """The topic is empty."""

    count: int
    """Messages that it held."""
