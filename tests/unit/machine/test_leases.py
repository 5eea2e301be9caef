"""Leases: who has a message, until when, and in which order it is given again."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from falconq_cluster.machine.commands import (
    DeleteTopic,
    Leased,
    LeasePull,
    LeaseSettled,
    Refused,
    Result,
    Settle,
    SettleItem,
)
from falconq_cluster.machine.commands import SettleKind as Kind
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import Retry, TopicConfig
from tests.unit.machine.helpers import Node, append

Item = tuple[int, int]
LIMITS = MachineLimits(lease_count_max=6, held_per_consumer_max=12)


def lease_pull(
    count: int = 10,
    *,
    lease_ms: int = 1000,
    level_min: int = 0,
    nonce: bytes = bytes(16),
    in_flight_max: int = 100,
    bytes_max: int = 1 << 20,
    consumer: str = "c",
    auto_commit: bool = False,
) -> LeasePull:
    return LeasePull(0, "t", consumer, count, bytes_max, lease_ms, level_min, nonce, in_flight_max, auto_commit)


def places(result: Result) -> list[Item]:
    assert isinstance(result, Leased), result
    return [
        (found.messages.partition, found.messages.offset + place)
        for found in result.ranges
        for place in range(found.messages.count)
    ]


def settle(node: Node, kind: Kind, *wanted: Item, nonce: bytes = bytes(16), ms: int = 0, priority: int = -1) -> int:
    """How many items took effect."""
    result = node.result(Settle(0, "t", "c", [SettleItem(kind, *place, nonce, ms, priority) for place in wanted]))
    assert isinstance(result, LeaseSettled)
    assert result.ok_count + len(result.failed) == len(wanted)
    return result.ok_count


def test_a_leased_message_is_given_to_nobody_else_until_its_lease_ends() -> None:
    node = Node()
    node.publish("1", "2")
    assert places(node.result(lease_pull(1))) == [(0, 0)]
    assert places(node.result(lease_pull())) == [(0, 1)]
    node.now_ms += 999
    assert places(node.result(lease_pull())) == []
    node.now_ms += 1
    again = node.result(lease_pull(nonce=b"n" * 16))
    assert places(again) == [(0, 0), (0, 1)]
    assert isinstance(again, Leased)
    assert [(found.delivery_count, found.acquired_count) for found in again.ranges] == [(2, 2), (2, 2)]
    assert settle(node, Kind.ACK, (0, 0)) == 0  # the worker that lost it
    assert settle(node, Kind.ACK, (0, 0), (0, 0), (0, 1), nonce=b"n" * 16) == 2
    node.now_ms += 10_000
    assert places(node.result(lease_pull())) == []
    assert not [key for key, _ in node.everything() if key.startswith(b"\x30")]


def test_a_lease_is_over_when_its_end_is_reached_though_nobody_has_the_message_yet() -> None:
    node = Node()
    node.publish("1")
    node.result(lease_pull())
    node.now_ms += 1000
    result = node.result(Settle(0, "t", "c", [SettleItem(Kind.ACK, 0, 0, bytes(16))]))
    assert result == LeaseSettled(0, [(0, "lease_lost", "the lease was settled, or its time is over")])


def test_an_extended_lease_ends_later() -> None:
    node = Node()
    node.publish("1")
    node.result(lease_pull())
    node.now_ms += 900
    assert settle(node, Kind.EXTEND, (0, 0), ms=1000) == 1
    node.now_ms += 999
    assert places(node.result(lease_pull())) == []
    node.now_ms += 1
    assert places(node.result(lease_pull())) == [(0, 0)]


def test_what_is_given_again_goes_by_level_then_time_then_offset_and_before_what_is_fresh_of_the_level() -> None:
    node = Node()
    node.publish("0", "1", "2", "3")
    node.publish("4", level=1)
    node.result(lease_pull(4))  # 4, 0, 1, 2
    settle(node, Kind.NACK, (0, 0), ms=20)
    settle(node, Kind.NACK, (0, 2), ms=10)
    settle(node, Kind.NACK, (0, 1), ms=10)
    settle(node, Kind.NACK, (0, 4), ms=30)
    node.publish("5", level=1)
    node.now_ms += 100
    assert places(node.result(lease_pull())) == [(0, 4), (0, 5), (0, 1), (0, 2), (0, 0), (0, 3)]


def test_a_nack_with_a_priority_moves_the_message_for_this_consumer_alone() -> None:
    node = Node()
    node.publish("0", "1")
    node.publish("2", level=1)
    node.result(lease_pull(3))
    settle(node, Kind.NACK, (0, 1), priority=1)
    assert places(node.result(lease_pull(level_min=1))) == [(0, 1)]
    assert node.consume(3, consumer="other") == ["2", "0", "1"]


def test_what_is_released_was_not_a_failed_delivery() -> None:
    node = Node()
    node.publish("0")
    node.result(lease_pull())
    settle(node, Kind.RELEASE, (0, 0))
    again = node.result(lease_pull())
    assert isinstance(again, Leased)
    assert (again.ranges[0].delivery_count, again.ranges[0].acquired_count) == (1, 2)


def test_no_more_is_in_flight_than_the_pull_allows() -> None:
    node = Node()
    node.publish("0", "1", "2")
    assert places(node.result(lease_pull(in_flight_max=2))) == [(0, 0), (0, 1)]
    assert places(node.result(lease_pull(in_flight_max=2))) == []
    settle(node, Kind.ACK, (0, 0))
    assert places(node.result(lease_pull(in_flight_max=2))) == [(0, 2)]


def test_a_consumer_with_too_much_in_hand_is_refused_and_gets_what_it_has_again() -> None:
    node = Node(MachineLimits(held_per_consumer_max=2))
    node.publish("0", "1", "2")
    node.result(lease_pull())
    refused = node.result(lease_pull())
    assert isinstance(refused, Refused)
    assert refused.code == "leases_full"
    node.now_ms += 1000
    assert places(node.result(lease_pull())) == [(0, 0), (0, 1)]


def test_all_consumers_together_have_no_more_in_hand_than_the_limit_until_one_lets_go_or_its_topic_is_deleted() -> None:
    node = Node(MachineLimits(held_max=3))
    node.publish("0", "1")
    node.publish("0", "1", topic="other")
    assert len(places(node.result(lease_pull()))) == 2
    assert len(places(node.result(lease_pull(consumer="d")))) == 1
    for refused in [node.result(lease_pull(consumer=name)) for name in ("d", "e")]:
        assert isinstance(refused, Refused)
        assert refused.code == "leases_full"
    node.reload()
    settle(node, Kind.ACK, (0, 0))
    assert places(node.result(lease_pull(consumer="d"))) == [(0, 1)]
    node.result(DeleteTopic(0, "t", 0))
    node.publish("0", "1")
    assert len(places(node.result(lease_pull()))) == 2


def test_what_is_taken_without_a_lease_is_settled_also_what_was_in_hand_before() -> None:
    node = Node()
    node.publish("0", "1", "2")
    node.result(lease_pull(2, lease_ms=100))
    settle(node, Kind.NACK, (0, 1))
    node.now_ms += 100
    taken = node.result(lease_pull(auto_commit=True))
    assert places(taken) == [(0, 1), (0, 0), (0, 2)]
    assert isinstance(taken, Leased)
    assert (taken.expires_ms, taken.expired_count) == (0, 1)
    assert [found.delivery_count for found in taken.ranges] == [2, 2, 1]
    assert settle(node, Kind.ACK, (0, 0), (0, 1), (0, 2)) == 0
    node.now_ms += 100_000
    assert places(node.result(lease_pull())) == []
    assert not [key for key, _ in node.everything() if key.startswith(b"\x30")]


def test_a_pull_that_says_nothing_has_the_lease_time_and_the_messages_in_flight_of_the_topic() -> None:
    node = Node()
    node.add_topic("t", TopicConfig(lease_ms=700, in_flight_max=2))
    node.publish("0", "1", "2")
    leased = node.result(lease_pull(lease_ms=0, in_flight_max=0))
    assert places(leased) == [(0, 0), (0, 1)]
    assert isinstance(leased, Leased)
    assert leased.expires_ms == node.now_ms + 700
    assert places(node.result(lease_pull(lease_ms=0, in_flight_max=0))) == []


def test_what_failed_waits_longer_each_time_as_the_topic_says() -> None:
    node = Node()
    node.add_topic("t", TopicConfig(retry=Retry(min_ms=100, max_ms=500, factor=2500)))
    node.publish("0")
    for wait_ms, is_nack in [(100, True), (250, False), (500, True), (500, False)]:
        assert places(node.result(lease_pull(lease_ms=1000))) == [(0, 0)]
        if is_nack:
            assert settle(node, Kind.NACK, (0, 0), ms=-1) == 1
        else:
            node.now_ms += 1000
        node.now_ms += wait_ms - 1
        node.reload()
        assert places(node.result(lease_pull())) == []
        node.now_ms += 1
    assert places(node.result(lease_pull())) == [(0, 0)]
    assert settle(node, Kind.NACK, (0, 0), ms=0) == 1
    assert places(node.result(lease_pull())) == [(0, 0)]


def test_what_is_wrong_with_a_pull_is_refused_and_changes_nothing() -> None:
    node = Node()
    node.publish("0")
    for wrong, code in [
        (lease_pull(0), "bad_request"),
        (lease_pull(lease_ms=99), "bad_request"),
        (lease_pull(nonce=b"short"), "bad_request"),
        (lease_pull(level_min=2), "unknown_priority"),
        (lease_pull(in_flight_max=-1), "bad_request"),
    ]:
        result = node.result(wrong)
        assert isinstance(result, Refused)
        assert result.code == code
    assert not node.views.consumer_exists("t", "c")


class LeasesAndModel(RuleBasedStateMachine):
    """One node keeps its memory, the other restarts before each entry; a list says what is right."""

    @initialize()
    def start(self) -> None:
        self.node, self.restarting = Node(LIMITS), Node(LIMITS)
        for node in (self.node, self.restarting):
            node.add_topic("t", TopicConfig(2, ("l0", "l1")))
        self.fresh: list[tuple[int, int, int]] = []  # (level, partition, offset), as they came
        self.nexts = [0, 0]
        self.held: dict[Item, tuple[int, bytes, int]] = {}  # place -> (priority, nonce or nothing, until)
        self.acked: set[Item] = set()
        self.nonces = 0

    def send(self, operation: object) -> Result:
        (result,) = self.node.command(operation).results  # type: ignore[arg-type]
        self.restarting.reload()
        assert self.restarting.apply(self.node.entries[-1]).results == [result]
        return result

    @rule(partition=st.integers(0, 1), level=st.integers(0, 1), count=st.integers(1, 3))
    def publish(self, partition: int, level: int, count: int) -> None:
        self.send(append(*["1"] * count, partition=partition, level=level))
        for _ in range(count):
            self.fresh.append((level, partition, self.nexts[partition]))
            self.nexts[partition] += 1

    @rule(
        count=st.integers(1, 8),
        lease_ms=st.sampled_from([100, 200]),
        level_min=st.integers(0, 1),
        auto_commit=st.sampled_from([False, False, True]),
    )
    def pull(self, count: int, lease_ms: int, level_min: int, *, auto_commit: bool) -> None:
        self.nonces += 1
        nonce, now = self.nonces.to_bytes(16, "big"), self.node.now_ms
        pull = lease_pull(count, lease_ms=lease_ms, level_min=level_min, nonce=nonce, in_flight_max=8)
        result = self.send(replace(pull, auto_commit=auto_commit))
        in_flight = sum(1 for _, owner, until in self.held.values() if owner and until > now)
        most = min(count, LIMITS.lease_count_max, count if auto_commit else 8 - in_flight)
        ready = sorted((-p, until, place) for place, (p, _, until) in self.held.items() if until <= now)
        expected: list[tuple[int, Item | None]] = []  # (level, place; None for any fresh one)
        room = most if auto_commit else LIMITS.held_per_consumer_max - len(self.held)
        for level in (1, 0)[: 2 - level_min]:
            expected += [(level, place) for negative, _, place in ready if -negative == level]
            fresh = [None] * sum(1 for m in self.fresh if m[0] == level)
            expected += [(level, None) for _ in fresh[:room]]
            room -= min(room, len(fresh))
        if isinstance(result, Refused):
            assert result.code == "leases_full"
            assert len(self.held) == LIMITS.held_per_consumer_max
            assert not expected
            assert any(level >= level_min for level, _, _ in self.fresh)
            return
        given = places(result)
        assert len(given) == min(most, len(expected)) if most > 0 else not given
        for place, (level, wanted) in zip(given, expected, strict=False):
            assert place not in self.acked
            if wanted is None:
                first = next(m for m in self.fresh if m[0] == level and m[1] == place[0])
                assert first[1:] == place
                self.fresh.remove(first)
            else:
                assert place == wanted
            if auto_commit:
                self.held.pop(place, None)
                self.acked.add(place)
            else:
                self.held[place] = (level, nonce, now + lease_ms)

    @rule(data=st.data(), kind=st.sampled_from(Kind), ms=st.sampled_from([100, 200]), priority=st.integers(-1, 1))
    def settle(self, data: st.DataObject, kind: Kind, ms: int, priority: int) -> None:
        if not self.held:
            return
        place = data.draw(st.sampled_from(sorted(self.held)))
        was, nonce, until = self.held[place]
        now = self.node.now_ms
        result = self.send(Settle(0, "t", "c", [SettleItem(kind, *place, nonce, ms, priority)]))
        assert isinstance(result, LeaseSettled)
        assert result.ok_count == (1 if nonce and until > now else 0)
        if not result.ok_count:
            return
        if kind in (Kind.ACK, Kind.REJECT):
            del self.held[place]
            self.acked.add(place)
        elif kind is Kind.EXTEND:
            self.held[place] = (was, nonce, now + ms)
        elif kind is Kind.RELEASE:
            self.held[place] = (was, b"", now)
        else:
            self.held[place] = (was if priority < 0 else priority, b"", now + ms)

    @rule(ms=st.sampled_from([1, 50, 100, 300]))
    def pass_time(self, ms: int) -> None:
        self.node.now_ms += ms

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        if hasattr(self, "node"):
            assert self.node.everything() == self.restarting.everything()
            for node in (self.node, self.restarting):
                assert node.machine.state.held_count.value == len(self.held)


TestLeasesAndModel = LeasesAndModel.TestCase
TestLeasesAndModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
