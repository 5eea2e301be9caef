"""Limits of capacity that are set on real nodes.

What lives here: clients that ask for more than there may be, of two nodes at once, and what is there afterwards.
Rules: as many are accepted as the setting says, not one more or less, whichever nodes were asked and whoever leads.
Must not know: how a limit reaches the machine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.cluster.clients import Answer, Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node

LIMITS = {
    "topics_max": 6,
    "partitions_per_topic_max": 4,
    "consumers_per_topic_max": 5,
    "delayed_per_topic_max": 7,
    "dedupe_per_topic_max": 9,
    "held_per_consumer_max": 11,
}
TRIES = 24


class TwoNodes:
    """Asks two nodes at once, one of which leads."""

    def __init__(self, http: Http, nodes: list[Node]) -> None:
        self._http = http
        self._nodes = nodes

    async def at_once(self, method: str, path: str, body: dict[str, Any], *, has_key: bool = False) -> list[Answer]:
        """Every # in the path is the number of the try."""
        return await asyncio.gather(
            *(
                self._http.call(
                    method,
                    f"{self._nodes[number % 2].url}/v1/topics{path.replace('#', str(number))}",
                    json=body,
                    headers={"Idempotency-Key": f"k{number}"} if has_key else {},
                )
                for number in range(TRIES)
            )
        )


def judge(answers: list[Answer], code: str, limit: str, *, beside: int = 0) -> list[Answer]:
    """As many were accepted as the limit says, with those that are there beside; the others are told why."""
    print(limit, dict(Counter(answer.status for answer in answers)))
    accepted = [answer for answer in answers if answer.status < 400]
    assert len(accepted) + beside == LIMITS[limit]
    for answer in answers:
        if answer not in accepted:
            assert answer.body["code"] == code
            assert f"{limit} is {LIMITS[limit]}" in answer.body["detail"]
    return accepted


async def test_limits_that_are_set_on_the_nodes_are_kept_exactly_over_two_of_them_at_once(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster(**LIMITS)
    cluster.start()
    await cluster.wait_ready()
    leader = await cluster.leader()
    two = TwoNodes(http, [leader, next(node for node in cluster.nodes.values() if node is not leader)])
    made = await http.call("PUT", f"{leader.url}/v1/topics/t", json={"partitions": 4})
    assert made.status == 201
    for wider in await two.at_once("PATCH", "/t", {"partitions": 5}):
        assert (wider.status, wider.body["code"]) == (400, "bad_request")
        assert "1 to 4 (partitions_per_topic_max)" in wider.body["detail"]
    judge(await two.at_once("PUT", "/more#", {}), "overloaded", "topics_max", beside=1)
    consumers = judge(await two.at_once("PUT", "/t/consumers/c#", {}), "overloaded", "consumers_per_topic_max")
    once = await two.at_once("POST", "/t/messages", {"message": 1}, has_key=True)
    judge(once, "dedupe_full", "dedupe_per_topic_max")
    delayed = await two.at_once("POST", "/t/messages", {"message": 1, "delayMs": 3_600_000})
    judge(delayed, "delayed_full", "delayed_per_topic_max")
    assert {answer.status for answer in await two.at_once("POST", "/t/messages", {"message": 1})} == {201}
    name = consumers[0].body["consumer"]
    judge(await two.at_once("POST", f"/t/consumers/{name}/pull", {"max": 1}), "leases_full", "held_per_consumer_max")
    index = {"FalconQ-Min-Index": str(await cluster.converge())}
    for node in cluster.nodes.values():
        topics = await http.call("GET", f"{node.url}/v1/topics", headers=index)
        assert len(topics.body["topics"]) == LIMITS["topics_max"]
        shown = await http.call("GET", f"{node.url}/v1/topics/t/consumers", headers=index)
        assert len(shown.body["consumers"]) == LIMITS["consumers_per_topic_max"]
    await cluster.compare_stores()
