"""Clients of the cluster, each with one operation at a time, and what they were told.

What lives here: publishers with and without keys, one at a time and in batches, consumers, linearizable reads and
sessions of reads, and administrators of topics.
Rules: 503, 429 and what never reached a node are failures for sure; any other trouble leaves the outcome unknown. A
message with a key is repeated until it is answered, at any node; one without is never repeated. A consumer repeats with
its `attempt` until it has the batch.
Must not know: which fault is going on, who leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from itertools import count
from typing import Any

import aiohttp

from chaos.history import Event, HistoryWriter, Kind

REQUEST_SECONDS = 6.0
PAUSE_SECONDS = 0.01
TROUBLE_SECONDS = 0.1
TOPIC, CONSUMER = "orders", "billing"
JOBS, JOBS_DEAD = "jobs", "jobs.dead"
STORED = (TOPIC, JOBS, JOBS_DEAD)
LEVELS = ("low", "high")
NOT_FOUND = 404
SURE = frozenset((429, 503))
BATCH = 200
PUBLISHED_BATCH, KEYED_BATCH = 100, 5
"""Messages of one request; each is a publish of a client of its own, with its own result."""
BATCH_PAUSE_SECONDS = 0.1
"""Two such publishers make some 1,000 publishes a second: enough, and a run of some hours can still be judged."""
PAGE = 1000


class Clients:
    """All clients of a run."""

    def __init__(self, urls: dict[str, str], writer: HistoryWriter, seed: int) -> None:
        self.urls = urls
        self._names = list(urls)
        self._writer = writer
        self._chance = random.Random(seed)  # noqa: S311
        self._numbers = count()
        self._clients = count()
        self._session: aiohttp.ClientSession | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._members: dict[int, list[int]] = {}
        """Publisher of batches -> the clients that its messages are of."""
        self.is_over = asyncio.Event()
        self._is_free = asyncio.Event()
        self._is_free.set()
        self._busy_count = 0
        self.acknowledged: list[float] = []

    def note(self, e: Kind, f: str, **fields: Any) -> None:
        self._writer.write(Event(time.monotonic_ns(), e, f, **fields))

    def open(self) -> None:
        """Within a running loop."""
        timeout = aiohttp.ClientTimeout(REQUEST_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    def start(self, *, publishers: int, keyed: int, batches: int, consumers: int, readers: int) -> None:
        """Begin to ask; so many of each, and as many of each kind of reader and of batches."""
        self.note("info", "topic", topic=TOPIC, mode="strict")
        for maker, number in (
            (self._publish_plainly, publishers), (self._publish_with_keys, keyed), (self._consume, consumers),
            (self._publish_batch, batches), (self._publish_keyed_batch, batches),
            (self._read, readers), (self._read_linearizably, readers), (self._administer, 1),
        ):  # fmt: skip
            self.go_on(maker, number)

    def go_on(self, maker: Callable[[int], Coroutine[Any, Any, bool]], number: int) -> None:
        """So many clients that do this again and again."""
        self._tasks += [asyncio.create_task(self._go_on(maker)) for _ in range(number)]

    def new_client(self) -> int:
        return next(self._clients)

    async def finish(self) -> None:
        """Let each end its operation; then nobody asks any more. Raises: what a client raised."""
        self.is_over.set()
        await asyncio.gather(*self._tasks)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Within it nobody asks, after each has ended its operation."""
        self._is_free.clear()
        try:
            while self._busy_count:
                await asyncio.sleep(PAUSE_SECONDS)
            yield
        finally:
            self._is_free.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _go_on(self, maker: Callable[[int], Coroutine[Any, Any, bool]]) -> None:
        """Operations one after the other, more slowly in trouble."""
        client = next(self._clients)
        while not self.is_over.is_set():
            await self._is_free.wait()
            self._busy_count += 1
            try:
                is_well = await maker(client)
            finally:
                self._busy_count -= 1
            await asyncio.sleep(PAUSE_SECONDS if is_well else TROUBLE_SECONDS)

    def any_node(self) -> str:
        return self._chance.choice(self._names)

    async def ask(
        self, method: str, node: str, path: str, **arguments: Any
    ) -> tuple[Kind, dict[str, Any], dict[str, str]]:
        """One request with its outcome: `ok`, `fail` or `unknown`."""
        assert self._session is not None
        try:
            async with self._session.request(method, self.urls[node] + path, **arguments) as response:
                body = json.loads(await response.read() or b"{}")
                if response.status < 300:  # noqa: PLR2004
                    return "ok", body, dict(response.headers)
                kind: Kind = "fail" if response.status in SURE or response.status == NOT_FOUND else "unknown"
                return kind, body, dict(response.headers)
        except aiohttp.ClientConnectorError as error:
            return "fail", {"detail": str(error)}, {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return "unknown", {"detail": str(error)}, {}

    async def publish(self, client: int, level: int, topic: str) -> tuple[Kind, int]:
        """A message that is never repeated: the outcome, and the index of an acknowledged one."""
        return await self._publish(client, next(self._numbers), level, topic, keyed=False)

    async def _publish(self, client: int, v: int, level: int, topic: str, *, keyed: bool) -> tuple[Kind, int]:
        node = self.any_node()
        headers = {"Idempotency-Key": f"k{v}"} if keyed else {}
        self.note("invoke", "publish", p=client, v=v, level=level, topic=topic, node=node, keyed=keyed)
        body = {"message": v, "priority": LEVELS[level]}
        kind, answer, _ = await self.ask("POST", node, f"/topic/{topic}/publish", json=body, headers=headers)
        if kind == "ok":
            place = {"partition": answer["partitionID"], "offset": answer["offset"], "index": answer["index"]}
            self.note("ok", "publish", p=client, **place)
            self.acknowledged.append(time.monotonic())
            return kind, int(answer["index"])
        self.note(kind, "publish", p=client, detail=str(answer.get("detail", ""))[:100])
        return kind, -1

    async def _publish_plainly(self, client: int) -> bool:
        level = int(self._chance.random() < 1 / 3)
        kind, _ = await self.publish(client, level, TOPIC)
        return kind == "ok"

    async def _publish_with_keys(self, client: int) -> bool:
        v, level = next(self._numbers), self._chance.randrange(2)
        while True:
            kind, _ = await self._publish(client, v, level, TOPIC, keyed=True)
            # Once in five times it is repeated although it was answered.
            if (kind == "ok" and self._chance.random() > 0.2) or self.is_over.is_set():  # noqa: PLR2004
                return True
            await asyncio.sleep(PAUSE_SECONDS if kind == "ok" else TROUBLE_SECONDS)

    async def _publish_batch(self, client: int) -> bool:
        values = [next(self._numbers) for _ in range(PUBLISHED_BATCH)]
        is_well = await self._publish_values(client, values, keyed=False)
        await asyncio.sleep(BATCH_PAUSE_SECONDS)
        return is_well

    async def _publish_keyed_batch(self, client: int) -> bool:
        values = [next(self._numbers) for _ in range(KEYED_BATCH)]
        while True:
            is_well = await self._publish_values(client, values, keyed=True)
            if (is_well and self._chance.random() > 0.2) or self.is_over.is_set():  # noqa: PLR2004
                return True
            await asyncio.sleep(PAUSE_SECONDS if is_well else TROUBLE_SECONDS)

    async def _publish_values(self, client: int, values: list[int], *, keyed: bool) -> bool:
        """One request; each message is the publish of a client of its own. Whether all were acknowledged."""
        node = self.any_node()
        members = self._members.setdefault(client, [next(self._clients) for _ in values])
        headers = {"Idempotency-Key": f"b{values[0]}"} if keyed else {}
        for p, v in zip(members, values, strict=True):
            self.note("invoke", "publish", p=p, v=v, level=v % 2, topic=TOPIC, node=node, keyed=keyed)
        body = [{"message": v, "priority": LEVELS[v % 2]} for v in values]
        path = f"/v1/topics/{TOPIC}/messages:batch"
        kind, answer, _ = await self.ask("POST", node, path, json=body, headers=headers)
        results = answer["results"] if kind == "ok" else [answer] * len(values)
        for p, result in zip(members, results, strict=True):
            if "offset" in result:
                place = {"partition": result["partitionID"], "offset": result["offset"], "index": result["index"]}
                self.note("ok", "publish", p=p, **place)
                self.acknowledged.append(time.monotonic())
            else:
                outcome = kind if kind != "ok" else "fail" if result.get("status") in SURE else "unknown"
                self.note(outcome, "publish", p=p, detail=str(result.get("detail", ""))[:100])
        return all("offset" in result for result in results)

    async def _consume(self, client: int) -> bool:
        await self.take(client)
        return True

    async def take(self, client: int) -> int:
        """One batch, repeated until it is there; how many it had. -1 when it did not come and time is over."""
        attempt = self._chance.getrandbits(48)
        while True:
            node = self.any_node()
            self.note("invoke", "consume", p=client, topic=TOPIC, consumer=CONSUMER, node=node, attempt=attempt)
            query = {"consumerID": CONSUMER, "batch": str(BATCH), "attempt": str(attempt)}
            kind, answer, _ = await self.ask("GET", node, f"/topic/{TOPIC}/consume", params=query)
            if kind == "ok":
                rows = [
                    [m["partitionID"], m["offset"], m["message"], m["level"], m["deliveryCount"]]
                    for m in answer["messages"]
                ]
                self.note("ok", "consume", p=client, rows=rows)
                return len(rows)
            self.note("unknown", "consume", p=client, detail=str(answer.get("detail", ""))[:100])
            await asyncio.sleep(TROUBLE_SECONDS)

    async def _read(self, client: int) -> bool:
        """A session: the index of one answer is the least that the next one shows, on any node."""
        index = 0
        for _ in range(20):
            node = self.any_node()
            self.note("invoke", "read", p=client, topic=TOPIC, node=node, mode="session", minimum=index)
            headers = {"FalconQ-Min-Index": str(index)}
            kind, answer, given = await self.ask("GET", node, f"/topics/{TOPIC}/partitions", headers=headers)
            if kind == "ok":
                index = int(given["FalconQ-Index"])
                rows = [[partition["id"], partition["nextOffset"]] for partition in answer["partitions"]]
                self.note("ok", "read", p=client, index=index, rows=rows)
            else:
                self.note(kind, "read", p=client)
            await asyncio.sleep(0.05 if kind == "ok" else TROUBLE_SECONDS)
            if self.is_over.is_set():
                break
        return True

    async def _read_linearizably(self, client: int) -> bool:
        """It shows all that was acknowledged before it, on any node, or is refused."""
        node = self.any_node()
        self.note("invoke", "read", p=client, topic=TOPIC, node=node, mode="linearizable")
        path = f"/topics/{TOPIC}/partitions?consistency=linearizable"
        kind, answer, given = await self.ask("GET", node, path)
        if kind == "ok":
            rows = [[partition["id"], partition["nextOffset"]] for partition in answer["partitions"]]
            self.note("ok", "read", p=client, index=int(given["FalconQ-Index"]), rows=rows)
        else:
            self.note(kind, "read", p=client)
        await asyncio.sleep(0.05)
        return kind == "ok"

    async def _administer(self, client: int) -> bool:
        """A topic is published to, deleted, and made again under its name: nothing of it comes back."""
        topic, index = "volatile", 0
        for _ in range(3):
            _, applied = await self.publish(client, 0, topic)
            index = max(index, applied)
        node = self.any_node()
        self.note("invoke", "delete", p=client, topic=topic, node=node)
        kind, _, given = await self.ask("DELETE", node, f"/v1/topics/{topic}")
        self.note(kind, "delete", p=client)
        if kind != "ok":
            return False
        await self.publish(client, 0, topic)
        node = self.any_node()
        self.note("invoke", "read", p=client, topic=topic, node=node, mode="local")
        headers = {"FalconQ-Min-Index": given["FalconQ-Index"]}
        path = f"/topic/{topic}/peek?offset=0&batch={PAGE}"
        kind, answer, given = await self.ask("GET", node, path, headers=headers)
        rows = [[m["partitionID"], m["offset"], m["message"]] for m in answer["messages"]] if kind == "ok" else None
        self.note(kind, "read", p=client, rows=rows, index=int(given.get("FalconQ-Index", -1)))
        await asyncio.sleep(0.2)
        return True

    async def drain(self) -> None:
        """Read the consumer to its end."""
        client = next(self._clients)
        while await self.take(client):
            pass
        self.note("info", "drained", topic=TOPIC, consumer=CONSUMER)

    async def store(self, nodes: Sequence[str]) -> None:
        """Write down what each of them shows."""
        for node in nodes:
            for topic in STORED:
                await self._store(node, topic)

    async def _store(self, node: str, topic: str) -> None:
        offset = 0
        pages: list[list[list[int]]] = []
        while True:
            kind, answer, _ = await self.ask("GET", node, f"/topic/{topic}/peek?offset={offset}&batch={PAGE}")
            if kind != "ok":
                if answer.get("status") == NOT_FOUND:
                    return
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            pages.append([[m["offset"], m["message"], m["level"]] for m in answer["messages"]])
            if not pages[-1]:
                break
            offset = answer["nextOffset"]
        # Only what is whole is written down: the rest of a node that was not waited for is not lost.
        for rows in pages:
            self.note("info", "stored", node=node, topic=topic, partition=0, rows=rows)

    async def view(self, node: str) -> dict[str, Any] | None:
        with contextlib.suppress(KeyError):
            kind, body, _ = await self.ask("GET", node, "/v1/cluster", timeout=aiohttp.ClientTimeout(1))
            return body if kind == "ok" else None
        return None

    async def are_ready(self) -> bool:
        """All nodes are ready."""
        return all(await asyncio.gather(*(self.is_ready(node) for node in self.urls)))

    async def is_ready(self, node: str) -> bool:
        kind, _, _ = await self.ask("GET", node, "/readyz", timeout=aiohttp.ClientTimeout(1))
        return kind == "ok"

    async def have_more_than(self, count: int) -> bool:
        """More than so many publishes were acknowledged."""
        return len(self.acknowledged) > count

    async def have_converged(self) -> bool:
        """All nodes show one applied index."""
        views = await asyncio.gather(*(self.view(node) for node in self.urls))
        return None not in views and len({view["appliedIndex"] for view in views if view is not None}) == 1
