"""Leases on real nodes, over kills of their leader, and the guide's commands.

What lives here: workers that pull and settle through any node, and what their answers prove.
Rules: the guide's commands are read from docs/queues.md and run word for word but for their ports. When a message was
handed out is read from the answers alone, by the cluster's clock: the lease's end without its length.
Must not know: how leases are kept.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from tests.cluster.clients import Answer, Http
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.processes import Node
from tests.cluster.waiting import until

GUIDE = Path(__file__).parents[2] / "docs" / "queues.md"
LEASE_MS = 1_500
WORKERS = 9
MESSAGES = 300
KILLS = 3


def with_ports(commands: str, cluster: Cluster) -> str:
    for number, node in enumerate(cluster.nodes.values()):
        commands = commands.replace(f"localhost:808{number + 1}", node.url.removeprefix("http://"))
    return commands


async def test_the_commands_of_the_guide_are_answered_as_it_says(cluster: Cluster, tmp_path: Path) -> None:
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith(("    curl -s ", "    LEASE="))]
    script = "\necho\n".join(line for line in lines)
    script = with_ports(script, cluster)
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-ec", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    _, _, first, extended, acked, again, second, nacked, urgent, _, third, rejected, dead, all_of_it = [
        json.loads(line) for line in done.stdout.splitlines() if line
    ]
    assert [delivery["message"] for delivery in first["deliveries"]] == ["first"]
    for settled in (extended, acked, nacked, rejected):
        assert settled == {"ok": 1, "failed": []}
    assert [failed["code"] for failed in again["failed"]] == ["lease_lost"]
    assert [delivery["message"] for delivery in second["deliveries"]] == ["second"]
    (delivery,) = urgent["deliveries"]
    assert (delivery["message"], delivery["deliveryCount"], delivery["priority"]) == ("second", 2, "low")
    assert [delivery["message"] for delivery in third["deliveries"]] == ["third"]
    (letter,) = dead["messages"]
    assert (letter["message"], letter["priority"]) == ("third", "high")
    assert letter["headers"]["falconq-dead-reason"] == "no such customer"
    assert [(delivery["message"], delivery["lease"]) for delivery in all_of_it["deliveries"]] == [
        ("third", None),
        ("first", None),
        ("second", None),
    ]


def parsed(text: str) -> list[tuple[str, Any]]:
    """(id, message) of each event of a stream."""
    fields = [dict(line.partition(": ")[::2] for line in block.split("\n")) for block in text.split("\n\n")]
    return [(event["id"], json.loads(event["data"])["message"]) for event in fields if event.get("event") == "message"]


async def test_a_stream_goes_on_through_another_node_as_the_guide_says_though_the_first_one_died(
    cluster: Cluster, http: Http
) -> None:
    one, two, three = cluster.nodes.values()
    url = "/v1/topics/jobs/consumers/watcher/events"
    await publish(http, one, "first", "second", "third")
    for line in GUIDE.read_text().splitlines():
        if line.startswith("    curl -sN"):
            command = with_ports(line, cluster)
            done = await asyncio.to_thread(
                subprocess.run, command, shell=True, capture_output=True, text=True, check=False
            )
            seen = parsed(done.stdout)
            assert seen in ([("1", "first"), ("2", "second"), ("3", "third")], [("4", "third")]), seen
    assert seen == [("4", "third")]

    async def stream(node: Node, *headers: str) -> asyncio.subprocess.Process:
        command = ["curl", "-sN", *(part for header in headers for part in ("-H", header)), node.url + url]
        return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)

    async def read(process: asyncio.subprocess.Process, until_text: str) -> list[tuple[str, Any]]:
        assert process.stdout is not None
        found = b""
        async with asyncio.timeout(20):
            while until_text.encode() not in found:
                part = await process.stdout.read(65536)
                assert part, f"the stream ended: {found!r}"
                found += part
        return parsed(found.decode())

    first = await stream(one)
    assert await read(first, '"third"') == [("5", "third")]
    one.kill()
    await first.wait()
    second = await stream(two, "Last-Event-ID: 4")
    assert await read(second, '"third"') == [("6", "third")]
    await publish(http, three, "fourth")
    assert await read(second, '"fourth"') == [("7", "fourth")]
    # Whoever comes without an id gets what was not acknowledged again, and ends the stream before.
    third = await stream(three)
    assert await read(third, '"fourth"') == [("8", "third"), ("9", "fourth")]
    assert second.stdout is not None
    assert b"replaced" in await asyncio.wait_for(second.stdout.read(), 20)
    # A drain says goodbye, and the stream goes on elsewhere behind what was seen.
    assert await asyncio.to_thread(three.terminate) == 0
    assert third.stdout is not None
    assert b'event: goodbye\ndata: {"reason":"draining"}' in await third.stdout.read()
    cluster.start(one.name, three.name)
    await cluster.wait_ready()
    last = await stream(two, "Last-Event-ID: 9")
    await publish(http, one, "fifth")
    assert await read(last, '"fifth"') == [("10", "fifth")]
    last.kill()
    await asyncio.gather(*(process.wait() for process in (first, second, third, last)))


class Troubled(Exception):
    """A node refused, or does not know what became of it, as one may whose leader was killed."""


@dataclass
class Queue:
    """One consumer of one topic, through any node."""

    http: Http
    consumer: str = "c"
    topic: str = "jobs"

    async def post(self, node: Node, action: str, body: dict[str, Any]) -> Answer:
        url = f"{node.url}/v1/topics/{self.topic}/consumers/{self.consumer}/{action}"
        return await self.http.call("POST", url, json=body, timeout=30)

    async def pull(self, node: Node, **wanted: Any) -> list[dict[str, Any]]:
        answer = await self.post(node, "pull", {"leaseMs": LEASE_MS} | wanted)
        if answer.status in {429, 503, 504}:
            raise Troubled(answer)
        assert answer.status in {200, 204}, answer
        return list(answer.body.get("deliveries", []))

    async def ack(self, node: Node, deliveries: list[dict[str, Any]]) -> int:
        answer = await self.post(node, "ack", {"ack": [delivery["lease"]["id"] for delivery in deliveries]})
        assert answer.status == 200, answer
        return int(answer.body["ok"])


async def publish(http: Http, node: Node, *payloads: str, topic: str = "jobs") -> None:
    for payload in payloads:
        outcome = await http.publish(node, topic, payload)
        assert outcome.kind == "acknowledged", outcome


async def test_a_lease_is_settled_through_any_node_and_what_is_given_back_wakes_a_pull_elsewhere(
    cluster: Cluster, http: Http
) -> None:
    one, two, three = cluster.nodes.values()
    queue = Queue(http)
    await publish(http, one, "a", "b")
    first, second = await queue.pull(one, max=2, leaseMs=60_000)
    waiting = asyncio.create_task(queue.pull(three, waitMs=20_000, leaseMs=60_000))
    assert await queue.ack(two, [first]) == 1
    nack = {"nack": [{"id": second["lease"]["id"], "delayMs": 300}]}
    assert (await queue.post(two, "ack", nack)).body == {"ok": 1, "failed": []}
    (again,) = await waiting
    assert (again["message"], again["deliveryCount"]) == ("b", 2)
    lost = await queue.post(one, "ack", {"ack": [second["lease"]["id"]]})
    assert (lost.status, [failed["code"] for failed in lost.body["failed"]]) == (200, ["lease_lost"])
    assert await queue.ack(one, [again]) == 1
    assert await queue.pull(two) == []


async def test_a_consumer_that_settles_nothing_never_holds_up_another(cluster: Cluster, http: Http) -> None:
    nodes = list(cluster.nodes.values())
    slow, fast = Queue(http, "slow"), Queue(http, "fast")
    await publish(http, nodes[0], *[str(number) for number in range(30)])
    assert len(await slow.pull(nodes[1], max=30, leaseMs=600_000)) == 30
    got: list[str] = []
    for number in range(10):
        deliveries = await fast.pull(nodes[number % 3], max=3)
        got += [delivery["message"] for delivery in deliveries]
        assert await fast.ack(nodes[(number + 1) % 3], deliveries) == 3
    assert got == [str(number) for number in range(30)]
    assert await slow.pull(nodes[2]) == []


async def test_a_message_whose_worker_and_leader_died_goes_to_one_of_the_waiting_workers_when_its_lease_ends(
    cluster: Cluster, http: Http
) -> None:
    queue = Queue(http)
    leader = await cluster.leader()
    await publish(http, leader, "a")
    (lost,) = await queue.pull(leader)
    followers = await cluster.followers()
    waiting = [asyncio.create_task(queue.pull(node, waitMs=4_000)) for node in followers * 4]

    async def all_wait() -> bool:
        return sum([await cluster.metric(node, "falconq_broker_waiting_polls") for node in followers]) == len(waiting)

    await until("the workers wait", all_wait)
    leader.kill()
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    ((again,),) = [task.result() for task in done]
    assert (again["message"], again["deliveryCount"]) == ("a", 2)
    assert given_at(again) >= end_of(lost)
    assert await queue.ack(followers[0], [again]) == 1
    others = await asyncio.gather(*(task for task in waiting if task not in done))
    assert not any(others)


@dataclass
class Deliveries:
    """Every delivery that a worker saw, and what was acknowledged of it."""

    seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Payload -> deliveries in the order of the cluster's clock."""
    acked: dict[str, str] = field(default_factory=dict)
    """Payload -> lease whose ack was answered with success."""
    unknown: set[str] = field(default_factory=set)
    """Payloads of which an ack's answer got lost: it took effect or not."""
    given_back: set[str] = field(default_factory=set)
    """Leases for which a nack was sent; whether it took effect is open when its answer got lost."""

    @property
    def settled(self) -> set[str]:
        return self.acked.keys() | self.unknown

    def check(self, payloads: set[str]) -> None:
        assert self.settled == payloads
        for payload, deliveries in self.seen.items():
            deliveries.sort(key=given_at)
            for before, after in pairwise(deliveries):
                lease = before["lease"]["id"]
                assert self.acked.get(payload) != lease, f"{payload} was given again after its ack: {after}"
                assert lease != after["lease"]["id"]
                if lease not in self.given_back:
                    assert given_at(after) >= end_of(before), f"{payload} was leased twice at once: {before}, {after}"


def end_of(delivery: dict[str, Any]) -> float:
    return datetime.fromisoformat(delivery["lease"]["expiresAt"]).timestamp() * 1000


def given_at(delivery: dict[str, Any]) -> float:
    return end_of(delivery) - LEASE_MS


async def work(queue: Queue, nodes: list[Node], chance: random.Random, deliveries: Deliveries, count: int) -> None:
    """Pull, and ack, give back or forget what comes, through other nodes when one fails, until all is done."""
    while len(deliveries.settled) < count:
        try:
            got = await queue.pull(chance.choice(nodes), max=chance.randint(1, 8), waitMs=300)
        except (aiohttp.ClientError, TimeoutError, Troubled):
            await asyncio.sleep(0.05)
            continue
        for delivery in got:
            deliveries.seen.setdefault(delivery["message"], []).append(delivery)
        for delivery in got:
            lease, dice = delivery["lease"]["id"], chance.random()
            if dice < 0.15:
                continue
            body: dict[str, Any] = {"ack": [lease]}
            if dice < 0.35:
                body = {"nack": [{"id": lease, "delayMs": chance.choice((0, 200))}]}
                deliveries.given_back.add(lease)
            try:
                answer = await queue.post(chance.choice(nodes), "ack", body)
                is_known = answer.status == 200
            except (aiohttp.ClientError, TimeoutError):
                is_known = False
            if "ack" in body and not is_known:
                deliveries.unknown.add(delivery["message"])
            elif "ack" in body and answer.body["ok"]:
                deliveries.acked[delivery["message"]] = lease


async def test_over_kills_of_the_leader_a_message_is_with_one_worker_at_a_time_and_never_comes_after_its_ack(
    cluster: Cluster, http: Http, ledger: Ledger
) -> None:
    nodes = list(cluster.nodes.values())
    payloads = {ledger.new_payload("m") for _ in range(MESSAGES)}
    batch = [{"message": payload} for payload in sorted(payloads)]
    made = await http.call("POST", f"{nodes[0].url}/v1/topics/jobs/messages:batch", json=batch)
    assert all("offset" in result for result in made.body["results"])
    deliveries, queue = Deliveries(), Queue(http)
    workers = [
        asyncio.create_task(work(queue, nodes, random.Random(number), deliveries, MESSAGES))
        for number in range(WORKERS)
    ]

    async def progress(count: int) -> None:
        async def probe() -> bool:
            return len(deliveries.settled) >= count

        await until(f"{count} acks", probe, timeout=60)

    for kill in range(KILLS):
        await progress((kill + 1) * MESSAGES // (KILLS + 1))
        leader = await cluster.leader()
        leader.kill()
        await cluster.leader()
        cluster.start(leader.name)
        await cluster.wait_ready()
    await asyncio.wait_for(asyncio.gather(*workers), 90)
    # When every lease has ended, at most what was acked without an answer comes again.
    while got := await queue.pull(nodes[0], max=400, waitMs=2 * LEASE_MS):
        assert {delivery["message"] for delivery in got} <= deliveries.unknown - deliveries.acked.keys()
        assert await queue.ack(nodes[1], got) == len(got)
        for delivery in got:
            deliveries.seen[delivery["message"]].append(delivery)
            deliveries.acked[delivery["message"]] = delivery["lease"]["id"]
    deliveries.check(payloads)
    redelivered = sum(len(seen) > 1 for seen in deliveries.seen.values())
    assert redelivered > MESSAGES // 10
    print(f"\n{MESSAGES} messages, {sum(map(len, deliveries.seen.values()))} deliveries, {KILLS} kills")
    await cluster.compare_stores()
