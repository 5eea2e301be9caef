"""From which offset on messages are not older than a time: looked up by keys, as reading all of them tells."""

from __future__ import annotations

import random

from falconq_cluster.machine.appends import AppendMany, Part, Ripen
from falconq_cluster.machine.commands import Settle, SettleItem, SettleKind
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import Retention
from falconq_cluster.machine.subscriptions import Redrive
from tests.unit.machine.graves import NONCE, lease
from tests.unit.machine.helpers import START_MS, Node
from tests.unit.machine.test_retention import kept, topic, trim


def test_what_is_left_of_a_batch_is_found_by_its_time() -> None:
    node = Node()
    topic(node, Retention(messages=4))
    node.publish("a", "b", "c")
    node.now_ms += 5
    node.publish("d", "e")
    trim(node)
    assert kept(node) == ["b", "c", "d", "e"]
    assert [node.views.consumers.offset_at("t", 0, START_MS + ms) for ms in (0, 1, 5, 6)] == [1, 3, 3, 5]


def test_the_offset_of_a_time_is_what_the_shown_times_tell_of_whatever_came_how() -> None:
    """Large and small batches, cut by trimming; delayed and redriven messages; from each offset on."""
    dice, moved = random.Random(7), set[bytes]()
    for _ in range(30):
        node = history(dice)
        moved.update(m.message for m in node.views.peek("t.dead", partition=0, offset=0, count=1_000))
        for name, partition in (("t", 0), ("t", 1), ("t.dead", 0)):
            everything = node.views.peek(name, partition=partition, offset=0, count=1_000)
            following = node.views.partition_status(name)[partition].next_offset
            assert [m.timestamp_ms for m in everything] == sorted(m.timestamp_ms for m in everything)
            for at_ms in {m.timestamp_ms + shift for m in everything for shift in (0, 1)} | {1}:
                for least in (0, *range(max(following - 12, 0), following + 2)):
                    shown = [m for m in everything if m.timestamp_ms >= at_ms and m.offset >= least]
                    start = shown[0].offset if shown else max(following, least)
                    assert node.views.offset_at(name, partition, at_ms, least=least) == start
                    found = node.views.peek(name, partition=partition, offset=least, count=1_000, at_ms=at_ms)
                    assert found == shown
                assert node.views.consumers.offset_at(name, partition, at_ms) == node.views.offset_at(
                    name, partition, at_ms
                )
    assert moved, "messages died"


def history(dice: random.Random) -> Node:
    node = Node()
    topic(node, Retention(messages=dice.randrange(15, 40)), partitions=2)
    for _ in range(60):
        node.now_ms += dice.choice((0, 1, 5))
        level, partition = dice.randrange(2), dice.randrange(2)
        match dice.randrange(6):
            case 0:
                part = Part(partition, level, 2, pack_record(b"1") * 2, dice.randrange(1, 9))
                node.result(AppendMany(0, "t", [part], may_create=True))
            case 1:
                bury(node, dice.randrange(1, 4))
            case 2:
                node.result(Redrive(0, "t", 0))
                node.command(Ripen())
            case 3:
                trim(node)
            case _:
                node.publish(*"abcdefgh"[: dice.randrange(1, 8)], level=level, partition=partition)
        if dice.randrange(10) == 0:
            node.reload()
    bury(node, 2)
    return node


def bury(node: Node, count: int) -> None:
    for partition, offset in lease(node, count):
        node.result(Settle(0, "t", "c", [SettleItem(SettleKind.REJECT, partition, offset, NONCE)]))
