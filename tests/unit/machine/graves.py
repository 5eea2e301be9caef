"""A topic whose messages die, and a look at its dead letters."""

from __future__ import annotations

import json
from typing import Any

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    Append,
    Appended,
    Leased,
    LeasePull,
    LeaseSettled,
    Settle,
    SettleItem,
    SettleKind,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.subscriptions import (
    Reap,
)
from tests.unit.machine.helpers import Node

NONCE = bytes(16)
LEVELS = ("low", "mid", "high")


def node_with(topic: str = "t", limits: MachineLimits | None = None, **settings: Any) -> Node:
    node = Node() if limits is None else Node(limits)
    node.add_topic(topic, TopicConfig(levels=LEVELS, **settings))
    return node


def lease(node: Node, count: int = 10, *, consumer: str = "c", topic: str = "t") -> list[tuple[int, int]]:
    result = node.result(LeasePull(0, topic, consumer, count, 1 << 22, 1000, 0, NONCE, 0))
    assert isinstance(result, Leased)
    found = [each.messages for each in result.ranges]
    return [(r.partition, r.offset + n) for r in found for n in range(r.count)]


def settle(
    node: Node, kind: SettleKind, *offsets: int, reason: str = "", consumer: str = "c", topic: str = "t"
) -> LeaseSettled:
    items = [SettleItem(kind, 0, offset, NONCE, reason=reason) for offset in offsets]
    result = node.result(Settle(0, topic, consumer, items))
    assert isinstance(result, LeaseSettled)
    return result


def stored(node: Node, topic: str = "t.dead") -> list[DeliveredMessage]:
    return node.views.peek(topic, partition=None, offset=0, count=1000, bytes_max=1 << 30)


def marks(message: DeliveredMessage) -> dict[str, str]:
    headers: dict[str, str] = json.loads(message.headers or b"{}")
    return headers


def put(node: Node, message: bytes, *, level: int = 0, key: str | None = None, headers: bytes | None = None) -> None:
    record = pack_record(message, key, headers)
    assert isinstance(node.result(Append(0, "t", 0, level, 1, record, may_create=False)), Appended)


def in_hand(node: Node) -> int:
    return len([key for key, _ in node.everything() if key[:1] == keys.LEASE])


def buried(count: int, limits: MachineLimits | None = None) -> Node:
    node = node_with(limits=limits)
    for n in range(count):
        put(node, str(n).encode(), level=n % 3, key="k", headers=b'{"h":"v"}' if n % 2 else None)
    while lease(node, 200):
        places = [held.offset for held in node.machine.state.topics["t"].consumers["c"].holdings if held.row.nonce]
        settle(node, SettleKind.REJECT, *sorted(places))
    while node.machine.state.topics["t"].consumers["c"].holdings.first_dead() is not None:
        node.command(Reap([("t", "c")], []))
    return node
