"""CloudEvents as messages: made by the official SDK, in every mode, and what is refused."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent

from falconq_cluster.broker.requests import PublishRequest
from tests.unit.gateway.rig import Rig, running_gateway

PATH = "/v1/topics/t/messages"
ATTRIBUTES = {"specversion": "1.0", "id": "e-1", "source": "/till/4", "type": "order.placed"}
HEADERS = {"ce-specversion": "1.0", "ce-id": "e-1", "ce-source": "/till/4", "ce-type": "order.placed"}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


async def post(rig: Rig, body: bytes, headers: dict[str, str], path: str = PATH) -> tuple[int, dict[str, Any]]:
    async with rig.session.post(rig.url + path, data=body, headers=headers) as response:
        return response.status, await response.json()


def requests_of(rig: Rig) -> list[PublishRequest]:
    return [request for request in rig.service.requests if isinstance(request, PublishRequest)]


@pytest.mark.parametrize(
    ("data", "content_type", "message", "encoding"),
    [
        ({"order": [17]}, "application/json", {"order": [17]}, None),
        ({"order": 17}, "application/vnd.order+json", {"order": 17}, None),
        ("größe", "text/plain; charset=utf-8", "größe", None),
        (b"\x00\xff", "application/octet-stream", b"\x00\xff", "base64"),
    ],
)
async def test_an_event_of_the_sdk_is_the_same_message_in_binary_and_structured_mode(
    data: Any, content_type: str, message: Any, encoding: str | None
):
    event = CloudEvent(
        ATTRIBUTES
        | {
            "datacontenttype": content_type,
            "time": datetime(2026, 1, 31, 12, tzinfo=UTC),
            "subject": "ü %",
            "partitionkey": "customer-4",
            "falconqpriority": "high",
        },
        data,
    )
    async with running_gateway() as rig:
        for sent in (http.to_binary_event(event), http.to_structured_event(event)):
            assert (await post(rig, sent.body, sent.headers))[0] == 201
        binary, structured = requests_of(rig)
    assert json.loads(binary.message) == json.loads(structured.message)
    assert binary.headers == structured.headers
    found = json.loads(binary.message)
    assert (b64decode(found) if encoding else found) == message
    headers = json.loads(binary.headers or b"")
    assert headers.pop("ce-time") == "2026-01-31T12:00:00Z"
    extensions = {"ce-subject": "ü %", "ce-partitionkey": "customer-4", "ce-falconqpriority": "high"}
    how = {} if encoding is None else {"encoding": encoding}
    assert headers == HEADERS | extensions | {"contentType": content_type} | how
    for request in (binary, structured):
        assert (request.partition_key, request.priority) == ("customer-4", "high")
        assert request.idempotency_key == binary.idempotency_key


async def test_source_and_id_together_are_the_key():
    pairs = [("a", "b"), ("a", "c"), ("c", "b"), ("ab", ""), ("a", "b")]
    async with running_gateway() as rig:
        for source, event_id in pairs:
            await post(rig, b"", HEADERS | {"ce-source": source, "ce-id": event_id or "x"})
        keys = [request.idempotency_key for request in requests_of(rig)]
    assert keys[0] == keys[4]
    assert len(set(keys)) == 4
    assert all(key is not None and " " in key for key in keys), "no Idempotency-Key header may be taken for it"


async def test_a_batch_is_events_with_a_result_and_a_key_each():
    events = [ATTRIBUTES | {"id": f"{n}", "data": n, "falconqpriority": 1} for n in range(3)] + [{"id": "x"}]
    headers = {"Content-Type": "application/cloudevents-batch+json; charset=UTF-8", "traceparent": "none"}
    async with running_gateway() as rig:
        status, answer = await post(rig, json.dumps(events).encode(), headers, f"{PATH}:batch")
        found = requests_of(rig)
    assert (status, [result.get("code") for result in answer["results"]]) == (200, [None, None, None, "bad_request"])
    assert [(request.message, request.priority) for request in found] == [(b"0", 1), (b"1", 1), (b"2", 1)]
    assert len({request.idempotency_key for request in found}) == 3


async def test_an_event_may_have_no_data_and_attributes_of_each_type():
    event = ATTRIBUTES | {"n": -5, "b": True, "c": False, "none": None}
    async with running_gateway() as rig:
        assert (await post(rig, json.dumps(event).encode(), STRUCTURED))[0] == 201
        assert (await post(rig, b"", HEADERS | {"Content-Type": "text/plain"}))[0] == 201
        structured, binary = requests_of(rig)
    assert (structured.message, binary.message) == (b"null", b"null")
    assert json.loads(structured.headers or b"") == HEADERS | {"ce-n": "-5", "ce-b": "true", "ce-c": "false"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": ""}, "'id'"),
        ({"source": None}, "'source'"),
        ({"type": {}}, "'type'"),
        ({"specversion": "0.3"}, "'specversion' is '0.3'"),
        ({"Name": "x"}, "a-z and 0-9"),
        ({"n": 2**31}, "32 bits"),
        ({"n": 1.5}, "whole number"),
        ({"time": "today"}, "RFC 3339"),
        ({"data": 1, "data_base64": ""}, "both"),
        ({"data_base64": "%"}, "base64"),
        ({"partitionkey": "k" * 257}, "1 to 256"),
        ({"subject": "k" * 5000}, "at most 4096"),
        ({f"a{n}": "x" for n in range(60)}, "at most 62"),
    ],
)
async def test_an_event_that_is_not_right_is_refused_with_what_is_wrong(change: dict[str, Any], says: str):
    async with running_gateway() as rig:
        status, answer = await post(rig, json.dumps(ATTRIBUTES | change).encode(), STRUCTURED)
        assert (status, says in answer["detail"]) == (400, True), answer["detail"]
        assert rig.service.requests == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", HEADERS | {"ce-id": "%ff"}, 400, "percent-decoded"),
        (b"", {"ce-type": "x"}, 400, "ce-specversion"),
        (b"", HEADERS | {"ce-data": "x"}, 400, "the body is the data"),
        (b"{", HEADERS | {"Content-Type": "application/json"}, 400, "not valid JSON"),
        (b"", HEADERS | {"Idempotency-Key": "k"}, 400, "source and id are the key"),
        (b"", HEADERS | {"FalconQ-Priority": "high"}, 400, "FalconQ-Priority"),
        (b"", HEADERS | {"Content-Encoding": "gzip"}, 415, "without compression"),
        (b"{}", {"Content-Type": "application/cloudevents+avro"}, 415, "application/cloudevents+json"),
        (b"[]", {"Content-Type": "application/cloudevents-batch+json"}, 415, "application/cloudevents+json"),
        (b"{}", {"Content-Type": "application/cloudevents+json; charset=latin-1"}, 415, "UTF-8"),
        (b'{"id":"a","id":"b"}', STRUCTURED, 400, "more than once"),
        (b"[" * 5000, STRUCTURED, 400, "not a JSON object"),
    ],
)
async def test_what_is_no_event_is_refused(body: bytes, headers: dict[str, str], status: int, says: str):
    async with running_gateway() as rig:
        found, answer = await post(rig, body, {"Content-Type": "application/octet-stream"} | headers)
        assert (found, says in answer["detail"]) == (status, True), answer["detail"]
        assert rig.service.requests == []


@pytest.mark.parametrize(
    ("query", "headers", "others", "says"),
    [
        ("?atomic=true", {"Idempotency-Key": "k"}, [], "source and id are the key"),
        ("", {"Idempotency-Key": "k"}, [], "source and id are the key"),
        ("?atomic=true", {}, [ATTRIBUTES], "message 1: it has source and id of message 0"),
        ("?atomic=true", {}, [{"id": "x"}], "message 1: an event has the attribute"),
        ("", {"FalconQ-Ttl-Ms": "5"}, [], "FalconQ-Ttl-Ms"),
    ],
)
async def test_what_a_batch_of_events_cant_be_is_refused(
    query: str, headers: dict[str, str], others: list[dict[str, str]], says: str
):
    async with running_gateway() as rig:
        sent = BATCH | headers
        status, answer = await post(rig, json.dumps([ATTRIBUTES, *others]).encode(), sent, f"{PATH}:batch{query}")
        assert (status, says in answer["detail"]) == (400, True), answer["detail"]
        assert rig.service.requests == []


async def test_an_atomic_batch_of_events_has_one_key_of_all_sources_and_ids_in_their_order():
    first, second = ATTRIBUTES | {"id": "1"}, ATTRIBUTES | {"id": "2"}
    batches: list[list[dict[str, Any]]] = [
        [first, second],
        [first | {"data": 5}, second],
        [second, first],
        [first],
        [first, second | {"id": "3"}],
    ]
    async with running_gateway() as rig:
        for events in batches:
            status, answer = await post(rig, json.dumps(events).encode(), BATCH, f"{PATH}:batch?atomic=true")
            assert (status, len(answer["results"])) == (200, len(events))
        await post(rig, json.dumps(first).encode(), STRUCTURED)
        keys = [batch.idempotency_key for batch in rig.service.batches]
        single = requests_of(rig)[-1].idempotency_key
    assert keys[0] == keys[1], "what else events say is compared with what is stored, and is no part of the key"
    assert len({*keys, single}) == 5
    assert all(key is not None and " " in key for key in keys), "no Idempotency-Key header may be taken for it"


@pytest.mark.parametrize(
    ("attributes", "headers", "timing"),
    [
        ({}, {}, (0, 0)),
        ({"falconqdelayms": 2**31 - 1}, {}, (2**31 - 1, 0)),
        ({"falconqdelayms": "31536000000", "falconqttlms": "5"}, {}, (31_536_000_000, 5)),
        ({"falconqdelayms": 0}, {"FalconQ-Delay-Ms": "0"}, (0, 0)),
        ({}, {"FalconQ-Delay-Ms": "31536000000", "FalconQ-Ttl-Ms": "7"}, (31_536_000_000, 7)),
        ({"falconqttlms": "7"}, {"FalconQ-Delay-Ms": "8", "FalconQ-Ttl-Ms": "7"}, (8, 7)),
    ],
)
async def test_attributes_or_headers_say_when_an_event_may_be_given(
    attributes: dict[str, Any], headers: dict[str, str], timing: tuple[int, int]
):
    binary = {f"ce-{name}": str(value) for name, value in attributes.items()}
    async with running_gateway() as rig:
        assert (await post(rig, json.dumps(ATTRIBUTES | attributes).encode(), STRUCTURED | headers))[0] == 201
        assert (await post(rig, b"", HEADERS | binary | headers | {"Content-Type": "text/plain"}))[0] == 201
        found = requests_of(rig)
    assert [(request.delay_ms, request.ttl_ms) for request in found] == [timing, timing]


@pytest.mark.parametrize(
    ("attributes", "headers", "says"),
    [
        ({"falconqdelayms": "-1"}, {}, "'falconqdelayms' is '-1'"),
        ({"falconqdelayms": True}, {}, "'falconqdelayms' is 'true'"),
        ({"falconqdelayms": "31536000001"}, {}, "from 0 to 31536000000"),
        ({"falconqdelayms": 2**31}, {}, "32 bits"),
        ({"falconqttlms": 0}, {}, "from 1 to"),
        ({}, {"FalconQ-Ttl-Ms": "x"}, "'FalconQ-Ttl-Ms' is 'x'"),
        (
            {"falconqdelayms": 0},
            {"FalconQ-Delay-Ms": "5"},
            "'FalconQ-Delay-Ms' is 5 and attribute 'falconqdelayms' is 0",
        ),
        ({"falconqttlms": "6"}, {"FalconQ-Ttl-Ms": "5"}, "'FalconQ-Ttl-Ms' is 5 and attribute 'falconqttlms' is 6"),
    ],
)
async def test_times_of_an_event_that_are_no_numbers_or_differ_are_refused(
    attributes: dict[str, Any], headers: dict[str, str], says: str
):
    async with running_gateway() as rig:
        status, answer = await post(rig, json.dumps(ATTRIBUTES | attributes).encode(), STRUCTURED | headers)
        assert (status, says in answer["detail"]) == (400, True), answer["detail"]
        assert rig.service.requests == []
