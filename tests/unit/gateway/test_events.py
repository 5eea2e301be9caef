"""Event streams over HTTP: how deliveries become events, and what a client goes on with."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from falconq_cluster.broker.requests import SeenDelivery, StreamRequest
from tests.unit.gateway.rig import MESSAGE, Rig, until

EVENTS = "/v1/topics/orders/consumers/billing/events"
SHARED_ID = "7-" + b"n".hex() * 16


def parsed(text: str) -> list[dict[str, str]]:
    """The fields of each event and comment, as a client reads them (WHATWG HTML, section 9.2.6)."""
    events = []
    for block in text.split("\n\n")[:-1]:
        event: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            event[name] = f"{event[name]}\n{value}" if name in event else value
        events.append(event)
    return events


async def test_deliveries_are_events_with_the_numbers_to_go_on_from_and_the_last_one_says_goodbye(rig: Rig) -> None:
    async with rig.session.get(rig.url + EVENTS) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        events = parsed(await response.text())
    retry, first, second, heartbeat, goodbye = events
    assert retry == {"retry": "1000"}
    assert (first["id"], second["id"], first["event"]) == ("7", "8", "message")
    delivery = json.loads(first["data"])
    assert (delivery["message"], delivery["offset"], delivery["priority"]) == ({"a": [1, 2.5, "ä"]}, 4, "high")
    assert delivery["lease"]["id"] == "0.4." + "ab" * 16
    assert heartbeat == {"": "heartbeat"}
    assert (goodbye["event"], json.loads(goodbye["data"])) == ("goodbye", {"reason": "draining"})
    assert "id" not in goodbye


async def test_a_message_of_several_lines_is_still_one_event(rig: Rig) -> None:
    rig.service.messages = [replace(MESSAGE, message=b'{\r\n"a":\n1\r}')]
    async with rig.session.get(rig.url + EVENTS) as response:
        events = parsed(await response.text())
    assert json.loads(events[1]["data"])["message"] == {"a": 1}


@pytest.mark.parametrize(
    ("query", "header", "seen", "is_shared", "level"),
    [
        ("", None, None, False, None),
        ("", "", None, False, None),
        ("?leaseMs=30000&minLevel=high", "17", SeenDelivery(17, b""), False, "high"),
        ("?shared=true&minLevel=1", SHARED_ID, SeenDelivery(7, b"n" * 16), True, 1),
    ],
)
async def test_a_stream_goes_on_from_the_last_event_that_the_client_names(
    rig: Rig, query: str, header: str | None, seen: SeenDelivery | None, *, is_shared: bool, level: str | int | None
) -> None:
    headers = {} if header is None else {"Last-Event-ID": header}
    async with rig.session.get(rig.url + EVENTS + query, headers=headers) as response:
        first = parsed(await response.text())[1]
    assert first["id"] == (SHARED_ID if is_shared else "7")
    (request,) = rig.service.requests
    assert isinstance(request, StreamRequest)
    assert (request.topic, request.consumer, request.lease_ms) == ("orders", "billing", 30_000)
    assert (request.seen, request.is_shared, request.level_min) == (seen, is_shared, level)


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("?leaseMs=99", {}, "leaseMs"),
        ("?shared=yes", {}, "shared"),
        ("", {"Last-Event-ID": "x"}, "Last-Event-ID"),
        ("", {"Last-Event-ID": "1-2"}, "Last-Event-ID"),
    ],
)
async def test_what_is_wrong_is_a_problem_and_no_stream(
    rig: Rig, query: str, headers: dict[str, str], field: str
) -> None:
    async with rig.session.get(rig.url + EVENTS + query, headers=headers) as response:
        answer = await response.json(content_type=None)
    assert (response.status, answer["details"]["field"]) == (400, field)
    assert not rig.service.requests


async def test_a_client_that_goes_ends_its_stream(rig: Rig) -> None:
    rig.service.is_streaming_on = True
    response = await rig.session.get(rig.url + EVENTS)
    await response.content.readuntil(b": heartbeat\n\n")
    assert rig.gateway.inflight_count == 1
    response.close()
    await until(lambda: rig.service.ended_streams == 1 and rig.gateway.inflight_count == 0)


async def test_a_stream_is_not_cut_off_while_the_node_drains_in_time(rig: Rig) -> None:
    release = asyncio.Event()

    async def hold() -> None:
        await release.wait()

    rig.service.hold = hold
    asking = asyncio.create_task(rig.session.get(rig.url + EVENTS))
    await until(lambda: bool(rig.service.requests))
    draining = asyncio.create_task(rig.gateway.drain(5_000))
    release.set()
    async with await asking as response:
        assert parsed(await response.text())[-1]["event"] == "goodbye"
    await draining
