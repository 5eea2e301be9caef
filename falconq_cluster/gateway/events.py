"""Event streams: /v1/topics/{topic}/consumers/{consumer}/events, as Server-Sent Events (WHATWG HTML, section 9.2).

What lives here: the handler, and how deliveries become events.
Rules: an event's id names its delivery, and is what a client sends as `Last-Event-ID` to go on through any node. What
is not a delivery has no id, so it never moves the place. A `goodbye` is the last event and says why.
Must not know: aiohttp, the log, when messages come.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from falconq_cluster.broker.requests import Deliveries, Delivery, SeenDelivery, StreamEnd, StreamRequest
from falconq_cluster.gateway.describing import (
    MIN_INDEX,
    PROBLEMS_OF_WRITES,
    Choice,
    Number,
    Operation,
    Reply,
    Text,
)
from falconq_cluster.gateway.fields import read_name, refuse, shown
from falconq_cluster.gateway.leases import delivery_answer
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.raw import level_of_text
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service
from falconq_cluster.machine.settings import LEASE_MS_MAX, LEASE_MS_MIN

EVENT_STREAM = "text/event-stream"
RETRY = b"retry: 1000\n\n"
"""Clients come again after a second: an election takes half of one."""
HEARTBEAT = b": heartbeat\n\n"
LEASE_MS = 30_000

SHARED = Choice(
    name="shared",
    text="`true`: beside other streams of the consumer, which share its messages; else in their place.",
    choices=("false", "true"),
)
LEASE = Number(
    name="leaseMs",
    text="How long after the stream broke its messages are given to others, in milliseconds.",
    least=LEASE_MS_MIN,
    most=LEASE_MS_MAX,
    default=LEASE_MS,
)
MIN_LEVEL = Text(
    name="minLevel", text="Only messages of this level, a name or a number, or a more urgent one. Unset: of all."
)
LAST_EVENT_ID = Text(
    name="Last-Event-ID",
    text="The last id that was seen: deliveries up to it are acknowledged, the others come again.",
    pattern="^([0-9]{1,16}(-[0-9a-f]{32})?)?$",
)
EVENTS = Operation(
    id="streamEvents",
    summary="A consumer's messages as Server-Sent Events",
    tag="Queues",
    text="Each event `message` has a delivery in `data`, as a pull gives it, and an `id`. Messages stay leased while "
    "the stream goes on; they are settled by an ack, or by going on from a later id. When there is nothing, a comment "
    "is sent now and then. `goodbye` is the last event, with a `reason`: `draining` (go on through another node), "
    "`replaced` or `deleted`.",
    parameters=(SHARED, LEASE, MIN_LEVEL),
    headers=(LAST_EVENT_ID, MIN_INDEX),
    replies=(
        Reply(
            text="Events, as they come.", body={"type": "string"}, content_type=EVENT_STREAM, headers=("Cache-Control",)
        ),
    ),
    problems=("topic_not_found", "unknown_priority", *PROBLEMS_OF_WRITES),
)

_LAST_EVENT_ID = re.compile(r"([0-9]{1,16})(?:-([0-9a-f]{32}))?", re.ASCII)
_encoder = msgspec.json.Encoder()


class EventRoutes:
    """The handler, over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [Route(("GET",), "/v1/topics/{topic}/consumers/{consumer}/events", self.events, EVENTS)]

    async def events(self, call: Call) -> Answer:
        topic, consumer = read_name(call.topic, "topic"), read_name(call.variable("consumer"), "consumer")
        query = Query(call.query, call.operation.parameters)
        request = StreamRequest(
            topic=topic,
            consumer=consumer,
            seen=read_last_event_id(call.header(LAST_EVENT_ID.name)),
            is_shared=query.choice(SHARED) == "true",
            lease_ms=query.number_or_default(LEASE),
            level_min=level_of_text(query.text(MIN_LEVEL)),
            deadline_ms=call.deadline_ms,
        )
        await wait_min_index(self._service, call)
        parts = await self._service.open_stream(request)
        headers = {"Cache-Control": "no-store"}
        return Answer(
            b"", content_type=EVENT_STREAM, headers=headers, stream=_written(parts, is_shared=request.is_shared)
        )


def read_last_event_id(value: str | None) -> SeenDelivery | None:
    """What the client has seen; None without one. Raises: bad_request."""
    if not value:
        return None
    match = _LAST_EVENT_ID.fullmatch(value)
    if match is None:
        text = f"header 'Last-Event-ID' is {shown(value)}; it is the id of an event of this consumer, or not there"
        raise refuse(LAST_EVENT_ID.name, text)
    return SeenDelivery(int(match[1]), bytes.fromhex(match[2] or ""))


async def _written(
    parts: AsyncGenerator[Deliveries | StreamEnd, None], *, is_shared: bool
) -> AsyncGenerator[bytes, None]:
    yield RETRY
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, StreamEnd):
                yield b"event: goodbye\ndata: " + _encoder.encode({"reason": part.reason}) + b"\n\n"
            elif part.deliveries:
                stream = f"-{part.nonce.hex()}" if is_shared else ""
                yield b"".join(_event(delivery, f"{delivery.number}{stream}") for delivery in part.deliveries)
            else:
                yield HEARTBEAT


def _event(delivery: Delivery, name: str) -> bytes:
    # Line ends within JSON are white space: they may become the ends of an event's lines.
    lines = _encoder.encode(delivery_answer(delivery)).splitlines()
    return f"id: {name}\nevent: message\n".encode() + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
