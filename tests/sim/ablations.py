"""Holes that are opened again on purpose, to see whether the simulation falls into them.

What lives here: one switch for each hole of RAFT.md and rule of PROTOCOL.md that stands in the code.
Rules: a switch replaces a guard, in tests only and only while its context lasts; the product knows of none.
Must not know: seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Patch = Callable[[], Callable[[], None]]
ABLATIONS: dict[str, Patch] = {}


@contextmanager
def reopened(name: str) -> Iterator[None]:
    """The hole is open while this lasts; an empty name opens none."""
    if not name:
        yield
        return
    close = ABLATIONS[name]()
    try:
        yield
    finally:
        close()
