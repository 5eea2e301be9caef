"""A gateway on a real port, over a service that records what it is asked.

What lives here: the recording service, a node status that is set by hand, and the gateway around both.
Rules: HTTP is real, the broker is not: what the gateway asks for is exactly what a test can see. Whatever is answered
must be described; else the test fails when the gateway stops.
Must not know: how the gateway works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from falconq_cluster.broker.requests import (
    AtomicRequest,
    Batch,
    ConsumeRequest,
    Deliveries,
    Delivery,
    FailedWish,
    Message,
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
from falconq_cluster.clock import LoopClock
from falconq_cluster.config import Address, Settings
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.openapi import document
from falconq_cluster.gateway.server import Gateway, GatewayLimits
from falconq_cluster.gateway.wire import WireAnswer
from falconq_cluster.machine.settings import TopicConfig, with_settings
from falconq_cluster.telemetry import Metrics
from tests.unit.gateway.described import Described
from tests.unit.gateway.message_service import RecordingMessages

TIME_MS = 1_767_225_600_123
MESSAGE = Message("9.0", b'{"a": [1,  2.50, "\xc3\xa4"]}', "high", 1, 4, 0, TIME_MS, b'{"h":"v"}', "k", 1)
TOPIC = TopicInfo(
    topic="orders", config=TopicConfig(4, ("low", "high")), created_ms=TIME_MS, version=(12 << 20) + 1, index=12
)
Request = (
    PublishRequest
    | ConsumeRequest
    | PullRequest
    | StreamRequest
    | SettleRequest
    | PeekRequest
    | ReplayRequest
    | TopicRequest
)


class RecordingService(RecordingMessages):
    """Answers every request the same way and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.batches: list[AtomicRequest] = []
        self.deleted: list[tuple[str, int]] = []
        self.waited_for: list[int] = []
        self.confirmed_count = 0
        self.is_waiting_over = False
        self.error: Exception | None = None
        self.hold: Callable[[], Awaitable[None]] | None = None
        self.cancelled_count = 0
        self.messages: list[Message] = [MESSAGE]
        self.is_duplicate = False
        self.has_more = False
        self.is_streaming_on = False
        self.ended_streams = 0
        self.is_place_forgotten = False

    async def _receive(self, request: Request) -> None:
        self.requests.append(request)
        if self.hold is not None:
            try:
                await self.hold()
            except asyncio.CancelledError:
                self.cancelled_count += 1
                raise
        if self.error is not None:
            raise self.error

    async def publish(self, request: PublishRequest) -> Published:
        await self._receive(request)
        is_known = not self.is_place_forgotten
        return Published(
            topic=request.topic,
            partition=(request.partition or 0) if is_known else None,
            offset=4 if is_known else None,
            priority="high" if is_known else None,
            level=1 if is_known else None,
            id="9.0" if is_known else None,
            index=9,
            timestamp_ms=TIME_MS if is_known else None,
            duplicate=self.is_duplicate,
        )

    async def publish_atomic(self, request: AtomicRequest) -> Sequence[Published]:
        self.batches.append(request)
        return [await self.publish(message) for message in request.messages]

    async def consume(self, request: ConsumeRequest) -> Batch:
        await self._receive(request)
        return Batch(
            topic=request.topic,
            consumer=request.consumer,
            partition=0,
            messages=self.messages,
            start_offset=4,
            next_offset=5,
            cursor={"low": 0, "high": 5},
            pending={"low": 2, "high": 0},
            index=11,
        )

    async def pull(self, request: PullRequest) -> Deliveries:
        await self._receive(request)
        deliveries = [
            Delivery(message, None if request.auto_commit else "0.4." + "ab" * 16, TIME_MS + 30_000)
            for message in self.messages
        ]
        return Deliveries(topic=request.topic, consumer=request.consumer, deliveries=deliveries, index=14)

    async def open_stream(self, request: StreamRequest) -> AsyncGenerator[Deliveries | StreamEnd, None]:
        await self._receive(request)
        return self._parts(request)

    async def _parts(self, request: StreamRequest) -> AsyncGenerator[Deliveries | StreamEnd, None]:
        delivery = Delivery(self.messages[0], "0.4." + "ab" * 16, TIME_MS, 7)
        empty = Deliveries(topic=request.topic, consumer=request.consumer, deliveries=[], index=0)
        try:
            yield replace(empty, deliveries=[delivery, replace(delivery, number=8)], nonce=b"n" * 16)
            yield empty
            if self.is_streaming_on:
                await asyncio.Event().wait()
            yield StreamEnd("draining")
        finally:
            self.ended_streams += 1

    async def settle(self, request: SettleRequest) -> Settled:
        await self._receive(request)
        failed = [FailedWish(wish.lease_id, "lease_lost", "it is over") for wish in request.wishes[1:]]
        return Settled(ok_count=len(request.wishes) - len(failed), failed=failed, index=15)

    async def replay(self, request: ReplayRequest) -> ReplayPage:
        await self._receive(request)
        return ReplayPage(
            topic=request.topic,
            partition=request.partition or 0,
            messages=self.messages,
            next_offset=5,
            has_more=self.has_more,
            index=11,
        )

    async def peek(self, request: PeekRequest) -> Batch:
        await self._receive(request)
        return Batch(
            topic=request.topic,
            consumer=None,
            partition=0,
            messages=self.messages,
            start_offset=4,
            next_offset=5,
            index=12,
        )

    def topics(self) -> Sequence[str]:
        return ["a", "orders"]

    def partitions(self, topic: str) -> Sequence[PartitionStatus]:
        if topic != "orders":
            raise FalconQError("topic_not_found", f"there is no topic '{topic}'")
        return [
            PartitionStatus(id=0, leader="n2", first_offset=0, next_offset=5, bytes=99, depth={"low": 1, "high": 4})
        ]

    async def set_topic(self, request: TopicRequest) -> TopicInfo:
        await self._receive(request)
        config = with_settings(TopicConfig(), request.given)
        return replace(TOPIC, topic=request.topic, config=config, is_new=not request.is_change)

    async def delete_topic(self, topic: str, *, if_version: int, deadline_ms: int) -> int:
        self.deleted.append((topic, if_version))
        if self.error is not None:
            raise self.error
        return 13

    async def purge_topic(self, topic: str, *, deadline_ms: int) -> TopicPurge:
        await self.topic(topic)
        return TopicPurge(7, 14)

    async def topic(self, topic: str) -> TopicInfo:
        if topic != "orders":
            raise FalconQError("topic_not_found", f"there is no topic '{topic}'")
        return TOPIC

    def topics_after(self, after: str, limit: int) -> Sequence[TopicInfo]:
        return [replace(TOPIC, topic=name) for name in ("a", "b", "orders") if name > after][:limit]

    def end_waits(self) -> None:
        self.is_waiting_over = True

    async def confirm_read(self, deadline_ms: int) -> None:
        self.confirmed_count += 1

    async def wait_index(self, index: int, deadline_ms: int) -> None:
        self.waited_for.append(index)
        if index > 1000:
            raise FalconQError("index_not_reached", f"index {index} was not applied in time")


@dataclass
class SetStatus:
    """A node status as a test wants it."""

    node_id: str = "n1"
    leader: str | None = "n2"
    applied_index: int = 7
    reasons: list[str] = field(default_factory=list)
    is_live: bool = True
    why_needed: list[str] = field(default_factory=list)
    backup_parts: Iterable[bytes] = (b"all ", b"of it")
    takes_over: bool = True
    """Whether a member that shall lead does."""

    def status(self) -> dict[str, object]:
        return {
            "clusterID": None,
            "node": self.node_id,
            "state": "follower",
            "leader": self.leader,
            "term": 3,
            "commitIndex": self.applied_index,
            "appliedIndex": self.applied_index,
            "nodes": [],
        }

    def ready(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons

    def backup(self) -> tuple[int, Generator[bytes]]:
        if self.reasons:
            raise FalconQError("not_ready", f"this node can't write a backup: {self.reasons[0]}; ask another one")
        return self.applied_index, (part for part in self.backup_parts)

    async def move_leader(self, to: str) -> bool:
        if to not in ("n1", "n2", "n3"):
            raise FalconQError("bad_request", f"{to!r} is no member: use n1, n2, n3", details={"field": "to"})
        if self.takes_over:
            self.leader = to
        return self.takes_over

    def live(self) -> bool:
        return self.is_live

    def needed(self) -> list[str]:
        return self.why_needed


class CheckedGateway(Gateway):
    """A gateway whose answers are held against what it says of itself."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.described = Described(document(self.router.routes))
        self.mistakes: list[str] = []

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await super()._handle(request)
        assert isinstance(response, WireAnswer)
        answer = response._answer
        self.mistakes += self.described.mistakes(
            method=request.method,
            target=request.rel_url.raw_path,
            status=answer.status,
            headers=dict(answer.headers) | {"Content-Type": answer.content_type},
            body=answer.body,
        )
        return response


@dataclass
class Rig:
    """A running gateway and a client."""

    gateway: CheckedGateway
    service: RecordingService
    node: SetStatus
    address: Address
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{self.address}"


def make_gateway(service: RecordingService, node: SetStatus, **limits: int) -> CheckedGateway:
    """A gateway that does not listen yet, with the default limits, but for those given."""
    defaults = Settings()
    names = GatewayLimits.__dataclass_fields__
    return CheckedGateway(
        service=service,
        node=node,
        clock=LoopClock(asyncio.get_running_loop()),
        metrics=Metrics(CollectorRegistry()),
        limits=GatewayLimits(**{name: getattr(defaults, name) for name in names} | limits),
    )


@cache
def described() -> Described:
    """What answers of a node may have. To be called in a loop."""
    return make_gateway(RecordingService(), SetStatus()).described


@asynccontextmanager
async def running_gateway(**limits: int) -> AsyncIterator[Rig]:
    """A gateway with the default limits, but for those given."""
    service, node = RecordingService(), SetStatus()
    gateway = make_gateway(service, node, **limits)
    address = await gateway.start(Address("127.0.0.1", 0))
    async with aiohttp.ClientSession() as session:
        try:
            yield Rig(gateway, service, node, address, session)
        finally:
            await gateway.drain(0)
    assert not gateway.mistakes, "\n".join(gateway.mistakes)


async def until(is_true: Callable[[], bool]) -> None:
    """Waits until the condition holds, at most five seconds."""
    async with asyncio.timeout(5):
        while not is_true():  # noqa: ASYNC110 (any condition, not one that signals)
            await asyncio.sleep(0)


async def exchange(address: Address, data: bytes) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        async with asyncio.timeout(5):
            writer.write(data)
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
