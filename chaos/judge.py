"""Says of a history whether the promises held.

What lives here: `judge`, the verdict, and the verdict in words.
Rules: pure: the same events give the same verdict. An anomaly makes a run invalid, however little it tried; a run
without one is void unless it had load, faults that met the load, and the changes of leader that were asked for.
Must not know: how the history was made.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from chaos.history import Event
from chaos.judging.coverage import Wants, leader_changes, reasons_for_void
from chaos.judging.delivered import judge_delivered
from chaos.judging.model import Anomaly, History, fold
from chaos.judging.reading import judge_read
from chaos.judging.stored import judge_stored

KEPT_OF_EACH = 3
"""A lost disk loses a million messages in the same way: this many of each anomaly are shown, all are counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one run."""

    kind: Literal["valid", "invalid", "void"]
    counts: dict[str, int]
    """Anomaly -> how often."""
    anomalies: tuple[Anomaly, ...]
    reasons: tuple[str, ...]
    """Why the run is void."""
    operations: int
    acknowledged: int
    refused: int
    unknown: int
    delivered: int
    leader_changes: int
    faults: int
    dropped_bytes: int

    def describe(self) -> Iterator[str]:
        """The verdict in lines."""
        yield (
            f"{self.kind}: {self.operations} operations, {self.acknowledged} publishes acknowledged, {self.refused} "
            f"refused, {self.unknown} of unknown outcome, {self.delivered} deliveries, {self.leader_changes} changes "
            f"of leader, {self.faults} faults"
        )
        if self.dropped_bytes:
            yield f"  losses of power met {self.dropped_bytes} bytes that were written and not synced"
        yield from (f"  void because {reason}" for reason in self.reasons)
        yield from (f"  {code}: {count}" for code, count in sorted(self.counts.items()))
        for anomaly in self.anomalies:
            yield f"  {anomaly.code}: {anomaly.summary}"
            yield from (f"      {line}" for line in anomaly.history)


def judge(events: Iterable[Event], wants: Wants | None = None) -> Verdict:
    """The verdict. Raises: ValueError when the history is not one."""
    was_enabled = gc.isenabled()
    gc.disable()  # millions of objects live until the end, none in a cycle: looking for cycles only costs time
    try:
        return judge_history(fold(events), wants or Wants())
    finally:
        if was_enabled:
            gc.enable()


def judge_history(history: History, wants: Wants) -> Verdict:
    """The verdict on what was folded already."""
    counts: Counter[str] = Counter()
    kept: list[Anomaly] = []
    for anomaly in chain(judge_stored(history), judge_delivered(history), judge_read(history)):
        counts[anomaly.code] += 1
        if counts[anomaly.code] <= KEPT_OF_EACH:
            kept.append(anomaly)
    reasons = tuple(reasons_for_void(history, wants))
    acknowledged = sum(publish.end is not None for publish in history.publishes.values())
    refused = sum(publish.failed for publish in history.publishes.values())
    return Verdict(
        kind="invalid" if counts else "void" if reasons else "valid",
        counts=dict(counts),
        anomalies=tuple(kept),
        reasons=reasons,
        operations=history.operation_count,
        acknowledged=acknowledged,
        refused=refused,
        unknown=len(history.publishes) - acknowledged - refused,
        delivered=sum(len(taking.rows or ()) for taking in history.takings),
        leader_changes=leader_changes(history),
        faults=len(history.faults),
        dropped_bytes=history.dropped_bytes,
    )
