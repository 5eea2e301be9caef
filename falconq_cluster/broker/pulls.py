"""Pulls: what is proposed, what waits, and who is woken.

What lives here: the life of every poll, with long polling (PROTOCOL.md P13, P19).
Rules: a pull is proposed only when the own store shows something deliverable, or the consumer is new, or the poll has
to be proposed at once. What sees nothing first makes sure that its view is fresh, then waits, then answers empty. Of
the polls that wait for one consumer, as many have a pull under way as there are batches for: a thousand of them are not
a thousand entries. What comes back by time alone wakes one poll at that time; the log says what is there by then.
Must not know: asyncio, HTTP, what is pulled for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Any

import structlog

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.deadlines import Deadlines
from falconq_cluster.broker.leases import LeasePoll
from falconq_cluster.broker.polls import ConsumePoll, ConsumerName, Poll
from falconq_cluster.broker.requests import Batch, ConsumeRequest, Deliveries, PullRequest
from falconq_cluster.broker.waiters import Outcome
from falconq_cluster.clock import Timer
from falconq_cluster.errors import CorruptionError, FalconQError
from falconq_cluster.machine.commands import Refused, Result
from falconq_cluster.machine.events import Event, HoldingsChanged, LevelGrew, StreamReplaced, TopicDeleted
from falconq_cluster.machine.records import RecordError

AnyPoll = Poll[Any]
WAKES_MAX = 200
"""Consumers whose polls are woken in one turn: of a topic with thousands of them, a publish wakes all."""
RETURN_MS_MIN, RETURN_MS_MAX = 10, 1_000
"""How long until the next look at what comes back by time: this node's log time may be a little ahead, or unknown."""


class Pulls:
    """All polls of one node."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[ConsumerName, dict[Hashable, OrderedDict[AnyPoll, None]]] = {}
        self._by_topic: dict[str, dict[ConsumerName, None]] = {}
        self._under_way: dict[ConsumerName, list[AnyPoll]] = {}
        self._deadlines: Deadlines[AnyPoll] = Deadlines(broker.clock, self._time_is_up)
        self._returns: Deadlines[ConsumerName] = Deadlines(broker.clock, self._returned)
        self._to_wake: dict[ConsumerName, None] = {}
        self._wake_timer: Timer | None = None
        self._return_ms: dict[ConsumerName, int] = {}
        """When something comes back to a consumer for which polls wait."""
        self.waiting_count = 0
        """Polls that wait for messages."""
        broker.listen(self._applied)

    def consume(self, request: ConsumeRequest, done: Callable[[Batch | FalconQError], None]) -> ConsumePoll:
        """Begin; `done` is called once with the batch, which may be empty, or an error."""
        poll = ConsumePoll(self, self._broker, request, done)
        self.begin(poll)
        return poll

    def lease(self, request: PullRequest, done: Callable[[Deliveries | FalconQError], None]) -> LeasePoll:
        """The same for a pull with leases."""
        poll = LeasePoll(self, self._broker, request, done)
        self.begin(poll)
        return poll

    def begin(self, poll: AnyPoll) -> None:
        """Propose the poll or let it wait; it is answered once."""
        if poll.is_at_once:
            self._propose(poll)
        else:
            self._look(poll)

    def end_waits(self) -> None:
        """Answer every waiting poll with what it has: nothing."""
        for places in list(self._waiting.values()):
            for poll in [poll for queue in places.values() for poll in queue]:
                self._leave(poll)
                self._answer(poll, None, self._broker.raft.applied_index)

    def cancelled(self, poll: AnyPoll) -> None:
        """Leave the queue; a pull without a sequence is taken back, so that it moves no cursor for nobody."""
        self._leave(poll)
        if poll.waiter is not None:
            poll.waiter.cancel()
            if poll.waiter.is_over:
                self._pull_is_over(poll)

    def _look(self, poll: AnyPoll) -> None:
        """Propose when there is something, else make sure of that, then wait."""
        if poll.done is None:
            return
        views = self._broker.views()
        try:
            poll.judge(views)
        except FalconQError as error:
            if poll.is_fresh:
                poll.finish(error)
            else:
                self._make_fresh(poll)
            return
        now_ms = self._broker.raft.log_time_ms()
        is_new = not views.consumer_exists(*poll.consumer)
        # A consumer that waits for messages for days is in use: it says so to the log, else it would be deleted.
        is_to_be_used = not poll.is_fresh and views.consumers.is_to_be_used(*poll.consumer, now_ms)
        if is_new or is_to_be_used or poll.available_count(views, now_ms):
            self._propose(poll)
        elif poll.is_fresh:
            self._wait(poll, is_first=False)
        else:
            self._make_fresh(poll)

    def _make_fresh(self, poll: AnyPoll) -> None:
        poll.is_fresh = True
        self._broker.freshness.when_fresh(lambda: self._look(poll))

    # Waiting.

    def _wait(self, poll: AnyPoll, *, is_first: bool) -> None:
        """Queue the poll; before the others when it was there already and got nothing."""
        if poll.until_ms <= self._broker.clock.monotonic_ms() or not self._broker.is_running:
            self._answer(poll, None, self._broker.raft.applied_index)
            return
        if self.waiting_count >= self._broker.limits.polls_max:
            text = f"{self.waiting_count} requests wait for messages on this node already"
            poll.finish(FalconQError("overloaded", f"{text}; ask another one, or without waitMs"))
            return
        self.waiting_count += 1
        queue = self._waiting.setdefault(poll.consumer, {}).setdefault(poll.place, OrderedDict())
        queue[poll] = None
        if is_first:
            queue.move_to_end(poll, last=False)
        self._by_topic.setdefault(poll.consumer[0], {})[poll.consumer] = None
        self._deadlines.add(poll, poll.until_ms)
        self._watch_returns(poll.consumer)

    def _leave(self, poll: AnyPoll) -> None:
        """The poll waits no more; harmless when it does not wait."""
        places = self._waiting.get(poll.consumer, {})
        queue = places.get(poll.place)
        if queue is None or poll not in queue:
            return
        self.waiting_count -= 1
        self._deadlines.remove(poll, poll.until_ms)
        del queue[poll]
        if queue:
            return
        del places[poll.place]
        if not places:
            del self._waiting[poll.consumer]
            consumers = self._by_topic[poll.consumer[0]]
            del consumers[poll.consumer]
            if not consumers:
                del self._by_topic[poll.consumer[0]]
            self._watch_returns(poll.consumer)

    def _time_is_up(self, poll: AnyPoll) -> None:
        self._leave(poll)
        self._answer(poll, None, self._broker.raft.applied_index)

    def _answer(self, poll: AnyPoll, result: Result | None, index: int) -> None:
        if poll.done is None:
            return
        try:
            answer = poll.answer(self._broker.views(), result, index)
        except FalconQError as error:
            poll.finish(error)
        except (CorruptionError, RecordError) as error:
            structlog.get_logger().error("delivered_messages_not_readable", topic=poll.consumer[0], error=str(error))
            poll.finish(FalconQError("internal", f"the messages can't be read on this node: {error}"))
        else:
            if result is not None:
                self._broker.metrics.count_delivered(poll.ranges(result), result)
            poll.finish(answer)

    # Pulling.

    def _propose(self, poll: AnyPoll) -> None:
        try:
            poll.waiter = self._broker.submit(
                poll.operation(), deadline_ms=poll.deadline_ms, done=lambda outcome: self._pulled(poll, outcome)
            )
        except FalconQError as error:
            poll.finish(error)
            return
        self._under_way.setdefault(poll.consumer, []).append(poll)
        self._broker.metrics.pull_count += 1

    def _pulled(self, poll: AnyPoll, outcome: Outcome) -> None:
        result = outcome.result
        if isinstance(result, FalconQError):
            poll.finish(result)
        elif isinstance(result, Refused):
            poll.finish(FalconQError(result.code, result.detail))
        elif poll.ranges(result):
            self._answer(poll, result, outcome.index)
        elif poll.done is not None:
            self._broker.metrics.pull_empty_count += 1
            poll.is_fresh = True
            self._wait(poll, is_first=True)
        self._pull_is_over(poll)

    def _pull_is_over(self, poll: AnyPoll) -> None:
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
        changed: dict[ConsumerName, None] = {}
        grown: dict[str, None] = {} if events else dict.fromkeys(self._by_topic)
        for event in events:
            if isinstance(event, TopicDeleted):
                self._topic_deleted(event.topic)
            elif isinstance(event, LevelGrew):
                grown[event.topic] = None
            elif isinstance(event, StreamReplaced):
                self._stream_replaced((event.topic, event.consumer), event.nonce)
            elif isinstance(event, HoldingsChanged):
                changed[event.topic, event.consumer] = None
        for topic in grown:
            changed.update(self._by_topic.get(topic, {}))
        self._to_wake |= changed
        if self._wake_timer is None:
            self._wake_some()

    def _wake_some(self) -> None:
        """Wake the next of those for whom something changed; the others in turns of their own."""
        self._wake_timer = None
        for consumer in list(islice(self._to_wake, WAKES_MAX)):
            del self._to_wake[consumer]
            self._wake(consumer)
            self._watch_returns(consumer)
        if self._to_wake:
            self._wake_timer = self._broker.clock.call_later(0, self._wake_some)

    def _topic_deleted(self, topic: str) -> None:
        """Answer who waits for messages of the topic: if one has its name again, it is another one."""
        for consumer in list(self._by_topic.get(topic, ())):
            for poll in [poll for queue in self._waiting[consumer].values() for poll in queue]:
                self._leave(poll)
                poll.finish(FalconQError("topic_not_found", f"topic {topic!r} was deleted meanwhile"))

    def _stream_replaced(self, consumer: ConsumerName, nonce: bytes) -> None:
        """Answer who waits for an event stream that is over."""
        for poll in [poll for queue in self._waiting.get(consumer, {}).values() for poll in queue]:
            error = poll.is_replaced_by(nonce)
            if error is not None:
                self._leave(poll)
                poll.finish(error)

    def _wake(self, consumer: ConsumerName) -> None:
        """Let as many polls pull as there are batches for, beside those that pull already."""
        for queue in list(self._waiting.get(consumer, {}).values()):
            free_count = self._free_count(next(iter(queue)))
            while queue and free_count > 0:
                poll = next(iter(queue))
                self._leave(poll)
                self._propose(poll)
                if poll.waiter is not None:
                    free_count -= poll.count

    def _free_count(self, poll: AnyPoll) -> int:
        """Messages for the poll that no pull under way from here is about to take."""
        available = poll.available_count(self._broker.views(), self._broker.raft.log_time_ms())
        return available - sum(
            other.count for other in self._under_way.get(poll.consumer, ()) if poll.takes_from(other)
        )

    def _watch_returns(self, consumer: ConsumerName) -> None:
        """Look again when something comes back to the consumer by time, as long as polls wait for it."""
        before_ms = self._return_ms.pop(consumer, None)
        if before_ms is not None:
            self._returns.remove(consumer, before_ms)
        if consumer not in self._waiting:
            return
        return_ms = self._broker.views().next_return_ms(*consumer)
        if return_ms is not None:
            left_ms = min(max(return_ms - self._broker.raft.log_time_ms(), RETURN_MS_MIN), RETURN_MS_MAX)
            at_ms = self._return_ms[consumer] = self._broker.clock.monotonic_ms() + left_ms
            self._returns.add(consumer, at_ms)

    def _returned(self, consumer: ConsumerName) -> None:
        self._return_ms.pop(consumer, None)
        self._wake(consumer)
        self._watch_returns(consumer)
