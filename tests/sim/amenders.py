"""Simulated clients who change and cancel messages that they have published.

What lives here: what they ask for, when, and how often they repeat it.
Rules: they know the ids that publishes were answered with, and name the place that the asked node's store shows, as a
node does. They repeat what they do not know the outcome of, through any node, and some of what they know.
Must not know: consensus, disks, faults, what a model says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import msgspec

from falconq_cluster.machine.amends import CancelMessage, ChangeMessage
from falconq_cluster.machine.appends import AppendedMany, AppendMany
from falconq_cluster.machine.commands import Appended, ClientOperation
from tests.sim.cluster import SimCluster
from tests.sim.crowd import Answered
from tests.sim.nodes import RunningNode
from tests.sim.world import US_PER_MS

AMENDS_DELAYED, AMENDS_STORED, CANCELS, REPEATS_IN_VAIN = 0.6, 0.2, 0.4, 0.2
"""How often a message that waits for its time is changed, one that does not, what of that is cancelling, and what of it
is sent again though it was answered."""
LEVEL_COUNT = 3
TRIES_MAX = 5
STORED_MS = 200
"""Mean time after which a message that does not wait is changed."""


Ask = Callable[[ClientOperation, Callable[[Answered], None]], None]


class Amenders:
    """All of them, of one run."""

    def __init__(self, cluster: SimCluster, ask: Ask, random: Random) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._ask = ask
        self._random = random

    def published(self, operation: AppendMany, asked: Answered) -> None:
        """Maybe change some of what was acknowledged."""
        if not isinstance(asked.result, Appended | AppendedMany):
            return
        number = asked.result.first_id
        for part in operation.parts:
            for _ in range(part.count):
                if self._random.random() < (AMENDS_DELAYED if part.delay_ms else AMENDS_STORED):
                    after_ms = self._random.uniform(0, 1.1) * (part.delay_ms or STORED_MS)
                    amend = self._amend(operation.topic, asked.index, number)
                    self._world.at(int(after_ms * US_PER_MS), partial(self._try, amend, 1))
                number += 1

    def _amend(self, topic: str, log_index: int, number: int) -> CancelMessage | ChangeMessage:
        random = self._random
        if random.random() < CANCELS:
            return CancelMessage(0, topic, log_index, number)
        level, delay_ms = random.choice(((2, -1), (0, -1), (1, 300), (-1, 0), (-1, 300), (-1, 1500)))
        return ChangeMessage(0, topic, log_index, number, level=level, delay_ms=delay_ms)

    def _place(self, topic: str, log_index: int, number: int) -> tuple[int, int]:
        """(partition, offset) of the message as some node shows it; -1 both where it does not."""
        found: list[tuple[int, int]] = []
        host = self._random.choice(list(self._cluster.hosts.values()))

        def look() -> None:
            node = host.node
            assert isinstance(node, RunningNode)
            steps = node.node.broker.views().messages.locate(topic, log_index, number)
            found.extend((place.partition, place.offset) for place in steps if place is not None)

        self._cluster.run_as(host, look)
        return found[0] if found else (-1, -1)

    def _try(self, amend: CancelMessage | ChangeMessage, number: int) -> None:
        def then(asked: Answered) -> None:
            is_open = asked.result is None and asked.code in ("", "expired", "overloaded")
            if number < TRIES_MAX and (is_open or self._random.random() < REPEATS_IN_VAIN):
                self._world.at(50 * US_PER_MS, partial(self._try, amend, number + 1))

        partition, offset = self._place(amend.topic, amend.log_index, amend.number)
        self._ask(msgspec.structs.replace(amend, partition=partition, offset=offset), then)
