"""Every route, parameter, field and status is described, and an answer that is not described is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from falconq_cluster.errors import ERROR_CODES
from falconq_cluster.gateway.describing import VARIABLES, Operation
from falconq_cluster.gateway.openapi import document, each_operation
from tests.unit.gateway.described import OF_EVERY_PATH, Described
from tests.unit.gateway.rig import Rig

NOT_GIVEN_YET: set[str] = set()
"""Codes that no route answers yet, as docs/errors.md says."""
OF_ITEMS = {"lease_lost"}
"""Codes that only parts of an answer have."""
PROBLEM = {
    "type": "urn:falconq:problem:no_leader",
    "title": "t",
    "status": 503,
    "detail": "d",
    "code": "no_leader",
    "retryable": True,
    "message": "d",
    "details": {},
}
DELETED = {"status": "topic deleted", "topic": "t"}


@pytest.fixture
def told(rig: Rig) -> dict[str, Any]:
    """The document, as a client reads it."""
    return json.loads(json.dumps(document(rig.gateway.router.routes)))  # type: ignore[no-any-return]


@pytest.fixture
def operations(rig: Rig) -> list[Operation]:
    return [operation for _, _, operation in each_operation(rig.gateway.router.routes)]


def test_the_document_is_valid_openapi(told: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(told).validate()


def test_every_route_is_in_the_document_with_each_of_its_methods(rig: Rig, told: dict[str, Any]) -> None:
    wanted = {route.pattern: {method.lower() for method in route.methods} for route in rig.gateway.router.routes}
    assert {path: set(methods) for path, methods in told["paths"].items()} == wanted


def test_every_operation_has_an_id_of_its_own(told: dict[str, Any]) -> None:
    ids = [operation["operationId"] for methods in told["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_every_variable_of_a_path_is_described(rig: Rig) -> None:
    for route in rig.gateway.router.routes:
        for segment in route.pattern.split("/"):
            if segment.startswith("{"):
                assert segment[1:-1] in VARIABLES, (
                    f"{route.pattern}: add {segment} to VARIABLES of gateway/describing.py"
                )


def test_every_code_is_given_by_some_route_and_is_known(operations: list[Operation]) -> None:
    given = {code for operation in operations for code in operation.all_problems()}
    assert given <= ERROR_CODES.keys()
    missing = ERROR_CODES.keys() - given - NOT_GIVEN_YET - OF_ITEMS - set(OF_EVERY_PATH.values())
    assert not missing, f"{missing}: add it to `problems` of the Operation of each route that answers it"
    assert not given & NOT_GIVEN_YET, "take it out of NOT_GIVEN_YET, and out of the sentence in docs/errors.md"


def test_every_parameter_field_and_answer_says_what_it_is(told: dict[str, Any]) -> None:
    silent = [
        *(f"parameter {name}: give its declaration a `text`" for name in silent_parameters(told)),
        *(
            f"{place}: write `Annotated[…, says('what it is')]` of gateway/describing.py"
            for place in silent_fields(told, "")
        ),
    ]
    assert not silent, "\n".join(silent)


def silent_parameters(told: dict[str, Any]) -> Iterator[str]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            for parameter in operation["parameters"]:
                if len(parameter["description"].split()) < 2:
                    yield f"{method} {path} {parameter['name']}"


def silent_fields(schema: Any, place: str) -> Iterator[str]:
    """Named properties without a description, at any depth."""
    if isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from silent_fields(part, f"{place}/{number}")
    elif isinstance(schema, dict):
        for name, part in schema.items():
            yield from silent_fields(part, f"{place}/{name}")
        is_of_problems = "allOf" in place  # Of the code and the status, which `Problem` tells of.
        for name, part in schema.get("properties", {}).items() if not is_of_problems else ():
            if "$ref" not in part and len(part.get("description", "").split()) < 2:
                yield f"{place}/{name}"


def test_a_field_without_a_sentence_is_found() -> None:
    schema = {"A": {"properties": {"told": {"description": "What it is."}, "silent": {"type": "string"}}}}
    assert list(silent_fields(schema, "")) == ["/A/silent"]


@pytest.mark.parametrize(
    ("method", "target", "status", "headers", "body", "says"),
    [
        ("DELETE", "/v1/topics/t", 200, {}, DELETED, None),
        ("DELETE", "/v1/topics/t", 503, {"Retry-After": "1"}, PROBLEM, None),
        ("DELETE", "/v1/topics/t", 418, {}, PROBLEM, "the route declares 200, 400"),
        ("DELETE", "/v1/topics/t", 429, {}, PROBLEM, '"no_leader" is not one of "overloaded"'),
        ("DELETE", "/v1/topics/t", 200, {}, DELETED | {"more": 1}, "'more' was unexpected"),
        ("DELETE", "/v1/topics/t", 200, {}, {"topic": "t"}, '"status" is a required property'),
        ("DELETE", "/v1/topics/t", 200, {}, DELETED | {"topic": 1}, '$.topic: 1 is not of type "string"'),
        ("DELETE", "/v1/topics/t", 200, {"Link": "<>"}, DELETED, "header Link is not declared"),
        ("DELETE", "/v1/topics/t", 200, {"Content-Type": "text/html"}, DELETED, "text/html is not declared"),
        ("POST", "/v1/topics/t", 200, {}, DELETED, "no such operation"),
        ("GET", "/v1/nowhere", 200, {}, {}, "no such operation"),
    ],
)
def test_what_an_answer_has_and_the_document_has_not_is_found(
    told: dict[str, Any],
    method: str,
    target: str,
    status: int,
    headers: dict[str, str],
    body: dict[str, Any],
    says: str | None,
) -> None:
    kind = "application/json" if status < 400 else "application/problem+json"
    found = Described(told).mistakes(
        method=method,
        target=target,
        status=status,
        headers={"Content-Type": kind} | headers,
        body=json.dumps(body).encode(),
    )
    assert (not found) if says is None else any(says in mistake for mistake in found), found


async def test_a_parameter_that_is_not_declared_is_refused_with_those_that_are(rig: Rig) -> None:
    for route, method, operation in each_operation(rig.gateway.router.routes):
        path = "/".join("orders" if part.startswith("{") else part for part in route.pattern.split("/"))
        if operation.is_probe or method == "HEAD":
            continue  # Probes answer whatever they are asked with.
        async with rig.session.request(method, f"{rig.url}{path}?nothing=1") as response:
            assert response.status == 400, route.pattern
            detail = (await response.json(content_type=None))["detail"]
        known = ", ".join(parameter.name for parameter in operation.parameters)
        assert detail.endswith(f"known here: {known}" if known else "there are none here"), detail


async def test_the_document_is_served_and_is_not_sent_again_while_it_is_the_same(
    rig: Rig, told: dict[str, Any]
) -> None:
    url = f"{rig.url}/v1/openapi.json"
    async with rig.session.get(url) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        tag = response.headers["ETag"]
        assert await response.json() == told
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        async with rig.session.get(url, headers={"If-None-Match": known}) as response:
            assert (response.status, response.headers["ETag"], await response.read()) == (304, tag, b"")
            assert "Content-Length" not in response.headers
    async with rig.session.get(url, headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200
    async with rig.session.head(url) as response:
        assert (response.status, response.headers["ETag"]) == (200, tag)


async def test_a_request_of_all_examples_together_works(rig: Rig, told: dict[str, Any]) -> None:
    """As the page at /v1/docs puts it into a curl command."""
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            given = {
                place: {
                    parameter["name"]: str(parameter["example"])
                    for parameter in operation["parameters"]
                    if parameter["in"] == place and "example" in parameter
                }
                for place in ("path", "query", "header")
            }
            contents = operation.get("requestBody", {}).get("content", {}).items()
            kind, body = next(((kind, each["example"]) for kind, each in contents if "example" in each), ("", ""))
            async with rig.session.request(
                method,
                rig.url + path.format(**given["path"]),
                params=given["query"],
                headers=given["header"] | ({"Content-Type": kind} if kind else {}),
                data=body if isinstance(body, str) else json.dumps(body),
            ) as response:
                assert response.status < 300, (
                    f"{method} {path}: {await response.text()}; an `example` of its Operation does not work"
                )
