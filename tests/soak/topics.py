"""Topics that keep little, are emptied, and come and go.

What lives here: clients of retention, purge, and topics as resources.
Rules: what is not kept is not missed; that it goes is checked, and that its files go is seen in the picture of the run.
Must not know: consumers.
"""

from __future__ import annotations

import asyncio
import time

from tests.soak.queues import FINISH_SECONDS
from tests.soak.world import Actor, make_topic


class Recent(Actor):
    """A topic that keeps its last messages, one that is purged, and topics that come and go."""

    name, copies, topic = "retention and topics", 3, "recent"
    kept = 2000

    async def prepare(self) -> None:
        await make_topic(self.world, self.topic, retention={"messages": self.kept})
        await make_topic(self.world, "bin")

    async def step(self, copy: int) -> None:
        world = self.world
        if copy == 0:
            values = [world.number() for _ in range(50)]
            body = [{"message": {"n": value, "text": "x" * 500}} for value in values]
            await world.ask("POST", f"/v1/topics/{self.topic}/messages:batch", "recent", json=body)
            await asyncio.sleep(0.1)
        elif copy == 1:
            body = [{"message": {"n": world.number(), "text": "y" * 500}} for _ in range(50)]
            await world.ask("POST", "/v1/topics/bin/messages:batch", "bin", json=body)
            if world.chance.random() < 0.02:
                await world.ask("POST", "/v1/topics/bin/purge", "purge")
            await asyncio.sleep(0.1)
        else:
            await self._come_and_go()

    async def _come_and_go(self) -> None:
        topic = f"passing-{self.world.number()}"
        await make_topic(self.world, topic, partitions=4)
        body = [{"message": {"n": self.world.number()}} for _ in range(100)]
        await self.world.ask("POST", f"/v1/topics/{topic}/messages:batch", "passing", json=body)
        await self.world.insist("PATCH", f"/v1/topics/{topic}", "topic changed", json={"partitions": 8})
        # Only the first try finds the topic, and its answer may get lost.
        await self.world.insist("DELETE", f"/v1/topics/{topic}", "topic deleted", may_miss=True)
        await asyncio.sleep(0.5)

    async def finish(self) -> None:
        limit = self.kept + 100
        end = time.monotonic() + FINISH_SECONDS
        while True:
            outcome = await self.world.insist("GET", f"/topics/{self.topic}/partitions", "partitions")
            depth = sum(sum(partition["depth"].values()) for partition in outcome.body["partitions"])
            if depth <= limit:
                return
            if time.monotonic() > end:
                self.world.breaks("retention keeps no more than it says", f"{depth} messages, {self.kept} were to stay")
                return
            await asyncio.sleep(0.2)
