"""Changes and cancels of messages in any mix with all else, against a model and a replica that restarts at each step.

The model knows of each message what it is like by now, and of each consumer what it was handed since it began, or
went on, somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falconq_cluster.machine import keys
from falconq_cluster.machine.amends import AmendOperation, MessageChanged
from falconq_cluster.machine.appends import AppendMany, Part, Ripen
from falconq_cluster.machine.commands import (
    AnyOperation,
    Appended,
    Done,
    Leased,
    LeasePull,
    Pulled,
    Range,
    Refused,
    Result,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import Applied
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import AGED, WEIGHTED, Retention, Retry, Scheduler, TopicConfig, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, Ordering, Reap, Seek, SetConsumer, Start, StartKind
from falconq_cluster.machine.surveying import is_due, trim_now
from tests.unit.machine.amends import cancelling, changing, explain, locate
from tests.unit.machine.helpers import Node, pull

LIMITS = MachineLimits(attempts_per_consumer_max=3, attempt_ms=1000, trim_keys_max=6, trim_batches_max=2)
PARTITIONS, LEVELS = 2, 3
NAMES = tuple(f"l{number}" for number in range(LEVELS))
POLICIES = [
    Scheduler(),
    Scheduler(WEIGHTED, weights=(("l0", 1), ("l1", 2), ("l2", 3))),
    Scheduler(AGED, max_wait_ms=(("l0", 300), ("l1", 600))),
]
ORDERED = {"k": Ordering.KEY, "p": Ordering.PARTITION}


@dataclass
class Known:
    """What one message is like."""

    text: str
    partition: int
    level: int
    state: str
    """`delayed`, `ready`, `cancelled` or `trimmed`."""
    expires_ms: int = 0


@dataclass
class Worker:
    """What one consumer has had."""

    handed: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    last: dict[tuple[int, int], int] = field(default_factory=dict)
    leases: list[tuple[int, int, bytes, str]] = field(default_factory=list)
    attempts: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    has_sought: bool = False


class AmendingAndModel(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(POLICIES))
    def start(self, policy: Scheduler) -> None:
        self.node, self.restarting = Node(LIMITS), Node(LIMITS)
        config = TopicConfig(PARTITIONS, NAMES, policy, deliveries_max=2, retry=Retry(0, 0))
        self.messages: dict[str, Known] = {}
        self.workers = {name: Worker() for name in "xykp"}
        for node in (self.node, self.restarting):
            node.add_topic("t", config)
        for name, ordering in ORDERED.items():
            self.send(SetConsumer(0, "t", name, ConsumerConfig(ordering=ordering)))
        self.count = 0

    def send(self, *operations: AnyOperation) -> Applied:
        applied = self.node.command(*operations)
        self.restarting.reload()
        again = self.restarting.apply(self.node.entries[-1])
        # Events may tell more often after a restart that something comes back.
        assert (again.results, again.changes) == (applied.results, applied.changes)
        return applied

    consumer = st.sampled_from("xykp")
    partition = st.integers(0, PARTITIONS - 1)
    level = st.integers(0, LEVELS - 1)
    pick = st.integers(0, 1 << 16)

    def publishing(self, partition: int, level: int, count: int, *, delay_ms: int, ttl_ms: int) -> AppendMany:
        records = []
        for _ in range(count):
            self.count += 1
            records.append(pack_record(f"{self.count:04}".encode(), "ab"[self.count % 2]))
        return AppendMany(0, "t", [Part(partition, level, count, b"".join(records), delay_ms, ttl_ms)], may_create=True)

    def published(self, result: Result, ttl_ms: int) -> None:
        assert isinstance(result, Appended)
        for number in range(result.count):
            text, name = f"{self.count - result.count + number + 1:04}", f"{self.node.machine.applied_index}."
            expires_ms = self.node.now_ms + ttl_ms if ttl_ms and not result.due_ms else -ttl_ms
            self.messages[f"{name}{result.first_id + number}"] = Known(
                text, result.partition, result.level, "delayed" if result.due_ms else "ready", expires_ms
            )

    @rule(
        partition=partition,
        level=level,
        count=st.integers(1, 5),
        delay_ms=st.sampled_from([0, 0, 0, 200, 900]),
        ttl_ms=st.sampled_from([0, 0, 700]),
    )
    def publish(self, partition: int, level: int, count: int, delay_ms: int, ttl_ms: int) -> None:
        operation = self.publishing(partition, level, count, delay_ms=delay_ms, ttl_ms=ttl_ms)
        self.published(self.send(operation).results[0], ttl_ms)

    def ids(self) -> list[str]:
        return list(self.messages)

    def amend_expected(self, name: str, result: Result) -> bool:
        """Whether the change was made, which it must have been if and only if it may have been."""
        known = self.messages[name]
        had = [worker for worker in self.workers.values() if name in worker.handed]
        if isinstance(result, Refused):
            if result.code == "already_delivered":
                assert known.state == "ready"
                assert had or any(worker.has_sought for worker in self.workers.values())
                return False
            is_over = 0 < known.expires_ms <= self.node.now_ms and known.state == "ready"
            assert result.code == "message_not_found", result
            assert is_over or known.state in ("cancelled", "trimmed")
            return False
        assert known.state in ("delayed", "ready")
        return True

    def changed(self, name: str, result: Result, level: int, now_ms: int) -> None:
        if not self.amend_expected(name, result):
            return
        assert isinstance(result, MessageChanged)
        known = self.messages[name]
        is_other = (result.level, result.offset < 0) != (known.level, known.state == "delayed")
        if is_other and known.state == "ready":
            assert not any(name in worker.handed for worker in self.workers.values())
        assert (result.partition, result.level) == (known.partition, known.level if level < 0 else level)
        if known.state == "ready" and result.offset < 0 and known.expires_ms:
            known.expires_ms = now_ms - known.expires_ms
        known.level, known.state = result.level, "delayed" if result.offset < 0 else "ready"

    @rule(pick=pick, level=st.integers(-1, LEVELS - 1), delay_ms=st.sampled_from([-1, -1, 0, 100, 500]))
    def change(self, pick: int, level: int, delay_ms: int) -> None:
        if self.messages:
            name = self.ids()[pick % len(self.messages)]
            operation = changing(self.node, name, level=level, delay_ms=delay_ms)
            self.changed(name, self.send(operation).results[0], level, self.node.now_ms)

    @rule(pick=pick)
    def cancel(self, pick: int) -> None:
        if self.messages:
            name = self.ids()[pick % len(self.messages)]
            self.cancelled(name, self.send(cancelling(self.node, name)).results[0])

    def cancelled(self, name: str, result: Result) -> None:
        if self.amend_expected(name, result):
            assert result == Done()
            assert not any(name in worker.handed for worker in self.workers.values())
            self.messages[name].state = "cancelled"

    @rule(picks=st.lists(pick, min_size=2, max_size=6), level=level)
    def change_and_cancel_many_in_one_command(self, picks: list[int], level: int) -> None:
        if not self.messages:
            return
        names = [self.ids()[-1 - pick % min(len(self.messages), 8)] for pick in picks]
        operations: list[AmendOperation] = [
            changing(self.node, name, level=level) if place % 2 else cancelling(self.node, name)
            for place, name in enumerate(names)
        ]
        for place, (name, result) in enumerate(zip(names, self.send(*operations).results, strict=True)):
            if place % 2:
                self.changed(name, result, level, self.node.now_ms)
            else:
                self.cancelled(name, result)

    @rule(partition=partition, level=level, pick=pick, consumer=st.sampled_from("xy"), count=st.integers(1, 5))
    def publish_change_and_pull_in_one_command(
        self, partition: int, level: int, pick: int, consumer: str, count: int
    ) -> None:
        operations: list[AnyOperation] = [self.publishing(partition, level, 3, delay_ms=0, ttl_ms=0)]
        name = self.ids()[pick % len(self.messages)] if self.messages else ""
        if name:
            operations.append(changing(self.node, name, level=level))
        results = self.send(*operations, pull(count, consumer=consumer)).results
        if name:
            self.changed(name, results[1], level, self.node.now_ms)
        self.published(results[0], 0)
        self.pulled(consumer, results[-1], "")

    @rule(pick=pick, consumer=st.sampled_from("xy"), count=st.integers(1, 5))
    def pull_seek_and_cancel_in_one_command(self, pick: int, consumer: str, count: int) -> None:
        if self.messages:
            name = self.ids()[pick % len(self.messages)]
            seek = Seek(0, "t", consumer, Start())
            applied = self.send(pull(count, consumer=consumer), seek, cancelling(self.node, name))
            self.pulled(consumer, applied.results[0], "")
            self.workers[consumer] = Worker(has_sought=True)
            result = applied.results[2]
            if not isinstance(result, Refused) or result.code != "overloaded":
                self.cancelled(name, result)

    def pulled(self, consumer: str, result: Result, attempt: str) -> None:
        assert isinstance(result, Pulled)
        found = self.node.views.read_ranges("t", result.ranges)
        worker = self.workers[consumer]
        if result.is_replay:
            assert [m.id for m in found] == worker.attempts[attempt][1]
            return
        for message in found:
            self.given(consumer, message)
        if attempt and found:
            worker.attempts[attempt] = self.node.now_ms, [m.id for m in found]

    def given(self, consumer: str, message: DeliveredMessage) -> None:
        """A message is given as it is, once, and in the order of its level."""
        worker, known = self.workers[consumer], self.messages[message.id]
        assert known.state == "ready"
        assert (message.message.decode(), message.partition) == (known.text, known.partition)
        assert message.level == known.level
        assert known.expires_ms == 0 or known.expires_ms > self.node.now_ms
        if message.id in worker.returned:
            worker.returned.discard(message.id)
            return
        assert message.id not in worker.handed
        worker.handed.add(message.id)
        place = message.partition, message.level
        if consumer not in ORDERED:
            assert message.offset > worker.last.get(place, -1)
            worker.last[place] = message.offset

    @rule(
        consumer=st.sampled_from("xy"),
        partition=st.integers(-1, PARTITIONS - 1),
        count=st.integers(1, 8),
        attempt=st.sampled_from(["", "a", "b"]),
    )
    def pull(self, consumer: str, partition: int, count: int, attempt: str) -> None:
        operation = pull(count, consumer=consumer, partition=partition, attempt=attempt)
        self.pulled(consumer, self.send(operation).results[0], attempt)

    @rule(consumer=consumer, count=st.integers(1, 8))
    def lease(self, consumer: str, count: int) -> None:
        self.count += 1
        nonce = self.count.to_bytes(16, "big")
        (result,) = self.send(LeasePull(0, "t", consumer, count, 1 << 20, 500, 0, nonce, 0)).results
        assert isinstance(result, Leased)
        worker = self.workers[consumer]
        for leased in result.ranges:
            ranges: Sequence[Range] = [leased.messages]
            for message in self.node.views.read_ranges("t", ranges):
                if leased.acquired_count > 1:
                    worker.returned.add(message.id)
                self.given(consumer, message)
                worker.leases.append((message.partition, message.offset, nonce, message.id))

    @rule(consumer=consumer, kind=st.sampled_from(list(SettleKind)), pick=pick)
    def settle(self, consumer: str, kind: SettleKind, pick: int) -> None:
        leases = self.workers[consumer].leases
        if leases:
            partition, offset, nonce, _ = leases.pop(pick % len(leases))
            self.send(Settle(0, "t", consumer, [SettleItem(kind, partition, offset, nonce, ms=500)]))

    @rule(consumer=consumer, kind=st.sampled_from([StartKind.EARLIEST, StartKind.LATEST, StartKind.OFFSET]))
    def seek(self, consumer: str, kind: StartKind) -> None:
        value = self.count % 7 if kind is StartKind.OFFSET else 0
        (result,) = self.send(Seek(0, "t", consumer, Start(kind, value))).results
        if not isinstance(result, Refused):
            self.workers[consumer] = Worker(has_sought=True)

    @rule(ms=st.sampled_from([1, 100, 400]))
    def time_passes_and_ripens(self, ms: int) -> None:
        self.node.now_ms += ms
        waiting = [name for name, known in self.messages.items() if known.state == "delayed"]
        self.send(Ripen())
        for name in waiting:
            place = locate(self.node, name)
            assert place is not None
            if place.offset >= 0:
                known = self.messages[name]
                known.state = "ready"
                known.expires_ms = self.node.now_ms - known.expires_ms if known.expires_ms else 0

    @rule()
    def reap(self) -> None:
        self.send(Reap([("t", name) for name in "xykp"], []))

    @rule()
    def restart(self) -> None:
        self.node.reload()

    @rule(messages=st.sampled_from([0, 0, 3, 8]), acked=st.booleans(), is_all=st.booleans())
    def trim(self, messages: int, acked: bool, is_all: bool) -> None:
        given = TopicSettings(retention=Retention(messages=messages, acked=acked))
        self.send(SetTopic(0, "t", 0, is_change=True, given=given))
        self.send(trim_now(self.node.machine, ["t"], self.node.now_ms))
        while is_all and self.is_due():
            self.send(trim_now(self.node.machine, ["t"], self.node.now_ms))
        kept = dict(self.shown())
        for name, known in self.messages.items():
            if known.state == "ready" and name not in kept:
                known.state = "trimmed"

    def is_due(self) -> bool:
        return is_due(self.node.machine, "t", self.node.now_ms)

    def shown(self) -> list[tuple[str, int]]:
        """Ids of all that is kept, and their levels."""
        return [(m.id, m.level) for m in self.node.views.peek("t", partition=None, offset=0, count=10_000)]

    @invariant()
    def what_is_kept_is_what_is_ready_each_once(self) -> None:
        ready = [(name, known.level) for name, known in self.messages.items() if known.state == "ready"]
        assert sorted(self.shown()) == sorted(ready)

    @invariant()
    def counters_are_those_of_a_restarted_node(self) -> None:
        topic = self.node.machine.state.topics["t"]
        assert topic.retained_count == sum(level.retained_count for p in topic.partitions for level in p.levels)
        assert topic.retained_bytes == sum(level.retained_bytes for p in topic.partitions for level in p.levels)
        assert topic.delayed_count == sum(known.state == "delayed" for known in self.messages.values())
        assert self.node.machine.state.delays.count == topic.delayed_count

    @rule()
    def each_message_is_found_by_its_id(self) -> None:
        for name, known in self.messages.items():
            view = explain(self.node, name)
            is_over = 0 < known.expires_ms <= self.node.now_ms and known.state == "ready"
            if known.state in ("cancelled", "trimmed") or is_over:
                assert view is None
                continue
            assert view is not None
            assert (view.message.message.decode(), view.message.id) == (known.text, name)
            assert (view.message.level, view.message.partition) == (known.level, known.partition)
            for part in view.consumers:
                has_had = name in self.workers[part.consumer].handed
                assert has_had or part.state in ("ready", "acked")
                assert not has_had or part.state != "ready" or part.deliveries

    def teardown(self) -> None:
        if not hasattr(self, "count"):
            return
        self.each_message_is_found_by_its_id()
        expected = {
            name
            for name, known in self.messages.items()
            if known.state == "ready" and (not known.expires_ms or known.expires_ms > self.node.now_ms)
        }
        self.workers["z"] = Worker()
        for _ in range(len(expected) + 1):
            self.pulled("z", self.send(pull(20, consumer="z")).results[0], "")
        assert self.workers["z"].handed == expected
        self.nothing_is_left_when_all_is_trimmed()
        assert self.node.machine.digest == self.restarting.machine.digest
        assert self.node.everything() == self.restarting.everything()

    def nothing_is_left_when_all_is_trimmed(self) -> None:
        given = TopicSettings(retention=Retention(ms=1000))
        self.send(SetTopic(0, "t", 0, is_change=True, given=given))
        self.node.now_ms += 10_000
        while self.is_due():
            self.send(trim_now(self.node.machine, ["t"], self.node.now_ms))
        topic = self.node.machine.state.topics["t"]
        assert (topic.retained_count, topic.retained_bytes) == (0, 0)
        for prefix in (keys.BATCH, keys.PLACED, keys.BURIED):
            left = list(self.node.store.scan_keys(*keys.topic_range(prefix, topic.number)))
            assert left == []


TestAmendingAndModel = AmendingAndModel.TestCase
TestAmendingAndModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
