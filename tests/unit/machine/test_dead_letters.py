"""Dead letters: what goes there, once, and with what it had."""

from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import (
    LeasePull,
    LeaseSettled,
    Settle,
    SettleItem,
    SettleKind,
)
from falconq_cluster.machine.events import Buried, LeftUndone
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.subscriptions import (
    Reap,
    Redrive,
    Redriven,
)
from tests.unit.machine.graves import LEVELS, NONCE, in_hand, lease, marks, node_with, put, settle, stored
from tests.unit.machine.helpers import append


def test_a_rejected_message_goes_to_the_dead_letters_with_all_it_had_and_the_reason() -> None:
    node = node_with()
    put(node, b'"a"')
    put(node, b'{"b":  2}', level=2, key="k", headers=b'{"h": "v", "falconq-dead-reason": "forged"}')
    assert lease(node, 1) == [(0, 1)]
    applied = node.command(Settle(0, "t", "c", [SettleItem(SettleKind.REJECT, 0, 1, NONCE, reason="not for us")]))
    assert applied.results == [LeaseSettled(1, [])]
    assert Buried("t", "c", 1) in applied.events
    (dead,) = stored(node)
    assert (dead.message, dead.key, dead.level) == (b'{"b":  2}', "k", 2)
    assert marks(dead) == {
        "h": "v",
        "falconq-dead-reason": "not for us",
        "falconq-dead-topic": "t",
        "falconq-dead-partition": "0",
        "falconq-dead-offset": "1",
        "falconq-dead-id": "3.0",
        "falconq-dead-consumer": "c",
        "falconq-dead-deliveries": "1",
    }
    assert in_hand(node) == 0
    view = node.views.topic("t.dead")
    assert view is not None
    assert view.config.levels == LEVELS
    node.reload()
    assert settle(node, SettleKind.ACK, 1).ok_count == 0
    assert lease(node) == [(0, 0)]
    settle(node, SettleKind.REJECT, 0)
    assert [marks(message)["falconq-dead-reason"] for message in stored(node)] == ["not for us", "rejected"]


@pytest.mark.parametrize("is_nack", [True, False])
def test_a_message_dies_with_its_last_delivery_not_before(is_nack: bool) -> None:
    node = node_with(deliveries_max=3)
    put(node, b"1", level=1)
    for delivery in range(3):
        assert stored(node) == []
        assert lease(node) == [(0, 0)]
        if is_nack:
            settle(node, SettleKind.NACK, 0)
        else:
            node.now_ms += 1000
        node.reload()
        assert lease(node, consumer="other") == ([(0, 0)] if delivery == 0 else [])
        settle(node, SettleKind.ACK, 0, consumer="other")
    assert lease(node) == []
    node.command(Reap([("t", "c")], []))
    (dead,) = stored(node)
    assert dead.level == 1
    assert marks(dead)["falconq-dead-reason"] == "maxDeliveries"
    assert marks(dead)["falconq-dead-deliveries"] == "3"
    node.command(Reap([("t", "c")], []))
    assert len(stored(node)) == 1
    assert in_hand(node) == 0


def test_what_is_given_back_untouched_or_extended_does_not_die() -> None:
    node = node_with(deliveries_max=1)
    put(node, b"1")
    for _ in range(3):
        assert lease(node) == [(0, 0)]
        settle(node, SettleKind.RELEASE, 0)
    assert lease(node) == [(0, 0)]
    node.now_ms += 999
    node.result(Settle(0, "t", "c", [SettleItem(SettleKind.EXTEND, 0, 0, NONCE, ms=5000)]))
    node.now_ms += 4999
    node.command(Reap([("t", "c")], []))
    assert stored(node) == []
    node.now_ms += 1
    assert node.machine.state.topics["t"].consumers["c"].holdings.has_dead_at(node.now_ms)
    node.command(Reap([("t", "c")], []))
    assert len(stored(node)) == 1


def test_a_changed_number_of_deliveries_counts_from_the_next_delivery_on() -> None:
    node = node_with()
    put(node, b"1")
    for _ in range(5):
        assert lease(node) == [(0, 0)]
        settle(node, SettleKind.NACK, 0)
    node.add_topic("t", TopicConfig(levels=LEVELS, deliveries_max=2))
    assert lease(node) == [(0, 0)]
    assert stored(node) == []
    settle(node, SettleKind.NACK, 0)
    assert [marks(message)["falconq-dead-deliveries"] for message in stored(node)] == ["6"]


def test_dead_letters_have_no_dead_letters_of_their_own() -> None:
    node = node_with(deliveries_max=1, dead_letter_topic="lost")
    node.add_topic("lost", TopicConfig(levels=("low",), deliveries_max=1))
    put(node, b"1", level=2)
    # Given while `lost` was not known to be one.
    node.publish("0", topic="lost")
    assert lease(node, topic="lost") == [(0, 0)]
    node.now_ms += 1000
    assert lease(node, topic="lost") == []
    lease(node)
    settle(node, SettleKind.REJECT, 0)
    assert [(message.message, message.level) for message in stored(node, "lost")] == [(b"0", 0), (b"1", 2)]
    node.command(Reap([("lost", "c")], []))
    assert lease(node, topic="lost") == [(0, 1), (0, 0)]
    refused = settle(node, SettleKind.REJECT, 0, topic="lost")
    assert (refused.ok_count, refused.failed[0][1]) == (0, "bad_request")
    assert settle(node, SettleKind.NACK, 0, 1, topic="lost").ok_count == 2
    assert len(lease(node, topic="lost")) == 2
    assert node.views.topic("lost.dead") is None


def test_dead_letters_are_made_beyond_the_limit_of_topics() -> None:
    node = node_with(limits=MachineLimits(topics_max=1))
    put(node, b"1")
    lease(node)
    assert settle(node, SettleKind.REJECT, 0).ok_count == 1
    assert len(stored(node)) == 1


def test_dead_letters_gain_the_levels_that_their_topic_gained() -> None:
    node = node_with()
    put(node, b"1", level=2)
    lease(node)
    settle(node, SettleKind.REJECT, 0)
    node.add_topic("t", TopicConfig(levels=(*LEVELS, "now")))
    put(node, b"2", level=3)
    lease(node)
    settle(node, SettleKind.REJECT, 1)
    node.reload()
    assert [message.level for message in stored(node)] == [2, 3]


def test_one_entry_buries_a_bounded_part_and_the_rest_is_given_to_nobody() -> None:
    node = node_with(limits=MachineLimits(move_count_max=3), deliveries_max=1)
    for n in range(10):
        put(node, str(n).encode(), level=n % 2)
    assert len(lease(node)) == 10
    assert settle(node, SettleKind.REJECT, 0, 2, 4, 6, 8, reason="r").ok_count == 5
    assert len(stored(node)) == 3
    node.now_ms += 1000
    assert lease(node) == []
    node.reload()
    sizes: list[int] = []
    while not sizes or sizes[-1]:
        applied = node.command(Reap([("t", "c")], []))
        sizes.append(sum(event.count for event in applied.events if isinstance(event, Buried)))
        left = [event for event in applied.events if isinstance(event, LeftUndone)]
        assert left == ([LeftUndone((("t", "c"),), ())] if sum(sizes) < 7 else [])
        assert len(applied.changes) < 15
    assert sizes == [3, 3, 1, 0]
    assert sorted(message.message for message in stored(node)) == [str(n).encode() for n in range(10)]
    assert [marks(m)["falconq-dead-reason"] for m in stored(node)].count("r") == 5


def test_a_message_larger_than_an_entry_may_move_goes_alone() -> None:
    node = node_with(limits=MachineLimits(move_bytes_max=1000), deliveries_max=1)
    for _ in range(2):
        put(node, b'"' + b"x" * 3000 + b'"')
    lease(node)
    assert settle(node, SettleKind.REJECT, 0, 1).ok_count == 2
    assert stored(node) == []
    for count in (1, 2):
        node.command(Reap([("t", "c")], []))
        assert len(stored(node)) == count
    assert in_hand(node) == 0


def test_messages_of_one_append_and_of_the_same_entry_are_found() -> None:
    node = node_with()
    node.publish("0", "1", "2", "3")
    pull = LeasePull(0, "t", "c", 10, 1 << 20, 1000, 0, NONCE, 0)
    items = [SettleItem(SettleKind.REJECT, 0, offset, NONCE) for offset in (3, 1, 4)]
    applied = node.command(append("4"), pull, Settle(0, "t", "c", items), Redrive(0, "t", 1))
    assert applied.results[2] == LeaseSettled(3, [])
    assert applied.results[3] == Redriven("t", "t.dead", 1)
    assert [message.message for message in stored(node)] == [b"3", b"1", b"4"]
    assert [message.message for message in stored(node, "t")] == [b"0", b"1", b"2", b"3", b"4", b"3"]
