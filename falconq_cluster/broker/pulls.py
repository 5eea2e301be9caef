"""Consume: what is proposed, what waits, and who is woken.

What lives here: autoCommit pulls with long polling (PROTOCOL.md P13, P19).
Rules: a pull is proposed only when the own store shows something deliverable, or the consumer is new, or an attempt may
have to be repeated. What sees nothing first makes sure that its view is fresh, then waits, then answers empty. Of the
polls that wait for one consumer, as many have a pull under way as there are batches for: a thousand of them are not a
thousand entries. Delivered bytes are read in the turn of the apply.
Must not know: asyncio, HTTP.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import structlog

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.deadlines import Deadlines
from falconq_cluster.broker.pending import Pending
from falconq_cluster.broker.reading import consumed_batch, find_partition
from falconq_cluster.broker.requests import Batch, ConsumeRequest
from falconq_cluster.broker.waiters import Outcome, Waiter
from falconq_cluster.errors import CorruptionError, FalconQError
from falconq_cluster.machine.commands import NO_DEADLINE, Pull, Pulled, Refused
from falconq_cluster.machine.events import Event, LevelGrew, TopicDeleted
from falconq_cluster.machine.records import RecordError

ALL_PARTITIONS = -1
Answer = Batch | FalconQError
_Consumer = tuple[str, str]
"""(topic, consumer)."""


class Poll(Pending[Answer]):
    """One consume request on its way; cancel it when its client is gone."""

    __slots__ = ("_pulls", "is_fresh", "request", "until_ms", "waiter")

    def __init__(self, pulls: Pulls, request: ConsumeRequest, done: Callable[[Answer], None], until_ms: int) -> None:
        super().__init__(done)
        self._pulls = pulls
        self.request = request
        self.until_ms = until_ms
        """An empty answer is held back until then."""
        self.is_fresh = False
        """Whether the node's view was made sure of since the request came."""
        self.waiter: Waiter | None = None
        """The pull under way."""

    @property
    def partition(self) -> int:
        return ALL_PARTITIONS if self.request.partition is None else self.request.partition

    @property
    def consumer(self) -> _Consumer:
        return self.request.topic, self.request.consumer

    def _given_up(self) -> None:
        # A pull that has a sequence goes on without its client.
        self._pulls.cancelled(self)


class Pulls:
    """All consumes of one node."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[_Consumer, dict[int, OrderedDict[Poll, None]]] = {}
        self._by_topic: dict[str, dict[_Consumer, None]] = {}
        self._under_way: dict[_Consumer, list[Poll]] = {}
        self._deadlines: Deadlines[Poll] = Deadlines(broker.clock, self._time_is_up)
        self.waiting_count = 0
        """Polls that wait for messages."""
        broker.listen(self._applied)

    def consume(self, request: ConsumeRequest, done: Callable[[Answer], None]) -> Poll:
        """Begin; `done` is called once with the batch, which may be empty, or an error."""
        until_ms = min(self._broker.clock.monotonic_ms() + request.wait_ms, request.deadline_ms)
        poll = Poll(self, request, done, until_ms)
        if request.attempt:
            # It may name a batch that a pull still on its way elsewhere will be given: only the log's order tells.
            self._propose(poll)
        else:
            self._look(poll)
        return poll

    def end_waits(self) -> None:
        """Answer every waiting poll with what it has: nothing."""
        for partitions in list(self._waiting.values()):
            for poll in [poll for queue in partitions.values() for poll in queue]:
                self._leave(poll)
                self._answer(poll, None, self._broker.raft.applied_index)

    def cancelled(self, poll: Poll) -> None:
        """Leave the queue; a pull without a sequence is taken back, so that it moves no cursor for nobody."""
        self._leave(poll)
        if poll.waiter is not None:
            poll.waiter.cancel()
            if poll.waiter.is_over:
                self._pull_is_over(poll)

    def _look(self, poll: Poll) -> None:
        """Propose when there is something, else make sure of that, then wait."""
        if poll.done is None:
            return
        views, request = self._broker.views(), poll.request
        try:
            find_partition(views, request.topic, request.partition)
        except FalconQError as error:
            if poll.is_fresh:
                poll.finish(error)
            else:
                self._make_fresh(poll)
            return
        is_new = not views.consumer_exists(request.topic, request.consumer)
        if is_new or views.has_deliverable(request.topic, request.consumer, poll.partition):
            self._propose(poll)
        elif poll.is_fresh:
            self._wait(poll, is_first=False)
        else:
            self._make_fresh(poll)

    def _make_fresh(self, poll: Poll) -> None:
        poll.is_fresh = True
        self._broker.freshness.when_fresh(lambda: self._look(poll))

    # Waiting.

    def _wait(self, poll: Poll, *, is_first: bool) -> None:
        """Queue the poll; before the others when it was there already and got nothing."""
        if poll.until_ms <= self._broker.clock.monotonic_ms() or not self._broker.is_running:
            self._answer(poll, None, self._broker.raft.applied_index)
            return
        if self.waiting_count >= self._broker.limits.polls_max:
            message = f"{self.waiting_count} consumes wait on this node already; ask another one, or without waitMs"
            poll.finish(FalconQError("overloaded", message))
            return
        self.waiting_count += 1
        queue = self._waiting.setdefault(poll.consumer, {}).setdefault(poll.partition, OrderedDict())
        queue[poll] = None
        if is_first:
            queue.move_to_end(poll, last=False)
        self._by_topic.setdefault(poll.request.topic, {})[poll.consumer] = None
        self._deadlines.add(poll, poll.until_ms)

    def _leave(self, poll: Poll) -> None:
        """The poll waits no more; harmless when it does not wait."""
        partitions = self._waiting.get(poll.consumer, {})
        queue = partitions.get(poll.partition)
        if queue is None or poll not in queue:
            return
        self.waiting_count -= 1
        self._deadlines.remove(poll, poll.until_ms)
        del queue[poll]
        if queue:
            return
        del partitions[poll.partition]
        if not partitions:
            del self._waiting[poll.consumer]
            consumers = self._by_topic[poll.request.topic]
            del consumers[poll.consumer]
            if not consumers:
                del self._by_topic[poll.request.topic]

    def _time_is_up(self, poll: Poll) -> None:
        self._leave(poll)
        self._answer(poll, None, self._broker.raft.applied_index)

    def _answer(self, poll: Poll, pulled: Pulled | None, index: int) -> None:
        if poll.done is None:
            return
        try:
            batch = consumed_batch(self._broker.views(), poll.request, pulled, index)
        except FalconQError as error:
            poll.finish(error)
        except (CorruptionError, RecordError) as error:
            structlog.get_logger().error("delivered_messages_not_readable", topic=poll.request.topic, error=str(error))
            poll.finish(FalconQError("internal", f"the messages can't be read on this node: {error}"))
        else:
            for message in batch.messages:
                self._broker.metrics.delivered_counts[message.level] += 1
            poll.finish(batch)

    # Pulling.

    def _propose(self, poll: Poll) -> None:
        request = poll.request
        operation = Pull(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            consumer=request.consumer,
            partition=poll.partition,
            count_max=request.batch,
            bytes_max=self._broker.limits.pull_bytes_max,
            attempt=request.attempt,
        )
        try:
            poll.waiter = self._broker.submit(
                operation, deadline_ms=request.deadline_ms, done=lambda outcome: self._pulled(poll, outcome)
            )
        except FalconQError as error:
            poll.finish(error)
            return
        self._under_way.setdefault(poll.consumer, []).append(poll)
        self._broker.metrics.pull_count += 1

    def _pulled(self, poll: Poll, outcome: Outcome) -> None:
        result = outcome.result
        if isinstance(result, FalconQError):
            poll.finish(result)
        elif isinstance(result, Refused):
            poll.finish(FalconQError(result.code, result.detail))
        elif isinstance(result, Pulled) and result.ranges:
            self._answer(poll, result, outcome.index)
        elif poll.done is not None:
            self._broker.metrics.pull_empty_count += 1
            poll.is_fresh = True
            self._wait(poll, is_first=True)
        self._pull_is_over(poll)

    def _pull_is_over(self, poll: Poll) -> None:
        poll.waiter = None
        polls = self._under_way[poll.consumer]
        polls.remove(poll)
        if not polls:
            del self._under_way[poll.consumer]
        self._wake(poll.consumer)

    # Waking.

    def _applied(self, events: Sequence[Event]) -> None:
        if not self._by_topic:
            return
        for event in events:
            if isinstance(event, TopicDeleted):
                self._topic_deleted(event.topic)
        grown = {event.topic: None for event in events if isinstance(event, LevelGrew)}
        for topic in grown if events else list(self._by_topic):
            for consumer in list(self._by_topic.get(topic, ())):
                self._wake(consumer)

    def _topic_deleted(self, topic: str) -> None:
        """Answer who waits for messages of the topic: if one has its name again, it is another one."""
        for consumer in list(self._by_topic.get(topic, ())):
            for poll in [poll for queue in self._waiting[consumer].values() for poll in queue]:
                self._leave(poll)
                poll.finish(FalconQError("topic_not_found", f"topic {topic!r} was deleted meanwhile"))

    def _wake(self, consumer: _Consumer) -> None:
        """Let as many polls pull as there are batches for, beside those that pull already."""
        for partition, queue in list(self._waiting.get(consumer, {}).items()):
            while queue and self._free_count(consumer, partition) > 0:
                poll = next(iter(queue))
                self._leave(poll)
                self._propose(poll)

    def _free_count(self, consumer: _Consumer, partition: int) -> int:
        """Deliverable messages that no pull under way from here is about to take."""
        pending = sum(self._broker.views().pending(*consumer, partition))
        for poll in self._under_way.get(consumer, ()):
            if partition == ALL_PARTITIONS or poll.partition in (partition, ALL_PARTITIONS):
                pending -= poll.request.batch
        return pending
