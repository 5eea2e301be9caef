"""Consumers and dead letters over HTTP: what is asked of the broker, what comes back, what is refused."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.consumer_requests import ConsumerRequest, SeekRequest
from falconq_cluster.broker.requests import SettleRequest, WishKind
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.subscriptions import ConsumerConfig, Ordering, Start, StartKind
from tests.unit.gateway.rig import Rig
from tests.unit.gateway.test_topics import ask

ONE = "/v1/topics/orders/consumers/billing"
SHOWN = {
    "topic": "orders",
    "consumer": "billing",
    "start": "earliest",
    "leaseMs": None,
    "maxInFlight": None,
    "ordering": "none",
    "expireAfterMs": 604_800_000,
    "paused": False,
    "createdAt": "2026-01-01T00:00:00.123Z",
    "usedAt": "2026-01-01T00:01:00.123Z",
    "lag": {"low": 3, "high": 1},
    "oldestAgeMs": {"low": 5_000, "high": None},
    "inFlight": 2,
    "returned": 1,
    "lost": {"low": 2, "high": 0},
}


async def test_a_put_makes_a_consumer_with_its_settings(rig: Rig) -> None:
    body = {"start": {"offset": 5}, "leaseMs": 500, "maxInFlight": 7, "expireAfterMs": 0, "ordering": "key"}
    status, shown, headers = await ask(rig, "PUT", ONE, body, FalconQ_Min_Index="3")
    assert (status, headers["Location"], headers["FalconQ-Index"]) == (201, ONE, "21")
    assert shown == SHOWN | body
    (request,) = rig.service.asked
    assert isinstance(request, ConsumerRequest)
    assert request.config == ConsumerConfig(Start(StartKind.OFFSET, 5), 500, 7, 0, Ordering.KEY)
    assert rig.service.waited_for == [3]
    rig.service.is_made = False
    status, shown, headers = await ask(rig, "PUT", ONE)
    assert (status, shown, "Location" in headers) == (200, SHOWN, False)


@pytest.mark.parametrize(
    ("place", "start", "told"),
    [
        ("earliest", Start(), "earliest"),
        ("latest", Start(StartKind.LATEST), "latest"),
        ({"offset": 0}, Start(StartKind.OFFSET), {"offset": 0}),
        (
            {"time": "2026-01-01T01:00:00.5+01:00"},
            Start(StartKind.TIME, 1_767_225_600_500),
            {"time": "2026-01-01T00:00:00.500Z"},
        ),
    ],
)
async def test_a_place_is_a_word_an_offset_or_a_time(rig: Rig, place: object, start: Start, told: object) -> None:
    status, shown, _ = await ask(rig, "PUT", ONE, {"start": place})
    assert (status, shown["start"]) == (201, told)
    assert (await ask(rig, "POST", f"{ONE}/seek", {"to": place}))[0] == 200
    made, moved = rig.service.asked
    assert isinstance(made, ConsumerRequest)
    assert isinstance(moved, SeekRequest)
    assert made.config.start == moved.to == start


async def test_a_consumer_is_shown_paused_resumed_and_deleted(rig: Rig) -> None:
    status, shown, _ = await ask(rig, "GET", ONE)
    assert (status, shown) == (200, SHOWN)
    for action in ("pause", "resume"):
        status, shown, headers = await ask(rig, "POST", f"{ONE}/{action}")
        assert (status, shown, headers["FalconQ-Index"]) == (200, SHOWN, "21")
    status, shown, headers = await ask(rig, "DELETE", ONE)
    assert (status, headers["FalconQ-Index"]) == (200, "22")
    assert shown == {"status": "consumer deleted", "topic": "orders", "consumer": "billing"}
    names = [asked[0] for asked in rig.service.asked if isinstance(asked, tuple)]
    assert names[-3:] == ["pause", "resume", "delete"]


async def test_the_list_comes_in_pages(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "GET", "/v1/topics/orders/consumers?limit=2")
    assert (status, [each["consumer"] for each in shown["consumers"]], shown["next"]) == (200, ["a", "b"], "b")
    assert headers["Link"] == '</v1/topics/orders/consumers?limit=2&after=b>; rel="next"'
    status, shown, headers = await ask(rig, "GET", "/v1/topics/orders/consumers?after=b&consistency=linearizable")
    assert (shown["consumers"], shown["next"], "Link" in headers) == ([SHOWN], None, False)
    assert rig.service.confirmed_count == 1


async def test_a_redrive_says_how_many_go_back(rig: Rig) -> None:
    for body, count_max in ((None, 0), ({"max": 5}, 5)):
        status, shown, headers = await ask(rig, "POST", "/v1/topics/orders/dead-letters:redrive", body)
        assert (status, headers["FalconQ-Index"]) == (200, "23")
        assert shown == {
            "status": "dead letters redriven",
            "topic": "orders",
            "deadLetterTopic": "orders.dead",
            "count": 7,
        }
        assert rig.service.asked[-1] == ("redrive", "orders", count_max)


async def test_a_reject_is_passed_on_with_its_reason(rig: Rig) -> None:
    body = {"reject": [{"id": "a", "reason": "no such address"}, {"id": "b"}]}
    assert (await ask(rig, "POST", f"{ONE}/ack", body))[0] == 200
    (request,) = rig.service.requests
    assert isinstance(request, SettleRequest)
    wishes = [(wish.kind, wish.lease_id, wish.reason) for wish in request.wishes]
    assert wishes == [(WishKind.REJECT, "a", "no such address"), (WishKind.REJECT, "b", "")]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", ONE, {"start": "newest"}, "start"),
        ("PUT", ONE, {"start": {}}, "start"),
        ("PUT", ONE, {"start": {"offset": 1, "time": "2026-01-01T00:00:00Z"}}, "start"),
        ("PUT", ONE, {"start": {"time": "yesterday"}}, "start.time"),
        ("PUT", ONE, {"start": {"offset": -1}}, "start.offset"),
        ("PUT", ONE, {"start": 5}, "start"),
        ("PUT", ONE, {"leaseMs": 99}, "leaseMs"),
        ("PUT", ONE, {"maxInFlight": 0}, "maxInFlight"),
        ("PUT", ONE, {"expireAfterMs": 599_999}, "expireAfterMs"),
        ("PUT", ONE, {"colour": 1}, "colour"),
        ("PUT", ONE, {"ordering": "level"}, "ordering"),
        ("PUT", f"{ONE}?x=1", {}, "x"),
        ("PUT", "/v1/topics/orders/consumers/-x", {}, "consumer"),
        ("POST", f"{ONE}/seek", None, "to"),
        ("POST", f"{ONE}/seek", {}, "to"),
        ("POST", f"{ONE}/pause", {"a": 1}, "body"),
        ("DELETE", ONE, {"a": 1}, "body"),
        ("GET", "/v1/topics/orders/consumers?limit=0", None, "limit"),
        ("POST", "/v1/topics/orders/dead-letters:redrive", {"max": 0}, "max"),
    ],
)
async def test_what_is_not_right_is_refused_with_its_name(
    rig: Rig, method: str, path: str, body: object, field: str
) -> None:
    status, shown, _ = await ask(rig, method, path, body)
    assert (status, shown["details"]["field"]) == (400, field), shown
    assert rig.service.asked == []


async def test_a_missing_consumer_is_404(rig: Rig) -> None:
    rig.service.refusal = FalconQError("consumer_not_found", "no such")
    for method, path in (("GET", ONE), ("DELETE", ONE), ("POST", f"{ONE}/pause"), ("POST", f"{ONE}/resume")):
        status, shown, _ = await ask(rig, method, path)
        assert (status, shown["code"]) == (404, "consumer_not_found")
