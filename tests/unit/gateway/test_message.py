"""One message over HTTP: what is asked of the broker, what comes back, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from falconq_cluster.broker.message_requests import ChangeRequest, ExplainRequest, MessageId
from falconq_cluster.errors import FalconQError
from tests.unit.gateway.message_service import EXPLAINED
from tests.unit.gateway.rig import Rig
from tests.unit.gateway.test_topics import ask

ONE = "/v1/topics/orders/messages/9.0"
SHOWN = {
    "topic": "orders",
    "id": "9.0",
    "message": {"a": [1, 2.5, "ä"]},
    "priority": "high",
    "level": 1,
    "offset": 4,
    "partitionID": 0,
    "timestamp": "2026-01-01T00:00:00.123Z",
    "headers": {"h": "v"},
    "partitionKey": "k",
    "state": "leased",
    "ahead": None,
    "deliveries": 2,
    "dueAt": None,
    "expiresAt": "2026-01-01T00:01:00.123Z",
    "consumers": [
        {
            "consumer": "audit",
            "state": "leased",
            "ahead": None,
            "deliveries": 2,
            "dueAt": None,
            "leaseExpiresAt": "2026-01-01T00:00:30.123Z",
        },
        {"consumer": "billing", "state": "ready", "ahead": 7, "deliveries": 0, "dueAt": None, "leaseExpiresAt": None},
    ],
    "next": None,
}


async def test_a_message_is_shown_with_where_it_stands(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "GET", ONE, FalconQ_Min_Index="3")
    assert (status, shown, headers["FalconQ-Index"], "Link" in headers) == (200, SHOWN, "25", False)
    (request,) = rig.service.asked
    assert isinstance(request, ExplainRequest)
    assert (request.topic, request.id, request.consumer) == ("orders", MessageId(9, 0), None)
    assert (request.after, request.limit) == ("", 100)
    assert rig.service.waited_for == [3]
    async with rig.session.head(rig.url + ONE) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_delayed_message_has_its_due_time_and_no_place_yet(rig: Rig) -> None:
    rig.service.explained = replace(
        EXPLAINED,
        offset=None,
        timestamp_ms=None,
        headers=None,
        partition_key=None,
        state="delayed",
        deliveries=0,
        due_ms=1_767_225_660_000,
        expires_ms=None,
        consumers=[],
    )
    status, shown, _ = await ask(rig, "GET", ONE)
    assert status == 200
    nothing = dict.fromkeys(("offset", "timestamp", "headers", "partitionKey", "expiresAt"))
    of_delay = {"state": "delayed", "deliveries": 0, "dueAt": "2026-01-01T00:01:00.000Z", "consumers": []}
    assert shown == SHOWN | nothing | of_delay


async def test_consumers_come_page_by_page_and_each_page_names_the_next(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "GET", f"{ONE}?limit=1&consistency=linearizable")
    assert (status, [each["consumer"] for each in shown["consumers"]], shown["next"]) == (200, ["audit"], "audit")
    assert headers["Link"] == f'<{ONE}?limit=1&after=audit&consistency=linearizable>; rel="next"'
    assert rig.service.confirmed_count == 1
    status, shown, headers = await ask(rig, "GET", f"{ONE}?limit=1&after=audit")
    assert (status, [each["consumer"] for each in shown["consumers"]], shown["next"]) == (200, ["billing"], None)
    assert "Link" not in headers


async def test_a_message_is_shown_as_one_consumer_sees_it(rig: Rig) -> None:
    assert (await ask(rig, "GET", f"{ONE}?consumer=billing"))[0] == 200
    (request,) = rig.service.asked
    assert isinstance(request, ExplainRequest)
    assert request.consumer == "billing"
    status, problem, _ = await ask(rig, "GET", f"{ONE}?consumer=billing&after=audit")
    assert (status, problem["details"]["field"]) == (400, "after")


@pytest.mark.parametrize(
    ("body", "priority", "delay_ms", "due_ms"),
    [
        ({"priority": "high"}, "high", None, None),
        ({"priority": 1, "delayMs": 0}, 1, 0, None),
        ({"delayMs": 31_536_000_000, "dueAt": None}, None, 31_536_000_000, None),
        ({"dueAt": "2026-01-01T01:00:00.5+01:00"}, None, None, 1_767_225_600_500),
    ],
)
async def test_a_change_says_what_shall_be_other_and_is_answered_with_the_message(
    rig: Rig, body: object, priority: str | int | None, delay_ms: int | None, due_ms: int | None
) -> None:
    status, shown, headers = await ask(rig, "PATCH", ONE, body, FalconQ_Min_Index="4")
    assert (status, shown, headers["FalconQ-Index"]) == (200, SHOWN, "26")
    (request,) = rig.service.asked
    assert isinstance(request, ChangeRequest)
    assert (request.topic, request.id) == ("orders", MessageId(9, 0))
    assert (request.priority, request.delay_ms, request.due_ms) == (priority, delay_ms, due_ms)
    assert rig.service.waited_for == [4]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"priority": None, "delayMs": None}, "body"),
        ({"delayMs": 1, "dueAt": "2026-01-01T00:00:00Z"}, "dueAt"),
        ({"dueAt": "tomorrow"}, "dueAt"),
        ({"dueAt": 5}, "dueAt"),
        ({"delayMs": -1}, "delayMs"),
        ({"delayMs": 31_536_000_001}, "delayMs"),
        ({"priority": -1}, "priority"),
        ({"priority": ["high"]}, "priority"),
        ({"message": "other"}, "message"),
    ],
)
async def test_a_change_of_nothing_or_of_what_is_not_possible_is_refused_with_the_field(
    rig: Rig, body: object, field: str
) -> None:
    status, problem, _ = await ask(rig, "PATCH", ONE, body)
    assert (status, problem["details"]["field"]) == (400, field), problem
    assert not rig.service.asked


async def test_a_change_without_a_body_is_refused(rig: Rig) -> None:
    assert (await ask(rig, "PATCH", ONE))[0] == 400
    async with rig.session.patch(rig.url + ONE, data=b"{}", headers={"Content-Type": "text/plain"}) as response:
        assert response.status == 415
    assert not rig.service.asked


async def test_a_message_is_cancelled_without_a_body(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "DELETE", ONE, FalconQ_Min_Index="5")
    assert (status, headers["FalconQ-Index"]) == (200, "27")
    assert shown == {"status": "message cancelled", "topic": "orders", "id": "9.0"}
    assert rig.service.asked == [("cancel", "orders", MessageId(9, 0))]
    assert rig.service.waited_for == [5]
    assert (await ask(rig, "DELETE", ONE, {"why": "so"}))[0] == 400


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "name",
    [
        "x",
        "1",
        "1.",
        ".1",
        "1.2.3",
        "-1.0",
        "+1.0",
        "01.0",
        "1.00",
        "1_0.0",
        "1.0 ",
        "%201.0",
        "1.0%0A",
        "\u0661.\u0660",
        "9223372036854775808.0",
        "1.9223372036854775808",
        "99999999999999999999.0",
        "1e3.0",
    ],
)
async def test_what_is_no_id_is_refused_with_a_sentence(rig: Rig, method: str, name: str) -> None:
    body = {"priority": "high"} if method == "PATCH" else None
    status, problem, _ = await ask(rig, method, f"/v1/topics/orders/messages/{name}", body)
    assert (status, problem["details"]) == (400, {"field": "id"})
    assert "such as 52.0" in problem["detail"]
    assert not rig.service.asked


async def test_the_largest_id_is_an_id(rig: Rig) -> None:
    most = 2**63 - 1
    assert (await ask(rig, "GET", f"/v1/topics/orders/messages/{most}.{most}"))[0] == 200
    (request,) = rig.service.asked
    assert isinstance(request, ExplainRequest)
    assert request.id == MessageId(most, most)


@pytest.mark.parametrize(
    ("method", "code", "status"),
    [
        ("GET", "topic_not_found", 404),
        ("GET", "message_not_found", 404),
        ("GET", "consumer_not_found", 404),
        ("PATCH", "message_not_found", 404),
        ("PATCH", "unknown_priority", 400),
        ("PATCH", "already_delivered", 409),
        ("PATCH", "delayed_full", 429),
        ("PATCH", "unknown_outcome", 504),
        ("DELETE", "message_not_found", 404),
        ("DELETE", "already_delivered", 409),
        ("DELETE", "expired", 503),
        ("DELETE", "unknown_outcome", 504),
    ],
)
async def test_a_refusal_is_answered_with_its_code(rig: Rig, method: str, code: str, status: int) -> None:
    rig.service.refusal = FalconQError(code, "it was refused")
    answered, problem, _ = await ask(rig, method, ONE, {"priority": "high"} if method == "PATCH" else None)
    assert (answered, problem["code"], problem["detail"]) == (status, code, "it was refused")


async def test_a_publish_says_where_its_message_is_found(rig: Rig) -> None:
    path = "/v1/topics/orders/messages"
    status, _, headers = await ask(rig, "POST", path, {"message": 1})
    assert (status, headers["Location"]) == (201, ONE)
    rig.service.is_place_forgotten = True
    status, _, headers = await ask(rig, "POST", path, {"message": 1})
    assert (status, "Location" in headers) == (201, False)
