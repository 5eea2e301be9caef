"""Consume: what is proposed, what waits, and who is woken.

What lives here: autoCommit pulls with long polling (PROTOCOL.md P13, P19).
Rules: a pull is proposed only when the own store shows something deliverable, or the consumer is new, or an attempt may
have to be repeated; a plain consume that sees nothing first makes sure that its view is fresh. Of the polls that wait
for one consumer, one at a time has a pull under way: a thousand of them are not a thousand entries. Delivered bytes
are read in the turn of the apply.
Must not know: asyncio, HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.reading import consumed_batch
from falconq_cluster.broker.requests import Batch, ConsumeRequest
from falconq_cluster.broker.waiters import Outcome, Waiter
from falconq_cluster.clock import Timer
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import NO_DEADLINE, Pull, Pulled, Refused
from falconq_cluster.machine.events import Event, LevelGrew

ALL_PARTITIONS = -1
Answer = Batch | FalconQError


class Poll:
    """One consume request on its way; cancel it when its client is gone."""

    __slots__ = ("done", "is_fresh", "is_waiting", "pulls", "request", "timer", "waiter", "waits_until_ms")

    def __init__(self, pulls: Pulls, request: ConsumeRequest, done: Callable[[Answer], None], until_ms: int) -> None:
        self.pulls = pulls
        self.request = request
        self.done: Callable[[Answer], None] | None = done
        self.waits_until_ms = until_ms
        self.is_fresh = False
        """Whether the node's view was made sure of since the request came."""
        self.is_waiting = False
        self.waiter: Waiter | None = None
        self.timer: Timer | None = None

    @property
    def partition(self) -> int:
        return ALL_PARTITIONS if self.request.partition is None else self.request.partition

    def finish(self, answer: Answer) -> None:
        """Answer, once."""
        done, self.done = self.done, None
        self.pulls.left(self)
        if done is not None:
            done(answer)

    def cancel(self) -> None:
        """The client is gone; a pull that has a sequence goes on without it."""
        if self.done is not None:
            self.done = None
            if self.waiter is not None:
                self.waiter.cancel()
            self.pulls.left(self)


class Pulls:
    """All consumes of one node."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[str, dict[str, deque[Poll]]] = {}
        self._proposing: set[tuple[str, str]] = set()
        self.waiting_count = 0
        broker.listen(self._applied)

    def consume(self, request: ConsumeRequest, done: Callable[[Answer], None]) -> Poll:
        """Begin; `done` is called once with the batch, which may be empty, or an error."""
        until_ms = min(self._broker.clock.monotonic_ms() + request.wait_ms, request.deadline_ms)
        poll = Poll(self, request, done, until_ms)
        if request.attempt:
            self._propose(poll)
        else:
            self._look(poll)
        return poll

    def _look(self, poll: Poll) -> None:
        """Propose when there is something, else make sure of that, then wait or answer empty."""
        views, request = self._broker.views(), poll.request
        topic = views.topic(request.topic)
        is_there = topic is not None and poll.partition < topic.config.partitions
        if is_there and (
            views.has_deliverable(request.topic, request.consumer, poll.partition)
            or not views.consumer_exists(request.topic, request.consumer)
        ):
            self._propose(poll)
        elif not poll.is_fresh:
            poll.is_fresh = True
            self._broker.freshness.when_fresh(lambda: self._look(poll) if poll.done is not None else None)
        elif topic is None:
            poll.finish(FalconQError("topic_not_found", f"there is no topic {request.topic!r}; publish to it first"))
        elif not is_there:
            count = topic.config.partitions
            message = f"topic {request.topic!r} has partitions 0 to {count - 1}, not {poll.partition}"
            poll.finish(FalconQError("unknown_partition", message))
        else:
            self._wait(poll)

    def _wait(self, poll: Poll) -> None:
        left_ms = poll.waits_until_ms - self._broker.clock.monotonic_ms()
        request = poll.request
        if left_ms <= 0:
            poll.finish(consumed_batch(self._broker.views(), request, None, self._broker.raft.applied_index))
            return
        if self.waiting_count >= self._broker.limits.polls_max:
            message = f"{self.waiting_count} consumes wait on this node already; ask another one, or without waitMs"
            poll.finish(FalconQError("overloaded", message))
            return
        poll.is_waiting = True
        self.waiting_count += 1
        self._waiting.setdefault(request.topic, {}).setdefault(request.consumer, deque()).append(poll)
        if poll.timer is None:
            poll.timer = self._broker.clock.call_later(left_ms, lambda: self._time_is_up(poll))

    def _time_is_up(self, poll: Poll) -> None:
        poll.timer = None
        if poll.is_waiting:
            self.left(poll)
            poll.finish(consumed_batch(self._broker.views(), poll.request, None, self._broker.raft.applied_index))

    def left(self, poll: Poll) -> None:
        """The poll does not wait any more."""
        if poll.timer is not None and poll.done is None:
            poll.timer.cancel()
            poll.timer = None
        if not poll.is_waiting:
            return
        poll.is_waiting = False
        self.waiting_count -= 1
        consumers = self._waiting[poll.request.topic]
        queue = consumers[poll.request.consumer]
        queue.remove(poll)
        if not queue:
            del consumers[poll.request.consumer]
            if not consumers:
                del self._waiting[poll.request.topic]

    # Proposing.

    def _propose(self, poll: Poll) -> None:
        request = poll.request
        operation = Pull(
            NO_DEADLINE,
            request.topic,
            request.consumer,
            poll.partition,
            request.batch,
            self._broker.limits.pull_bytes_max,
            request.attempt,
        )
        try:
            poll.waiter = self._broker.submit(
                operation, deadline_ms=request.deadline_ms, done=lambda outcome: self._pulled(poll, outcome)
            )
        except FalconQError as error:
            poll.finish(error)

    def _pulled(self, poll: Poll, outcome: Outcome) -> None:
        poll.waiter = None
        result = outcome.result
        if poll.done is None:
            return
        if isinstance(result, FalconQError):
            poll.finish(result)
        elif isinstance(result, Refused):
            poll.finish(FalconQError(result.code, result.detail))
        elif isinstance(result, Pulled):
            if result.ranges:
                poll.finish(consumed_batch(self._broker.views(), poll.request, result, outcome.index))
            else:
                poll.is_fresh = True
                self._wait(poll)
        self._wake_next(poll.request.topic, poll.request.consumer)

    # Waking.

    def _applied(self, events: Sequence[Event]) -> None:
        if not self._waiting:
            return
        if not events:
            for topic in list(self._waiting):
                self._wake_topic(topic)
        for topic in {event.topic: None for event in events if isinstance(event, LevelGrew)}:
            self._wake_topic(topic)

    def _wake_topic(self, topic: str) -> None:
        for consumer in list(self._waiting.get(topic, ())):
            if (topic, consumer) not in self._proposing:
                self._wake_next(topic, consumer)

    def _wake_next(self, topic: str, consumer: str) -> None:
        """Let the first poll that can get something have its pull; the next one follows when that is applied."""
        self._proposing.discard((topic, consumer))
        views = self._broker.views()
        for poll in self._waiting.get(topic, {}).get(consumer, ()):
            if views.has_deliverable(topic, consumer, poll.partition):
                self._proposing.add((topic, consumer))
                self.left(poll)
                self._propose(poll)
                return
