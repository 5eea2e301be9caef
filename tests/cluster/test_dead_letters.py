"""Dead letters and consumers on real nodes, over kills of their leader, and the guide's commands.

What lives here: messages that are rejected or fail too often while leaders die, and each moves once, there and back.
Rules: the guide's commands are read from docs/consumers.md and run word for word but for their ports. What was moved is
counted in what is stored, so a message that moved twice shows.
Must not know: how messages are moved.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node
from tests.cluster.test_leases import Queue, Troubled
from tests.cluster.waiting import until

GUIDE = Path(__file__).parents[2] / "docs" / "consumers.md"
MESSAGES = 300
KILLS = 1
WORKERS = 6


async def test_the_commands_of_the_guide_do_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith(("    curl ", "    LEASE="))]
    script = "\necho\n".join(lines)
    for number, node in enumerate(cluster.nodes.values()):
        script = script.replace(f"localhost:808{number + 1}", node.url.removeprefix("http://"))
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-ec", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line]
    _, _, made, _, shown, paused, resumed, sought, ordered, first, acked, dead, redriven, peeked, deleted = answers
    assert (made["start"], made["leaseMs"], made["lag"]) == ("latest", 60_000, {"low": 0, "high": 0})
    assert shown["lag"] == {"low": 0, "high": 1}
    assert shown["oldestAgeMs"]["low"] is None
    assert (paused["paused"], resumed["paused"]) == (True, False)
    assert sought["lag"] == {"low": 1, "high": 1}
    assert (ordered["ordering"], ordered["lag"]) == ("key", {"low": 1, "high": 1})
    assert [delivery["message"] for delivery in first["deliveries"]] == ["new"]
    assert acked == {"ok": 1, "failed": []}
    (letter,) = dead["messages"]
    assert (letter["message"], letter["priority"]) == ("new", "high")
    assert letter["headers"]["falconq-dead-reason"] == "no such address"
    assert (redriven["deadLetterTopic"], redriven["count"]) == ("mail.dead", 1)
    assert [(message["message"], message["priority"]) for message in peeked["messages"]] == [
        ("old", "low"),
        ("new", "high"),
        ("new", "high"),
    ]
    assert peeked["messages"][2]["headers"] == {"falconq-dead-consumer": "sender"}
    assert deleted["status"] == "consumer deleted"


async def stored(http: Http, node: Node, topic: str) -> list[dict[str, Any]]:
    """All messages of the topic, in the order of their offsets."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await http.get(node, f"/topic/{topic}/peek", batch=1000, offset=len(found), consistency="linearizable")
        assert answer.status == 200, answer
        if not answer.body["messages"]:
            return found
        found += answer.body["messages"]


async def work(queue: Queue, nodes: list[Node], chance: random.Random, is_over: asyncio.Event, acked: set[int]) -> None:
    """Ack a third of the messages, reject a third, give back or forget the others, until it is over."""
    while not is_over.is_set():
        try:
            for delivery in await queue.pull(chance.choice(nodes), max=chance.randint(1, 8), waitMs=300):
                number, lease = delivery["message"], delivery["lease"]["id"]
                body: dict[str, Any] = {"ack": [lease]}
                if number % 3 == 0:
                    acked.add(number)
                elif number % 3 == 1:
                    body = {"reject": [{"id": lease, "reason": f"r{number}"}]}
                elif chance.random() < 0.7:
                    body = {"nack": [{"id": lease}]}
                else:
                    continue
                await queue.post(chance.choice(nodes), "ack", body)
        except (aiohttp.ClientError, TimeoutError, Troubled):
            # A node that was killed, or said that it has no leader: what was leased comes again.
            await asyncio.sleep(0.05)


async def kill_leader(cluster: Cluster) -> None:
    leader = await cluster.leader()
    leader.kill()
    await cluster.leader()
    cluster.start(leader.name)
    await cluster.wait_ready()


async def left(cluster: Cluster, http: Http) -> int:
    """Messages that the consumer was not given, or has in hand."""
    shown = await http.get(await cluster.leader(), "/v1/topics/jobs/consumers/c")
    body = shown.body
    return sum(body["lag"].values()) + body["inFlight"] + body["returned"] if shown.status == 200 else MESSAGES


def check_dead(dead: list[dict[str, Any]], acked: set[int]) -> None:
    numbers = [letter["message"] for letter in dead]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) | acked == set(range(MESSAGES))
    assert {n for n in numbers if n % 3} == {n for n in range(MESSAGES) if n % 3}
    for letter in dead:
        number, reason = letter["message"], letter["headers"]["falconq-dead-reason"]
        assert (letter["level"], letter["partitionKey"]) == (number % 2, f"k{number}")
        assert reason == "maxDeliveries" or (number % 3, reason) == (1, f"r{number}")


async def test_what_is_rejected_or_fails_too_often_moves_once_while_leaders_die_and_comes_back(
    cluster: Cluster, http: Http
) -> None:
    nodes = list(cluster.nodes.values())
    made = await http.call("PUT", f"{nodes[0].url}/v1/topics/jobs", json={"maxDeliveries": 2})
    assert made.status == 201, made
    batch = [{"message": n, "priority": n % 2, "partitionKey": f"k{n}"} for n in range(MESSAGES)]
    published = await http.call("POST", f"{nodes[1].url}/v1/topics/jobs/messages:batch", json=batch)
    assert published.status == 200, published
    is_over, acked, queue = asyncio.Event(), set[int](), Queue(http)
    workers = [
        asyncio.create_task(work(queue, nodes, random.Random(number), is_over, acked)) for number in range(WORKERS)
    ]
    for kill in range(KILLS + 1):

        async def are_done(most: int = MESSAGES * (KILLS - kill) // (KILLS + 1)) -> bool:
            return await left(cluster, http) <= most

        await until("a part of the messages is done", are_done, timeout=60)
        await kill_leader(cluster)
    is_over.set()
    await asyncio.gather(*workers)
    dead = await stored(http, nodes[0], "jobs.dead")
    check_dead(dead, acked)

    answer = await http.call("POST", f"{nodes[1].url}/v1/topics/jobs/dead-letters:redrive")
    assert (answer.status, answer.body["count"]) == (200, len(dead))
    await kill_leader(cluster)

    async def all_are_back() -> bool:
        return len(await stored(http, nodes[2], "jobs")) >= MESSAGES + len(dead)

    await until("all dead letters are back", all_are_back, timeout=30)
    again = await http.call("POST", f"{nodes[1].url}/v1/topics/jobs/dead-letters:redrive")
    assert (again.status, again.body["count"]) == (200, 0)
    back = (await stored(http, nodes[0], "jobs"))[MESSAGES:]
    assert sorted(message["message"] for message in back) == sorted(letter["message"] for letter in dead)
    for message in back:
        assert (message["level"], message["headers"]) == (message["message"] % 2, {"falconq-dead-consumer": "c"})
