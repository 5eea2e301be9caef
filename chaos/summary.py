"""What several runs showed together, as the text that docs/proof.md keeps.

What lives here: one table with a line a run, and one with a line a class of faults.
Rules: all figures come from the histories and the verdicts that the runs left.
Must not know: how a fault is performed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos.history import read_history
from chaos.judging.coverage import leader_changes
from chaos.judging.model import NANOSECONDS, History, fold
from chaos.report import percentile, unavailability

Figures = dict[str, list[tuple[float, int]]]
"""Class of faults -> for each fault the longest time without an acknowledgement, and how many came within it."""


def summary(targets: Sequence[Path]) -> Iterator[str]:
    """The lines, as Markdown. Each target is a run's directory."""
    classes: Figures = {}
    total, within = 0, 0
    yield "| run | verdict | acknowledged | changes of leader | faults | minutes |"
    yield "|---|---|---|---|---|---|"
    for target in targets:
        history = fold(read_history(target / "history.jsonl"))
        ends = sorted(publish.end for publish in history.publishes.values() if publish.end is not None)
        total += len(ends)
        within += _within(history, ends)
        for fault in history.faults:
            met = bisect_right(ends, fault.end) - bisect_left(ends, fault.start)
            classes.setdefault(fault.mode, []).append((unavailability(history, fault, ends), met))
        minutes = (history.end - history.start) / NANOSECONDS / 60
        kind = (target / "verdict").read_text()
        changes, faults = leader_changes(history), len(history.faults)
        yield f"| {target.name} | {kind} | {len(ends):,} | {changes} | {faults} | {minutes:.0f} |"
    yield ""
    yield f"Together {total:,} acknowledged publishes, {within:,} of them while a fault was on."
    yield ""
    yield "| class of faults | faults | acknowledged within | p50 | p99 | longest |"
    yield "|---|---|---|---|---|---|"
    for mode, found in sorted(classes.items()):
        silent = sorted(silence for silence, _ in found)
        met = sum(count for _, count in found)
        half, most = percentile(silent, 50), percentile(silent, 99)
        yield f"| {mode} | {len(found)} | {met:,} | {half:.2f} s | {most:.2f} s | {silent[-1]:.2f} s |"


def _within(history: History, ends: list[int]) -> int:
    """How many of these moments lie within a fault; each counts once."""
    count, place = 0, 0
    for fault in sorted(history.faults, key=lambda fault: fault.start):
        first = max(place, bisect_left(ends, fault.start))
        place = max(place, bisect_right(ends, fault.end))
        count += max(0, place - first)
    return count
