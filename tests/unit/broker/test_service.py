"""The awaited face of the broker, as the gateway calls it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.partitioner import partition_of_key
from falconq_cluster.broker.requests import (
    ConsumeRequest,
    PeekRequest,
    Producer,
    TopicRequest,
)
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from tests.unit.broker.loopback import append, stored
from tests.unit.broker.service_rig import Rig


async def test_a_publish_through_a_follower_says_where_the_message_is():
    rig = Rig("n1", "n2")
    published = await rig.publish(node="n2", priority="high", headers=b'{"h":1}', partition_key="k")
    assert (published.topic, published.partition, published.offset) == ("t", 0, 0)
    assert (published.priority, published.level, published.duplicate) == ("high", 1, False)
    assert published.id == f"{published.index}.0"
    (message,) = (await rig.services["n1"].peek(PeekRequest(topic="t"))).messages
    assert (message.message, message.headers, message.partition_key) == (b'"a"', b'{"h":1}', "k")
    assert (message.id, message.timestamp_ms) == (published.id, published.timestamp_ms)


async def test_many_publishes_at_one_moment_get_different_offsets_from_one_command():
    rig = Rig("n1")
    before = len(rig.cluster.committed)
    works = [rig.services["n1"].publish(rig.request(f'"{n}"')) for n in range(100)]
    answers = await rig.run(asyncio.wait_for(asyncio.gather(*works), 5))
    assert sorted(answer.offset or 0 for answer in answers) == list(range(100))
    assert len(rig.cluster.committed) - before == 1


async def test_a_repeat_with_the_same_key_through_another_node_gets_the_first_answer():
    rig = Rig("n1", "n2")
    first = await rig.publish(node="n2", idempotency_key="k", priority="high")
    again = await rig.publish(node="n1", idempotency_key="k", priority="high")
    assert again == replace(first, duplicate=True)
    assert stored(rig.cluster["n1"]) == ['"a"']
    counts = [node.broker.metrics for node in rig.cluster.nodes.values()]
    assert [(count.published_counts[:2], count.duplicate_count) for count in counts] == [([0, 0], 1), ([0, 1], 0)]


async def test_a_key_outlives_a_change_of_leader():
    rig = Rig("n1", "n2")
    first = await rig.publish(node="n2", idempotency_key="k")
    rig.cluster.elect("n2")
    rig.cluster.settle()
    assert await rig.publish(node="n1", idempotency_key="k") == replace(first, duplicate=True)


async def test_the_same_key_with_another_message_is_refused():
    rig = Rig("n1")
    await rig.publish(idempotency_key="k")
    assert await rig.refused(rig.services["n1"].publish(rig.request('"b"', idempotency_key="k"))) == "key_reused"


async def test_an_older_sequence_is_a_repeat_without_a_place_and_a_gap_is_refused():
    rig = Rig("n1")
    for sequence in (1, 2):
        assert not (await rig.publish(producer=Producer(id="p", sequence=sequence))).duplicate
    old = await rig.publish(producer=Producer(id="p", sequence=1))
    assert (old.duplicate, old.offset, old.partition, old.id) == (True, None, None, None)
    gap = rig.services["n1"].publish(rig.request(producer=Producer(id="p", sequence=4)))
    assert await rig.refused(gap) == "sequence_gap"


@pytest.mark.parametrize(("priority", "level"), [(None, 0), ("low", 0), ("high", 1), (0, 0), (1, 1)])
async def test_a_priority_is_a_name_or_a_number_and_least_urgent_by_default(priority: str | int | None, level: int):
    rig = Rig("n1")
    assert (await rig.publish(priority=priority)).level == level


@pytest.mark.parametrize("priority", ["urgent", "", 2, -1, 10**30])
async def test_a_priority_that_the_topic_lacks_is_refused_with_those_that_it_has(priority: str | int):
    rig = Rig("n1")
    await rig.publish()
    before = len(rig.cluster.committed)
    with pytest.raises(FalconQError, match="'low', 'high'") as caught:
        await rig.publish(priority=priority)
    assert caught.value.code.code == "unknown_priority"
    assert len(rig.cluster.committed) == before


async def test_a_topic_that_was_made_elsewhere_a_moment_ago_is_known_to_a_publish():
    rig = Rig("n1", "n2", limits=BrokerLimits(auto_create=False))
    rig.cluster["n1"].submit(append('"first"'))
    rig.cluster["n1"].step()
    rig.cluster.commit()
    rig.cluster["n1"].apply()
    assert (await rig.publish(node="n2")).offset == 1


async def test_publishing_makes_no_topic_when_that_is_off():
    rig = Rig("n1", limits=BrokerLimits(auto_create=False))
    assert await rig.refused(rig.services["n1"].publish(rig.request())) == "topic_not_found"
    assert rig.services["n1"].topics() == []


async def test_a_key_picks_its_partition_and_messages_without_one_take_turns():
    rig = Rig("n1")
    rig.add_topic("t", TopicConfig(partitions=4))
    turns = [(await rig.publish()).partition for _ in range(8)]
    assert turns == [0, 1, 2, 3, 0, 1, 2, 3]
    for key in ("a", "b", "ü", ""):
        assert (await rig.publish(partition_key=key)).partition == partition_of_key(key, 4)
    assert (await rig.publish(partition_key="a", partition=3)).partition == 3
    assert await rig.refused(rig.services["n1"].publish(rig.request(partition=4))) == "unknown_partition"


async def test_a_topic_is_set_shown_listed_and_deleted():
    rig = Rig("n1", "n2")
    deadline_ms = rig.cluster.clock.now_ms + 5_000
    one, two = rig.services["n1"], rig.services["n2"]
    request = TopicRequest(topic="t", is_change=False, given=TopicSettings(2, ("a", "b")), deadline_ms=deadline_ms)
    made = await rig.run(one.set_topic(request))
    assert (made.is_new, made.config.partitions, made.config.levels, made.index) == (
        True,
        2,
        ("a", "b"),
        made.version >> 20,
    )
    seen = await rig.run(two.topic("t"))
    assert (seen.version, seen.config.levels, seen.created_ms, seen.is_new) == (
        made.version,
        ("a", "b"),
        made.created_ms,
        False,
    )
    await rig.publish(topic="s")
    assert [info.topic for info in two.topics_after("", 10)] == ["s", "t"]
    assert [info.topic for info in two.topics_after("", 1)] == ["s"]
    assert [info.topic for info in two.topics_after("s", 10)] == ["t"]
    smaller = replace(request, given=TopicSettings(1))
    assert await rig.refused(one.set_topic(smaller)) == "bad_request"
    assert await rig.refused(one.set_topic(replace(request, if_version=1))) == "precondition_failed"
    assert await rig.refused(one.delete_topic("t", if_version=1, deadline_ms=deadline_ms)) == "precondition_failed"
    assert await rig.run(one.delete_topic("t", if_version=made.version, deadline_ms=deadline_ms)) > made.index
    assert await rig.refused(two.topic("t")) == "topic_not_found"
    assert await rig.refused(two.delete_topic("t", if_version=0, deadline_ms=deadline_ms)) == "topic_not_found"


async def test_a_key_that_is_too_long_is_refused():
    rig = Rig("n1")
    assert await rig.refused(rig.services["n1"].publish(rig.request(partition_key="k" * 70_000))) == "bad_request"


async def test_an_answer_over_several_partitions_has_no_single_place():
    rig = Rig("n1")
    rig.add_topic("t", TopicConfig(partitions=2))
    for n in range(4):
        await rig.publish(f'"{n}"')
    request = ConsumeRequest(topic="t", consumer="c", batch=3, deadline_ms=rig.cluster.clock.now_ms + 5_000)
    batch = await rig.run(rig.services["n1"].consume(request))
    assert (batch.partition, batch.start_offset, batch.next_offset, batch.cursor) == (None, None, None, None)
    assert batch.pending == {"low": 1, "high": 0}
    assert len(batch.messages) == 3
    peeked = await rig.services["n1"].peek(PeekRequest(topic="t", batch=10))
    assert (peeked.partition, peeked.next_offset, len(peeked.messages)) == (None, None, 4)


async def test_peek_pages_in_offset_order_and_changes_nothing():
    rig = Rig("n1")
    for n in range(5):
        await rig.publish(f'"{n}"', priority=n % 2)
    before = len(rig.cluster.committed)
    offset, seen = 0, []
    while (batch := await rig.services["n1"].peek(PeekRequest(topic="t", offset=offset, batch=2))).messages:
        seen += [message.message.decode() for message in batch.messages]
        assert batch.start_offset == offset
        assert batch.next_offset is not None
        offset = batch.next_offset
    assert seen == [f'"{n}"' for n in range(5)]
    assert len(rig.cluster.committed) == before


async def test_peek_in_delivery_order_shows_the_most_urgent_first():
    rig = Rig("n1")
    for n in range(4):
        await rig.publish(f'"{n}"', priority=n % 2)
    batch = await rig.services["n1"].peek(PeekRequest(topic="t", batch=10, order="delivery"))
    assert [message.offset for message in batch.messages] == [1, 3, 0, 2]


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("order", ["offset", "delivery"])
async def test_peek_since_a_time_shows_exactly_what_is_not_older(partitions: int, order: str):
    rig = Rig("n1")
    rig.add_topic("t", TopicConfig(partitions=partitions))
    for n in range(30):
        await rig.publish(f'"{n}"', priority=n % 2)
        rig.cluster.advance(10)
    service = rig.services["n1"]
    everything = (await service.peek(PeekRequest(topic="t", batch=100, order=order))).messages
    for at_ms in {message.timestamp_ms + shift for message in everything for shift in (-1, 0, 1)}:
        batch = await service.peek(PeekRequest(topic="t", batch=100, at_ms=at_ms, order=order))
        assert batch.messages == [message for message in everything if message.timestamp_ms >= at_ms]
        small = await service.peek(PeekRequest(topic="t", batch=3, at_ms=at_ms, order=order))
        assert small.messages == batch.messages[:3]


async def test_peek_and_partitions_of_what_is_not_there_are_refused():
    rig = Rig("n1")
    service = rig.services["n1"]
    assert await rig.refused(service.peek(PeekRequest(topic="t"))) == "topic_not_found"
    with pytest.raises(FalconQError, match="no topic"):
        service.partitions("t")
    await rig.publish()
    assert await rig.refused(service.peek(PeekRequest(topic="t", partition=1))) == "unknown_partition"
    assert (await service.peek(PeekRequest(topic="t", offset=2**62))).messages == []


async def test_topics_and_partitions_are_listed_with_their_depths():
    rig = Rig("n1", "n2")
    await rig.publish(topic="b")
    await rig.publish(topic="a", priority="high")
    service = rig.services["n2"]
    assert service.topics() == ["a", "b"]
    (partition,) = service.partitions("a")
    assert (partition.id, partition.leader, partition.first_offset, partition.next_offset) == (0, "n1", 0, 1)
    assert partition.depth == {"low": 0, "high": 1}
    assert partition.bytes > 0


async def test_waiting_for_an_index_ends_when_it_is_applied_or_the_deadline_passes():
    rig = Rig("n1", "n2")
    service, now_ms = rig.services["n2"], rig.cluster.clock.now_ms
    await service.wait_index(rig.cluster["n2"].applied_index, now_ms + 100)
    task = asyncio.ensure_future(service.wait_index(rig.cluster["n2"].applied_index + 1, now_ms + 100))
    await rig.publish()
    await task
    late = service.wait_index(rig.cluster["n2"].applied_index + 1, now_ms + 100)
    assert await rig.refused(late, advance_ms=150) == "index_not_reached"


async def test_a_cancelled_publish_and_consume_break_nothing():
    rig = Rig("n1")
    service = rig.services["n1"]
    await rig.publish('"0"')
    consume = ConsumeRequest(topic="t", consumer="c", wait_ms=1_000, deadline_ms=rig.cluster.clock.now_ms + 5_000)
    works = [service.publish(rig.request('"1"')), service.consume(consume), service.wait_index(10**9, 10_000)]
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    rig.cluster.settle()
    assert stored(rig.cluster["n1"]) == ['"0"']
    assert (await rig.publish('"2"')).offset == 1
    batch = await rig.run(service.consume(consume))
    assert [message.message for message in batch.messages] == [b'"0"']


async def test_a_node_that_stops_sends_its_long_polls_away_empty():
    rig = Rig("n1")
    await rig.publish()
    request = ConsumeRequest(
        topic="t", consumer="c", batch=1, wait_ms=20_000, deadline_ms=rig.cluster.clock.now_ms + 30_000
    )
    await rig.run(rig.services["n1"].consume(request))
    task = asyncio.ensure_future(rig.services["n1"].consume(request))
    await asyncio.sleep(0)
    rig.cluster.settle()
    assert rig.services["n1"].polls_count == 1
    rig.services["n1"].end_waits()
    assert (await task).messages == []
