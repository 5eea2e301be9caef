"""The store seam: ordered keys and values, written in atomic batches.

What lives here: the protocol that the LevelDB store, the in-memory store and a simulated disk fulfil.
Rules: a batch is applied whole or not at all; batches become durable in the order in which they were written, so
what survives a power loss is a prefix of them; `flush` makes all batches written before it durable.
Must not know: what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

Change = tuple[bytes, bytes | None]
"""(key, value) puts, (key, None) deletes."""


class Reader(Protocol):
    """Reads one state of the store."""

    def get(self, key: bytes) -> bytes | None:
        """The value of the key, or None."""

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop in key order (last first when reverse), of the state at the call."""

    def scan_keys(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        """Keys as `scan` gives them, without reading values."""


class StoreSnapshot(Reader, Protocol):
    """A frozen state of the store; reads may run in another thread."""

    def close(self) -> None:
        """Let the state go."""


class Store(Reader, Protocol):
    """Ordered bytes on one node's disk."""

    def write(self, changes: Sequence[Change]) -> None:
        """Apply all changes atomically, the last one of a key winning. Visible at once, durable after `flush`."""

    def flush(self) -> None:
        """Block until every batch written before the call is durable. May run in another thread beside `write`."""

    def snapshot(self) -> StoreSnapshot:
        """Freeze the present state."""

    def approximate_bytes(self, start: bytes, stop: bytes) -> int:
        """About how many bytes the range takes; 0 when unknown."""

    def compact(self, start: bytes, stop: bytes) -> None:
        """Block until what was deleted in the range takes no space. May run in another thread beside `write`."""

    def close(self) -> None:
        """Flush and release the store; idempotent."""
