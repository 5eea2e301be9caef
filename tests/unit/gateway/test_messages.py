"""A publish under /v1, as JSON or as a raw body."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.broker.requests import PublishRequest
from falconq_cluster.gateway.raw import FORM, raw_message
from tests.unit.gateway.rig import running_gateway

PATH = "/v1/topics/t/messages"


async def test_a_json_body_asks_for_the_same_as_the_seed_route_and_is_answered_with_201():
    body = b'{"message":[1,  2],"priority":1,"partitionKey":"k","headers":{"a":"b"}}'
    async with running_gateway() as rig:
        for path, status in (("/topic/t/publish", 200), (PATH, 201)):
            sent = {"Content-Type": "application/json", "Idempotency-Key": "i"}
            async with rig.session.post(rig.url + path, data=body, headers=sent) as response:
                assert response.status == status
                assert (await response.json())["offset"] == 4
        seed, resource = rig.service.requests
        assert isinstance(seed, PublishRequest)
        assert isinstance(resource, PublishRequest)
        same = ("topic", "message", "priority", "partition_key", "partition", "headers", "idempotency_key", "producer")
        assert [getattr(seed, name) for name in same] == [getattr(resource, name) for name in same]


@pytest.mark.parametrize(
    ("body", "content_type", "message", "encoding"),
    [
        ("größe".encode(), "text/plain; charset=utf-8", "größe", None),
        (b"\xff", "text/plain", "/w==", "base64"),
        (b"\x00\x01", "application/octet-stream", "AAE=", "base64"),
        (b"", "text/plain", "", None),
        (b"order 20", "application/x-www-form-urlencoded", "order 20", None),
        (b"\xff", "application/x-www-form-urlencoded", "/w==", "base64"),
        (b"{}", "application/cbor", "e30=", "base64"),
    ],
)
async def test_a_raw_body_is_the_message_and_its_headers_say_how(
    body: bytes, content_type: str, message: str, encoding: str | None
):
    headers = {"Content-Type": content_type, "FalconQ-Priority": "high", "FalconQ-Key": "k", "Idempotency-Key": "i"}
    async with running_gateway() as rig:
        async with rig.session.post(rig.url + PATH, data=body, headers=headers) as response:
            assert response.status == 201
        (request,) = rig.service.requests
    assert isinstance(request, PublishRequest)
    assert json.loads(request.message) == message
    wanted = {"contentType": content_type} | ({} if encoding is None else {"encoding": encoding})
    assert json.loads(request.headers or b"") == wanted
    assert (request.priority, request.partition_key, request.idempotency_key) == ("high", "k", "i")


async def test_a_priority_of_digits_is_a_number():
    async with running_gateway() as rig:
        headers = {"Content-Type": "text/plain", "FalconQ-Priority": "1"}
        async with rig.session.post(rig.url + PATH, data=b"a", headers=headers):
            pass
        (request,) = rig.service.requests
    assert isinstance(request, PublishRequest)
    assert request.priority == 1


async def test_a_repeat_is_marked_as_one():
    async with running_gateway() as rig:
        rig.service.is_duplicate = True
        headers = {"Content-Type": "text/plain", "Idempotency-Key": "i"}
        async with rig.session.post(rig.url + PATH, data=b"a", headers=headers) as response:
            assert (response.status, response.headers["Idempotency-Replayed"]) == (201, "true")


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Content-Type": "application/json", "FalconQ-Priority": "high"}, 400, "is for raw bodies"),
        ({"Content-Type": "application/json", "FalconQ-Key": "k"}, 400, "is for raw bodies"),
        ({"Content-Type": "text/plain", "FalconQ-Key": ""}, 400, "1 to 256"),
        ({"Content-Type": "text/plain", "FalconQ-Delay-Ms": "-5"}, 400, "whole number"),
        ({"Content-Type": "text/plain", "FalconQ-Delay-Ms": "31536000001"}, 400, "whole number"),
        ({"Content-Type": "application/json", "FalconQ-Delay-Ms": "5"}, 400, "is for raw bodies"),
        ({"Content-Type": "application/json", "FalconQ-Ttl-Ms": "5"}, 400, "is for raw bodies"),
        ({"Content-Type": "text/plain", "FalconQ-Ttl-Ms": "0"}, 400, "whole number"),
        ({"Content-Type": "text/plain", "FalconQ-Key": "k" * 257}, 400, "1 to 256"),
        ({"Content-Type": "text/" + "x" * 300}, 400, "at most 256"),
        ({"Content-Type": "text/plain", "Idempotency-Key": "a b"}, 400, "visible ASCII"),
        ({"Content-Type": "text/plain", "Content-Encoding": "gzip"}, 415, "without compression"),
        ({"Content-Type": "application/json; charset=latin-1"}, 415, "UTF-8"),
    ],
)
async def test_what_is_wrong_is_refused_and_the_broker_hears_nothing(headers: dict[str, str], status: int, says: str):
    async with running_gateway() as rig:
        async with rig.session.post(rig.url + PATH, data=b'{"message":1}', headers=headers) as response:
            assert response.status == status
            assert says in (await response.json())["detail"]
        assert rig.service.requests == []


@given(st.binary(), st.sampled_from(["text/plain", "image/png", "text/csv; charset=latin-1", FORM]))
def test_every_body_is_found_again_byte_for_byte(body: bytes, content_type: str):
    message, headers = raw_message(body, content_type)
    text = json.loads(message)
    is_packed = headers.get("encoding") == "base64"
    assert (b64decode(text) if is_packed else text.encode()) == body


@pytest.mark.parametrize(
    ("body", "headers", "times"),
    [
        (b'{"message":1,"delayMs":60000,"ttlMs":5}', {"Content-Type": "application/json"}, (60_000, 5)),
        (b'{"message":1,"delayMs":0}', {}, (0, 0)),
        (b"a", {"Content-Type": "text/plain", "FalconQ-Delay-Ms": "60000"}, (60_000, 0)),
        (b"a", {"Content-Type": "text/plain", "FalconQ-Ttl-Ms": "5"}, (0, 5)),
    ],
)
async def test_a_message_may_wait_for_its_time_and_have_one(
    body: bytes, headers: dict[str, str], times: tuple[int, int]
):
    async with running_gateway() as rig:
        async with rig.session.post(rig.url + PATH, data=body, headers=headers) as response:
            assert response.status == 201
        (request,) = rig.service.requests
    assert isinstance(request, PublishRequest)
    assert (request.delay_ms, request.ttl_ms) == times


@pytest.mark.parametrize("delay", ["-1", "31536000001", "1.5", '"5"', '1,"partitionID":0,"expectedLastOffset":3'])
async def test_a_delay_that_is_none_is_refused(delay: str):
    headers, body = {"Content-Type": "application/json"}, f'{{"message":1,"delayMs":{delay}}}'
    async with running_gateway() as rig, rig.session.post(rig.url + PATH, data=body, headers=headers) as response:
        assert (response.status, (await response.json())["details"]["field"]) == (400, "delayMs")
