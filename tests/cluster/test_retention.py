"""What topics keep, on real nodes: the guide's commands, and retention while the leader is killed.

What lives here: promises of docs/retention.md that need processes.
Rules: the guide's commands are run word for word but for their ports; one that shows what happens a moment later is
repeated until it does.
Must not know: how messages are trimmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from falconq_cluster.machine.keys import BATCH
from tests.cluster.clients import Http
from tests.cluster.harness import Cluster, store_dump
from tests.cluster.processes import Node
from tests.cluster.test_exactly_once import run_command
from tests.cluster.waiting import until

GUIDE = Path(__file__).parents[2] / "docs" / "retention.md"
MESSAGES = 600
KEPT = 100
PUBLISHERS = 10


async def answer_of(line: str, nodes: list[Node], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The command's answer, once it is as wanted."""

    async def probe() -> dict[str, Any] | None:
        status, _, body = await asyncio.to_thread(run_command, line, nodes)
        assert status == 200, (line, body)
        return body if wanted(body) else None

    return await until(line, probe)


async def test_the_commands_of_the_guide_are_answered_as_it_says(cluster: Cluster) -> None:
    nodes = list(cluster.nodes.values())
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    curl ")]
    assert len(lines) == 10

    async def run(line: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        return await asyncio.to_thread(run_command, line, nodes)

    status, _, made = await run(lines[0])
    assert (status, made["retention"], made["overflow"]) == (201, {"ms": 86_400_000, "messages": 3}, "drop-oldest")
    status, _, batch = await run(lines[1])
    assert [result["offset"] for result in batch["results"]] == [0, 1, 2, 3, 4]
    shown = await answer_of(lines[2], nodes, lambda body: body["partitions"][0]["firstOffset"] == 2)
    assert shown["partitions"][0]["depth"] == {"low": 3, "high": 0}
    consumed = await answer_of(lines[3], nodes, lambda _: True)
    assert [message["message"] for message in consumed["messages"]] == [2, 3, 4]
    assert (await run(lines[4]))[2]["overflow"] == "reject"
    status, headers, refused = await run(lines[5])
    assert (status, refused["code"], refused["retryable"], "Retry-After" in headers) == (429, "topic_full", True, True)
    assert (await run(lines[6]))[2]["overflow"] == "drop-lowest"
    assert (await run(lines[7]))[0] == 200
    await answer_of(lines[8], nodes, lambda body: [m["message"] for m in body["messages"]] == [3, 4, "alarm"])
    status, _, purged = await run(lines[9])
    assert (status, purged["status"], purged["count"]) == (200, "topic purged", 3)
    await cluster.compare_stores()


async def test_a_topic_keeps_its_newest_messages_over_a_kill_of_the_leader_and_all_stores_agree(
    cluster: Cluster, http: Http
) -> None:
    nodes = list(cluster.nodes.values())
    topic = {"retention": {"messages": KEPT}}
    assert (await http.call("PUT", f"{nodes[0].url}/v1/topics/t", json=topic)).status == 201
    numbers = iter(range(MESSAGES))
    published = 0

    async def is_published(number: int) -> bool:
        node = nodes[number % len(nodes)]
        headers = {"Idempotency-Key": str(number)}
        try:
            answer = await http.call("POST", f"{node.url}/topic/t/publish", json={"message": number}, headers=headers)
        except (aiohttp.ClientError, TimeoutError):
            return False
        return answer.status == 200

    async def publish() -> None:
        nonlocal published
        for number in numbers:
            await until(f"message {number} is published", partial(is_published, number))
            published += 1

    async def kill() -> None:
        async def is_halfway() -> bool:
            return published >= MESSAGES // 2

        await until("half is published", is_halfway)
        leader = await cluster.leader()
        leader.kill()
        leader.start()

    await asyncio.gather(kill(), *(publish() for _ in range(PUBLISHERS)))
    await cluster.wait_ready()

    async def is_trimmed() -> bool:
        answers = [await http.get(node, "/topics/t/partitions") for node in nodes]
        return all(answer.body["partitions"][0]["firstOffset"] == MESSAGES - KEPT for answer in answers)

    await until("as many messages are kept as shall be", is_trimmed)
    for node in nodes:
        kept = (await http.get(node, "/topic/t/peek", batch=1000)).body["messages"]
        assert [message["offset"] for message in kept] == list(range(MESSAGES - KEPT, MESSAGES))
        # Those that were published last are kept: no publisher was further ahead than the others by much.
        assert min(message["message"] for message in kept) > MESSAGES - KEPT - 5 * PUBLISHERS

    async def is_erased() -> bool:
        stored = [await cluster.metric(node, "falconq_trimmed_messages_total") for node in nodes]
        return sum(stored) > 0

    await until("the leader has counted", is_erased)
    await cluster.compare_stores()
    batches = [sum(key[:1] == BATCH for key in store_dump(node)) for node in nodes]
    print(f"\n{MESSAGES} messages were published and {KEPT} kept: {batches[0]} record batches are stored")
    assert len(set(batches)) == 1
    assert batches[0] <= KEPT + PUBLISHERS
