"""Simulated workers on topics with several levels and partitions: they lease, settle, are late, and give up.

What lives here: the topics that they make, publishers to those, consumers that take, and workers that share one.
Rules: they draw from a random of their own, so that whatever they do, the others of a seed draw the same. A worker
knows only the lease that it was given; it may settle it late, twice, through another node, or not at all.
Must not know: consensus, disks, faults, what a model says of it.
"""

from __future__ import annotations

from functools import partial
from random import Random

from falconq_cluster.machine.commands import (
    ANY_VERSION,
    Append,
    Leased,
    LeasePull,
    Pull,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import AGED, STRICT, WEIGHTED, Scheduler, TopicSettings
from falconq_cluster.machine.subscriptions import Redrive
from tests.sim.crowd import Answered, Crowd, ignore
from tests.sim.world import US_PER_MS

QUEUES = ("tasks", "shares", "ages")
"""By policy: strict, weighted, aged."""
LEVELS = ("low", "normal", "high")
PARTITIONS = 2
NONCE_BYTES = 16
WORKERS = "workers"
"""The consumer that workers share."""

SETTLED_AS = {
    SettleKind.ACK: 65,
    SettleKind.NACK: 15,
    SettleKind.EXTEND: 10,
    SettleKind.RELEASE: 5,
    SettleKind.REJECT: 5,
}
"""In percent; who extends a lease acknowledges later."""

REDRIVE_MS = 5000
"""Mean pause between two redrives of a topic's dead letters."""
FORGETS, SETTLES_TWICE, IS_LATE = 0.1, 0.15, 0.2
"""How often a worker leaves a message to its lease's end, sends its settlement twice, and takes longer than it has."""


class Workers(Crowd):
    """All of them, of one run."""

    def start(self) -> None:
        for topic in QUEUES:
            self._soon(partial(self._make, topic), 10)

    # Topics.

    def _make(self, topic: str) -> None:
        operation = SetTopic(0, topic, ANY_VERSION, is_change=False, given=self._settings(topic))

        def then(asked: Answered) -> None:
            if not isinstance(asked.result, TopicSet):
                self._soon(partial(self._make, topic), 100)
                return
            for _ in range(2):
                self._soon(partial(self._publish, topic), 10)
            self._soon(partial(self._take, topic), 10)
            self._soon(partial(self._redrive, topic), REDRIVE_MS)
            for _ in range(self._random.choice((2, 3))):
                self._soon(partial(self._work, topic), 10)

        self._ask(operation, then)

    def _settings(self, topic: str) -> TopicSettings:
        random = self._random
        schedulers = (
            Scheduler(STRICT),
            Scheduler(WEIGHTED, tuple((name, random.randrange(1, 6)) for name in sorted(LEVELS))),
            Scheduler(AGED, (), tuple((name, random.choice((100, 1000, 5000))) for name in ("low", "normal"))),
        )
        return TopicSettings(
            partitions=PARTITIONS,
            levels=LEVELS,
            scheduler=schedulers[QUEUES.index(topic)],
            deliveries_max=random.choice((0, 2, 4)),
        )

    def _publish(self, topic: str) -> None:
        random = self._random
        token = self._clients.next_token("m")
        operation = Append(
            not_after_ms=0,
            topic=topic,
            partition=random.randrange(PARTITIONS),
            level=random.randrange(len(LEVELS)),
            count=1,
            records=pack_record(b'"' + token + b'"'),
            may_create=False,
        )
        self._ask(operation, lambda _asked: self._soon(partial(self._publish, topic), self._pace_ms), token)

    # Consumers without leases.

    def _take(self, topic: str) -> None:
        random = self._random
        attempt = self._clients.next_token("a") if random.random() < 0.5 else b""
        partition = random.choice((-1, -1, 0))
        operation = Pull(0, topic, "takers", partition, random.randrange(1, 12), 1_000_000, attempt.decode())
        self._ask(operation, lambda _asked: self._soon(partial(self._take, topic), 2 * self._pace_ms), attempt)

    # Workers.

    def _work(self, topic: str) -> None:
        random = self._random
        token = self._clients.next_token("l")
        operation = LeasePull(
            not_after_ms=0,
            topic=topic,
            consumer=WORKERS,
            count_max=random.choice((1, 3, 10)),
            bytes_max=1_000_000,
            lease_ms=random.choice((200, 1000, 4000)),
            level_min=random.choice((0, 0, 0, 1)),
            nonce=token.ljust(NONCE_BYTES, b"."),
            in_flight_max=random.choice((5, 40)),
        )

        def then(asked: Answered) -> None:
            leased = asked.result
            if isinstance(leased, Leased) and leased.ranges:
                self._settle_later(leased, operation.lease_ms)
            self._soon(partial(self._work, topic), self._pace_ms)

        self._ask(operation, then, token)

    def _settle_later(self, leased: Leased, lease_ms: int) -> None:
        for after_ms, operation in settlements(self._random, leased, lease_ms, SETTLED_AS):
            self._world.at(int(after_ms * US_PER_MS), partial(self._settle, operation))

    def _settle(self, operation: Settle) -> None:
        self._ask(operation, ignore)

    def _redrive(self, topic: str) -> None:
        operation = Redrive(0, topic, self._random.choice((0, 1, 3)))
        self._ask(operation, lambda _asked: self._soon(partial(self._redrive, topic), REDRIVE_MS))


def settlements(
    random: Random, leased: Leased, lease_ms: int, settled_as: dict[SettleKind, int]
) -> list[tuple[float, Settle]]:
    """What a worker sends for what it was given, each with the time after which it does."""
    items = [
        _item(random, found.messages.partition, found.messages.offset + number, leased.nonce, settled_as)
        for found in leased.ranges
        for number in range(found.messages.count)
        if random.random() >= FORGETS
    ]
    if not items:
        return []
    operation = Settle(0, leased.topic, leased.consumer, items)
    after_ms = random.uniform(0.9, 1.5) * lease_ms if random.random() < IS_LATE else random.random() * 0.5 * lease_ms
    sent = [(after_ms, operation)] * (2 if random.random() < SETTLES_TWICE else 1)
    extended = [item for item in items if item.kind is SettleKind.EXTEND]
    if extended:
        acks = [SettleItem(SettleKind.ACK, item.partition, item.offset, item.nonce) for item in extended]
        sent.append((after_ms + lease_ms, Settle(0, leased.topic, leased.consumer, acks)))
    return sent


def _item(random: Random, partition: int, offset: int, nonce: bytes, settled_as: dict[SettleKind, int]) -> SettleItem:
    kind = random.choices(tuple(settled_as), tuple(settled_as.values()))[0]
    if kind is SettleKind.NACK:
        return SettleItem(kind, partition, offset, nonce, random.choice((-1, 0, 500)), random.choice((-1, -1, 0, 2)))
    return SettleItem(kind, partition, offset, nonce, 2000 if kind is SettleKind.EXTEND else 0)
