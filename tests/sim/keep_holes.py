"""Holes in the rules of what a topic keeps, for `ablations.py`.

What lives here: what stands in the place of a rule of time to live, retention or expectation while a hole is open.
Rules: those of machine_holes.py.
Must not know: seeds, the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from falconq_cluster.machine import appending, leasing, retention, scheduling
from falconq_cluster.machine.keys import Batch, batches_from
from falconq_cluster.machine.levels import LevelState
from falconq_cluster.machine.state import ConsumerState
from falconq_cluster.machine.surveying import Survey
from tests.sim.machine_holes import Patches


def gives_what_is_expired() -> Patches:
    return [(Batch, "is_expired", lambda batch, now_ms: False)]


def gives_again_what_is_expired() -> Patches:
    return [(scheduling, "drop_if_expired", lambda turn, topic, consumer, held: False)]


def asks_all_consumers_but_one() -> Patches:
    see = Survey._see_cursors

    def opened(self: Survey, consumer: ConsumerState) -> Iterator[int]:
        if consumer.name != min(self.topic.consumers):
            yield from see(self, consumer)

    return [(Survey, "_see_cursors", opened)]


def drops_the_most_urgent() -> Patches:
    def opened(self: Any, place: tuple[int, int], level: LevelState) -> tuple[int, int]:
        return -place[1], level.first_ms

    return [(retention._Trimming, "_rank", opened)]


def takes_in_what_is_too_much() -> Patches:
    return [(appending, "refusal_of_full", lambda topic, parts: None)]


def leaves_leases_of_what_is_trimmed() -> Patches:
    def opened(*_: object) -> bool:
        return False

    return [(owner, "drop_if_trimmed", opened) for owner in (leasing, retention, scheduling)]


def erases_what_an_attempt_names() -> Patches:
    return [(Survey, "_see_attempts", lambda self, consumer: iter(()))]


def leaves_keys_of_what_is_erased() -> Patches:
    def opened(_turn: Any, level: LevelState, limit: int, work: Any) -> None:
        work.ranges.append((batches_from(level.prefix, level.erased_to), batches_from(level.prefix, limit)))
        level.erased_to = limit

    return [(retention, "_erase_level", opened)]


def expects_nothing() -> Patches:
    return [(appending, "_refusal_of_expectation", lambda operation, topic: None)]
