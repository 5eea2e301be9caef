"""Which handler answers a method and path.

What lives here: the table of routes, and the call and answer that handlers see.
Rules: a route's pattern is its name in documents and metrics. Path segments are decoded once, after the split, so an
encoded slash never changes the route. A known path with another method is 405 with `Allow`, anything else 404.
Must not know: aiohttp, the broker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote

from falconq_cluster.errors import FalconQError

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `index` is the log index that it shows, None for the node's applied one."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    index: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Call(Protocol):
    """One request, as handlers see it."""

    @property
    def method(self) -> str: ...

    @property
    def route(self) -> Route: ...

    @property
    def topic(self) -> str:
        """The path's topic, decoded, not judged yet; empty when the route has none."""

    @property
    def query(self) -> str:
        """The query string as it came."""

    @property
    def deadline_ms(self) -> int:
        """`Clock.monotonic_ms` when the answer is due."""

    def header(self, name: str) -> str | None:
        """The header's value, the first of several; None when it isn't there."""

    def headers(self, name: str) -> Sequence[str]:
        """All values of the header."""

    async def body(self) -> bytes:
        """The whole body, bounded while it is read. Raises: body_too_large, request_timeout."""


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path with at most one variable, `{topic}`, as its last part or the one before, and its methods."""

    methods: tuple[str, ...]
    pattern: str
    handler: Handler
    is_probe: bool = False
    """Answered also when the node has too much to do."""


class Router:
    """Finds routes by their segments."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = tuple(routes)
        self._fixed = {route.pattern: route for route in routes if "{" not in route.pattern}
        self._with_topic: dict[tuple[str, str], Route] = {}
        for route in routes:
            if "{" in route.pattern:
                prefix, _, action = route.pattern.partition("/{topic}")
                self._with_topic[prefix, action.removeprefix("/")] = route

    def find(self, method: str, raw_path: str) -> tuple[Route, str]:
        """The route and the path's topic. Raises: route_not_found, method_not_allowed."""
        parts = raw_path.split("/")
        topic = ""
        route = self._fixed.get(raw_path)
        if route is None and len(parts) == 4:  # noqa: PLR2004 ("", prefix, topic, action)
            route = self._with_topic.get((f"/{parts[1]}", parts[3]))
            topic = parts[2]
            if route is None:
                route = self._with_topic.get((f"/{parts[1]}/{parts[2]}", ""))
                topic = parts[3]
        if route is None:
            known = ", ".join(sorted({known.pattern for known in self.routes}))
            raise FalconQError("route_not_found", f"there is no route {raw_path[:200]}; there are: {known}")
        if method not in route.methods:
            allowed = ", ".join(route.methods)
            raise FalconQError(
                "method_not_allowed",
                f"{route.pattern} answers {allowed}, not {method[:20]}",
                details={"allow": allowed},
            )
        if "%" in topic:
            topic = _decode(topic)
        return route, topic


def _decode(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise FalconQError("bad_request", f"the path segment '{segment[:80]}' is not UTF-8 when decoded") from error
