"""Somebody who changes how long topics know repeats.

What lives here: changes of the dedupe windows of the topics that clients publish to, in the seeds that have them.
Rules: windows are shorter than a client's patience, so repeats also come when they are over.
Must not know: consensus, disks, faults.
"""

from __future__ import annotations

from random import Random

from falconq_cluster.machine.commands import ANY_VERSION, SetTopic
from falconq_cluster.machine.settings import TopicSettings
from tests.sim.clients import TOPICS
from tests.sim.cluster import SimCluster
from tests.sim.crowd import Asks
from tests.sim.world import US_PER_MS

WINDOWS_MS = (1000, 2000, 8000)
INTERVAL_MS = 1500


class Windows:
    """Asks for one change of a window after the other."""

    def __init__(self, cluster: SimCluster, clients: Asks, random: Random) -> None:
        self._cluster = cluster
        self._clients = clients
        self._random = random
        self._is_over = False

    def start(self) -> None:
        self._ask()

    def stop(self) -> None:
        self._is_over = True

    def _ask(self) -> None:
        if self._is_over:
            return
        given = TopicSettings(dedupe_window_ms=self._random.choice(WINDOWS_MS))
        operation = SetTopic(0, self._random.choice(TOPICS), ANY_VERSION, is_change=False, given=given)
        host = self._random.choice(list(self._cluster.hosts.values()))
        self._clients.ask(host, operation, b"", self._random.choice((300, 3000)), lambda _: self._soon())

    def _soon(self) -> None:
        pause_us = int(self._random.expovariate(1 / INTERVAL_MS) * US_PER_MS)
        self._cluster.world.at(pause_us, self._ask)
