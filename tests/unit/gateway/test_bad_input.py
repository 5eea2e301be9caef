"""Whatever is wrong with a request is refused with its status, a code and a sentence, and the broker hears nothing."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import pytest
from yarl import URL

from falconq_cluster.errors import ERROR_CODES
from tests.unit.gateway.rig import Rig, exchange, running_gateway

MIB = 1 << 20
PUBLISH = "/topic/t/publish"
CONSUME = "/topic/t/consume"
PEEK = "/topic/t/peek"
DEEP = b'{"message":' + b"[" * 64 + b"]" * 64 + b"}"


class Case(NamedTuple):
    method: str
    path: str
    status: int
    says: str
    """Part of the sentence."""
    body: bytes | None = None
    content_type: str | None = "application/json"
    code: str = "bad_request"
    headers: dict[str, str] = {}  # noqa: RUF012 (never changed)


def publish(body: bytes, says: str, **more: Any) -> Case:
    return Case("POST", PUBLISH, more.pop("status", 400), says, body, **more)


def get(path: str, says: str, **more: Any) -> Case:
    return Case(more.pop("method", "GET"), path, more.pop("status", 400), says, **more)


UNKNOWN: dict[str, Any] = {"code": "unknown_field"}
NOT_JSON: dict[str, Any] = {"status": 415, "code": "unsupported_media_type"}
CASES = [
    publish(b"", "the body is empty"),
    publish(b"{", "not valid JSON"),
    publish(b"hello", "not valid JSON"),
    publish(b'{"message":1}x', "trailing characters"),
    publish(b'{"message":1,}', "trailing comma"),
    publish(b'\xef\xbb\xbf{"message":1}', "not valid JSON"),
    publish(b"[]", "expected object, got array"),
    publish(b'"x"', "expected object, got str"),
    publish(b"null", "expected object, got null"),
    publish(b"{}", "field 'message' is missing"),
    publish(b'{"priority":"low"}', "field 'message' is missing"),
    publish(b'{"message":NaN}', "not valid JSON"),
    publish(b'{"message":[-Infinity]}', "not valid JSON"),
    publish(b'{"message":"\xff"}', "not UTF-8"),
    publish(b'{"\xff":1}', "not UTF-8"),
    publish(b'{"message":"\xc3("}', "not UTF-8"),
    publish(rb'{"message":"\ud800"}', "not valid JSON"),
    publish(rb'{"message":"\udc00\ud800"}', "surrogate"),
    publish(b'{"message":"a\x00"}', "not valid JSON"),
    publish(DEEP, "nested deeper than 64"),
    publish(b'{"message":' + b"[" * 5000, "nested deeper than 64"),
    publish(b'{"message":1,"message":2}', "'message' is there more than once"),
    publish(rb'{"message":1,"m\u0065ssage":2}', "'message' is there more than once"),
    publish(b'{"message":1,"priority":"low","priority":"high"}', "'priority' is there more than once"),
    publish(b'{"message":1,"colour":"red"}', "field 'colour' is not known", **UNKNOWN),
    publish(b'{"message":1,"delay":5}', "field 'delay' is not known", **UNKNOWN),
    publish(b'{"message":1,"ttl":5}', "field 'ttl' is not known", **UNKNOWN),
    publish(b'{"message":1,"priority":true}', "field 'priority'"),
    publish(b'{"message":1,"priority":1.5}', "field 'priority'"),
    publish(b'{"message":1,"priority":-1}', "field 'priority'"),
    publish(b'{"message":1,"priority":1e30}', "field 'priority'"),
    publish(b'{"message":1,"priority":99999999999999999999999}', "field 'priority'"),
    publish(b'{"message":1,"priority":["high"]}', "field 'priority'"),
    publish(b'{"message":1,"partitionID":-1}', "field 'partitionID'"),
    publish(b'{"message":1,"partitionID":"0"}', "field 'partitionID'"),
    publish(b'{"message":1,"partitionID":18446744073709551616}', "field 'partitionID'"),
    publish(b'{"message":1,"partitionKey":""}', "field 'partitionKey'"),
    publish(b'{"message":1,"partitionKey":5}', "field 'partitionKey'"),
    publish(b'{"message":1,"partitionKey":"' + b"k" * 257 + b'"}', "field 'partitionKey'"),
    publish(b'{"message":1,"headers":[]}', "field 'headers'"),
    publish(b'{"message":1,"headers":{"a":1}}', "field 'headers'"),
    publish(b'{"message":1,"headers":{"a":"1","a":"2"}}', "field 'headers' has a name more than once"),
    publish(b'{"message":1,"headers":{"":"1"}}', "is too long; a name has 1 to"),
    publish(b'{"message":1,"headers":{"a":"' + b"v" * 4097 + b'"}}', "is too long"),
    publish(b'{"message":1,"headers":{' + b",".join(b'"%d":""' % number for number in range(65)) + b"}}", "at most 64"),
    publish(b'{"message":"' + b"x" * (MIB + 1) + b'"}', "limit is 1048576", status=413, code="body_too_large"),
    publish(b'{"message":1}', "Content-Type is 'text/plain'", content_type="text/plain", **NOT_JSON),
    publish(b"message=1", "send JSON", content_type="application/x-www-form-urlencoded", **NOT_JSON),
    publish(b'{"message":1}', "UTF-8", content_type="application/json; charset=latin-1", **NOT_JSON),
    publish(b"\x1f\x8b", "without compression", headers={"Content-Encoding": "gzip"}, **NOT_JSON),
    publish(b'{"message":1}', "'Idempotency-Key' is ''", headers={"Idempotency-Key": ""}),
    publish(b'{"message":1}', "'Idempotency-Key' is 'a b'", headers={"Idempotency-Key": "a b"}),
    publish(b'{"message":1}', "1 to 256 visible ASCII", headers={"Idempotency-Key": "k" * 257}),
    publish(b'{"message":1,"producer":5}', "field 'producer' is {"),
    publish(b'{"message":1,"producer":{"id":"p"}}', "missing required field 'sequence'"),
    publish(b'{"message":1,"producer":{"id":"p","sequence":0}}', ">= 1"),
    publish(b'{"message":1,"producer":{"id":"p","sequence":1.5}}', "field 'producer' is {"),
    publish(b'{"message":1,"producer":{"id":"p","sequence":9007199254740992}}', "<= 9007199254740991"),
    publish(b'{"message":1,"producer":{"id":"p q","sequence":1}}', "producer.id is 'p q'"),
    publish(b'{"message":1,"producer":{"id":"p","sequence":1,"sequence":2}}', "'producer' has a name more than once"),
    publish(b'{"message":1,"producer":{"id":"p","sequence":1,"epoch":2}}', "unknown field 'epoch'", **UNKNOWN),
    publish(b'{"message":1,"producer":null,"producer":{"id":"p","sequence":1}}', "field 'producer' is there more"),
    publish(b'{"message":1,"producer":{"id":"p","sequence":1}}', "give one of them", headers={"Idempotency-Key": "k"}),
    publish(b'{"message":1}', "'FalconQ-Min-Index' is '-1'", headers={"FalconQ-Min-Index": "-1"}),
    publish(b'{"message":1}', "'FalconQ-Min-Index' is 'x'", headers={"FalconQ-Min-Index": "x"}),
    Case("POST", "/topic/-t/publish", 400, "topic is '-t'", b'{"message":1}'),
    Case("POST", "/topic/.t/publish", 400, "topic is '.t'", b'{"message":1}'),
    Case("POST", "/topic//publish", 400, "topic is ''", b'{"message":1}'),
    Case("POST", f"/topic/{'t' * 201}/publish", 400, "a name has 1 to 200", b'{"message":1}'),
    Case("POST", "/topic/a%20b/publish", 400, "topic is 'a b'", b'{"message":1}'),
    Case("POST", "/topic/a%2Fb/publish", 400, "topic is 'a/b'", b'{"message":1}'),
    Case("POST", "/topic/%C3%A4/publish", 400, "topic is 'ä'", b'{"message":1}'),
    Case("POST", "/topic/%ff/publish", 400, "not UTF-8", b'{"message":1}'),
    Case("POST", "/topic/a%0Ab/publish", 400, "topic is", b'{"message":1}'),
    Case("POST", f"{PUBLISH}?sync=no", 400, "parameter 'sync' is not known", b'{"message":1}', **UNKNOWN),
    get(CONSUME, "'consumerID' is missing"),
    get(f"{CONSUME}?consumerID=", "consumerID is ''"),
    get(f"{CONSUME}?consumerID=a%00b", "consumerID is"),
    get(f"{CONSUME}?consumerID={'c' * 201}", "consumerID is"),
    get(f"{CONSUME}?consumerID=c&consumerID=d", "'consumerID' is there more than once"),
    get(f"{CONSUME}?consumerID=c&batch=0", "'batch' is '0'; it is a whole number from 1 to 1000"),
    get(f"{CONSUME}?consumerID=c&batch=1001", "'batch' is '1001'"),
    get(f"{CONSUME}?consumerID=c&batch=-1", "'batch' is '-1'"),
    get(f"{CONSUME}?consumerID=c&batch=", "'batch' is ''"),
    get(f"{CONSUME}?consumerID=c&batch=1.5", "'batch' is '1.5'"),
    get(f"{CONSUME}?consumerID=c&batch=%D9%A3", "'batch' is"),
    get(f"{CONSUME}?consumerID=c&batch={'9' * 400}", "'batch' is"),
    get(f"{CONSUME}?consumerID=c&partitionID=-1", "'partitionID' is '-1'"),
    get(f"{CONSUME}?consumerID=c&partitionID=99999999999", "'partitionID' is"),
    get(f"{CONSUME}?consumerID=c&waitMs=20001", "'waitMs' is '20001'"),
    get(f"{CONSUME}?consumerID=c&waitMs=-1", "'waitMs' is '-1'"),
    get(f"{CONSUME}?consumerID=c&attempt=", "attempt is ''"),
    get(f"{CONSUME}?consumerID=c&attempt=a%20b", "attempt is 'a b'"),
    get(f"{CONSUME}?consumerID=c&leaseMs=5", "parameter 'leaseMs' is not known", **UNKNOWN),
    get(f"{CONSUME}?consumerID=c&consistency=linearizable", "'consistency' is not known", **UNKNOWN),
    get(f"{CONSUME}?consumerID=%FF", "query string is not readable"),
    get(f"{CONSUME}?{'&'.join(f'p{number}=1' for number in range(21))}", "more than 20 parts"),
    get("/topic/-t/consume?consumerID=c", "topic is '-t'"),
    Case("POST", f"{CONSUME}?consumerID=c", 400, "parameters from the query", b"{}"),
    get(f"{CONSUME}?consumerID=c", "not HEAD", method="HEAD", status=405, code="method_not_allowed"),
    get(f"{CONSUME}?consumerID=c", "not DELETE", method="DELETE", status=405, code="method_not_allowed"),
    get(PUBLISH, "answers POST, not GET", status=405, code="method_not_allowed"),
    get(f"{PEEK}?offset=-1", "'offset' is '-1'"),
    get(f"{PEEK}?offset=x", "'offset' is 'x'"),
    get(f"{PEEK}?offset={2**63}", "'offset' is"),
    get(f"{PEEK}?batch=0", "'batch' is '0'"),
    get(f"{PEEK}?batch=1001", "'batch' is '1001'"),
    get(f"{PEEK}?partitionID=x", "'partitionID' is 'x'"),
    get(f"{PEEK}?at=yesterday", "'at' is 'yesterday'; write an RFC 3339 time"),
    get(f"{PEEK}?at=2026-02-30T00:00:00Z", "'at' is"),
    get(f"{PEEK}?at=2026-01-01T00:00:00", "'at' is"),
    get(f"{PEEK}?order=random", "'order' is 'random'; it is one of offset, delivery"),
    get(f"{PEEK}?consumerID=c", "parameter 'consumerID' is not known", **UNKNOWN),
    get("/topic/-t/peek", "topic is '-t'"),
    get("/topics?limit=5", "known here: consistency", **UNKNOWN),
    get("/topics/-t/partitions", "topic is '-t'"),
    get("/topics/orders/partitions?x=1", "known here: consistency", **UNKNOWN),
    get("/topics/missing/partitions", "no topic 'missing'", status=404, code="topic_not_found"),
    get("/", "there is no route /", status=404, code="route_not_found"),
    get("/topic/t", "there is no route", status=404, code="route_not_found"),
    get("/topic/t/publish/", "there is no route", status=404, code="route_not_found"),
    get("/v2/topics", "nearest are /v1/topics", status=404, code="route_not_found"),
]


def name_of(case: Case) -> str:
    body = "" if case.body is None else f" {case.body[:50]!r}"
    return f"{case.method} {case.path[:60]}{body} {case.content_type} {case.headers}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_bad_input_gets_its_status_and_a_sentence_and_reaches_no_broker(rig: Rig, case: Case) -> None:
    headers = dict(case.headers)
    if case.body is not None and case.content_type is not None:
        headers["Content-Type"] = case.content_type
    url = URL(rig.url + case.path, encoded=True)
    data = None if case.body is None else io.BytesIO(case.body)
    async with rig.session.request(case.method, url, data=data, headers=headers) as response:
        assert response.status == case.status
        assert response.content_type == "application/problem+json"
        assert response.headers["FalconQ-Node"] == "n1"
        if case.method != "HEAD":
            problem = await response.json(content_type=None)
            assert problem["code"] == case.code
            assert case.says in problem["detail"]
            assert problem["message"] == problem["detail"]
            assert problem["status"] == case.status
            assert problem["retryable"] is ERROR_CODES[case.code].is_retryable
            assert problem["title"]
            assert problem["type"] == f"urn:falconq:problem:{case.code}"
            assert isinstance(problem["details"], dict)
            assert len(problem["detail"]) < 600
    assert rig.service.requests == []


async def test_a_method_that_a_route_does_not_answer_is_told_which_ones_it_does(rig: Rig) -> None:
    async with rig.session.put(f"{rig.url}{CONSUME}") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, POST"


async def test_a_refused_field_is_named_in_the_details(rig: Rig) -> None:
    async with rig.session.post(f"{rig.url}{PUBLISH}", json={"message": 1, "colour": "red"}) as response:
        assert (await response.json(content_type=None))["details"] == {"field": "colour"}


@pytest.mark.parametrize(
    "head",
    [
        b"NOT HTTP\r\n\r\n",
        b"GET /topics HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /topics HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n",
        b"POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    ],
    ids=["words", "version", "long line", "long header", "negative length", "two lengths"],
)
async def test_bytes_that_are_not_http_get_a_problem_and_the_connection_closes(rig: Rig, head: bytes) -> None:
    answer = await exchange(rig.address, head)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"application/problem+json" in answer
    assert b"Connection: close" in answer
    assert rig.service.requests == []


async def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large() -> None:
    async with running_gateway(body_bytes_max=2048) as rig:
        head = b"POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        answer = await exchange(rig.address, head + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 3 + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert rig.service.requests == []


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async with running_gateway(request_timeout_ms=100) as rig:
        head = b"POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nConnection: close\r\n\r\n"
        answer = await exchange(rig.address, head + b"{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer
