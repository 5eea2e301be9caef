"""Priority and delivery across the nodes of a real cluster.

What lives here: publish through any node, consume through any other.
Rules: a message is delivered once to its consumer, a more urgent one first.
Must not know: how a cursor is kept.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.processes import Node

MESSAGES = 600
BATCHES = (1, 7, 100, 3, 41)


async def consume(http: Http, node: Node, topic: str, **parameters: Any) -> list[dict[str, Any]]:
    answer = await http.get(node, f"/topic/{topic}/consume", **parameters)
    assert answer.status == 200, answer
    return list(answer.body["messages"])


async def test_what_is_published_through_any_node_is_consumed_through_another_high_before_low(
    cluster: Cluster, http: Http
) -> None:
    nodes = list(cluster.nodes.values())
    for publisher in nodes:
        for reader in nodes:
            if reader is publisher:
                continue
            topic = f"from-{publisher.name}-to-{reader.name}"
            for payload, priority in (("a", "low"), ("b", "high"), ("c", None), ("d", "high")):
                outcome = await http.publish(publisher, topic, payload, priority=priority)
                assert outcome.kind == "acknowledged", outcome
            got = await consume(http, reader, topic, consumerID="c", batch=10)
            assert [message["message"] for message in got] == ["b", "d", "a", "c"]
            assert await consume(http, publisher, topic, consumerID="c", batch=10) == []


async def test_consume_skips_and_repeats_nothing_with_mixed_priorities_over_many_batches(
    cluster: Cluster, http: Http, ledger: Ledger
) -> None:
    nodes = list(cluster.nodes.values())
    chance = random.Random(7)

    async def publish(number: int) -> None:
        payload = ledger.new_payload("m")
        priority = chance.choice(("low", "high"))
        outcome = await http.publish(nodes[number % 3], "mixed", payload, priority=priority, ledger=ledger)
        assert outcome.kind == "acknowledged", outcome

    async def publish_all() -> None:
        for start in range(0, MESSAGES, 10):
            await asyncio.gather(*(publish(start + offset) for offset in range(10)))

    await publish(0)
    publishing = asyncio.create_task(publish_all())
    got: list[dict[str, Any]] = []
    turn = 0
    while not publishing.done() or len(got) < len(ledger.entries):
        batch = BATCHES[turn % len(BATCHES)]
        # What is acknowledged while a consume is on its way may come too late for it.
        was_published = publishing.done()
        messages = await consume(http, nodes[turn % 3], "mixed", consumerID="one", batch=batch)
        assert len(messages) <= batch
        levels = [message["level"] for message in messages]
        assert levels == sorted(levels, reverse=True), "within a batch, a less urgent message came first"
        assert messages or not was_published, "an acknowledged message is not delivered"
        got += messages
        turn += 1
    await publishing

    assert turn > MESSAGES / 40
    assert sorted(message["message"] for message in got) == sorted(ledger.entries)
    for level in (0, 1):
        offsets = [message["offset"] for message in got if message["level"] == level]
        assert offsets == sorted(offsets), "within a level, a later message came first"
    await cluster.verify(ledger, "mixed")


async def test_a_quiet_backlog_is_consumed_through_all_nodes_in_turn_with_every_high_before_any_low(
    cluster: Cluster, http: Http, ledger: Ledger
) -> None:
    nodes = list(cluster.nodes.values())
    chance = random.Random(11)
    priorities = [chance.choice(("low", "high")) for _ in range(200)]
    for number, priority in enumerate(priorities):
        await http.publish(nodes[number % 3], "backlog", ledger.new_payload("m"), priority=priority, ledger=ledger)
    expected = sorted(ledger.acknowledged("backlog"), key=lambda entry: (entry.priority != "high", entry.offset))
    assert len(expected) == len(priorities)
    got: list[str] = []
    for turn in range(60):
        messages = await consume(http, nodes[turn % 3], "backlog", consumerID="one", batch=4)
        got += [message["message"] for message in messages]
    assert got == [entry.payload for entry in expected]
