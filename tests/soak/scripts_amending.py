"""A script of one message: explained, changed and cancelled by its id.

What lives here: the script, by name.
Rules: those of tests/soak/scripts.py. Whatever takes long may come too late: a message that has entered its level is
not changed any more, and then either place is right.
Must not know: how a node finds a message.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from tests.soak.scripts_reading import numbers

if TYPE_CHECKING:
    from tests.soak.scripts import Client, Script

OK, MISSING, LATE = 200, 404, 409
DELAY_MS = 2500
CLOCK_SLACK = 0.1
"""Twice what the cluster's clock is drawn by (PROTOCOL.md P11)."""
COMES_SECONDS = 30.0
PAUSE_SECONDS = 0.2
HIGH = 1


async def amending(client: Client) -> None:
    """One that is cancelled never comes, one that is changed comes once with its new level, others as they were."""
    await client.make()
    kept, changed, cancelled = [
        await client.one({"message": number, "priority": "low", "delayMs": DELAY_MS}) for number in range(3)
    ]
    explained = await client.ask("GET", f"/messages/{kept.body['id']}", also={MISSING})
    if time.monotonic() < kept.sent + DELAY_MS / 1000 * (1 - CLOCK_SLACK):
        client.equal("a message is explained as it is", explained.body.get("state"), "delayed")
    path = f"/messages/{cancelled.body['id']}"
    gone = await client.ask("DELETE", path, also={MISSING, LATE})
    body = {"priority": "high", "delayMs": DELAY_MS}
    raised = await client.ask("PATCH", f"/messages/{changed.body['id']}", also={MISSING, LATE}, json=body)
    may_come = [0, 1] if gone.status != LATE else [0, 1, 2]
    given = await _given(client, len(may_come))
    client.equal("what was cancelled never comes, all else once", sorted(numbers(given)), may_come)
    levels = {message["message"]: message["level"] for message in given}
    client.equal("a message that nobody changed keeps its level", levels.get(0), 0)
    if raised.status == OK:
        client.equal("a message that was changed has its new level", levels.get(1), HIGH)
    if gone.status != LATE:
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


SCRIPTS: dict[str, Script] = {"one message": amending}
