"""Publishing in every way, and consuming with an `attempt`: each message once.

What lives here: publishers with keys, sequences, atomic batches, NDJSON, CloudEvents and without anything; delayed and
short-lived messages; and what must hold of what their consumers were given.
Rules: what has a key is repeated until it is answered, and again now and then although it was; it must be there once.
What has none is never repeated; it is there once if it was acknowledged, and at most once in any case.
Must not know: leases.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.soak.bounds import DEDUPE_WINDOW_MS
from tests.soak.world import Actor, Outcome, World, drain, make_topic, take

PAUSE_SECONDS = 0.02
AGAIN = 0.2
"""So often a publish is repeated although it was answered."""
CLOCK_SLACK = 0.1
"""The cluster's clock is drawn to the wall clock by at most 5 % (PROTOCOL.md P11); twice that is allowed for."""
SLACK_SECONDS = 0.2
KEPT = {"retention": {"acked": True}, "dedupeWindowMs": DEDUPE_WINDOW_MS}
"""What the consumer was given is gone, since it is noted here."""


@dataclass(slots=True)
class Ledger:
    """What was published, and what came."""

    sure: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)
    groups: list[list[int]] = field(default_factory=list)
    """Values that were to be appended together or not at all, and whose outcome is not known."""
    came: Counter[int] = field(default_factory=Counter)
    places: dict[tuple[int, int], int] = field(default_factory=dict)
    """(partition, offset) -> value."""

    def receive(self, world: World, topic: str, message: dict[str, Any]) -> int:
        value = value_of(message)
        self.came[value] += 1
        place = message["partitionID"], message["offset"]
        if self.places.setdefault(place, value) != value:
            world.breaks("an offset holds one message", f"{topic} {place}: {self.places[place]} and {value}")
        return value

    def check(self, world: World, topic: str) -> None:
        for value, times in self.came.items():
            if times > 1:
                world.breaks("a message is there once", f"{topic}: {value} came {times} times")
            if value not in self.sure and value not in self.maybe:
                world.breaks("nothing comes that nobody published", f"{topic}: {value}")
        for value in sorted(self.sure - set(self.came)):
            world.breaks("nothing acknowledged is lost", f"{topic}: {value}")
        for group in self.groups:
            if len({value in self.came for value in group}) > 1:
                world.breaks("an atomic batch is there as a whole or not at all", f"{topic}: {group}")


def value_of(message: dict[str, Any]) -> int:
    """Each message is a number, or has one."""
    content = message["message"]
    return int(content["n"] if isinstance(content, dict) else content)


class Publishing(Actor):
    """Every way to publish, into three partitions."""

    name, copies, topic = "publishing", 6, "orders"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ledger = Ledger()
        self.sequences: Counter[int] = Counter()
        self.acknowledged_count = 0

    async def prepare(self) -> None:
        await make_topic(self.world, self.topic, partitions=3, **KEPT)

    async def step(self, copy: int) -> None:
        ways = (self._plain, self._keyed, self._sequenced, self._atomic, self._lines, self._event)
        await ways[copy]()
        await asyncio.sleep(PAUSE_SECONDS)

    def _path(self, suffix: str = "") -> str:
        return f"/v1/topics/{self.topic}/messages{suffix}"

    async def _repeated(self, what: str, path: str, values: list[int], **arguments: Any) -> None:
        """Until it is answered, and sometimes once more."""
        self.ledger.maybe.update(values)
        while True:
            outcome = await self.world.insist("POST", path, what, **arguments)
            if outcome.is_ok and outcome.status == 200 and any("code" in row for row in outcome.body["results"]):
                continue  # Some of a batch met trouble; the whole is repeated with its key.
            break
        if outcome.is_ok:
            self.ledger.sure.update(values)
            self.acknowledged_count += len(values)
        if self.world.chance.random() < AGAIN:
            await self.world.insist("POST", path, what + " again", **arguments)

    async def _plain(self) -> None:
        value = self.world.number()
        self.ledger.maybe.add(value)
        body = {"message": value, "priority": value % 2, "partitionKey": f"k{value % 7}"}
        outcome = await self.world.ask("POST", f"/topic/{self.topic}/publish", "publish", json=body)
        if outcome.is_ok:
            self.ledger.sure.add(value)
            self.acknowledged_count += 1
        elif outcome.kind == "refused":
            self.ledger.maybe.discard(value)

    async def _keyed(self) -> None:
        value = self.world.number()
        headers = {"Idempotency-Key": f"key-{value}", "traceparent": f"00-{value + 1:032x}-{value + 1:016x}-01"}
        body = {"message": {"n": value}, "headers": {"kind": "keyed"}}
        await self._repeated("publish with a key", self._path(), [value], json=body, headers=headers)

    async def _sequenced(self) -> None:
        value = self.world.number()
        self.sequences[0] += 1
        body = {"message": value, "producer": {"id": "sequenced", "sequence": self.sequences[0]}}
        await self._repeated("publish with a sequence", self._path(), [value], json=body)

    async def _atomic(self) -> None:
        values = [self.world.number() for _ in range(self.world.chance.randrange(2, 20))]
        self.ledger.groups.append(values)
        body = [{"message": value, "priority": value % 2, "partitionKey": f"k{value % 5}"} for value in values]
        headers = {"Idempotency-Key": f"atomic-{values[0]}"}
        path = self._path(":batch") + "?atomic=true"
        await self._repeated("atomic batch", path, values, json=body, headers=headers)

    async def _lines(self) -> None:
        values = [self.world.number() for _ in range(self.world.chance.randrange(1, 40))]
        body = "\n".join(json.dumps({"message": value, "partitionKey": f"k{value % 5}"}) for value in values)
        headers = {"Idempotency-Key": f"lines-{values[0]}", "Content-Type": "application/x-ndjson"}
        await self._repeated("batch", self._path(":batch"), values, data=body, headers=headers)

    async def _event(self) -> None:
        value = self.world.number()
        headers = {"ce-specversion": "1.0", "ce-id": str(value), "ce-source": "/soak", "ce-type": "soak.done"}
        headers["Content-Type"] = "application/json"
        await self._repeated("CloudEvent", self._path(), [value], data=json.dumps({"n": value}), headers=headers)

    async def finish(self) -> None:
        for message, _ in await drain(self.world, self.topic, "billing"):
            self.ledger.receive(self.world, self.topic, message)
        self.ledger.check(self.world, self.topic)


class Consuming(Actor):
    """One consumer of what `Publishing` publishes, in two processes."""

    name, copies = "publishing", 2

    def __init__(self, world: World, publishing: Publishing) -> None:
        super().__init__(world)
        self.publishing = publishing

    async def step(self, copy: int) -> None:
        messages, _ = await take(self.world, self.publishing.topic, "billing", 100)
        for message in messages:
            self.publishing.ledger.receive(self.world, self.publishing.topic, message)
        await asyncio.sleep(PAUSE_SECONDS)


class Reading(Actor):
    """Linearizable reads show all that was acknowledged before them."""

    name = "publishing"

    def __init__(self, world: World, publishing: Publishing) -> None:
        super().__init__(world)
        self.publishing = publishing

    async def step(self, copy: int) -> None:
        least = self.publishing.acknowledged_count
        path = f"/topics/{self.publishing.topic}/partitions?consistency=linearizable"
        outcome = await self.world.ask("GET", path, "linearizable read")
        if outcome.is_ok:
            seen = sum(partition["nextOffset"] for partition in outcome.body["partitions"])
            if seen < least:
                self.world.breaks("a linearizable read shows what was acknowledged", f"{seen} of {least}")
        await asyncio.sleep(0.1)


class Later(Actor):
    """Delayed and short-lived messages."""

    name, copies, topic = "delayed and short-lived", 3, "later"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ledger = Ledger()
        self.due: dict[int, float] = {}
        """value -> the earliest moment at which it may come."""
        self.dead: dict[int, float] = {}
        """value -> from when on it may not be given any more."""

    async def prepare(self) -> None:
        await make_topic(self.world, self.topic, **KEPT)

    async def step(self, copy: int) -> None:
        if copy == 0:
            messages, outcome = await take(self.world, self.topic, "billing", 100)
            for message in messages:
                self._came(message, outcome)
        else:
            await self._publish(is_delayed=copy == 1)
        await asyncio.sleep(PAUSE_SECONDS)

    async def _publish(self, *, is_delayed: bool) -> None:
        world = self.world
        value, ms = world.number(), world.chance.randrange(1, 3000)
        self.ledger.maybe.add(value)
        body = {"message": value, "delayMs" if is_delayed else "ttlMs": ms}
        path, headers = f"/v1/topics/{self.topic}/messages", {"Idempotency-Key": f"later-{value}"}
        if is_delayed:
            outcome = await world.insist("POST", path, "delayed publish", json=body, headers=headers)
            self.due[value] = outcome.sent + ms / 1000 * (1 - CLOCK_SLACK) - SLACK_SECONDS
            self.ledger.sure.add(value)
        else:
            outcome = await world.insist("POST", path, "short-lived publish", json=body, headers=headers)
            self.dead[value] = outcome.ended + ms / 1000 * (1 + CLOCK_SLACK) + SLACK_SECONDS

    def _came(self, message: dict[str, Any], outcome: Outcome) -> None:
        value = self.ledger.receive(self.world, self.topic, message)
        if outcome.ended < self.due.get(value, 0.0):
            early = self.due[value] - outcome.ended
            self.world.breaks("a delayed message does not come early", f"{value}, by {early:.3f} s")
        if outcome.sent > self.dead.get(value, outcome.sent):
            late = outcome.sent - self.dead[value]
            self.world.breaks("a message does not come after its time", f"{value}, by {late:.3f} s")

    async def finish(self) -> None:
        await asyncio.sleep(4.0)
        for message, outcome in await drain(self.world, self.topic, "billing"):
            self._came(message, outcome)
        self.ledger.check(self.world, self.topic)
