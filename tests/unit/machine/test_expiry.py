"""Messages with a time to live: nobody is given them once it is over, whatever the scheduler and the kind of pull."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendMany, Part, Ripen
from falconq_cluster.machine.commands import (
    Leased,
    LeasePull,
    Refused,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    Tick,
)
from falconq_cluster.machine.events import Expired
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.queueing import PASSES_MAX
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import AGED, STRICT, WEIGHTED, Scheduler, TopicConfig, TopicSettings
from tests.unit.machine.helpers import Node, pull

NONCE = bytes(16)


def publish(
    node: Node, *messages: str, ttl_ms: int = 100, level: int = 0, partition: int = 0, delay_ms: int = 0
) -> None:
    records = b"".join(pack_record(message.encode()) for message in messages)
    part = Part(partition, level, len(messages), records, delay_ms, ttl_ms)
    assert not isinstance(node.result(AppendMany(0, "t", [part], may_create=True)), Refused)


def lease(node: Node, count: int = 10) -> Leased:
    result: Any = node.result(LeasePull(0, "t", "w", count, 1 << 20, 100, 0, NONCE, 0))
    assert isinstance(result, Leased)
    return result


def leased(node: Node, count: int = 10) -> list[str]:
    ranges = [found.messages for found in lease(node, count).ranges]
    return [message.message.decode() for message in node.views.read_ranges("t", ranges)]


def test_what_is_expired_is_passed_over_and_what_is_behind_it_is_given():
    node = Node()
    publish(node, "a", "b")
    publish(node, "c", ttl_ms=500)
    node.publish("d")
    assert node.consume(1) == ["a"]
    node.now_ms += 99
    assert node.consume(1, consumer="other") == ["a"]
    node.now_ms += 1
    applied = node.command(Tick())
    for consumer in ("c", "other", "late"):
        assert node.consume(1, consumer=consumer) == ["c"]
        node.reload()
        assert node.consume(9, consumer=consumer) == ["d"]
        assert node.views.pending("t", consumer) == [0, 0]
    assert not any(isinstance(event, Expired) for event in applied.events)


def test_passing_over_is_told_once_a_consumer_and_moves_its_place():
    node = Node()
    publish(node, "a", "b", "c")
    node.consume(1)
    node.now_ms += 100
    applied = node.command(pull())
    assert Expired("t", 2) in applied.events
    assert any(key.startswith(keys.CURSOR) for key, _ in applied.changes)
    assert not any(isinstance(event, Expired) for event in node.command(pull()).events)
    node.publish("d")
    assert node.consume() == ["d"]


@pytest.mark.parametrize("policy", [STRICT, WEIGHTED, AGED])
def test_no_scheduler_gives_what_is_expired_and_each_gives_the_rest(policy: str):
    node = Node()
    node.add_topic("t", TopicConfig(partitions=3))
    scheduler = Scheduler(policy, max_wait_ms=(("low", 10), ("high", 10)) if policy == AGED else ())
    assert not isinstance(node.result(SetTopic(0, "t", 0, True, TopicSettings(scheduler=scheduler))), Refused)
    for number in range(30):
        partition, level = number % 3, number % 2
        publish(node, f"x{number}", partition=partition, level=level)
        node.publish(f"k{number}", partition=partition, level=level)
    node.now_ms += 100
    found: list[str] = []
    for _ in range(60):
        found += node.consume(2)
    assert sorted(found) == sorted(f"k{number}" for number in range(30))
    assert sorted(leased(node, 200)) == sorted(found)


def test_a_leased_message_that_comes_back_after_its_time_is_not_given_again():
    node = Node()
    publish(node, "a", "b", ttl_ms=1000)
    assert leased(node) == ["a", "b"]
    node.result(Settle(0, "t", "w", [SettleItem(SettleKind.NACK, 0, 0, NONCE)]))
    node.now_ms += 500
    assert leased(node, 1) == ["a"], "its time is not over yet"
    node.now_ms += 500
    applied = node.command(LeasePull(0, "t", "w", 10, 1 << 20, 100, 0, NONCE, 0))
    (result,) = applied.results
    assert isinstance(result, Leased)
    assert result.ranges == []
    assert applied.events.count(Expired("t", 1)) == 2
    assert not [key for key, _ in node.everything() if key[:1] == keys.LEASE]


def test_what_was_handed_out_in_time_may_be_settled_after_it():
    node = Node()
    publish(node, "a", ttl_ms=50)
    lease(node)
    node.now_ms += 60
    result: Any = node.result(Settle(0, "t", "w", [SettleItem(SettleKind.ACK, 0, 0, NONCE)]))
    assert (result.ok_count, result.failed) == (1, [])


def test_a_delayed_message_lives_from_when_it_enters_its_level():
    node = Node()
    publish(node, "a", delay_ms=1_000)
    node.now_ms += 1_000
    node.command(Ripen())
    node.reload()
    node.now_ms += 99
    assert node.consume(consumer="x") == ["a"]
    node.now_ms += 1
    assert node.consume(consumer="y") == []


def test_a_pull_passes_a_bounded_number_and_the_next_one_goes_on():
    node = Node()
    for _ in range(PASSES_MAX + 1):
        publish(node, "x")
    node.publish("kept")
    node.now_ms += 100
    assert node.consume() == []
    assert node.views.has_deliverable("t", "c")
    node.reload()
    assert node.consume() == ["kept"]


def test_a_pull_touches_no_more_partitions_than_it_was_counted_for():
    node = Node()
    node.add_topic("t", TopicConfig(partitions=20))
    for partition in range(20):
        publish(node, "x", partition=partition)
        node.publish("k", partition=partition)
    node.now_ms += 100
    for count in (1, 2, 3):
        changes = node.command(pull(count)).changes
        assert sum(key.startswith(keys.CURSOR) for key, _ in changes) <= 2 * count
    found = [message for _ in range(60) for message in node.consume(2)]
    assert found.count("x") == 0
    assert node.views.pending("t", "c") == [0, 0]


@pytest.mark.parametrize("ttl_ms", [-1, 31_536_000_001])
def test_a_time_to_live_that_is_none_is_refused(ttl_ms: int):
    node = Node()
    result: Any = node.result(AppendMany(0, "t", [Part(0, 0, 1, pack_record(b"a"), 0, ttl_ms)], may_create=True))
    assert (type(result), result.code) == (Refused, "bad_request")


def test_a_key_without_a_time_to_live_is_as_short_as_ever_and_both_are_read_back():
    prefix = keys.level_prefix(1, 0, 0)
    for batch in (Batch(5, 2, 9, 1000), Batch(5, 2, 9, 1000, 2000)):
        key = keys.batch_key(prefix, batch)
        assert len(key) == len(prefix) + (24 if not batch.expires_ms else 32)
        assert keys.read_batch_key(key) == batch


@pytest.mark.parametrize("policy", [STRICT, WEIGHTED, AGED])
def test_a_restarted_node_passes_over_the_same_as_the_others(policy: str):
    one, other = Node(), Node()
    one.add_topic("t", TopicConfig(partitions=2))
    scheduler = Scheduler(policy, max_wait_ms=(("low", 10), ("high", 30)) if policy == AGED else ())
    one.result(SetTopic(0, "t", 0, True, TopicSettings(scheduler=scheduler)))
    random = Random(policy)
    for number in range(300):
        one.now_ms += random.choice([0, 1, 10])
        for _ in range(random.randrange(3)):
            ttl_ms = random.choice([1, 20, 60, 0])
            publish(one, f"{number}", ttl_ms=ttl_ms, level=random.randrange(2), partition=random.randrange(2))
        one.command(pull(random.randrange(1, 4), consumer=random.choice("cd")))
    for entry in one.entries:
        other.reload()
        other.apply(entry)
    assert other.machine.digest == one.machine.digest
    assert other.everything() == one.everything()
