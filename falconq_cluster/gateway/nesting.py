"""How deep JSON nests, without reading it.

What lives here: the judgement of a body's depth, at once for a small body and turn by turn for a large one.
Rules: what is judged is exact for valid JSON, whatever stands in its strings; what is not valid may be told either way.
A turn of the loop judges one slice, at the speed of C, so that no body takes the loop for longer than one of 64 KiB.
Must not know: aiohttp, routes, what a body means.
"""

from __future__ import annotations

import asyncio
from array import array
from itertools import accumulate

from falconq_cluster.errors import FalconQError

SLICE_BYTES = 65_536
"""Judged in one turn: 1 ms of brackets alone, and far less of what people send."""

_COLLAPSES = 4
"""How often innermost pairs are taken away before the steps that are left are counted one by one."""
_PLAIN = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'"[]{}')
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
"""Brackets as signed bytes: one deeper, one less deep."""


class _Depth:
    """Where a scan stands, between two slices."""

    def __init__(self, depth_max: int) -> None:
        self._depth_max = depth_max
        self._depth = 0
        self._is_in_string = False

    def exceeds(self, data: bytes) -> bool:
        """Whether the slice, which begins and ends between characters of strings, goes deeper than it may."""
        without_escapes = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
        structure = without_escapes.translate(_PLAIN, _NOT_STRUCTURE)
        if self._is_in_string:
            structure = b'"' + structure
        self._is_in_string = structure.count(b'"') % 2 == 1
        # Two quotes side by side have nothing between them: they are a string without brackets, or end one and begin
        # the next. Either way all else stays inside or outside of strings as it was.
        brackets = b"".join(structure.replace(b'""', b"").split(b'"')[::2])
        start, self._depth = self._depth, self._depth + 2 * brackets.count(b"[") - len(brackets)
        collapsed = brackets
        for _ in range(_COLLAPSES):
            collapsed = collapsed.replace(b"[]", b"")
        # Taking away the innermost pairs lowers no place by more than one.
        if start + _peak(collapsed) + _COLLAPSES <= self._depth_max:
            return False
        return start + _peak(brackets) > self._depth_max


def depth_exceeds(data: bytes, depth_max: int) -> bool:
    """Whether valid JSON nests deeper than `depth_max`; runs at C speed, since it sees every body."""
    if data.count(b"[") + data.count(b"{") <= depth_max:
        return False
    return _Depth(depth_max).exceeds(data)


async def check_large(data: bytes, depth_max: int) -> int:
    """How deep a body may nest that is read next: a large one is judged here, and nothing is left to hold it to.

    Raises: bad_request when a large body nests deeper than `depth_max`.
    """
    if len(data) <= SLICE_BYTES:
        return depth_max
    depth = _Depth(depth_max)
    start = 0
    while start < len(data):
        end = start + SLICE_BYTES
        part = data[start:end]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:
            part, end = data[start : end + 1], end + 1  # What the last backslash escapes comes with it.
        if depth.exceeds(part):
            raise FalconQError("bad_request", f"the body is nested deeper than {depth_max} levels; flatten it")
        start = end
        await asyncio.sleep(0)
    return len(data)


def _peak(brackets: bytes) -> int:
    """The deepest place, from where they begin, which counts as one."""
    return max(accumulate(array("b", brackets.translate(_STEPS)), initial=0))
