"""How much the state may hold, as the node says that took a request.

What lives here: the limits that are a matter of capacity, and the operation that says them.
Rules: what all nodes decide follows from the log alone, so a node's setting decides nothing unless it stands there. A
node whose limits are the machine's own says nothing. Fields are never reordered or removed, and new ones go to the end
with a default.
Must not know: where a node has its limits from.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Operation


class Capacity(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The limits by the names that `MachineLimits` has for them; 0 for the machine's own."""

    topics_max: int = 0
    partitions_per_topic_max: int = 0
    consumers_per_topic_max: int = 0
    delayed_per_topic_max: int = 0
    delayed_max: int = 0
    dedupe_per_topic_max: int = 0
    dedupe_max: int = 0
    held_per_consumer_max: int = 0
    held_max: int = 0


CEILINGS = Capacity(
    topics_max=100_000,
    partitions_per_topic_max=256,
    consumers_per_topic_max=10_000,
    delayed_per_topic_max=10_000_000,
    delayed_max=10_000_000,
    dedupe_per_topic_max=3_000_000,
    dedupe_max=3_000_000,
    held_per_consumer_max=50_000,
    held_max=3_000_000,
)
"""What a node may say at most. Of topics, partitions, consumers and what one consumer has in hand, one command may look
at each, and a turn shall not last 5 ms (P12); of the rest there is memory, and what a start reads."""


class Within(Operation, frozen=True, tag=50):
    """Judge the operations behind this one, in its command, by these limits."""

    capacity: Capacity


def capacity_of(limits: dict[str, int], own: MachineLimits) -> Capacity:
    """What a node with these limits says: only those that are not the machine's own."""
    return Capacity(**{name: value for name, value in limits.items() if value != getattr(own, name)})


def limits_within(own: MachineLimits, capacity: Capacity) -> MachineLimits:
    """The machine's limits with what the capacity says in their place, up to the ceilings."""
    said = msgspec.structs.asdict(capacity)
    return replace(own, **{name: min(most, getattr(CEILINGS, name)) for name, most in said.items() if most > 0})
