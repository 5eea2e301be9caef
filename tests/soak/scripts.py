"""Clients that are alone with a topic of their own: what they are answered is known beforehand.

What lives here: one topic after the other, each for one script, and what scripts share.
Rules: all that a script asks is repeated until it is answered, so it is exact also while nodes die: publishes have
keys, consumes an `attempt`. Its topic is deleted in the end. The scripts are in tests/soak/scripts_*.py.
Must not know: which node is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from tests.soak import scripts_amending, scripts_delivering, scripts_keeping, scripts_publishing, scripts_reading
from tests.soak.world import Actor, Outcome, World, make_topic, take

PAUSE_SECONDS = 0.1


class Client:
    """Who plays a script."""

    def __init__(self, world: World, topic: str, script: str) -> None:
        self.world = world
        self.topic = topic
        self.script = script
        self.index = "0"
        """Of the last answer; reads show no less."""
        self.is_wrong = False
        """Something was, so that there is nothing more to wait for."""

    async def make(self, **settings: object) -> None:
        await make_topic(self.world, self.topic, **settings)

    async def ask(
        self,
        method: str,
        suffix: str,
        *,
        also: Collection[int] = (),
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> Outcome:
        """The answer at `/v1/topics/{topic}{suffix}`, or at a path that names the topic as `{topic}`."""
        path = suffix.format(topic=self.topic) if "{topic}" in suffix else f"/v1/topics/{self.topic}{suffix}"
        given = {"FalconQ-Min-Index": self.index} | (headers or {})
        outcome = await self.world.insist(method, path, f"script: {self.script}", also=also, headers=given, **more)
        self.index = str(max(int(self.index), int(outcome.headers.get("FalconQ-Index", "0"))))
        return outcome

    async def publish(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What each of them was answered, all together or none."""
        headers = {"Idempotency-Key": f"script-{self.world.number()}"}
        outcome = await self.ask("POST", "/messages:batch?atomic=true", headers=headers, json=list(bodies))
        return list(outcome.body["results"]) if outcome.is_ok else []

    async def one(self, body: dict[str, Any], *, also: Collection[int] = (), key: str = "") -> Outcome:
        """One message, with a key."""
        headers = {"Idempotency-Key": key or f"script-{self.world.number()}"}
        return await self.ask("POST", "/messages", also=also, headers=headers, json=body)

    async def take(self, consumer: str, batch: int) -> list[dict[str, Any]]:
        messages, _ = await take(self.world, self.topic, consumer, batch)
        return messages

    async def take_all(self, consumer: str, batch: int = 100) -> list[dict[str, Any]]:
        """Until nothing is left."""
        found: list[dict[str, Any]] = []
        while messages := await self.take(consumer, batch):
            found += messages
        return found

    def equal(self, promise: str, given: object, wanted: object) -> None:
        """Says what is wrong when they are not."""
        if given != wanted:
            self.is_wrong = True
            self.world.breaks(promise, f"{self.topic} ({self.script}): {given!r}, not {wanted!r}")


Script = Callable[[Client], Awaitable[None]]
SCRIPTS: dict[str, Script] = {
    **scripts_amending.SCRIPTS,
    **scripts_delivering.SCRIPTS,
    **scripts_keeping.SCRIPTS,
    **scripts_publishing.SCRIPTS,
    **scripts_reading.SCRIPTS,
}


class Scripts(Actor):
    """One script after the other, in turn."""

    name, copies = "scripts", 4

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._turn = 0

    async def step(self, copy: int) -> None:
        names = list(SCRIPTS)
        name = names[self._turn % len(names)]
        self._turn += 1
        await play(self.world, name)
        await asyncio.sleep(PAUSE_SECONDS)


async def play(world: World, name: str) -> None:
    """One script, in a topic of its own."""
    client = Client(world, f"script-{world.number()}", name)
    try:
        await SCRIPTS[name](client)
    finally:
        await world.insist("DELETE", f"/v1/topics/{client.topic}", "topic deleted", also={404})
