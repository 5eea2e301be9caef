"""What all clients of the load share: nodes to ask, chance, time, and what is wrong so far.

What lives here: one request with its outcome, and the base of all clients.
Rules: an outcome is one of three: `ok`; `refused`, which surely had no effect (the contract says so, or it was never
sent); `unknown`. A client asks any node. What breaks a promise is written down as a sentence and ends nothing.
Must not know: what is published, which node is down.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aiohttp

from tests.cluster.processes import Node

REQUEST_SECONDS = 8.0
TROUBLE_SECONDS = 0.1
SURE = frozenset((429, 503))
UNKNOWN = 504
KEPT_OF_EACH = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request, and when."""

    kind: str
    status: int
    """0 when there was no answer."""
    body: Any
    headers: dict[str, str]
    sent: float
    ended: float
    """Both by time.monotonic()."""

    @property
    def is_ok(self) -> bool:
        return self.kind == "ok"


@dataclass(slots=True)
class World:
    """The cluster as its clients see it."""

    nodes: Sequence[Node]
    session: aiohttp.ClientSession
    chance: random.Random
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing new is begun; what was begun is finished."""
    broken: Counter[str] = field(default_factory=Counter)
    """Promise -> how often it was broken."""
    examples: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """What -> how often it was answered."""
    numbers: count[int] = field(default_factory=count)

    def breaks(self, promise: str, example: str) -> None:
        self.broken[promise] += 1
        if self.broken[promise] <= KEPT_OF_EACH:
            self.examples.append(f"{promise}: {example}")

    def number(self) -> int:
        """A value that nobody else publishes."""
        return next(self.numbers)

    async def ask(self, method: str, path: str, what: str, *, also: Collection[int] = (), **arguments: Any) -> Outcome:
        """One request to any node, counted as `what` when it is answered well: by 2xx, or a status in `also`."""
        node = self.chance.choice(self.nodes)
        sent = time.monotonic()
        status, body, headers = 0, None, {}
        kind = "unknown"
        try:
            async with self.session.request(method, node.url + path, **arguments) as response:
                status, headers = response.status, dict(response.headers)
                raw = await response.read()
                body = _read(raw, headers)
                is_ok = status < 300 or (status in also and not _is_trouble(status, body))
                kind = "ok" if is_ok else "refused" if status in SURE else "unknown"
        except aiohttp.ClientConnectorError as error:
            kind, body = "refused", {"detail": str(error)}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            body = {"detail": repr(error)}
        ended = time.monotonic()
        if kind == "ok":
            self.done[what] += 1
        elif status and status not in SURE and status != UNKNOWN:
            self.breaks("a good request is not refused", f"{method} {path}: {status} {body}")
        return Outcome(kind, status, body, headers, sent, ended)

    async def insist(self, method: str, path: str, what: str, **arguments: Any) -> Outcome:
        """The same request until it is answered; for what is harmless to repeat. `sent` is that of the first try."""
        first: float | None = None
        while True:
            outcome = await self.ask(method, path, what, **arguments)
            first = first or outcome.sent
            if outcome.is_ok or (outcome.status and outcome.status not in SURE and outcome.status != UNKNOWN):
                return Outcome(outcome.kind, outcome.status, outcome.body, outcome.headers, first, outcome.ended)
            await asyncio.sleep(TROUBLE_SECONDS)


def _read(raw: bytes, headers: dict[str, str]) -> Any:
    """JSON, the objects of lines, or None of nothing."""
    if headers.get("Content-Type", "").startswith("application/x-ndjson"):
        return [json.loads(line) for line in raw.splitlines()]
    return json.loads(raw) if raw else None


def _is_trouble(status: int, body: Any) -> bool:
    """A limit of the node, where the one of the topic is waited for."""
    return status == 429 and (body or {}).get("code") != "topic_full"


class Actor(ABC):
    """Clients with one purpose and topics of their own."""

    name = ""
    copies = 1

    def __init__(self, world: World) -> None:
        self.world = world

    async def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Make what is needed, before any client begins."""

    @abstractmethod
    async def step(self, copy: int) -> None:
        """One operation of a client; it takes a while."""

    async def finish(self) -> None:  # noqa: B027 (some have nothing to say)
        """After all clients have ended, in a whole cluster: take what is left, and say what is wrong."""

    async def go_on(self, copy: int) -> None:
        while not self.world.is_over.is_set():
            await self.step(copy)


async def make_topic(world: World, topic: str, **settings: object) -> None:
    outcome = await world.insist("PUT", f"/v1/topics/{topic}", "topic set", json=settings)
    if not outcome.is_ok:
        raise RuntimeError(f"topic {topic}: {outcome.status} {outcome.body}")


async def take(world: World, topic: str, consumer: str, batch: int) -> tuple[list[dict[str, Any]], Outcome]:
    """The next messages of a consumer, settled as they are given, repeated until they are there."""
    query = {"consumerID": consumer, "batch": str(batch), "attempt": f"{world.chance.getrandbits(64):x}"}
    outcome = await world.insist("GET", f"/topic/{topic}/consume", "consume", params=query)
    return list(outcome.body["messages"]) if outcome.is_ok else [], outcome


async def drain(world: World, topic: str, consumer: str) -> list[tuple[dict[str, Any], Outcome]]:
    """All that is left for a consumer."""
    found: list[tuple[dict[str, Any], Outcome]] = []
    while True:
        messages, outcome = await take(world, topic, consumer, 1000)
        if not messages:
            return found
        found += [(message, outcome) for message in messages]
