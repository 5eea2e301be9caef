"""Which handler answers a method and path.

What lives here: the table of routes, and the call and answer that handlers see.
Rules: a route's pattern is its name in documents and metrics, and each of its methods is described. Path segments are
decoded once, after the split, so an encoded slash never changes the route. A known path with another method is 405 with
`Allow`, anything else 404.
Must not know: aiohttp, the broker.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Protocol
from urllib.parse import unquote

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.describing import JSON, Operation


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `index` is the log index that it shows, None for the node's applied one."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    index: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None
    """What comes instead of the body, part by part; the connection closes after it."""


class Call(Protocol):
    """One request, as handlers see it."""

    @property
    def method(self) -> str: ...

    @property
    def route(self) -> Route: ...

    @property
    def operation(self) -> Operation:
        """What the route declares of the call's method."""

    @property
    def topic(self) -> str:
        """The path's topic, decoded, not judged yet; empty when the route has none."""

    def variable(self, name: str) -> str:
        """What stands in the path for `{name}`, decoded, not judged yet; empty when the route has none."""

    @property
    def query(self) -> str:
        """The query string as it came."""

    @property
    def deadline_ms(self) -> int:
        """`Clock.monotonic_ms` when the answer is due."""

    def header(self, name: str) -> str | None:
        """The header's value, the first of several; None when it isn't there. Only of declared headers."""

    def headers(self, name: str) -> Sequence[str]:
        """All values of the header. Only of declared headers."""

    def prefixed_headers(self) -> Sequence[tuple[str, str]]:
        """(name in lower case, value) of each header with the declared prefix; none without one."""

    async def body(self) -> bytes:
        """The whole body, bounded while it is read. Raises: body_too_large, request_timeout."""


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path and its methods; a segment is as it stands, `messages:batch`, or wholly a variable, `{topic}`."""

    methods: tuple[str, ...]
    pattern: str
    handler: Handler
    describes: Operation | Mapping[str, Operation]
    """Method -> what it takes and gives, HEAD being GET; one alone stands for all methods."""
    body_bytes_max: int = 0
    """0 is the bound of all bodies."""

    def __post_init__(self) -> None:
        if not isinstance(self.describes, Operation):
            missing = ", ".join(sorted({*self.methods} - {"HEAD"} - self.describes.keys()))
            assert not missing, f"{self.pattern} says nothing of {missing}: add an Operation of gateway/describing.py"

    def operation(self, method: str) -> Operation:
        """What the method takes and gives."""
        if isinstance(self.describes, Operation):
            return self.describes
        return self.describes["GET" if method == "HEAD" else method]

    @property
    def is_probe(self) -> bool:
        """Answered also when the node has too much to do."""
        return self.operation(self.methods[0]).is_probe


@dataclass(slots=True)
class _Place:
    """What may follow one segment of a path."""

    route: Route | None = None
    fixed: dict[str, _Place] = field(default_factory=dict)
    variable: _Place | None = None


class Router:
    """Finds routes by their segments; a fixed segment wins over a variable."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = tuple(routes)
        self._fixed = {route.pattern: route for route in routes if "{" not in route.pattern}
        self._root = _Place()
        for route in routes:
            place = self._root
            for segment in route.pattern.split("/"):
                if segment.startswith("{"):
                    place.variable = place.variable or _Place()
                    place = place.variable
                else:
                    place = place.fixed.setdefault(segment, _Place())
            place.route = route

    def find(self, method: str, raw_path: str) -> tuple[Route, Mapping[str, str]]:
        """The route and its variables. Raises: route_not_found, method_not_allowed."""
        route = self._fixed.get(raw_path)
        segments: list[str] = []
        if route is None:
            segments = raw_path.split("/")
            route = _walk(self._root, segments, 0)
        if route is None:
            known = sorted({known.pattern for known in self.routes})
            near = ", ".join(get_close_matches(raw_path[:200], known, n=3, cutoff=0.0))
            message = f"there is no route {raw_path[:200]}; nearest are {near}, and GET /v1/docs shows all"
            raise FalconQError("route_not_found", message)
        if method not in route.methods:
            allowed = ", ".join(route.methods)
            raise FalconQError(
                "method_not_allowed",
                f"{route.pattern} answers {allowed}, not {method[:20]}",
                details={"allow": allowed},
            )
        names = route.pattern.split("/") if segments else []
        return route, {
            name[1:-1]: _decode(value) if "%" in value else value
            for name, value in zip(names, segments, strict=True)
            if name.startswith("{")
        }


def _walk(place: _Place, segments: Sequence[str], position: int) -> Route | None:
    """The route of the segments from `position` on; no deeper than the longest pattern."""
    if position == len(segments):
        return place.route
    following = place.fixed.get(segments[position])
    route = None if following is None else _walk(following, segments, position + 1)
    if route is None and place.variable is not None:
        route = _walk(place.variable, segments, position + 1)
    return route


def _decode(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise FalconQError("bad_request", f"the path segment '{segment[:80]}' is not UTF-8 when decoded") from error
