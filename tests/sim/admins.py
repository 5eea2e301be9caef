"""Simulated people who make, change, purge and delete topics, and say what they keep.

What lives here: one administrator, with topics of its own, in every run of an even seed.
Rules: it gives back versions that it has seen, also old ones; it knows only what a node told it. What it publishes has
no token, so nobody looks for it after its topic is deleted.
Must not know: consensus, disks, faults.
"""

from __future__ import annotations

from falconq_cluster.machine.commands import ANY_VERSION, Append, ClientOperation, DeleteTopic, SetTopic, TopicSet
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import OVERFLOWS, Retention, TopicSettings
from tests.sim.cluster import SimCluster
from tests.sim.crowd import Answered, Asks
from tests.sim.world import US_PER_MS

ADMIN_TOPICS = ("made", "remade")
LEVELS = ("idle", "low", "normal", "high", "now")
PARTITIONS_MAX = 6
RECORDS_MAX = 4
INTERVAL_MS = 250
SEEN_MAX = 3
"""Of these versions the last one may be the present one."""


class Admin:
    """Asks for one change of a topic after the other."""

    def __init__(self, cluster: SimCluster, clients: Asks) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._clients = clients
        self._seen: dict[str, list[TopicSet]] = {topic: [] for topic in ADMIN_TOPICS}
        self._is_over = False

    def start(self) -> None:
        self._soon()

    def stop(self) -> None:
        self._is_over = True

    def _soon(self) -> None:
        self._world.at(int(self._world.random.expovariate(1 / INTERVAL_MS) * US_PER_MS), self._ask)

    def _ask(self) -> None:
        if self._is_over:
            return
        random = self._world.random
        host = random.choice(list(self._cluster.hosts.values()))
        self._clients.ask(host, self._operation(), b"", random.choice((300, 1000, 3000)), self._answered)

    def _operation(self) -> ClientOperation:
        random = self._world.random
        topic = random.choice(ADMIN_TOPICS)
        kind = random.random()
        if kind < 0.6:
            count = random.randrange(1, RECORDS_MAX)
            records = pack_record(b'"for the bin"') * count
            partition, level = random.randrange(PARTITIONS_MAX), random.randrange(len(LEVELS))
            return Append(0, topic, partition, level, count, records, may_create=random.random() < 0.5)
        seen = self._seen[topic][-SEEN_MAX:]
        if_version = random.choice(seen).version if seen and random.random() < 0.5 else ANY_VERSION
        if kind < 0.66:
            return DeleteTopic(0, topic, if_version)
        if kind < 0.7:
            return Purge(0, topic)
        partitions, level_count = (seen[-1].config.partitions, len(seen[-1].config.levels)) if seen else (1, 1)
        return SetTopic(
            not_after_ms=0,
            topic=topic,
            if_version=if_version,
            is_change=random.random() < 0.5,
            given=TopicSettings(
                min(PARTITIONS_MAX, partitions + random.randrange(2)),
                LEVELS[: level_count + random.randrange(2)],
                retention=Retention(random.choice((0, 1_000)), 0, random.choice((0, 1, 5))),
                overflow=random.choice(OVERFLOWS),
            ),
        )

    def _answered(self, asked: Answered) -> None:
        if isinstance(asked.result, TopicSet):
            self._seen[asked.result.topic].append(asked.result)
        self._soon()
