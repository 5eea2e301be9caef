"""Which partition a message goes to.

What lives here: the choice by key, and in turn without one.
Rules: a key's partition depends on the key and the number of partitions alone, on every node and in every release;
when partitions are added, a key stays or moves to one of the new ones.
Must not know: topics beyond their name and size.
"""

from __future__ import annotations

from hashlib import blake2b

_LCG = 2862933555777941757
_MASK = (1 << 64) - 1
_TURNS_MAX = 10_000


def partition_of_key(key: str, partitions: int) -> int:
    """The key's partition, 0 .. partitions - 1: jump consistent hashing (Lamping and Veach, 2014, figure 1).

    Done in integers: the paper's doubles are a shorter way to the same quotient.
    """
    if partitions == 1:
        return 0
    state = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
    bucket, jump = 0, 0
    while jump < partitions:
        bucket = jump
        state = (state * _LCG + 1) & _MASK
        jump = ((bucket + 1) << 31) // ((state >> 33) + 1)
    return bucket


class Turns:
    """Gives each topic's partitions in turn."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def take(self, topic: str, partitions: int) -> int:
        """The partition whose turn it is."""
        if partitions == 1:
            return 0
        turn = self._next.get(topic, 0)
        if len(self._next) >= _TURNS_MAX and topic not in self._next:
            # Starting over costs only evenness, and bounds what many topics take.
            self._next.clear()
        self._next[topic] = turn + 1
        return turn % partitions
