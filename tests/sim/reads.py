"""Simulated linearizable reads, and what each of them has to show (PROTOCOL.md P17).

What lives here: readers, and the floor below which no read may be that begins now.
Rules: a read shows all that was acknowledged to anybody, and all that another read showed, before it began, whichever
nodes were asked; or it is refused. Readers draw from a random of their own.
Must not know: consensus, disks, faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import Appended
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.views import Views
from tests.sim.cluster import Host, SimCluster
from tests.sim.nodes import RunningNode
from tests.sim.world import US_PER_MS, Violation

OPEN, SHOWN, REFUSED, SILENT = "open", "shown", "refused", "silent"
INTERVAL_MS = 60
"""Mean pause of a reader: a deposed leader believes in itself for less than a second."""
GIVE_UP_US = 500 * US_PER_MS
"""A reader waits so much longer than its deadline for a sign of life."""

Place = tuple[str, int]
"""(topic, partition)."""


@dataclass(slots=True)
class Floor:
    """What is known to be there."""

    index: int = 0
    newest: dict[Place, tuple[int, bytes]] = field(default_factory=dict)
    """The acknowledged message with the highest offset, and its token."""

    def copy(self) -> Floor:
        return Floor(self.index, dict(self.newest))

    def add(self, place: Place, offset: int, token: bytes) -> None:
        if offset >= self.newest.get(place, (-1, b""))[0]:
            self.newest[place] = (offset, token)


@dataclass(slots=True)
class Read:
    """One read as its client knows it."""

    node: str
    floor: Floor
    state: str = OPEN
    index: int = 0


class Reads:
    """All readers of a run."""

    def __init__(self, cluster: SimCluster, random: Random) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = random
        self._floor = Floor()
        self._is_over = False
        self.made: list[Read] = []

    def start(self, count: int) -> None:
        """Let so many readers read until they are stopped."""
        for _ in range(count):
            self._soon()

    def stop(self) -> None:
        self._is_over = True

    def acknowledged(self, index: int, result: object, token: bytes) -> None:
        """Somebody was told that this happened: every read that begins from now on shows it."""
        floor = self._floor
        floor.index = max(floor.index, index)
        if isinstance(result, Appended) and token:
            floor.add((result.topic, result.partition), result.base_offset, token)

    def count(self, state: str) -> int:
        return sum(1 for read in self.made if read.state == state)

    def read(self, host: Host, deadline_ms: int, then: Callable[[Read], None]) -> Read:
        """Read through the node; `then` is called once, with an answer or when the client gave up."""
        read = Read(host.name, self._floor.copy())
        self.made.append(read)

        def end(state: str) -> None:
            if read.state == OPEN:
                read.state = state
                self._world.note("reader", state, f"at {read.node} {read.index or ''}")
                then(read)

        def done(refusal: FalconQError | None) -> None:
            if read.state == OPEN and refusal is None:
                self._look(host, read)
            end(SHOWN if refusal is None else REFUSED)

        def ask() -> None:
            node = host.node
            assert isinstance(node, RunningNode)
            broker = node.node.broker
            self._world.note("reader", "reads", f"at {host.name}, {read.floor.index} is known")
            try:
                broker.linearizable.confirm(broker.clock.monotonic_ms() + deadline_ms, done)
            except FalconQError:
                self._world.at(0, lambda: end(REFUSED))

        if not self._cluster.run_as(host, ask):
            self._world.at(US_PER_MS, lambda: end(REFUSED))
        self._world.at(deadline_ms * US_PER_MS + GIVE_UP_US, lambda: end(SILENT))
        return read

    def _look(self, host: Host, read: Read) -> None:
        """What the node shows, in the turn in which it says that it may be read. Raises: Violation."""
        node = host.node
        assert isinstance(node, RunningNode)
        views = node.node.broker.views()
        read.index = node.applied_index
        if read.index < read.floor.index:
            raise Violation(
                f"a linearizable read at {host.name} shows entry {read.index}, {read.floor.index} was known before it"
            )
        for place, (offset, token) in read.floor.newest.items():
            shown = _message_at(views, place, offset)
            if shown is None or token not in shown.message:
                raise Violation(
                    f"a linearizable read at {host.name} shows {shown} at offset {offset} of {place}, "
                    f"{token.decode()} was acknowledged there before it"
                )
        # What one read showed, no later one may miss.
        self._floor.index = max(self._floor.index, read.index)

    def _soon(self) -> None:
        delay_ms = self._random.expovariate(1 / INTERVAL_MS)
        self._world.at(int(delay_ms * US_PER_MS), self._read_again)

    def _read_again(self) -> None:
        if self._is_over:
            return
        host = self._random.choice(list(self._cluster.hosts.values()))
        self.read(host, self._random.choice((300, 1000, 3000)), lambda _read: self._soon())


def _message_at(views: Views, place: Place, offset: int) -> DeliveredMessage | None:
    topic, partition = place
    found = views.peek(topic, partition=partition, offset=offset, count=1)
    return found[0] if found and found[0].offset == offset else None
