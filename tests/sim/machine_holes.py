"""Holes in the rules of the machine, for `ablations.py`.

What lives here: what stands in the place of a rule while a hole is open.
Rules: those of ablations.py. All nodes and the replay of the log run with the open hole, so that it is a model of its
own that sees it.
Must not know: seeds, the log.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pysyncobj.syncobj

from falconq_cluster.machine import appending, burying, leasing, ripening, scheduling
from falconq_cluster.machine import machine as machine_module
from falconq_cluster.machine.commands import Settle
from falconq_cluster.machine.holdings import Holdings

Patches = list[tuple[Any, str, Any]]
"""(owner, attribute, what stands there while the hole is open)."""


def knows_no_repeats() -> Patches:
    return [(appending, "first_result", lambda turn, operation, topic: None)]


def settles_any_lease() -> Patches:
    settle = leasing.settle

    def opened(turn: Any, operation: Settle) -> Any:
        topic = turn.state.topics.get(operation.topic)
        consumer = None if topic is None else topic.consumers.get(operation.consumer)
        items = []
        for item in operation.items:
            held = None if consumer is None else consumer.holdings.get(item.partition, item.offset)
            items.append(item if held is None else msgspec.structs.replace(item, nonce=held.row.nonce))
        return settle(turn, msgspec.structs.replace(operation, items=items))

    return [(machine_module, "settle", opened)]


def ends_leases_by_its_own_clock() -> Patches:
    advance = Holdings.advance

    def opened(self: Holdings, now_ms: int) -> bool:
        try:
            own_ms = int(pysyncobj.syncobj.monotonicTime() * 1000)
        except AssertionError:  # outside of any node
            own_ms = now_ms
        return advance(self, now_ms - now_ms % 1000 + own_ms % 1000)

    return [(Holdings, "advance", opened)]


def keeps_what_it_buries() -> Patches:
    return [(burying, "drop_in_hand", lambda turn, topic, consumer, held: None)]


def gives_weighted_topics_strictly() -> Patches:
    return [(scheduling, "_take_weighted", scheduling._take_strict)]


def forgets_what_is_overdue() -> Patches:
    return [(scheduling, "_take_overdue", lambda choice: None)]


def loses_what_is_due() -> Patches:
    return [(ripening, "store", lambda turn, topic, part, first_id: None)]
