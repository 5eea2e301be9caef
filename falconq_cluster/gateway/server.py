"""The HTTP server of a node.

What lives here: `Gateway`, which listens, dispatches, turns errors into answers, and drains.
Rules: connections, requests in progress and every part of a request are bounded. An error that no route foresaw is
answered as `internal` and logged, never shown. A client that goes away cancels its own wait and nothing else. Every
answer names the node, the leader and the log index that it shows.
Must not know: what routes do, the log, the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from falconq_cluster.clock import Clock
from falconq_cluster.config import Address
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.answers import PROBLEM_JSON, RETRY_AFTER_SECONDS, encode_problem
from falconq_cluster.gateway.backups import BackupRoutes
from falconq_cluster.gateway.batches import BatchRoutes
from falconq_cluster.gateway.consumers import ConsumerRoutes
from falconq_cluster.gateway.describing import RETRY_STATUSES
from falconq_cluster.gateway.events import EventRoutes
from falconq_cluster.gateway.leases import LeaseRoutes
from falconq_cluster.gateway.message import SingleMessageRoutes
from falconq_cluster.gateway.messages import MessageRoutes
from falconq_cluster.gateway.operations import OperationRoutes
from falconq_cluster.gateway.reference import ReferenceRoutes
from falconq_cluster.gateway.routing import Answer, Route, Router
from falconq_cluster.gateway.seams import NodeStatus, Service
from falconq_cluster.gateway.seed import SeedRoutes
from falconq_cluster.gateway.topics import TopicRoutes
from falconq_cluster.gateway.wire import HttpCall, WireAnswer, WireStream
from falconq_cluster.telemetry import Counter, Histogram, Metrics

log = structlog.get_logger(__name__)

NO_ROUTE = "none"
"""Label of requests to unknown routes."""
BACKLOG = 1024
LEAVE_MS = 300
"""How long a stopping node still answers on open connections: a busy client's next request comes sooner."""
LEAVE_POLL_S = 0.02
HEADERS_MAX = 64
LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read away, so that the client sees the refusal and not a reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """What a client may use; meanings and defaults are in docs/configuration.md."""

    body_bytes_max: int
    batch_bytes_max: int
    json_depth_max: int
    request_line_bytes_max: int
    header_bytes_max: int
    request_timeout_ms: int
    long_poll_ms_max: int
    connections_max: int
    requests_max: int
    keepalive_ms: int


class Gateway:
    """Serves one node's routes."""

    def __init__(
        self, *, service: Service, node: NodeStatus, clock: Clock, metrics: Metrics, limits: GatewayLimits
    ) -> None:
        self._service = service
        self._node = node
        self._clock = clock
        self._metrics = metrics
        self._limits = limits
        self._is_draining = False
        self._counted: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._busy: set[RequestHandler] = set()
        """Connections with a request in progress; each has at most one."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._listener: asyncio.Server | None = None
        self._server: _BoundedServer | None = None
        seed = SeedRoutes(service, long_poll_ms_max=limits.long_poll_ms_max, json_depth_max=limits.json_depth_max)
        operations = OperationRoutes(node, metrics, lambda: self._is_draining, json_depth_max=limits.json_depth_max)
        backups = BackupRoutes(service, node, lambda: self._is_draining)
        topics = TopicRoutes(service, json_depth_max=limits.json_depth_max)
        messages = MessageRoutes(service, json_depth_max=limits.json_depth_max)
        message = SingleMessageRoutes(service, json_depth_max=limits.json_depth_max)
        batches = BatchRoutes(service, json_depth_max=limits.json_depth_max, batch_bytes_max=limits.batch_bytes_max)
        reference = ReferenceRoutes(lambda: self.router.routes)
        events = EventRoutes(service)
        leases = LeaseRoutes(service, long_poll_ms_max=limits.long_poll_ms_max, json_depth_max=limits.json_depth_max)
        consumers = ConsumerRoutes(service, json_depth_max=limits.json_depth_max)
        groups = (seed, topics, messages, message, batches, consumers, leases, events, backups, operations, reference)
        self.router = Router([route for group in groups for route in group.routes()])
        metrics.before_scrape(self._update_gauges)

    @property
    def inflight_count(self) -> int:
        """Requests in progress."""
        return len(self._busy)

    async def start(self, address: Address) -> Address:
        """Listens, and returns the address with the port that the system chose. Raises: OSError."""
        limits = self._limits
        loop = asyncio.get_running_loop()
        self._server = _BoundedServer(
            self._handle,
            self._answer_unparsed,
            limits.connections_max,
            handler_cancellation=True,
            keepalive_timeout=limits.keepalive_ms / 1000,
            max_line_size=limits.request_line_bytes_max,
            max_field_size=limits.header_bytes_max,
            max_headers=HEADERS_MAX,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            access_log=None,
        )
        self._listener = await loop.create_server(cast(Any, self._server), address.host, address.port, backlog=BACKLOG)
        port = self._listener.sockets[0].getsockname()[1]
        return Address(address.host, port)

    async def drain(self, within_ms: int) -> None:
        """Takes no new connection, finishes what it has for at most `within_ms`, then closes everything."""
        self._is_draining = True
        self._service.end_waits()
        if self._listener is None or self._server is None:
            return
        self._listener.close()
        await self._let_clients_leave(min(within_ms, LEAVE_MS))
        for connection in self._server.connections:
            # A closed connection takes no more bytes, and a busy one may still wait for the rest of its body.
            if connection not in self._busy:
                connection.force_close()
        try:
            async with asyncio.timeout(within_ms / 1000):
                await self._is_idle.wait()
        except TimeoutError:
            log.warning("requests_were_cut_off", count=self.inflight_count)
        await self._server.shutdown(timeout=0.2)
        await self._listener.wait_closed()
        self._listener = self._server = None

    async def _let_clients_leave(self, within_ms: int) -> None:
        """Clients of kept connections get one more answer, which says that the connection closes.

        Else a request that crosses the close would end without an answer, its outcome unknown.
        """
        until_ms = self._clock.monotonic_ms() + within_ms
        server = self._server
        while server is not None and server.connections and self._clock.monotonic_ms() < until_ms:  # noqa: ASYNC110
            await asyncio.sleep(LEAVE_POLL_S)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started_ms = self._clock.monotonic_ms()
        with self._in_progress(request.protocol):
            route, answer = await self._answer(request, started_ms)
        self._count(route, answer, started_ms)
        if answer.stream is not None:
            head, held = self._head(answer), self._in_progress(request.protocol)
            return WireStream(request, answer, head, held, stall_ms=self._limits.request_timeout_ms)
        return WireAnswer(request, answer, self._head(answer), closes=self._is_draining)

    async def _answer(self, request: web.BaseRequest, started_ms: int) -> tuple[Route | None, Answer]:
        """The answer, and the route that gave it."""
        route: Route | None = None
        try:
            route, variables = self.router.find(request.method, request.rel_url.raw_path)
            if self.inflight_count > self._limits.requests_max and not route.is_probe:
                raise FalconQError(
                    "overloaded", f"the node has {self._limits.requests_max} requests in progress; try again shortly"
                )
            call = HttpCall(
                request,
                route,
                variables,
                deadline_ms=started_ms + self._limits.request_timeout_ms,
                body_bytes_max=route.body_bytes_max or self._limits.body_bytes_max,
                body_timeout_ms=self._limits.request_timeout_ms,
            )
            answer = await route.handler(call)
        except FalconQError as error:
            answer = _problem(error)
        except Exception:
            log.exception("request_failed", method=request.method, route=route.pattern if route else NO_ROUTE)
            answer = _problem(FalconQError("internal", "the node met a defect of its own; its log has the details"))
        return route, answer

    @contextmanager
    def _in_progress(self, connection: RequestHandler) -> Iterator[None]:
        self._busy.add(connection)
        self._is_idle.clear()
        try:
            yield
        finally:
            self._busy.discard(connection)
            if not self._busy:
                self._is_idle.set()

    def _answer_unparsed(self, request: web.BaseRequest, status: int, reason: str) -> web.StreamResponse:
        """The answer to bytes that are not a request: the connection's framing is lost, so it closes."""
        if status >= 500:  # noqa: PLR2004
            error = FalconQError("internal", "the node met a defect of its own; its log has the details")
        else:
            error = FalconQError("bad_request", f"the request is not HTTP as this node reads it: {reason[:200]}")
        answer = _problem(error)
        self._count(None, answer, self._clock.monotonic_ms())
        return WireAnswer(request, answer, self._head(answer), closes=True)

    def _head(self, answer: Answer) -> str:
        """The headers that all answers carry, and the answer's own."""
        node = self._node
        index = node.applied_index if answer.index is None else answer.index
        head = f"FalconQ-Index: {index}\r\nFalconQ-Node: {node.node_id}\r\n"
        if node.leader is not None:
            head += f"FalconQ-Leader: {node.leader}\r\n"
        for name, value in answer.headers.items():
            head += f"{name}: {value}\r\n"
        return head

    def _count(self, route: Route | None, answer: Answer, started_ms: int) -> None:
        pattern = NO_ROUTE if route is None else route.pattern
        counted = self._counted.get((pattern, answer.status))
        if counted is None:
            # Kept, because to find a labelled metric costs more than to count: there are few routes and statuses.
            metrics = self._metrics
            counted = metrics.http_requests.labels(pattern, str(answer.status)), metrics.http_latency.labels(pattern)
            self._counted[pattern, answer.status] = counted
        requests, latency = counted
        requests.inc()
        latency.observe((self._clock.monotonic_ms() - started_ms) / 1000)

    def _update_gauges(self) -> None:
        self._metrics.http_inflight.set(self.inflight_count)
        self._metrics.http_open.set(0 if self._server is None else len(self._server.connections))


def _problem(error: FalconQError) -> Answer:
    headers: dict[str, str] = {}
    if error.code.status in RETRY_STATUSES:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if error.code.code == "method_not_allowed":
        headers["Allow"] = str(error.details["allow"])
    headers["Cache-Control"] = "no-store"
    return Answer(encode_problem(error), status=error.code.status, content_type=PROBLEM_JSON, headers=headers)


class _BoundedServer(web.Server):
    """aiohttp's low-level server with at most so many connections."""

    def __init__(self, handler: Any, answer_unparsed: Any, connections_max: int, **kwargs: Any) -> None:
        super().__init__(handler, handler_cancellation=kwargs.pop("handler_cancellation"))
        self._handler_arguments = kwargs
        self.answer_unparsed = answer_unparsed
        self.connections_max = connections_max

    def __call__(self) -> RequestHandler:
        """The handler of a new connection."""
        return _Connection(self, **self._handler_arguments)


class _Connection(RequestHandler):
    """One client connection; above the limit it is closed before anything is read."""

    __slots__ = ("_bounded",)

    def __init__(self, server: _BoundedServer, **kwargs: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **kwargs)
        self._bounded = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._bounded.connections) > self._bounded.connections_max:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what the parser refused in the shape of all other errors."""
        if exc is not None and status >= 500:  # noqa: PLR2004
            log.error("connection_failed", exc_info=exc)
        return cast(web.StreamResponse, self._bounded.answer_unparsed(request, status, message or str(exc)))
