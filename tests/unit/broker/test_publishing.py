"""Publishing beyond one plain message: traces, expectations, atomic batches."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.requests import (
    AtomicRequest,
    ConsumeRequest,
    PeekRequest,
    Producer,
    PublishRequest,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import TopicConfig
from tests.unit.broker.service_rig import Rig

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACE = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00"


@pytest.mark.parametrize(
    ("headers", "given_back"),
    [
        (None, {"traceparent": TRACE}),
        (b"{}", {"traceparent": TRACE}),
        (b' {"a":"b"}', {"traceparent": TRACE, "a": "b"}),
        (b'{"traceparent":"own"}', {"traceparent": "own"}),
    ],
)
async def test_a_trace_is_given_back_among_the_headers(headers: bytes | None, given_back: dict[str, str]):
    rig = Rig("n1")
    await rig.publish(headers=headers, traceparent=TRACE)
    (message,) = (await rig.services["n1"].peek(PeekRequest(topic="t"))).messages
    assert json.loads(message.headers or b"") == given_back


async def test_a_repeat_in_another_trace_is_the_same_message_and_keeps_the_first_ones():
    rig = Rig("n1")
    for kind in ({"idempotency_key": "k"}, {"producer": Producer(id="p", sequence=1)}):
        first = await rig.publish(traceparent=TRACE, **kind)
        for trace in (OTHER_TRACE, TRACE, None):
            assert await rig.publish(traceparent=trace, **kind) == replace(first, duplicate=True)
        other = rig.services["n1"].publish(rig.request('"b"', traceparent=TRACE, **kind))
        assert await rig.refused(other) == "key_reused"
    messages = (await rig.services["n1"].peek(PeekRequest(topic="t", batch=9))).messages
    assert [json.loads(message.headers or b"") for message in messages] == [{"traceparent": TRACE}] * 2


def atomic(rig: Rig, *messages: PublishRequest, key: str | None = None) -> AtomicRequest:
    return AtomicRequest(
        topic="t", messages=messages, idempotency_key=key, deadline_ms=rig.cluster.clock.now_ms + 5_000
    )


async def test_an_atomic_batch_is_one_operation_whose_messages_are_told_their_own_places():
    rig = Rig("n1", "n2")
    rig.add_topic("t", TopicConfig(partitions=2))
    before = len(rig.cluster.committed)
    places = [("high", 0), ("low", 1), ("high", 0), ("low", 0)]
    messages = [rig.request(f'"{n}"', priority=p, partition=q) for n, (p, q) in enumerate(places)]
    answers = await rig.run(rig.services["n2"].publish_atomic(atomic(rig, *messages)))
    assert len(rig.cluster.committed) - before == 1
    assert [(answer.priority, answer.partition) for answer in answers] == places
    assert [answer.offset for answer in answers] == [0, 0, 1, 2]
    for node in rig.services.values():
        stored = (await node.peek(PeekRequest(topic="t", batch=9))).messages
        assert {message.message: message.id for message in stored} == {
            f'"{n}"'.encode(): answer.id for n, answer in enumerate(answers)
        }
    assert sum(rig.cluster["n2"].broker.metrics.published_counts) == 4


async def test_a_repeated_atomic_batch_gets_the_first_places_wherever_turns_would_put_it_now():
    rig = Rig("n1", "n2")
    rig.add_topic("t", TopicConfig(partitions=3))
    messages = [rig.request(f'"{n}"') for n in range(5)]
    first = await rig.run(rig.services["n1"].publish_atomic(atomic(rig, *messages, key="k")))
    traced = [replace(message, traceparent=TRACE) for message in messages]
    again = await rig.run(rig.services["n2"].publish_atomic(atomic(rig, *traced, key="k")))
    assert again == [replace(answer, duplicate=True) for answer in first]
    other = rig.services["n1"].publish_atomic(atomic(rig, *messages[:4], rig.request('"x"'), key="k"))
    assert await rig.refused(other) == "key_reused"
    assert len(stored_in(rig, 3)) == 5


def stored_in(rig: Rig, partitions: int) -> list[bytes]:
    return [
        message.message
        for partition in range(partitions)
        for message in rig.cluster["n1"].broker.views().peek("t", partition=partition, offset=0, count=100)
    ]


@pytest.mark.parametrize("last", [{"priority": "none"}, {"partition": 7}, {"partition": 0, "expected_last_offset": 3}])
async def test_one_message_that_cant_be_appended_leaves_none_of_an_atomic_batch(last: dict[str, Any]):
    rig = Rig("n1")
    messages = [rig.request('"a"'), rig.request('"b"', **last)]
    code = await rig.refused(rig.services["n1"].publish_atomic(atomic(rig, *messages, key="k")))
    assert code in ("unknown_priority", "unknown_partition", "precondition_failed")
    assert stored_in(rig, 1) == []
    # Its key is free.
    assert not (await rig.run(rig.services["n1"].publish_atomic(atomic(rig, rig.request(), key="k"))))[0].duplicate


async def test_an_atomic_batch_becomes_record_batches_like_merged_appends_and_no_more_than_fit_a_command():
    limits = BrokerLimits(merge_count_max=2, merge_bytes_max=100)
    rig = Rig("n1", limits=limits)
    await rig.run(rig.services["n1"].publish_atomic(atomic(rig, *(rig.request(f'"{n}"') for n in range(5)))))
    large = [rig.request('"' + "x" * 60 + '"') for _ in range(2)]
    await rig.run(rig.services["n1"].publish_atomic(atomic(rig, *large)))
    (level, _) = rig.cluster["n1"].machine.state.topics["t"].partitions[0].levels
    assert [batch.record_count for batch in level.tail] == [2, 2, 1, 1, 1]
    many = [rig.request('"a"') for _ in range(2 * MachineLimits().append_parts_max + 1)]
    assert await rig.refused(rig.services["n1"].publish_atomic(atomic(rig, *many))) == "body_too_large"


async def test_a_publish_that_expects_another_last_offset_changes_nothing():
    rig = Rig("n1")
    service = rig.services["n1"]
    first = await rig.publish(partition=0, expected_last_offset=-1, idempotency_key="k")
    assert first.offset == 0
    for expected in (-1, 1):
        refused = service.publish(rig.request(partition=0, expected_last_offset=expected))
        assert await rig.refused(refused) == "precondition_failed"
    second = await rig.publish(partition=0, expected_last_offset=0, producer=Producer(id="p", sequence=1))
    assert second.offset == 1
    # A repeat gets the first answer, whatever the last offset is by now.
    again = await rig.publish(partition=0, expected_last_offset=-1, idempotency_key="k")
    assert again == replace(first, duplicate=True)
    assert await rig.publish(partition=0, idempotency_key="k") == replace(first, duplicate=True)


async def test_a_delayed_message_is_given_when_it_is_due_through_any_node_and_wakes_who_waits():
    rig = Rig("n1", "n2")
    await rig.publish('"at once"')
    published = await rig.publish('"later"', node="n2", delay_ms=500, priority="high")
    assert (published.offset, published.due_ms, published.level) == (None, (published.timestamp_ms or 0) + 500, 1)
    assert len(stored_in(rig, 1)) == 1
    cluster, service = rig.cluster, rig.services["n2"]
    deadline_ms = cluster.clock.now_ms + 5_000
    await rig.run(service.consume(ConsumeRequest(topic="t", consumer="c", deadline_ms=deadline_ms)))
    poll = ConsumeRequest(topic="t", consumer="c", wait_ms=2_000, deadline_ms=deadline_ms)
    task = asyncio.ensure_future(service.consume(poll))
    await asyncio.sleep(0)
    before = len(cluster.committed)
    cluster.advance(480)
    await asyncio.sleep(0)
    assert not task.done()
    assert len(cluster.committed) == before, "nothing is proposed before it is due"
    cluster.advance(20)
    (message,) = (await asyncio.wait_for(task, 5)).messages
    assert (message.id, message.offset, message.message) == (published.id, 1, b'"later"')
    # The Ripen and the pull.
    assert len(cluster.committed) == before + 2


async def test_another_leader_sees_to_what_is_due_and_one_timer_is_enough():
    rig = Rig("n1", "n2")
    for delay_ms in (900, 300, 600):
        await rig.publish(f'"{delay_ms}"', delay_ms=delay_ms)
    rig.cluster.advance(400)
    assert stored_in(rig, 1) == [b'"300"']
    rig.cluster.elect("n2")
    rig.cluster.settle()
    rig.cluster.advance(600)
    assert stored_in(rig, 1) == [b'"300"', b'"600"', b'"900"']


async def test_many_that_are_due_at_once_come_in_by_more_than_one_command():
    rig = Rig("n1")
    count = MachineLimits().ripen_keys_max
    for _ in range(count // 100):
        works = [rig.services["n1"].publish(rig.request(delay_ms=1_000)) for _ in range(100)]
        await rig.run(asyncio.wait_for(asyncio.gather(*works), 5))
    rig.cluster.advance(2_000)
    assert len(stored_in(rig, 1)) == 100
    offset = rig.cluster["n1"].machine.state.topics["t"].partitions[0].next_offset
    assert (offset, rig.cluster["n1"].machine.state.delays.count) == (count, 0)


async def test_an_atomic_batch_may_have_delayed_messages():
    rig = Rig("n1")
    messages = [rig.request('"a"'), rig.request('"b"', delay_ms=100), rig.request('"c"')]
    answers = await rig.run(rig.services["n1"].publish_atomic(atomic(rig, *messages)))
    assert [(answer.offset, answer.due_ms is None) for answer in answers] == [(0, True), (None, False), (1, True)]
    rig.cluster.advance(200)
    assert stored_in(rig, 1) == [b'"a"', b'"c"', b'"b"']
