"""Dead letters, and what sends them back while the load goes on.

What lives here: one who looks at every dead letter of the queue, and one who sends them back now and then.
Rules: a dead letter is known by the id that the message had. What both have done with is not kept any more.
Must not know: why workers reject.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from tests.soak.publishing import value_of
from tests.soak.queues import DELIVERIES_MAX, LEVELS, Jobs
from tests.soak.world import Actor, World, drain, make_topic, take

CONSUMER = "undertaker"
REDRIVING = "_redrive"
"""The consumer whose place is that of the redrive (docs/consumers.md)."""
PAUSE_SECONDS = 0.2
REDRIVE_SECONDS = 3.0


class Dead(Actor):
    """The dead letters of the queue."""

    name, copies = "queue", 2

    def __init__(self, world: World, jobs: Jobs) -> None:
        super().__init__(world)
        self.jobs = jobs
        self.came: Counter[str] = Counter()
        """Id that the message had -> dead letters."""

    async def prepare(self) -> None:
        topic = self.jobs.dead_topic
        await make_topic(self.world, topic, levels=list(LEVELS), retention={"acked": True})
        for consumer in (CONSUMER, REDRIVING):
            await self.world.insist("PUT", f"/v1/topics/{topic}/consumers/{consumer}", "consumer set", json={})

    async def step(self, copy: int) -> None:
        if copy == 0:
            messages, _ = await take(self.world, self.jobs.dead_topic, CONSUMER, 100)
            for message in messages:
                self.receive(message)
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            path = f"/v1/topics/{self.jobs.topic}/dead-letters:redrive"
            await self.world.ask("POST", path, "redrive", json={})
            await asyncio.sleep(REDRIVE_SECONDS)

    def receive(self, message: dict[str, Any]) -> None:
        """Judge a dead letter."""
        headers, value = message["headers"], value_of(message)
        before = headers["falconq-dead-id"]
        self.came[before] += 1
        if self.came[before] > 1:
            self.world.breaks("a dead letter is moved once", f"{before}: {value}")
        if message["level"] != self.jobs.published.get(value, message["level"]):
            self.world.breaks("a dead letter keeps its level", f"{before}: {value}")
        is_rejected = headers["falconq-dead-reason"] != "maxDeliveries"
        if not is_rejected and int(headers["falconq-dead-deliveries"]) < DELIVERIES_MAX:
            self.world.breaks("nobody dies before maxDeliveries", f"{before}: {headers}")

    async def finish(self) -> None:
        for message, _ in await drain(self.world, self.jobs.dead_topic, CONSUMER):
            self.receive(message)
        for before in sorted(self.jobs.acked & set(self.came)):
            self.world.breaks("what was acked is no dead letter", before)
