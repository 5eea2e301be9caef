"""One message by its id: where it stands, and what becomes of it.

What lives here: the search for a message, and its change and cancellation.
Rules: a search goes on step by step, and other work comes between; one search at a time takes steps, and how many wait
for it is bounded. What is found is read in the turn in which it was found, so an answer is of one index. A change
names the place that this node's store shows; if the message has another one by then, the machine knows it by its id.
Must not know: HTTP, how a message is found in the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol, TypeVar

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.explaining import explained_message
from falconq_cluster.broker.message_requests import (
    ChangeRequest,
    ExplainedMessage,
    ExplainRequest,
    MessageId,
)
from falconq_cluster.broker.reading import known_topic, level_of
from falconq_cluster.broker.waiters import Outcome, Waiter, accepted
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.amends import AmendOperation, CancelMessage, ChangeMessage, MessageChanged
from falconq_cluster.machine.commands import NO_DEADLINE, Done
from falconq_cluster.machine.message_states import MessagePlace

T = TypeVar("T")

STALE = frozenset(("topic_not_found", "consumer_not_found", "message_not_found", "unknown_priority"))
"""What a node refuses that may not have seen yet what another one answered."""


class Asking(Protocol):
    """What is asked of the service of which this is a part."""

    async def answer_to(self, begin: Callable[[Callable[[T], None]], Waiter]) -> T: ...

    async def rest(self, ms: int) -> None:
        """Let so much time pass; 0 lets others work."""

    async def fresh(self) -> None:
        """This node has seen what was committed by now, or could not learn of it."""


class Messages:
    """What is asked about single messages, over one broker."""

    def __init__(self, broker: Broker, service: Asking, turn: AbstractAsyncContextManager[None]) -> None:
        self._broker = broker
        self._service = service
        self._turn = turn
        """A lock, held by the search that takes steps."""
        self._searching_count = 0

    async def explain(self, request: ExplainRequest) -> ExplainedMessage:
        """Where the message stands on this node, which makes sure of its view first when it does not have it."""
        return await self._surely(partial(self._explained, request))

    async def change(self, request: ChangeRequest) -> ExplainedMessage:
        """The message is as the request says. Raises: FalconQError."""

        def operation(place: MessagePlace) -> ChangeMessage:
            levels = known_topic(self._broker.views(), request.topic).config.levels
            return ChangeMessage(
                not_after_ms=NO_DEADLINE,
                topic=request.topic,
                log_index=request.id.log_index,
                number=request.id.number,
                partition=place.partition,
                offset=place.offset,
                level=-1 if request.priority is None else level_of(request.priority, levels),
                due_ms=-1 if request.due_ms is None else request.due_ms,
                delay_ms=-1 if request.delay_ms is None else request.delay_ms,
            )

        def changed(outcome: Outcome) -> ExplainedMessage:
            result = accepted(outcome, MessageChanged)
            self._broker.metrics.changed_count += 1
            place = MessagePlace(result.partition, result.level, result.offset)
            shown = ExplainRequest(topic=request.topic, id=request.id, deadline_ms=request.deadline_ms)
            return self._shown(shown, place, index=outcome.index)

        return await self._amend(request.topic, request.id, operation, changed, request.deadline_ms)

    async def cancel(self, topic: str, message: MessageId, *, deadline_ms: int) -> int:
        """The log index from which on nobody is given the message. Raises: FalconQError."""

        def operation(place: MessagePlace) -> CancelMessage:
            return CancelMessage(
                not_after_ms=NO_DEADLINE,
                topic=topic,
                log_index=message.log_index,
                number=message.number,
                partition=place.partition,
                offset=place.offset,
            )

        def cancelled(outcome: Outcome) -> int:
            accepted(outcome, Done)
            self._broker.metrics.cancelled_count += 1
            return outcome.index

        return await self._amend(topic, message, operation, cancelled, deadline_ms)

    async def _amend(
        self,
        topic: str,
        message: MessageId,
        operation: Callable[[MessagePlace], AmendOperation],
        done: Callable[[Outcome], T],
        deadline_ms: int,
    ) -> T:
        """What `done` makes of the outcome in the turn in which the operation is applied. Raises: FalconQError."""

        async def propose() -> T | FalconQError:
            """What the machine refuses is returned: it is no matter of a stale state."""
            proposed = operation(await self._place(topic, message, deadline_ms))

            def told(outcome: Outcome) -> T | FalconQError:
                try:
                    return done(outcome)
                except FalconQError as error:
                    return error

            def begin(tell: Callable[[T | FalconQError], None]) -> Waiter:
                return self._broker.submit(proposed, deadline_ms=deadline_ms, done=lambda outcome: tell(told(outcome)))

            return await self._service.answer_to(begin)

        answer = await self._surely(propose)
        if isinstance(answer, FalconQError):
            raise answer
        return answer

    async def _surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asked again in a state that is not stale, if something is missing in this one. Raises: FalconQError."""
        try:
            return await ask()
        except FalconQError as error:
            if error.code.code not in STALE:
                raise
        await self._service.fresh()
        return await ask()

    async def _explained(self, request: ExplainRequest) -> ExplainedMessage:
        place = await self._place(request.topic, request.id, request.deadline_ms)
        return self._shown(request, place, index=self._broker.raft.applied_index)

    async def _place(self, topic: str, message: MessageId, deadline_ms: int) -> MessagePlace:
        """Where the message is in this turn. Raises: FalconQError (topic_not_found, message_not_found, overloaded)."""
        if self._searching_count >= self._broker.limits.searches_max:
            text = f"{self._searching_count} requests look for a message by its id already; repeat a little later"
            raise FalconQError("overloaded", text)
        self._searching_count += 1
        try:
            async with self._turn:
                place = await self._search(topic, message, deadline_ms)
        finally:
            self._searching_count -= 1
        if place is None:
            raise _not_found(topic, message)
        return place

    async def _search(self, topic: str, message: MessageId, deadline_ms: int) -> MessagePlace | None:
        while True:
            views = self._broker.views()
            known_topic(views, topic)
            for place in views.messages.locate(topic, message.log_index, message.number):
                if place is not None:
                    return place
                await self._service.rest(0)
                if self._broker.clock.monotonic_ms() >= deadline_ms:
                    text = f"there was no time to find message {message} among all others; repeat a little later"
                    raise FalconQError("overloaded", text)
                if not self._broker.views().is_same_as(views):
                    break  # A snapshot took the place of all that was looked through.
            else:
                return None

    def _shown(self, request: ExplainRequest, place: MessagePlace, *, index: int) -> ExplainedMessage:
        """The message at this place. Raises: FalconQError (topic_not_found, consumer_not_found, message_not_found)."""
        views = self._broker.views()
        levels = known_topic(views, request.topic).config.levels
        if request.consumer is not None and not views.consumer_exists(request.topic, request.consumer):
            text = f"topic {request.topic!r} has no consumer {request.consumer!r}; make it with PUT, or pull for it"
            raise FalconQError("consumer_not_found", text)
        view = views.messages.explain(
            request.topic,
            request.id.log_index,
            request.id.number,
            place,
            log_time_ms=self._broker.raft.log_time_ms(),
            consumer=request.consumer,
            after=request.after,
            limit=request.limit,
        )
        if view is None:
            raise _not_found(request.topic, request.id)
        return explained_message(request, view, levels, index)


def _not_found(topic: str, message: MessageId) -> FalconQError:
    text = f"topic {topic!r} has no message {message}: it never had, it was cancelled, or it is not kept any more"
    return FalconQError("message_not_found", text)
