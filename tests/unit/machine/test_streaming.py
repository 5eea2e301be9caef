"""Event streams: numbers of deliveries, and what a stream that goes on acks and gives back (PROTOCOL.md P20)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.machine.commands import Leased, LeasePull, Refused, Settle, SettleItem, SettleKind
from falconq_cluster.machine.events import StreamReplaced
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.subscriptions import OpenStream, Seek, StreamKind, StreamOpened
from tests.unit.machine.helpers import Node

ONE, TWO = b"1" * 16, b"2" * 16
ALONE, SHARED = StreamKind.ALONE, StreamKind.SHARED


def opened(
    node: Node, nonce: bytes = ONE, acked: int = 0, kind: StreamKind = ALONE, acked_nonce: bytes = b""
) -> StreamOpened:
    result = node.result(OpenStream(0, "t", "c", nonce, kind, acked, acked_nonce))
    assert isinstance(result, StreamOpened), result
    return result


def pulled(node: Node, nonce: bytes = ONE, count: int = 100, kind: StreamKind = ALONE) -> dict[int, int]:
    """Number -> offset."""
    result = node.result(LeasePull(0, "t", "c", count, 1 << 20, 1000, 0, nonce, 0, stream=kind))
    assert isinstance(result, Leased), result
    offsets = [found.messages.offset + place for found in result.ranges for place in range(found.messages.count)]
    return dict(enumerate(offsets, start=result.first_number))


def test_deliveries_are_numbered_on_and_a_stream_that_goes_on_acks_what_was_seen_and_gets_the_rest_again() -> None:
    node = Node()
    node.publish("0", "1", "2", "3", "4")
    opened(node)
    assert pulled(node, count=2) == {1: 0, 2: 1}
    assert pulled(node, count=2) == {3: 2, 4: 3}
    node.reload()
    assert opened(node, TWO, acked=3).is_done
    assert pulled(node, TWO) == {5: 3, 6: 4}
    opened(node, ONE, acked=6)
    node.now_ms += 100_000
    assert pulled(node, ONE) == {}
    assert node.machine.state.held_count.value == 0


def test_without_a_number_nothing_is_acked() -> None:
    node = Node()
    node.publish("0", "1")
    opened(node)
    pulled(node)
    opened(node, TWO)
    assert pulled(node, TWO) == {3: 0, 4: 1}


def test_the_stream_before_is_over_once_another_took_its_place() -> None:
    node = Node()
    node.publish("0")
    opened(node)
    applied = node.command(OpenStream(0, "t", "c", TWO, ALONE))
    assert StreamReplaced("t", "c", TWO) in applied.events
    result = node.result(LeasePull(0, "t", "c", 1, 1 << 20, 1000, 0, ONE, 0, stream=ALONE))
    assert isinstance(result, Refused)
    assert result.code == "lease_lost"
    assert pulled(node, TWO) == {1: 0}


def test_what_was_given_back_or_given_to_a_worker_meanwhile_is_not_acked() -> None:
    node = Node()
    node.publish("0", "1", "2")
    opened(node)
    pulled(node)
    node.result(Settle(0, "t", "c", [SettleItem(SettleKind.NACK, 0, 0, ONE)]))
    node.now_ms += 1000
    taken = node.result(LeasePull(0, "t", "c", 1, 1 << 20, 9_000, 0, TWO, 0))
    assert isinstance(taken, Leased)
    opened(node, TWO, acked=3)
    held = {held.offset: held.row.nonce for held in node.machine.state.topics["t"].consumers["c"].holdings}
    # The nacked one went to the worker; the others were seen, and their leases ended unnoticed.
    assert held == {0: TWO}


def test_streams_that_share_a_consumer_settle_only_what_they_had_themselves() -> None:
    node = Node()
    node.publish("0", "1", "2", "3")
    for nonce in (ONE, TWO):
        opened(node, nonce, kind=SHARED)
    assert pulled(node, ONE, 2, SHARED) == {1: 0, 2: 1}
    assert pulled(node, TWO, 2, SHARED) == {3: 2, 4: 3}
    three = b"3" * 16
    opened(node, three, acked=4, kind=SHARED, acked_nonce=TWO)
    assert pulled(node, three, kind=SHARED) == {}
    opened(node, three, acked=1, kind=SHARED, acked_nonce=ONE)
    assert pulled(node, three, kind=SHARED) == {5: 1}


def test_more_than_one_operation_may_write_is_settled_by_sending_it_again() -> None:
    node = Node(MachineLimits(lease_count_max=3))
    node.publish(*"01234567")
    opened(node)
    for _ in range(3):
        pulled(node, count=3)
    applied = node.command(OpenStream(0, "t", "c", TWO, ALONE, 4))
    assert applied.results == [StreamOpened("t", "c", is_done=False)]
    assert not opened(node, TWO, acked=4).is_done
    assert opened(node, TWO, acked=4).is_done
    assert list(pulled(node, TWO).values()) == [4, 5, 6]


def test_a_number_that_no_delivery_had_is_refused() -> None:
    node = Node()
    node.publish("0")
    opened(node)
    pulled(node)
    result = node.result(OpenStream(0, "t", "c", TWO, ALONE, 2))
    assert isinstance(result, Refused)
    assert "had 1 deliveries" in result.detail


def test_a_stream_of_a_consumer_that_is_moved_goes_on_with_higher_numbers() -> None:
    node = Node()
    node.publish("0", "1")
    opened(node)
    assert pulled(node) == {1: 0, 2: 1}
    node.result(Seek(0, "t", "c", node.machine.state.topics["t"].consumers["c"].config.start))
    assert pulled(node) == {3: 0, 4: 1}


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 5), st.sampled_from([0, 500, 1000])), min_size=1, max_size=12
    ),
    is_reloaded=st.booleans(),
)
def test_whatever_breaks_a_client_that_goes_on_from_what_it_saw_sees_each_message_once_and_loses_none(
    steps: list[tuple[int, int, int]], *, is_reloaded: bool
) -> None:
    node = Node()
    node.publish(*(str(n) for n in range(12)))
    seen: list[int] = []
    last = 0

    def connect(number: int) -> bytes:
        nonce = number.to_bytes(16)
        opened(node, nonce, acked=last)
        return nonce

    for turn, (count, seen_count, pause_ms) in enumerate(steps):
        if is_reloaded:
            node.reload()
        # The connection broke before all of it was seen; while it is broken, leases may end.
        found = list(pulled(node, connect(turn), count).items())[:seen_count]
        for number, offset in found:
            seen.append(offset)
            last = number
        node.now_ms += pause_ms
    seen += pulled(node, connect(99)).values()
    assert sorted(seen) == list(range(12))


def test_a_stream_that_opens_too_late_or_wrongly_changes_nothing() -> None:
    node = Node()
    node.publish("0")
    for wrong, code in [
        (OpenStream(node.now_ms - 1, "t", "c", ONE, ALONE), "expired"),
        (OpenStream(0, "nowhere", "c", ONE, ALONE), "topic_not_found"),
        (OpenStream(0, "t", "c", b"short", ALONE), "bad_request"),
        (OpenStream(0, "t", "c", ONE, StreamKind.NONE), "bad_request"),
        (OpenStream(0, "t", ".c", ONE, ALONE), "bad_request"),
    ]:
        result = node.result(wrong)
        assert isinstance(result, Refused)
        assert result.code == code
    assert not node.views.consumer_exists("t", "c")
