"""The broker as the gateway calls it: requests in, answers or `FalconQError` out, awaited.

What lives here: judging a request against its topic, and the bridge from callbacks to futures.
Rules: whoever stops waiting cancels its own operation and nothing else. What a topic does not know is refused before
anything is proposed.
Must not know: HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol, TypeVar

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.composing import Composer
from falconq_cluster.broker.consumer_requests import (
    ConsumerInfo,
    ConsumerRequest,
    RedriveInfo,
    SeekRequest,
    consumer_info,
    consumers_page,
    seek_operation,
    set_operation,
)
from falconq_cluster.broker.leases import Settlement
from falconq_cluster.broker.message_requests import ChangeRequest, ExplainedMessage, ExplainRequest, MessageId
from falconq_cluster.broker.messages import Messages
from falconq_cluster.broker.publishing import published, published_all
from falconq_cluster.broker.pulls import Pulls
from falconq_cluster.broker.reading import known_topic, partition_statuses, peeked_batch, topic_info, topic_set
from falconq_cluster.broker.replaying import replayed_page
from falconq_cluster.broker.requests import (
    AtomicRequest,
    Batch,
    ConsumeRequest,
    Deliveries,
    PartitionStatus,
    PeekRequest,
    Published,
    PublishRequest,
    PullRequest,
    ReplayPage,
    ReplayRequest,
    Settled,
    SettleRequest,
    StreamEnd,
    StreamRequest,
    TopicInfo,
    TopicPurge,
    TopicRequest,
)
from falconq_cluster.broker.streams import Stream
from falconq_cluster.broker.waiters import Outcome, accepted
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import (
    NO_DEADLINE,
    ClientOperation,
    DeleteTopic,
    Done,
    LeaseSettled,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.keeping import Purge, Purged
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.subscriptions import (
    ConsumerOperation,
    ConsumerSet,
    DeleteConsumer,
    PauseConsumer,
    Redrive,
    Redriven,
    Start,
    StartKind,
)
from falconq_cluster.machine.views import Views

T = TypeVar("T")


class Cancellable(Protocol):
    """What was begun for somebody who may stop waiting."""

    def cancel(self) -> None: ...


class BrokerService:
    """Fulfils `gateway.seams.Service` over one broker."""

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        self._broker = broker
        self._loop = loop
        self._pulls = Pulls(broker)
        self._messages = Messages(broker, self, asyncio.Lock())
        self._is_ending = False
        self._composer = Composer(broker.limits)

    @property
    def polls_count(self) -> int:
        """Consumes that wait for messages."""
        return self._pulls.waiting_count

    def end_waits(self) -> None:
        """Answer every waiting consume now, empty: the node stops and its clients shall go elsewhere."""
        self._is_ending = True
        self._pulls.end_waits()

    async def publish(self, request: PublishRequest) -> Published:
        """Append one message; it is on the disks of a majority when this returns."""
        composer = self._composer
        operation, config = await self._composed(request.topic, lambda config: composer.append_of(request, config))
        return published(await self.outcome(operation, request.deadline_ms), config.levels)

    async def publish_atomic(self, request: AtomicRequest) -> Sequence[Published]:
        """Append all messages or none; the place of each, in their order."""
        (operation, numbers), config = await self._composed(
            request.topic, lambda config: self._composer.append_of_all(request, config)
        )
        return published_all(await self.outcome(operation, request.deadline_ms), config.levels, numbers)

    async def _composed(self, topic: str, compose: Callable[[TopicConfig], T]) -> tuple[T, TopicConfig]:
        """What is made with the topic's settings, and these. Raises: FalconQError."""
        try:
            config = self._config_to_publish(topic)
            return compose(config), config
        except FalconQError:
            if self._broker.views().topic(topic) is not None:
                raise
            # The topic may have been made through another node a moment ago.
            await self.fresh()
            config = self._config_to_publish(topic)
            return compose(config), config

    async def outcome(self, operation: ClientOperation, deadline_ms: int) -> Outcome:
        """Propose the operation and wait for what becomes of it. Raises: FalconQError (it was not taken)."""
        return await self.answer_to(lambda done: self._broker.submit(operation, deadline_ms=deadline_ms, done=done))

    async def rest(self, ms: int) -> None:
        """Let so much time pass."""
        await asyncio.sleep(ms / 1000)

    async def answer_to(self, begin: Callable[[Callable[[T], None]], Cancellable | None]) -> T:
        """What `begin` is answered with by its callback; who stops waiting for it cancels what it began."""
        future: asyncio.Future[T] = self._loop.create_future()
        begun = begin(lambda answer: None if future.done() else future.set_result(answer))
        try:
            return await future
        except asyncio.CancelledError:
            if begun is not None:
                begun.cancel()
            raise

    async def fresh(self) -> None:
        """Return once this node has applied what was committed by now, or could not learn of it in time."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._broker.freshness.when_fresh(lambda: None if future.done() else future.set_result(None))
        await future

    def _config_to_publish(self, name: str) -> TopicConfig:
        topic = self._broker.views().topic(name)
        if topic is not None:
            return topic.config
        if not self._broker.limits.auto_create:
            message = f"there is no topic {name!r}, and this cluster does not create topics by publishing"
            raise FalconQError("topic_not_found", message)
        return TopicConfig()

    async def consume(self, request: ConsumeRequest) -> Batch:
        """Take the next messages; the cursors have moved when this returns."""
        answer: Batch | FalconQError = await self.answer_to(lambda done: self._pulls.consume(request, done))
        return _given(answer)

    async def pull(self, request: PullRequest) -> Deliveries:
        """Lease the next messages, or take them, when the request says so."""
        answer: Deliveries | FalconQError = await self.answer_to(lambda done: self._pulls.lease(request, done))
        return _given(answer)

    async def open_stream(self, request: StreamRequest) -> AsyncGenerator[Deliveries | StreamEnd, None]:
        """Begin an event stream, or go on with one; its parts come as long as they are read."""
        if self._broker.views().topic(request.topic) is None:
            await self.fresh()
            known_topic(self._broker.views(), request.topic)
        stream = Stream(self._broker, self, request, is_ending=lambda: self._is_ending)
        await stream.open()
        return stream.parts()

    async def settle(self, request: SettleRequest) -> Settled:
        """End or extend leases, each by itself."""
        view = self._broker.views().topic(request.topic)
        if view is None:
            await self.fresh()
            view = known_topic(self._broker.views(), request.topic)
        settlement = Settlement(request, view.config.levels)
        if not settlement.items:
            return settlement.settled(None, self._broker.raft.applied_index)
        outcome = await self.outcome(settlement.operation(), request.deadline_ms)
        result = accepted(outcome, LeaseSettled)
        self._broker.metrics.count_settled(settlement.items, {place for place, _, _ in result.failed})
        return settlement.settled(result, outcome.index)

    async def peek(self, request: PeekRequest) -> Batch:
        """What this node has stored, without changing anything."""
        return peeked_batch(
            self._broker.views(),
            request,
            bytes_max=self._broker.limits.pull_bytes_max,
            index=self._broker.raft.applied_index,
        )

    async def replay(self, request: ReplayRequest) -> ReplayPage:
        """What a partition holds on this node, page by page."""
        return replayed_page(
            self._broker.views(),
            request,
            bytes_max=self._broker.limits.pull_bytes_max,
            index=self._broker.raft.applied_index,
        )

    async def explain_message(self, request: ExplainRequest) -> ExplainedMessage:
        """Where one message stands on this node, which makes sure of its view first when it does not have it."""
        return await self._messages.explain(request)

    async def change_message(self, request: ChangeRequest) -> ExplainedMessage:
        """Change a message that nobody was handed; what it is like in the turn in which the change is applied."""
        return await self._messages.change(request)

    async def cancel_message(self, topic: str, message: MessageId, *, deadline_ms: int) -> int:
        """Cancel a message that nobody was handed; the log index from which on nobody is given it."""
        return await self._messages.cancel(topic, message, deadline_ms=deadline_ms)

    def topics(self) -> Sequence[str]:
        """Names of all topics, sorted."""
        return self._broker.views().topics()

    async def set_topic(self, request: TopicRequest) -> TopicInfo:
        """Create the topic or change its settings, as the log orders it among all other changes."""
        operation = SetTopic(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            if_version=request.if_version,
            is_change=request.is_change,
            given=request.given,
        )
        outcome = await self.outcome(operation, request.deadline_ms)
        return topic_set(accepted(outcome, TopicSet), outcome.index)

    async def delete_topic(self, topic: str, *, if_version: int, deadline_ms: int) -> int:
        """Delete the topic with all that it holds; the log index from which on it is gone."""
        outcome = await self.outcome(DeleteTopic(NO_DEADLINE, topic, if_version), deadline_ms)
        accepted(outcome, Done)
        return outcome.index

    async def purge_topic(self, topic: str, *, deadline_ms: int) -> TopicPurge:
        """Drop all that the topic holds, for every consumer."""
        outcome = await self.outcome(Purge(NO_DEADLINE, topic), deadline_ms)
        return TopicPurge(accepted(outcome, Purged).count, outcome.index)

    async def topic(self, topic: str) -> TopicInfo:
        """The topic's settings on this node, which makes sure of its view first when it has no such topic."""
        index = self._broker.raft.applied_index
        view = self._broker.views().topic(topic)
        if view is None:
            await self.fresh()
            index = self._broker.raft.applied_index
            view = known_topic(self._broker.views(), topic)
        return topic_info(view, index)

    def topics_after(self, after: str, limit: int) -> Sequence[TopicInfo]:
        """The first topics behind this name, in the order of their names."""
        index = self._broker.raft.applied_index
        return [topic_info(view, index) for view in self._broker.views().topics_after(after, limit)]

    def partitions(self, topic: str) -> Sequence[PartitionStatus]:
        """The topic's partitions. Raises: FalconQError (topic_not_found)."""
        return partition_statuses(self._broker.views(), topic, self._broker.raft.leader)

    async def set_consumer(self, request: ConsumerRequest) -> ConsumerInfo:
        """Make the consumer, or give it these settings."""
        offsets = await _offsets(self._broker.views, request.topic, request.config.start)
        return await self._consumer_set(set_operation(request, offsets), request.deadline_ms)

    async def delete_consumer(self, topic: str, consumer: str, *, deadline_ms: int) -> int:
        """Delete the consumer with its place; the log index from which on it is gone."""
        outcome = await self.outcome(DeleteConsumer(NO_DEADLINE, topic, consumer), deadline_ms)
        accepted(outcome, Done)
        return outcome.index

    async def seek_consumer(self, request: SeekRequest) -> ConsumerInfo:
        """Let the consumer go on elsewhere, with nothing in hand."""
        offsets = await _offsets(self._broker.views, request.topic, request.to)
        return await self._consumer_set(seek_operation(request, offsets), request.deadline_ms)

    async def pause_consumer(self, topic: str, consumer: str, *, is_paused: bool, deadline_ms: int) -> ConsumerInfo:
        """Give the consumer nothing from now on, or messages again."""
        return await self._consumer_set(PauseConsumer(NO_DEADLINE, topic, consumer, is_paused), deadline_ms)

    async def _consumer_set(self, operation: ConsumerOperation, deadline_ms: int) -> ConsumerInfo:
        """What the consumer is like in the turn in which the operation is applied."""

        def begin(done: Callable[[ConsumerInfo | FalconQError], None]) -> Cancellable:
            return self._broker.submit(
                operation, deadline_ms=deadline_ms, done=lambda outcome: done(self._consumer_after(operation, outcome))
            )

        answer: ConsumerInfo | FalconQError = await self.answer_to(begin)
        return _given(answer)

    def _consumer_after(self, operation: ConsumerOperation, outcome: Outcome) -> ConsumerInfo | FalconQError:
        try:
            is_new = accepted(outcome, ConsumerSet).is_new
            return self._consumer_info(operation.topic, operation.consumer, index=outcome.index, is_new=is_new)
        except FalconQError as error:
            return error

    def _consumer_info(self, topic: str, name: str, *, index: int, is_new: bool = False) -> ConsumerInfo:
        log_time_ms = self._broker.raft.log_time_ms()
        return consumer_info(self._broker.views(), topic, name, log_time_ms=log_time_ms, index=index, is_new=is_new)

    async def consumer(self, topic: str, consumer: str) -> ConsumerInfo:
        """The consumer on this node, which makes sure of its view first when it has no such consumer."""
        if not self._broker.views().consumer_exists(topic, consumer):
            await self.fresh()
        return self._consumer_info(topic, consumer, index=self._broker.raft.applied_index)

    async def consumers_after(self, topic: str, after: str, limit: int) -> tuple[Sequence[ConsumerInfo], bool]:
        """Consumers behind this name, in the order of their names, and whether there are more."""
        if self._broker.views().topic(topic) is None:
            await self.fresh()
        views, raft = self._broker.views(), self._broker.raft
        page = consumers_page(views, topic, after, limit, log_time_ms=raft.log_time_ms(), index=raft.applied_index)
        return page, bool(page) and views.consumers.more_after(topic, page[-1].view.name)

    async def redrive(self, topic: str, *, count_max: int, deadline_ms: int) -> RedriveInfo:
        """Let dead letters of the topic go back: so many at most, all with 0."""
        outcome = await self.outcome(Redrive(NO_DEADLINE, topic, count_max), deadline_ms)
        result = accepted(outcome, Redriven)
        return RedriveInfo(
            topic=topic, dead_letter_topic=result.dead_letter_topic, count=result.count, index=outcome.index
        )

    async def confirm_read(self, deadline_ms: int) -> None:
        """Return once this node shows all that was acknowledged anywhere before the call (PROTOCOL.md P17).

        Raises: FalconQError (no_leader, index_not_reached, not_ready, overloaded): nothing may be read.
        """
        if not self._broker.is_running:
            raise FalconQError("not_ready", "this node is starting or stopping; ask another one")
        refusal: FalconQError | None = await self.answer_to(
            lambda done: self._broker.linearizable.confirm(deadline_ms, done)
        )
        if refusal is not None:
            raise refusal

    async def wait_index(self, index: int, deadline_ms: int) -> None:
        """Return once this node has applied `index`. Raises: FalconQError (index_not_reached, overloaded)."""
        is_reached: bool = await self.answer_to(lambda done: self._broker.index_waits.wait(index, deadline_ms, done))
        if not is_reached:
            here = self._broker.raft.applied_index
            message = f"this node has applied entry {here}, not {index} yet; repeat, or ask another node"
            raise FalconQError("index_not_reached", message)


def _given(answer: T | FalconQError) -> T:
    """Raises: FalconQError when it is one."""
    if isinstance(answer, FalconQError):
        raise answer
    return answer


async def _offsets(views: Callable[[], Views], topic: str, start: Start) -> tuple[int, ...]:
    """By partition, where a time is; empty when none is asked for.

    Each partition is looked up in a turn of its own, since there may be hundreds of them with many levels: what was
    published after a time stays so. If another topic has the name by then, all of it is looked up again.
    """
    if start.kind is not StartKind.TIME:
        return ()
    offsets: list[int] = []
    view = views().topic(topic)
    while (offset := views().consumers.offset_at(topic, len(offsets), start.value)) is not None:
        offsets.append(offset)
        await asyncio.sleep(0)
        before, view = view, views().topic(topic)
        if before is not None and view is not None and before.number != view.number:
            offsets.clear()
    return tuple(offsets)
