"""Whether a run tried anything.

What lives here: the reasons for which a run without an anomaly still proves nothing.
Rules: a fault that no client met counts as no fault.
Must not know: what an anomaly is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from chaos.judging.model import History


@dataclass(frozen=True, slots=True)
class Wants:
    """What a run must have had."""

    acknowledged_min: int = 100
    leader_changes_min: int = 0
    faults_min: int = 1
    digests_min: int = 0
    """How often the nodes' stores were compared."""
    dropped_min: int = 0
    """Bytes that were written and not synced when power was lost, all together."""
    overlap_min: int = 10
    """Operations that began within the faults of each class, all together."""


def reasons_for_void(history: History, wants: Wants) -> Iterator[str]:
    """Each thing that the run lacked."""
    acknowledged = sum(publish.end is not None for publish in history.publishes.values())
    if acknowledged < wants.acknowledged_min:
        yield f"{acknowledged} publishes were acknowledged, of at least {wants.acknowledged_min}"
    changes = leader_changes(history)
    if changes < wants.leader_changes_min:
        yield f"the leader changed {changes} times, of at least {wants.leader_changes_min}"
    if len(history.faults) < wants.faults_min:
        yield f"there were {len(history.faults)} faults, of at least {wants.faults_min}"
    if history.dropped_bytes < wants.dropped_min:
        yield "no loss of power met a byte that was written and not synced"
    if not history.stored:
        yield "nobody looked at what is stored after the run"
    if len(history.digests) < wants.digests_min:
        yield f"the nodes' stores were compared {len(history.digests)} times, of at least {wants.digests_min}"
    starts = sorted(publish.start for publish in history.publishes.values())
    overlap: dict[str, int] = {}
    for fault in history.faults:
        met = bisect_left(starts, fault.end) - bisect_left(starts, fault.start)
        overlap[fault.mode] = overlap.get(fault.mode, 0) + met
    for mode, met in overlap.items():
        if met < wants.overlap_min:
            yield f"{met} publishes began within faults of class {mode}, of at least {wants.overlap_min}"


def leader_changes(history: History) -> int:
    """How often another node was seen to lead than before."""
    names = [name for _, name in history.leaders if name]
    return sum(before != after for before, after in pairwise(names))
