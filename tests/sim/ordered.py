"""Simulated workers on consumers with an order, those who move such consumers, and consumers that are left behind.

What lives here: three topics to which partitions are added, publishers of messages with keys, the consumers of two of
the topics and their workers, an operator, and passers-by whose consumers expire. The third topic is `feeds.py`'s.
Rules: those of workers.py: a random of their own. A key's partition is what the node that is asked believes, as in the
product. Whoever is told that a consumer is there, or is gone, may be told so too late.
Must not know: consensus, disks, faults, what a model says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from unittest.mock import patch

from falconq_cluster.broker.partitioner import partition_of_key
from falconq_cluster.machine import consumers, managing
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    Append,
    ClientOperation,
    Leased,
    LeasePull,
    Pull,
    Settle,
    SettleKind,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import AGED, STRICT, WEIGHTED, Scheduler, TopicSettings
from falconq_cluster.machine.state import State
from falconq_cluster.machine.subscriptions import (
    ConsumerConfig,
    ConsumerOperation,
    ConsumerSet,
    DeleteConsumer,
    Ordering,
    PauseConsumer,
    Seek,
    SetConsumer,
    Start,
    StartKind,
)
from tests.sim.cluster import Host, SimCluster
from tests.sim.crowd import Answered, Asks, Crowd, ignore
from tests.sim.feeds import CROWD, FEED, Streams
from tests.sim.nodes import RunningNode
from tests.sim.workers import NONCE_BYTES, SETTLED_AS, settlements
from tests.sim.world import US_PER_MS

LANES, MOVES, FEEDS = "lanes", "moves", "feeds"
ORDERED_TOPICS = (LANES, MOVES, FEEDS)
"""Of consumers that are halted or sent back, of those that are also changed and deleted, and of event streams."""
TOPICS_PER_SEED = 2
LEVELS = ("low", "normal", "high")
KEYS = ("ash", "elm", "fir", "hop", "ivy", "nut", "oak", "pea", "rye", "yew")
PARTITIONS_MAX = 5
KEYED, PARTED = "keyed", "parted"
"""Consumers of LANES, by their order."""
MOVED, TAKEN = "moved", "taken"
"""Consumers of MOVES: with workers, and one of which messages are taken without leases."""

PACE_MS_MIN = 200
"""There are a dozen of them, and a seed has others besides."""
GROW_MS = 4000
"""Mean pause between two additions of a partition to a topic."""
MOVE_MS = 1200
"""The same of an operator's acts."""
LEAVE_MS = 1500
"""The same of passers-by."""
EXPIRE_MS = 2000
USED_GRAIN_MS = 200
"""Both as in the product, but so short that a run sees it."""

RETURNED_AS: dict[SettleKind, int] = {
    kind: share for kind, share in SETTLED_AS.items() if kind is not SettleKind.REJECT
}
"""How messages are settled that may come once more, of which there are no dead letters."""


@contextmanager
def short_expiry() -> Iterator[None]:
    """Consumers may expire within a run."""
    with (
        patch.object(managing, "EXPIRE_AFTER_MS_MIN", EXPIRE_MS),
        patch.object(consumers, "USED_GRAIN_MS", USED_GRAIN_MS),
    ):
        yield


def has_left(state: State) -> bool:
    """Whether some consumer is still to expire."""
    return any(
        0 < consumer.config.expire_after_ms <= 2 * EXPIRE_MS
        for topic in state.topics.values()
        for consumer in topic.consumers.values()
    )


class Ordered(Crowd):
    """All of them, of one run."""

    pace_factor = 2
    pace_ms_min = PACE_MS_MIN

    def __init__(self, cluster: SimCluster, clients: Asks, random: Random) -> None:
        super().__init__(cluster, clients, random)
        self._partitions: dict[str, int] = {}
        self._has_policy_for_orders: dict[str, bool] = {}
        self._has_dead_letters: dict[str, bool] = {}
        """A consumer that goes back would have a message in them twice."""

    def start(self) -> None:
        for topic in self._random.sample(ORDERED_TOPICS, TOPICS_PER_SEED):
            self._soon(partial(self._make, topic), 10)

    # Topics.

    def _make(self, topic: str) -> None:
        given = self._settings(topic)
        self._has_policy_for_orders[topic] = given.scheduler is not None and given.scheduler.policy != WEIGHTED

        self._has_dead_letters[topic] = bool(given.deliveries_max)

        def then(asked: Answered) -> None:
            if isinstance(asked.result, TopicSet):
                self._partitions[topic] = asked.result.config.partitions
                self._open(topic)
            else:
                self._soon(partial(self._make, topic), 100)

        self._ask(SetTopic(0, topic, ANY_VERSION, is_change=False, given=given), then)

    def _settings(self, topic: str) -> TopicSettings:
        random = self._random
        schedulers = [
            Scheduler(STRICT),
            Scheduler(AGED, (), tuple((name, random.choice((100, 1000, 5000))) for name in ("low", "normal"))),
        ]
        if topic == MOVES:
            schedulers.append(Scheduler(WEIGHTED, tuple((name, random.randrange(1, 6)) for name in sorted(LEVELS))))
        return TopicSettings(
            partitions=random.choice((1, 2)),
            levels=LEVELS,
            scheduler=random.choice(schedulers),
            deliveries_max=random.choice((0, 3)) if topic == LANES else 0,
        )

    def _open(self, topic: str) -> None:
        self._soon(partial(self._grow, topic), GROW_MS)
        for _ in range(2):
            self._soon(partial(self._publish, topic), 10)
        if topic == LANES:
            self._begin(topic, KEYED, Ordering.KEY, worker_count=3)
            self._begin(topic, PARTED, Ordering.PARTITION, worker_count=2)
            self._soon(partial(self._halt, topic, KEYED), MOVE_MS)
        elif topic == MOVES:
            self._begin(topic, MOVED, self._random_order(topic), worker_count=2)
            self._soon(partial(self._take, topic), 10)
            self._soon(partial(self._move, topic, (MOVED, MOVED, TAKEN), 1), MOVE_MS)
            self._soon(partial(self._leave, topic), LEAVE_MS)
        else:
            self._begin(topic, CROWD, self._random_order(topic), worker_count=0)
            Streams(self._soon, self._ask_at, self._clients, self._cluster, self._random).start(topic)
            self._soon(partial(self._move, topic, (FEED, CROWD), 3), 3 * MOVE_MS)

    def _grow(self, topic: str) -> None:
        count = self._partitions[topic] + 1
        if count > PARTITIONS_MAX:
            return

        def then(asked: Answered) -> None:
            if isinstance(asked.result, TopicSet):
                self._partitions[topic] = asked.result.config.partitions
            self._soon(partial(self._grow, topic), GROW_MS)

        self._ask(SetTopic(0, topic, ANY_VERSION, is_change=True, given=TopicSettings(partitions=count)), then)

    def _publish(self, topic: str) -> None:
        random = self._random
        token = self._clients.next_token("m")
        key = random.choice((*KEYS, None))
        host = self._any_host()
        partitions = self._partitions_at(host, topic)
        operation = Append(
            not_after_ms=0,
            topic=topic,
            partition=random.randrange(partitions) if key is None else partition_of_key(key, partitions),
            level=random.choice((0, 0, 1, 2)),
            count=1,
            records=pack_record(b'"' + token + b'"', key),
            may_create=False,
        )
        self._ask_at(host, operation, lambda _asked: self._soon(partial(self._publish, topic), self._pace_ms), token)

    def _partitions_at(self, host: Host, topic: str) -> int:
        """As many as the node knows of."""
        node = host.node
        state = node.node.machine.state.topics.get(topic) if isinstance(node, RunningNode) else None
        return 1 if state is None else state.config.partitions

    # Workers.

    def _begin(self, topic: str, consumer: str, ordering: Ordering, *, worker_count: int) -> None:
        operation = SetConsumer(0, topic, consumer, ConsumerConfig(ordering=ordering))

        def then(asked: Answered) -> None:
            if not isinstance(asked.result, ConsumerSet):
                self._soon(partial(self._begin, topic, consumer, ordering, worker_count=worker_count), 100)
                return
            for _ in range(worker_count):
                self._soon(partial(self._work, topic, consumer), 10)

        self._ask(operation, then)

    def _work(self, topic: str, consumer: str) -> None:
        self._lease(topic, consumer, lambda: self._soon(partial(self._work, topic, consumer), self._pace_ms))

    def _lease(self, topic: str, consumer: str, then_again: Callable[[], None]) -> None:
        random = self._random
        token = self._clients.next_token("l")
        lease_ms = random.choice((200, 1000, 3000))
        operation = LeasePull(
            not_after_ms=0,
            topic=topic,
            consumer=consumer,
            count_max=random.choice((1, 1, 3, 10)),
            bytes_max=random.choice((60, 1_000_000, 1_000_000)),
            lease_ms=lease_ms,
            level_min=random.choice((0, 0, 0, 1)),
            nonce=token.ljust(NONCE_BYTES, b"."),
            in_flight_max=random.choice((4, 20)),
        )

        def then(asked: Answered) -> None:
            if isinstance(asked.result, Leased):
                settled_as = SETTLED_AS if self._has_dead_letters[topic] else RETURNED_AS
                for after_ms, settle in settlements(random, asked.result, lease_ms, settled_as):
                    self._world.at(int(after_ms * US_PER_MS), partial(self._settle, settle))
            then_again()

        self._ask(operation, then, token)

    def _settle(self, operation: Settle) -> None:
        self._ask(operation, ignore)

    def _take(self, topic: str) -> None:
        """Without leases, by both kinds of pulls."""
        random = self._random
        token = self._clients.next_token("l")
        count, bytes_max, level = random.randrange(1, 12), random.choice((60, 1_000_000)), random.choice((0, 0, 1))
        nonce = token.ljust(NONCE_BYTES, b".")
        operation: ClientOperation = LeasePull(0, topic, TAKEN, count, bytes_max, 0, level, nonce, 0, auto_commit=True)
        if random.random() < 0.5:
            operation = Pull(0, topic, TAKEN, random.choice((-1, 0)), count, bytes_max, token.decode())
        self._ask(operation, lambda _asked: self._soon(partial(self._take, topic), 2 * self._pace_ms), token)

    # Consumers as resources.

    def _move(self, topic: str, names: tuple[str, ...], slowness: int) -> None:
        """One act of an operator; who pauses a consumer lets it go on soon."""
        consumer, host = self._random.choice(names), self._any_host()
        operation = self._act(host, topic, consumer)
        again = partial(self._move, topic, names, slowness)

        def then(_asked: Answered) -> None:
            if isinstance(operation, PauseConsumer) and operation.is_paused:
                self._soon(partial(self._go_on, topic, consumer), MOVE_MS // 2)
            self._soon(again, slowness * MOVE_MS)

        self._ask_at(host, operation, then)

    def _halt(self, topic: str, consumer: str) -> None:
        """So that much is to come when partitions are added: it stands still, or goes back."""
        operation: ConsumerOperation = PauseConsumer(0, topic, consumer, is_paused=True)
        if not self._has_dead_letters[topic] and self._random.random() < 0.6:
            operation = Seek(0, topic, consumer, Start())

        def then(_asked: Answered) -> None:
            self._soon(partial(self._go_on, topic, consumer), MOVE_MS)
            self._soon(partial(self._halt, topic, consumer), 3 * MOVE_MS)

        self._ask(operation, then)

    def _act(self, host: Host, topic: str, consumer: str) -> ConsumerOperation:
        random = self._random
        kind = random.random()
        if kind < 0.4:
            start, offsets = self._start_at(host, topic)
            return Seek(0, topic, consumer, start, offsets)
        if kind < 0.65:
            return PauseConsumer(0, topic, consumer, is_paused=random.random() < 0.8)
        if kind < 0.8:
            return DeleteConsumer(0, topic, consumer)
        start, offsets = self._start_at(host, topic)
        ordering = Ordering.NONE if consumer in (TAKEN, FEED) else self._random_order(topic)
        config = ConsumerConfig(start, random.choice((0, 500)), random.choice((0, 5)), ordering=ordering)
        return SetConsumer(0, topic, consumer, config, offsets)

    def _go_on(self, topic: str, consumer: str) -> None:
        self._ask(PauseConsumer(0, topic, consumer, is_paused=False), ignore)

    def _start_at(self, host: Host, topic: str) -> tuple[Start, tuple[int, ...]]:
        random = self._random
        kind = random.choice(tuple(StartKind))
        value = random.randrange(60) if kind is StartKind.OFFSET else 0
        node = host.node
        if kind is not StartKind.TIME or not isinstance(node, RunningNode) or host.process is None:
            return Start(StartKind.OFFSET if kind is StartKind.TIME else kind, value), ()
        value = max(node.node.machine.log_time_ms - random.randrange(5000), 0)
        offsets: list[int] = []

        def look() -> None:
            views = node.node.broker.views().consumers
            while (offset := views.offset_at(topic, len(offsets), value)) is not None:
                offsets.append(offset)

        self._cluster.run_as(host, look)
        return Start(kind, value), tuple(offsets)

    def _random_order(self, topic: str) -> Ordering:
        return self._random.choice((*Ordering, Ordering.KEY)) if self._has_policy_for_orders[topic] else Ordering.NONE

    def _leave(self, topic: str) -> None:
        """Somebody has a consumer for a while and never comes back, or comes back much later, to the name."""
        random = self._random
        name = f"left{random.randrange(4)}"
        config = ConsumerConfig(expire_after_ms=random.choice((EXPIRE_MS, 2 * EXPIRE_MS)))
        again = partial(self._leave, topic)

        def then(_asked: Answered) -> None:
            for _ in range(random.randrange(4)):
                self._soon(partial(self._lease, topic, name, _nothing), EXPIRE_MS)
            self._soon(again, LEAVE_MS)

        self._ask(SetConsumer(0, topic, name, config), then)


def _nothing() -> None:
    return
