"""Scripts of reading: peek, replay, long polls, what a message carries.

What lives here: the scripts, by name.
Rules: those of tests/soak/scripts.py.
Must not know: consumers' leases.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.soak.scripts import Client, Script

GONE = 410
COUNT = 12


def numbers(messages: list[dict[str, Any]]) -> list[Any]:
    """What they hold, in their order."""
    return [message["message"] for message in messages]


async def peeking(client: Client) -> None:
    """By offset, by time and in the order of delivery, on any node that has what was published."""
    await client.make(dedupeWindowMs=60_000)
    placed = await client.publish([{"message": number, "priority": number % 2} for number in range(COUNT)])
    if not placed:
        return
    by_offset = [number for _, number in sorted((place["offset"], n) for n, place in enumerate(placed))]
    path = "/topic/{topic}/peek?batch=100"
    for suffix, wanted in (
        ("", by_offset),
        ("&offset=5", by_offset[5:]),
        ("&offset=3&order=offset", by_offset[3:]),
        ("&at=2020-01-01T00:00:00Z", by_offset),
        ("&order=delivery", [*range(1, COUNT, 2), *range(0, COUNT, 2)]),
    ):
        outcome = await client.ask("GET", path + suffix)
        client.equal("peek shows what is there, in order", numbers(outcome.body["messages"]), wanted)


async def replaying(client: Client) -> None:
    """Page by page, as JSON and as lines; and what is purged is said to be gone."""
    await client.make()
    await client.publish([{"message": number, "priority": number % 2} for number in range(COUNT)])
    for accept in ("application/json", "application/x-ndjson"):
        found: list[dict[str, Any]] = []
        while len(found) < COUNT:
            path = f"/messages?from=offset:{len(found)}&limit=5"
            outcome = await client.ask("GET", path, headers={"Accept": accept})
            page = outcome.body if isinstance(outcome.body, list) else outcome.body["messages"]
            found += page
            if not page:
                break
        client.equal("replay has every offset once", [m["offset"] for m in found], list(range(COUNT)))
        client.equal("replay has every message once", sorted(numbers(found)), list(range(COUNT)))
    await client.ask("POST", "/purge")
    outcome = await client.ask("GET", "/messages?from=offset:0", also={GONE})
    client.equal("what is purged is said to be gone", outcome.status, GONE)
    client.equal("a purged topic gives nothing", await client.take_all("late"), [])


async def polling(client: Client) -> None:
    """Who waits is given what is published meanwhile."""
    await client.make()
    found: list[Any] = []

    async def wait() -> None:
        while not found:
            query = {"consumerID": "waiting", "batch": "1", "waitMs": "2000"}
            query["attempt"] = f"{client.world.chance.getrandbits(64):x}"
            outcome = await client.ask("GET", "/topic/{topic}/consume", params=query)
            found.extend(numbers(outcome.body["messages"]))

    waiting = asyncio.create_task(wait())
    await client.one({"message": "wake up"})
    await waiting
    client.equal("who waits is given what comes", found, ["wake up"])


async def carrying(client: Client) -> None:
    """Headers, keys, traces, texts and bytes come as they were sent."""
    await client.make(partitions=3)
    trace = f"00-{client.world.number() + 1:032x}-{1:016x}-01"
    key = {"Idempotency-Key": f"script-{client.world.number()}", "traceparent": trace}
    body = {"message": {"a": [1, None]}, "headers": {"colour": "red"}, "partitionKey": "k", "priority": "high"}
    await client.ask("POST", "/messages", headers=key, json=body)
    (message,) = await client.take_all("reader") or [{}]
    client.equal("JSON comes as it was sent", message.get("message"), {"a": [1, None]})
    headers = {"colour": "red", "traceparent": trace}
    client.equal("headers and traces come as they were sent", message.get("headers"), headers)
    client.equal("keys and levels come as they were sent", _place(message), ["k", 1])
    for kind, raw, wanted in (
        ("text/plain", b"as it is", "as it is"),
        ("application/octet-stream", b"\x00\xff", base64.b64encode(b"\x00\xff").decode()),
    ):
        key = {"Idempotency-Key": f"script-{client.world.number()}", "Content-Type": kind}
        key |= {"FalconQ-Priority": "high", "FalconQ-Key": "raw"}
        await client.ask("POST", "/messages", headers=key, data=raw)
        (message,) = await client.take_all("reader") or [{}]
        client.equal("raw bodies come as they were sent", message.get("message"), wanted)
        client.equal("keys and levels come as they were sent", _place(message), ["raw", 1])


def _place(message: dict[str, Any]) -> list[Any]:
    return [message.get("partitionKey"), message.get("level")]


SCRIPTS: dict[str, Script] = {"peek": peeking, "replay": replaying, "long poll": polling, "content": carrying}
