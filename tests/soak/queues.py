"""Workers that share consumers: leases, dead letters, and order per key.

What lives here: workers that ack, nack, reject, extend and forget what they were given, and what must hold of it.
Rules: only what is certain from outside is a broken promise: an effect lies between sending and answer, and a lease is
sure for nine tenths of its time, since the cluster's clock is drawn to the wall clock by up to 5 %.
Must not know: how a node schedules.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.soak.publishing import PAUSE_SECONDS, value_of
from tests.soak.world import Actor, Outcome, World, make_topic

LEASE_MS = 3000
SURE_PART = 0.9
DELIVERIES_MAX = 5
FINISH_SECONDS = 60.0


@dataclass(slots=True)
class Lease:
    """The last lease of a message."""

    sent: float
    ended: float
    """Of the pull that gave it."""
    sure_until: float
    settled: float | None = None
    """When somebody began to settle it."""


class Jobs(Actor):
    """A queue with weighted levels and dead letters: two publishers and four workers."""

    name, copies, topic, dead_topic, consumer = "queue", 6, "jobs", "jobs-dead", "builders"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.published: dict[int, int] = {}
        """value -> level."""
        self.leases: dict[int, Lease] = {}
        self.over: dict[int, float] = {}
        """value -> when an ack or a reject of it was answered."""
        self.acked: set[int] = set()
        self.maybe_acked: set[int] = set()
        self.dead: Counter[int] = Counter()

    async def prepare(self) -> None:
        await make_topic(
            self.world,
            self.topic,
            levels=["low", "mid", "high"],
            scheduler={"policy": "weighted", "weights": {"low": 1, "mid": 3, "high": 6}},
            maxDeliveries=DELIVERIES_MAX,
            deadLetterTopic=self.dead_topic,
        )

    async def step(self, copy: int) -> None:
        if copy < 2:
            await self._publish()
        else:
            await self._work()
        await asyncio.sleep(PAUSE_SECONDS)

    async def _publish(self) -> None:
        values = [self.world.number() for _ in range(5)]
        body = [{"message": {"n": value}, "priority": value % 3} for value in values]
        path, headers = f"/v1/topics/{self.topic}/messages:batch", {"Idempotency-Key": f"jobs-{values[0]}"}
        while True:
            outcome = await self.world.insist("POST", path, "jobs", json=body, headers=headers)
            if outcome.is_ok and not any("code" in row for row in outcome.body["results"]):
                break
        self.published.update({value: value % 3 for value in values})

    async def pull(self, count: int, wait_ms: int = 200) -> list[dict[str, Any]]:
        body = {"max": count, "waitMs": wait_ms, "leaseMs": LEASE_MS}
        path = f"/v1/topics/{self.topic}/consumers/{self.consumer}/pull"
        outcome = await self.world.ask("POST", path, "pull", json=body)
        if not outcome.is_ok or outcome.body is None:
            return []
        deliveries: list[dict[str, Any]] = outcome.body["deliveries"]
        for delivery in deliveries:
            self._given(delivery, outcome)
        return deliveries

    def _given(self, delivery: dict[str, Any], outcome: Outcome) -> None:
        value = value_of(delivery)
        if self.over.get(value, outcome.sent) < outcome.sent:
            self.world.breaks("what was settled is never given again", f"{self.topic}: {value}")
        before = self.leases.get(value)
        if (
            before is not None
            and before.ended < outcome.sent
            and outcome.ended < before.sure_until
            and (before.settled is None or before.settled > outcome.ended)
        ):
            self.world.breaks("a message is leased to one worker at a time", f"{self.topic}: {value}")
        sure = outcome.sent + LEASE_MS / 1000 * SURE_PART
        self.leases[value] = Lease(outcome.sent, outcome.ended, sure)

    async def settle(self, body: dict[str, list[Any]], values: dict[str, int]) -> None:
        """`values` names the message of each lease."""
        now = time.monotonic()
        acks = [*body.get("ack", []), *(item["id"] for item in body.get("reject", []))]
        for kind in ("ack", "nack", "reject"):
            for item in body.get(kind, []):
                self.leases[values[item if kind == "ack" else item["id"]]].settled = now
        self.maybe_acked.update(values[lease] for lease in body.get("ack", []))
        path = f"/v1/topics/{self.topic}/consumers/{self.consumer}/ack"
        outcome = await self.world.ask("POST", path, "ack", json=body)
        if not outcome.is_ok:
            return
        failed = {item["id"] for item in outcome.body["failed"]}
        for lease in acks:
            if lease not in failed:
                self.over[values[lease]] = outcome.ended
        self.acked.update(values[lease] for lease in body.get("ack", []) if lease not in failed)

    async def _work(self) -> None:
        deliveries = await self.pull(self.world.chance.randrange(1, 20))
        values = {delivery["lease"]["id"]: value_of(delivery) for delivery in deliveries}
        body: dict[str, list[Any]] = {"ack": [], "nack": [], "reject": [], "extend": []}
        for lease in values:
            fate = self.world.chance.random()
            if fate < 0.75:
                body["ack"].append(lease)
            elif fate < 0.87:
                delay_ms = self.world.chance.randrange(500)
                body["nack"].append({"id": lease, "delayMs": delay_ms, "priority": self.world.chance.randrange(3)})
            elif fate < 0.92:
                body["reject"].append({"id": lease, "reason": "it does not build"})
            elif fate < 0.95:
                self.leases[values[lease]].sure_until = 0.0
                body["extend"].append({"id": lease, "leaseMs": 1000})
            # What is left is forgotten: its worker died.
        if values:
            await self.settle(body, values)

    async def finish(self) -> None:
        await self._drain()
        await self._bury()
        for value in self.published:
            if value not in self.acked and not self.dead[value] and value not in self.maybe_acked:
                self.world.breaks("nothing acknowledged is lost", f"{self.topic}: {value} was never settled")
            if value in self.acked and self.dead[value]:
                self.world.breaks("what was acked is no dead letter", f"{self.topic}: {value}")
        dead = {value for value, count in self.dead.items() if count}
        await self._redrive(len(dead))
        self.over = {value: moment for value, moment in self.over.items() if value not in dead}
        await self._drain()
        for value in sorted(dead - self.acked):
            self.world.breaks("a dead letter that was sent back comes again", f"{self.topic}: {value}")

    async def _drain(self) -> None:
        """Until nothing came for longer than a lease and a delay last."""
        quiet_since = time.monotonic()
        end = quiet_since + FINISH_SECONDS
        while time.monotonic() < min(end, quiet_since + LEASE_MS / 1000 + 2):
            deliveries = await self.pull(400, wait_ms=1000)
            values = {delivery["lease"]["id"]: value_of(delivery) for delivery in deliveries}
            if values:
                quiet_since = time.monotonic()
                await self.settle({"ack": list(values)}, values)

    async def _bury(self) -> None:
        """Look at the dead letters without taking them."""
        offset = 0
        while True:
            path = f"/topic/{self.dead_topic}/peek?offset={offset}&batch=1000"
            outcome = await self.world.insist("GET", path, "peek")
            if not outcome.is_ok or not outcome.body["messages"]:
                break
            for message in outcome.body["messages"]:
                value = value_of(message)
                self.dead[value] += 1
                if self.dead[value] > 1:
                    self.world.breaks("a dead letter is moved once", f"{self.topic}: {value}")
                if message["level"] != self.published.get(value, message["level"]):
                    self.world.breaks("a dead letter keeps its level", f"{self.topic}: {value}")
            offset = outcome.body["nextOffset"]

    async def _redrive(self, count: int) -> None:
        if count:
            await self.world.insist("POST", f"/v1/topics/{self.topic}/dead-letters:redrive", "redrive", json={})


class Keys(Actor):
    """Order per key with many workers."""

    name, copies, topic, consumer = "order per key", 4, "accounts", "ledger"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.published: Counter[str] = Counter()
        self.in_hand: dict[str, int] = {}
        self.settled: Counter[str] = Counter()
        self.owner: dict[int, tuple[str, int]] = {}

    async def prepare(self) -> None:
        await make_topic(self.world, self.topic, partitions=2)
        path = f"/v1/topics/{self.topic}/consumers/{self.consumer}"
        outcome = await self.world.insist("PUT", path, "consumer set", json={"ordering": "key", "leaseMs": LEASE_MS})
        if not outcome.is_ok:
            raise RuntimeError(f"consumer {self.consumer}: {outcome.status} {outcome.body}")

    async def step(self, copy: int) -> None:
        if copy == 0:
            key = f"a{self.world.chance.randrange(20)}"
            value, step = self.world.number(), self.published[key] + 1
            self.owner[value] = key, step
            body = {"message": {"n": value, "key": key, "step": step}, "partitionKey": key}
            headers = {"Idempotency-Key": f"accounts-{value}"}
            await self.world.insist("POST", f"/v1/topics/{self.topic}/messages", "account", json=body, headers=headers)
            self.published[key] = step
        else:
            await self._work()
        await asyncio.sleep(PAUSE_SECONDS)

    async def _work(self, wait_ms: int = 200) -> int:
        path = f"/v1/topics/{self.topic}/consumers/{self.consumer}"
        outcome = await self.world.ask("POST", f"{path}/pull", "ordered pull", json={"max": 10, "waitMs": wait_ms})
        if not outcome.is_ok or outcome.body is None:
            return 0
        acks, nacks = [], []
        for delivery in outcome.body["deliveries"]:
            key, step = delivery["message"]["key"], delivery["message"]["step"]
            if step > self.settled[key] + 1:
                example = f"{key}: {step} came, {self.settled[key]} was begun to be settled last"
                self.world.breaks("a key's messages come in order", example)
            fate = self.world.chance.random()
            if fate < 0.8:
                acks.append((delivery["lease"]["id"], key, step))
            elif fate < 0.95:
                nacks.append({"id": delivery["lease"]["id"], "delayMs": 50})
        for _, key, step in acks:
            # From here on the ack may have taken effect.
            self.settled[key] = max(self.settled[key], step)
        body = {"ack": [lease for lease, _, _ in acks], "nack": nacks}
        await self.world.ask("POST", f"{path}/ack", "ordered ack", json=body)
        return len(outcome.body["deliveries"])

    async def finish(self) -> None:
        quiet_since = time.monotonic()
        end = quiet_since + FINISH_SECONDS
        while time.monotonic() < min(end, quiet_since + LEASE_MS / 1000 + 2):
            if await self._work(wait_ms=1000):
                quiet_since = time.monotonic()
        for key, count in self.published.items():
            if self.settled[key] < count:
                example = f"{self.topic}: of {key}, {self.settled[key]} of {count} were settled"
                self.world.breaks("nothing acknowledged is lost", example)
