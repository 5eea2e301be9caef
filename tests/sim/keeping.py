"""Simulated clients of topics that do not keep everything: messages with a time to live, limits, purges, expectations.

What lives here: the topics that they make and change, publishers that repeat with a key and race for an offset,
consumers that repeat attempts, workers that lease and settle.
Rules: they draw from a random of their own, so that whatever they do, the others of a seed draw the same. All messages
have the same size, so that a limit of bytes is one of messages too. A client knows only what a node told it.
Must not know: consensus, disks, faults, what a model says of it.
"""

from __future__ import annotations

from functools import partial
from random import Random

from falconq_cluster.machine.appends import AppendMany, Part
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    Leased,
    LeasePull,
    Pull,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.deduping import digest_of
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import AGED, OVERFLOWS, STRICT, WEIGHTED, Retention, Scheduler, TopicSettings
from tests.sim.amenders import Amenders
from tests.sim.cluster import Host, SimCluster
from tests.sim.crowd import Answered, Asks, Crowd, ignore
from tests.sim.nodes import RunningNode
from tests.sim.world import US_PER_MS

KEPT_TOPICS = ("fading", "capped", "done")
"""Of messages with a time to live, with limits of size, and of what is gone once it is settled."""
LEVELS = ("low", "normal", "high")
PARTITIONS = 2
TAKERS, SLOW, WORKERS = "takers", "slow", "workers"
NONCE_BYTES = 16
TEXT_BYTES = 30
RECORD_BYTES = len(pack_record(b"." * (TEXT_BYTES + 2)))
PACE_MS_LEAST = 250
CHANGE_MS, PURGE_MS = 4000, 9000
"""Mean pauses between two changes of what a topic keeps, and between two purges."""
LATE_MS = 3000
"""Mean time after which the consumers of a topic come: until then nothing of it is settled."""
TRIES_MAX = 5
REPEATS_AN_ATTEMPT, EXPECTS, RACES = 0.5, 0.3, 0.5
"""How often a consumer repeats an attempt that was answered, a publisher names the last offset, and two name one."""
SETTLED_AS = {SettleKind.ACK: 60, SettleKind.NACK: 20, SettleKind.EXTEND: 10, SettleKind.REJECT: 10}
"""In percent."""
FORGETS = 0.15


class Keepers(Crowd):
    """All of them, of one run."""

    pace_ms_min = PACE_MS_LEAST

    def __init__(self, cluster: SimCluster, clients: Asks, random: Random) -> None:
        super().__init__(cluster, clients, random)
        self._amenders = Amenders(cluster, self._ask, random)

    def start(self) -> None:
        for topic in KEPT_TOPICS:
            self._soon(partial(self._make, topic), 10)

    # Topics.

    def _make(self, topic: str) -> None:
        random = self._random
        scheduler = random.choice((Scheduler(STRICT), Scheduler(WEIGHTED), Scheduler(AGED, (), (("low", 500),))))
        given = TopicSettings(
            partitions=PARTITIONS,
            levels=LEVELS,
            scheduler=scheduler,
            deliveries_max=random.choice((0, 2)),
            retention=self._retention(topic),
            overflow=random.choice(OVERFLOWS),
        )

        def then(asked: Answered) -> None:
            if not isinstance(asked.result, TopicSet):
                self._soon(partial(self._make, topic), 100)
                return
            self._soon(partial(self._publish, topic), 10)
            self._soon(partial(self._change, topic), CHANGE_MS)
            self._soon(partial(self._purge, topic), PURGE_MS)
            self._soon(partial(self._take, topic, TAKERS), LATE_MS)
            self._soon(partial(self._take, topic, SLOW), LATE_MS)
            for _ in range(2):
                self._soon(partial(self._work, topic), LATE_MS)

        self._ask(SetTopic(0, topic, ANY_VERSION, is_change=False, given=given), then)

    def _retention(self, topic: str) -> Retention:
        random = self._random
        if topic == "fading":
            return Retention(ms=random.choice((0, 0, 2000)))
        if topic == "done":
            return Retention(acked=random.random() < 0.8, messages=random.choice((0, 0, 30)))
        count = random.choice((3, 10, 30))
        return random.choice(
            (
                Retention(messages=count),
                Retention(bytes=count * RECORD_BYTES + random.randrange(RECORD_BYTES)),
                Retention(ms=3000, messages=count),
            )
        )

    def _change(self, topic: str) -> None:
        given = TopicSettings(retention=self._retention(topic), overflow=self._random.choice(OVERFLOWS))
        operation = SetTopic(0, topic, ANY_VERSION, is_change=True, given=given)
        self._ask(operation, lambda _asked: self._soon(partial(self._change, topic), CHANGE_MS))

    def _purge(self, topic: str) -> None:
        self._ask(Purge(0, topic), lambda _asked: self._soon(partial(self._purge, topic), PURGE_MS))

    # Publishers.

    def _publish(self, topic: str) -> None:
        random = self._random
        host, partition = self._any_host(), random.randrange(PARTITIONS)
        next_offset = self._next_offset(host, topic, partition) if random.random() < EXPECTS else None
        if next_offset is None:
            self._try(topic, *self._append(topic, partition, ()))
            return
        expected = ((partition, next_offset - 1),)
        if random.random() < RACES:
            rival, token = self._append(topic, partition, expected)
            self._ask(rival, ignore, token)
        self._try(topic, *self._append(topic, partition, expected))

    def _append(self, topic: str, partition: int, expected: tuple[tuple[int, int], ...]) -> tuple[AppendMany, bytes]:
        """An append of one to three parts, and its token."""
        random, token = self._random, self._clients.next_token("k")
        is_fading = topic == "fading"
        parts = []
        for number in range(random.choice((1, 1, 1, 2, 3))):
            count = random.choice((1, 1, 3))
            records = b"".join(_record(token, f"{number}.{place}") for place in range(count))
            delay_ms = random.choice((0, 0, 0, 100, 1500) if is_fading else (0, 0, 0, 0, 0, 400))
            ttl_ms = random.choice((0, 1, 300, 1000, 3000) if is_fading else (0, 0, 0, 800))
            place = partition if number == 0 else random.randrange(PARTITIONS)
            parts.append(Part(place, random.randrange(len(LEVELS)), count, records, delay_ms, ttl_ms))
        once = Once(token.decode(), digest=digest_of((0, b"".join(part.records for part in parts))))
        is_once = bool(expected) or random.random() < 0.5
        return AppendMany(0, topic, parts, False, expected, once if is_once else None), token

    def _try(self, topic: str, operation: AppendMany, token: bytes, number: int = 1) -> None:
        def then(asked: Answered) -> None:
            self._amenders.published(operation, asked)
            is_open = asked.result is None and asked.code in ("", "expired")
            if number < TRIES_MAX and (is_open or self._random.random() < 0.05):
                self._soon(partial(self._try, topic, operation, token, number + 1), 50)
            else:
                self._soon(partial(self._publish, topic), self._pace_ms)

        if operation.once is None:
            number = TRIES_MAX
        self._ask(operation, then, token)

    def _next_offset(self, host: Host, topic: str, partition: int) -> int | None:
        """What the node says that the partition's next offset is; None if it says nothing."""
        found: list[int] = []

        def look() -> None:
            node = host.node
            assert isinstance(node, RunningNode)
            found.extend(status.next_offset for status in node.node.broker.views().partition_status(topic))

        self._cluster.run_as(host, look)
        return found[partition] if found else None

    # Consumers without leases.

    def _take(self, topic: str, consumer: str) -> None:
        random = self._random
        attempt = self._clients.next_token("a") if random.random() < 0.6 else b""
        count = random.randrange(1, 8) if consumer == TAKERS else random.randrange(1, 4)
        operation = Pull(0, topic, consumer, -1, count, 1_000_000, attempt.decode())
        pace_ms = 2 * self._pace_ms if consumer == TAKERS else 5 * self._pace_ms
        self._take_again(operation, attempt, pace_ms, tries=3 if attempt else 1)

    def _take_again(self, operation: Pull, attempt: bytes, pace_ms: int, *, tries: int) -> None:
        def then(asked: Answered) -> None:
            if tries > 1 and (asked.result is None or self._random.random() < REPEATS_AN_ATTEMPT):
                self._soon(partial(self._take_again, operation, attempt, pace_ms, tries=tries - 1), 400)
            else:
                self._soon(partial(self._take, operation.topic, operation.consumer), pace_ms)

        self._ask(operation, then, attempt)

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
            lease_ms=random.choice((200, 1000, 3000)),
            level_min=random.choice((0, 0, 0, 1)),
            nonce=token.ljust(NONCE_BYTES, b"."),
            in_flight_max=random.choice((5, 40)),
        )

        def then(asked: Answered) -> None:
            leased = asked.result
            if isinstance(leased, Leased) and leased.ranges:
                self._settle_later(topic, leased, operation.lease_ms)
            self._soon(partial(self._work, topic), 2 * self._pace_ms)

        self._ask(operation, then, token)

    def _settle_later(self, topic: str, leased: Leased, lease_ms: int) -> None:
        random = self._random
        items = [
            self._item(found.messages.partition, found.messages.offset + number, leased.nonce)
            for found in leased.ranges
            for number in range(found.messages.count)
            if random.random() >= FORGETS
        ]
        if items:
            # Some settle after the end of the lease.
            after_ms = random.choice((0.1, 0.5, 0.5, 0.9, 1.1)) * lease_ms
            self._world.at(int(after_ms * US_PER_MS), partial(self._ask, Settle(0, topic, WORKERS, items), ignore))

    def _item(self, partition: int, offset: int, nonce: bytes) -> SettleItem:
        random = self._random
        kind = random.choices(tuple(SETTLED_AS), tuple(SETTLED_AS.values()))[0]
        if kind is SettleKind.NACK:
            priority = random.choice((-1, -1, 0, 2))
            return SettleItem(kind, partition, offset, nonce, random.choice((-1, 0, 500)), priority)
        return SettleItem(kind, partition, offset, nonce, 1000 if kind is SettleKind.EXTEND else 0)


def _record(token: bytes, place: str) -> bytes:
    return pack_record(b'"' + (token + place.encode()).ljust(TEXT_BYTES, b".") + b'"')
