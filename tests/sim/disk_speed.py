"""How fast a machine's disk is.

What lives here: the speed of a disk as data, changed by faults.
Rules: a hung disk finishes nothing until its moment has come.
Must not know: who waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class DiskSpeed:
    """How long a machine's disk takes for one step."""

    step_us: int = 300
    jitter_us: int = 1500
    slow_share: float = 0.0
    slow_us: int = 50_000
    hung_until_us: int = 0
