"""Order per key and per partition, with many workers, while partitions are added.

What lives here: one publisher of many keys, which adds partitions; workers of a consumer with `ordering: key` and of
one with `ordering: partition`.
Rules: a lane is what is worked on in order: a key or a partition. What a worker is given of a lane is either the next
one behind what was begun to be settled last, or one that comes again.
Must not know: leases.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections import Counter
from typing import Any

from tests.soak.bounds import DEDUPE_WINDOW_MS
from tests.soak.publishing import PAUSE_SECONDS
from tests.soak.queues import FINISH_SECONDS, LEASE_MS
from tests.soak.world import Actor, World, make_topic

KEYS = 20
PARTITIONS_FIRST, PARTITIONS_MAX = 2, 12
GROWS = 0.01


class Growing(Actor):
    """One publisher, and the only one who adds partitions: it shows each node what it saw itself."""

    name, topic = "order", "accounts"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.published: Counter[str] = Counter()
        self.next_offset: Counter[str] = Counter()
        self.partitions = PARTITIONS_FIRST
        self._seen_index = "0"

    async def prepare(self) -> None:
        settings = {"retention": {"acked": True}, "dedupeWindowMs": DEDUPE_WINDOW_MS}
        await make_topic(self.world, self.topic, partitions=PARTITIONS_FIRST, **settings)
        # Retention waits for consumers that are there.
        for kind in (ByKey, ByPartition):
            path = f"/v1/topics/{self.topic}/consumers/{kind.consumer}"
            body = {"ordering": kind.ordering, "leaseMs": LEASE_MS}
            outcome = await self.world.insist("PUT", path, "consumer set", json=body)
            if not outcome.is_ok:
                raise RuntimeError(f"consumer {kind.consumer}: {outcome.status} {outcome.body}")

    async def step(self, copy: int) -> None:
        if self.partitions < PARTITIONS_MAX and self.world.chance.random() < GROWS:
            await self._grow()
        key = f"a{self.world.chance.randrange(KEYS)}"
        value, step = self.world.number(), self.published[key] + 1
        body = {"message": {"n": value, "key": key, "step": step}, "partitionKey": key}
        headers = {"Idempotency-Key": f"accounts-{value}", "FalconQ-Min-Index": self._seen_index}
        path = f"/v1/topics/{self.topic}/messages"
        outcome = await self.world.insist("POST", path, "account", json=body, headers=headers)
        if outcome.is_ok:
            self._seen_index = outcome.headers["FalconQ-Index"]
            self.published[key] = step
            partition = str(outcome.body["partitionID"])
            self.next_offset[partition] = outcome.body["offset"] + 1
        await asyncio.sleep(PAUSE_SECONDS)

    async def _grow(self) -> None:
        self.partitions += 1
        body = {"partitions": self.partitions}
        outcome = await self.world.insist("PATCH", f"/v1/topics/{self.topic}", "partition added", json=body)
        self._seen_index = outcome.headers.get("FalconQ-Index", self._seen_index)


class Ordered(Actor):
    """Workers of one consumer, each message of a lane after the other."""

    copies = 3
    consumer = ordering = ""

    def __init__(self, world: World, growing: Growing) -> None:
        super().__init__(world)
        self.growing = growing
        self.settled: Counter[str] = Counter()
        """Lane -> what was begun to be settled last, from 1."""

    @staticmethod
    @abstractmethod
    def lane_of(delivery: dict[str, Any]) -> tuple[str, int]:
        """Which lane it is of, and its place in it, from 1."""

    @abstractmethod
    def published(self) -> Counter[str]:
        """Lane -> messages."""

    async def step(self, copy: int) -> None:
        await self._work()
        await asyncio.sleep(PAUSE_SECONDS)

    def given(self, deliveries: list[dict[str, Any]]) -> None:
        """Judge an answer."""
        for delivery in deliveries:
            lane, place = self.lane_of(delivery)
            if place > self.settled[lane] + 1:
                example = f"{lane}: {place} came, {self.settled[lane]} was begun to be settled last"
                self.world.breaks(f"a {self.ordering}'s messages come in order", example)
        for lane, count in Counter(self.lane_of(delivery)[0] for delivery in deliveries).items():
            if count > 1:
                self.world.breaks(f"one message of a {self.ordering} is in hand", f"{lane}: {count} at once")

    async def _work(self, wait_ms: int = 200, acks: float = 0.8) -> int:
        path = f"/v1/topics/{self.growing.topic}/consumers/{self.consumer}"
        outcome = await self.world.ask("POST", f"{path}/pull", "ordered pull", json={"max": 10, "waitMs": wait_ms})
        if not outcome.is_ok or outcome.body is None:
            return 0
        deliveries = outcome.body["deliveries"]
        self.given(deliveries)
        body: dict[str, list[Any]] = {"ack": [], "nack": []}
        for delivery in deliveries:
            lane, place = self.lane_of(delivery)
            fate = self.world.chance.random()
            if fate < acks:
                # From here on the ack may have taken effect.
                self.settled[lane] = max(self.settled[lane], place)
                body["ack"].append(delivery["lease"]["id"])
            elif fate < 0.95:
                body["nack"].append({"id": delivery["lease"]["id"], "delayMs": 50})
        await self.world.ask("POST", f"{path}/ack", "ordered ack", json=body)
        return len(deliveries)

    async def finish(self) -> None:
        quiet_since = time.monotonic()
        end = quiet_since + FINISH_SECONDS
        while time.monotonic() < min(end, quiet_since + LEASE_MS / 1000 + 2):
            if await self._work(wait_ms=1000, acks=1.0):
                quiet_since = time.monotonic()
        for lane, count in self.published().items():
            if self.settled[lane] < count:
                example = f"of {self.ordering} {lane}, {self.settled[lane]} of {count} were settled"
                self.world.breaks("nothing acknowledged is lost", example)


class ByKey(Ordered):
    """Order per key, over the partitions that are added."""

    name, consumer, ordering = "order", "ledger", "key"

    @staticmethod
    def lane_of(delivery: dict[str, Any]) -> tuple[str, int]:
        return delivery["message"]["key"], delivery["message"]["step"]

    def published(self) -> Counter[str]:
        return self.growing.published


class ByPartition(Ordered):
    """Order per partition: offsets are dense, and the topic has all its messages in one level."""

    name, consumer, ordering = "order", "copier", "partition"

    @staticmethod
    def lane_of(delivery: dict[str, Any]) -> tuple[str, int]:
        return str(delivery["partitionID"]), delivery["offset"] + 1

    def published(self) -> Counter[str]:
        return self.growing.next_offset
