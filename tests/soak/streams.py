"""Event streams over nodes that die.

What lives here: a publisher, and one client that reads a consumer's events through one node after the other.
Rules: the client goes on with the last id that it has seen, as `EventSource` does. What it has seen up to that id was
acknowledged once the next stream was answered, and never comes again; what is behind may.
Must not know: leases.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from tests.soak.bounds import DEDUPE_WINDOW_MS
from tests.soak.publishing import PAUSE_SECONDS, value_of
from tests.soak.world import REQUEST_SECONDS, TROUBLE_SECONDS, Actor, World, make_topic

OK = 200
QUIET_SECONDS = 10.0
"""Longer than the leases of a broken stream."""
STREAM_SECONDS = (0.5, 6.0)


class Streams(Actor):
    """One consumer, read as Server-Sent Events."""

    name, copies, topic, consumer = "event streams", 2, "ticker", "screen"
    lease_ms = 3000

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.sure: set[int] = set()
        self.seen: dict[int, int] = {}
        """value -> id of the event that it came with last."""
        self.last_id = 0
        self.acknowledged_id = 0
        """A stream that goes on from here was answered."""

    async def prepare(self) -> None:
        settings = {"retention": {"acked": True}, "dedupeWindowMs": DEDUPE_WINDOW_MS}
        await make_topic(self.world, self.topic, **settings)

    async def step(self, copy: int) -> None:
        if copy == 0:
            value = self.world.number()
            headers = {"Idempotency-Key": f"tick-{value}"}
            body = {"message": value, "priority": value % 2}
            path = f"/v1/topics/{self.topic}/messages"
            outcome = await self.world.insist("POST", path, "publish", json=body, headers=headers)
            if outcome.is_ok:
                self.sure.add(value)
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            await self.read(self.world.chance.uniform(*STREAM_SECONDS))

    async def read(self, seconds: float) -> int:
        """One stream for at most so long; how many events came."""
        path = f"/v1/topics/{self.topic}/consumers/{self.consumer}/events?leaseMs={self.lease_ms}"
        headers = {"Last-Event-ID": str(self.last_id)} if self.last_id else {}
        node = self.world.chance.choice(self.world.nodes)
        limit = aiohttp.ClientTimeout(REQUEST_SECONDS + seconds, sock_read=seconds)
        end, count = time.monotonic() + seconds, 0
        try:
            async with self.world.session.get(node.url + path, headers=headers, timeout=limit) as response:
                if response.status != OK:
                    await asyncio.sleep(TROUBLE_SECONDS)
                    return 0
                self.acknowledged_id = self.last_id
                self.world.done["event stream"] += 1
                async for event in events_of(response):
                    count += self.receive(event)
                    if time.monotonic() > end:
                        return count
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(TROUBLE_SECONDS)
        return count

    def receive(self, event: dict[str, str]) -> int:
        """Judge an event; 1 when it is a message."""
        if event.get("event") != "message":
            return 0
        number, value = int(event["id"]), value_of(json.loads(event["data"]))
        self.world.done["event"] += 1
        before = self.seen.get(value)
        if before is not None and before <= self.acknowledged_id:
            self.world.breaks("what a stream went on from never comes again", f"{value}: {before}, now {number}")
        if number <= self.last_id:
            self.world.breaks("the ids of a consumer's events go up", f"{number} after {self.last_id}")
        self.seen[value] = number
        self.last_id = number
        return 1

    async def finish(self) -> None:
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + QUIET_SECONDS and self.sure - set(self.seen):
            if await self.read(2.0):
                quiet_since = time.monotonic()
        for value in sorted(self.sure - set(self.seen)):
            self.world.breaks("nothing acknowledged is lost", f"{self.topic}: {value}")


async def events_of(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, str], None]:
    """Field -> value of each event; comments are left out (WHATWG HTML, section 9.2)."""
    event: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        name, _, value = line.partition(": ")
        if line == "":
            if event:
                yield event
            event = {}
        elif name:
            event[name] = event[name] + "\n" + value if name in event else value


def as_event(number: int, value: Any) -> dict[str, str]:
    """An event as a node writes it."""
    return {"id": str(number), "event": "message", "data": json.dumps({"message": value})}
