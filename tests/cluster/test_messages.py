"""Single messages on real nodes: where they stand, their changes and cancellations, and the guide's commands.

What lives here: messages that are changed and cancelled through all nodes while workers take them and leaders die.
Rules: the guide's commands are read from docs/messages.md and run word for word but for their ports. What was said to
be cancelled was given to nobody before and is given to nobody after; what was refused comes, as do all others.
Must not know: how a message is found or changed.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.clients import Answer, Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node
from tests.cluster.test_leases import Queue, Troubled, with_ports
from tests.cluster.waiting import until

GUIDE = Path(__file__).parents[2] / "docs" / "messages.md"
HOUR_MS = 3_600_000
TROUBLE = frozenset((429, 503, 504))
MESSAGES = 240
EDITORS = 4
WORKERS = 3


async def test_the_commands_of_the_guide_do_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith(("    curl -s ", "    ID="))]
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-ec", with_ports("\necho\n".join(lines), cluster)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    published, shown, changed, cancelled, gone, now, given, late, seen = [
        json.loads(line) for line in done.stdout.splitlines() if line
    ]
    assert (shown["id"], shown["message"], shown["offset"]) == (published["id"], "tomorrow", None)
    assert (shown["state"], shown["priority"], shown["dueAt"]) == ("delayed", "low", published["dueAt"])
    assert (changed["state"], changed["priority"]) == ("delayed", "high")
    assert changed["dueAt"] < published["dueAt"]
    assert cancelled == {"status": "message cancelled", "topic": "parcels", "id": published["id"]}
    assert gone["code"] == "message_not_found"
    assert [message["id"] for message in given["messages"]] == [now["id"]]
    assert (late["code"], seen["state"], seen["id"]) == ("already_delivered", "acked", now["id"])
    assert [each["consumer"] for each in seen["consumers"]] == ["van"]


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of one topic by their ids, each request through another node."""

    http: Http
    nodes: list[Node]
    topic: str = "jobs"
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def publish(self, message: object, **fields: Any) -> str:
        answer = await self.ask("POST", "", json={"message": message} | fields)
        assert answer.status == 201, answer
        assert answer.headers["Location"] == f"/v1/topics/{self.topic}/messages/{answer.body['id']}"
        return str(answer.body["id"])

    async def explain(self, message: str, **asked: str) -> dict[str, Any]:
        answer = await self.ask("GET", message, params={"consistency": "linearizable"} | asked)
        assert answer.status == 200, answer
        return answer.body

    async def state(self, message: str, **asked: str) -> tuple[str, int | None]:
        shown = await self.explain(message, **asked)
        return shown["state"], shown["ahead"]

    async def change(self, message: str, **fields: Any) -> Answer:
        return await self.ask("PATCH", message, json=fields)

    async def cancel(self, message: str) -> Answer:
        return await self.ask("DELETE", message)

    async def ask(self, method: str, message: str, **arguments: Any) -> Answer:
        node = self.chance.choice([node for node in self.nodes if node.is_running])
        path = f"/v1/topics/{self.topic}/messages" + (f"/{message}" if message else "")
        return await self.http.call(method, node.url + path, **arguments)


async def test_a_message_is_seen_in_each_of_its_states_through_any_node(cluster: Cluster, http: Http) -> None:
    nodes = list(cluster.nodes.values())
    made = await http.call(
        "PUT", f"{nodes[0].url}/v1/topics/jobs", json={"retry": {"minMs": HOUR_MS, "maxMs": HOUR_MS}}
    )
    assert made.status == 201, made
    messages, queue = Messages(http, nodes), Queue(http)
    later = await messages.publish("later", delayMs=HOUR_MS)
    low, urgent, other = [
        await messages.publish(name, priority=priority, ttlMs=HOUR_MS)
        for name, priority in (("low", "low"), ("urgent", "high"), ("other", "low"))
    ]
    shown = await messages.explain(later)
    assert (shown["state"], shown["offset"], shown["timestamp"], shown["consumers"]) == ("delayed", None, None, [])
    assert shown["dueAt"] is not None
    assert (await messages.explain(low))["expiresAt"] is not None
    (first,) = await queue.pull(nodes[0], leaseMs=600_000)
    assert first["id"] == urgent
    assert await messages.state(urgent) == ("leased", None)
    assert [await messages.state(message) for message in (low, other)] == [("ready", 0), ("ready", 1)]
    (only,) = (await messages.explain(urgent, consumer="c"))["consumers"]
    assert (only["state"], only["deliveries"]) == ("leased", 1)
    assert only["leaseExpiresAt"] == first["lease"]["expiresAt"]
    assert await queue.ack(nodes[1], [first]) == 1
    assert (await messages.state(urgent))[0] == "acked"
    (second,) = await queue.pull(nodes[2], leaseMs=600_000)
    assert second["id"] == low
    await queue.post(nodes[0], "ack", {"nack": [{"id": second["lease"]["id"], "delayMs": HOUR_MS}]})
    shown = await messages.explain(low)
    assert (shown["state"], shown["deliveries"], shown["offset"]) == ("delayed", 1, second["offset"])
    assert shown["consumers"][0]["dueAt"] == shown["dueAt"] is not None
    (third,) = await queue.pull(nodes[1], leaseMs=600_000)
    await queue.post(nodes[2], "ack", {"reject": [{"id": third["lease"]["id"], "reason": "no"}]})
    assert (third["id"], (await messages.state(other))[0]) == (other, "dead")
    # With another consumer that was given nothing, each of them is still to come.
    await http.call("PUT", f"{nodes[0].url}/v1/topics/jobs/consumers/late", json={})
    assert [await messages.state(message) for message in (urgent, low, other)] == [
        ("ready", 0),
        ("ready", 1),
        ("ready", 2),
    ]
    assert (await messages.explain(other, consumer="c"))["state"] == "dead"
    await cluster.compare_stores()


async def kill_leader(cluster: Cluster) -> None:
    leader = await cluster.leader()
    leader.kill()
    await cluster.leader()
    cluster.start(leader.name)
    await cluster.wait_ready()


async def test_what_is_changed_comes_in_its_new_order_and_what_is_cancelled_never_though_the_leader_died(
    cluster: Cluster, http: Http
) -> None:
    messages, queue = Messages(http, list(cluster.nodes.values())), Queue(http)
    ids = {name: await messages.publish(name) for name in ("a", "b", "c", "d", "e")}
    ids["soon"] = await messages.publish("soon", delayMs=HOUR_MS)
    ids["never"] = await messages.publish("never", delayMs=HOUR_MS)
    changed = await messages.change(ids["d"], priority="high")
    assert (changed.status, changed.body["priority"], changed.body["id"]) == (200, "high", ids["d"])
    assert (changed.body["state"], changed.headers["FalconQ-Index"] > "0") == ("ready", True)
    moved = await messages.change(ids["b"], delayMs=HOUR_MS)
    assert (moved.status, moved.body["state"], moved.body["offset"]) == (200, "delayed", None)
    for name in ("c", "never"):
        assert (await messages.cancel(ids[name])).status == 200
    await kill_leader(cluster)
    for name in ("c", "never"):
        for refused in (await messages.cancel(ids[name]), await messages.change(ids[name], priority="high")):
            assert (refused.status, refused.body["code"]) == (404, "message_not_found")
    soon = await messages.change(ids["soon"], priority="high", dueAt="2020-01-01T00:00:00Z")
    assert soon.status == 200, soon

    async def is_ready() -> bool:
        return (await messages.state(ids["soon"]))[0] == "ready"

    await until("what is due is in its level", is_ready)
    given = await queue.pull(messages.nodes[0], max=10, leaseMs=600_000)
    assert [delivery["message"] for delivery in given] == ["d", "soon", "a", "e"]
    assert [delivery["id"] for delivery in given] == [ids[name] for name in ("d", "soon", "a", "e")]
    for name in ("a", "d"):
        for refused in (await messages.cancel(ids[name]), await messages.change(ids[name], delayMs=5)):
            assert (refused.status, refused.body["code"]) == (409, "already_delivered")
    back = await messages.change(ids["b"], delayMs=0)
    assert back.status == 200, back

    async def comes() -> list[dict[str, Any]] | None:
        return await queue.pull(messages.nodes[1], max=10, leaseMs=600_000) or None

    (last,) = await until("the delayed one comes", comes)
    assert (last["message"], last["id"]) == ("b", ids["b"])
    await cluster.compare_stores()


async def surely(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The same again until a node knows: that is safe, says the guide."""
    async with asyncio.timeout(60):
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                answer = await ask()
                if answer.status not in TROUBLE:
                    return answer
            await asyncio.sleep(0.05)


@dataclass(slots=True)
class Edits:
    """What editors were told."""

    cancelled: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    """They were handed out before they could be cancelled."""


async def edit(messages: Messages, mine: list[str], edits: Edits, chance: random.Random) -> None:
    for message in mine:
        wish = chance.choice(("cancel", "cancel", "raise", "delay", "both"))
        if wish == "cancel":
            # A repeat of one that was applied and not answered is told that the message is gone.
            answer = await surely(partial(messages.cancel, message))
            assert answer.status in {200, 404, 409}, answer
            (edits.late if answer.status == 409 else edits.cancelled).add(message)
            continue
        fields: dict[str, Any] = {"priority": chance.choice(("low", "high"))} if wish != "delay" else {}
        fields |= {"delayMs": chance.randrange(400)} if wish != "raise" else {}
        answer = await surely(partial(messages.change, message, **fields))
        assert answer.status in {200, 409}, answer


async def work(messages: Messages, is_over: asyncio.Event, given: set[str], chance: random.Random) -> None:
    queue = Queue(messages.http)
    while not is_over.is_set():
        with suppress(aiohttp.ClientError, TimeoutError, Troubled):
            deliveries = await queue.pull(chance.choice(messages.nodes), max=chance.randint(1, 4), waitMs=300)
            given |= {delivery["id"] for delivery in deliveries}
            if deliveries:
                body = {"ack": [delivery["lease"]["id"] for delivery in deliveries]}
                await queue.post(chance.choice(messages.nodes), "ack", body)
        await asyncio.sleep(0.1)


async def test_of_what_is_cancelled_while_workers_take_messages_and_leaders_die_nothing_is_given(
    cluster: Cluster, http: Http
) -> None:
    messages, edits, given, is_over = Messages(http, list(cluster.nodes.values())), Edits(), set[str](), asyncio.Event()
    batch = [{"message": n, "priority": n % 2, "delayMs": 300 * (n % 3)} for n in range(MESSAGES)]
    published = await http.call("POST", f"{messages.nodes[0].url}/v1/topics/jobs/messages:batch", json=batch)
    ids = [result["id"] for result in published.body["results"]]
    random.Random(3).shuffle(ids)
    editors = [
        asyncio.create_task(edit(messages, ids[number::EDITORS], edits, random.Random(number)))
        for number in range(EDITORS)
    ]
    workers = [
        asyncio.create_task(work(messages, is_over, given, random.Random(100 + number))) for number in range(WORKERS)
    ]
    for _ in range(2):
        await asyncio.sleep(0)
        await kill_leader(cluster)
    await asyncio.gather(*editors)

    async def all_came() -> bool:
        return given >= set(ids) - edits.cancelled

    await until("all that was not cancelled came", all_came, timeout=90)
    is_over.set()
    await asyncio.gather(*workers)
    assert not given & edits.cancelled
    assert given == set(ids) - edits.cancelled
    assert edits.late <= given
    assert len(edits.cancelled) > MESSAGES // 10
    print(f"{len(edits.cancelled)} cancelled, {len(edits.late)} too late, {len(given)} given")
    await cluster.compare_stores()
