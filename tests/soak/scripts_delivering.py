"""Scripts of delivering: schedulers, leases, pausing, seeking, and the least urgent level that is wanted.

What lives here: the scripts, by name.
Rules: those of tests/soak/scripts.py. The answer of a pull with leases may get lost, and takes its messages with it
until they come again; so what is said of such pulls holds also when some did.
Must not know: how a node schedules.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.soak.scripts_reading import numbers

if TYPE_CHECKING:
    from tests.soak.scripts import Client, Script
    from tests.soak.world import Outcome

EMPTY = 204
LEASE_MS = 1500
CLOCK_SLACK = 0.1
"""Twice what the cluster's clock is drawn by (PROTOCOL.md P11)."""
SLACK_SECONDS = 0.2
WEIGHTS = {"low": 1, "mid": 3, "high": 6}
ROUND = sum(WEIGHTS.values())
AGED_MS = 1500
IN_FLIGHT = 4
COMES_AGAIN_SECONDS = 30.0


async def _taken(client: Client, consumer: str, count: int) -> list[dict[str, Any]]:
    """So many messages, in parts of any size."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        part = await client.take(consumer, min(client.world.chance.randrange(1, 15), count - len(found)))
        if not part:
            break
        found += part
    return found


async def strictly(client: Client) -> None:
    """The most urgent level of any partition goes first, each level in the order of its publishing."""
    await client.make(partitions=2, levels=list(WEIGHTS))
    await client.publish([{"message": number, "priority": number % 3} for number in range(60)])
    found = await _taken(client, "worker", 60)
    levels = [message["level"] for message in found]
    client.equal("the most urgent goes first", levels, sorted(levels, reverse=True))
    client.equal("every message is delivered once", sorted(numbers(found)), list(range(60)))


async def by_weight(client: Client) -> None:
    """Each level has its share of every round, while all have messages."""
    await client.make(partitions=2, levels=list(WEIGHTS), scheduler={"policy": "weighted", "weights": WEIGHTS})
    await client.publish([{"message": number, "priority": number % 3} for number in range(180)])
    found = await _taken(client, "worker", 80)
    shares = [Counter(message["level"] for message in found[at : at + ROUND]) for at in range(0, len(found), ROUND)]
    wanted = dict(enumerate(WEIGHTS.values()))
    client.equal("each level has its share of every round", [dict(share) for share in shares], [wanted] * 8)


async def by_age(client: Client) -> None:
    """What waited too long goes first; while nothing did, the most urgent."""
    await client.make(scheduler={"policy": "aged", "maxWaitMs": {"low": AGED_MS}})
    old = await client.one({"message": "old", "priority": "low"})
    new = await client.one({"message": "new", "priority": "high"})
    is_late = client.world.chance.random() < 0.5
    if is_late:
        await asyncio.sleep(max(0.0, old.ended + AGED_MS / 1000 * (1 + CLOCK_SLACK) + SLACK_SECONDS - time.monotonic()))
    sent = time.monotonic()
    first = numbers(await client.take("worker", 1))
    if is_late and sent > new.ended:
        client.equal("what waited too long goes first", first, ["old"])
    elif time.monotonic() < old.sent + AGED_MS / 1000 * (1 - CLOCK_SLACK):
        client.equal("while nothing waited too long the most urgent goes first", first, ["new"])
    rest = numbers(await client.take_all("worker"))
    client.equal("every message is delivered once", sorted([*first, *rest]), ["new", "old"])


async def pausing(client: Client) -> None:
    """A paused consumer is given nothing, and then everything."""
    await client.make()
    await client.ask("PUT", "/consumers/worker", json={})
    await client.publish([{"message": number} for number in range(5)])
    await client.ask("POST", "/consumers/worker/pause")
    outcome = await _pull(client, {"max": 5, "waitMs": 100})
    client.equal("a paused consumer is given nothing", outcome.status, EMPTY)
    client.equal("a paused consumer is given nothing", await client.take("worker", 5), [])
    await client.ask("POST", "/consumers/worker/resume")
    client.equal("a resumed consumer is given all", numbers(await client.take_all("worker")), list(range(5)))


async def seeking(client: Client) -> None:
    """To an offset, to a time, to both ends."""
    await client.make()
    early = [await client.one({"message": number}) for number in range(3)]
    await asyncio.sleep(0.01)
    late = [await client.one({"message": number}) for number in range(3, 6)]
    client.equal("every message is delivered once", numbers(await client.take_all("worker")), list(range(6)))
    time_of_late = late[0].body["timestamp"]
    is_apart = early[-1].body["timestamp"] < time_of_late
    for to, wanted in (
        ({"offset": 4}, [4, 5]),
        ("earliest", [*range(6)]),
        ({"time": time_of_late}, [3, 4, 5] if is_apart else None),
        ("latest", []),
    ):
        await client.ask("POST", "/consumers/worker/seek", json={"to": to})
        given = numbers(await client.take_all("worker"))
        if wanted is not None:
            client.equal("after a seek all from there on comes", given, wanted)


async def _pull(client: Client, body: dict[str, Any]) -> Outcome:
    """One pull, repeated until there is an answer."""
    return await client.ask("POST", "/consumers/worker/pull", json=body)


def _deliveries(outcome: Outcome) -> list[dict[str, Any]]:
    return outcome.body["deliveries"] if outcome.is_ok and outcome.body else []


async def limiting(client: Client) -> None:
    """No more is in hand than `maxInFlight` says, and each message comes again when its lease is over."""
    await client.make(maxInFlight=IN_FLIGHT)
    await client.publish([{"message": number} for number in range(10)])
    begin = time.monotonic()
    outcome = await _pull(client, {"max": 10, "leaseMs": LEASE_MS})
    first = _deliveries(outcome)
    more = await _pull(client, {"max": 10, "leaseMs": LEASE_MS})
    if time.monotonic() < begin + LEASE_MS / 1000 * (1 - CLOCK_SLACK):
        in_hand = len(first) + len(_deliveries(more))
        client.equal("no more is in hand than maxInFlight says", max(in_hand, IN_FLIGHT), IN_FLIGHT)
    counts: Counter[Any] = Counter(numbers(first) + numbers(_deliveries(more)))
    end = time.monotonic() + COMES_AGAIN_SECONDS
    acked: set[Any] = set()
    while len(acked) < 10 and time.monotonic() < end and not client.is_wrong:
        given = _deliveries(await _pull(client, {"max": 10, "leaseMs": LEASE_MS, "waitMs": 1000}))
        for delivery in given:
            number = delivery["message"]
            counts[number] += 1
            if delivery["deliveryCount"] < counts[number]:
                client.equal("each delivery is counted", delivery["deliveryCount"], f">= {counts[number]}")
            if number in acked:
                client.equal("what was acked does not come again", number, None)
        body = {"ack": [delivery["lease"]["id"] for delivery in given]}
        settled = await client.ask("POST", "/consumers/worker/ack", json=body)
        failed = {item["id"] for item in settled.body["failed"]}
        acked |= {delivery["message"] for delivery in given if delivery["lease"]["id"] not in failed}
    client.equal("what was not settled comes again", len(acked), 10)


async def choosing(client: Client) -> None:
    """The less urgent are left alone, and messages that are settled as they are given come once at most."""
    await client.make()
    await client.publish([{"message": number, "priority": number % 2} for number in range(20)])
    given: list[dict[str, Any]] = []
    for _ in range(3):
        outcome = await _pull(client, {"max": 4, "minLevel": "high", "autoCommit": True})
        given += _deliveries(outcome)
    client.equal("a pull gives no level below its least", [m for m in given if m["level"] < 1], [])
    client.equal("what is settled as it is given has no lease", [m for m in given if m["lease"]], [])
    given += await client.take_all("worker")
    twice = [number for number, count in Counter(numbers(given)).items() if count > 1]
    client.equal("what is settled as it is given comes once at most", twice, [])
    low = sorted(number for number in numbers(given) if number % 2 == 0)
    client.equal("what was left alone comes later", low, list(range(0, 20, 2)))


SCRIPTS: dict[str, Script] = {
    "scheduler strict": strictly,
    "scheduler weighted": by_weight,
    "scheduler aged": by_age,
    "pause and resume": pausing,
    "seek": seeking,
    "maxInFlight and expiry": limiting,
    "minLevel and autoCommit": choosing,
}
