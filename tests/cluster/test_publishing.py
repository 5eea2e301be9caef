"""Publishing on real nodes.

What lives here: the guide's commands, word for word but for the ports, and what is promised of them while leaders die.
Rules: clients that got no answer repeat with their key.
Must not know: how a repeat is recognised.
"""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64decode
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node
from tests.cluster.test_exactly_once import run_command
from tests.cluster.waiting import until

EVENTS: list[tuple[str, Any]] = [
    ("application/json", {"order": 17}),
    ("text/plain", "hello"),
    ("application/octet-stream", b"\x00\xff"),
]
GUIDE = Path(__file__).parents[2] / "docs" / "publishing.md"


async def test_the_commands_of_the_guide_are_answered_as_it_says(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    curl ")]
    answers = [await asyncio.to_thread(run_command, line, nodes) for line in lines]
    plain, later, quotes, events, parcels, moves = (
        answers[start:end] for start, end in pairwise((0, 3, 5, 7, 10, 12, 14))
    )
    (traced, *ledger), (status, _, batch), *transfers = answers[14:18], *answers[18:]
    assert [status for status, _, _ in quotes] == [201, 201]
    given = await cluster.http.get(nodes[0], "/topic/quotes/consume", consumerID="c", batch=2)
    assert [message["message"] for message in given.body["messages"]] == ["at 18"]
    opened, late, repeated = ledger
    once, again, refused = transfers
    assert [status for status, _, _ in later] == [201, 201]
    assert all(body["offset"] is None and body["dueAt"] > body["timestamp"] for _, _, body in later)
    poll = await cluster.http.get(nodes[2], "/topic/reminders/consume", consumerID="c", batch=2, waitMs=15_000)
    assert [message["id"] for message in poll.body["messages"]] == [later[1][2]["id"]]
    poll = await cluster.http.get(nodes[0], "/topic/reminders/consume", consumerID="c", batch=2, waitMs=15_000)
    (message,) = poll.body["messages"]
    assert (message["id"], message["offset"], message["priority"]) == (later[0][2]["id"], 1, "high")
    assert message["timestamp"] >= later[0][2]["dueAt"]
    assert [status for status, _, _ in events] == [201, 201, 200]
    assert [event["duplicate"] for event in events[2][2]["results"]] == [True, False]
    assert [(status, body["offset"], body["dueAt"] is None) for status, _, body in parcels] == [(201, None, False)] * 2
    poll = await cluster.http.get(nodes[1], "/topic/parcels/consume", consumerID="c", waitMs=15_000)
    assert [message["message"] for message in poll.body["messages"]] == ["number 5"]
    assert [status for status, _, _ in moves] == [200, 200]
    assert moves[1][2]["results"] == [result | {"duplicate": True} for result in moves[0][2]["results"]]
    assert traced[0] == 201
    assert [status for status, _, _ in (opened, late, repeated)] == [201, 412, 201]
    assert "is 0, not -1" in late[2]["detail"]
    assert repeated[2] == opened[2] | {"duplicate": True}
    assert [status for status, _, _ in (once, again, refused)] == [200, 200, 400]
    assert [result["duplicate"] for result in once[2]["results"]] == [False, False]
    assert again[2]["results"] == [result | {"duplicate": True} for result in once[2]["results"]]
    assert again[1]["Idempotency-Replayed"] == "true"
    assert refused[2]["detail"].startswith("message 1: ")
    assert [(code, body["priority"]) for code, _, body in plain] == [(201, "high"), (201, "high"), (201, "low")]
    stored, failed = batch["results"]
    assert (status, stored["priority"], failed["code"]) == (200, "low", "unknown_priority")
    await cluster.converge()
    for node in nodes:
        json_one, text, raw, with_trace, from_batch = await cluster.read_all(node, "orders")
        assert (json_one["message"], json_one["headers"]) == ({"order": 17}, None)
        assert (text["message"], text["partitionKey"]) == ("order 18", "customer-4")
        assert text["headers"] == {"contentType": "text/plain"}
        assert b64decode(raw["message"]) == b"order 19"
        assert with_trace["headers"] == {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        assert from_batch["message"] == "order 20"
        assert [message["message"] for message in await cluster.read_all(node, "ledger")] == ["opened"]
        assert [message["message"] for message in await cluster.read_all(node, "transfers")] == ["minus 5", "plus 5"]
        first, second, third = await cluster.read_all(node, "events")
        assert (first["priority"], first["partitionKey"], first["message"]) == ("high", "customer-4", {"order": 17})
        assert (second["message"], second["headers"]["ce-id"], third["message"]) == ({"order": 18}, "18", None)
        assert [message["headers"]["ce-type"] for message in await cluster.read_all(node, "moves")] == ["minus", "plus"]
        assert raw["headers"] == {"contentType": "application/octet-stream", "encoding": "base64"}


async def read_partitions(cluster: Cluster, node: Node, count: int) -> list[dict[str, Any]]:
    """All messages of topic t."""
    messages: list[dict[str, Any]] = []
    for partition in range(count):
        offset = 0
        while True:
            page = await cluster.http.get(node, "/topic/t/peek", offset=offset, batch=1000, partitionID=partition)
            assert page.status == 200, page
            if not page.body["messages"]:
                break
            messages += page.body["messages"]
            offset = page.body["nextOffset"]
    return messages


async def test_events_of_the_official_sdk_are_taken_once_in_every_mode_and_made_again_by_it(
    cluster: Cluster, http: Http
) -> None:
    nodes = list(cluster.nodes.values())
    made = [
        CloudEvent({"id": f"{n}", "source": "/sdk", "type": "test", "datacontenttype": kind, "n": f"{n}"}, data)
        for n, (kind, data) in enumerate(EVENTS)
    ]
    for event in made:
        for node, message in zip(nodes, (to_binary_event(event), to_structured_event(event)), strict=False):
            url = f"{node.url}/v1/topics/events/messages"
            answer = await http.call("POST", url, data=message.body, headers=message.headers)
            assert answer.status == 201, answer
            assert answer.body["duplicate"] == (message.headers["content-type"] == "application/cloudevents+json")
    await cluster.converge()
    for node in nodes:
        messages = await cluster.read_all(node, "events")
        assert len(messages) == len(made)
        for stored, event in zip(messages, made, strict=True):
            headers = stored["headers"]
            if headers.get("encoding") == "base64":
                body = b64decode(stored["message"])
            elif headers["contentType"].startswith("text/"):
                body = stored["message"].encode()
            else:
                body = json.dumps(stored["message"]).encode()
            sent = {name: value for name, value in headers.items() if name.startswith("ce-")}
            again = from_binary_event(HTTPMessage(sent | {"content-type": headers["contentType"]}, body))
            assert again.get_data() == event.get_data()
            assert again.get_attributes() == event.get_attributes()


async def test_events_of_the_sdk_are_delayed_bounded_and_appended_as_a_whole(cluster: Cluster, http: Http) -> None:
    nodes = list(cluster.nodes.values())
    made = [
        CloudEvent(
            {"id": f"{n}", "source": "/sdk", "type": "test", "falconqdelayms": 1_000, "falconqttlms": "1"}, {"n": n}
        )
        for n in range(3)
    ]
    sent = to_binary_event(CloudEvent({"id": "9", "source": "/sdk", "type": "test", "falconqdelayms": "500"}, b"late"))
    answer = await http.call("POST", f"{nodes[0].url}/v1/topics/late/messages", data=sent.body, headers=sent.headers)
    assert (answer.status, answer.body["offset"]) == (201, None), answer
    batch = b"[" + b",".join(to_structured_event(event).body for event in made) + b"]"
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    results = []
    for node in nodes:
        url = f"{node.url}/v1/topics/late/messages:batch?atomic=true"
        answer = await http.call("POST", url, data=batch, headers=headers)
        assert answer.status == 200, answer
        results.append(answer.body["results"])
    first = results[0]
    assert all(result["offset"] is None and result["dueAt"] > result["timestamp"] for result in first)
    assert results[1:] == [[result | {"duplicate": True} for result in first]] * 2
    changed = batch.replace(b"falconqttlms", b"falconqotherms")
    answer = await http.call(
        "POST", f"{nodes[1].url}/v1/topics/late/messages:batch?atomic=true", data=changed, headers=headers
    )
    assert (answer.status, answer.body["code"]) == (422, "key_reused"), answer

    async def all_due() -> list[dict[str, Any]] | None:
        found = await cluster.read_all(nodes[2], "late")
        return found if len(found) == len(made) + 1 else None

    stored = await until("all events are due", all_due)
    assert [message["headers"]["ce-id"] for message in stored] == ["9", "0", "1", "2"]
    poll = await cluster.http.get(nodes[1], "/topic/late/consume", consumerID="c", batch=10, waitMs=1_000)
    assert [message["headers"]["ce-id"] for message in poll.body["messages"]] == ["9"], "the others were given too late"


async def test_delayed_messages_outlive_their_leader_and_every_node_and_come_once(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    published: dict[str, dict[str, Any]] = {}
    for number in range(60):
        body = {"message": number, "delayMs": 3_000 + 50 * number, "priority": number % 2}
        url = f"{nodes[number % 3].url}/v1/topics/t/messages"
        answer = await http.call("POST", url, json=body, headers={"Idempotency-Key": f"{number}"})
        assert answer.status == 201, answer
        published[answer.body["id"]] = answer.body
    # The leader falls before anything is due, and then all nodes at once while some are.
    leader = await cluster.leader()
    leader.kill()
    await cluster.leader()
    leader.start()
    await cluster.wait_ready()
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()
    await cluster.wait_ready()
    found: dict[str, dict[str, Any]] = {}
    async with asyncio.timeout(60):
        while len(found) < len(published):
            poll = await cluster.http.get(
                random.choice(nodes), "/topic/t/consume", consumerID="c", batch=10, waitMs=2_000
            )
            assert poll.status == 200, poll
            for message in poll.body["messages"]:
                assert message["id"] not in found, "a delayed message came twice"
                found[message["id"]] = message
                assert message["timestamp"] >= published[message["id"]]["dueAt"], "a message was early"
    in_order = sorted(found.values(), key=lambda message: message["offset"])
    assert [message["offset"] for message in in_order] == list(range(len(published)))
    assert [message["message"] for message in in_order] == sorted(message["message"] for message in in_order)
    await cluster.converge()
    await cluster.compare_stores()


BATCHES = 60
BATCH_SIZE = 20


async def test_an_atomic_batch_is_there_wholly_or_not_at_all_while_leaders_die(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    made = await http.call("PUT", f"{nodes[0].url}/v1/topics/t", json={"partitions": 3})
    assert made.status == 201
    is_over = asyncio.Event()
    answered: dict[int, list[dict[str, Any]]] = {}
    tries: set[int] = set()

    async def publish(first: int) -> None:
        number = first
        while number < BATCHES or not is_over.is_set():
            tries.add(number)
            body = [{"message": f"{number}.{place}", "priority": place % 2} for place in range(BATCH_SIZE)]
            # A third of them is never repeated: what it was is not known, but it is all or nothing.
            headers = {} if number % 3 == 0 else {"Idempotency-Key": f"batch-{number}"}
            for node in nodes * 20:
                url = f"{node.url}/v1/topics/t/messages:batch?atomic=true"
                try:
                    answer = await http.call("POST", url, json=body, headers=headers, timeout=1.0)
                except (aiohttp.ClientError, TimeoutError):
                    answer = None
                if answer is not None and answer.status == 200:
                    answered[number] = answer.body["results"]
                if not headers or number in answered:
                    break
                await asyncio.sleep(0.02)
            number += 4

    tasks = [asyncio.create_task(publish(first)) for first in range(4)]
    for _ in range(2):
        leader = await cluster.leader()
        leader.kill()
        await cluster.leader()
        leader.start()
        await cluster.wait_ready()
    is_over.set()
    await asyncio.gather(*tasks)
    await cluster.converge()
    for node in nodes:
        stored: dict[str, dict[str, Any]] = {}
        for message in await read_partitions(cluster, node, 3):
            assert stored.setdefault(message["message"], message) is message, "a batch was appended twice"
        for number in tries:
            places = [f"{number}.{place}" in stored for place in range(BATCH_SIZE)]
            assert all(places) or not any(places), f"batch {number} is there in part"
        for number, results in answered.items():
            for place, result in enumerate(results):
                found = stored[f"{number}.{place}"]
                assert [found[name] for name in ("id", "offset", "partitionID", "level")] == [
                    result[name] for name in ("id", "offset", "partitionID", "level")
                ]
    await cluster.compare_stores()
    assert len(answered) > BATCHES / 2
