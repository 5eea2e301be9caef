"""Delayed messages: when and in which order they enter their level, and what bounds them."""

from __future__ import annotations

from typing import Any

import pytest

from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendedMany, AppendMany, Part, Place, Ripen
from falconq_cluster.machine.commands import Appended, DeleteTopic, Duplicate, Refused, Trim
from falconq_cluster.machine.deduping import DIGEST_BYTES
from falconq_cluster.machine.delaying import DELAY_MS_MAX
from falconq_cluster.machine.events import Delayed, LevelGrew, Ripened
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.state import Delays
from tests.unit.machine.helpers import Node, append


def part(*messages: str, delay_ms: int = 100, level: int = 0, partition: int = 0) -> Part:
    records = b"".join(pack_record(message.encode()) for message in messages)
    return Part(partition, level, len(messages), records, delay_ms)


def delayed(*parts: Part, topic: str = "t", key: str | None = None) -> AppendMany:
    once = None if key is None else Once(key, digest=bytes(DIGEST_BYTES))
    return AppendMany(0, topic, list(parts), may_create=True, once=once)


def stored(node: Node, topic: str = "t") -> list[tuple[int, int, str, str]]:
    """(offset, level, message, id)."""
    found = node.views.peek(topic, partition=0, offset=0, count=1000)
    return [(m.offset, m.level, m.message.decode(), m.id) for m in found]


def waiting(node: Node) -> list[bytes]:
    return [key for key, _ in node.everything() if key[:1] in (keys.DUE, keys.DELAYED)]


def test_a_delayed_message_has_its_id_at_once_and_its_offset_when_it_is_due():
    node = Node()
    applied = node.command(delayed(part("a", level=1)))
    index, due_ms = node.machine.applied_index, node.now_ms + 100
    assert applied.results == [Appended("t", 0, 1, -1, 1, 0, node.now_ms, due_ms)]
    assert Delayed() in applied.events
    assert not any(isinstance(event, LevelGrew) for event in applied.events)
    assert node.machine.state.delays.next_ms == due_ms
    node.publish("b")
    node.now_ms = due_ms - 1
    node.command(Ripen())
    assert [message for *_, message, _ in stored(node)] == ["b"]
    assert node.consume() == ["b"]
    node.now_ms = due_ms
    applied = node.command(Ripen())
    assert LevelGrew("t", 0, 1) in applied.events
    assert Ripened() in applied.events
    assert stored(node)[1] == (1, 1, "a", f"{index}.0")
    (message,) = node.read(node.pull())
    # It entered its level now: times never fall along a partition.
    assert (message.id, message.timestamp_ms) == (f"{index}.0", due_ms)
    assert waiting(node) == []
    assert node.machine.state.delays == Delays()


def test_what_is_due_enters_in_the_order_of_due_times_and_then_of_ids_also_after_a_restart():
    node = Node()
    node.command(delayed(part("c", delay_ms=30), part("a", delay_ms=10), part("d", delay_ms=30)))
    node.now_ms += 5
    node.command(delayed(part("e", "f", delay_ms=25), part("b", delay_ms=10)))
    node.reload()
    node.now_ms += 100
    node.command(Ripen())
    assert [message for *_, message, _ in stored(node)] == ["a", "b", "c", "d", "e", "f"]
    assert [offset for offset, *_ in stored(node)] == list(range(6))


def test_one_ripen_moves_a_bounded_number_and_says_when_the_next_is_due():
    node = Node(MachineLimits(ripen_keys_max=15, ripen_bytes_max=1000))
    node.command(*(delayed(part(f"{n}", delay_ms=n + 1)) for n in range(7)))
    node.command(delayed(part("x" * 2000, delay_ms=500), part("y", delay_ms=501)))
    start_ms = node.now_ms
    node.now_ms += 1000
    for count, next_ms in ((3, 4), (6, 7), (8, 501), (9, None)):
        changes = node.command(Ripen()).changes
        assert len(changes) <= 15 + 1
        assert len(stored(node)) == count
        assert node.machine.state.delays.next_ms == (None if next_ms is None else start_ms + next_ms)


def test_a_ripen_beside_other_operations_does_nothing():
    node = Node()
    node.command(delayed(part("a", delay_ms=1)))
    node.now_ms += 10
    events = node.command(append("b"), Ripen()).events
    assert Ripened() in events
    assert len(stored(node)) == 1
    node.command(Ripen())
    assert len(stored(node)) == 2


def test_a_repeat_of_a_delayed_append_gets_the_first_answer_before_and_after_it_is_due():
    node = Node()
    node.add_topic("t", TopicConfig(partitions=2))
    first = node.result(delayed(part("a"), key="k"))
    index = node.machine.applied_index
    both = node.result(delayed(part("b"), part("c", partition=1), key="l"))
    assert isinstance(first, Appended)
    assert both == AppendedMany(
        "t", [Place(0, 0, -1, 1, node.now_ms + 100), Place(1, 0, -1, 1, node.now_ms + 100)], 0, node.now_ms
    )
    for _ in range(2):
        assert node.result(delayed(part("a"), key="k")) == Duplicate("t", first, index)
        assert node.result(delayed(part("b"), key="l")) == Duplicate("t", both, index + 1)
        node.now_ms += 100
        node.command(Ripen())
        node.reload()
    assert [message for *_, message, _ in stored(node)] == ["a", "b"]


def test_a_deleted_topic_takes_its_delayed_messages_with_it_and_a_new_one_of_its_name_gets_none():
    node = Node()
    node.command(delayed(part("a"), part("b", delay_ms=300)))
    node.command(DeleteTopic(0, "t", 0))
    node.command(Trim())
    node.publish("new")
    assert [key[:1] for key in waiting(node)] == [keys.DUE, keys.DUE]
    node.reload()
    for left in (1, 0):
        node.now_ms += 200
        node.command(Ripen())
        assert node.machine.state.delays.count == left
    assert stored(node) == [(0, 0, "new", stored(node)[0][3])]
    assert waiting(node) == []


def test_delayed_messages_are_bounded_in_each_topic_and_in_all():
    node = Node(MachineLimits(delayed_per_topic_max=2, delayed_max=3))
    assert isinstance(node.result(delayed(part("a", "b"), key="k")), Appended)
    for operation in (delayed(part("c")), delayed(part("c", "d"), topic="u")):
        result = node.result(operation)
        assert isinstance(result, Refused)
        assert result.code == "delayed_full"
    assert isinstance(node.result(delayed(part("c"), topic="u")), Appended)
    assert isinstance(node.result(append("at once")), Appended)
    assert isinstance(node.result(delayed(part("a", "b"), key="k")), Duplicate), "a repeat adds nothing"
    node.reload()
    assert isinstance(node.result(delayed(part("c"))), Refused)
    node.now_ms += 100
    node.command(Ripen())
    assert isinstance(node.result(delayed(part("c"))), Appended)


@pytest.mark.parametrize("delay_ms", [-1, DELAY_MS_MAX + 1])
def test_a_time_that_is_no_delay_is_refused(delay_ms: int):
    node = Node()
    result: Any = node.result(delayed(part("a", delay_ms=delay_ms)))
    assert (type(result), result.code) == (Refused, "bad_request")
    assert waiting(node) == []
