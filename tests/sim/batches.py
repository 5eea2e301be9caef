"""Simulated publishers of atomic and delayed batches, and what must be true of each batch.

What lives here: publishers that repeat a batch with its key until they know, and the judgement of all batches.
Rules: of a batch all is stored or still waits for its time, or nothing is there; nothing is stored twice or before its
time; what was acknowledged is there, at the places that every answer names. Publishers draw from a random of their own
and have a topic of their own.
Must not know: consensus, disks, faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from falconq_cluster.broker.waiters import Outcome
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendedMany, AppendMany, Part
from falconq_cluster.machine.commands import Duplicate, Refused
from falconq_cluster.machine.deduping import digest_of
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.rows import DelayedRow, decode_row
from falconq_cluster.machine.views import Views
from falconq_cluster.storage.store import Reader
from tests.sim.cluster import Host, SimCluster
from tests.sim.nodes import RunningNode
from tests.sim.world import US_PER_MS, Violation

TOPIC = "batches"
INTERVAL_MS = 150
DEADLINE_MS = 1500
TRIES_MAX = 6
"""Then a publisher gives a batch up, without knowing."""
DELAYS_MS = (0, 0, 50, 2000)


@dataclass(slots=True)
class Bundle:
    """One batch as its publisher knows it."""

    operation: AppendMany
    messages: list[bytes]
    answer: tuple[AppendedMany, int] | None = None
    """What it was told, and the log index of that."""


class Batches:
    """All such publishers of a run."""

    def __init__(self, cluster: SimCluster, random: Random) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = random
        self._is_over = False
        self.made: list[Bundle] = []

    def start(self, count: int) -> None:
        """Let so many publishers publish until they are stopped."""
        for _ in range(count):
            self._soon()

    def stop(self) -> None:
        self._is_over = True

    @property
    def acknowledged_count(self) -> int:
        return sum(1 for bundle in self.made if bundle.answer is not None)

    def _soon(self) -> None:
        self._world.at(int(self._random.expovariate(1 / INTERVAL_MS) * US_PER_MS), self._begin)

    def _begin(self) -> None:
        if not self._is_over:
            self._try(self._bundle(), 1)

    def _bundle(self) -> Bundle:
        number, random = len(self.made), self._random
        messages = [f'"-b{number}.{place}-"'.encode() for place in range(random.randrange(2, 6))]
        records = [pack_record(message) for message in messages]
        parts = [Part(0, random.randrange(2), 1, record, random.choice(DELAYS_MS)) for record in records]
        once = Once(f"b{number}", digest=digest_of(*((0, record) for record in records)))
        bundle = Bundle(AppendMany(0, TOPIC, parts, may_create=True, once=once), messages)
        self.made.append(bundle)
        return bundle

    def _try(self, bundle: Bundle, number: int) -> None:
        host = self._random.choice(list(self._cluster.hosts.values()))
        is_open = True

        def end(is_known: bool) -> None:
            nonlocal is_open
            if not is_open:
                return
            is_open = False
            if is_known or number >= TRIES_MAX or self._is_over:
                self._soon()
            else:
                self._world.at(50 * US_PER_MS, lambda: self._try(bundle, number + 1))

        def done(outcome: Outcome) -> None:
            end(self._take(host, bundle, outcome))

        def ask() -> None:
            node = host.node
            assert isinstance(node, RunningNode)
            broker = node.node.broker
            try:
                broker.submit(bundle.operation, deadline_ms=broker.clock.monotonic_ms() + DEADLINE_MS, done=done)
            except FalconQError:
                self._world.at(0, lambda: end(is_known=False))

        if not self._cluster.run_as(host, ask):
            self._world.at(US_PER_MS, lambda: end(is_known=False))
        self._world.at(2 * DEADLINE_MS * US_PER_MS, lambda: end(is_known=False))

    def _take(self, host: Host, bundle: Bundle, outcome: Outcome) -> bool:
        """Whether the publisher knows by now. Raises: Violation."""
        answer, index = outcome.result, outcome.index
        if isinstance(answer, FalconQError) or (isinstance(answer, Refused) and answer.code == "expired"):
            return False
        result = answer.first if isinstance(answer, Duplicate) else answer
        index = answer.first_index if isinstance(answer, Duplicate) else index
        if not isinstance(result, AppendedMany):
            raise Violation(f"a batch of {len(bundle.messages)} messages is answered by {host.name} with {result}")
        if bundle.answer not in (None, (result, index)):
            raise Violation(f"a batch is answered with {result} of {index}, and was with {bundle.answer}")
        bundle.answer = result, index
        return True

    def check(self, machine: Machine, reader: Reader) -> None:
        """Hold all batches against a store. Raises: Violation."""
        views = Views(machine, reader)
        stored: dict[bytes, DeliveredMessage] = {}
        for message in views.peek(TOPIC, partition=0, offset=0, count=1_000_000, bytes_max=1 << 40):
            if stored.setdefault(message.message, message) is not message:
                raise Violation(f"{message} is stored twice, first as {stored[message.message]}")
        waiting = {
            decode_row(value, DelayedRow).records: keys.read_delayed_key(key)
            for key, value in reader.scan(keys.DELAYED, keys.prefix_end(keys.DELAYED))
        }
        for bundle in self.made:
            self._check_bundle(bundle, stored, waiting)
        due = [at.due_ms for at in waiting.values() if at.due_ms + DEADLINE_MS < machine.log_time_ms]
        if due:
            raise Violation(f"{len(due)} messages wait since {min(due)}, it is {machine.log_time_ms}")

    def _check_bundle(
        self, bundle: Bundle, stored: dict[bytes, DeliveredMessage], waiting: dict[bytes, keys.Waiting]
    ) -> None:
        there = [
            message in stored or part.records in waiting
            for message, part in zip(bundle.messages, bundle.operation.parts, strict=True)
        ]
        if any(there) and not all(there):
            raise Violation(f"of {bundle.messages} there is {there}")
        if bundle.answer is None:
            return
        result, index = bundle.answer
        if not all(there):
            raise Violation(f"{bundle.messages} is acknowledged as {result} of {index}, and not there")
        for number, (message, place) in enumerate(zip(bundle.messages, result.places, strict=True)):
            found = stored.get(message)
            if found is None:
                continue
            is_right = found.id == f"{index}.{result.first_id + number}" and found.level == place.level
            is_in_time = found.timestamp_ms >= place.due_ms if place.due_ms else found.offset == place.base_offset
            if not is_right or not is_in_time:
                raise Violation(f"{found} is acknowledged as {place} of {result}, {index}")
