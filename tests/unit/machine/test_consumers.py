"""Consumers as resources: where they begin, how they are moved, paused and deleted, and what is left of them."""

from __future__ import annotations

from random import Random

import pytest

from falconq_cluster.errors import ERROR_CODES
from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    AnyOperation,
    DeleteTopic,
    Done,
    Leased,
    LeasePull,
    LeaseSettled,
    Refused,
    Settle,
    SettleItem,
    SettleKind,
    Trim,
)
from falconq_cluster.machine.consumer_views import ConsumerView
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.subscriptions import (
    EXPIRE_AFTER_MS,
    ConsumerConfig,
    ConsumerSet,
    DeleteConsumer,
    PauseConsumer,
    Seek,
    SetConsumer,
    Start,
    StartKind,
)
from tests.unit.machine.helpers import Node, pull

EARLIEST, LATEST = Start(), Start(StartKind.LATEST)


def at(offset: int) -> Start:
    return Start(StartKind.OFFSET, offset)


def made(
    start: Start = EARLIEST, *, lease_ms: int = 0, in_flight_max: int = 0, expire_after_ms: int = EXPIRE_AFTER_MS
) -> SetConsumer:
    return SetConsumer(0, "t", "c", ConsumerConfig(start, lease_ms, in_flight_max, expire_after_ms))


def lease(node: Node, count: int = 10) -> Leased:
    result = node.result(LeasePull(0, "t", "c", count, 1 << 20, 0, 0, bytes(16), 0))
    assert isinstance(result, Leased)
    return result


def view(node: Node, name: str = "c") -> ConsumerView:
    found = node.views.consumers.consumer("t", name)
    assert found is not None
    return found


def trimmed(node: Node) -> None:
    while node.machine.state.deletions:
        node.command(Trim())


@pytest.mark.parametrize("is_reloaded", [False, True])
def test_a_consumer_begins_where_it_was_told_to(is_reloaded: bool) -> None:
    node = Node()
    for n in range(6):
        node.publish(str(n))
    if is_reloaded:
        node.reload()
    for start, wanted in [(EARLIEST, 0), (at(0), 0), (at(4), 4), (at(6), 6), (at(1 << 62), 6), (LATEST, 6)]:
        assert node.result(made(start)) == ConsumerSet("t", "c", is_new=True)
        assert view(node).config.start == start
        assert sum(view(node).lag) == 6 - wanted
        assert node.consume() == [str(n) for n in range(wanted, 6)]
        node.result(DeleteConsumer(0, "t", "c"))
    node.result(made(LATEST))
    node.publish("later")
    assert node.consume() == ["later"]


def test_a_consumer_that_begins_at_a_time_takes_what_was_looked_up_for_it() -> None:
    node = Node()
    node.add_topic("t", TopicConfig(3, ("low", "high")))
    for partition in range(3):
        node.publish("0", "1", "2", partition=partition)
    node.result(SetConsumer(0, "t", "c", ConsumerConfig(Start(StartKind.TIME, 5)), offsets=(2, 3)))
    assert node.consume() == ["2", "0", "1", "2"]


@pytest.mark.parametrize("seed", range(6))
def test_a_seek_to_any_offset_gives_all_from_there_on_and_counts_what_waits(seed: int) -> None:
    random, node = Random(seed), Node()
    node.add_topic("t", TopicConfig(2, ("l0", "l1", "l2")))
    stored: list[tuple[int, int, int]] = []  # (partition, offset, level)
    counts = [0, 0]
    for _ in range(40):
        partition, level, count = random.randrange(2), random.randrange(3), random.randrange(1, 5)
        node.publish(*["m"] * count, partition=partition, level=level)
        stored += [(partition, counts[partition] + n, level) for n in range(count)]
        counts[partition] += count
        if random.random() < 0.1:
            node.reload()
    node.result(made())
    other = Node()
    for entry in node.entries:
        other.apply(entry)
    for offset in range(max(counts) + 2):
        if random.random() < 0.5:
            node.pull(random.randrange(1, 30))
            other.apply(node.entries[-1])
        operation = Seek(0, "t", "c", at(offset))
        if random.random() < 0.5:
            other.reload()
        assert node.result(operation) == ConsumerSet("t", "c", is_new=False)
        other.apply(node.entries[-1])
        assert node.everything() == other.everything()
        wanted = [place for place in stored if place[1] >= offset]
        assert view(node).lag == [sum(level == n for _, _, level in wanted) for n in range(3)]
        given = node.pull(1000)
        other.apply(node.entries[-1])
        found = sorted((r.partition, r.offset + n, r.level) for r in given.ranges for n in range(r.count))
        assert found == sorted(wanted)
        assert view(node).lag == [0, 0, 0]


def test_a_seek_ends_the_leases_and_forgets_what_was_in_hand_and_given() -> None:
    node = Node()
    node.publish("0", "1", "2")
    assert len(lease(node, 2).ranges) == 1
    assert node.consume(1, attempt="a") == ["2"]
    seek = Seek(0, "t", "c", at(1))
    assert isinstance(node.result(seek), ConsumerSet)
    assert node.machine.state.held_count.value == 0
    lost = node.result(Settle(0, "t", "c", [SettleItem(SettleKind.ACK, 0, 1, bytes(16))]))
    assert isinstance(lost, LeaseSettled)
    assert lost.failed[0][1] == "lease_lost"
    node.reload()
    assert node.consume(attempt="a") == ["1", "2"]
    assert [len([k for k, _ in node.everything() if k[:1] == prefix]) for prefix in keys.OF_CONSUMERS] == [2, 2, 2]
    trimmed(node)
    assert [len([k for k, _ in node.everything() if k[:1] == prefix]) for prefix in keys.OF_CONSUMERS] == [1, 1, 0]
    node.reload()
    assert node.consume() == []


def test_a_seek_in_the_entry_of_a_pull_leaves_the_new_place_alone() -> None:
    node = Node()
    node.publish("0", "1", "2")
    node.command(pull(2), Seek(0, "t", "c", at(1)), pull(1), made(lease_ms=500))
    trimmed(node)
    node.reload()
    assert view(node).config.lease_ms == 500
    assert node.consume() == ["2"]


def test_a_paused_consumer_is_given_nothing_and_may_settle() -> None:
    node = Node()
    node.publish("0", "1", "2")
    lease(node, 1)
    assert node.consume(1, attempt="a") == ["1"]
    node.result(PauseConsumer(0, "t", "c", is_paused=True))
    node.reload()
    assert view(node).is_paused
    assert not node.views.has_deliverable("t", "c")
    assert node.views.leasable_count("t", "c", 0, node.now_ms + 100_000) == 0
    assert lease(node).ranges == []
    assert node.consume() == []
    assert node.consume(attempt="a") == ["1"]
    settled = node.result(Settle(0, "t", "c", [SettleItem(SettleKind.ACK, 0, 0, bytes(16))]))
    assert settled == LeaseSettled(1, [])
    node.result(PauseConsumer(0, "t", "c", is_paused=False))
    assert node.consume() == ["2"]


def test_settings_of_a_consumer_go_before_those_of_its_topic_and_its_start_counts_once() -> None:
    node = Node()
    node.add_topic("t", TopicConfig(lease_ms=1000, in_flight_max=5))
    node.publish(*"0123456")
    assert node.result(made(at(1), lease_ms=300, in_flight_max=2)) == ConsumerSet("t", "c", is_new=True)
    leased = lease(node)
    assert (leased.expires_ms - node.now_ms, leased.ranges[0].messages.count) == (300, 2)
    assert node.result(made(LATEST)) == ConsumerSet("t", "c", is_new=False)
    node.reload()
    assert view(node).config == ConsumerConfig(at(1))
    leased = lease(node)
    assert (leased.expires_ms - node.now_ms, leased.ranges[0].messages.count) == (1000, 3)


def test_a_deleted_consumer_is_gone_and_its_name_inherits_nothing() -> None:
    node = Node(MachineLimits(trim_keys_max=3))
    node.publish(*"012345")
    lease(node, 5)
    assert node.result(DeleteConsumer(0, "t", "c")) == Done()
    assert node.views.consumers.consumer("t", "c") is None
    assert node.machine.state.held_count.value == 0
    node.reload()
    assert node.consume(2) == ["0", "1"]
    trimmed(node)
    assert not [key for key, _ in node.everything() if key[:1] == keys.LEASE]
    node.reload()
    assert node.consume() == ["2", "3", "4", "5"]
    assert not node.machine.state.deletions


def test_a_deleted_consumer_of_a_deleted_topic_leaves_nothing() -> None:
    node = Node(MachineLimits(trim_keys_max=3))
    node.publish(*"012345")
    lease(node, 5)
    node.command(DeleteConsumer(0, "t", "c"), DeleteTopic(0, "t", 0))
    node.reload()
    trimmed(node)
    assert not [key for key, _ in node.everything() if key[:1] in keys.OF_TOPICS]


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (SetConsumer(1, "t", "c", ConsumerConfig()), "expired"),
        (SetConsumer(0, "missing", "c", ConsumerConfig()), "topic_not_found"),
        (SetConsumer(0, "t", "-c", ConsumerConfig()), "bad_request"),
        (made(lease_ms=99), "bad_request"),
        (made(in_flight_max=50_001), "bad_request"),
        (made(expire_after_ms=1000), "bad_request"),
        (made(at(-1)), "bad_request"),
        (made(Start(StartKind.LATEST, 3)), "bad_request"),
        (DeleteConsumer(1, "t", "c"), "expired"),
        (DeleteConsumer(0, "t", "c"), "consumer_not_found"),
        (Seek(1, "t", "c", LATEST), "expired"),
        (Seek(0, "t", "c", LATEST), "consumer_not_found"),
        (PauseConsumer(1, "t", "c", is_paused=True), "expired"),
        (PauseConsumer(0, "t", "c", is_paused=True), "consumer_not_found"),
    ],
)
def test_what_can_not_be_done_is_refused_and_changes_nothing(operation: AnyOperation, code: str) -> None:
    node = Node()
    node.publish("0")
    before = node.everything()[1:]
    result = node.result(operation)
    assert isinstance(result, Refused)
    assert result.code == code
    assert code in ERROR_CODES
    assert node.everything()[1:] == before


def test_a_seek_to_nowhere_and_too_many_deletions_are_refused() -> None:
    node = Node(MachineLimits(deletions_max=2))
    node.publish("0")
    node.result(made())
    assert isinstance(node.result(Seek(0, "t", "c", at(-1))), Refused)
    for _ in range(2):
        assert isinstance(node.result(Seek(0, "t", "c", LATEST)), ConsumerSet)
    operations: list[AnyOperation] = [Seek(0, "t", "c", LATEST), DeleteConsumer(0, "t", "c")]
    for operation in operations:
        result = node.result(operation)
        assert isinstance(result, Refused)
        assert result.code == "overloaded"


def test_lag_and_the_age_of_the_oldest_message_are_told_by_level() -> None:
    node = Node()
    node.add_topic("t", TopicConfig(2, ("low", "high")))
    times = []
    for level, partition in [(0, 0), (1, 1), (0, 1), (0, 0)]:
        node.now_ms += 10
        times.append(node.now_ms)
        node.publish("m", "n", level=level, partition=partition)
    node.result(made())
    assert (view(node).lag, view(node).oldest_ms) == ([6, 2], [times[0], times[1]])
    lease(node, 3)
    assert (view(node).lag, view(node).oldest_ms) == ([5, 0], [times[0], None])
    assert (view(node).leased_count, view(node).returned_count) == (3, 0)
    node.pull(1)
    node.reload()
    assert (view(node).lag, view(node).oldest_ms) == ([4, 0], [times[0], None])
    node.pull(1)
    assert (view(node).lag, view(node).oldest_ms) == ([3, 0], [times[2], None])
    node.now_ms += 30_000
    node.result(Settle(0, "t", "c", []))
    assert (view(node).leased_count, view(node).returned_count) == (0, 3)


def test_consumers_are_listed_in_pages_by_name() -> None:
    node = Node()
    node.add_topic("t", TopicConfig(250, ("low", "high")))
    for name in ("b", "a", "d", "c"):
        node.result(SetConsumer(0, "t", name, ConsumerConfig()))
    listed = node.views.consumers.consumers_after
    assert [v.name for v in listed("t", "", 10)] == ["a", "b"]
    assert [v.name for v in listed("t", "b", 1)] == ["c"]
    assert [v.name for v in listed("t", "d", 10)] == []
    assert listed("missing", "", 10) == []


def test_a_use_is_noted_to_the_minute_and_asked_for_in_time() -> None:
    node = Node()
    node.publish("0")
    node.result(made(expire_after_ms=600_000))
    first = node.now_ms
    node.now_ms += 59_999
    node.pull()
    assert view(node).used_ms == first
    assert not node.views.consumers.is_to_be_used("t", "c", first + 74_999)
    assert node.views.consumers.is_to_be_used("t", "c", first + 75_000)
    node.now_ms += 1
    node.pull()
    node.reload()
    assert view(node).used_ms == node.now_ms
