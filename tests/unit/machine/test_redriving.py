"""Redrives, and what else is due: what goes back, once; nothing is lost between a topic and its dead letters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.machine.burying import REDRIVER
from falconq_cluster.machine.commands import (
    AnyOperation,
    Command,
    DeleteTopic,
    LeasePull,
    LeaseSettled,
    Refused,
    Settle,
    SettleItem,
    SettleKind,
    encode_command,
    encode_entry,
)
from falconq_cluster.machine.events import LeftUndone
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.subscriptions import (
    ConsumerConfig,
    PauseConsumer,
    Reap,
    Redrive,
    Redriven,
    SetConsumer,
)
from tests.unit.machine.graves import LEVELS, NONCE, buried, in_hand, lease, marks, node_with, put, settle, stored
from tests.unit.machine.helpers import append


def test_a_redrive_gives_all_back_with_level_key_and_headers_and_once() -> None:
    node = buried(6)
    before = len(stored(node, "t"))
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "t.dead", 6)
    node.reload()
    back = stored(node, "t")[before:]
    assert sorted((m.message, m.level, m.key) for m in back) == [(str(n).encode(), n % 3, "k") for n in range(6)]
    for message in back:
        own = {"h": "v"} if int(message.message) % 2 else {}
        assert marks(message) == own | {"falconq-dead-consumer": "c"}
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "t.dead", 0)
    assert len(stored(node, "t")) == before + 6
    # What dies again is buried again, with the marks of its last death alone.
    lease(node)
    settle(node, SettleKind.REJECT, 6, reason="again")
    assert marks(stored(node)[-1])["falconq-dead-offset"] == "6"
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "t.dead", 1)


def test_a_redrive_goes_on_in_bounded_parts_over_restarts() -> None:
    node = buried(20, MachineLimits(move_count_max=4))
    before = len(stored(node, "t"))
    assert node.result(Redrive(0, "t", 18)) == Redriven("t", "t.dead", 18)
    counts = [len(stored(node, "t")) - before]
    while node.machine.state.topics["t.dead"].redrive_left:
        node.reload()
        applied = node.command(Reap([], ["t.dead"]))
        counts.append(len(stored(node, "t")) - before)
        left = [event for event in applied.events if isinstance(event, LeftUndone)]
        assert left == ([LeftUndone((), ("t.dead",))] if counts[-1] < 18 else [])
        assert len(applied.changes) < 20
    assert counts == [4, 8, 12, 16, 18]
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "t.dead", 2)


def test_a_redrive_of_shared_dead_letters_gives_each_topic_its_own() -> None:
    node = node_with(dead_letter_topic="lost")
    node.add_topic("u", TopicConfig(2, LEVELS, dead_letter_topic="lost"))
    put(node, b"1")
    node.publish("2", topic="u", partition=1, level=2)
    for topic, partition in (("t", 0), ("u", 1)):
        lease(node, topic=topic)
        node.result(Settle(0, topic, "c", [SettleItem(SettleKind.REJECT, partition, 0, NONCE)]))
    node.publish("no mark", topic="lost")
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "lost", 3)
    assert [(m.message, m.partition, m.level) for m in stored(node, "u")] == [(b"2", 1, 2), (b"2", 1, 2)]
    assert sorted(m.message for m in stored(node, "t")) == [b"1", b"1", b"no mark"]


def test_a_redrive_without_dead_letters_or_while_it_is_paused_moves_nothing() -> None:
    node = node_with()
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "t.dead", 0)
    node.publish("mine", topic="t.dead")
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "t.dead", 0)
    for operation, code in [(Redrive(1, "t", 0), "expired"), (Redrive(0, "missing", 0), "topic_not_found")]:
        refused = node.result(operation)
        assert isinstance(refused, Refused)
        assert refused.code == code
    node = buried(3)
    node.result(PauseConsumer(0, "t.dead", REDRIVER, is_paused=True))
    node.result(Redrive(0, "t", 0))
    assert node.machine.state.topics["t.dead"].redrive_left == 0
    assert len(stored(node, "t")) == 3
    node.result(PauseConsumer(0, "t.dead", REDRIVER, is_paused=False))
    node.result(DeleteTopic(0, "t", 0))
    node.command(Reap([("t", "c"), ("t.dead", "c")], ["t.dead", "missing"]))


def test_who_reads_the_redrives_consumer_takes_its_messages() -> None:
    node = buried(3)
    assert lease(node, 2, consumer=REDRIVER, topic="t.dead") == [(0, 2), (0, 1)]
    assert node.result(Redrive(0, "t", 0)) == Redriven("t", "t.dead", 1)


def test_a_consumer_that_nobody_uses_is_deleted_and_the_redrives_is_not() -> None:
    node = buried(3)
    node.result(SetConsumer(0, "t", "c", ConsumerConfig(expire_after_ms=600_000)))
    node.now_ms += 599_999
    node.command(Reap([("t", "c")], []))
    assert node.views.consumer_exists("t", "c")
    node.now_ms += 1
    node.command(Reap([("t", "c"), ("t.dead", REDRIVER)], []))
    assert not node.views.consumer_exists("t", "c")
    node.now_ms += 10**12
    node.command(Reap([("t.dead", REDRIVER)], []))
    node.reload()
    assert node.views.consumer_exists("t.dead", REDRIVER)


def test_a_consumer_with_a_lease_is_not_deleted() -> None:
    node = node_with(lease_ms=700_000)
    put(node, b"1")
    node.result(SetConsumer(0, "t", "c", ConsumerConfig(expire_after_ms=600_000)))
    node.result(LeasePull(0, "t", "c", 1, 1 << 20, 0, 0, NONCE, 0))
    node.now_ms += 699_999
    node.command(Reap([("t", "c")], []))
    assert node.views.consumer_exists("t", "c")
    node.now_ms += 1
    node.command(Reap([("t", "c")], []))
    assert not node.views.consumer_exists("t", "c")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 2)),
        st.tuples(st.just("pull"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["reject", "nack", "ack"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["reap", "redrive", "wait", "reload"]), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_no_message_is_lost_or_doubled_between_a_topic_and_its_dead_letters(steps: list[tuple[str, int]]) -> None:
    node, other = (
        node_with(limits=MachineLimits(move_count_max=2, lease_count_max=6), deliveries_max=2) for _ in range(2)
    )
    published = acked = 0
    for step, n in steps:
        holdings = (
            node.machine.state.topics["t"].consumers["c"].holdings if node.views.consumer_exists("t", "c") else ()
        )
        offsets = sorted(held.offset for held in holdings)[: n + 1]
        operation: AnyOperation = Reap([("t", "c")], ["t.dead"])
        match step:
            case "publish":
                operation = append(str(published), level=n)
                published += 1
            case "pull":
                operation = LeasePull(0, "t", "c", n, 1 << 20, 1000, 0, NONCE, 0)
            case "reject" | "nack" | "ack":
                kind = {"reject": SettleKind.REJECT, "nack": SettleKind.NACK, "ack": SettleKind.ACK}[step]
                operation = Settle(0, "t", "c", [SettleItem(kind, 0, offset, NONCE) for offset in offsets])
            case "redrive":
                operation = Redrive(0, "t", n)
            case "wait":
                node.now_ms += 1000
            case _:
                other.reload()
        command = encode_entry(encode_command(Command("", 0, 0, [operation])), node.now_ms)
        applied = node.apply(command)
        assert other.apply(command).results == applied.results
        assert other.everything() == node.everything()
        if step == "ack" and isinstance(applied.results[0], LeaseSettled):
            acked += applied.results[0].ok_count
        # Each message is once in what waits for the consumer, in its hand, or waits for a redrive; or it was acked.
        waiting = sum(node.views.pending("t", "c"))
        dead = sum(node.views.pending("t.dead", REDRIVER))
        assert waiting + in_hand(node) + dead + acked == published
