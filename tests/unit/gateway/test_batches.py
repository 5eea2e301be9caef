"""Many messages in one request: how it is split, what each one is answered, what is refused as a whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from falconq_cluster.broker.requests import PublishRequest
from falconq_cluster.errors import FalconQError
from tests.unit.gateway.rig import Rig, running_gateway

PATH = "/v1/topics/t/messages:batch"
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


async def post(rig: Rig, body: bytes, headers: dict[str, str] = JSON) -> tuple[int, dict[str, Any]]:
    async with rig.session.post(rig.url + PATH, data=body, headers=headers) as response:
        return response.status, await response.json()


def published(rig: Rig) -> list[PublishRequest]:
    return [request for request in rig.service.requests if isinstance(request, PublishRequest)]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'[{"message": 1}, {"message": {"a":  2}, "priority": "high"}]', JSON),
        (b'{"message": 1}\n\n{"message": {"a":  2}, "priority": "high"}\r\n', NDJSON),
        (b'{"message": 1}\n{"message": {"a":  2}, "priority": "high"}', {"Content-Type": "application/x-ndjson; a=b"}),
    ],
)
async def test_an_array_and_lines_are_the_same_messages_in_their_order(body: bytes, headers: dict[str, str]):
    async with running_gateway() as rig:
        status, answer = await post(rig, body, headers)
        assert (status, [result["offset"] for result in answer["results"]]) == (200, [4, 4])
        assert [(r.message, r.priority) for r in published(rig)] == [(b"1", None), (b'{"a":  2}', "high")]


async def test_each_message_is_judged_for_itself():
    async with running_gateway() as rig:
        body = [{"message": 1}, {"massage": 2}, 3, {"message": 4, "priority": True}, {"message": 5}]
        status, answer = await post(rig, json.dumps(body).encode())
        codes = [result.get("code") for result in answer["results"]]
        assert (status, codes) == (200, [None, "unknown_field", "bad_request", "bad_request", None])
        assert "massage" in answer["results"][1]["detail"]
        assert [request.message for request in published(rig)] == [b"1", b"5"]


async def test_what_the_broker_refuses_is_a_result_and_no_error_of_the_request():
    async with running_gateway() as rig:
        rig.service.error = FalconQError("no_leader", "there is none")
        status, answer = await post(rig, b'[{"message": 1}, {"message": 2}]')
        assert (status, [result["code"] for result in answer["results"]]) == (200, ["no_leader", "no_leader"])
        assert all(result["retryable"] for result in answer["results"])


async def test_a_key_of_the_batch_gives_each_message_its_own():
    async with running_gateway() as rig:
        body = b'[{"message": 1}, {"message": 2, "producer": {"id": "p", "sequence": 1}}, {"message": 3}]'
        _, answer = await post(rig, body, JSON | {"Idempotency-Key": "k"})
        assert [request.idempotency_key for request in published(rig)] == ["k.0", "k.2"]
        assert "give one of them" in answer["results"][1]["detail"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", JSON, 400, "not a JSON array"),
        (b"{}", JSON, 400, "not a JSON array"),
        (b"[1", JSON, 400, "not a JSON array"),
        (b"[" * 200_000, JSON, 400, "not a JSON array"),
        (b"[]", JSON, 400, "1 to 10000"),
        (b"\n \n", NDJSON, 400, "1 to 10000"),
        (b"1\n" * 10_001, NDJSON, 400, "1 to 10000"),
        (b"[1]", JSON | {"FalconQ-Key": "k"}, 400, "is for raw bodies"),
        (b"[1]", JSON | {"FalconQ-Delay-Ms": "5"}, 400, "not known"),
        (b"[1]", JSON | {"Idempotency-Key": "k" * 251}, 400, "at most"),
        (b"[1]", JSON | {"Content-Encoding": "gzip"}, 415, "without compression"),
        (b"[1]", {"Content-Type": "text/plain"}, 415, "application/json"),
    ],
)
async def test_what_is_no_batch_is_refused_as_a_whole(body: bytes, headers: dict[str, str], status: int, says: str):
    async with running_gateway() as rig:
        found, answer = await post(rig, body, headers)
        assert (found, says in answer["detail"]) == (status, True), answer["detail"]
        assert rig.service.requests == []


async def test_a_batch_has_a_bound_of_its_own():
    async with running_gateway(body_bytes_max=2048, batch_bytes_max=8192) as rig:
        message = json.dumps({"message": "x" * 1000}).encode()
        assert (await post(rig, b"[" + b",".join([message] * 7) + b"]"))[0] == 200
        status, answer = await post(rig, b"[" + b",".join([message] * 9) + b"]")
        assert (status, answer["code"]) == (413, "body_too_large")
