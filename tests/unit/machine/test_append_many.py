"""Appends of several record batches: all or none, what they expect, and how they are remembered."""

from __future__ import annotations

from typing import Any

import pytest

from falconq_cluster.machine.appends import AppendedMany, AppendMany, Part, Place
from falconq_cluster.machine.commands import Appended, Duplicate, Refused
from falconq_cluster.machine.deduping import DIGEST_BYTES, KEYS_PER_APPEND_MAX
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import TopicConfig
from tests.unit.machine.helpers import Node, append

DIGEST = bytes(DIGEST_BYTES)


def part(*messages: str, partition: int = 0, level: int = 0) -> Part:
    return Part(partition, level, len(messages), b"".join(pack_record(message.encode()) for message in messages))


def many(*parts: Part, key: str | None = None, **kwargs: Any) -> AppendMany:
    fields: dict[str, Any] = {"not_after_ms": 0, "topic": "t", "may_create": True} | kwargs
    once = None if key is None else Once(key, digest=DIGEST)
    return AppendMany(parts=list(parts), once=once, **fields)


def stored(node: Node, partition: int = 0) -> list[tuple[int, int, str, str]]:
    """(offset, level, message, id)."""
    found = node.views.peek("t", partition=partition, offset=0, count=1000)
    return [(m.offset, m.level, m.message.decode(), m.id) for m in found]


def test_all_parts_are_stored_each_behind_what_its_partition_holds():
    node = Node()
    node.add_topic("t", TopicConfig(partitions=2))
    node.publish("before", partition=1)
    result = node.result(many(part("a", "b", partition=1), part("c"), part("d", partition=1, level=1)))
    places = [Place(1, 0, 1, 2), Place(0, 0, 0, 1), Place(1, 1, 3, 1)]
    assert result == AppendedMany("t", places, 0, node.now_ms)
    index = node.machine.applied_index
    assert stored(node, 1)[1:] == [(1, 0, "a", f"{index}.0"), (2, 0, "b", f"{index}.1"), (3, 1, "d", f"{index}.3")]
    assert stored(node, 0) == [(0, 0, "c", f"{index}.2")]
    node.reload()
    assert node.pull().ranges


def test_one_part_is_as_an_append_of_it():
    node, other = Node(), Node()
    assert node.result(many(part("a", "b"), key="k")) == other.result(append("a", "b", once=Once("k", digest=DIGEST)))
    assert node.everything() == other.everything()


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (many(part("a"), part("b", partition=1)), "unknown_partition"),
        (many(part("a"), part("b", level=2)), "unknown_priority"),
        (many(part("a"), Part(0, 0, 2, b"0123456789")), "bad_request"),
        (many(part("a"), part()), "bad_request"),
        (many(), "bad_request"),
        (many(*[part("a")] * 401), "bad_request"),
        (many(part("a"), topic="/"), "bad_request"),
        (many(part("a"), may_create=False, topic="x"), "topic_not_found"),
        (many(part("a"), not_after_ms=1), "expired"),
        (many(part("a"), expected=((0, 0),)), "precondition_failed"),
        (many(part("a"), expected=((0, -1), (0, 0))), "precondition_failed"),
        (many(part("a"), expected=((1, -1),)), "unknown_partition"),
        (many(part("a"), key=""), "bad_request"),
    ],
)
def test_what_cant_be_done_wholly_changes_nothing(operation: AppendMany, code: str):
    node = Node()
    before = node.everything()
    result = node.result(operation)
    assert isinstance(result, Refused)
    assert (result.code, bool(result.detail)) == (code, True)
    assert [pair for pair in node.everything() if pair[0] != b"\x01"] == before
    assert node.machine.state.topics == {}


def test_a_key_without_a_digest_is_refused():
    node = Node()
    result = node.result(AppendMany(0, "t", [part("a")], may_create=True, once=Once("k")))
    assert isinstance(result, Refused)
    assert result.code == "bad_request"


def test_a_repeat_gets_the_first_places_also_after_a_restart():
    node = Node()
    node.add_topic("t", TopicConfig(partitions=2))
    first = node.result(many(part("a"), part("b", partition=1), key="k", expected=((0, -1),)))
    index = node.machine.applied_index
    assert isinstance(first, AppendedMany)
    for _ in range(2):
        # Other tries may have other parts, and what they expect was true for the first one.
        again = many(part("a", partition=1), part("b", partition=1), key="k", expected=((0, -1),))
        assert node.result(again) == Duplicate("t", first, index)
        node.reload()
    assert len(stored(node)) == 1


def test_what_is_expected_is_the_state_before_the_operation():
    node = Node()
    assert isinstance(node.result(many(part("a"), part("b"), expected=((0, -1),))), AppendedMany)
    assert isinstance(node.result(many(part("c"), expected=((0, 1),))), Appended)
    refused = node.result(many(part("d"), expected=((0, 1),)))
    assert isinstance(refused, Refused)
    assert "is 2, not 1" in refused.detail


def test_a_batch_of_many_places_counts_as_more_keys_and_gives_them_back():
    limits = MachineLimits(dedupe_per_topic_max=10)
    node = Node(limits)
    node.add_topic("t", TopicConfig(partitions=200, dedupe_window_ms=1000))
    parts = [part("a", partition=number) for number in range(200)]
    changes = node.command(many(*parts, key="k")).changes
    assert len(changes) <= 2 * 200 + 1 + KEYS_PER_APPEND_MAX + 1
    count = node.views.dedupe_count
    assert 4 <= count <= 10
    node.reload()
    assert node.views.dedupe_count == count
    results = [node.result(append("m", once=Once(f"{n}"))) for n in range(11 - count)]
    assert isinstance(results[-1], Refused)
    assert results[-1].code == "dedupe_full"
    node.now_ms += 1000
    assert isinstance(node.result(append("m", once=Once("x"))), Appended)
    assert node.views.dedupe_count < count
