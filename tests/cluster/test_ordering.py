"""A consumer with the order `key` on real nodes: many workers, each key in order, over a kill of the leader.

What lives here: workers that ack, give back or forget, and what they saw of each key.
Rules: when a message was handed out is read from the answers, by the cluster's clock, as in test_leases.py.
Must not know: how an order is kept.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import aiohttp

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node
from tests.cluster.test_leases import Queue, Troubled, given_at
from tests.cluster.waiting import until

KEYS = 6
EACH = 20
WORKERS = 6


async def publish(http: Http, nodes: list[Node], rounds: range, min_index: str) -> None:
    """The next messages of all keys, each once, through nodes in turn."""
    for number in rounds:
        for key in range(KEYS):
            body = {"message": [key, number], "partitionKey": f"k{key}"}
            headers = {"Idempotency-Key": f"{key}-{number}", "FalconQ-Min-Index": min_index}

            async def is_there(body: dict[str, Any] = body, headers: dict[str, str] = headers) -> bool:
                node = random.choice(nodes)
                try:
                    url = f"{node.url}/v1/topics/jobs/messages"
                    return (await http.call("POST", url, json=body, headers=headers)).status == 201
                except (aiohttp.ClientError, TimeoutError):
                    return False

            await until("the message is published", is_there)


async def work(
    queue: Queue,
    nodes: list[Node],
    chance: random.Random,
    seen: list[dict[str, Any]],
    done: set[tuple[int, int]],
    is_over: asyncio.Event,
) -> None:
    """Ack, give back or forget what comes, until it is over."""
    while not is_over.is_set():
        try:
            got = await queue.pull(chance.choice(nodes), max=chance.randint(1, 4), waitMs=300)
            seen += got
            for delivery in got:
                key, number = delivery["message"]
                lease, dice = delivery["lease"]["id"], chance.random()
                if dice < 0.04:
                    continue
                body: dict[str, Any] = {"ack": [lease]} if dice < 0.8 else {"nack": [{"id": lease, "delayMs": 100}]}
                answer = await queue.post(chance.choice(nodes), "ack", body)
                if answer.status == 200 and answer.body["ok"] and "ack" in body:
                    done.add((key, number))
        except (aiohttp.ClientError, TimeoutError, Troubled):
            await asyncio.sleep(0.05)


async def test_each_key_is_worked_on_in_order_over_an_addition_of_partitions_and_a_kill_of_the_leader(
    cluster: Cluster, http: Http
) -> None:
    nodes = list(cluster.nodes.values())
    await http.call("PUT", f"{nodes[0].url}/v1/topics/jobs", json={"partitions": 2})
    made = await http.call("PUT", f"{nodes[1].url}/v1/topics/jobs/consumers/c", json={"ordering": "key"})
    assert made.body["ordering"] == "key"
    seen, done, queue = list[dict[str, Any]](), set[tuple[int, int]](), Queue(http)
    is_over = asyncio.Event()
    await publish(http, nodes, range(EACH // 2), made.headers["FalconQ-Index"])
    changed = await http.call("PATCH", f"{nodes[2].url}/v1/topics/jobs", json={"partitions": 5})
    assert changed.status == 200, changed
    workers = [asyncio.create_task(work(queue, nodes, random.Random(n), seen, done, is_over)) for n in range(WORKERS)]
    await publish(http, nodes, range(EACH // 2, EACH), changed.headers["FalconQ-Index"])

    async def half_is_done() -> bool:
        return len(done) >= KEYS * EACH // 2

    await until("half of the messages is done", half_is_done, timeout=60)
    leader = await cluster.leader()
    leader.kill()
    await cluster.leader()
    cluster.start(leader.name)

    async def all_is_done() -> bool:
        # An ack of which the answer got lost may have settled its message, which does not come again.
        shown = await http.get(await cluster.leader(), "/v1/topics/jobs/consumers/c")
        body = shown.body
        return shown.status == 200 and sum(body["lag"].values()) + body["inFlight"] + body["returned"] == 0

    await until("all messages are done", all_is_done, timeout=60)
    is_over.set()
    await asyncio.gather(*workers)
    partitions, orders = set(), defaultdict(list)
    for delivery in sorted(seen, key=given_at):
        key, number = delivery["message"]
        partitions.add(delivery["partitionID"])
        orders[key].append(number)
    assert len(partitions) > 2
    for numbers in orders.values():
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(EACH))
