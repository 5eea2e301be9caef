"""Simulated clients of event streams: they connect through any node, read, die, and connect elsewhere.

What lives here: the clients of two consumers of one topic: streams that replace each other, and streams that share.
Rules: those of ordered.py. A client knows the numbers that it was handed; it goes on from the last one that it has
seen, from an older one, or without any.
Must not know: consensus, disks, faults, what a model says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol

from falconq_cluster.machine.commands import ClientOperation, Leased, LeasePull, Settle, SettleItem, SettleKind
from falconq_cluster.machine.subscriptions import OpenStream, StreamKind, StreamOpened
from tests.sim.cluster import Host, SimCluster
from tests.sim.crowd import Answered, Asks
from tests.sim.workers import NONCE_BYTES

FEED, CROWD = "feed", "crowd"
"""The consumer of streams that are alone, and that of streams that share it."""
CLIENTS = 2
"""Of each."""
LEASE_MS = 1500
DIES, IS_BLIND, IS_BEHIND = 0.12, 0.15, 0.15
"""How often a client dies after a pull, comes back without a number, and with an older one than its last."""
AWAY_MS = 600
EXTENDS, ACKS = 0.25, 0.1


class AskAt(Protocol):
    """Hands an operation to a node."""

    def __call__(
        self, host: Host, operation: ClientOperation, then: Callable[[Answered], None], token: bytes = b""
    ) -> None: ...


@dataclass(slots=True)
class _Client:
    topic: str
    consumer: str
    kind: StreamKind
    host: Host
    token: bytes = b""
    nonce: bytes = b""
    """Of the stream; holds the token."""
    seen_nonce: bytes = b""
    """Of the stream that gave `seen`."""
    seen: int = 0
    """The number of the last delivery that it has seen."""


class Streams:
    """All such clients of one topic."""

    def __init__(
        self,
        soon: Callable[[Callable[[], None], int], None],
        ask_at: AskAt,
        tokens: Asks,
        cluster: SimCluster,
        random: Random,
    ) -> None:
        self._soon, self._ask_at, self._tokens = soon, ask_at, tokens
        self._cluster, self._random = cluster, random

    def start(self, topic: str) -> None:
        for consumer, kind in ((FEED, StreamKind.ALONE), (CROWD, StreamKind.SHARED)):
            for _ in range(CLIENTS):
                client = _Client(topic, consumer, kind, self._any_host())
                self._soon(partial(self._connect, client), AWAY_MS)

    def _any_host(self) -> Host:
        return self._random.choice(list(self._cluster.hosts.values()))

    def _connect(self, client: _Client) -> None:
        random = self._random
        client.host = self._any_host()
        client.token = self._tokens.next_token("s")
        client.nonce = client.token.ljust(NONCE_BYTES, b".")
        number = client.seen
        if random.random() < IS_BLIND:
            number = 0
        elif random.random() < IS_BEHIND:
            number = max(number - random.randrange(4), 0)
        operation = OpenStream(
            not_after_ms=0,
            topic=client.topic,
            consumer=client.consumer,
            nonce=client.nonce,
            stream=client.kind,
            acked_number=number,
            acked_nonce=client.seen_nonce if number else b"",
        )

        def then(asked: Answered) -> None:
            if isinstance(asked.result, StreamOpened):
                self._pull(client)
            else:
                # It may be open all the same; the number is of no use any more if the consumer was made anew.
                if asked.code == "bad_request":
                    client.seen = 0
                self._soon(partial(self._connect, client), AWAY_MS // 2)

        self._ask_at(client.host, operation, then, client.token)

    def _pull(self, client: _Client) -> None:
        random = self._random
        operation = LeasePull(
            not_after_ms=0,
            topic=client.topic,
            consumer=client.consumer,
            count_max=random.choice((2, 5, 20)),
            bytes_max=1_000_000,
            lease_ms=LEASE_MS,
            level_min=0,
            nonce=client.nonce,
            in_flight_max=random.choice((10, 40)),
            stream=client.kind,
        )

        def then(asked: Answered) -> None:
            leased = asked.result
            if isinstance(leased, Leased) and leased.ranges:
                self._read(client, leased)
            if isinstance(leased, Leased) and random.random() >= DIES:
                self._soon(partial(self._pull, client), 200)
            else:
                self._soon(partial(self._connect, client), AWAY_MS)

        self._ask_at(client.host, operation, then, client.token)

    def _read(self, client: _Client, leased: Leased) -> None:
        """Some of it may not arrive."""
        random = self._random
        places = [
            (found.messages.partition, found.messages.offset + number)
            for found in leased.ranges
            for number in range(found.messages.count)
        ]
        client.seen, client.seen_nonce = leased.first_number + random.randrange(len(places)), client.nonce
        kind = random.random()
        if kind < EXTENDS:
            items = [SettleItem(SettleKind.EXTEND, *place, leased.nonce, LEASE_MS) for place in places]
        elif kind < EXTENDS + ACKS:
            items = [SettleItem(SettleKind.ACK, *places[0], leased.nonce)]
        else:
            return
        self._ask_at(self._any_host(), Settle(0, client.topic, client.consumer, items), _ignore)


def _ignore(_asked: Answered) -> None:
    """The model sees what came of it."""
