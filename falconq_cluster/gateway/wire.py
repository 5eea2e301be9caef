"""One request and one answer on an HTTP/1.1 connection.

What lives here: a call over aiohttp's low-level request, and an answer that goes out as one write.
Rules: a body is never held beyond its limit, also while it comes. An answer's head is formed here and not by
`web.Response`, which takes longer than all else that a small publish needs.
Must not know: routes, fields, the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from http import HTTPStatus

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.routing import Answer, Route

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
WITHOUT_BODY = (204, 304)
"""Statuses whose answers have none, and say nothing of its length (RFC 9110 section 8.6)."""


class HttpCall:
    """A request, as handlers see it."""

    __slots__ = (
        "_body_bytes_max",
        "_body_timeout_ms",
        "_request",
        "_variables",
        "deadline_ms",
        "method",
        "operation",
        "query",
        "route",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        route: Route,
        variables: Mapping[str, str],
        *,
        deadline_ms: int,
        body_bytes_max: int,
        body_timeout_ms: int,
    ) -> None:
        self._request = request
        self._body_bytes_max = body_bytes_max
        self._body_timeout_ms = body_timeout_ms
        self.method = request.method
        self.route = route
        self.operation = route.operation(request.method)
        self._variables = variables
        self.query = request.rel_url.raw_query_string
        self.deadline_ms = deadline_ms

    @property
    def topic(self) -> str:
        return self._variables.get("topic", "")

    def variable(self, name: str) -> str:
        return self._variables.get(name, "")

    def header(self, name: str) -> str | None:
        assert name in self.operation.readable_headers, f"{self.route.pattern} does not declare {name}"
        return self._request.headers.get(name)

    def headers(self, name: str) -> Sequence[str]:
        assert name in self.operation.readable_headers, f"{self.route.pattern} does not declare {name}"
        return self._request.headers.getall(name, ())

    def prefixed_headers(self) -> Sequence[tuple[str, str]]:
        prefix = self.operation.header_prefix
        if not prefix:
            return ()
        named = ((name.lower(), value) for name, value in self._request.headers.items())
        return [(name, value) for name, value in named if name.startswith(prefix)]

    async def body(self) -> bytes:
        """The whole body. Raises: body_too_large before more than the limit is held, request_timeout."""
        request = self._request
        if (request.content_length or 0) > self._body_bytes_max:
            raise self._too_large(f"{request.content_length} bytes")
        try:
            if request.content.is_eof():
                # The usual case: a small body came in one packet with its head, and nothing is to be waited for.
                data = request.content.read_nowait()
                self._check_size(len(data))
                return data
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(CONTINUE)
            async with asyncio.timeout(self._body_timeout_ms / 1000):
                return await self._read()
        except TimeoutError as error:
            message = f"the body did not come whole within {self._body_timeout_ms} ms; send it faster"
            raise FalconQError("request_timeout", message) from error
        except web.RequestPayloadError as error:
            raise FalconQError("bad_request", f"the body broke off or is not framed as HTTP asks: {error}") from error

    async def _read(self) -> bytes:
        data = bytearray()
        while chunk := await self._request.content.readany():
            data += chunk
            self._check_size(len(data))
        return bytes(data)

    def _check_size(self, size: int) -> None:
        if size > self._body_bytes_max:
            raise self._too_large("more")

    def _too_large(self, size: str) -> FalconQError:
        return FalconQError(
            "body_too_large",
            f"the body has {size}, the limit is {self._body_bytes_max} bytes; send a smaller message",
            details={"bodyBytesMax": self._body_bytes_max},
        )


class WireAnswer(web.StreamResponse):
    """An answer as aiohttp's connection handler wants it: `prepare`, `write_eof` and `keep_alive` are all it uses."""

    def __init__(self, request: web.BaseRequest, answer: Answer, head: str, *, closes: bool) -> None:
        self._wire_request = request
        self._answer = answer
        self._wire_head = head
        self._closes = closes or not request.keep_alive

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open."""
        return not self._closes

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to do before the one write."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Head and body leave in one write."""
        answer = self._answer
        request = self._wire_request
        if self._closes:
            connection = "Connection: close\r\n"
        else:
            connection = "" if request.version[1] else "Connection: keep-alive\r\n"
        if answer.status in WITHOUT_BODY:
            content = ""
        else:
            content = f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
        head = (
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
            f"{content}{self._wire_head}{connection}Date: {rfc822_formatted_time()}\r\n\r\n"
        ).encode("latin-1")
        await request.writer.write(head if request.method == "HEAD" else head + answer.body + data)


class WireStream(WireAnswer):
    """An answer that goes out part by part, until its connection closes."""

    def __init__(
        self, request: web.BaseRequest, answer: Answer, head: str, held: AbstractContextManager[None], *, stall_ms: int
    ) -> None:
        super().__init__(request, answer, head, closes=True)
        self._stall_ms = stall_ms
        self._held = held
        """Entered while the answer goes out."""

    async def write_eof(self, data: bytes = b"") -> None:
        """The head, then each part as it comes. A client that goes ends the stream, or that takes nothing for long."""
        answer = self._answer
        assert answer.stream is not None
        head = (
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\nContent-Type: {answer.content_type}\r\n"
            f"{self._wire_head}Connection: close\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        ).encode("latin-1")
        with self._held:
            async with aclosing(answer.stream) as parts:
                await self._write(head)
                async for part in parts:
                    await self._write(part + data)

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._stall_ms / 1000):
                await self._wire_request.writer.write(data)
        except TimeoutError as error:
            # As if the client had gone: what is kept for it is let go.
            raise ConnectionResetError("the client takes nothing") from error
