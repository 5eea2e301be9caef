"""A Kubernetes service in front of pods, and clients that know nothing but its address.

What lives here: connections led to pods that were ready a moment ago, and publishers at a fixed rate.
Rules: a connection stays with its pod until one of them closes it, as kube-proxy has it; the list of ready pods is
learnt late. A client that retries sends the same key again until its time is over; one that does not notes what it
was told the first time.
Must not know: why pods come and go.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.cluster.clients import Http
from tests.cluster.ledger import Ledger
from tests.deploy.pods import Pods

ENDPOINTS_SECONDS = 1.0
"""How late everybody learns that a pod is ready or not, at most."""
CONNECT_SECONDS = 3.0
RETRY_SECONDS = 10.0
"""For so long a request is repeated."""
PAUSE_SECONDS = 0.05


class _Half(asyncio.Protocol):
    """One side of a connection that is led through."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.waiting: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.waiting.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class _Front(_Half):
    """The client's side: connected to a pod as soon as it is there."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        task = asyncio.create_task(self._lead(transport))
        self._service.tasks.add(task)
        task.add_done_callback(self._service.tasks.discard)

    async def _lead(self, client: asyncio.Transport) -> None:
        back = _Half()
        back.other = client
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                where = self._service.choose()
                pod, _ = await asyncio.get_running_loop().create_connection(lambda: back, *where)
        except (OSError, TimeoutError):
            client.abort()
            return
        for data in self.waiting:
            pod.write(data)
        self.other = pod


class Service:
    """Client-facing address of the pods."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._ready: list[tuple[str, int]] = []
        self._server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._learn()
        self._server = await asyncio.get_running_loop().create_server(lambda: _Front(self), "127.0.0.1", 0)
        self.tasks.add(asyncio.create_task(self._keep_learning()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    @property
    def name(self) -> str:
        return "service"

    def choose(self) -> tuple[str, int]:
        """A pod that was ready lately. Raises: OSError when there is none."""
        if not self._ready:
            raise OSError("no endpoints")
        return random.choice(self._ready)

    def _learn(self) -> None:
        pods = self._pods.pods.values()
        self._ready = [(pod.address, pod.spec.ports["http"]) for pod in pods if pod.is_ready]

    async def _keep_learning(self) -> None:
        while True:
            await asyncio.sleep(ENDPOINTS_SECONDS)
            self._learn()


class Traffic:
    """Publishers at a fixed rate together, each on a connection of its own."""

    def __init__(
        self, http: Http, service: Service, ledger: Ledger, *, topic: str, rate: int, workers: int, does_retry: bool
    ) -> None:
        self._http = http
        self._service = service
        self._ledger = ledger
        self._topic = topic
        self._period = workers / rate
        self._workers = workers
        self._does_retry = does_retry
        self._tasks: list[asyncio.Task[None]] = []
        self._started = 0.0
        self.took: list[float] = []
        """Seconds of each acknowledged request, with its retries."""
        self.failed: Counter[str] = Counter()
        self.retried: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._started = time.monotonic()
        self._tasks = [asyncio.create_task(self._publish(number)) for number in range(self._workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._started
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if error is None and isinstance(result, Exception):
                raise result

    def __str__(self) -> str:
        took = sorted(self.took)
        rate = len(took) / self.seconds
        slow = f"99 % within {1000 * took[len(took) * 99 // 100]:.0f} ms, the longest {1000 * took[-1]:.0f} ms"
        return (
            f"{len(took)} acknowledged, {rate:.0f}/s, {slow}; failed {dict(self.failed)}, retried {dict(self.retried)}"
        )

    async def _publish(self, number: int) -> None:
        due = self._started + random.random() * self._period
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            # Late ones are not made up for all at once.
            due = max(due + self._period, time.monotonic() - self._period)
            if self._does_retry:
                await self._publish_until_acknowledged(self._ledger.new_payload(f"r{number}"))
            else:
                await self._publish_once(self._ledger.new_payload(f"o{number}"))

    async def _publish_once(self, payload: str) -> None:
        outcome = await self._http.publish(self._service, self._topic, payload, ledger=self._ledger)
        if outcome.kind == "acknowledged":
            self.took.append(outcome.ended - outcome.sent)
        else:
            self.failed[f"{outcome.kind}: {outcome.detail.partition('(')[0]}"] += 1

    async def _publish_until_acknowledged(self, payload: str) -> None:
        started = time.monotonic()
        answer: dict[str, Any] = {}
        kind, detail = "unknown", "nothing was sent"
        try:
            while kind != "acknowledged" and time.monotonic() < started + RETRY_SECONDS:
                if detail != "nothing was sent":
                    self.retried[detail] += 1
                    await asyncio.sleep(PAUSE_SECONDS)
                kind, detail, answer = await self._try(payload)
        finally:
            self._ledger.note(self._topic, payload, kind=kind, node="service", answer=answer)
        if kind == "acknowledged":
            self.took.append(time.monotonic() - started)
        else:
            self.failed[detail] += 1

    async def _try(self, payload: str) -> tuple[str, str, dict[str, Any]]:
        url = f"{self._service.url}/topic/{self._topic}/publish"
        try:
            answer = await self._http.call("POST", url, json={"message": payload}, headers={"Idempotency-Key": payload})
        except (aiohttp.ClientError, TimeoutError) as error:
            return "unknown", type(error).__name__, {}
        if answer.status == 200:
            return "acknowledged", "", answer.body
        assert answer.status in {429, 503, 504}, answer
        return "unknown", f"{answer.status} {answer.body['code']}", {}
