"""The reference of all routes: /v1/openapi.json for programs, /v1/docs for people.

What lives here: the routes that answer the document and the page, and what revalidates them.
Rules: the document is made once. An ETag is made of the bytes, so nodes of one version and one configuration agree. The
page asks this node for the document and nobody else for anything.
Must not know: aiohttp, how the document is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files

import msgspec

from falconq_cluster.gateway.describing import JSON, Operation, Reply, Text
from falconq_cluster.gateway.openapi import document
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route

READ = ("GET", "HEAD")
IF_NONE_MATCH = Text(name="If-None-Match", text="An `ETag` as it was given: 304 when it is still the same.")
NONE: Mapping[str, str] = {}
REVALIDATE = {"Cache-Control": "no-cache"}
"""Kept by caches, but asked for each time whether it is still the same: a new version has another."""

HTML = "text/html; charset=utf-8"
POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""The page's own script is in it, and puts nothing from elsewhere into it but as text."""

OPENAPI = Operation(
    id="getOpenapi",
    summary="This document",
    tag="Operations",
    headers=(IF_NONE_MATCH,),
    replies=(
        Reply(text="All routes, by OpenAPI 3.1.", body={"type": "object"}, headers=("ETag", "Cache-Control")),
        Reply(text="It is still the same.", status=304, headers=("ETag", "Cache-Control")),
    ),
)
DOCS = Operation(
    id="getDocs",
    summary="This document as a page for people",
    tag="Operations",
    headers=(IF_NONE_MATCH,),
    replies=(
        Reply(
            text="The page; all of it comes from this node.",
            body={"type": "string"},
            content_type=HTML,
            headers=("ETag", "Cache-Control", "Content-Security-Policy"),
        ),
        Reply(text="It is still the same.", status=304, headers=("ETag", "Cache-Control", "Content-Security-Policy")),
    ),
)


class ReferenceRoutes:
    """The handlers, over the table that they stand in."""

    def __init__(self, all_routes: Callable[[], Sequence[Route]]) -> None:
        self._all_routes = all_routes

    def routes(self) -> list[Route]:
        return [Route(READ, "/v1/openapi.json", self.openapi, OPENAPI), Route(READ, "/v1/docs", self.docs, DOCS)]

    @cached_property
    def _document(self) -> tuple[bytes, str]:
        """The document, and its ETag."""
        return _tagged(msgspec.json.encode(document(self._all_routes())))

    @cached_property
    def _page(self) -> tuple[bytes, str]:
        """The page, and its ETag."""
        return _tagged(files(__package__).joinpath("static", "docs.html").read_bytes())

    async def openapi(self, call: Call) -> Answer:
        Query(call.query, call.operation.parameters)
        return _revalidated(call, self._document, JSON)

    async def docs(self, call: Call) -> Answer:
        Query(call.query, call.operation.parameters)
        return _revalidated(call, self._page, HTML, POLICY)


def _tagged(body: bytes) -> tuple[bytes, str]:
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _revalidated(call: Call, tagged: tuple[bytes, str], content_type: str, more: Mapping[str, str] = NONE) -> Answer:
    """The body, or 304 when the client has it already (RFC 9110 section 13.1.2)."""
    body, tag = tagged
    headers = {"ETag": tag, **REVALIDATE, **more}
    known = [part.strip().removeprefix("W/") for part in (call.header(IF_NONE_MATCH.name) or "").split(",")]
    if tag in known or known == ["*"]:
        return Answer(b"", status=304, headers=headers)
    return Answer(body, content_type=content_type, headers=headers)
