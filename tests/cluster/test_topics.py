"""Topics as resources on a real cluster, and the guide's commands.

What lives here: changes through every node, a deletion whose trimming outlives its leader, and its space.
Rules: the guide's commands are read from docs/topics.md and run word for word but for their ports.
Must not know: how keys are trimmed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from falconq_cluster.machine.keys import BATCH, DELETION
from tests.cluster.clients import Http
from tests.cluster.harness import Cluster, store_dump
from tests.cluster.processes import Node
from tests.cluster.waiting import until

ROOT = Path(__file__).parents[2]
MESSAGES = 4000
MESSAGE_BYTES = 8_000
PUBLISHERS = 16
TRIM_INTERVAL_MS = 200
"""Slow, so that the leader is killed in the middle of it."""


async def ready(make_cluster: Callable[..., Cluster], **settings: object) -> Cluster:
    cluster = make_cluster(**settings)
    cluster.start()
    await cluster.wait_ready()
    return cluster


async def fill(http: Http, nodes: list[Node], topic: str, count: int) -> None:
    numbers = iter(range(count))

    async def publish(place: int) -> None:
        for number in numbers:
            body = {"message": os.urandom(MESSAGE_BYTES // 2).hex(), "partitionKey": str(number)}
            url = f"{nodes[place % len(nodes)].url}/topic/{topic}/publish"
            assert (await http.call("POST", url, json=body)).status == 200

    await asyncio.gather(*(publish(place) for place in range(PUBLISHERS)))


async def test_topics_are_changed_through_any_node_and_of_two_changes_that_saw_one_version_one_wins(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = await ready(make_cluster)
    nodes = list(cluster.nodes.values())

    async def change(node: Node, method: str, **arguments: Any) -> Any:
        return await http.call(method, f"{node.url}/v1/topics/t", **arguments)

    made = await change(nodes[0], "PUT", json={"partitions": 2})
    assert made.status == 201
    tag = {"If-Match": made.headers["Etag"]}
    changes = await asyncio.gather(
        *(change(node, "PATCH", json={"partitions": 3 + n}, headers=tag) for n, node in enumerate(nodes))
    )
    assert sorted(answer.status for answer in changes) == [200, 412, 412]
    winner = next(answer for answer in changes if answer.status == 200)
    for node in nodes:
        shown = await http.call(
            "GET", f"{node.url}/v1/topics/t", headers={"FalconQ-Min-Index": winner.headers["FalconQ-Index"]}
        )
        assert (shown.body, shown.headers["Etag"]) == (winner.body, winner.headers["Etag"])
    refused = await change(nodes[1], "PUT", json={"partitions": 1})
    assert (refused.status, "never shrink" in refused.body["detail"]) == (400, True)
    gone = await change(nodes[2], "DELETE", headers={"If-Match": winner.headers["Etag"]})
    assert gone.status == 200
    for node in nodes:
        index = {"FalconQ-Min-Index": gone.headers["FalconQ-Index"]}
        assert (await http.call("GET", f"{node.url}/v1/topics/t", headers=index)).status == 404
    await cluster.compare_stores()


async def test_a_deleted_topic_is_trimmed_over_kills_of_the_leader_and_its_space_comes_back(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = await ready(make_cluster, trim_interval_ms=TRIM_INTERVAL_MS)
    nodes = list(cluster.nodes.values())
    assert (await http.call("PUT", f"{nodes[0].url}/v1/topics/big", json={"partitions": 4})).status == 201
    await fill(http, nodes, "big", MESSAGES)
    await fill(http, nodes, "kept", 10)
    await cluster.converge()
    full = [await cluster.metric(node, "falconq_store_size_bytes") for node in nodes]
    started = time.monotonic()
    assert (await http.call("DELETE", f"{nodes[1].url}/v1/topics/big")).status == 200
    print(f"\nthe deletion of {MESSAGES} messages was answered after {1000 * (time.monotonic() - started):.0f} ms")
    leader = await cluster.leader()
    leader.kill()
    await cluster.leader()
    assert (await http.call("PUT", f"{cluster.running[0].url}/v1/topics/big")).status == 201
    leader.start()
    await cluster.wait_ready()

    async def is_small() -> bool:
        sizes = [await cluster.metric(node, "falconq_store_size_bytes") for node in nodes]
        return all(size < MESSAGES * MESSAGE_BYTES / 10 for size in sizes)

    await until("the space comes back", is_small)
    after = [await cluster.metric(node, "falconq_store_size_bytes") for node in nodes]
    print(f"store bytes before {full}, after {after}, {time.monotonic() - started:.1f} s after the deletion")
    assert all(size > MESSAGES * MESSAGE_BYTES * 0.9 for size in full)
    await cluster.compare_stores()
    dump = store_dump(nodes[0])
    assert sum(key[:1] == BATCH for key in dump) <= 10
    assert not [key for key in dump if key[:1] == DELETION]
    for node in nodes:
        assert (await http.get(node, "/topic/big/peek", batch=10)).body["messages"] == []
        assert len((await http.get(node, "/topic/kept/peek", batch=100)).body["messages"]) == 10


async def test_the_commands_of_the_guide_do_what_it_says(make_cluster: Callable[..., Cluster]) -> None:
    cluster = await ready(make_cluster)
    text = (ROOT / "docs" / "topics.md").read_text()
    for number, node in enumerate(cluster.nodes.values(), start=8081):
        text = text.replace(f"http://localhost:{number}", node.url)
    commands = [line for line in text.splitlines() if line.startswith("curl ")]
    answers = []
    for command in commands:
        done = await asyncio.to_thread(_shell, command)
        assert done.returncode == 0, (command, done.stderr)
        answers.append(json.loads(done.stdout))
    assert not re.search(r"http://localhost", text)
    made, _, _, consumed, wider, deeper, shown, weighted, aged, window, listed, deleted = answers
    assert (made["partitions"], made["levels"]) == (2, ["low", "normal", "high"])
    assert [message["message"] for message in consumed["messages"]] == ["alarm", "report"]
    assert wider["partitions"] == 4
    assert deeper["levels"] == ["low", "normal", "high", "now"]
    assert shown == deeper
    assert weighted["scheduler"] == {"policy": "weighted", "weights": {"low": 1, "normal": 3, "high": 6}}
    assert aged["scheduler"] == {"policy": "aged", "maxWaitMs": {"low": 60000, "normal": 5000}}
    assert window["dedupeWindowMs"] == 60_000
    assert [topic["topic"] for topic in listed["topics"]] == ["jobs"]
    assert deleted == {"status": "topic deleted", "topic": "jobs"}


async def test_weighted_shares_are_exact_through_two_nodes_and_over_a_kill_of_the_leader(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = await ready(make_cluster)
    nodes = list(cluster.nodes.values())
    levels, each = ("low", "normal", "high"), 400
    scheduler = {"policy": "weighted", "weights": dict(zip(levels, (1, 3, 6), strict=True))}
    topic = {"partitions": 2, "levels": levels, "scheduler": scheduler}
    assert (await http.call("PUT", f"{nodes[0].url}/v1/topics/jobs", json=topic)).status == 201
    messages = [{"message": number, "priority": level} for number in range(each) for level in levels]
    stored = await http.call("POST", f"{nodes[1].url}/v1/topics/jobs/messages:batch", json=messages)
    assert {result["status"] for result in stored.body["results"]} == {"message committed"}

    async def taken(url: str) -> list[dict[str, Any]] | None:
        answer = await http.call("GET", url)
        return answer.body["messages"] if answer.status == 200 else None

    counts: Counter[str] = Counter()
    for turn in range(40):
        if turn == 20:
            leader = await cluster.leader()
            leader.kill()
            nodes = [node for node in nodes if node is not leader]
        url = f"{nodes[turn % 2].url}/topic/jobs/consume?consumerID=c&batch=10&attempt=a{turn}"
        delivered = await until("a pull is answered", partial(taken, url))
        assert len(delivered) == 10
        counts.update(message["priority"] for message in delivered)
    print(f"\n400 deliveries with the weights 1, 3 and 6: {dict(counts)}")
    assert counts == {"low": 40, "normal": 120, "high": 240}


def _shell(line: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f"{line} --silent --show-error --fail"]
    return subprocess.run(command, capture_output=True, text=True, check=False)
