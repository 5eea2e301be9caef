"""A store in memory: the same contract as the LevelDB store, for tests and simulation.

What lives here: sorted blocks of keys and values that are shared between the store and its frozen views.
Rules: keys ascend within a block and from block to block, and no block is empty; a block is changed only while
`generation` says that no view has seen it, else it is copied first. So a view costs a copy of the block list.
Must not know: what the bytes mean, files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from falconq_cluster.storage.store import Change

_BLOCK_KEYS_MAX = 512
"""Copying this many references takes about a microsecond, so the first write after a scan stays cheap."""


class _Block:
    __slots__ = ("generation", "keys", "values")

    def __init__(self, keys: list[bytes], values: list[bytes], generation: int) -> None:
        self.keys = keys
        self.values = values
        self.generation = generation


class _View:
    """Reads a list of blocks; `_lows` are their smallest keys, which may since have been deleted."""

    def __init__(self, lows: list[bytes], blocks: list[_Block]) -> None:
        self._lows = lows
        self._blocks = blocks

    def get(self, key: bytes) -> bytes | None:
        number = bisect_right(self._lows, key) - 1
        if number < 0:
            return None
        block = self._blocks[number]
        at = bisect_left(block.keys, key)
        return block.values[at] if at < len(block.keys) and block.keys[at] == key else None

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        blocks = self._range(start, stop)
        if reverse:
            return chain.from_iterable(_pairs_down(block, start, stop) for block in reversed(blocks))
        return chain.from_iterable(_pairs_up(block, start, stop) for block in blocks)

    def scan_keys(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        return (key for key, _value in self.scan(start, stop, reverse=reverse))

    def close(self) -> None:
        self._lows = []
        self._blocks = []

    def _range(self, start: bytes, stop: bytes) -> list[_Block]:
        if start >= stop:
            return []
        first = max(bisect_right(self._lows, start) - 1, 0)
        return self._blocks[first : bisect_left(self._lows, stop)]


class MemoryStore(_View):
    """Fulfils `Store`; nothing is durable, so `flush` has nothing to do."""

    def __init__(self) -> None:
        super().__init__([], [])
        self._generation = 0

    def write(self, changes: Sequence[Change]) -> None:
        for key, value in changes:
            if value is None:
                self._delete(key)
            else:
                self._put(key, value)

    def compact(self, start: bytes, stop: bytes) -> None:
        """What was deleted takes no space here."""

    def flush(self) -> None:
        return

    def snapshot(self) -> _View:
        self._generation += 1
        return _View(self._lows.copy(), self._blocks.copy())

    def approximate_bytes(self, start: bytes, stop: bytes) -> int:
        return sum(len(key) + len(value) for key, value in self.scan(start, stop))

    def close(self) -> None:
        """Keep the content: a store that is opened again would find it."""

    def _range(self, start: bytes, stop: bytes) -> list[_Block]:
        # The caller keeps these blocks while writes go on, so they count as seen.
        self._generation += 1
        return super()._range(start, stop)

    def _own(self, number: int) -> _Block:
        block = self._blocks[number]
        if block.generation != self._generation:
            block = _Block(block.keys.copy(), block.values.copy(), self._generation)
            self._blocks[number] = block
        return block

    def _put(self, key: bytes, value: bytes) -> None:
        number = bisect_right(self._lows, key) - 1
        if number < 0:
            if not self._blocks:
                self._blocks.append(_Block([key], [value], self._generation))
                self._lows.append(key)
                return
            number = 0
            self._lows[0] = key
        block = self._own(number)
        at = bisect_left(block.keys, key)
        if at < len(block.keys) and block.keys[at] == key:
            block.values[at] = value
            return
        block.keys.insert(at, key)
        block.values.insert(at, value)
        if len(block.keys) > _BLOCK_KEYS_MAX:
            self._split(number, block)

    def _split(self, number: int, block: _Block) -> None:
        # The last block is split near its end: appending then leaves full blocks behind.
        at = len(block.keys) - 1 if number == len(self._blocks) - 1 else len(block.keys) // 2
        upper = _Block(block.keys[at:], block.values[at:], self._generation)
        del block.keys[at:], block.values[at:]
        self._blocks.insert(number + 1, upper)
        self._lows.insert(number + 1, upper.keys[0])

    def _delete(self, key: bytes) -> None:
        number = bisect_right(self._lows, key) - 1
        if number < 0:
            return
        keys = self._blocks[number].keys
        at = bisect_left(keys, key)
        if at == len(keys) or keys[at] != key:
            return
        if len(keys) == 1:
            del self._blocks[number], self._lows[number]
            return
        block = self._own(number)
        del block.keys[at], block.values[at]


def _bounds(block: _Block, start: bytes, stop: bytes) -> tuple[int, int]:
    return bisect_left(block.keys, start), bisect_left(block.keys, stop)


def _pairs_up(block: _Block, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    low, high = _bounds(block, start, stop)
    return zip(islice(block.keys, low, high), islice(block.values, low, high), strict=True)


def _pairs_down(block: _Block, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    low, high = _bounds(block, start, stop)
    return ((block.keys[at], block.values[at]) for at in range(high - 1, low - 1, -1))
