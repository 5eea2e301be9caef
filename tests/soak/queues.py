"""Workers that share a consumer: leases that are settled in every way.

What lives here: workers that ack, nack, reject, extend and forget what they were given, and what must hold of it.
Rules: only what is certain from outside is a broken promise: an effect lies between sending and answer, and a lease is
sure for nine tenths of its time, since the cluster's clock is drawn to the wall clock by up to 5 %.
Must not know: how a node schedules.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from tests.soak.bounds import DEDUPE_WINDOW_MS
from tests.soak.publishing import PAUSE_SECONDS, value_of
from tests.soak.world import Actor, Outcome, World, make_topic

LEASE_MS = 3000
SURE_PART = 0.9
DELIVERIES_MAX = 5
LEVELS = ("low", "mid", "high")
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
        self.leases: dict[str, Lease] = {}
        """Id of a message -> its last lease."""
        self.over: dict[str, float] = {}
        """Id of a message -> when an ack or a reject of it was answered."""
        self.acked: set[str] = set()
        """Ids of messages whose ack was answered."""
        self.maybe_done: set[int] = set()
        """Values of which an ack was sent."""

    async def prepare(self) -> None:
        await make_topic(
            self.world,
            self.topic,
            levels=list(LEVELS),
            scheduler={"policy": "weighted", "weights": {"low": 1, "mid": 3, "high": 6}},
            maxDeliveries=DELIVERIES_MAX,
            deadLetterTopic=self.dead_topic,
            retention={"acked": True},
            dedupeWindowMs=DEDUPE_WINDOW_MS,
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
        message = delivery["id"]
        if self.over.get(message, outcome.sent) < outcome.sent:
            self.world.breaks("what was settled is never given again", f"{self.topic}: {message}")
        if delivery["deliveryCount"] > DELIVERIES_MAX:
            self.world.breaks("nothing is given more often than maxDeliveries", f"{self.topic}: {message}")
        before = self.leases.get(message)
        if (
            before is not None
            and before.ended < outcome.sent
            and outcome.ended < before.sure_until
            and (before.settled is None or before.settled > outcome.ended)
        ):
            self.world.breaks("a message is leased to one worker at a time", f"{self.topic}: {message}")
        sure = outcome.sent + LEASE_MS / 1000 * SURE_PART
        self.leases[message] = Lease(outcome.sent, outcome.ended, sure)

    async def settle(self, body: dict[str, list[Any]], given: dict[str, dict[str, Any]]) -> None:
        """`given` names the delivery of each lease."""
        now = time.monotonic()
        acks = body.get("ack", [])
        ended = [*acks, *(item["id"] for item in body.get("reject", []))]
        for lease in [*ended, *(item["id"] for item in body.get("nack", []))]:
            self.leases[given[lease]["id"]].settled = now
        self.maybe_done.update(value_of(given[lease]) for lease in acks)
        path = f"/v1/topics/{self.topic}/consumers/{self.consumer}/ack"
        outcome = await self.world.ask("POST", path, "ack", json=body)
        if not outcome.is_ok:
            return
        failed = {item["id"] for item in outcome.body["failed"]}
        self.over.update({given[lease]["id"]: outcome.ended for lease in ended if lease not in failed})
        self.acked.update(given[lease]["id"] for lease in acks if lease not in failed)

    async def _work(self) -> None:
        deliveries = await self.pull(self.world.chance.randrange(1, 20))
        given = {delivery["lease"]["id"]: delivery for delivery in deliveries}
        body: dict[str, list[Any]] = {"ack": [], "nack": [], "reject": [], "extend": []}
        for lease in given:
            fate = self.world.chance.random()
            if fate < 0.75:
                body["ack"].append(lease)
            elif fate < 0.87:
                delay_ms = self.world.chance.randrange(500)
                body["nack"].append({"id": lease, "delayMs": delay_ms, "priority": self.world.chance.randrange(3)})
            elif fate < 0.92:
                body["reject"].append({"id": lease, "reason": "it does not build"})
            elif fate < 0.95:
                self.leases[given[lease]["id"]].sure_until = 0.0
                body["extend"].append({"id": lease, "leaseMs": 1000})
            # What is left is forgotten: its worker died.
        if given:
            await self.settle(body, given)

    async def finish(self) -> None:
        end = time.monotonic() + FINISH_SECONDS
        while await self._drain() + await self._redrive() and time.monotonic() < end:
            pass
        for value in sorted(set(self.published) - self.maybe_done):
            self.world.breaks("nothing acknowledged is lost", f"{self.topic}: {value} was never settled")

    async def _drain(self) -> int:
        """Until nothing came for longer than a lease and a delay last; how much came."""
        count = 0
        quiet_since = time.monotonic()
        end = quiet_since + FINISH_SECONDS
        while time.monotonic() < min(end, quiet_since + LEASE_MS / 1000 + 2):
            deliveries = await self.pull(400, wait_ms=1000)
            given = {delivery["lease"]["id"]: delivery for delivery in deliveries}
            if given:
                count += len(given)
                quiet_since = time.monotonic()
                await self.settle({"ack": list(given)}, given)
        return count

    async def _redrive(self) -> int:
        """Send back what is dead; how much that was."""
        path = f"/v1/topics/{self.topic}/dead-letters:redrive"
        outcome = await self.world.insist("POST", path, "redrive", json={})
        return int(outcome.body["count"]) if outcome.is_ok else 0
