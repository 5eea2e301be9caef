"""How much memory and how many files a node of the load may have, and why.

What lives here: the settings of the nodes, what topics keep while the load goes on, and the bounds that follow.
Rules: a bound is of bytes, never of time, and each has its reason beside it. What is kept is asked of the cluster,
since it is what clients have not settled yet; all else is a setting or a constant of the store.
Must not know: clients.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from chaos.resources import MIB, Sample, highest
from tests.cluster.processes import Node

JOURNAL_BYTES_MAX = 4 * MIB
SEGMENT_BYTES = MIB
CACHE_BYTES = 8 * MIB
SETTINGS: dict[str, Any] = {
    "request_timeout_ms": 5000,
    "journal_bytes_max": JOURNAL_BYTES_MAX,
    "journal_segment_bytes": SEGMENT_BYTES,
    "journal_cache_bytes": CACHE_BYTES,
}
"""A journal that is cut many times in ten minutes."""
DEDUPE_WINDOW_MS = 120_000
"""Keys are forgotten while the load goes on, and a repeat comes within seconds of its answer."""
PERIOD_SECONDS = 2.0
JOURNAL_TIMES = 4
"""A journal that a snapshot or a slow follower needs is kept up to so many times its limit (docs/configuration.md)."""
STORE_TIMES = 2
"""LevelDB has a message in one level or, while it merges, in two."""
STORE_BESIDE_BYTES = 32 * MIB
"""Beside what topics keep: two of LevelDB's write buffers (16 MiB each), one in its own log and one that is not merged
yet. What is trimmed is compacted soon, since there is nothing left to be trimmed again and again."""
PROCESS_BYTES = 256 * MIB
"""Python with what it has loaded (80), LevelDB's cache and its two write buffers (64 and 32), and 80 for requests."""


class Kept(NamedTuple):
    """What topics keep at one moment."""

    seconds: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound, and what was seen."""

    what: str
    why: str
    first_bytes: int
    """The most of any node in the first third."""
    last_bytes: int
    most_bytes: int
    bound_bytes: int

    @property
    def is_kept(self) -> bool:
        return self.most_bytes <= self.bound_bytes


async def watch_kept(nodes: Sequence[Node], session: aiohttp.ClientSession, into: list[Kept]) -> None:
    """Sample until it is cancelled; nothing while no node answers."""
    begin = time.monotonic()
    while True:
        for node in nodes:
            try:
                into.append(Kept(time.monotonic() - begin, await _kept_bytes(node, session)))
            except (aiohttp.ClientError, TimeoutError):
                continue
            break
        await asyncio.sleep(PERIOD_SECONDS)


async def _kept_bytes(node: Node, session: aiohttp.ClientSession) -> int:
    async with session.get(f"{node.url}/topics") as response:
        topics = (await response.json())["topics"]
    total = 0
    for topic in topics:
        async with session.get(f"{node.url}/topics/{topic}/partitions") as response:
            if response.ok:  # It may be gone by now.
                total += sum(partition["bytes"] for partition in (await response.json())["partitions"])
    return total


def written_bytes(samples: Sequence[Sample]) -> int:
    """What went through the journal of a node, at least: what it grew by from sample to sample."""
    grown: Counter[str] = Counter()
    last: dict[str, int] = {}
    for sample in samples:
        grown[sample.node] += max(0, sample.journal_bytes - last.get(sample.node, sample.journal_bytes))
        last[sample.node] = sample.journal_bytes
    return max(grown.values(), default=0)


def bounds_of(samples: Sequence[Sample], kept: Sequence[Kept]) -> list[Bound]:
    """Files by kind and memory, each with its bound."""
    kept_most = max((each.size_bytes for each in kept), default=0)
    journal = JOURNAL_TIMES * JOURNAL_BYTES_MAX + 2 * SEGMENT_BYTES
    store = STORE_TIMES * kept_most + STORE_BESIDE_BYTES
    files = journal + 2 * store
    memory = PROCESS_BYTES + CACHE_BYTES + kept_most
    rows = (
        ("journal", "journal_bytes", journal, "4 times `journal_bytes_max` (4 MiB), and two segments of 1 MiB"),
        (
            "store",
            "store_bytes",
            store,
            "twice the most that topics kept, and 32 MiB that LevelDB has in its log or did not merge yet",
        ),
        ("snapshots", "snapshot_bytes", store, "one store that comes or goes"),
        ("all files", "file_bytes", files, "the three above"),
        ("memory", "resident_bytes", memory, "256 MiB of a process, the journal's cache, and what topics kept"),
    )
    found = []
    for what, name, bound, why in rows:

        def value(sample: Sample, name: str = name) -> int:
            return int(getattr(sample, name))

        thirds = [highest(samples, value, after=part / 3, until=(part + 1) / 3) for part in range(3)]
        found.append(Bound(what, why, thirds[0], thirds[2], max(thirds), bound))
    return found
