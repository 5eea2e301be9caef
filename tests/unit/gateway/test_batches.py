"""Many messages in one request: how it is split, what each one is answered, what is refused as a whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from falconq_cluster.broker.requests import PublishRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway import batches
from falconq_cluster.gateway.seed import publish_request
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
        (b"[1]", JSON | {"FalconQ-Delay-Ms": "5"}, 400, "is for raw bodies"),
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


ATOMIC = f"{PATH}?atomic=true"


async def post_atomic(rig: Rig, body: bytes, headers: dict[str, str] = JSON) -> tuple[int, Any, dict[str, Any]]:
    async with rig.session.post(rig.url + ATOMIC, data=body, headers=headers) as response:
        return response.status, response.headers, await response.json()


async def test_an_atomic_batch_is_one_request_with_one_key():
    async with running_gateway() as rig:
        body = b'[{"message": 1}, {"message": 2, "partitionID": 1, "expectedLastOffset": -1}]'
        status, _, answer = await post_atomic(rig, body, JSON | {"Idempotency-Key": "k"})
        assert (status, [result["offset"] for result in answer["results"]]) == (200, [4, 4])
        (batch,) = rig.service.batches
        assert (batch.idempotency_key, [message.idempotency_key for message in batch.messages]) == ("k", [None, None])
        assert [message.expected_last_offset for message in batch.messages] == [None, -1]
        rig.service.is_duplicate = True
        _, headers, _ = await post_atomic(rig, body, JSON | {"Idempotency-Key": "k"})
        assert headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    ("second", "code", "says"),
    [
        (b'{"massage": 2}', "unknown_field", "massage"),
        (b'{"message": 2, "producer": {"id": "p", "sequence": 1}}', "bad_request", "Idempotency-Key"),
        (b'{"message": 2, "expectedLastOffset": 1}', "bad_request", "partitionID"),
    ],
)
async def test_one_message_that_is_not_right_refuses_an_atomic_batch(second: bytes, code: str, says: str):
    async with running_gateway() as rig:
        status, _, answer = await post_atomic(rig, b'[{"message": 1}, ' + second + b"]")
        assert (status, answer["code"], answer["details"]["place"]) == (400, code, 1)
        assert answer["detail"].startswith("message 1: ")
        assert says in answer["detail"]
        assert rig.service.requests == []


async def test_an_atomic_batch_has_at_most_a_thousand_messages():
    async with running_gateway() as rig:
        assert (await post_atomic(rig, b"1\n" * 1000, NDJSON))[2]["detail"].startswith("message 0: ")
        status, _, answer = await post_atomic(rig, b"1\n" * 1001, NDJSON)
        assert (status, "1 to 1000" in answer["detail"]) == (400, True)


async def test_what_is_neither_true_nor_false_is_refused():
    async with (
        running_gateway() as rig,
        rig.session.post(f"{rig.url}{PATH}?atomic=yes", data=b"[]", headers=JSON) as response,
    ):
        assert (response.status, "one of false, true" in (await response.json())["detail"]) == (400, True)


async def test_large_messages_are_judged_in_several_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch):
    turns, judged_in = 0, []

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count)

    def judge(*args: Any, **named: Any) -> PublishRequest:
        judged_in.append(turns)
        return publish_request(*args, **named)

    monkeypatch.setattr(batches, "publish_request", judge)
    async with running_gateway(batch_bytes_max=1 << 20) as rig:
        asyncio.get_running_loop().call_soon(count)
        body = json.dumps([{"message": "x" * batches.TURN_BYTES}] * 4).encode()
        status, _ = await post(rig, body)
    assert (status, len(set(judged_in))) == (200, 4)
