"""Changes and cancels of messages in their levels: what becomes of the one, and of the batch that it was in."""

from __future__ import annotations

import pytest

from falconq_cluster.machine import keys
from falconq_cluster.machine.amends import CancelMessage, ChangeMessage, MessageChanged
from falconq_cluster.machine.appends import AppendMany, Part, Ripen
from falconq_cluster.machine.commands import (
    DeleteTopic,
    Leased,
    LeasePull,
    Pulled,
    Refused,
    Settle,
    SettleItem,
    SettleKind,
    SetTopic,
    Trim,
)
from falconq_cluster.machine.events import Expired
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import AGED, Retention, Retry, Scheduler, TopicConfig, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, Ordering, Seek, SetConsumer, Start
from falconq_cluster.machine.surveying import is_due, trim_now
from tests.unit.machine.amends import cancel, cancelling, change, changing, locate
from tests.unit.machine.helpers import Node, append, pull

NONCE = b"n" * 16


def published(node: Node, *messages: str, level: int = 0, partition: int = 0) -> list[str]:
    """The ids of messages of one record batch."""
    appended = node.publish(*messages, level=level, partition=partition)
    return [f"{node.machine.applied_index}.{appended.first_id + place}" for place in range(len(messages))]


def shown(node: Node) -> list[tuple[int, int, str, str]]:
    """(offset, level, message, id) of all that is kept."""
    found = node.views.peek("t", partition=0, offset=0, count=1000)
    return [(m.offset, m.level, m.message.decode(), m.id) for m in found]


def lease(node: Node, count: int = 10, consumer: str = "c", nonce: bytes = NONCE) -> list[str]:
    result = node.result(LeasePull(0, "t", consumer, count, 1 << 20, 1000, 0, nonce, 0))
    assert isinstance(result, Leased)
    messages = [m for found in result.ranges for m in node.views.read_ranges("t", [found.messages])]
    return [message.message.decode() for message in messages]


def settle(node: Node, kind: SettleKind, offset: int, consumer: str = "c") -> None:
    node.result(Settle(0, "t", consumer, [SettleItem(kind, 0, offset, NONCE)]))


@pytest.mark.parametrize("place", range(4))
def test_a_cancelled_message_is_given_to_nobody_and_those_around_it_keep_their_places(place: int):
    node = Node()
    ids = published(node, *"abcd")
    assert cancel(node, ids[place]) == "done"
    left = [(offset, 0, name, ids[offset]) for offset, name in enumerate("abcd") if offset != place]
    assert shown(node) == left
    assert node.consume() == [name for _, _, name, _ in left]
    assert node.publish("e").base_offset == 4
    assert node.consume() == ["e"]
    assert cancel(node, ids[place]) == "message_not_found"


def test_nothing_of_a_cancelled_message_stays_in_the_store():
    node = Node()
    ids = published(node, "one", "secret", "three")
    cancel(node, ids[1])
    assert b"secret" not in b"".join(value for _, value in node.everything())


def test_a_message_that_gets_another_level_is_given_once_behind_what_is_there_with_its_id():
    node = Node()
    ids = published(node, *"abc")
    published(node, "x", level=1)
    assert change(node, ids[1], level=1) == MessageChanged("t", 0, 1, 4, 0)
    assert change(node, ids[1], level=1) == MessageChanged("t", 0, 1, 4, 0)
    assert node.consume() == ["x", "b", "a", "c"]
    node.consume(consumer="other")
    assert change(node, ids[1], level=1) == MessageChanged("t", 0, 1, 4, 0)
    assert change(node, ids[1], level=0) == "already_delivered"


def test_a_message_can_be_changed_again_and_again_and_then_be_cancelled():
    node = Node()
    ids = published(node, *"abc")
    for level in (1, 0, 1, 0):
        assert change(node, ids[1], level=level) != "message_not_found"
        node.reload()
    assert [message for *_, message, _ in shown(node)] == ["a", "c", "b"]
    assert cancel(node, ids[1]) == "done"
    assert cancel(node, ids[1]) == "message_not_found"
    assert node.consume() == ["a", "c"]


def test_a_message_is_changed_several_times_by_one_command():
    node = Node()
    ids = published(node, *"abc")
    change(node, ids[1], level=1)
    operations = [changing(node, ids[1], level=level) for level in (0, 1, 0)]
    results = node.command(*operations, changing(node, ids[0], level=1), changing(node, ids[0], level=0)).results
    assert [result.level for result in results if isinstance(result, MessageChanged)] == [0, 1, 0, 1, 0]
    assert node.consume() == ["c", "b", "a"]


def test_a_ready_message_can_be_made_to_wait_and_keeps_its_remaining_time_to_live():
    node = Node()
    part = Part(0, 0, 2, pack_record(b"a") + pack_record(b"b"), ttl_ms=1000)
    node.command(AppendMany(0, "t", [part], may_create=True))
    name = f"{node.machine.applied_index}.1"
    node.now_ms += 300
    assert change(node, name, delay_ms=500, level=1) == MessageChanged("t", 0, 1, -1, node.now_ms + 500)
    assert node.consume() == ["a"]
    node.now_ms += 500
    node.command(Ripen())
    node.now_ms += 699
    assert [m for *_, m, _ in shown(node)] == ["a", "b"]
    assert node.consume() == ["b"]
    node.now_ms += 1
    assert node.consume(consumer="late") == []


def test_more_messages_than_may_wait_are_not_made_to_wait():
    node = Node(MachineLimits(delayed_per_topic_max=1))
    ids = published(node, *"ab")
    assert change(node, ids[0], delay_ms=5) == MessageChanged("t", 0, 0, -1, node.now_ms + 5)
    assert change(node, ids[1], delay_ms=5) == "delayed_full"
    assert node.consume() == ["b"]


@pytest.mark.parametrize("is_lease", [True, False])
def test_what_a_consumer_was_handed_is_changed_no_more_and_the_rest_of_the_batch_is(is_lease: bool):
    node = Node()
    ids = published(node, *"abcd")
    assert (lease(node, 2) if is_lease else node.consume(2)) == ["a", "b"]
    for name in ids[:2]:
        assert cancel(node, name) == "already_delivered"
        assert change(node, name, level=1) == "already_delivered"
        assert change(node, name, delay_ms=50) == "already_delivered"
    assert cancel(node, ids[2]) == "done"
    node.reload()
    assert (lease(node) if is_lease else node.consume()) == ["d"]


def test_what_was_given_back_or_settled_is_changed_no_more():
    node = Node()
    ids = published(node, *"ab")
    lease(node)
    settle(node, SettleKind.NACK, 0)
    settle(node, SettleKind.ACK, 1)
    assert [cancel(node, name) for name in ids] == ["already_delivered"] * 2


def test_what_a_consumer_gave_up_by_seeking_back_is_not_handed_to_it():
    node = Node()
    ids = published(node, *"ab")
    node.consume()
    node.result(Seek(0, "t", "c", Start()))
    assert cancel(node, ids[0]) == "done"
    assert node.consume() == ["b"]


def test_what_the_same_command_handed_out_and_gave_up_can_still_be_read():
    node = Node()
    ids = published(node, *"ab")
    pulled, _, refused, _ = node.command(
        pull(consumer="c"), Seek(0, "t", "c", Start()), cancelling(node, ids[0]), append("c")
    ).results
    assert isinstance(refused, Refused)
    assert refused.code == "overloaded"
    assert isinstance(pulled, Pulled)
    assert [m.message for m in node.views.read_ranges("t", pulled.ranges)] == [b"a", b"b"]


def test_what_is_in_hand_is_read_settled_and_given_again_after_its_batch_was_split():
    node = Node()
    node.add_topic("t", TopicConfig(retry=Retry(0, 0), deliveries_max=2))
    ids = published(node, *"abcdef")
    assert lease(node, 3) == ["a", "b", "c"]
    for name in (ids[3], ids[5]):
        assert cancel(node, name) == "done"
    settle(node, SettleKind.NACK, 1)
    settle(node, SettleKind.RELEASE, 2)
    settle(node, SettleKind.REJECT, 0)
    node.now_ms += 1
    assert lease(node) == ["b", "c", "e"]
    settle(node, SettleKind.NACK, 1)
    dead = node.views.peek("t.dead", partition=0, offset=0, count=10)
    assert [(m.message, (m.headers or b"").count(ids[place].encode())) for place, m in enumerate(dead)] == [
        (b"a", 1),
        (b"b", 1),
    ]


def test_an_attempt_is_repeated_as_it_was_after_its_batch_was_split_and_trimmed_in_part():
    node = Node()
    ids = published(node, *"abcdef")
    assert node.consume(3, attempt="x") == ["a", "b", "c"]
    node.result(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(retention=Retention(messages=5))))
    node.command(trim_now(node.machine, ["t"], node.now_ms))
    assert cancel(node, ids[4]) == "done"
    node.command(trim_now(node.machine, ["t"], node.now_ms))
    assert node.consume(3, attempt="x") == ["a", "b", "c"]
    assert node.consume() == ["d", "f"]


@pytest.mark.parametrize("ordering", [Ordering.KEY, Ordering.PARTITION])
def test_what_was_set_aside_and_never_handed_out_is_dropped_from_the_hand(ordering: Ordering):
    node = Node()
    node.publish("first")
    node.result(SetConsumer(0, "t", "c", ConsumerConfig(ordering=ordering)))
    records = b"".join(pack_record(name.encode(), "k") for name in "abcd")
    node.command(AppendMany(0, "t", [Part(0, 0, 4, records)], may_create=True))
    index = node.machine.applied_index
    assert "a" not in lease(node, 1)
    given = lease(node)
    held = len(node.machine.state.topics["t"].consumers["c"].holdings)
    assert held > 1 + len(given)
    assert cancel(node, f"{index}.2") == "done"
    assert change(node, f"{index}.3", level=1) == MessageChanged("t", 0, 1, 5, 0)
    node.reload()
    rest: list[str] = []
    for offset in (0, 1, 2, 5, 1, 2):
        settle(node, SettleKind.ACK, offset)
        rest += lease(node)
    assert sorted([*given, *rest]) in (["a", "b", "d"], ["a", "b", "d", "first"])


def test_no_more_is_dropped_from_hands_than_one_command_may_write():
    node = Node(MachineLimits(aside_max=2))
    node.publish("first")
    for name in "abc":
        node.result(SetConsumer(0, "t", name, ConsumerConfig(ordering=Ordering.KEY)))
    records = b"".join(pack_record(name.encode(), "k") for name in "xy")
    node.command(AppendMany(0, "t", [Part(0, 0, 2, records)], may_create=True))
    index = node.machine.applied_index
    for name in "abc":
        lease(node, consumer=name)
    assert cancel(node, f"{index}.1") == "overloaded"
    node.result(Seek(0, "t", "a", Start()))
    assert cancel(node, f"{index}.1") == "done"


@pytest.mark.parametrize("kind", ["trimmed", "expired", "cancelled", "never"])
def test_what_is_not_to_be_given_any_more_is_not_found_and_the_refusal_says_why(kind: str):
    node = Node()
    part = Part(0, 0, 1, pack_record(b"a"), ttl_ms=100)
    node.command(AppendMany(0, "t", [part], may_create=True))
    index = node.machine.applied_index
    operation = CancelMessage(0, "t", index, 0 if kind != "never" else 7, 0, 0)
    why = {"trimmed": "not kept", "expired": "time to live", "cancelled": "was cancelled", "never": "never had"}[kind]
    if kind == "trimmed":
        node.result(Purge(0, "t"))
    elif kind == "cancelled":
        node.result(operation)
    node.now_ms += 100 if kind == "expired" else 0
    for result in node.command(operation, ChangeMessage(0, "t", index, operation.number, 0, 0, 1)).results:
        assert isinstance(result, Refused)
        assert result.code == "message_not_found"
        assert why in result.detail


@pytest.mark.parametrize(("partition", "offset"), [(0, 1), (1, 0), (7, 0), (-1, 5), (0, 99)])
def test_a_place_that_is_not_the_messages_own_is_not_taken_for_it(partition: int, offset: int):
    node = Node()
    published(node, *"ab")
    result = node.result(CancelMessage(0, "t", node.machine.applied_index, 0, partition, offset))
    assert isinstance(result, Refused)
    assert result.code == "message_not_found"
    assert node.consume() == ["a", "b"]


def test_parts_of_a_batch_that_was_trimmed_in_part_add_up_to_nothing_once_all_is_trimmed():
    # 28 bytes of six records: the shares of the parts are rounded, and their sum is not.
    for trimmed_count in range(6):
        for place in range(trimmed_count, 6):
            node = Node()
            records = b"".join(pack_record(b"x" * (3 if number == 0 else 1)) for number in range(6))
            node.command(AppendMany(0, "t", [Part(0, 0, 6, records)], may_create=True))
            index = node.machine.applied_index
            keep(node, Retention(messages=6 - trimmed_count) if trimmed_count < 6 else Retention())
            assert cancel(node, f"{index}.{place}") == "done"
            node.reload()
            node.now_ms += 5000
            keep(node, Retention(ms=1000))
            topic = node.machine.state.topics["t"]
            assert (topic.retained_count, topic.retained_bytes) == (0, 0)
            assert not list(node.store.scan_keys(keys.BATCH, keys.prefix_end(keys.BATCH)))


def keep(node: Node, retention: Retention) -> None:
    node.result(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(retention=retention)))
    while is_due(node.machine, "t", node.now_ms):
        node.command(trim_now(node.machine, ["t"], node.now_ms))


def test_many_messages_of_old_batches_are_changed_by_one_command_and_a_pull_in_it_sees_that():
    node = Node()
    ids = [published(node, f"{number}a", f"{number}b", f"{number}c") for number in range(80)]
    operations = [cancelling(node, ids[number][place]) for number in (0, 1, 79) for place in (1, 0)]
    moved = changing(node, ids[0][2], level=1)
    again = ChangeMessage(0, "t", moved.log_index, moved.number, 0, moved.offset, 0)
    node.command(append("x"), *operations, moved, pull(4, consumer="c"), again, pull(3, consumer="d"))
    assert [result for result in node.machine.state.topics["t"].partitions[0].levels if result.parts] == []
    assert node.consume(3) == ["2c", "3a", "3b"]
    assert node.consume(1, consumer="d") == ["2b"]
    node.reload()
    assert node.consume(1, consumer="d") == ["2c"]
    assert node.consume(6, consumer="e")[:3] == ["0c", "1c", "2a"]


def test_messages_are_found_among_ripened_and_changed_ones_wherever_they_are():
    node = Node()
    node.add_topic("t", TopicConfig(2, ("low", "mid", "high")))
    names: dict[str, str] = {}
    for number in range(60):
        level, partition = number % 3, number % 2
        if number % 4 == 0:
            records = pack_record(f"d{number}".encode()) + pack_record(f"e{number}".encode())
            node.command(AppendMany(0, "t", [Part(partition, level, 2, records, number + 1)], may_create=True))
            names |= {f"{node.machine.applied_index}.{n}": f"{'de'[n]}{number}" for n in range(2)}
        texts = [f"{number}.{place}" for place in range(number % 5 + 1)]
        names |= dict(zip(published(node, *texts, level=level, partition=partition), texts, strict=True))
        node.now_ms += 3
        node.command(Ripen())
        if number % 7 == 6:
            picked = list(names)[number // 2]
            assert not isinstance(change(node, picked, level=number % 2), str)
    node.now_ms += 100
    node.command(Ripen())
    for partition in range(2):
        for message in node.views.peek("t", partition=partition, offset=0, count=1000):
            place = locate(node, message.id)
            assert place is not None
            assert (place.partition, place.level, place.offset) == (partition, message.level, message.offset)
            assert names.pop(message.id) == message.message.decode()
    assert names == {}


def test_cancelled_messages_are_passed_over_without_counting_as_expired():
    node = Node()
    ids = published(node, *"abc")
    for name in ids[:2]:
        cancel(node, name)
    applied = node.command(pull(consumer="c"))
    assert not [event for event in applied.events if isinstance(event, Expired)]
    assert node.views.pending("t", "c") == [0, 0]


def test_a_level_with_a_limit_is_judged_by_what_is_left_of_it_also_after_a_restart():
    node, restarting = Node(), Node()
    config = TopicConfig(scheduler=Scheduler(AGED, max_wait_ms=(("low", 100),)))
    for each in (node, restarting):
        each.add_topic("t", config)
        each.now_ms += 1
    ids = published(node, *"ab")
    node.now_ms += 50
    published(node, "c")
    published(node, "x", "y", "z", level=1)
    assert node.consume(1) == ["x"]
    node.now_ms += 60
    for operation in (cancelling(node, ids[0]), cancelling(node, ids[1]), pull(1), pull(1), pull(2)):
        node.command(operation)
    for entry in node.entries[1:]:
        restarting.reload()
        restarting.apply(entry)
    assert restarting.machine.digest == node.machine.digest


def test_what_a_direct_append_writes_has_no_key_of_its_ids():
    node = Node()
    applied = node.command(append("a", "b"))
    assert sorted(key[:1] for key, _ in applied.changes) == sorted([keys.META, keys.TOPIC, keys.PARTITION, keys.BATCH])


def test_a_new_topic_of_an_old_name_has_none_of_its_messages():
    node = Node()
    ids = published(node, *"ab")
    change(node, ids[1], level=1)
    node.result(DeleteTopic(0, "t", 0))
    assert cancel(node, ids[0]) == "topic_not_found"
    published(node, *"cd")
    assert [cancel(node, name) for name in ids] == ["message_not_found"] * 2
    while node.machine.state.deletions:
        node.command(Trim())
    assert not [key for key, _ in node.everything() if key[:1] == keys.PLACED]
    assert node.consume() == ["c", "d"]
