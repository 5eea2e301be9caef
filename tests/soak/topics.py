"""Topics that keep little, are emptied, and come and go.

What lives here: clients of retention, purge, and topics as resources.
Rules: what is not kept is not missed; that it goes is checked, and that its files go is seen in the picture of the run.
Must not know: consumers.
"""

from __future__ import annotations

import asyncio
import time

from tests.soak.queues import FINISH_SECONDS
from tests.soak.world import Actor, World, make_topic

BIN_BYTES = 4 << 20
EXPIRES_SECONDS = 600.0
"""The shortest time after which a consumer expires that nobody uses."""
CLOCK_SLACK = 0.06
"""The cluster's clock is drawn to the wall clock by at most 5 % (PROTOCOL.md P11)."""
SLACK_SECONDS = 10.0
NEAR_SECONDS = 80.0
"""A run that is over so shortly before that waits for it."""


class Recent(Actor):
    """A topic that keeps its last messages, one that is purged, and topics that come and go."""

    name, copies, topic = "retention and topics", 3, "recent"
    kept = 2000

    async def prepare(self) -> None:
        await make_topic(self.world, self.topic, retention={"messages": self.kept})
        await make_topic(self.world, "bin", retention={"bytes": BIN_BYTES})

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
        await self.world.insist("DELETE", f"/v1/topics/{topic}", "topic deleted", also={404})
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


class Abandoned(Actor):
    """A consumer that nobody uses: it is there for its time, and after that it is gone."""

    name, topic, consumer = "abandoned consumer", "left", "nobody"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._since = 0.0
        self._path = f"/v1/topics/{self.topic}/consumers/{self.consumer}"

    async def prepare(self) -> None:
        await make_topic(self.world, self.topic)
        body = {"expireAfterMs": int(EXPIRES_SECONDS * 1000)}
        self._since = time.monotonic()
        await self.world.insist("PUT", self._path, "consumer set", json=body)

    async def step(self, copy: int) -> None:
        await self.look()
        await asyncio.sleep(5.0)

    async def look(self) -> bool:
        """Whether it is there."""
        outcome = await self.world.insist("GET", self._path, "consumer", also={404})
        is_there = outcome.status != 404
        self.judge(is_there=is_there, sent=outcome.sent, ended=outcome.ended)
        return is_there

    def judge(self, *, is_there: bool, sent: float, ended: float) -> None:
        if not is_there and ended - self._since < EXPIRES_SECONDS * (1 - CLOCK_SLACK):
            self.world.breaks("a consumer is kept for its time", f"gone after {ended - self._since:.0f} s")
        if is_there and sent - self._since > EXPIRES_SECONDS * (1 + CLOCK_SLACK) + SLACK_SECONDS:
            self.world.breaks("a consumer that nobody uses expires", f"there after {sent - self._since:.0f} s")

    async def finish(self) -> None:
        """Of a run that is long enough, until it is gone."""
        due = self._since + EXPIRES_SECONDS * (1 + CLOCK_SLACK) + SLACK_SECONDS
        if due - time.monotonic() > NEAR_SECONDS:
            return
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await self.look()
