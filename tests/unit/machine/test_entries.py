from __future__ import annotations

import pytest

from falconq_cluster.machine.commands import (
    Append,
    Appended,
    CommandError,
    Done,
    Form,
    Header,
    OpenOrigin,
    SetDisk,
    Tick,
    encode_entry,
)
from falconq_cluster.machine.events import MembersChanged, OriginOpened
from falconq_cluster.machine.machine import NO_OP, Machine, read_meta
from falconq_cluster.storage.memory import MemoryStore
from tests.unit.machine.helpers import START_MS, Node, append


def test_fresh_machine_has_applied_nothing():
    node = Node()
    machine = node.machine
    assert (machine.applied_index, machine.applied_term, machine.log_time_ms) == (0, 0, 0)
    assert (machine.digest, machine.cluster_id, machine.members, machine.record_index) == (bytes(16), "", {}, 0)
    assert machine.origin("n1") is None


def test_noop_advances_index_and_term_but_not_time():
    node = Node()
    node.command(Tick())
    applied = node.machine.apply(2, 7, NO_OP)
    assert (applied.stamp_ms, applied.header, applied.results, applied.is_repeat) == (0, None, [], False)
    assert (node.machine.applied_index, node.machine.applied_term) == (2, 7)
    assert node.machine.log_time_ms == START_MS


@pytest.mark.parametrize("index", [0, 1, 3])
def test_index_that_is_not_the_next_is_a_bug(index: int):
    node = Node()
    node.apply(NO_OP)
    with pytest.raises(ValueError, match="can't be applied after 1"):
        node.machine.apply(index, 1, NO_OP)


@pytest.mark.parametrize(
    "entry", [b"", b"\x00", b"\x02abc", b"\x01\x01", encode_entry(b"", 1), encode_entry(b"\x09", 1)]
)
def test_entry_that_is_not_readable_raises_and_changes_nothing(entry: bytes):
    node = Node()
    node.publish("a")
    digest = node.machine.digest
    with pytest.raises(CommandError):
        node.machine.apply(2, 1, entry)
    assert (node.machine.applied_index, node.machine.digest) == (1, digest)
    assert node.publish("b").base_offset == 1


def test_log_time_never_goes_back():
    node = Node()
    node.command(Tick())
    node.now_ms -= 1000
    applied = node.command(append("a"))
    assert applied.stamp_ms == node.machine.log_time_ms == START_MS
    (result,) = applied.results
    assert isinstance(result, Appended)
    assert result.timestamp_ms == START_MS


def test_epoch_is_the_index_of_the_opening_entry_and_its_repeat_changes_nothing():
    node = Node()
    node.apply(NO_OP)
    applied = node.command(OpenOrigin("n1", b"a"))
    assert applied.events == [OriginOpened("n1", b"a", 2)]
    again = node.command(OpenOrigin("n1", b"a"))
    assert again.events == []
    assert [key for key, _ in again.changes] == [b"\x01"]
    assert node.open_origin("n1", b"b") == 4


def sequenced(node: Node, epoch: int, sequence: int, message: str) -> bool:
    applied = node.command(append(message), origin="n1", epoch=epoch, sequence=sequence)
    assert applied.header == Header("n1", epoch, sequence)
    if applied.is_repeat:
        assert applied.results == []
        assert applied.events == []
        assert [key for key, _ in applied.changes] == [b"\x01"]
    return not applied.is_repeat


def test_each_sequence_of_an_origin_is_applied_once_and_in_order():
    node = Node()
    epoch = node.open_origin()
    assert sequenced(node, epoch, 1, "a")
    assert not sequenced(node, epoch, 1, "a")
    assert not sequenced(node, epoch, 3, "c")
    node.reload()
    assert sequenced(node, epoch, 2, "b")
    assert not sequenced(node, epoch, 1, "a")
    assert not sequenced(node, epoch, 0, "zero")
    assert node.consume() == ["a", "b"]


def test_commands_of_another_epoch_or_an_unknown_origin_change_nothing():
    node = Node()
    assert not sequenced(node, 0, 1, "unknown")
    old = node.open_origin("n1", b"a")
    assert sequenced(node, old, 1, "a")
    new = node.open_origin("n1", b"b")
    assert not sequenced(node, old, 2, "late")
    assert not sequenced(node, new + 1, 1, "future")
    assert sequenced(node, new, 1, "b")
    assert node.consume() == ["a", "b"]


def test_repeat_still_advances_log_time_and_applied_index():
    node = Node()
    epoch = node.open_origin()
    assert sequenced(node, epoch, 1, "a")
    node.now_ms += 5
    assert not sequenced(node, epoch, 1, "a")
    assert node.machine.log_time_ms == START_MS + 5
    assert node.machine.applied_index == 3


def test_cluster_is_formed_once():
    node = Node()
    assert node.command(Form("", {"n1": "x"})).events == []
    applied = node.command(Form("abc", {"n2": "d2", "n1": "d1", "n3": ""}))
    assert applied.events == [MembersChanged()]
    assert node.command(Form("other", {"n1": "x"})).events == []
    node.reload()
    assert node.machine.cluster_id == "abc"
    assert node.machine.members == {"n1": "d1", "n2": "d2", "n3": ""}
    assert node.machine.record_index == 2


def test_disk_of_a_member_is_replaced_and_unknown_members_are_ignored():
    node = Node()
    assert node.command(SetDisk("n1", "d")).events == []
    node.command(Form("abc", {"n1": "d1", "n2": "d2"}))
    assert node.command(SetDisk("n9", "d9")).events == []
    assert node.command(SetDisk("n2", "d2")).events == []
    assert node.machine.record_index == 2
    assert node.command(SetDisk("n2", "new")).events == [MembersChanged()]
    assert node.machine.members == {"n1": "d1", "n2": "new"}
    assert node.machine.record_index == 5


def test_operations_without_an_answer_are_done():
    node = Node()
    applied = node.command(Tick(), OpenOrigin("n", b"x"), Form("c", {}), SetDisk("n", "d"))
    assert applied.results == [Done()] * 4


def test_meta_row_is_the_last_change_and_tells_how_far_the_store_is():
    node = Node()
    applied = node.command(append("a"))
    assert applied.changes[-1][0] == b"\x01"
    meta = read_meta(node.store)
    assert (meta.applied_index, meta.applied_term, meta.log_time_ms) == (1, 1, START_MS)
    assert meta.digest == node.machine.digest


def test_digest_depends_on_all_that_was_written():
    digests = set()
    for message in ("a", "b"):
        for topic in ("t", "u"):
            node = Node()
            node.publish(message, topic=topic)
            digests.add(node.machine.digest)
            node.apply(NO_OP)
            digests.add(node.machine.digest)
    assert len(digests) == 8


def test_machines_that_differ_in_the_past_never_agree_again():
    one, other = Node(), Node()
    one.publish("a")
    other.publish("b")
    for _ in range(3):
        assert one.command(Tick()).changes != other.command(Tick()).changes


def test_empty_store_reads_as_index_zero():
    assert read_meta(MemoryStore()).applied_index == 0
    assert Machine.load(MemoryStore()).applied_index == 0


def test_append_of_a_command_without_origin_is_applied():
    node = Node()
    assert isinstance(node.result(Append(0, "t", 0, 0, 1, append("x").records, may_create=True)), Appended)
