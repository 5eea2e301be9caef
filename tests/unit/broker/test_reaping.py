"""The leader sees to it that the dead are buried, redrives go on, and what nobody uses goes."""

from __future__ import annotations

import pytest

from falconq_cluster.broker import reaping
from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.pulls import Pulls
from falconq_cluster.broker.requests import ConsumeRequest
from falconq_cluster.machine.commands import (
    ClientOperation,
    LeasePull,
    LeaseSettled,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    decode_command,
    decode_entry,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import TopicSettings
from falconq_cluster.machine.subscriptions import (
    ConsumerConfig,
    DeleteConsumer,
    Reap,
    Redrive,
    Redriven,
    Seek,
    SetConsumer,
    Start,
)
from tests.unit.broker.loopback import Loopback, Member, append, settled

NONCE = bytes(16)
MOVED_MAX = MachineLimits().move_count_max
LIMITS = BrokerLimits()


def reaps_of(cluster: Loopback) -> int:
    entries = [entry for _, entry in cluster.committed if entry[0] == 0]
    return sum(isinstance(o, Reap) for entry in entries for o in decode_command(decode_entry(entry)[1]).operations)


def with_messages(count: int, *, deliveries_max: int = 0) -> Loopback:
    cluster = settled("n1", "n2", "n3", leader="n1")
    cluster["n1"].submit(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(deliveries_max=deliveries_max)))
    for _ in range(0, count, 100):
        cluster["n1"].submit(append(*["1"] * min(count, 100)))
    cluster.settle()
    return cluster


def stored(node: Member, topic: str = "t.dead") -> int:
    return sum(sum(status.depth) for status in node.broker.views().partition_status(topic))


def lease(cluster: Loopback, count: int) -> None:
    while count > 0:
        cluster["n2"].submit(LeasePull(0, "t", "c", min(count, 400), 1 << 22, 1000, 0, NONCE, 0))
        cluster.settle()
        count -= 400


def reject(cluster: Loopback, count: int) -> None:
    for first in range(0, count, 400):
        items = [SettleItem(SettleKind.REJECT, 0, n, NONCE) for n in range(first, min(first + 400, count))]
        ask = cluster["n2"].submit(Settle(0, "t", "c", items))
        cluster.settle()
        assert ask.outcome.result == LeaseSettled(len(items), [])


def test_what_died_by_time_alone_is_buried_without_anybody_asking() -> None:
    cluster = with_messages(100, deliveries_max=1)
    lease(cluster, 100)
    cluster.advance(999 + LIMITS.expiry_allowance_ms)
    cluster.advance(1 + LIMITS.reap_interval_ms)
    assert [stored(node) for node in cluster.nodes.values()] == [100, 100, 100]
    assert cluster["n1"].broker.metrics.dead_letter_count == 100
    assert cluster["n2"].broker.metrics.dead_letter_count == 0
    reaps = reaps_of(cluster)
    cluster.advance(10 * LIMITS.reap_interval_ms)
    assert reaps_of(cluster) == reaps == 1


def test_what_had_no_room_is_buried_soon_also_by_the_next_leader() -> None:
    cluster = with_messages(800)
    lease(cluster, 800)
    reject(cluster, 800)
    assert stored(cluster["n1"]) < 800
    cluster.lead.step()
    cluster.elect("n3", kept_count=0)
    cluster.settle()
    cluster.advance(LIMITS.reap_interval_ms + 10 * LIMITS.trim_interval_ms)
    assert [stored(node) for node in cluster.nodes.values()] == [800, 800, 800]


def test_a_redrive_goes_on_until_all_is_back_over_a_change_of_the_leader() -> None:
    cluster = with_messages(3 * MOVED_MAX)
    lease(cluster, 3 * MOVED_MAX)
    reject(cluster, 3 * MOVED_MAX)
    cluster.advance(10 * LIMITS.trim_interval_ms)
    ask = cluster["n2"].submit(Redrive(0, "t", 0))
    cluster.settle()
    assert ask.outcome.result == Redriven("t", "t.dead", 3 * MOVED_MAX)
    cluster.lead.step()
    cluster.elect("n2", kept_count=0)
    cluster.settle()
    cluster.advance(LIMITS.reap_interval_ms + 10 * LIMITS.trim_interval_ms)
    assert [stored(node, "t") for node in cluster.nodes.values()] == [6 * MOVED_MAX] * 3


def test_an_abandoned_consumer_goes_and_one_that_waits_for_messages_stays() -> None:
    cluster = with_messages(0)
    for name in ("idle", "waiting"):
        cluster["n1"].submit(SetConsumer(0, "t", name, ConsumerConfig(expire_after_ms=600_000)))
    cluster.settle()
    pulls = Pulls(cluster["n2"].broker)
    for _ in range(31):
        now_ms = cluster.clock.now_ms
        request = ConsumeRequest(topic="t", consumer="waiting", wait_ms=19_000, deadline_ms=now_ms + 19_500)
        pulls.consume(request, lambda _answer: None)
        cluster.advance(20_000, grain_ms=1_000)
    views = cluster["n3"].broker.views()
    assert (views.consumer_exists("t", "idle"), views.consumer_exists("t", "waiting")) == (False, True)


def test_of_more_consumers_than_one_look_takes_all_that_are_abandoned_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaping, "LOOKED_AT_MAX", 3)
    cluster = with_messages(0)
    names = [f"c{number}" for number in range(10)]
    for name in names:
        cluster["n1"].submit(SetConsumer(0, "t", name, ConsumerConfig(expire_after_ms=600_000)))
    cluster.settle()
    cluster.advance(610_000 + 10 * LIMITS.reap_interval_ms, grain_ms=1_000)
    views = cluster["n3"].broker.views()
    assert not [name for name in names if views.consumer_exists("t", name)]


def test_a_leader_that_might_take_no_commands_for_a_while_sees_later_what_is_due() -> None:
    cluster = with_messages(0)
    leader = cluster["n1"]
    leader.submit(SetConsumer(0, "t", "idle", ConsumerConfig(expire_after_ms=600_000)))
    cluster.settle()
    leader.may_lead = False
    leader.broker.leadership_changed()
    cluster.advance(2 * LIMITS.reap_interval_ms)
    leader.may_lead = True
    leader.broker.leadership_changed()
    cluster.advance(600_000 + 2 * LIMITS.reap_interval_ms, grain_ms=1_000)
    assert not cluster["n3"].broker.views().consumer_exists("t", "idle")


def test_what_a_deleted_or_moved_consumer_held_is_trimmed() -> None:
    cluster = with_messages(100)
    lease(cluster, 100)
    operations: list[ClientOperation] = [Seek(0, "t", "c", Start()), DeleteConsumer(0, "t", "c")]
    for operation in operations:
        cluster["n1"].submit(operation)
        cluster.settle()
        cluster.advance(10 * LIMITS.trim_interval_ms)
        assert not cluster["n2"].machine.state.deletions
    assert not list(cluster["n2"].store.scan_keys(b"\x30", b"\x31"))
