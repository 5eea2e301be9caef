"""Bad input on every seed route of a live cluster.

What lives here: each refusal with its status and a sentence, and the proof that nothing was written.
Rules: the log's index is the same on every node before and after.
Must not know: how input is judged.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
LONG = "x" * 201


class Large:
    """A body of 1 MiB + 1, given out in pieces as often as it is asked for."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    @staticmethod
    async def _pieces() -> AsyncIterator[bytes]:
        body = b'{"message": "' + b"x" * (MIB + 1 - 15) + b'"}'
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]


LARGE = Large()

# Method, path, what is sent, status.
CASES: list[tuple[str, str, dict[str, Any], int]] = [
    ("POST", "/topic/t/publish", {"headers": JSON}, 400),
    ("POST", "/topic/t/publish", {"data": b"{", "headers": JSON}, 400),
    ("POST", "/topic/t/publish", {"data": b"\xff\xfe", "headers": JSON}, 400),
    ("POST", "/topic/t/publish", {"json": []}, 400),
    ("POST", "/topic/t/publish", {"json": {}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "priority": "urgent"}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "priority": 2}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "priority": -1}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "priority": 1e30}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "priority": True}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "priority": ["high"]}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "partitionID": -1}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "partitionID": "0"}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "partitionID": 2**70}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "partitionID": 1}}, 404),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "partitionKey": 5}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "headers": "h"}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "delay": 5}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "ttl": 5}}, 400),
    ("POST", "/topic/t/publish", {"json": {"message": "m", "unknown": 1}}, 400),
    ("POST", "/topic/t/publish?x=1", {"json": {"message": "m"}}, 400),
    ("POST", "/topic/t/publish", {"data": b'{"message": NaN}', "headers": JSON}, 400),
    ("POST", "/topic/t/publish", {"data": b"[" * 5000, "headers": JSON}, 400),
    ("POST", "/topic/t/publish", {"data": b"m", "headers": {"Content-Type": "text/plain"}}, 415),
    ("POST", "/topic/t/publish", {"data": LARGE, "headers": JSON}, 413),
    ("POST", f"/topic/{LONG}/publish", {"json": {"message": "m"}}, 400),
    ("POST", "/topic/-t/publish", {"json": {"message": "m"}}, 400),
    ("POST", "/topic/a%20b/publish", {"json": {"message": "m"}}, 400),
    ("POST", "/topic/%C3%A4/publish", {"json": {"message": "m"}}, 400),
    ("GET", "/topic/t/publish", {}, 405),
    ("GET", "/topic/t/consume", {}, 400),
    ("GET", "/topic/t/consume?consumerID=", {}, 400),
    ("GET", f"/topic/t/consume?consumerID={LONG}", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&batch=0", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&batch=-1", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&batch=1001", {}, 400),
    ("GET", f"/topic/t/consume?consumerID=c&batch={10**30}", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&batch=many", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&partitionID=-1", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&partitionID=1", {}, 404),
    ("GET", "/topic/t/consume?consumerID=c&waitMs=20001", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&waitMs=-1", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&consumerID=d", {}, 400),
    ("GET", "/topic/t/consume?consumerID=c&unknown=1", {}, 400),
    ("GET", "/topic/missing/consume?consumerID=c", {}, 404),
    ("HEAD", "/topic/t/consume?consumerID=c", {}, 405),
    ("DELETE", "/topic/t/consume?consumerID=c", {}, 405),
    ("GET", "/topic/t/peek?offset=-1", {}, 400),
    ("GET", f"/topic/t/peek?offset={2**70}", {}, 400),
    ("GET", "/topic/t/peek?offset=x", {}, 400),
    ("GET", "/topic/t/peek?batch=0", {}, 400),
    ("GET", "/topic/t/peek?batch=1001", {}, 400),
    ("GET", "/topic/t/peek?at=yesterday", {}, 400),
    ("GET", "/topic/t/peek?order=random", {}, 400),
    ("GET", "/topic/t/peek?partitionID=1", {}, 404),
    ("GET", "/topic/t/peek?unknown=1", {}, 400),
    ("GET", "/topic/missing/peek", {}, 404),
    ("GET", "/topics?unknown=1", {}, 400),
    ("POST", "/topics", {}, 405),
    ("GET", "/topics/missing/partitions", {}, 404),
    ("GET", f"/topics/{LONG}/partitions", {}, 400),
    ("GET", "/topics/t/partitions?unknown=1", {}, 400),
    ("GET", "/nowhere", {}, 404),
]


async def test_bad_input_on_every_seed_route_gets_its_status_and_a_sentence_and_writes_nothing(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    for node in cluster.running:  # each opens its origin in the log before its first write
        assert (await http.publish(node, "t", f"from {node.name}")).kind == "acknowledged"
    consumed = await http.get(cluster["n2"], "/topic/t/consume", consumerID="c", batch=10)
    assert consumed.body["count"] == 3
    before = await cluster.converge()
    for node in cluster.running:
        for method, path, sent, status in CASES:
            answer = await http.call(method, node.url + path, **sent)
            shown = json.dumps([method, path, str(sent)[:100], answer.status, answer.body])[:600]
            assert answer.status == status, f"wanted {status}: {shown}"
            if method == "HEAD":
                continue
            assert answer.headers["Content-Type"].startswith("application/problem+json"), shown
            assert answer.body["status"] == status, shown
            assert {"code", "title", "detail", "retryable", "message"} <= answer.body.keys(), shown
            assert len(answer.body["detail"].split()) >= 3, f"no sentence that helps: {shown}"
    assert await cluster.converge() == before, "something was written"
    topics = await http.get(cluster["n3"], "/topics")
    assert topics.body["topics"] == ["t"]
