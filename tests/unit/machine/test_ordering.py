"""Consumers with an order: one message of a key, or partition, at a time, in order, and no key waits for another."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falconq_cluster.broker.partitioner import partition_of_key
from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    AnyOperation,
    Append,
    Appended,
    DeleteTopic,
    Leased,
    LeasePull,
    LeaseSettled,
    Pull,
    Refused,
    Result,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    Trim,
)
from falconq_cluster.machine.events import HoldingsChanged
from falconq_cluster.machine.lanes import Lanes
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.rows import LeaseRow
from falconq_cluster.machine.settings import AGED, WEIGHTED, Retention, Scheduler, TopicConfig, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, ConsumerSet, Ordering, Reap, SetConsumer
from falconq_cluster.machine.surveying import trim_now
from tests.unit.machine.helpers import Node

Place = tuple[int, int]
NONCE = bytes(16)


def put(*named: str | None, partition: int = 0, level: int = 0) -> Append:
    records = b"".join(pack_record(b"1", key) for key in named)
    return Append(0, "t", partition, level, len(named), records, may_create=False)


def lease(count: int = 10, *, auto_commit: bool = False, level_min: int = 0) -> LeasePull:
    return LeasePull(0, "t", "c", count, 1 << 20, 1000, level_min, NONCE, 0, auto_commit)


def settle(kind: SettleKind, *places: Place, ms: int = 0) -> Settle:
    return Settle(0, "t", "c", [SettleItem(kind, *place, NONCE, ms) for place in places])


def places(result: Result) -> list[Place]:
    assert isinstance(result, Leased), result
    return [(r.messages.partition, r.messages.offset + n) for r in result.ranges for n in range(r.messages.count)]


def node_with(ordering: Ordering = Ordering.KEY, *, partitions: int = 1, limits: MachineLimits | None = None) -> Node:
    node = Node() if limits is None else Node(limits)
    node.add_topic("t", TopicConfig(partitions, ("low", "high")))
    result = node.result(SetConsumer(0, "t", "c", ConsumerConfig(ordering=ordering)))
    assert isinstance(result, ConsumerSet)
    return node


def test_a_key_is_with_one_worker_at_a_time_and_in_order_while_other_keys_go_on() -> None:
    node = node_with()
    node.result(put("a", "a", "b", None, "a", None, "b"))
    assert places(node.result(lease())) == [(0, 0), (0, 2), (0, 3), (0, 5)]
    assert places(node.result(lease())) == []
    node.reload()
    node.result(settle(SettleKind.ACK, (0, 0)))
    assert places(node.result(lease())) == [(0, 1)]
    node.result(settle(SettleKind.ACK, (0, 2), (0, 1)))
    node.reload()
    assert places(node.result(lease())) == [(0, 4), (0, 6)]
    found = node.result(lease())
    assert places(found) == []
    node.result(settle(SettleKind.ACK, (0, 3), (0, 4), (0, 5), (0, 6)))
    assert not [key for key, _ in node.everything() if key[:1] == b"\x30"]


def test_what_is_set_aside_counts_as_a_first_delivery_when_it_is_given() -> None:
    node = node_with()
    node.result(put("a", "a"))
    node.result(lease())
    node.result(settle(SettleKind.ACK, (0, 0)))
    found = node.result(lease())
    assert isinstance(found, Leased)
    assert [(r.delivery_count, r.acquired_count) for r in found.ranges] == [(1, 1)]


@pytest.mark.parametrize("kind", [SettleKind.NACK, SettleKind.RELEASE, None])
def test_a_message_that_comes_again_blocks_its_key_until_it_is_settled(kind: SettleKind | None) -> None:
    node = node_with()
    node.result(put("a", "a", "b"))
    assert places(node.result(lease(1))) == [(0, 0)]
    if kind is None:
        node.now_ms += 1000
    else:
        node.result(settle(kind, (0, 0), ms=500))
    again = [(0, 0)] if kind is not SettleKind.NACK else []
    assert places(node.result(lease())) == [*again, (0, 2)]
    node.now_ms += 500
    node.reload()
    assert places(node.result(lease())) == ([] if again else [(0, 0)])
    node.result(settle(SettleKind.ACK, (0, 0)))
    assert places(node.result(lease())) == [(0, 1)]


def test_a_dead_message_lets_its_key_go_on() -> None:
    node = node_with(limits=MachineLimits(move_count_max=1))
    node.result(put("a", "b", "a", "b"))
    node.result(lease())
    node.result(settle(SettleKind.REJECT, (0, 0), (0, 1)))
    assert places(node.result(lease())) == [(0, 2)]
    node.command(Reap([("t", "c")], []))
    assert places(node.result(lease())) == [(0, 3)]


def test_whoever_waits_is_told_when_a_key_is_free_because_its_message_was_buried_or_trimmed() -> None:
    told = HoldingsChanged("t", "c")
    node = node_with()
    node.result(SetTopic(0, "t", ANY_VERSION, is_change=True, given=TopicSettings(deliveries_max=1)))
    node.result(put("a", "a"))
    node.result(lease())
    node.now_ms += 1000
    assert told in node.command(Reap([("t", "c")], [])).events
    assert places(node.result(lease())) == [(0, 1)]
    kept = TopicSettings(retention=Retention(messages=1), deliveries_max=0)
    node.result(SetTopic(0, "t", ANY_VERSION, is_change=True, given=kept))
    node.result(put("a"))
    assert any(told in node.command(trim_now(node.machine, ["t"], node.now_ms)).events for _ in range(2))
    assert places(node.result(lease())) == [(0, 2)]


def test_with_the_order_of_partitions_each_has_one_message_out_whatever_its_key() -> None:
    node = node_with(Ordering.PARTITION, partitions=2)
    node.result(put(None, "a", "b", partition=0))
    node.result(put(None, None, partition=1))
    assert sorted(places(node.result(lease()))) == [(0, 0), (1, 0)]
    node.result(settle(SettleKind.ACK, (1, 0)))
    assert places(node.result(lease())) == [(1, 1)]


def test_an_urgent_message_of_a_free_key_goes_before_what_is_set_aside() -> None:
    node = node_with()
    node.result(put("a", "a"))
    node.result(lease())
    node.result(put("a", level=1))
    assert places(node.result(lease())) == []
    node.result(settle(SettleKind.ACK, (0, 0)))
    node.result(put("a", level=1))
    assert places(node.result(lease())) == [(0, 2)]
    node.reload()
    node.result(settle(SettleKind.ACK, (0, 2)))
    assert places(node.result(lease())) == [(0, 3)]
    node.result(settle(SettleKind.ACK, (0, 3)))
    assert places(node.result(lease())) == [(0, 1)]


def test_a_hot_key_is_set_aside_in_bounded_parts_and_others_are_found_behind_it() -> None:
    node = node_with(limits=MachineLimits(aside_max=10))
    node.result(put(*["hot"] * 100))
    node.result(put("b"))
    assert places(node.result(lease(1))) == [(0, 0)]
    found: list[Place] = []
    pulls = 0
    while not found:
        applied = node.command(lease(1))
        found = places(applied.results[0])
        pulls += 1
        assert len(applied.changes) < 20
        assert applied.events, "who waits is not told to go on"
    assert (found, pulls) == ([(0, 100)], 10)


def test_a_consumer_with_an_order_takes_messages_under_leases_only_and_keeps_it_while_it_has_some() -> None:
    node = node_with()
    node.result(put("a"))
    for operation in (Pull(0, "t", "c", -1, 1, 1000, ""), lease(auto_commit=True)):
        refused = node.result(operation)
        assert isinstance(refused, Refused)
        assert refused.code == "bad_request"
    node.result(lease())
    changed = SetConsumer(0, "t", "c", ConsumerConfig(ordering=Ordering.NONE))
    assert isinstance(node.result(changed), Refused)
    node.result(settle(SettleKind.ACK, (0, 0)))
    assert isinstance(node.result(changed), ConsumerSet)


def test_nothing_of_a_lane_goes_before_what_is_set_aside_of_it_but_what_is_more_urgent() -> None:
    lanes = Lanes()
    row = LeaseRow(0, 0, 1, 0, 0, 0, b"", 0, 0, lane=b"a", is_aside=True)
    assert lanes.is_free(b"a", 0, (0, 3))
    lanes.enter((0, 5), row)
    assert lanes.changed(b"a") == (None, (0, 5))
    assert [lanes.is_free(b"a", *it) for it in ((0, (0, 6)), (0, (0, 4)), (1, (1, 9)))] == [False, True, True]
    assert lanes.is_free(b"b", 0, (0, 6))
    lanes.claim(b"a", (1, 9))
    assert lanes.changed(b"a") == ((0, 5), None)
    assert not lanes.is_free(b"a", 1, (0, 1))


def test_the_order_of_a_key_holds_over_an_addition_of_partitions() -> None:
    node = node_with(limits=MachineLimits(aside_max=2))
    node.result(put("b", "a", "a", "a"))
    node.result(put("b", level=1))
    node.add_topic("t", TopicConfig(3, ("low", "high")))
    node.result(put("a", "d", partition=1))
    node.result(put("e", partition=2, level=1))
    # What the level held elsewhere goes first; another level need not wait.
    assert places(node.result(lease(1))) == [(0, 4)]
    node.result(settle(SettleKind.ACK, (0, 4)))
    node.reload()
    assert places(node.result(lease(3))) == [(2, 0), (0, 0), (0, 1)]
    assert places(node.result(lease())) == []  # Two are set aside, and what is behind them waits.
    got: list[Place] = []
    while len(got) < 4:
        node.reload()
        found = places(node.result(lease(1)))
        got += found
        out = [found[0]] if found else [(0, 1)]
        node.result(settle(SettleKind.ACK, (0, 1), *out))
    assert got == [(1, 1), (0, 2), (0, 3), (1, 0)]
    assert [key for key, _ in node.everything() if key[:1] == keys.ADDITION]
    node.result(DeleteTopic(0, "t", 0))
    while node.machine.state.deletions:
        node.command(Trim())
    assert not [key for key, _ in node.everything() if key[:1] in keys.OF_TOPICS]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(0, 7), st.integers(0, 1)),
            st.tuples(st.sampled_from(["add", "pull", "ack", "reload"]), st.integers(1, 6), st.just(0)),
        ),
        min_size=20,
        max_size=80,
    )
)
@settings(max_examples=60, deadline=None)
def test_each_key_is_settled_in_the_order_of_its_publishes_whenever_partitions_are_added(
    steps: list[tuple[str, int, int]],
) -> None:
    node, count = node_with(limits=MachineLimits(aside_max=2)), 1
    published: dict[tuple[str, int], list[Place]] = {}
    settled: dict[Place, int] = {}
    out: list[Place] = []
    for step, n, level in [*steps, *[("pull", 6, 0), ("ack", 1, 0)] * 100]:
        match step:
            case "publish":
                partition = partition_of_key(f"k{n}", count)
                result = node.result(put(f"k{n}", partition=partition, level=level))
                assert isinstance(result, Appended)
                published.setdefault((f"k{n}", level), []).append((partition, result.base_offset))
            case "add" if count < 5:
                count += 1
                node.add_topic("t", TopicConfig(count, ("low", "high")))
            case "pull":
                out += places(node.result(lease(n)))
            case "ack" if out:
                place = out.pop(n % len(out))
                node.result(settle(SettleKind.ACK, place))
                settled[place] = len(settled)
            case "reload":
                node.reload()
    assert len(settled) == sum(map(len, published.values()))
    for line in published.values():
        assert line == sorted(line, key=settled.__getitem__)


@dataclass
class Message:
    level: int
    partition: int
    offset: int
    key: str | None
    is_settled: bool = False
    owner_until: int | None = None
    """Log time of the lease's end while it is leased."""
    times: int = field(default=0)


SCHEDULERS = [Scheduler(), Scheduler(WEIGHTED), Scheduler(AGED, max_wait_ms=(("low", 200), ("high", 200)))]
ORDERS = [Ordering.KEY, Ordering.PARTITION]
KINDS = [SettleKind.ACK, SettleKind.NACK, SettleKind.RELEASE, SettleKind.REJECT]
KEYS = st.sampled_from([None, "a", "b", "c"])


class OrderAndModel(RuleBasedStateMachine):
    """One node keeps its memory, the other restarts before each entry; a list says what is right."""

    @initialize(scheduler=st.sampled_from(SCHEDULERS), ordering=st.sampled_from([Ordering.KEY, Ordering.PARTITION]))
    def start(self, scheduler: Scheduler, ordering: Ordering) -> None:
        limits = MachineLimits(aside_max=3, lease_count_max=6)
        self.ordering = ordering
        self.node, self.restarting = (node_with(ordering, partitions=2, limits=limits) for _ in range(2))
        for node in (self.node, self.restarting):
            node.add_topic("t", TopicConfig(2, ("low", "high"), scheduler))
        self.messages: list[Message] = []
        self.nexts = [0, 0]

    def send(self, operation: AnyOperation) -> Result:
        (result,) = self.node.command(operation).results
        self.restarting.reload()
        assert self.restarting.apply(self.node.entries[-1]).results == [result]
        return result

    def lane(self, message: Message) -> object:
        if self.ordering is Ordering.PARTITION:
            return message.partition
        # A key has one partition: what the broker sees to.
        return None if message.key is None else (message.key, message.partition)

    @rule(wanted=st.lists(KEYS, min_size=1, max_size=4), partition=st.integers(0, 1), level=st.integers(0, 1))
    def publish(self, wanted: list[str | None], partition: int, level: int) -> None:
        named = [None if key is None else f"{key}{partition}" for key in wanted]
        self.send(put(*named, partition=partition, level=level))
        for key in named:
            self.messages.append(Message(level, partition, self.nexts[partition], key))
            self.nexts[partition] += 1

    @rule(count=st.integers(1, 6), level_min=st.integers(0, 1))
    def pull(self, count: int, level_min: int) -> None:
        self.take(count, level_min)

    def take(self, count: int, level_min: int = 0) -> list[Place]:
        given = places(self.send(lease(count, level_min=level_min)))
        now = self.node.now_ms
        for place in given:
            message = next(m for m in self.messages if (m.partition, m.offset) == place)
            lane = self.lane(message)
            assert not message.is_settled
            assert message.owner_until is None or message.owner_until <= now
            if lane is not None:
                others = [m for m in self.messages if self.lane(m) == lane and m is not message and not m.is_settled]
                # One at a time, whether it is leased or comes again.
                assert not [m for m in others if m.owner_until is not None]
                # In order: nothing of the level that is not settled is before it.
                assert not [m for m in others if m.level == message.level and m.offset < message.offset]
            message.owner_until = now + 1000
        return given

    @rule(
        data=st.data(), kind=st.sampled_from([SettleKind.ACK, SettleKind.NACK, SettleKind.RELEASE, SettleKind.REJECT])
    )
    def settle(self, data: st.DataObject, kind: SettleKind) -> None:
        leased = [m for m in self.messages if m.owner_until is not None and not m.is_settled]
        if not leased:
            return
        message = data.draw(st.sampled_from(leased))
        result = self.send(settle(kind, (message.partition, message.offset), ms=100))
        assert isinstance(result, LeaseSettled)
        if result.ok_count:
            message.is_settled = kind in (SettleKind.ACK, SettleKind.REJECT)
            if not message.is_settled:
                # It blocks its lane until it is settled.
                message.owner_until = self.node.now_ms

    @rule(ms=st.sampled_from([1, 100, 1000]))
    def pass_time(self, ms: int) -> None:
        self.node.now_ms += ms

    @rule()
    def no_lane_waits_for_another(self) -> None:
        """Pulls that go on find something of each lane that is free, however much of others is before it."""
        self.node.now_ms += 1000
        self.send(Reap([("t", "c")], []))
        wanted = {self.lane(m) for m in self.messages if not m.is_settled} - {None}
        got: set[object] = set()
        for _ in range(len(self.messages) + 10):
            for place in self.take(6):
                got.add(self.lane(next(m for m in self.messages if (m.partition, m.offset) == place)))
        assert wanted <= got

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        if hasattr(self, "node"):
            assert self.node.everything() == self.restarting.everything()


TestOrderAndModel = OrderAndModel.TestCase
TestOrderAndModel.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
