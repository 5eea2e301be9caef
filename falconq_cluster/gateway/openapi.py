"""The OpenAPI 3.1 document of all routes.

What lives here: how the declarations of describing.py become one document.
Rules: everything in it comes from what judges requests or makes answers; nothing is written here twice. The same routes
give the same bytes on every node.
Must not know: aiohttp, what routes do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from falconq_cluster import __version__
from falconq_cluster.errors import ERROR_CODES
from falconq_cluster.gateway.answers import PROBLEM_JSON
from falconq_cluster.gateway.describing import (
    ANSWER_HEADERS,
    HEADERS_OF_ALL,
    RETRY_STATUSES,
    VARIABLES,
    Body,
    Operation,
    Parameter,
    Reply,
    reference,
    schema_of,
    structs_of,
)
from falconq_cluster.gateway.fields import ProducerBody
from falconq_cluster.gateway.routing import Route
from falconq_cluster.gateway.shapes import Problem, PublishAnswer

TEXT = (
    "A replicated message broker with priority levels. Any node answers every route. Bodies and answers are JSON in "
    "UTF-8; what is not known, a field or a parameter, is refused with its name and never ignored; whole numbers are "
    "written without a fraction. An error is a "
    "problem by RFC 9457: programs decide by its `code` and by `retryable`. 503 means surely not applied; 504 means "
    "not known."
)
MENTIONED = (Problem, ProducerBody, PublishAnswer)
"""Structs that only other schemas name."""


def document(routes: Sequence[Route]) -> dict[str, object]:
    """What `GET /v1/openapi.json` answers."""
    operations = [operation for _, _, operation in each_operation(routes)]
    shapes = list(dict.fromkeys([*structs_of(operations), *MENTIONED]))
    _, schemas = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, object]] = {}
    for route, method, operation in each_operation(routes):
        paths.setdefault(route.pattern, {})[method.lower()] = _operation(route, method, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "FalconQ Cluster", "version": __version__, "description": TEXT},
        "servers": [{"url": "/", "description": "The node that gave this document."}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "headers": {
                name: {"description": text, "schema": schema} for name, (text, schema) in ANSWER_HEADERS.items()
            },
        },
    }


def each_operation(routes: Sequence[Route]) -> Iterator[tuple[Route, str, Operation]]:
    """Every method of every route."""
    for route in routes:
        for method in route.methods:
            yield route, method, route.operation(method)


def _operation(route: Route, method: str, operation: Operation) -> dict[str, object]:
    is_first = method == route.methods[0] or (not isinstance(route.describes, Operation) and method != "HEAD")
    variables = [segment[1:-1] for segment in route.pattern.split("/") if segment.startswith("{")]
    parameters = [
        *(_parameter(VARIABLES[name], "path") for name in variables),
        *(_parameter(parameter, "query") for parameter in operation.parameters),
        *(_parameter(header, "header") for header in operation.headers),
    ]
    described: dict[str, object] = {
        "operationId": operation.id if is_first else f"{operation.id}By{method.capitalize()}",
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": parameters,
        "responses": _responses(operation, has_bodies=method != "HEAD"),
    }
    if operation.text:
        described["description"] = operation.text
    if operation.body is not None:
        described["requestBody"] = _body(operation.body)
    return described


def _parameter(parameter: Parameter, place: str) -> dict[str, object]:
    described = {
        "name": parameter.name,
        "in": place,
        "description": parameter.text,
        "required": parameter.is_required,
        "schema": parameter.schema(),
    }
    return described if parameter.example is None else described | {"example": parameter.example}


def _body(body: Body) -> dict[str, object]:
    content = {
        kind: {"schema": schema_of(shape)} | ({"example": body.examples[kind]} if kind in body.examples else {})
        for kind, shape in body.content.items()
    }
    described = {"required": body.is_required, "content": content}
    return described | {"description": body.text} if body.text else described


def _responses(operation: Operation, *, has_bodies: bool) -> dict[str, object]:
    """Status -> answer. A status may be both, a reply and a problem: then both are described."""
    replies: dict[int, list[Reply]] = {}
    for reply in operation.replies:
        replies.setdefault(reply.status, []).append(reply)
    codes: dict[int, list[str]] = {}
    for code in operation.all_problems():
        codes.setdefault(ERROR_CODES[code].status, []).append(code)
    return {
        str(status): _response(replies.get(status, []), codes.get(status, []), has_bodies=has_bodies)
        for status in sorted({*replies, *codes})
    }


def _response(replies: Sequence[Reply], codes: Sequence[str], *, has_bodies: bool) -> dict[str, object]:
    """Replies of one status differ in their content type."""
    sentences = [reply.text for reply in replies]
    sentences += [f"`{code}`: {ERROR_CODES[code].title}." for code in codes]
    names = [*HEADERS_OF_ALL, *(name for reply in replies for name in reply.headers)]
    if codes:
        names += ["Cache-Control", *(["Retry-After"] if ERROR_CODES[codes[0]].status in RETRY_STATUSES else [])]
    described: dict[str, object] = {
        "description": " ".join(sentences),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in dict.fromkeys(names)},
    }
    content: dict[str, object] = {
        reply.content_type: {"schema": schema_of(reply.body)} for reply in replies if reply.body is not None
    }
    if codes:
        only = {"properties": {"code": {"enum": list(codes)}, "status": {"const": ERROR_CODES[codes[0]].status}}}
        content[PROBLEM_JSON] = {"schema": {"allOf": [reference(Problem), only]}}
    if content and has_bodies:
        described["content"] = content
    return described
