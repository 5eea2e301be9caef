"""What well-formed requests ask of the broker, and what clients get back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from falconq_cluster.broker.requests import ConsumeRequest, PeekRequest, Producer, PublishRequest
from falconq_cluster.errors import FalconQError
from tests.unit.gateway.rig import MESSAGE, TIME_MS, Rig, exchange, running_gateway

JSON = {"Content-Type": "application/json"}
TIME = "2026-01-01T00:00:00.123Z"
SHOWN_MESSAGE = {
    "id": "9.0",
    "message": {"a": [1, 2.5, "ä"]},
    "priority": "high",
    "level": 1,
    "offset": 4,
    "partitionID": 0,
    "timestamp": TIME,
    "headers": {"h": "v"},
    "partitionKey": "k",
    "deliveryCount": 1,
}


def published(rig: Rig) -> PublishRequest:
    (request,) = rig.service.requests
    assert isinstance(request, PublishRequest)
    return request


async def test_a_publish_says_where_the_message_is(rig: Rig) -> None:
    body = {"message": "hello", "priority": "high"}
    async with rig.session.post(f"{rig.url}/topic/orders/publish", json=body) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.json() == {
            "status": "message committed",
            "topic": "orders",
            "partitionID": 0,
            "offset": 4,
            "priority": "high",
            "id": "9.0",
            "level": 1,
            "index": 9,
            "timestamp": TIME,
            "duplicate": False,
            "dueAt": None,
        }
        assert response.headers["FalconQ-Index"] == "9"
        assert response.headers["FalconQ-Node"] == "n1"
        assert response.headers["FalconQ-Leader"] == "n2"
        assert "Date" in response.headers
    assert published(rig).message == b'"hello"'


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "a" : [1.0, 1e999 ,"\xc3\xa4"] }',
        b'"[[[[{{{{"',
        b"null",
        b"0",
        rb'"\ud83d\ude00"',
        b'{"a":1,"a":2}',
        b'"\\\\"',
    ],
)
async def test_a_message_is_kept_byte_for_byte(rig: Rig, raw: bytes) -> None:
    data = b'{"priority": 1, "message":' + raw + b', "headers": {"a": "b"}}'
    async with rig.session.post(f"{rig.url}/topic/t/publish", data=data, headers=JSON) as response:
        assert response.status == 200
    request = published(rig)
    assert request.message == raw
    assert request.headers == b'{"a": "b"}'
    assert request.priority == 1


async def test_a_message_that_names_fields_of_the_body_is_no_repeated_field(rig: Rig) -> None:
    message = {"message": 1, "priority": {"message": "message"}, "headers": "\u0007"}
    async with rig.session.post(f"{rig.url}/topic/t/publish", json={"message": message}) as response:
        assert response.status == 200, await response.text()


async def test_absent_and_null_fields_leave_the_choice_to_the_broker(rig: Rig) -> None:
    body = {"message": None, "priority": None, "partitionKey": None, "partitionID": None, "headers": None}
    async with rig.session.post(f"{rig.url}/topic/t/publish", json=body) as response:
        assert response.status == 200
    request = published(rig)
    assert (request.priority, request.partition_key, request.partition, request.headers) == (None, None, None, None)
    assert request.message == b"null"


async def test_all_fields_of_a_publish_reach_the_broker(rig: Rig) -> None:
    body = {"message": 1, "priority": 0, "partitionKey": "ä", "partitionID": 3, "headers": {}}
    async with rig.session.post(f"{rig.url}/topic/t.%41_-/publish", json=body) as response:
        assert response.status == 200
    request = published(rig)
    assert (request.topic, request.priority, request.partition_key, request.partition) == ("t.A_-", 0, "ä", 3)


async def test_a_key_and_a_producer_reach_the_broker(rig: Rig) -> None:
    url = f"{rig.url}/topic/t/publish"
    key = 'a:"b"!~'
    async with rig.session.post(url, json={"message": 1}, headers={"Idempotency-Key": key}) as response:
        assert response.status == 200, await response.text()
        assert "Idempotency-Replayed" not in response.headers
    async with rig.session.post(url, json={"message": 1, "producer": {"id": "p", "sequence": 7}}) as response:
        assert response.status == 200, await response.text()
    async with rig.session.post(url, json={"message": 1, "producer": None}) as response:
        assert response.status == 200, await response.text()
    requests = [request for request in rig.service.requests if isinstance(request, PublishRequest)]
    assert [request.idempotency_key for request in requests] == [key, None, None]
    assert [request.producer for request in requests] == [None, Producer(id="p", sequence=7), None]


async def test_a_repeat_says_so_in_its_body_and_in_a_header(rig: Rig) -> None:
    rig.service.is_duplicate = True
    async with rig.session.post(f"{rig.url}/topic/t/publish", json={"message": 1}) as response:
        assert response.status == 200
        assert response.headers["Idempotency-Replayed"] == "true"
        body = await response.json()
    assert (body["duplicate"], body["offset"], body["id"], body["timestamp"]) == (True, 4, "9.0", TIME)


async def test_a_repeat_whose_place_is_not_known_has_null_for_it(rig: Rig) -> None:
    rig.service.is_duplicate = rig.service.is_place_forgotten = True
    async with rig.session.post(f"{rig.url}/topic/t/publish", json={"message": 1}) as response:
        assert response.status == 200
        body = await response.json()
    assert {name for name, value in body.items() if value is None} == {
        "partitionID", "offset", "priority", "id", "level", "timestamp", "dueAt",
    }  # fmt: skip
    assert body["duplicate"] is True


@pytest.mark.parametrize(
    ("code", "status", "is_retryable"),
    [("key_reused", 422, False), ("sequence_gap", 409, False), ("dedupe_full", 429, True)],
)
async def test_what_is_refused_about_keys_has_its_status(rig: Rig, code: str, status: int, is_retryable: bool) -> None:
    rig.service.error = FalconQError(code, "no")
    async with rig.session.post(f"{rig.url}/topic/t/publish", json={"message": 1}) as response:
        assert response.status == status
        assert ("Retry-After" in response.headers) == is_retryable
        body = await response.json()
    assert (body["code"], body["retryable"]) == (code, is_retryable)


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
async def test_json_may_be_named_in_several_ways(rig: Rig, kind: str) -> None:
    async with rig.session.post(
        f"{rig.url}/topic/t/publish", data=b'{"message":1}', headers={"Content-Type": kind}
    ) as response:
        assert response.status == 200


async def test_a_body_comes_in_chunks_when_the_client_likes(rig: Rig) -> None:
    head = b"POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = await exchange(rig.address, head + b'5\r\n{"mes\r\n8\r\nsage":1}\r\n0\r\n\r\n')
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert published(rig).message == b"1"


async def test_a_client_that_expects_100_continue_gets_it_before_its_body_is_read(rig: Rig) -> None:
    head = b"POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\nExpect: 100-continue\r\n"
    reader, writer = await asyncio.open_connection(rig.address.host, rig.address.port)
    writer.write(head + b"Connection: close\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b'{"message":1}')
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(rig: Rig) -> None:
    head = b"POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n"
    answer = await exchange(rig.address, head + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_consume_gives_messages_with_their_envelope(rig: Rig, method: str) -> None:
    path = "/topic/orders/consume?consumerID=billing&batch=10&partitionID=0&waitMs=500&attempt=a-1"
    async with rig.session.request(method, rig.url + path) as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["FalconQ-Index"] == "11"
        assert await response.json() == {
            "consumerID": "billing",
            "topic": "orders",
            "partitionID": 0,
            "messages": [SHOWN_MESSAGE],
            "count": 1,
            "startOffset": 4,
            "nextOffset": 5,
            "cursor": {"low": 0, "high": 5},
            "pending": {"low": 2, "high": 0},
        }
    (request,) = rig.service.requests
    assert isinstance(request, ConsumeRequest)
    assert (request.topic, request.consumer, request.batch) == ("orders", "billing", 10)
    assert (request.partition, request.wait_ms, request.attempt) == (0, 500, "a-1")


async def test_a_plain_consume_takes_one_message_of_all_partitions_at_once(rig: Rig) -> None:
    async with rig.session.get(f"{rig.url}/topic/orders/consume?consumerID=c") as response:
        assert response.status == 200
    (request,) = rig.service.requests
    assert isinstance(request, ConsumeRequest)
    assert (request.batch, request.partition, request.wait_ms, request.attempt) == (1, None, 0, "")


async def test_a_delivered_message_is_shown_byte_for_byte(rig: Rig) -> None:
    async with rig.session.get(f"{rig.url}/topic/t/consume?consumerID=c") as response:
        text = await response.read()
    assert b'"message":' + MESSAGE.message + b"," in text
    assert b'"headers":{"h":"v"}' in text


async def test_a_peek_has_the_same_envelope_and_a_link_to_the_next_page(rig: Rig) -> None:
    path = "/topic/orders/peek?offset=4&batch=1&partitionID=0&at=2026-01-01T01:00:00.5%2B01:00&order=offset"
    async with rig.session.get(rig.url + path) as response:
        assert response.status == 200
        body = await response.json()
        assert list(body) == [
            *(
                "consumerID",
                "topic",
                "partitionID",
                "messages",
                "count",
                "startOffset",
                "nextOffset",
                "cursor",
                "pending",
            )
        ]
        assert body["consumerID"] is None
        assert response.headers["Link"] == '</topic/orders/peek?offset=5&batch=1&partitionID=0>; rel="next"'
    (request,) = rig.service.requests
    assert request == PeekRequest(topic="orders", batch=1, partition=0, offset=4, at_ms=TIME_MS + 377, order="offset")


async def test_the_last_page_of_a_peek_has_no_link(rig: Rig) -> None:
    for query in ("batch=2", "order=delivery"):
        async with rig.session.get(f"{rig.url}/topic/orders/peek?{query}") as response:
            assert "Link" not in response.headers


async def test_a_plus_sign_that_was_not_encoded_is_still_a_time(rig: Rig) -> None:
    head = b"GET /topic/t/peek?at=2026-01-01T02:00:00+02:00 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    assert (await exchange(rig.address, head)).startswith(b"HTTP/1.1 200 ")


async def test_topics_and_partitions_are_listed(rig: Rig) -> None:
    async with rig.session.get(f"{rig.url}/topics") as response:
        assert await response.json() == {"topics": ["a", "orders"]}
        assert response.headers["FalconQ-Index"] == "7"
    async with rig.session.get(f"{rig.url}/topics/orders/partitions") as response:
        row = {"id": 0, "leader": "n2", "firstOffset": 0, "nextOffset": 5, "depth": {"low": 1, "high": 4}, "bytes": 99}
        assert await response.json() == {"topic": "orders", "partitions": [row]}


@pytest.mark.parametrize("path", ["/topics", "/topics/orders/partitions", "/topic/t/peek", "/livez", "/v1/cluster"])
async def test_head_has_the_headers_of_get_and_no_body(rig: Rig, path: str) -> None:
    async with rig.session.get(rig.url + path) as response:
        length = response.headers["Content-Length"]
    answer = await exchange(rig.address, f"HEAD {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b""
    assert f"Content-Length: {length}".encode() in head


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/topic/t/publish"),
        ("GET", "/topic/t/consume?consumerID=c"),
        ("GET", "/topic/t/peek"),
        ("GET", "/topics"),
        ("GET", "/topics/orders/partitions"),
    ],
)
async def test_min_index_is_waited_for_before_anything_is_done(rig: Rig, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {"message": 1}} if "publish" in path else {}
    async with rig.session.request(method, rig.url + path, headers={"FalconQ-Min-Index": "42"}, **body) as response:
        assert response.status == 200
    assert rig.service.waited_for == [42]
    rig.service.requests.clear()
    async with rig.session.request(method, rig.url + path, headers={"FalconQ-Min-Index": "5000"}, **body) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert (await response.json(content_type=None))["code"] == "index_not_reached"
    assert rig.service.requests == []


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [
        ("no_leader", 503, True),
        ("overloaded", 429, True),
        ("unknown_outcome", 504, False),
        ("unknown_priority", 400, False),
    ],
)
async def test_a_refusal_of_the_broker_becomes_a_problem(rig: Rig, code: str, status: int, *, retry: bool) -> None:
    rig.service.error = FalconQError(code, "a sentence", details={"priority": "urgent"})
    async with rig.session.post(f"{rig.url}/topic/t/publish", json={"message": 1}) as response:
        assert response.status == status
        assert ("Retry-After" in response.headers) is retry
        problem = await response.json(content_type=None)
        assert (problem["code"], problem["detail"], problem["details"]) == (code, "a sentence", {"priority": "urgent"})


async def test_a_defect_is_answered_without_its_details(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.service.error = RuntimeError("secret of the house")
    async with rig.session.post(f"{rig.url}/topic/t/publish", json={"message": 1}) as response:
        assert response.status == 500
        text = await response.text()
    assert '"code":"internal"' in text
    assert "secret" not in text


async def test_probes_say_whether_the_node_lives_and_serves(rig: Rig) -> None:
    for path in ("/livez", "/readyz"):
        async with rig.session.get(rig.url + path) as response:
            assert response.status == 200
    rig.node.reasons.append("waiting for n3")
    rig.node.is_live = False
    async with rig.session.get(f"{rig.url}/readyz") as response:
        assert response.status == 503
        assert await response.json() == {"ready": False, "reasons": ["waiting for n3"]}
    async with rig.session.get(f"{rig.url}/livez") as response:
        assert response.status == 503


async def test_a_node_says_whether_the_cluster_can_do_without_it(rig: Rig) -> None:
    url = f"{rig.url}/v1/health/quorum-critical"
    async with rig.session.get(url) as response:
        assert (response.status, await response.json()) == (200, {"critical": False, "reasons": []})
    rig.node.why_needed.append("n3 is down")
    async with rig.session.get(url) as response:
        assert (response.status, await response.json()) == (503, {"critical": True, "reasons": ["n3 is down"]})


async def test_the_cluster_and_the_metrics_are_shown(rig: Rig) -> None:
    rig.node.leader = None
    async with rig.session.get(f"{rig.url}/v1/cluster") as response:
        assert await response.json() == rig.node.status()
        assert "FalconQ-Leader" not in response.headers
    async with rig.session.get(f"{rig.url}/nowhere") as response:
        assert response.status == 404
    async with rig.session.get(f"{rig.url}/metrics") as response:
        assert response.content_type == "text/plain"
        text = await response.text()
    assert 'falconq_http_requests_total{route="/v1/cluster",status="200"} 1.0' in text
    assert 'falconq_http_requests_total{route="none",status="404"} 1.0' in text
    assert "falconq_http_open_connections 1.0" in text


async def test_probes_answer_when_there_is_too_much_to_do() -> None:
    async with running_gateway(requests_max=0) as rig:
        async with rig.session.get(f"{rig.url}/topics") as response:
            assert response.status == 429
            assert (await response.json(content_type=None))["code"] == "overloaded"
        async with rig.session.get(f"{rig.url}/livez") as response:
            assert response.status == 200
