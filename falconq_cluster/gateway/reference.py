"""The reference of all routes, for programs: /v1/openapi.json.

What lives here: the route that answers the document, and what revalidates it.
Rules: the document is made once. Its ETag is made of its bytes, so nodes of one version and one configuration agree.
Must not know: aiohttp, how the document is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property

import msgspec

from falconq_cluster.gateway.describing import JSON, Operation, Reply, Text
from falconq_cluster.gateway.openapi import document
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route

READ = ("GET", "HEAD")
IF_NONE_MATCH = Text(name="If-None-Match", text="An `ETag` as it was given: 304 when it is still the same.")
REVALIDATE = {"Cache-Control": "no-cache"}
"""Kept by caches, but asked for each time whether it is still the same: a new version has another."""

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


class ReferenceRoutes:
    """The handlers, over the table that they stand in."""

    def __init__(self, all_routes: Callable[[], Sequence[Route]]) -> None:
        self._all_routes = all_routes

    def routes(self) -> list[Route]:
        return [Route(READ, "/v1/openapi.json", self.openapi, OPENAPI)]

    @cached_property
    def _document(self) -> tuple[bytes, str]:
        """The document, and its ETag."""
        body = msgspec.json.encode(document(self._all_routes()))
        return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def openapi(self, call: Call) -> Answer:
        Query(call.query, call.operation.parameters)
        body, tag = self._document
        return revalidated(call, body, tag, JSON)


def revalidated(call: Call, body: bytes, tag: str, content_type: str) -> Answer:
    """The body, or 304 when the client has it already (RFC 9110 section 13.1.2)."""
    headers = {"ETag": tag} | REVALIDATE
    known = [part.strip().removeprefix("W/") for part in (call.header(IF_NONE_MATCH.name) or "").split(",")]
    if tag in known or known == ["*"]:
        return Answer(b"", status=304, headers=headers)
    return Answer(body, content_type=content_type, headers=headers)
