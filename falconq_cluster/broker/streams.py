"""Event streams: messages of a consumer one after the other, for as long as somebody reads (PROTOCOL.md P20).

What lives here: one stream, from its opening to its end.
Rules: a stream opens before anything is read of it, and then settles what earlier streams had in hand. What it gives
out stays leased while it goes on: the leases are extended long before they end. When it breaks they end by time,
unless the stream goes on elsewhere earlier. Trouble ends no stream: what got lost in it comes again. An end has a
reason, which says whether to come again.
Must not know: HTTP, how a delivery is written.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol, TypeVar

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.requests import Deliveries, PullRequest, StreamEnd, StreamRequest, StreamTag
from falconq_cluster.broker.waiters import Outcome, accepted
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import (
    NO_DEADLINE,
    ClientOperation,
    LeaseSettled,
    Settle,
    SettleItem,
    SettleKind,
)
from falconq_cluster.machine.leasing import NONCE_BYTES
from falconq_cluster.machine.machine import DEFAULT_LIMITS
from falconq_cluster.machine.subscriptions import OpenStream, StreamKind, StreamOpened

PULL_COUNT = 100
"""Messages that one command leases for a stream."""
EXTENSIONS_PER_LEASE = 3
"""Two of them may fail before a lease ends."""
TROUBLE_MS = 500
"""How long a stream rests when it can't pull: there is no leader, or the node has too much to do."""
ENDS = {"lease_lost": "replaced", "topic_not_found": "deleted"}
"""Code of a refusal that ends a stream -> reason."""
DRAINING = "draining"

T = TypeVar("T")


class Asking(Protocol):
    """What a stream asks of the service that it is of."""

    async def pull(self, request: PullRequest) -> Deliveries: ...

    async def outcome(self, operation: ClientOperation, deadline_ms: int) -> Outcome: ...

    async def rest(self, ms: int) -> None:
        """Let so much time pass."""


class Stream:
    """One stream; `open` it, then read its parts."""

    def __init__(
        self, broker: Broker, service: Asking, request: StreamRequest, *, is_ending: Callable[[], bool]
    ) -> None:
        self._broker = broker
        self._service = service
        self._request = request
        self._is_ending = is_ending
        self._nonce = broker.random_bytes(NONCE_BYTES)
        self._kind = StreamKind.SHARED if request.is_shared else StreamKind.ALONE
        self._held: dict[tuple[int, int], None] = {}
        """(partition, offset) of what was given out and may not be settled yet."""
        self._extend_ms = 0
        """When their leases are to be extended next."""

    async def open(self) -> None:
        """Settle what earlier streams had. Raises: FalconQError."""
        request, seen = self._request, self._request.seen
        operation = OpenStream(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            consumer=request.consumer,
            nonce=self._nonce,
            stream=self._kind,
            acked_number=0 if seen is None else seen.number,
            acked_nonce=b"" if seen is None else seen.nonce,
        )
        while not accepted(await self._service.outcome(operation, request.deadline_ms), StreamOpened).is_done:
            pass

    async def parts(self) -> AsyncGenerator[Deliveries | StreamEnd, None]:
        """Deliveries as they come, without any when a heartbeat is due; an end as the last one."""
        while True:
            taken = await self._unless_in_trouble(self._pull())
            if isinstance(taken, StreamEnd):
                yield taken
                return
            if taken is not None and taken.deliveries:
                yield taken
            elif self._is_ending() or not self._broker.is_running:
                yield StreamEnd(DRAINING)
                return
            else:
                yield Deliveries(topic=self._request.topic, consumer=self._request.consumer, deliveries=[], index=0)
            if self._held and self._broker.clock.monotonic_ms() >= self._extend_ms:
                await self._unless_in_trouble(self._extend())

    async def _unless_in_trouble(self, work: Awaitable[T]) -> T | StreamEnd | None:
        """None after trouble that passes."""
        try:
            return await work
        except FalconQError as error:
            reason = ENDS.get(error.code.code)
            if reason is not None:
                return StreamEnd(reason)
            if not self._is_ending():
                await self._service.rest(TROUBLE_MS)
            return None

    async def _pull(self) -> Deliveries:
        request, now_ms = self._request, self._broker.clock.monotonic_ms()
        wait_ms = self._broker.limits.stream_heartbeat_ms
        if self._held:
            wait_ms = max(min(wait_ms, self._extend_ms - now_ms), 0)
        taken = await self._service.pull(
            PullRequest(
                topic=request.topic,
                consumer=request.consumer,
                count=PULL_COUNT,
                wait_ms=wait_ms,
                lease_ms=request.lease_ms,
                level_min=request.level_min,
                stream=StreamTag(self._nonce, is_shared=request.is_shared),
                deadline_ms=now_ms + wait_ms + request.lease_ms,
            )
        )
        if not self._held:
            self._extend_ms = self._broker.clock.monotonic_ms() + request.lease_ms // EXTENSIONS_PER_LEASE
        self._held.update(
            {(delivery.message.partition, delivery.message.offset): None for delivery in taken.deliveries}
        )
        return taken

    async def _extend(self) -> None:
        """Extend what is held, and forget what is not held any more."""
        request = self._request
        step_ms = request.lease_ms // EXTENSIONS_PER_LEASE
        self._extend_ms = self._broker.clock.monotonic_ms() + step_ms
        held, most = list(self._held), DEFAULT_LIMITS.lease_count_max
        for start in range(0, len(held), most):
            places = held[start : start + most]
            items = [SettleItem(SettleKind.EXTEND, *place, self._nonce, request.lease_ms) for place in places]
            operation = Settle(NO_DEADLINE, request.topic, request.consumer, items)
            outcome = await self._service.outcome(operation, self._extend_ms + step_ms)
            for number, _, _ in accepted(outcome, LeaseSettled).failed:
                self._held.pop(places[number], None)
