"""Topics as resources over HTTP: what is asked of the broker, what comes back, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from falconq_cluster.broker.requests import TopicRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.settings import Retention, Retry, Scheduler
from tests.unit.gateway.rig import TOPIC, Rig

ETAG = f'"{TOPIC.version:x}"'
SHOWN = {
    "topic": "orders",
    "partitions": 4,
    "levels": ["low", "high"],
    "scheduler": {"policy": "strict"},
    "leaseMs": 30_000,
    "maxInFlight": 1_000,
    "maxDeliveries": 0,
    "deadLetterTopic": "orders.dead",
    "retry": {"minMs": 0, "maxMs": 60_000, "factor": 2},
    "retention": {},
    "overflow": "drop-oldest",
    "dedupeWindowMs": 300_000,
    "createdAt": "2026-01-01T00:00:00.123Z",
    "version": ETAG.strip('"'),
}


async def ask(rig: Rig, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, Any], Any]:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if data else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    async with rig.session.request(method, rig.url + path, data=data, headers=sent) as response:
        raw = await response.read()
        return response.status, json.loads(raw) if raw else {}, response.headers


def asked(rig: Rig) -> TopicRequest:
    (request,) = rig.service.requests
    assert isinstance(request, TopicRequest)
    return request


async def test_a_put_creates_and_says_where_and_in_which_version(rig: Rig) -> None:
    body = {"partitions": 3, "levels": ["low", "mid", "high"]}
    status, shown, headers = await ask(rig, "PUT", "/v1/topics/jobs", body)
    assert status == 201
    assert shown == SHOWN | {
        "topic": "jobs",
        "partitions": 3,
        "levels": ["low", "mid", "high"],
        "deadLetterTopic": "jobs.dead",
    }
    assert headers["Location"] == "/v1/topics/jobs"
    assert headers["ETag"] == ETAG
    assert headers["FalconQ-Index"] == "12"
    request = asked(rig)
    assert (request.topic, request.is_change, request.given.partitions) == ("jobs", False, 3)
    assert (request.given.levels, request.if_version) == (("low", "mid", "high"), 0)


@pytest.mark.parametrize("body", [None, {}])
async def test_a_put_without_settings_takes_the_defaults(rig: Rig, body: object) -> None:
    status, shown, _ = await ask(rig, "PUT", "/v1/topics/jobs", body)
    assert (status, shown["partitions"], shown["levels"]) == (201, 1, ["low", "high"])
    assert (asked(rig).given.partitions, asked(rig).given.levels) == (None, None)


async def test_a_patch_gives_only_what_shall_change(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "PATCH", "/v1/topics/orders", {"partitions": 8}, If_Match=ETAG)
    assert (status, shown["partitions"]) == (200, 8)
    assert "Location" not in headers
    request = asked(rig)
    assert (request.is_change, request.given.partitions, request.given.levels) == (True, 8, None)
    assert request.if_version == TOPIC.version


async def test_get_and_head_show_the_settings_with_their_etag(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "GET", "/v1/topics/orders")
    assert (status, shown, headers["ETag"]) == (200, SHOWN, ETAG)
    status, shown, headers = await ask(rig, "HEAD", "/v1/topics/orders")
    assert (status, shown, headers["ETag"]) == (200, {}, ETAG)
    status, shown, _ = await ask(rig, "GET", "/v1/topics/nothing")
    assert (status, shown["code"]) == (404, "topic_not_found")


async def test_a_delete_says_from_which_index_on_the_topic_is_gone(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "DELETE", "/v1/topics/orders", If_Match=ETAG, FalconQ_Min_Index="5")
    assert (status, shown) == (200, {"status": "topic deleted", "topic": "orders"})
    assert headers["FalconQ-Index"] == "13"
    assert rig.service.deleted == [("orders", TOPIC.version)]
    assert rig.service.waited_for == [5]
    status, _, _ = await ask(rig, "DELETE", "/v1/topics/orders", {"partitions": 1})
    assert status == 400


async def test_the_list_comes_in_pages(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "GET", "/v1/topics?limit=2")
    assert (status, [topic["topic"] for topic in shown["topics"]], shown["next"]) == (200, ["a", "b"], "b")
    assert headers["Link"] == '</v1/topics?limit=2&after=b>; rel="next"'
    status, shown, headers = await ask(rig, "GET", "/v1/topics?limit=2&after=b")
    assert (shown["topics"], shown["next"], "Link" in headers) == ([SHOWN], None, False)
    for query in ("limit=0", "limit=1001", "after=-", "page=2"):
        status, _, _ = await ask(rig, "GET", f"/v1/topics?{query}")
        assert status == 400, query


@pytest.mark.parametrize(
    ("condition", "version"),
    [({"If_Match": "*"}, -1), ({"If_Match": ETAG}, TOPIC.version), ({"If_None_Match": "*"}, -2), ({}, 0)],
)
async def test_a_condition_is_passed_on_as_a_version(rig: Rig, condition: dict[str, str], version: int) -> None:
    assert (await ask(rig, "PUT", "/v1/topics/orders", **condition))[0] == 201
    assert asked(rig).if_version == version


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"If_Match": '"zz"'}, 412),
        ({"If_Match": 'W/"1"'}, 412),
        ({"If_Match": '"0"'}, 412),
        ({"If_Match": '"11111111111111111"'}, 412),
        ({"If_Match": '"1", "2"'}, 400),
        ({"If_Match": "1"}, 400),
        ({"If_None_Match": '"1"'}, 400),
        ({"If_None_Match": "*", "If_Match": "*"}, 400),
    ],
)
async def test_a_condition_that_no_topic_can_fulfil_is_refused_at_once(
    rig: Rig, condition: dict[str, str], status: int
) -> None:
    assert (await ask(rig, "PUT", "/v1/topics/orders", **condition))[0] == status
    assert rig.service.requests == []


async def test_a_refused_condition_is_412(rig: Rig) -> None:
    rig.service.error = FalconQError("precondition_failed", "changed meanwhile")
    for method in ("PUT", "PATCH", "DELETE"):
        status, shown, _ = await ask(rig, method, "/v1/topics/orders", If_Match=ETAG)
        assert (status, shown["code"], shown["retryable"]) == (412, "precondition_failed", False)


FUTURE = ("color", "replicas", "compaction")


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_every_unknown_setting_is_named(rig: Rig, method: str) -> None:
    status, shown, _ = await ask(rig, method, "/v1/topics/t", dict.fromkeys(FUTURE, 1) | {"partitions": 2})
    assert (status, shown["code"]) == (400, "unknown_field")
    assert [mistake["field"] for mistake in shown["details"]["mistakes"]] == list(FUTURE)
    for name in FUTURE:
        assert f"Setting '{name}' is not known; known here: partitions, levels, scheduler, leaseMs, " in shown["detail"]
    assert rig.service.requests == []


@pytest.mark.parametrize(
    ("body", "sentences"),
    [
        ({"partitions": 0}, ["'partitions' is 0; a topic has 1 to 256 (partitions_per_topic_max)."]),
        ({"partitions": True}, ["'partitions' is true; it is a whole number."]),
        ({"partitions": None}, ["'partitions' is null; it is a whole number."]),
        ({"partitions": 10**40}, ["a topic has 1 to 256 (partitions_per_topic_max)."]),
        (
            {"partitions": "4", "levels": "low"},
            ["'partitions' is \"4\"; it is a whole", "'levels' is \"low\"; it is a"],
        ),
        (
            {"leaseMs": 99, "maxInFlight": 0, "maxDeliveries": 1001, "deadLetterTopic": "-"},
            [
                "'leaseMs' is 99; it is from 100 to 43200000.",
                "'maxInFlight' is 0; it is from 1 to 50000.",
                "'maxDeliveries' is 1001; it is from 0 to 1000.",
                "'-' can't be the name of a topic.",
            ],
        ),
        ({"deadLetterTopic": None}, ["'deadLetterTopic' is null; it is the name of a topic"]),
        ({"retry": {"minMs": 5, "maxMs": 4}}, ["'retry' waits from 5 to 4 ms"]),
        ({"retry": {"maxMs": 10**10}}, ["at most 604800000"]),
        ({"retry": {"factor": 0.5}}, ["its 'factor' is a number from 1 to 100"]),
        (b'{"retry": {"factor": NaN}}', ["its 'factor' is a number from 1 to 100"]),
        ({"retry": {"minMs": 1.5}}, ['it is an object such as {"minMs": 1000']),
        ({"retry": {"times": 1}}, ['it is an object such as {"minMs": 1000']),
        ({"retry": []}, ["'retry' is []; it is an object such as"]),
        ({"levels": {}}, ["'levels' is an object; it is a list of names"]),
        ({"levels": [1]}, ["'levels' is [1]; it is a list"]),
        ({"levels": []}, ["'levels' has 0 names"]),
        ({"levels": ["a", "a", "-"]}, ["Level 'a' is there more than once", "Level 2 is '-'; a name has 1 to 200"]),
        ({"levels": ["\ud800"]}, ["Level 0 is '\\ud800'"]),
        (b'{"partitions": 1, "partitions": 2}', ["Setting 'partitions' is there more than once"]),
        (b'{"partitions": NaN}', ["'partitions' is NaN"]),
        (b"[]", ["the body is []; send a JSON object"]),
        (b"{", ["the body is not valid JSON"]),
        (b"\xff", ["the body is not UTF-8"]),
        (b'{"levels": ' + b"[" * 100 + b"]" * 100 + b"}", ["nested deeper than 64"]),
        (b'{"levels": ' + b"[" * 100_000, ["nested deeper than 64"]),
        (b'{"\\ud800": 1}', ["is not known"]),
    ],
)
async def test_each_mistake_is_told_in_a_sentence(rig: Rig, body: object, sentences: list[str]) -> None:
    status, shown, _ = await ask(rig, "PUT", "/v1/topics/t", body)
    assert status == 400
    for sentence in sentences:
        assert sentence in shown["detail"], shown["detail"]
    assert rig.service.requests == []


async def test_how_failed_deliveries_are_retried_is_given_and_shown(rig: Rig) -> None:
    body = {"retry": {"minMs": 100, "factor": 1.5}, "maxDeliveries": 5, "deadLetterTopic": "lost"}
    status, shown, _ = await ask(rig, "PUT", "/v1/topics/jobs", body)
    assert (status, shown["maxDeliveries"], shown["deadLetterTopic"]) == (201, 5, "lost")
    assert shown["retry"] == {"minMs": 100, "maxMs": 60_000, "factor": 1.5}
    assert asked(rig).given.retry == Retry(100, 60_000, 1500)


async def test_a_name_that_no_topic_has_and_a_body_of_another_type_are_refused(rig: Rig) -> None:
    assert (await ask(rig, "PUT", "/v1/topics/-t"))[0] == 400
    assert (await ask(rig, "PUT", "/v1/topics/"))[0] == 400
    assert (await ask(rig, "PUT", "/v1/topics/t", b"a=1", Content_Type="text/plain"))[0] == 415
    assert (await ask(rig, "PUT", "/v1/topics/t?x=1"))[0] == 400
    assert (await ask(rig, "POST", "/v1/topics/t"))[0] == 405
    assert (await ask(rig, "GET", "/v1/topics/t/what"))[0] == 404
    assert rig.service.requests == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            {"policy": "weighted", "weights": {"low": 1, "high": 4}},
            Scheduler("weighted", (("high", 4), ("low", 1))),
        ),
        (
            {"policy": "aged", "maxWaitMs": {"low": 60000, "high": 1000}},
            Scheduler("aged", (), (("high", 1000), ("low", 60000))),
        ),
    ],
)
async def test_a_scheduler_is_given_shown_and_kept_in_one_order(rig: Rig, given: object, kept: Scheduler) -> None:
    status, shown, _ = await ask(rig, "PUT", "/v1/topics/jobs", {"scheduler": given})
    assert (status, shown["scheduler"]) == (201, given)
    assert asked(rig).given.scheduler == kept


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        ("weighted", "it is an object"),
        ({"weights": {"low": 1}}, "it is an object"),
        ({"policy": "weighted", "weight": {}}, "it is an object"),
        ({"policy": "weighted", "weights": [1]}, "it is an object"),
        ({"policy": "fair"}, "it is 'strict', 'weighted' or 'aged'"),
        ({"policy": "strict", "weights": {"low": 1}}, "they are for 'weighted'"),
        ({"policy": "weighted", "weights": {"low": 0}}, "from 1 to 1000"),
        ({"policy": "weighted", "weights": {"low": 1001}}, "from 1 to 1000"),
        ({"policy": "weighted", "weights": {"low": True}}, "a whole number"),
        ({"policy": "weighted", "weights": {"low": 10**30}}, "from 1 to 1000"),
        ({"policy": "weighted", "weights": dict.fromkeys("abcdefghijklmnopq", 10**30)}, "17 weights"),
        ({"policy": "aged"}, "without maxWaitMs"),
        ({"policy": "aged", "maxWaitMs": 5}, "it is an object"),
        ({"policy": "aged", "maxWaitMs": {"low": 0}}, "from 1 to 604800000"),
        ({"policy": "aged", "maxWaitMs": {"low": 1.5}}, "a whole number"),
        ({"policy": "weighted", "maxWaitMs": {"low": 5}}, "it is for 'aged'"),
        ({"policy": "aged", "maxWaitMs": {"low": 5}, "weights": {"low": 5}}, "they are for 'weighted'"),
    ],
)
async def test_a_wrong_scheduler_is_refused_with_a_sentence(rig: Rig, scheduler: object, says: str) -> None:
    status, shown, _ = await ask(rig, "PATCH", "/v1/topics/orders", {"scheduler": scheduler})
    assert (status, shown["code"], shown["details"]["field"]) == (400, "bad_request", "scheduler")
    assert says in shown["detail"]
    assert rig.service.requests == []


async def test_retention_and_overflow_are_passed_on_and_shown_without_what_is_no_limit(rig: Rig) -> None:
    body = {"retention": {"ms": 60_000, "bytes": 1 << 20, "messages": 10, "acked": True}, "overflow": "reject"}
    status, shown, _ = await ask(rig, "PUT", "/v1/topics/jobs", body)
    assert (status, shown["retention"], shown["overflow"]) == (201, body["retention"], "reject")
    assert asked(rig).given.retention == Retention(60_000, 1 << 20, 10, acked=True)
    status, shown, _ = await ask(rig, "PUT", "/v1/topics/jobs", {"retention": {"messages": 5, "acked": False}})
    assert (status, shown["retention"], shown["overflow"]) == (201, {"messages": 5}, "drop-oldest")


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("retention", 5, "'retention' is 5; it is an object such as"),
        ("retention", {"hours": 1}, "'retention' is an object; it is an object such as"),
        ("retention", {"ms": 0}, "'ms' is 0; it is a whole number, or left out for no limit."),
        ("retention", {"ms": 999}, "'retention' has 999 for 'ms'; it is from 1000 to"),
        ("retention", {"messages": True}, "'messages' is true; it is a whole number"),
        ("retention", {"bytes": 1024}, "'retention' has 1024 for 'bytes'; it is from 1048576 to"),
        ("retention", {"acked": 1}, "'acked' is 1; it is true or false."),
        ("overflow", "drop", "'overflow' is 'drop'; it is one of drop-oldest, reject, drop-lowest."),
        ("overflow", 1, "'overflow' is 1; it is one of"),
        ("dedupeWindowMs", 0, "'dedupeWindowMs' is 0; it is from 1000 to 604800000."),
        ("dedupeWindowMs", 604_800_001, "'dedupeWindowMs' is 604800001; it is from 1000 to 604800000."),
        ("dedupeWindowMs", True, "'dedupeWindowMs' is true; it is a whole number."),
    ],
)
async def test_what_no_topic_may_keep_is_refused_with_a_sentence(
    rig: Rig, setting: str, value: object, sentence: str
) -> None:
    status, shown, _ = await ask(rig, "PUT", "/v1/topics/jobs", {setting: value})
    assert (status, shown["code"]) == (400, "bad_request")
    assert sentence in shown["detail"]
    assert shown["details"]["field"] == setting


async def test_a_purge_says_how_many_messages_are_gone_and_from_which_index_on(rig: Rig) -> None:
    status, shown, headers = await ask(rig, "POST", "/v1/topics/orders/purge", FalconQ_Min_Index="5")
    assert (status, shown) == (200, {"status": "topic purged", "topic": "orders", "count": 7})
    assert (headers["FalconQ-Index"], rig.service.waited_for) == ("14", [5])
    assert (await ask(rig, "POST", "/v1/topics/nothing/purge"))[0] == 404
    assert (await ask(rig, "POST", "/v1/topics/orders/purge", {"level": "low"}))[0] == 400
    assert (await ask(rig, "POST", "/v1/topics/orders/purge?level=low"))[0] == 400
    assert (await ask(rig, "GET", "/v1/topics/orders/purge"))[0] == 405
