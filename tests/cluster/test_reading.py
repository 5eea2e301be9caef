"""How current a read is, on real nodes: local, from an index on, linearizable; and the guide's commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.clients import Answer, Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node
from tests.cluster.test_exactly_once import run_command
from tests.cluster.waiting import until

GUIDE = Path(__file__).parents[2] / "docs" / "reading.md"
LINEARIZABLE = "linearizable"
SHORT_WAIT = {"request_timeout_ms": 1500, "no_leader_wait_ms": 500}


async def peek(http: Http, node: Node, consistency: str | None = None) -> Answer:
    return await http.get(node, "/topic/t/peek", batch=1000, consistency=consistency)


def messages(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer
    return [message["message"] for message in answer.body["messages"]]


async def test_a_leader_without_a_majority_refuses_linearizable_reads_and_the_majority_answers_them(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster(is_proxied=True, **SHORT_WAIT)
    cluster.start()
    await cluster.wait_ready()
    assert cluster.proxies is not None
    old = await cluster.leader()
    others = await cluster.followers()
    assert (await http.publish(old, "t", "before")).kind == "acknowledged"
    for node in cluster.nodes.values():
        assert messages(await peek(http, node, LINEARIZABLE)) == ["before"]

    cluster.proxies.hold_all(old.name)
    numbers = iter(range(1000))
    acknowledged = ["before"]

    async def is_acknowledged() -> bool:
        payload = f"after {next(numbers)}"
        outcome = await http.publish(others[0], "t", payload)
        if outcome.kind == "acknowledged":
            acknowledged.append(payload)
        return outcome.kind == "acknowledged"

    await until("the majority acknowledges", is_acknowledged)
    # The old leader may still believe in itself; the others answer while it looks for a majority.
    reads = asyncio.gather(*(peek(http, old, LINEARIZABLE) for _ in range(5)))
    for node in others:
        assert messages(await peek(http, node, LINEARIZABLE))[-1] == acknowledged[-1]
    for answer in await reads:
        assert (answer.status, answer.body["code"], answer.body["retryable"]) == (503, "no_leader", True)
        assert "Retry-After" in answer.headers
    assert messages(await peek(http, old)) == ["before"], "a local read shows what the node has"
    view = await cluster.view(others[0])
    assert view is not None
    index = str(view["appliedIndex"])
    late = await http.call("GET", f"{old.url}/topic/t/peek", headers={"FalconQ-Min-Index": index})
    assert (late.status, late.body["code"]) == (503, "index_not_reached")

    cluster.proxies.heal()
    await cluster.wait_ready()
    assert messages(await peek(http, old, LINEARIZABLE))[-1] == acknowledged[-1]


async def test_the_commands_of_the_guide_show_what_it_says(cluster: Cluster) -> None:
    nodes = list(cluster.nodes.values())
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    curl ")]
    index = ""
    seen: list[list[str]] = []
    bodies = []
    for line in lines:
        status, headers, body = await asyncio.to_thread(run_command, line.replace("$INDEX", index), nodes)
        assert status == 200, (line, body)
        index = headers["FalconQ-Index"]
        bodies.append(body)
        if "messages" in body:
            seen.append([message["message"] for message in body["messages"]])
    assert seen == [["rain"], ["rain", "sun"], ["rain", "sun", "snow"]]
    assert bodies[-1]["topic"] == "news"
