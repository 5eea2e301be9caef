"""Scripts of one message: explained, changed and cancelled by its id.

What lives here: the scripts, by name.
Rules: those of tests/soak/scripts.py. Nobody is handed a message before it is changed or cancelled, so both succeed.
Must not know: how a node finds a message.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tests.soak.scripts_reading import numbers

if TYPE_CHECKING:
    from tests.soak.scripts import Client, Script

MISSING = 404
DELAY_MS = 2500
CLOCK_SLACK = 0.1
"""Twice what the cluster's clock is drawn by (PROTOCOL.md P11)."""
COMES_SECONDS = 30.0
PAUSE_SECONDS = 0.2
HIGH = 1


async def amending_ready(client: Client) -> None:
    """In its level: one that is cancelled never comes, one that is changed comes once, as one of its new level."""
    await client.make(partitions=2)
    placed = await client.publish([{"message": number, "priority": "low"} for number in range(6)])
    if not placed:
        return
    cancelled, changed, kept = (f"/messages/{place['id']}" for place in placed[:3])
    await client.ask("DELETE", cancelled, also={MISSING})
    await client.ask("PATCH", changed, json={"priority": "high"})
    explained = await client.ask("GET", kept)
    client.equal("a message is explained as it is", explained.body.get("state"), "ready")
    given = await client.take_all("reader")
    client.equal("what was cancelled never comes, all else once", sorted(numbers(given)), [1, 2, 3, 4, 5])
    levels = {message["message"]: message["level"] for message in given}
    client.equal(
        "a message that was changed has its new level, others keep theirs",
        levels,
        {n: int(n == 1) for n in range(1, 6)},
    )
    client.equal("a message that was changed is as urgent as its new level", numbers(given)[:1], [1])
    found = await client.ask("GET", cancelled, also={MISSING})
    client.equal("what was cancelled is not found", found.status, MISSING)


async def amending_delayed(client: Client) -> None:
    """The same of messages that wait for their time."""
    await client.make()
    kept, changed, cancelled = [
        await client.one({"message": number, "priority": "low", "delayMs": DELAY_MS}) for number in range(3)
    ]
    explained = await client.ask("GET", f"/messages/{kept.body['id']}", also={MISSING})
    if time.monotonic() < kept.sent + DELAY_MS / 1000 * (1 - CLOCK_SLACK):
        client.equal("a message is explained as it is", explained.body.get("state"), "delayed")
    path = f"/messages/{cancelled.body['id']}"
    await client.ask("DELETE", path, also={MISSING})
    body = {"priority": "high", "delayMs": DELAY_MS}
    await client.ask("PATCH", f"/messages/{changed.body['id']}", json=body)
    given = await _given(client, 2)
    client.equal("what was cancelled never comes, all else once", sorted(numbers(given)), [0, 1])
    levels = {message["message"]: message["level"] for message in given}
    client.equal("a message that was changed has its new level, others keep theirs", levels, {0: 0, 1: HIGH})
    found = await client.ask("GET", path, also={MISSING})
    client.equal("what was cancelled is not found", found.status, MISSING)
    explained = await client.ask("GET", f"/messages/{kept.body['id']}", also={MISSING})
    client.equal("a message is explained as it is", explained.body.get("state"), "acked")


async def _given(client: Client, count: int) -> list[dict[str, Any]]:
    """All that comes until so many came, and what comes in the time in which one that was cancelled would."""
    begin = time.monotonic()
    end = begin + COMES_SECONDS
    found: list[dict[str, Any]] = []
    while time.monotonic() < begin + 2 * DELAY_MS / 1000 or (len(found) < count and time.monotonic() < end):
        found += await client.take_all("reader")
        await asyncio.sleep(PAUSE_SECONDS)
    return found


SCRIPTS: dict[str, Script] = {"one message": amending_ready, "one delayed message": amending_delayed}
