"""The log as the journal keeps it in memory: where each entry is, and the newest commands themselves.

What lives here: the table of entries, and the bounded cache of commands.
Rules: indexes are contiguous. A command that is not durable is always in memory; the others only as far as
`cache_bytes` goes: those from `_cached_from` on. An entry that was never written has segment 0.
Must not know: files, formats, who asks.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple


class Place(NamedTuple):
    """Where an entry's record stands on disk."""

    segment: int
    position: int
    command_bytes: int


class EntryTable:
    """The entries from `first_index` to `last_index`; about 28 bytes of memory each, and the cached commands."""

    first_index: int
    """0 when the log is empty."""
    _terms: array[int]
    _sizes: array[int]
    _segments: array[int]
    _positions: array[int]
    _cache: dict[int, bytes]
    _cached_from: int
    _cached_bytes: int

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes_max = cache_bytes
        self._clear()

    def __len__(self) -> int:
        return len(self._terms)

    @property
    def last_index(self) -> int:
        """0 when the log is empty."""
        return self.first_index + len(self._terms) - 1 if self._terms else 0

    def term(self, index: int) -> int:
        return self._terms[index - self.first_index]

    def place(self, index: int) -> Place:
        at = index - self.first_index
        return Place(self._segments[at], self._positions[at], self._sizes[at])

    def cached(self, index: int) -> bytes | None:
        """The command, or None when it must be read from its place."""
        return self._cache.get(index)

    def append(self, index: int, term: int, command: bytes) -> None:
        """Add the next entry; a first one may have any index."""
        if not self._terms:
            self.first_index = self._cached_from = index
        assert index == self.first_index + len(self._terms), f"entry {index} does not follow {self.last_index}"
        self._terms.append(term)
        self._sizes.append(len(command))
        self._segments.append(0)
        self._positions.append(0)
        self._cache[index] = command
        self._cached_bytes += len(command)

    def set_place(self, index: int, segment: int, position: int) -> None:
        """Note where the entry was written; harmless when the log no longer has it."""
        at = index - self.first_index
        if 0 <= at < len(self._terms):
            self._segments[at] = segment
            self._positions[at] = position

    def truncate(self, index: int) -> None:
        """Drop the entries from `index` on."""
        if index <= self.first_index:
            self._clear()
            return
        for gone in range(max(index, self._cached_from), self.last_index + 1):
            self._forget(gone)
        self._cached_from = min(self._cached_from, index)
        at = index - self.first_index
        for column in (self._terms, self._sizes, self._segments, self._positions):
            del column[at:]

    def cut(self, index: int) -> None:
        """Drop the entries before `index`, which stays when the log has it."""
        if index <= self.first_index or not self._terms:
            return
        if index > self.last_index:
            self._clear()
            return
        for gone in range(self._cached_from, index):
            self._forget(gone)
        self._cached_from = max(self._cached_from, index)
        at = index - self.first_index
        for column in (self._terms, self._sizes, self._segments, self._positions):
            del column[:at]
        self.first_index = index

    def evict(self, durable_index: int) -> None:
        """Let go of the oldest commands up to `durable_index` while the cache is over its bound."""
        while self._cached_bytes > self._cache_bytes_max and self._cached_from <= durable_index:
            self._forget(self._cached_from)
            self._cached_from += 1

    def _forget(self, index: int) -> None:
        self._cached_bytes -= len(self._cache.pop(index))

    def _clear(self) -> None:
        self.first_index = 0
        self._terms = array("Q")
        self._sizes = array("I")
        self._segments = array("Q")
        self._positions = array("Q")
        self._cache = {}
        self._cached_from = 0
        self._cached_bytes = 0
