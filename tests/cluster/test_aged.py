"""Aged priority on a real cluster: who waited for its level's limit comes first, through any node and over a kill.

What lives here: a judge of each pull, and a queue that always has something urgent and fresh.
Rules: time is log time, which the answers tell: a message's `timestamp` is when it began to wait, and a lease ends its
length after the pull. So every pull is judged exactly, however slow the machine is.
Must not know: how a level's messages are ordered in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from tests.cluster.clients import Answer, Http
from tests.cluster.harness import Cluster
from tests.cluster.waiting import until

LIMIT_MS = 700
LEASE_MS = 600_000
LOWS, HIGHS_A_TURN, PULLED_A_TURN = 40, 3, 2
"""More urgent ones come than are pulled, so some always wait."""


def log_time_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@dataclass
class Judge:
    """What waits, and what each pull had to give."""

    waiting: dict[str, tuple[str, int]] = field(default_factory=dict)
    """id -> (level, log time since which it waits)."""
    overtaking_count: int = 0
    """Messages that were given before urgent ones because they had waited for so long."""

    def published(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            self.waiting[result["id"]] = result["priority"], log_time_ms(result["timestamp"])

    def pulled(self, deliveries: list[dict[str, Any]]) -> None:
        """Asserts that the pull gave what is overdue, the oldest first, and then what is urgent."""
        now_ms = log_time_ms(deliveries[0]["lease"]["expiresAt"]) - LEASE_MS
        assert {log_time_ms(given["lease"]["expiresAt"]) - LEASE_MS for given in deliveries} == {now_ms}
        overdue = sorted(
            since_ms for level, since_ms in self.waiting.values() if level == "low" and since_ms + LIMIT_MS <= now_ms
        )
        given = [self.waiting.pop(delivery["id"]) for delivery in deliveries]
        due_count = min(len(overdue), len(given))
        expected = [("low", since_ms) for since_ms in overdue[:due_count]]
        assert given[:due_count] == expected, f"at {now_ms} {overdue} were overdue, and it gave {given}"
        assert [level for level, _ in given[due_count:]] == ["high"] * (len(given) - due_count)
        assert any(level == "high" for level, _ in self.waiting.values())
        self.overtaking_count += due_count


async def test_what_waited_for_its_limit_is_given_before_fresh_urgent_ones_through_two_nodes_and_over_a_kill(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    leader = await cluster.leader()
    nodes = [node for node in cluster.nodes.values() if node is not leader]
    topic = {"partitions": 2, "scheduler": {"policy": "aged", "maxWaitMs": {"low": LIMIT_MS}}}
    assert (await http.call("PUT", f"{nodes[0].url}/v1/topics/jobs", json=topic)).status == 201

    async def done(url: str, body: Any, headers: dict[str, str]) -> Answer | None:
        answer = await http.call("POST", url, json=body, headers=headers)
        assert answer.status in (200, 503), answer
        return answer if answer.status == 200 else None

    judge, turn, low_count = Judge(), 0, 0
    async with asyncio.timeout(120):
        while low_count < LOWS or any(level == "low" for level, _ in judge.waiting.values()):
            if judge.overtaking_count and leader.is_running:
                leader.kill()
            publisher, puller = nodes[turn % 2].url, nodes[(turn + 1) % 2].url
            levels = ["high"] * HIGHS_A_TURN + ["low"] * (low_count < LOWS)
            low_count += len(levels) - HIGHS_A_TURN
            messages = [{"message": turn, "priority": level} for level in levels]
            url = f"{publisher}/v1/topics/jobs/messages:batch?atomic=true"
            stored = await until("a publish", partial(done, url, messages, {"Idempotency-Key": f"turn-{turn}"}))
            judge.published(stored.body["results"])
            wanted = {"max": PULLED_A_TURN, "leaseMs": LEASE_MS}
            url = f"{puller}/v1/topics/jobs/consumers/c/pull"
            pulled = await until("a pull", partial(done, url, wanted, {}))
            assert len(pulled.body["deliveries"]) == PULLED_A_TURN
            judge.pulled(pulled.body["deliveries"])
            turn += 1
    assert judge.overtaking_count == LOWS, "none was given early, and none was kept back"
