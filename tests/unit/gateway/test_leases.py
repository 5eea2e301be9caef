"""Pull and ack over HTTP: what is asked of the broker, what is answered, and what is refused with its name."""

from __future__ import annotations

from typing import Any

import pytest

from falconq_cluster.broker.requests import AS_RETRIED, LeaseWish, PullRequest, SettleRequest, WishKind
from falconq_cluster.errors import FalconQError
from tests.unit.gateway.rig import Rig

PULL = "/v1/topics/orders/consumers/billing/pull"
ACK = "/v1/topics/orders/consumers/billing/ack"
LEASE = "0.4." + "ab" * 16


async def post(rig: Rig, path: str, body: Any = None, *, data: bytes | None = None) -> tuple[int, Any]:
    arguments = {"json": body} if data is None and body is not None else {"data": data}
    async with rig.session.post(rig.url + path, **arguments) as response:
        return response.status, None if response.status == 204 else await response.json(content_type=None)


async def test_a_pull_asks_for_what_its_body_says_and_shows_each_message_with_its_lease(rig: Rig) -> None:
    wanted = {"max": 7, "maxBytes": 99, "waitMs": 40, "leaseMs": 5000, "minLevel": "high", "autoCommit": False}
    status, answer = await post(rig, PULL, wanted)
    assert status == 200
    (delivery,) = answer["deliveries"]
    assert delivery["lease"] == {"id": LEASE, "expiresAt": "2026-01-01T00:00:30.123Z"}
    assert (delivery["offset"], delivery["priority"], delivery["deliveryCount"]) == (4, "high", 1)
    (request,) = rig.service.requests
    assert isinstance(request, PullRequest)
    assert (request.topic, request.consumer, request.count, request.bytes_max) == ("orders", "billing", 7, 99)
    assert (request.wait_ms, request.lease_ms, request.level_min, request.auto_commit) == (40, 5000, "high", False)


async def test_a_pull_without_a_body_asks_for_one_message_now(rig: Rig) -> None:
    assert (await post(rig, PULL))[0] == 200
    (request,) = rig.service.requests
    assert isinstance(request, PullRequest)
    assert (request.count, request.wait_ms, request.lease_ms, request.level_min) == (1, 0, None, None)


async def test_a_pull_that_gets_nothing_is_204_with_the_index_that_it_saw(rig: Rig) -> None:
    rig.service.messages = []
    async with rig.session.post(rig.url + PULL) as response:
        assert (response.status, response.headers["FalconQ-Index"]) == (204, "14")
        assert "Content-Length" not in response.headers
    # The connection is still in step.
    assert (await post(rig, PULL))[0] == 204


async def test_a_message_that_is_settled_as_it_is_given_has_no_lease(rig: Rig) -> None:
    _, answer = await post(rig, PULL, {"autoCommit": True})
    assert answer["deliveries"][0]["lease"] is None


async def test_an_ack_is_200_and_tells_what_failed_one_by_one(rig: Rig) -> None:
    body = {
        "extend": [{"id": "e", "leaseMs": 700}],
        "nack": [{"id": "n", "delayMs": 5, "priority": 1}, {"id": "m"}],
        "ack": ["a", "b"],
        "reject": [{"id": "r", "reason": "not an order"}, {"id": "q"}],
    }
    status, answer = await post(rig, ACK, body)
    assert status == 200
    assert answer["ok"] == 1
    assert answer["failed"][0] == {"id": "b", "code": "lease_lost", "detail": "it is over"}
    (request,) = rig.service.requests
    assert isinstance(request, SettleRequest)
    assert request.wishes == [
        LeaseWish(kind=WishKind.ACK, lease_id="a"),
        LeaseWish(kind=WishKind.ACK, lease_id="b"),
        LeaseWish(kind=WishKind.NACK, lease_id="n", ms=5, priority=1),
        LeaseWish(kind=WishKind.NACK, lease_id="m", ms=AS_RETRIED),
        LeaseWish(kind=WishKind.REJECT, lease_id="r", reason="not an order"),
        LeaseWish(kind=WishKind.REJECT, lease_id="q"),
        LeaseWish(kind=WishKind.EXTEND, lease_id="e", ms=700),
    ]


@pytest.mark.parametrize(
    ("path", "body", "field", "code"),
    [
        (PULL, {"max": 401}, "max", "bad_request"),
        (PULL, {"max": 0}, "max", "bad_request"),
        (PULL, {"leaseMs": 99}, "leaseMs", "bad_request"),
        (PULL, {"waitMs": 20_001}, "waitMs", "bad_request"),
        (PULL, {"count": 1}, "count", "unknown_field"),
        (PULL, {"minLevel": 1.5}, "minLevel", "bad_request"),
        (ACK, {"ack": [7]}, "ack[0]", "bad_request"),
        (ACK, {"nack": [{"delayMs": 1}]}, "id", "bad_request"),
        (ACK, {"nack": [{"id": "a", "delay": 1}]}, "delay", "unknown_field"),
        (ACK, {"extend": [{"id": "a"}]}, "leaseMs", "bad_request"),
        (ACK, {"reject": [{"id": "a", "reason": "x" * 1025}]}, "reject[0].reason", "bad_request"),
        (ACK, {"ack": ["a"] * 401}, "ack", "bad_request"),
        (ACK, {"ack": ["a"] * 300, "nack": [{"id": "a"}] * 101}, "body", "bad_request"),
    ],
)
async def test_what_is_wrong_is_named_and_nothing_is_asked_of_the_broker(
    rig: Rig, path: str, body: dict[str, Any], field: str, code: str
) -> None:
    status, answer = await post(rig, path, body)
    assert (status, answer["code"], answer["details"]["field"]) == (400, code, field)
    assert field.partition("[")[0] in answer["detail"]
    assert not rig.service.requests


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        (PULL, b"{", "not valid JSON"),
        (PULL, b"[]", "expected object"),
        (PULL, b'{"max": 1, "max": 2}', "more than once"),
        (ACK, b'{"nack": [{"id": "a", "id": "b"}]}', "'id' is there more than once"),
        (ACK, b'{"ack": ["\xff"]}', "not UTF-8"),
        (ACK, b"", "not valid JSON"),
        (ACK, b'{"ack": ' + b"[" * 200 + b"]" * 200 + b"}", "'ack"),
    ],
)
async def test_a_body_that_is_not_of_its_shape_is_refused_with_what_to_send(
    rig: Rig, path: str, data: bytes, words: str
) -> None:
    async with rig.session.post(rig.url + path, data=data, headers={"Content-Type": "application/json"}) as response:
        answer = await response.json(content_type=None)
        assert (response.status, words in answer["detail"]) == (400, True), answer
    assert not rig.service.requests


async def test_too_many_messages_in_hand_may_be_tried_again_later(rig: Rig) -> None:
    rig.service.error = FalconQError("leases_full", "the consumer has 50000 messages in hand")
    async with rig.session.post(rig.url + PULL) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")


async def test_a_name_that_cannot_be_is_refused(rig: Rig) -> None:
    status, answer = await post(rig, "/v1/topics/orders/consumers/.b/pull")
    assert (status, answer["details"]["field"]) == (400, "consumer")
