"""Publishing on real nodes.

What lives here: the guide's commands, word for word but for the ports, and what is promised of them while leaders die.
Rules: clients that got no answer repeat with their key.
Must not know: how a repeat is recognised.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node
from tests.cluster.test_exactly_once import run_command

GUIDE = Path(__file__).parents[2] / "docs" / "publishing.md"


async def test_the_commands_of_the_guide_are_answered_as_it_says(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    curl ")]
    answers = [await asyncio.to_thread(run_command, line, nodes) for line in lines]
    *single, (status, _, batch), once, again, refused = answers
    *single, traced, opened, late, repeated = single
    assert traced[0] == 201
    assert [status for status, _, _ in (opened, late, repeated)] == [201, 412, 201]
    assert "is 0, not -1" in late[2]["detail"]
    assert repeated[2] == opened[2] | {"duplicate": True}
    assert [status for status, _, _ in (once, again, refused)] == [200, 200, 400]
    assert [result["duplicate"] for result in once[2]["results"]] == [False, False]
    assert again[2]["results"] == [result | {"duplicate": True} for result in once[2]["results"]]
    assert again[1]["Idempotency-Replayed"] == "true"
    assert refused[2]["detail"].startswith("message 1: ")
    assert [(code, body["priority"]) for code, _, body in single] == [(201, "high"), (201, "high"), (201, "low")]
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
