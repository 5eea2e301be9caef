"""Replay over HTTP: what is asked of the broker, in which form pages come, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from falconq_cluster.broker.requests import ReplayRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.replay import read_from, wants_lines
from tests.unit.gateway.rig import Rig

PATH = "/v1/topics/orders/messages"


async def ask(rig: Rig, query: str = "", method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with rig.session.request(method, f"{rig.url}{PATH}{query}", headers=sent) as response:
        return response.status, await response.read(), response.headers


async def test_a_page_is_asked_for_and_shown(rig: Rig) -> None:
    query = "?from=offset:3&limit=7&partitionID=1&consistency=linearizable"
    status, body, headers = await ask(rig, query, FalconQ_Min_Index="5")
    assert status == 200
    shown = json.loads(body)
    assert (shown["topic"], shown["partitionID"], shown["count"], shown["nextOffset"]) == ("orders", 1, 1, 5)
    assert shown["messages"][0]["offset"] == rig.service.messages[0].offset
    assert (headers["FalconQ-Index"], "Link" in headers) == ("11", False)
    assert rig.service.requests == [ReplayRequest(topic="orders", partition=1, offset=3, at_ms=None, limit=7)]
    assert (rig.service.waited_for, rig.service.confirmed_count) == ([5], 1)


async def test_without_parameters_it_begins_at_the_oldest_of_the_only_partition(rig: Rig) -> None:
    assert (await ask(rig))[0] == 200
    assert rig.service.requests == [ReplayRequest(topic="orders", partition=None, offset=None, at_ms=None, limit=100)]
    status, body, _ = await ask(rig, method="HEAD")
    assert (status, body) == (200, b"")


async def test_a_page_with_more_behind_it_names_the_next_one(rig: Rig) -> None:
    rig.service.has_more = True
    _, _, headers = await ask(rig, "?limit=1&partitionID=2&consistency=linearizable")
    following = "/v1/topics/orders/messages?from=offset:5&limit=1&partitionID=2&consistency=linearizable"
    assert headers["Link"] == f'<{following}>; rel="next"'
    status, _, _ = await ask(rig, following.partition("messages")[2])
    assert status == 200


async def test_lines_are_the_same_messages_one_a_line(rig: Rig) -> None:
    # A message is kept byte for byte, and may have line breaks between its tokens.
    broken = replace(rig.service.messages[0], message=b'{\r\n "a":\n"b\\n"}')
    rig.service.messages = [*rig.service.messages, broken, *rig.service.messages]
    rig.service.has_more = True
    _, body, _ = await ask(rig)
    status, lines, headers = await ask(rig, Accept="application/x-ndjson")
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(body)["messages"]
    assert lines.endswith(b"\n")
    assert lines.count(b"\n") == 3
    assert headers["Link"].startswith("</v1/topics/orders/messages?from=offset:5&limit=100>")


async def test_what_is_gone_is_410_with_the_lowest_offset(rig: Rig) -> None:
    rig.service.error = FalconQError("offset_gone", "offset 3 is gone", details={"field": "from", "firstOffset": 9})
    status, body, _ = await ask(rig, "?from=offset:3")
    problem = json.loads(body)
    assert (status, problem["code"], problem["details"]["firstOffset"]) == (410, "offset_gone", 9)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?from=3", "from"),
        ("?from=offset:", "from"),
        ("?from=offset:-1", "from"),
        ("?from=offset:99999999999999999999", "from"),
        ("?from=time:yesterday", "from"),
        ("?from=time:2026-13-01T00:00:00Z", "from"),
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?partitionID=x", "partitionID"),
        ("?offset=3", "offset"),
        ("?from=offset:1&from=offset:2", "from"),
        ("?consistency=strong", "consistency"),
    ],
)
async def test_a_wrong_parameter_is_refused_with_its_name(rig: Rig, query: str, field: str) -> None:
    status, body, _ = await ask(rig, query)
    assert (status, json.loads(body)["details"]["field"]) == (400, field)
    assert rig.service.requests == []


def test_a_place_to_begin_is_an_offset_or_a_time() -> None:
    assert read_from(None) == (None, None)
    assert read_from("offset:12") == (12, None)
    assert read_from("time:1970-01-01T00:00:01.5Z") == (None, 1500)
    assert read_from("time:1970-01-01T01:00:00 01:00") == (None, 0)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("application/x-ndjson", True),
        ("application/x-ndjson; q=1, application/json", True),
        ("application/json, application/x-ndjson", False),
        ("text/html, application/x-ndjson;q=0.5", True),
    ],
)
def test_lines_come_when_they_are_named_first(accept: str | None, wanted: bool) -> None:
    assert wants_lines(accept) is wanted
