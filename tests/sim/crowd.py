"""What all kinds of simulated clients share: whom they ask, when, and until when.

What lives here: the base of clients that come in a crowd, what they are told, and who carries what they ask.
Rules: a crowd draws from a random of its own: whatever it does, the others of a seed draw the same. After `stop`
nobody asks any more.
Must not know: what is asked, consensus, disks, faults.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar, Protocol

from falconq_cluster.machine.commands import ClientOperation
from tests.sim.cluster import Host, SimCluster
from tests.sim.world import US_PER_MS

DEADLINES_MS = (300, 1000, 3000)


class Answered(Protocol):
    """What a client was told."""

    @property
    def state(self) -> str: ...
    @property
    def result(self) -> object: ...
    @property
    def code(self) -> str: ...
    @property
    def index(self) -> int: ...


class Asks(Protocol):
    """Hands operations to nodes, and gives out unique bytes."""

    def ask(
        self,
        host: Host,
        operation: ClientOperation,
        token: bytes,
        deadline_ms: int,
        then: Callable[[Answered], None],
    ) -> None: ...

    def next_token(self, kind: str) -> bytes: ...


class Crowd:
    """Clients of one kind, of one run."""

    pace_factor: ClassVar[int] = 1
    pace_ms_min: ClassVar[int] = 0
    """How much slower than publishers they are, and how slow at least."""

    def __init__(self, cluster: SimCluster, clients: Asks, random: Random) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._clients = clients
        self._random = random
        self._is_over = False

    def stop(self) -> None:
        self._is_over = True

    def _ask(self, operation: ClientOperation, then: Callable[[Answered], None], token: bytes = b"") -> None:
        if not self._is_over:
            self._ask_at(self._any_host(), operation, then, token)

    def _ask_at(
        self, host: Host, operation: ClientOperation, then: Callable[[Answered], None], token: bytes = b""
    ) -> None:
        if not self._is_over:
            self._clients.ask(host, operation, token, self._random.choice(DEADLINES_MS), then)

    def _any_host(self) -> Host:
        return self._random.choice(list(self._cluster.hosts.values()))

    @property
    def _pace_ms(self) -> int:
        return max(self.pace_factor * self._cluster.profile.publish_interval_ms, self.pace_ms_min)

    def _soon(self, call: Callable[[], None], mean_ms: int) -> None:
        self._world.at(int(self._random.expovariate(1 / mean_ms) * US_PER_MS), call)


def ignore(_asked: Answered) -> None:
    """The model sees what came of it."""
