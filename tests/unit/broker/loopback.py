"""A log without consensus: brokers over real machines, with a leader, commits and frames that the test moves.

The committed log is one list; a leader's tail is what it appended and nobody committed yet. A change of leader keeps
any prefix of the tail, as elections do. Frames travel in order for each pair of nodes until the pair is cut.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.waiters import Outcome, Waiter
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import (
    Append,
    AppendOnce,
    ClientOperation,
    Command,
    Form,
    Pull,
    decode_command,
    decode_entry,
    encode_command,
    encode_entry,
)
from falconq_cluster.machine.machine import NO_OP, Applied, Machine
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import iter_records, pack_record
from falconq_cluster.raft.confirming import Told
from falconq_cluster.raft.frames import Frame, decode_frame, encode_frame
from falconq_cluster.storage.memory import MemoryStore
from falconq_cluster.storage.store import Reader

START_MS = 1_700_000_000_000


class ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """Moves by hand; timers of one moment run in the order in which they were set."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self._timers: list[tuple[int, int, ManualTimer]] = []
        self._count = 0

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return START_MS + self.now_ms

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(callback)
        self._count += 1
        heapq.heappush(self._timers, (self.now_ms + delay_ms, self._count, timer))
        return timer

    def run_due(self) -> bool:
        """Whether anything ran."""
        has_run = False
        while self._timers and self._timers[0][0] <= self.now_ms:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
                has_run = True
        return has_run

    @property
    def live_count(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._timers)


class Member:
    """One node: a machine, a store, a broker, and what its broker sees of consensus."""

    def __init__(self, log: Loopback, name: str, limits: BrokerLimits) -> None:
        self.log = log
        self.node_id = name
        self.limits = limits
        self.is_serving = True
        self.may_lead = True
        """False while something forbids the leader new commands, as a hand-over or a digest under dispute does."""
        self.wants_step = False
        self.seen_leader: str | None = None
        self.seen_term = 0
        self.nonce_count = 0
        self.store = MemoryStore()
        self.machine = Machine.load(self.store)
        self.broker = self.new_broker()

    def new_broker(self) -> Broker:
        return Broker(
            raft=self,
            state=self.state,
            clock=self.log.clock,
            limits=self.limits,
            random_bytes=self.random_bytes,
        )

    def state(self) -> tuple[Machine, Reader]:
        return self.machine, self.store

    def random_bytes(self, count: int) -> bytes:
        self.log.nonce_count += 1
        return self.log.nonce_count.to_bytes(count, "big")

    # RaftView.

    @property
    def is_leader(self) -> bool:
        log = self.log
        leads = log.leader == self.node_id and self.seen_term == log.term and self.applied_index >= log.no_op_index
        return leads and self.may_lead

    @property
    def leader(self) -> str | None:
        return self.seen_leader

    @property
    def term(self) -> int:
        return self.seen_term

    @property
    def applied_index(self) -> int:
        return self.machine.applied_index

    @property
    def commit_index(self) -> int:
        return len(self.log.committed)

    def log_time_ms(self) -> int:
        return START_MS + self.log.clock.now_ms

    def request_step(self) -> None:
        self.wants_step = True

    def ask_read_index(self, told: Told) -> None:
        self.log.read_questions.append((self.node_id, len(self.log.committed), told))

    def send(self, peer: str, frame: Frame) -> None:
        self.log.send(self.node_id, peer, frame)

    # What consensus does.

    def step(self, bytes_max: int = 1 << 22) -> int:
        """Append what waits to the tail; how many entries that were."""
        self.wants_step = False
        commands = self.broker.collect(bytes_max)
        for command in commands:
            self.log.tail.append((self.log.term, encode_entry(command, self.log_time_ms())))
        return len(commands)

    def apply(self, until: int | None = None) -> int:
        """Apply committed entries; how many they were."""
        last = len(self.log.committed) if until is None else until
        count = 0
        while self.applied_index < last:
            was_leader = self.is_leader
            self.broker.applied(self.apply_silently())
            count += 1
            if self.is_leader != was_leader:
                self.broker.leadership_changed()
        return count

    def apply_silently(self) -> Applied:
        index = self.applied_index + 1
        term, entry = self.log.committed[index - 1]
        applied = self.machine.apply(index, term, entry)
        self.store.write(applied.changes)
        return applied

    def learn(self) -> None:
        """Hear who leads by now."""
        self.seen_leader, self.seen_term = self.log.leader, self.log.term
        self.broker.leadership_changed()

    def jump(self, index: int) -> None:
        """Install a snapshot: the state at the index, without the entries."""
        while self.applied_index < index:
            self.apply_silently()
        self.broker.snapshot_installed()

    def restart(self) -> None:
        """Lose everything but what is applied."""
        self.broker.stop()
        self.machine = Machine.load(self.store)
        self.broker = self.new_broker()
        self.broker.start()
        self.learn()

    # Clients.

    def submit(self, operation: ClientOperation, *, timeout_ms: int = 10_000) -> Ask:
        ask = Ask()
        deadline_ms = self.log.clock.now_ms + timeout_ms
        ask.waiter = self.broker.submit(operation, deadline_ms=deadline_ms, done=ask.done)
        return ask


class Ask:
    """What a client was told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.waiter: Waiter | None = None

    def done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome


class Loopback:
    """The cluster."""

    def __init__(self, *names: str, limits: BrokerLimits | None = None, leader: str | None = None) -> None:
        self.clock = ManualClock()
        self.committed: list[tuple[int, bytes]] = []
        self.tail: list[tuple[int, bytes]] = []
        self.leader: str | None = None
        self.term = 0
        self.no_op_index = 0
        self.nonce_count = 0
        self.read_questions: list[tuple[str, int, Told]] = []
        """(leader, its commit index then, who is told) of questions that no quorum has confirmed yet."""
        self.links: dict[tuple[str, str], deque[bytes]] = {}
        self.cut: set[frozenset[str]] = set()
        self.nodes = {name: Member(self, name, limits or BrokerLimits()) for name in names or ("n1",)}
        form = encode_command(Command("", 0, 0, [Form("c", dict.fromkeys(self.nodes, "d"))]))
        self.committed.append((0, encode_entry(form, START_MS)))
        for node in self.nodes.values():
            node.broker.start()
        if leader is not None:
            self.elect(leader)

    def __getitem__(self, name: str) -> Member:
        return self.nodes[name]

    @property
    def lead(self) -> Member:
        assert self.leader is not None
        return self.nodes[self.leader]

    def elect(self, name: str | None, *, kept_count: int | None = None, quiet: Iterable[str] = ()) -> None:
        """Another leader, whose log has the first `kept_count` entries of the old one's tail (None: all)."""
        self.committed += self.tail if kept_count is None else self.tail[:kept_count]
        self.tail.clear()
        self.term += 1
        self.leader = name
        if name is not None:
            self.committed.append((self.term, NO_OP))
            self.no_op_index = len(self.committed)
        for node in self.nodes.values():
            if node.node_id not in set(quiet):
                node.learn()

    # Frames.

    def send(self, source: str, target: str, frame: Frame) -> None:
        if frozenset((source, target)) not in self.cut:
            self.links.setdefault((source, target), deque()).append(encode_frame(frame))

    def deliver_one(self, source: str, target: str) -> bool:
        queue = self.links.get((source, target))
        if not queue:
            return False
        self.nodes[target].broker.broker_frame(source, decode_frame(queue.popleft()))
        return True

    def deliver(self) -> bool:
        """Deliver every frame that is on its way now."""
        has_any = False
        for pair, queue in list(self.links.items()):
            for _ in range(len(queue)):
                has_any = self.deliver_one(*pair) or has_any
        return has_any

    def lose(self, source: str, target: str, *, from_frame: int = 0) -> None:
        """The connection breaks: what is in flight from this frame on is lost, in both directions."""
        for pair in ((source, target), (target, source)):
            queue = self.links.get(pair, deque())
            while len(queue) > from_frame:
                queue.pop()

    def reconnect(self, *names: str) -> None:
        """Tell these nodes that a connection is new."""
        for name in names:
            self.nodes[name].broker.leadership_changed()

    def confirm_reads(self) -> None:
        """A quorum confirms whoever was asked, if it still leads."""
        questions, self.read_questions = self.read_questions, []
        for name, index, told in questions:
            told(index if name == self.leader else None)

    # Progress.

    def commit(self, count: int | None = None) -> int:
        taken = self.tail if count is None else self.tail[:count]
        self.committed += taken
        self.tail = self.tail[len(taken) :]
        return len(taken)

    def turn(self) -> bool:
        """Everything moves once; whether anything did."""
        moved = self.clock.run_due()
        moved = self.deliver() or moved
        if self.leader is not None and self.lead.is_leader:
            moved = bool(self.lead.step()) or moved
        moved = bool(self.commit()) or moved
        for node in self.nodes.values():
            moved = bool(node.apply()) or moved
        return moved

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(1000):
            if not self.turn():
                return
        raise AssertionError("the cluster does not come to rest")

    def advance(self, ms: int, *, grain_ms: int = 10) -> None:
        """Let time pass, and happen what happens."""
        end_ms = self.clock.now_ms + ms
        while self.clock.now_ms < end_ms:
            self.clock.now_ms = min(end_ms, self.clock.now_ms + grain_ms)
            self.settle()


def append(
    *messages: str,
    topic: str = "t",
    level: int = 0,
    partition: int = 0,
    may_create: bool = True,
    once: Once | None = None,
) -> Append:
    records = b"".join(pack_record(message.encode()) for message in messages)
    operation = Append(0, topic, partition, level, len(messages), records, may_create)
    return operation if once is None else AppendOnce.of(operation, once)


def pull(count: int = 10, *, topic: str = "t", consumer: str = "c", partition: int = -1, attempt: str = "") -> Pull:
    return Pull(0, topic, consumer, partition, count, 1 << 20, attempt)


def stored(node: Member, topic: str = "t") -> list[str]:
    """All messages of a topic's first partition, in offset order."""
    found = node.broker.views().peek(topic, partition=0, offset=0, count=1_000_000, bytes_max=1 << 40)
    return [message.message.decode() for message in found]


def messages_of(operation: Append) -> list[str]:
    return [record.message.decode() for record in iter_records(operation.records)]


def commands_of(cluster: Loopback, origin: str) -> list[Command]:
    """What the log holds of one origin."""
    found = []
    for _, entry in cluster.committed + cluster.tail:
        if entry[0] == 0:
            command = decode_command(decode_entry(entry)[1])
            if command.origin == origin:
                found.append(command)
    return found


def error_of(ask: Ask) -> FalconQError:
    assert isinstance(ask.outcome.result, FalconQError)
    return ask.outcome.result


def settled(*names: str, leader: str, limits: BrokerLimits | None = None) -> Loopback:
    cluster = Loopback(*names, leader=leader, limits=limits)
    cluster.settle()
    return cluster
