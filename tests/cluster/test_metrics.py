"""What the metrics say of consumers is what they were given."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node

LINE = re.compile(r'falconq_consumer_(\w+)\{consumer="(\w+)",level="(\d+)",shard="shard-0",topic="(\w+)"\} (\S+)')


async def shown(http: Http, node: Node) -> dict[str, dict[tuple[str, str, int], float]]:
    """Kind -> (topic, consumer, level) -> value."""
    answer = await http.get(node, "/metrics")
    found: dict[str, dict[tuple[str, str, int], float]] = {"lag_messages": {}, "oldest_age_seconds": {}}
    for kind, consumer, level, topic, value in LINE.findall(answer.body["text"]):
        found[kind][topic, consumer, int(level)] = float(value)
    return found


async def test_the_leader_shows_what_each_consumer_has_left_by_level_and_how_old_it_is(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster(count=1)
    node = cluster["n1"]
    node.start()
    await cluster.wait_ready()
    assert await shown(http, node) == {"lag_messages": {}, "oldest_age_seconds": {}}
    for number, priority in enumerate(("low", "low", "low", "high", "high")):
        assert (await http.publish(node, "t", str(number), priority=priority)).kind == "acknowledged"
    taken = await http.get(node, "/topic/t/consume", consumerID="c", batch=1)
    assert taken.body["count"] == 1
    seen = await shown(http, node)
    assert seen["lag_messages"] == {("t", "c", 0): 3, ("t", "c", 1): 1}
    assert set(seen["oldest_age_seconds"]) == set(seen["lag_messages"])
    assert all(0 <= age < 60 for age in seen["oldest_age_seconds"].values())
    await http.get(node, "/topic/t/consume", consumerID="c", batch=10)
    seen = await shown(http, node)
    assert seen["lag_messages"] == {("t", "c", 0): 0, ("t", "c", 1): 0}
    assert set(seen["oldest_age_seconds"].values()) == {0}
    assert (await http.call("DELETE", f"{node.url}/v1/topics/t")).status == 200
    assert await shown(http, node) == {"lag_messages": {}, "oldest_age_seconds": {}}
