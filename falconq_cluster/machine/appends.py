"""Appends of more than one record batch, as operations and results.

What lives here: AppendMany, and what it did.
Rules: those of machine/commands.py, which lists all operations and results.
Must not know: the log, the network, time.
"""

from __future__ import annotations

import msgspec

from falconq_cluster.machine.operation import Once, Operation


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What becomes one record batch."""

    partition: int
    level: int
    count: int
    records: bytes
    """`count` records, as in `machine.commands.Append`."""
    delay_ms: int = 0
    """From the log time of the command on, until they enter their level."""
    ttl_ms: int = 0
    """From when they enter their level on, until nobody is given them any more; 0 for ever."""


class AppendMany(Operation, frozen=True, tag=30):
    """Append all parts to one topic, or none."""

    not_after_ms: int
    topic: str
    parts: list[Part]
    may_create: bool
    expected: tuple[tuple[int, int], ...] = ()
    """(partition, its last offset before the operation, -1 of an empty one); else `precondition_failed`."""
    once: Once | None = None
    """With a digest: other tries of the same messages may have other parts."""


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a record batch is."""

    partition: int
    level: int
    base_offset: int
    """-1 while its messages wait for their time."""
    count: int
    due_ms: int = 0
    """Log time at which they enter their level; 0 of what was not delayed."""


class Ripen(Operation, frozen=True, tag=31):
    """Move what is due by log time into its levels, within P12's bounds. Alone in its command."""


class AppendedMany(msgspec.Struct, frozen=True, tag=True):
    """All parts are stored."""

    topic: str
    places: list[Place]
    """One for each part, in their order."""
    first_id: int
    """Message i, counted through the parts in their order, has the id "<log index>.<first_id + i>"."""
    timestamp_ms: int

    @property
    def count(self) -> int:
        """Messages."""
        return sum(place.count for place in self.places)
