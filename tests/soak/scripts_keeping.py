"""Scripts of what a topic keeps, and of what it refuses.

What lives here: the scripts, by name.
Rules: those of tests/soak/scripts.py. What is trimmed goes soon, so it is waited for; what is kept is there always.
Must not know: how a node trims.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.soak.scripts_reading import numbers

if TYPE_CHECKING:
    from tests.soak.scripts import Client, Script

CREATED, FULL = 201, 429
ROOM = 5
LOOKS_MAX = 300
"""What is trimmed goes within about a second, that is ten of them."""
PAUSE_SECONDS = 0.1
KEPT_MS = 2000
CLOCK_SLACK = 0.1
"""Twice what the cluster's clock is drawn by (PROTOCOL.md P11)."""
TEXT = "x" * 300_000


async def _kept(client: Client) -> list[Any]:
    outcome = await client.ask("GET", "/topic/{topic}/peek?batch=1000")
    return numbers(outcome.body["messages"])


async def _until(client: Client, promise: str, is_so: Callable[[list[Any]], bool]) -> None:
    """Until what is kept is so. Each look is confirmed by a leader, so that there was one who could trim."""
    for _ in range(LOOKS_MAX):
        outcome = await client.ask("GET", "/topic/{topic}/peek?batch=1000&consistency=linearizable")
        kept = numbers(outcome.body["messages"])
        if is_so(kept):
            return
        await asyncio.sleep(PAUSE_SECONDS)
    client.equal(promise, [str(each)[:20] for each in kept], "less")


async def rejecting(client: Client) -> None:
    """A full topic refuses, and has room again when what is in it was settled."""
    await client.make(retention={"messages": ROOM, "acked": True}, overflow="reject")
    await client.ask("PUT", "/consumers/worker", json={})
    for number in range(ROOM + 2):
        outcome = await client.one({"message": number}, also={FULL})
        client.equal("a full topic refuses", outcome.status, CREATED if number < ROOM else FULL)
    client.equal("nothing gives way where what comes is refused", await _kept(client), list(range(ROOM)))
    given = numbers(await client.take_all("worker"))
    client.equal("nothing gives way where what comes is refused", given, list(range(ROOM)))
    await _until(client, "what everybody settled is not kept", lambda kept: not kept)
    outcome = await client.one({"message": "again"}, also={FULL})
    client.equal("a topic with room accepts", outcome.status, CREATED)


async def dropping_oldest(client: Client) -> None:
    """The newest stay, by number and by bytes."""
    await client.make(retention={"messages": ROOM})
    for number in range(2 * ROOM):
        await client.one({"message": number})
    await _until(client, "no more is kept than is said", lambda kept: len(kept) <= ROOM)
    client.equal("the newest are kept", await _kept(client), list(range(ROOM, 2 * ROOM)))
    await client.ask("PATCH", "", json={"retention": {"bytes": 1 << 20}})
    for number in range(5):
        await client.one({"message": [number, TEXT]})
    await _until(client, "no more is kept than is said", lambda kept: len(kept) <= (1 << 20) // len(TEXT))
    client.equal("the newest are kept", [each[0] for each in await _kept(client)], [2, 3, 4])


async def dropping_lowest(client: Client) -> None:
    """A message makes nothing go that is more urgent."""
    await client.make(retention={"messages": ROOM}, overflow="drop-lowest")
    for number in range(ROOM):
        await client.one({"message": number, "priority": "high" if number % 2 else "low"})
    for number in range(ROOM, ROOM + 3):
        await client.one({"message": number, "priority": "high"})
    await _until(client, "no more is kept than is said", lambda kept: len(kept) <= ROOM)
    client.equal("the least urgent goes first", await _kept(client), [1, 3, 5, 6, 7])
    outcome = await client.one({"message": "low"}, also={FULL})
    client.equal("a message makes nothing go that is more urgent", outcome.status, FULL)


async def ageing(client: Client) -> None:
    """What is too old goes, and not before its time."""
    await client.make(retention={"ms": KEPT_MS})
    outcome = await client.one({"message": 1})
    surely = outcome.sent + KEPT_MS / 1000 * (1 - CLOCK_SLACK)
    while True:
        kept = await _kept(client)
        if time.monotonic() > surely:
            break
        client.equal("a message is kept for its time", kept, [1])
        await asyncio.sleep(PAUSE_SECONDS)
    await _until(client, "a message is not kept for longer than is said", lambda kept: not kept)


SCRIPTS: dict[str, Script] = {
    "overflow reject": rejecting,
    "overflow drop-oldest": dropping_oldest,
    "overflow drop-lowest": dropping_lowest,
    "retention by age": ageing,
}
