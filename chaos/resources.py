"""What the nodes of a run use: memory, files, open descriptors.

What lives here: samples of all nodes over a run, their file, and their picture.
Rules: a sample costs the nodes nothing: it is read from outside, from `/proc` and from the directory. A node that is
down has no sample. A picture has one line a node.
Must not know: what the nodes are doing.
"""

from __future__ import annotations

import asyncio
import csv
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple, Protocol

PERIOD_SECONDS = 1.0
WIDTH, HEIGHT, LEFT = 1100, 140, 60
COLOURS = ("#2b59c3", "#e4572e", "#12722f", "#8a5a00", "#7b2d8b")
MIB = 1 << 20


class Sampled(Protocol):
    """A node of a run."""

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> Path: ...

    @property
    def process(self) -> subprocess.Popen[bytes] | None: ...

    @property
    def is_running(self) -> bool: ...


class Sample(NamedTuple):
    """One node at one moment."""

    seconds: float
    """Since the first sample."""
    node: str
    resident_bytes: int
    file_bytes: int
    """Of all files in its data directory, as `ls` counts them."""
    file_count: int
    descriptor_count: int
    journal_bytes: int = 0
    store_bytes: int = 0
    """Of the store that is in use."""
    snapshot_bytes: int = 0
    """Of stores that come from another node, or that such a one took the place of."""


async def watch(nodes: Sequence[Sampled], into: list[Sample]) -> None:
    """Sample until it is cancelled."""
    begin = time.monotonic()
    while True:
        for node in nodes:
            sample = await asyncio.to_thread(_sample, node, time.monotonic() - begin)
            if sample is not None:
                into.append(sample)
        await asyncio.sleep(PERIOD_SECONDS)


def _sample(node: Sampled, seconds: float) -> Sample | None:
    process = node.process
    if process is None or not node.is_running:
        return None
    try:
        # `ip netns exec` and what follows it replace themselves, so the started process is the node.
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        descriptors = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
    except (OSError, IndexError):
        return None
    sizes = _sizes(node.data)
    stores = _sizes(node.data / "store")
    in_use = sum(_sizes(_store_in_use(node.data)).values())
    return Sample(
        seconds=seconds,
        node=node.name,
        resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        file_bytes=sum(sizes.values()),
        file_count=len(sizes),
        descriptor_count=descriptors,
        journal_bytes=sum(_sizes(node.data / "journal").values()),
        store_bytes=in_use,
        snapshot_bytes=max(0, sum(stores.values()) - in_use),
    )


def _store_in_use(data: Path) -> Path:
    pointer = data / "store" / "CURRENT"
    try:
        return pointer.with_name(pointer.read_text())
    except OSError:
        return pointer.with_name("0")


def _sizes(directory: Path) -> dict[Path, int]:
    """Sizes of the files that are still there when they are looked at."""
    found: dict[Path, int] = {}
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                found[Path(path) / name] = (Path(path) / name).stat().st_size
            except OSError:
                continue
    return found


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """A CSV file with a line a sample."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Sample._fields)
        table.writerows(sample._replace(seconds=round(sample.seconds, 1)) for sample in samples)


def highest(samples: Sequence[Sample], value: Callable[[Sample], int], *, after: float, until: float) -> int:
    """The most that a node had within a part of the run, given in parts of it."""
    length = max((sample.seconds for sample in samples), default=0.0)
    return max((value(s) for s in samples if after * length <= s.seconds <= until * length), default=0)


def pictures(samples: Sequence[Sample]) -> str:
    """Memory and files over time, as two SVGs with their headings."""
    if not samples:
        return ""
    return "".join(
        f"<h2>{escape(name)}</h2>{picture(samples, value)}"
        for name, value in (
            ("Memory of each node, MiB", lambda sample: sample.resident_bytes / MIB),
            ("Files of each node, MiB", lambda sample: sample.file_bytes / MIB),
        )
    )


def picture(samples: Sequence[Sample], value: Callable[[Sample], float]) -> str:
    """A value of each node over time, as one SVG."""
    length = max(1.0, *(sample.seconds for sample in samples))
    top = max(1.0, *(value(sample) for sample in samples))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 20}" font-family="system-ui,sans-serif" font-size="11" role="img">',
        f'<text x="0" y="12">{top:.0f}</text><text x="0" y="{HEIGHT}">0</text>',
        f'<text x="{WIDTH - 50}" y="{HEIGHT + 16}" fill="#555">{length:.0f} s</text>',
    ]
    for number, node in enumerate(sorted({sample.node for sample in samples})):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{LEFT + sample.seconds / length * (WIDTH - LEFT):.1f},{HEIGHT - value(sample) / top * (HEIGHT - 14):.1f}"
            for sample in samples
            if sample.node == node
        )
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.4" points="{points}"/>')
        parts.append(f'<text x="{LEFT + number * 40}" y="{HEIGHT + 16}" fill="{colour}">{escape(node)}</text>')
    return "".join(parts) + "</svg>"
