"""Changes of messages that wait for their time: what becomes of the one, and of those that wait with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from falconq_cluster.machine.amends import CancelMessage, ChangeMessage, MessageChanged
from falconq_cluster.machine.appends import AppendMany, Part, Ripen
from falconq_cluster.machine.commands import Done, Refused
from falconq_cluster.machine.delaying import DELAY_MS_MAX
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.state import Delays
from tests.unit.machine.amends import cancel, change, explain, locate
from tests.unit.machine.helpers import Node


def delayed(*messages: str, delay_ms: int = 100, level: int = 0, ttl_ms: int = 0) -> AppendMany:
    records = b"".join(pack_record(message.encode()) for message in messages)
    part = Part(0, level, len(messages), records, delay_ms, ttl_ms)
    return AppendMany(0, "t", [part], may_create=True)


def waits(node: Node, *messages: str, delay_ms: int = 100, level: int = 0) -> list[str]:
    """The ids of messages that wait together."""
    node.command(delayed(*messages, delay_ms=delay_ms, level=level))
    return [f"{node.machine.applied_index}.{number}" for number in range(len(messages))]


def ripen(node: Node, ms: int) -> list[tuple[str, int, str]]:
    """(message, level, id) of all that is in its level so much later."""
    node.now_ms += ms
    node.command(Ripen())
    return [(m.message.decode(), m.level, m.id) for m in node.views.peek("t", partition=0, offset=0, count=100)]


def assert_reloads_equal(node: Node) -> None:
    kept, known = node.machine.state, Machine.load(node.store).state
    assert kept.topics["t"].delayed_count == known.topics["t"].delayed_count
    assert kept.delays.count == known.delays.count


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_cancelled_message_that_waits_never_comes_and_those_that_wait_with_it_do(place: int):
    node = Node()
    ids = waits(node, "a", "b", "c")
    assert cancel(node, ids[place]) == "done"
    assert_reloads_equal(node)
    assert locate(node, ids[place]) is None
    assert cancel(node, ids[place]) == "message_not_found"
    left = [entry for entry in zip("abc", [0] * 3, ids, strict=True) if entry[2] != ids[place]]
    assert ripen(node, 100) == left
    assert node.machine.state.delays == Delays()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_message_that_waits_gets_another_level_and_keeps_its_time_and_its_id(place: int):
    node = Node()
    ids = waits(node, "a", "b", "c")
    due_ms = node.now_ms + 100
    assert change(node, ids[place], level=1) == MessageChanged("t", 0, 1, -1, due_ms)
    assert change(node, ids[place], level=1) == MessageChanged("t", 0, 1, -1, due_ms)
    assert_reloads_equal(node)
    expected = [(name, int(number == place), ids[number]) for number, name in enumerate("abc")]
    assert ripen(node, 99) == []
    assert ripen(node, 1) == expected


def test_a_message_that_waits_gets_an_earlier_or_a_later_time():
    node = Node()
    ids = waits(node, "a", "b", "c")
    now_ms = node.now_ms
    assert change(node, ids[0], due_ms=now_ms + 300) == MessageChanged("t", 0, 0, -1, now_ms + 300)
    assert change(node, ids[2], delay_ms=50) == MessageChanged("t", 0, 0, -1, now_ms + 50)
    assert_reloads_equal(node)
    assert node.machine.state.delays.next_ms == now_ms + 50
    assert [message for message, *_ in ripen(node, 50)] == ["c"]
    assert [message for message, *_ in ripen(node, 50)] == ["c", "b"]
    assert [message for message, *_ in ripen(node, 200)] == ["c", "b", "a"]


@pytest.mark.parametrize(("due_ms", "delay_ms"), [(-1, 0), (0, -1)])
def test_a_message_whose_time_is_made_now_enters_its_level_by_the_next_ripen(due_ms: int, delay_ms: int):
    node = Node()
    (name,) = waits(node, "a")
    now_ms = node.now_ms
    assert change(node, name, due_ms=due_ms, delay_ms=delay_ms) == MessageChanged("t", 0, 0, -1, now_ms)
    assert node.machine.state.delays.next_ms == now_ms
    node.now_ms += 1
    assert change(node, name, due_ms=due_ms, delay_ms=delay_ms) == MessageChanged("t", 0, 0, -1, now_ms)
    assert ripen(node, 0) == [("a", 0, name)]


def test_several_messages_that_wait_together_are_changed_by_one_command():
    node = Node()
    node.command(delayed("a", "b", "c"))
    index = node.machine.applied_index
    applied = node.command(
        CancelMessage(0, "t", index, 1),
        ChangeMessage(0, "t", index, 2, level=1),
        ChangeMessage(0, "t", index, 0, due_ms=node.now_ms + 7),
        ChangeMessage(0, "t", index, 2, level=0),
        CancelMessage(0, "t", index, 1),
    )
    codes = [result.code if isinstance(result, Refused) else type(result) for result in applied.results]
    assert codes == [Done, MessageChanged, MessageChanged, MessageChanged, "message_not_found"]
    assert_reloads_equal(node)
    assert ripen(node, 100) == [("a", 0, f"{index}.0"), ("c", 0, f"{index}.2")]


def test_one_message_is_changed_twice_by_one_command():
    node = Node()
    (name,) = waits(node, "a")
    index = node.machine.applied_index
    now_ms = node.now_ms
    level, later = ChangeMessage(0, "t", index, 0, level=1), ChangeMessage(0, "t", index, 0, due_ms=now_ms + 7)
    assert node.command(level, later).results[1] == MessageChanged("t", 0, 1, -1, now_ms + 7)
    node.command(ChangeMessage(0, "t", index, 0, level=0), level)
    assert ripen(node, 7) == [("a", 1, name)]


def test_a_message_that_the_same_command_delayed_can_be_changed():
    node = Node()
    index = node.machine.applied_index + 1
    node.command(delayed("a", "b"), ChangeMessage(0, "t", index, 1, level=1), CancelMessage(0, "t", index, 0))
    assert_reloads_equal(node)
    assert ripen(node, 100) == [("b", 1, f"{index}.1")]


def test_time_to_live_of_a_message_that_waits_begins_when_it_enters_its_level():
    node = Node()
    node.command(delayed("a", ttl_ms=50))
    name = f"{node.machine.applied_index}.0"
    change(node, name, delay_ms=200)
    view = explain(node, name)
    assert view is not None
    assert (view.due_ms, view.expires_ms) == (node.now_ms + 200, node.now_ms + 250)
    assert ripen(node, 200) == [("a", 0, name)]
    node.now_ms += 49
    assert node.consume() == ["a"]


def test_what_a_message_that_waits_is_like_is_seen_by_its_id():
    node = Node()
    _, name = waits(node, "a", "b", level=1)
    view = explain(node, name)
    assert view is not None
    assert (view.message.message, view.message.id, view.message.level) == (b"b", name, 1)
    assert (view.message.offset, view.due_ms, view.consumers) == (-1, node.now_ms + 100, [])


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (ChangeMessage(0, "x", 1, 0), "topic_not_found"),
        (CancelMessage(0, "x", 1, 0), "topic_not_found"),
        (ChangeMessage(1, "t", 1, 0), "expired"),
        (CancelMessage(1, "t", 1, 0), "expired"),
        (ChangeMessage(0, "t", 1, 5, level=1), "message_not_found"),
        (CancelMessage(0, "t", 2, 0), "message_not_found"),
        (CancelMessage(0, "t", -1, 1 << 63), "message_not_found"),
        (ChangeMessage(0, "t", 1, 0, level=2), "unknown_priority"),
        (ChangeMessage(0, "t", 1, 0, level=-2), "unknown_priority"),
        (ChangeMessage(0, "t", 1, 0, due_ms=5, delay_ms=5), "bad_request"),
        (ChangeMessage(0, "t", 1, 0, delay_ms=DELAY_MS_MAX + 1), "bad_request"),
        (ChangeMessage(0, "t", 1, 0, due_ms=1 << 62), "bad_request"),
    ],
)
def test_what_can_not_be_done_is_refused_and_changes_nothing(
    operation: ChangeMessage | CancelMessage, code: str
) -> None:
    node = Node()
    waits(node, "a", "b")
    before = [entry for entry in node.everything() if entry[0] != b"\x01"]
    result = node.result(operation)
    assert isinstance(result, Refused)
    assert result.code == code
    assert [entry for entry in node.everything() if entry[0] != b"\x01"] == before


def test_one_command_writes_a_bounded_number_of_bytes_anew():
    node = Node(replace(MachineLimits(), amend_bytes_max=100))
    first, second = waits(node, "a" * 90, "b"), waits(node, "c" * 90, "d")
    operations = [CancelMessage(0, "t", *map(int, name.split("."))) for name in (first[1], second[1])]
    done, refused = node.command(*operations).results
    assert done == Done()
    assert isinstance(refused, Refused)
    assert refused.code == "overloaded"
    assert cancel(node, second[1]) == "done"
