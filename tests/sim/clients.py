"""Simulated clients: they publish, consume, retry, give up, and remember every answer.

What lives here: publishers, consumers, and the ledger of what was asked and answered.
Rules: a client knows only what a node told it; a node's death is silence. An answer of status 504 or silence leaves
the outcome open, any other error says that nothing was applied, and the ledger holds the node to that.
Must not know: consensus, disks, faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from falconq_cluster.broker.waiters import Outcome
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.amends import MessageChanged
from falconq_cluster.machine.appends import AppendedMany
from falconq_cluster.machine.commands import (
    Append,
    Appended,
    AppendOnce,
    ClientOperation,
    Done,
    Duplicate,
    Leased,
    LeaseSettled,
    Pull,
    Pulled,
    Range,
    Refused,
    TopicSet,
)
from falconq_cluster.machine.keeping import Purged
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.subscriptions import ConsumerResult
from tests.sim.admins import Admin
from tests.sim.cluster import Host, SimCluster
from tests.sim.nodes import RunningNode
from tests.sim.world import US_PER_MS, Violation

TOPICS = ("orders", "jobs")
GIVE_UP_US = 500 * US_PER_MS
"""A client waits so much longer than its deadline for a sign of life."""

GIVES_UP, REPEATS_IN_VAIN, SENDS_TWICE = 0.03, 0.15, 0.15
"""How often a publisher that repeats leaves a message, repeats what was answered, and asks two nodes at once."""

OPEN, DONE, REFUSED, UNKNOWN = "open", "done", "refused", "unknown"
Acknowledged = Callable[["Asked"], None]
Answer = (
    Appended
    | AppendedMany
    | Duplicate
    | Pulled
    | Leased
    | LeaseSettled
    | TopicSet
    | ConsumerResult
    | Purged
    | MessageChanged
    | Done
)
"""What an operation of a client did, if it did something."""


@dataclass(slots=True)
class Asked:
    """One operation as its client knows it."""

    token: bytes
    """Unique bytes inside the operation; empty for a pull without an attempt."""
    operation: ClientOperation
    node: str
    state: str = OPEN
    result: Answer | None = None
    index: int = 0
    code: str = ""
    """Why the machine refused it."""
    messages: list[DeliveredMessage] = field(default_factory=list)
    """What a pull delivered."""


class Ledger:
    """All operations of all clients."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.token_count = 0

    def next_token(self, kind: str) -> bytes:
        self.token_count += 1
        return f"~{kind}{self.token_count}~".encode()

    def count(self, state: str) -> int:
        return sum(1 for asked in self.asked if asked.state == state)


class Clients:
    """All clients of a run."""

    def __init__(self, cluster: SimCluster, acknowledged: Acknowledged, *, has_admin: bool = True) -> None:
        self.ledger = Ledger()
        self._cluster = cluster
        self._world = cluster.world
        self._acknowledged = acknowledged
        self._is_over = False
        self._has_admin = has_admin
        self._admin = Admin(cluster, self)

    def start(self) -> None:
        """Begin to ask."""
        for number in range(self._cluster.profile.publishers):
            self._soon(lambda: self._publish_again(self._any_host()), 10 * (number + 1))
        for number in range(self._cluster.profile.once_publishers):
            self._soon(partial(self._publish_once, f"p{number}", 0 if number % 2 else 1), 10 * (number + 1))
        for number in range(self._cluster.profile.consumers):
            self._soon(partial(self._consume_again, f"c{number}"), 10 * (number + 1))
        if self._has_admin:
            self._admin.start()

    def stop(self) -> None:
        """Ask nothing more."""
        self._is_over = True
        self._admin.stop()

    def next_token(self, kind: str) -> bytes:
        """Bytes that stand in one operation alone, or in its repeats."""
        return self.ledger.next_token(kind)

    def ask(
        self, host: Host, operation: ClientOperation, token: bytes, deadline_ms: int, then: Callable[[Asked], None]
    ) -> None:
        """Hand an operation to a node; `then` is called once, with an answer or when the client gave up."""
        asked = Asked(token, operation, host.name)
        self.ledger.asked.append(asked)

        def end(state: str) -> None:
            if asked.state == OPEN:
                asked.state = state
                self._world.note("client", state, f"{_name(asked)} at {asked.node} {asked.index or ''}")
                then(asked)

        def done(outcome: Outcome) -> None:
            if asked.state != OPEN:
                return
            try:
                state = self._take(host, asked, outcome)
            except Exception as error:
                message = f"{_name(asked)} at {asked.node} failed with {error!r} when it was answered with {outcome}"
                raise Violation(message) from error
            end(state)

        def submit() -> None:
            node = host.node
            assert isinstance(node, RunningNode)
            self._world.note("client", "asks", f"{_name(asked)} at {host.name}")
            try:
                deadline = node.node.broker.clock.monotonic_ms() + deadline_ms
                node.node.broker.submit(operation, deadline_ms=deadline, done=done)
            except FalconQError as error:
                _check_refusal(error)
                self._world.at(0, lambda: end(REFUSED))

        if not self._cluster.run_as(host, submit):
            # A node that does not answer a connection has taken nothing.
            self._world.at(US_PER_MS, lambda: end(REFUSED))
        self._world.at(deadline_ms * US_PER_MS + GIVE_UP_US, lambda: end(UNKNOWN))

    def _take(self, host: Host, asked: Asked, outcome: Outcome) -> str:
        """What an outcome says, in the turn in which it is given."""
        result = outcome.result
        if isinstance(result, FalconQError):
            return UNKNOWN if result.code.status == 504 else REFUSED
        if isinstance(result, Refused):
            asked.code = result.code
            return REFUSED
        if not isinstance(result, Answer):
            raise Violation(f"{_name(asked)} is answered with {result}")
        asked.result, asked.index = result, outcome.index
        if isinstance(result, Pulled | Leased):
            node = host.node
            assert isinstance(node, RunningNode)
            asked.messages = node.node.broker.views().read_ranges(result.topic, ranges_of(result))
        self._acknowledged(asked)
        return DONE

    # Publishers.

    def _publish_again(self, host: Host) -> None:
        if self._is_over:
            return
        if self._world.chance(0.2):
            host = self._any_host()

        def then(asked: Asked) -> None:
            next_host = host if asked.state == DONE else self._any_host()
            self._soon(lambda: self._publish_again(next_host), self._cluster.profile.publish_interval_ms)

        self.publish(host, then)

    def publish(self, host: Host, then: Callable[[Asked], None], *, deadline_ms: int | None = None) -> None:
        """Publish one message through the node."""
        token = self.ledger.next_token("m")
        self.ask(host, self._append(token), token, deadline_ms or self._deadline_ms(), then)

    def _append(self, token: bytes) -> Append:
        random = self._world.random
        filler = b"x" * random.randrange(self._cluster.profile.message_bytes_max)
        return Append(
            not_after_ms=0,
            topic=random.choice(TOPICS),
            partition=0,
            level=random.randrange(2),
            count=1,
            records=pack_record(b'"' + token + filler + b'"'),
            may_create=True,
        )

    # Publishers that repeat until they know.

    def _publish_once(self, name: str, sequence: int) -> None:
        """Begin a message: with a key of its own (sequence 0), or as the next one of a producer."""
        if self._is_over:
            return
        token = self.ledger.next_token("m")
        once = Once(name if sequence else token.decode(), sequence)
        operation = self._append(token)
        if sequence:
            # A producer counts in one topic.
            operation = replace(operation, topic=TOPICS[0])
        self._try_once(name, token, AppendOnce.of(operation, once))

    def _try_once(self, name: str, token: bytes, operation: AppendOnce) -> None:
        if self._is_over:
            return
        sequence = operation.once.sequence

        def then(asked: Asked) -> None:
            if asked.code in ("key_reused", "dedupe_full"):
                raise Violation(f"{_name(asked)} with {operation.once} is refused as {asked.code}")
            pause_ms = self._cluster.profile.publish_interval_ms
            if asked.code == "sequence_gap" or self._world.chance(GIVES_UP):
                # A producer that leaves a sequence out goes on under another name.
                self._soon(lambda: self._publish_once(f"{name}+", min(sequence, 1)), pause_ms)
            elif asked.state != DONE or self._world.chance(REPEATS_IN_VAIN):
                self._soon(lambda: self._try_once(name, token, operation), pause_ms)
            else:
                self._soon(lambda: self._publish_once(name, sequence + 1 if sequence else 0), pause_ms)

        if self._world.chance(SENDS_TWICE):
            self.ask(self._any_host(), operation, token, self._deadline_ms(), _ignore)
        self.ask(self._any_host(), operation, token, self._deadline_ms(), then)

    # Consumers.

    def _consume_again(self, name: str) -> None:
        if self._is_over:
            return
        attempt = self.ledger.next_token("a") if self._world.chance(0.5) else b""
        self._consume(name, self._world.random.choice(TOPICS), attempt, tries=self._world.random.randrange(1, 6))

    def _consume(self, name: str, topic: str, attempt: bytes, *, tries: int) -> None:
        def then(asked: Asked) -> None:
            if attempt and asked.state != DONE and tries > 1 and not self._is_over:
                self._soon(lambda: self._consume(name, topic, attempt, tries=tries - 1), 100)
            else:
                self._soon(lambda: self._consume_again(name), 2 * self._cluster.profile.publish_interval_ms)

        self.consume(self._any_host(), name, topic, attempt, then)

    def consume(self, host: Host, name: str, topic: str, attempt: bytes, then: Callable[[Asked], None]) -> None:
        """Pull through the node."""
        operation = Pull(
            not_after_ms=0,
            topic=topic,
            consumer=name,
            partition=-1,
            count_max=self._world.random.choice((1, 3, 10, 100)),
            bytes_max=1_000_000,
            attempt=attempt.decode(),
        )
        self.ask(host, operation, attempt, self._deadline_ms(), then)

    # Choosing.

    def _soon(self, call: Callable[[], None], mean_ms: int) -> None:
        self._world.at(int(self._world.random.expovariate(1 / mean_ms) * US_PER_MS), call)

    def _deadline_ms(self) -> int:
        return self._world.random.choice((300, 1000, 3000, 10_000))

    def _any_host(self) -> Host:
        return self._world.random.choice(list(self._cluster.hosts.values()))


def ranges_of(result: Pulled | Leased) -> list[Range]:
    """What was delivered, in its order."""
    return result.ranges if isinstance(result, Pulled) else [found.messages for found in result.ranges]


def _check_refusal(error: FalconQError) -> None:
    if error.code.status == 504:
        raise Violation(f"a refusal at the door leaves the outcome open: {error.message}")


def _ignore(_asked: Asked) -> None:
    return


def _name(asked: Asked) -> str:
    operation = asked.operation
    if isinstance(operation, Append):
        return f"publish {asked.token.decode()}"
    if not isinstance(operation, Pull):
        return f"{type(operation).__name__} {operation.topic} {asked.token.decode()}"
    return f"pull {operation.consumer} of {operation.topic} {asked.token.decode()}"
