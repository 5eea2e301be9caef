"""One message through any node: where it stands, its change and its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from copy import deepcopy
from typing import Any, TypeVar

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.message_requests import ChangeRequest, ExplainedMessage, ExplainRequest, MessageId
from falconq_cluster.broker.requests import ConsumeRequest, Published, TopicRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from tests.unit.broker.service_rig import Rig

T = TypeVar("T")


def id_of(published: Published) -> MessageId:
    log_index, number = str(published.id).split(".")
    return MessageId(int(log_index), int(number))


class MessageRig(Rig):
    """Asks about messages, however many steps that takes."""

    async def until_done(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        async with asyncio.timeout(5):
            while not task.done():
                await asyncio.sleep(0)
                self.cluster.settle()
        return task.result()

    async def code_of(self, work: Coroutine[Any, Any, object]) -> str:
        with pytest.raises(FalconQError) as caught:
            await self.until_done(work)
        return caught.value.code.code

    @property
    def deadline_ms(self) -> int:
        return self.cluster.clock.now_ms + 5_000

    def explaining(self, message: MessageId, node: str = "n1", **given: Any) -> Coroutine[Any, Any, ExplainedMessage]:
        request = ExplainRequest(topic="t", id=message, deadline_ms=self.deadline_ms, **given)
        return self.services[node].explain_message(request)

    def changing(self, message: MessageId, node: str = "n1", **given: Any) -> Coroutine[Any, Any, ExplainedMessage]:
        request = ChangeRequest(topic="t", id=message, deadline_ms=self.deadline_ms, **given)
        return self.services[node].change_message(request)

    def cancelling(self, message: MessageId, node: str = "n1") -> Coroutine[Any, Any, int]:
        return self.services[node].cancel_message("t", message, deadline_ms=self.deadline_ms)

    async def explain(self, message: MessageId, node: str = "n1", **given: Any) -> ExplainedMessage:
        return await self.until_done(self.explaining(message, node, **given))

    async def consume(self, count: int = 10, consumer: str = "c") -> list[str]:
        batch = await self.until_done(self.services["n1"].consume(consume(consumer, count)))
        return [message.message.decode() for message in batch.messages]


async def as_coroutine(task: asyncio.Task[T]) -> T:
    return await task


def consume(consumer: str, count: int = 10, *, deadline_ms: int = 1 << 40) -> ConsumeRequest:
    return ConsumeRequest(topic="t", consumer=consumer, batch=count, deadline_ms=deadline_ms)


async def test_a_delayed_message_is_explained_by_a_node_that_did_not_take_it():
    rig = MessageRig("n1", "n2")
    published = await rig.publish(node="n2", delay_ms=1_000, priority="high", headers=b'{"h":1}', partition_key="k")
    for node in ("n1", "n2"):
        shown = await rig.explain(id_of(published), node)
        assert (shown.id, shown.message, shown.headers, shown.partition_key) == (published.id, b'"a"', b'{"h":1}', "k")
        assert (shown.state, shown.offset, shown.timestamp_ms, shown.ahead) == ("delayed", None, None, None)
        assert (shown.priority, shown.level, shown.due_ms) == ("high", 1, published.due_ms)
        assert (shown.consumers, shown.has_more, shown.deliveries) == ([], False, 0)
        assert shown.index == rig.cluster[node].broker.raft.applied_index


async def test_a_delayed_message_is_changed_through_any_node_and_shown_at_the_index_of_the_change():
    rig = MessageRig("n1", "n2")
    published = await rig.publish(delay_ms=1_000)
    before = rig.cluster["n1"].broker.raft.applied_index
    shown = await rig.until_done(rig.changing(id_of(published), "n2", priority="high", delay_ms=60_000))
    assert (shown.state, shown.priority, shown.index) == ("delayed", "high", before + 1)
    assert shown.due_ms is not None
    assert published.due_ms is not None
    assert shown.due_ms >= published.due_ms + 59_000
    assert [node.broker.metrics.changed_count for node in rig.cluster.nodes.values()] == [0, 1]
    again = await rig.until_done(rig.changing(id_of(published), "n1", due_ms=shown.due_ms))
    assert (again.due_ms, again.priority) == (shown.due_ms, "high")


async def test_a_cancelled_message_is_gone_for_everybody_and_cancelling_it_again_says_so():
    rig = MessageRig("n1", "n2")
    published = await rig.publish(delay_ms=1_000)
    index = await rig.until_done(rig.cancelling(id_of(published), "n2"))
    assert index == rig.cluster["n1"].broker.raft.applied_index
    assert [node.broker.metrics.cancelled_count for node in rig.cluster.nodes.values()] == [0, 1]
    for node in ("n1", "n2"):
        assert await rig.code_of(rig.cancelling(id_of(published), node)) == "message_not_found"
        assert await rig.code_of(rig.explaining(id_of(published), node)) == "message_not_found"
        assert await rig.code_of(rig.changing(id_of(published), node, delay_ms=1)) == "message_not_found"


async def test_a_message_is_shown_with_each_consumer_and_with_all_of_them_together():
    rig = MessageRig("n1")
    published = [await rig.publish(f"{number}") for number in range(3)]
    ids = [id_of(each) for each in published]
    assert (await rig.explain(ids[2])).state == "ready"
    assert await rig.consume(1, "b") == ["0"]
    assert await rig.consume(2, "a") == ["0", "1"]
    shown = await rig.explain(ids[1])
    assert [(each.consumer, each.state, each.ahead) for each in shown.consumers] == [
        ("a", "acked", None),
        ("b", "ready", 0),
    ]
    assert (shown.state, shown.ahead, shown.offset, shown.due_ms) == ("ready", 0, 1, None)
    assert shown.timestamp_ms == published[1].timestamp_ms
    last = await rig.explain(ids[2])
    assert [(each.consumer, each.ahead) for each in last.consumers] == [("a", 0), ("b", 1)]
    assert (last.state, last.ahead) == ("ready", 0)
    assert (await rig.explain(ids[0])).state == "acked"
    (only,) = (await rig.explain(ids[1], consumer="a")).consumers
    assert (only.consumer, only.state) == ("a", "acked")
    assert (await rig.explain(ids[1], consumer="a")).state == "acked"
    assert await rig.code_of(rig.explaining(ids[1], consumer="nobody")) == "consumer_not_found"


async def test_consumers_are_shown_page_by_page_and_together_as_if_on_one_page():
    rig = MessageRig("n1")
    message = id_of(await rig.publish())
    for name in ("a", "b", "c"):
        await rig.consume(1, name)
    await rig.publish()
    first = await rig.explain(message, limit=2)
    assert ([each.consumer for each in first.consumers], first.has_more) == (["a", "b"], True)
    rest = await rig.explain(message, limit=2, after="b")
    assert ([each.consumer for each in rest.consumers], rest.has_more) == (["c"], False)
    assert (first.state, rest.state) == ("acked", "acked")


async def test_what_a_node_does_not_have_yet_it_makes_sure_of_first():
    rig = MessageRig("n1", "n2")
    published = await rig.publish(delay_ms=1_000)
    cluster = rig.cluster
    behind = cluster["n2"].broker.raft.applied_index
    late = asyncio.ensure_future(rig.services["n1"].publish(rig.request(delay_ms=1_000)))
    await asyncio.sleep(0)
    assert cluster.lead.step()
    cluster.commit()
    cluster["n1"].apply()
    assert cluster["n2"].broker.raft.applied_index == behind
    message = id_of(await late)
    assert (await rig.explain(message, "n2")).state == "delayed"
    assert cluster["n2"].broker.raft.applied_index > behind
    rounds = cluster["n2"].broker.metrics.fresh_round_count
    assert (await rig.explain(id_of(published), "n2")).state == "delayed"
    assert cluster["n2"].broker.metrics.fresh_round_count == rounds


async def test_what_is_not_there_is_refused_with_what_it_is():
    rig = MessageRig("n1", "n2")
    nothing = MessageId(5, 0)
    assert await rig.code_of(rig.explaining(nothing, "n2")) == "topic_not_found"
    assert await rig.code_of(rig.changing(nothing, "n2", delay_ms=1)) == "topic_not_found"
    assert await rig.code_of(rig.cancelling(nothing, "n2")) == "topic_not_found"
    published = await rig.publish(delay_ms=1_000)
    most = 2**63 - 1
    for message in (MessageId(most, 0), MessageId(id_of(published).log_index, most), MessageId(0, 0)):
        assert await rig.code_of(rig.explaining(message, "n2")) == "message_not_found"
        assert await rig.code_of(rig.cancelling(message, "n2")) == "message_not_found"
    assert await rig.code_of(rig.changing(id_of(published), priority="urgent")) == "unknown_priority"
    assert await rig.code_of(rig.changing(id_of(published), due_ms=1 << 60)) == "bad_request"


async def test_a_search_lets_others_work_and_its_answer_is_of_one_index():
    rig = MessageRig("n1")
    rig.add_topic("t", TopicConfig(40))
    published = await rig.publish(partition=39)
    task = asyncio.ensure_future(rig.explaining(id_of(published)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    assert await rig.run(rig.services["n1"].consume(consume("c"))) is not None
    assert not task.done()
    shown = await rig.until_done(as_coroutine(task))
    assert [(each.consumer, each.state) for each in shown.consumers] == [("c", "acked")]
    assert shown.index == rig.cluster["n1"].broker.raft.applied_index > published.index


async def test_a_search_goes_on_in_the_state_that_a_snapshot_brought():
    rig = MessageRig("n1")
    rig.add_topic("t", TopicConfig(40))
    message = id_of(await rig.publish(partition=39))
    task = asyncio.ensure_future(rig.explaining(message))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    node = rig.cluster["n1"]
    views = node.broker.views()
    node.machine, node.store = deepcopy(node.machine), deepcopy(node.store)
    assert not node.broker.views().is_same_as(views)
    assert (await rig.until_done(as_coroutine(task))).state == "ready"


async def test_a_search_that_has_no_time_left_is_given_up():
    rig = MessageRig("n1")
    rig.add_topic("t", TopicConfig(40))
    message = id_of(await rig.publish(partition=39))
    task = asyncio.ensure_future(rig.explaining(message))
    await asyncio.sleep(0)
    rig.cluster.advance(5_000)
    assert await rig.code_of(as_coroutine(task)) == "overloaded"
    assert (await rig.explain(message)).state == "ready"


async def test_how_many_look_for_messages_is_bounded_and_one_who_leaves_makes_room():
    rig = MessageRig("n1", limits=BrokerLimits(searches_max=2))
    rig.add_topic("t", TopicConfig(40))
    message = id_of(await rig.publish(partition=39))
    one, two = (asyncio.ensure_future(rig.explaining(message)) for _ in range(2))
    await asyncio.sleep(0)
    assert await rig.code_of(rig.explaining(message)) == "overloaded"
    one.cancel()
    await asyncio.sleep(0)
    three = asyncio.ensure_future(rig.explaining(message))
    for task in (two, three):
        assert (await rig.until_done(as_coroutine(task))).state == "ready"


async def test_a_level_that_another_node_added_is_known_to_a_change():
    rig = MessageRig("n1", "n2")
    published = await rig.publish(delay_ms=1_000)
    setting = TopicRequest(
        topic="t", is_change=True, given=TopicSettings(levels=("low", "high", "urgent")), deadline_ms=rig.deadline_ms
    )
    task = asyncio.ensure_future(rig.services["n1"].set_topic(setting))
    await asyncio.sleep(0)
    assert rig.cluster.lead.step()
    rig.cluster.commit()
    rig.cluster["n1"].apply()
    await task
    assert (await rig.until_done(rig.changing(id_of(published), "n2", priority="urgent"))).level == 2


async def test_a_message_in_its_level_is_changed_and_cancelled_until_somebody_was_handed_it():
    rig = MessageRig("n1", "n2")
    first, second, third = [id_of(await rig.publish(f"{number}")) for number in range(3)]
    raised = await rig.until_done(rig.changing(third, "n2", priority="high"))
    assert (raised.state, raised.priority, raised.offset, raised.ahead) == ("ready", "high", 3, 0)
    assert (await rig.explain(first)).ahead == 1
    later = await rig.until_done(rig.changing(second, "n1", delay_ms=500))
    assert (later.state, later.offset, later.timestamp_ms) == ("delayed", None, None)
    assert await rig.consume(1) == ["2"]
    assert await rig.code_of(rig.cancelling(third, "n2")) == "already_delivered"
    assert await rig.code_of(rig.changing(third, "n1", priority="low")) == "already_delivered"
    await rig.until_done(rig.cancelling(first, "n2"))
    assert await rig.code_of(rig.explaining(first)) == "message_not_found"
    rig.cluster.advance(600)
    assert await rig.consume() == ["1"]
    counts = [
        (node.broker.metrics.changed_count, node.broker.metrics.cancelled_count) for node in rig.cluster.nodes.values()
    ]
    assert counts == [(1, 0), (1, 1)]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_message_may_enter_its_level_while_its_change_is_on_its_way(is_cancelled: bool):
    rig = MessageRig("n1", "n2")
    message = id_of(await rig.publish(delay_ms=1_000))
    cluster = rig.cluster
    cluster.cut.add(frozenset(("n1", "n2")))
    work = rig.cancelling(message, "n2") if is_cancelled else rig.changing(message, "n2", priority="high")
    task = asyncio.ensure_future(work)
    for _ in range(3):
        await asyncio.sleep(0)
    assert cluster["n2"].broker.outbox.waiting_count == 1
    cluster.advance(1_100)
    assert not task.done()
    assert (await rig.explain(message, "n1")).state == "ready"
    cluster.cut.clear()
    cluster.reconnect("n2")
    answer = await rig.until_done(as_coroutine(task))
    if isinstance(answer, ExplainedMessage):
        assert (answer.state, answer.priority, answer.offset) == ("ready", "high", 1)
    else:
        assert await rig.code_of(rig.explaining(message)) == "message_not_found"
    assert await rig.consume() == ([] if is_cancelled else ['"a"'])


async def test_a_change_that_is_made_already_changes_nothing_more():
    rig = MessageRig("n1", "n2")
    message = id_of(await rig.publish())
    once, again = [await rig.until_done(rig.changing(message, node, priority="high")) for node in ("n1", "n2")]
    assert (once.offset, once.priority) == (again.offset, again.priority) == (1, "high")
    assert again.index > once.index


async def test_a_message_may_have_another_place_since_its_change_was_proposed():
    rig = MessageRig("n1", "n2")
    message = id_of(await rig.publish())
    cluster = rig.cluster
    cluster.cut.add(frozenset(("n1", "n2")))
    task = asyncio.ensure_future(rig.cancelling(message, "n2"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cluster["n2"].broker.outbox.waiting_count == 1
    assert (await rig.until_done(rig.changing(message, "n1", priority="high"))).offset == 1
    cluster.cut.clear()
    cluster.reconnect("n2")
    assert await rig.until_done(as_coroutine(task)) > 0
    assert await rig.consume() == []
