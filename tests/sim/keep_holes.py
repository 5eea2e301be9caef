"""Holes in the rules of what a topic keeps, for `ablations.py`.

What lives here: what stands in the place of a rule of time to live, retention or expectation while a hole is open.
Rules: those of machine_holes.py.
Must not know: seeds, the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from falconq_cluster.machine import amending, appending, leasing, retention, scheduling
from falconq_cluster.machine import machine as machine_module
from falconq_cluster.machine.amends import AmendOperation
from falconq_cluster.machine.commands import Result
from falconq_cluster.machine.keys import Batch, Waiting, batch_key, batches_from, delayed_key
from falconq_cluster.machine.levels import LevelState, PartitionState
from falconq_cluster.machine.records import read_batch
from falconq_cluster.machine.rows import DelayedRow, decode_row
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.surveying import Survey
from falconq_cluster.machine.turn import Turn
from tests.sim.machine_holes import Patches


def gives_what_is_expired() -> Patches:
    return [(Batch, "is_expired", lambda batch, now_ms: batch.is_cancelled)]


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
    def opened(*arguments: Any) -> None:
        level, limit, work = arguments[-3:]
        work.ranges.append((batches_from(level.prefix, level.erased_to), batches_from(level.prefix, limit)))
        level.erased_to = limit

    return [(retention, "_erase_level", opened)]


def leaves_what_it_cancels() -> Patches:
    return [(machine_module, "cancel_message", partial(_leaving, amending.cancel_message))]


def leaves_what_it_changes() -> Patches:
    return [(machine_module, "change_message", partial(_leaving, amending.change_message))]


def _leaving(amend: Callable[[Turn, Any], Result], turn: Turn, operation: AmendOperation) -> Result:
    """The operation, which takes nothing out of what waits or is stored."""

    def copy_out(turn: Turn, _topic: TopicState, waiting: Waiting, number: int) -> DelayedRow:
        row = decode_row(turn.stored(delayed_key(waiting)), DelayedRow)
        size = len(row.records) // waiting.record_count
        place = number - waiting.first_id
        return replace(row, records=row.records[place * size : (place + 1) * size])

    def copy_from_level(
        turn: Turn, _topic: TopicState, partition: PartitionState, number: int, batch: Batch, offset: int
    ) -> bytes:
        _, records = read_batch(turn.stored(batch_key(partition.levels[number].prefix, batch)))
        size, place = len(records) // batch.record_count, offset - batch.base
        return records[place * size : (place + 1) * size]

    with patch.object(amending, "take_out", copy_out), patch.object(amending, "take_from_level", copy_from_level):
        return amend(turn, operation)


def expects_nothing() -> Patches:
    return [(appending, "_refusal_of_expectation", lambda operation, topic: None)]
