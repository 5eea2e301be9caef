"""What all operations have in common.

What lives here: their base, and what makes one happen at most once.
Rules: those of machine/commands.py, which lists all operations.
Must not know: any operation.
"""

from __future__ import annotations

import msgspec


class Operation(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="kind"):
    """The base of all operations."""


class Once(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What makes an append happen at most once within the published window."""

    name: str
    """The idempotency key, or the producer's id. Both are of one topic and of different kinds."""
    sequence: int = 0
    """0 with an idempotency key; the producer's sequence counts from 1."""
    digest: bytes = b""
    """Of what a repeat must be equal in, by `machine.deduping.digest_of`; empty: of the level and the records."""
