"""Exactly-once publish on real nodes.

What lives here: the guide's commands, word for word but for the ports, and publishers that repeat while leaders die.
Rules: what is repeated with its key is stored once, at the place that every answer names.
Must not know: how a repeat is recognised.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.clients import Answer, Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node

GUIDE = Path(__file__).parents[2] / "docs" / "exactly-once.md"
PUBLISHERS = 8
MESSAGES = 40
LEADER_KILLS = 3
SEEN = {200, 429, 503, 504}
"""What a publisher with a right key may be answered with."""


def run_command(line: str, nodes: list[Node]) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body of a command of the guide, whose nodes are on the ports from 8081 on."""
    for number, node in enumerate(nodes):
        line = line.replace(f"localhost:808{number + 1}", node.url.removeprefix("http://"))
    done = subprocess.run(["bash", "-c", f"{line} --silent --show-error"], capture_output=True, text=True, check=True)
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


async def test_the_commands_of_the_guide_are_answered_as_it_says(cluster: Cluster, http: Http) -> None:
    nodes = list(cluster.nodes.values())
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    curl ")]
    answers = [await asyncio.to_thread(run_command, line, nodes) for line in lines]
    assert [status for status, _, _ in answers] == [200, 200, 422, 200, 200, 200, 409, 200, 200]
    is_replayed = [headers.get("Idempotency-Replayed") == "true" for _, headers, _ in answers]
    assert is_replayed == [False, True, False, False, False, True, False, False, False]
    bodies = [body for _, _, body in answers]
    assert bodies[1] == bodies[0] | {"duplicate": True}
    assert bodies[5] == bodies[4] | {"duplicate": True}
    assert (bodies[2]["code"], bodies[6]["code"]) == ("key_reused", "sequence_gap")
    assert bodies[7]["dedupeWindowMs"] == 3_600_000
    assert "its next sequence is 3, not 4" in bodies[6]["detail"]
    await cluster.converge()
    for node in nodes:
        stored = [message["message"] for message in await cluster.read_all(node, "orders")]
        assert stored == [{"order": 17}, "a", "b", {"order": 19}]


class Repeating:
    """A publisher that repeats each message until it is answered, and one in five once more."""

    def __init__(self, http: Http, nodes: list[Node], name: str, *, counts: bool) -> None:
        self._http = http
        self._nodes = nodes
        self._name = name
        self._counts = counts
        self._chance = random.Random(name)
        self.offsets: dict[str, int] = {}
        self.replay_count = 0

    async def run(self, is_over: asyncio.Event) -> None:
        """Publish until it is over, and at least so many."""
        number = 0
        while number < MESSAGES or not is_over.is_set():
            number += 1
            payload = f"{self._name}-{number}"
            while True:
                answer = await self._try(payload, number)
                if answer is not None:
                    self._take(payload, answer)
                    if self._chance.random() > 0.2:
                        break
                await asyncio.sleep(0.02)

    async def _try(self, payload: str, number: int) -> Answer | None:
        body: dict[str, Any] = {"message": payload, "priority": "high"}
        headers = {}
        if self._counts:
            body["producer"] = {"id": self._name, "sequence": number}
        else:
            headers["Idempotency-Key"] = payload
        url = f"{self._chance.choice(self._nodes).url}/topic/t/publish"
        try:
            # A short patience, so that many an answer is lost.
            timeout = self._chance.choice((0.02, 2.0))
            answer = await self._http.call("POST", url, json=body, headers=headers, timeout=timeout)
        except (aiohttp.ClientError, TimeoutError):
            return None
        assert answer.status in SEEN, answer
        return answer if answer.status == 200 else None

    def _take(self, payload: str, answer: Answer) -> None:
        offset = answer.body["offset"]
        assert self.offsets.setdefault(payload, offset) == offset
        self.replay_count += answer.body["duplicate"]


async def test_what_is_repeated_through_any_node_while_leaders_die_is_stored_once(cluster: Cluster, http: Http) -> None:
    nodes = list(cluster.nodes.values())
    publishers = [Repeating(http, nodes, f"p{n}", counts=n % 2 == 0) for n in range(PUBLISHERS)]
    is_over = asyncio.Event()
    tasks = [asyncio.create_task(publisher.run(is_over)) for publisher in publishers]
    for _ in range(LEADER_KILLS):
        leader = await cluster.leader()
        leader.kill()
        await cluster.leader()
        leader.start()
        await cluster.wait_ready()
    is_over.set()
    await asyncio.gather(*tasks)
    await cluster.converge()
    expected = {payload: offset for publisher in publishers for payload, offset in publisher.offsets.items()}
    for node in nodes:
        stored = await cluster.read_all(node, "t")
        assert len(stored) == len(expected), "a repeat was appended again"
        assert {message["message"]: message["offset"] for message in stored} == expected
    await cluster.compare_stores()
    replays = sum(publisher.replay_count for publisher in publishers)
    print(f"\n{len(expected)} messages, {replays} answers were repeats")
    assert replays > len(expected) / 10
