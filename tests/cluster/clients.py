"""HTTP clients of a cluster, as a normal program would write them.

What lives here: one request with its outcome, and a publisher that goes on at the next node when one fails. Whatever a
node answers must be described in /v1/openapi.json.
Rules: an outcome is one of three: acknowledged, refused (surely not applied: never sent, or the contract says so), or
unknown. No request is repeated under the same payload, because a publish without a key may then be there twice.
Must not know: which node leads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import aiohttp

from tests.cluster.ledger import Ledger
from tests.cluster.waiting import until
from tests.unit.gateway.rig import described

REQUEST_SECONDS = 15.0
"""Beyond the node's own limit of ten: the answer of a node that lives comes first."""
RETRY_SECONDS = 0.06
UNREACHABLE_SECONDS = 0.15
"""Starting nodes need the processor more than clients that find nobody there."""
HIGH_EVERY = 3
UNKNOWN_STATUS = 504

Kind = Literal["acknowledged", "refused", "unknown"]


class Reachable(Protocol):
    """A node as its clients know it."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one publish."""

    kind: Kind
    node: str
    payload: str
    sent: float
    ended: float
    """Both by time.monotonic()."""
    detail: str = ""
    answer: Answer | None = None


class Http:
    """One session for a test; every call has a deadline."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._mistakes: dict[str, None] = {}
        """What answers had that /v1/openapi.json does not have."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(REQUEST_SECONDS))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        if error is None:
            assert not self._mistakes, "\n".join(self._mistakes)

    async def call(self, method: str, url: str, *, timeout: float | None = None, **arguments: Any) -> Answer:
        """One request. Raises: aiohttp.ClientError, TimeoutError."""
        assert self._session is not None
        limit = aiohttp.ClientTimeout(timeout or REQUEST_SECONDS)
        async with self._session.request(method, url, timeout=limit, **arguments) as response:
            raw = await response.read()
            self._mistakes |= dict.fromkeys(
                described().mistakes(
                    method=method,
                    target=response.url.raw_path,
                    status=response.status,
                    headers=response.headers,
                    body=raw,
                )
            )
            try:
                body = json.loads(raw) if raw else {}
            except ValueError:
                body = {"text": raw.decode(errors="replace")}
            return Answer(response.status, body if isinstance(body, dict) else {"list": body}, dict(response.headers))

    async def get(self, node: Reachable, path: str, *, timeout: float | None = None, **parameters: Any) -> Answer:
        given = {name: str(value) for name, value in parameters.items() if value is not None}
        return await self.call("GET", node.url + path, params=given, timeout=timeout)

    async def ask(self, node: Reachable, path: str, *, timeout: float = 2.0) -> Answer | None:
        """A probe that may fail: None when nobody answers."""
        try:
            return await self.get(node, path, timeout=timeout)
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def publish(
        self,
        node: Reachable,
        topic: str,
        payload: str,
        *,
        priority: str | None = None,
        timeout: float | None = None,
        ledger: Ledger | None = None,
    ) -> Outcome:
        """One publish with one outcome, noted in the ledger."""
        body: dict[str, object] = {"message": payload}
        if priority is not None:
            body["priority"] = priority
        sent = time.monotonic()
        kind: Kind = "unknown"
        detail, answer = "", None
        try:
            answer = await self.call("POST", f"{node.url}/topic/{topic}/publish", json=body, timeout=timeout)
            kind, detail = _judge(answer)
        except aiohttp.ClientConnectorError as error:
            kind, detail = "refused", repr(error)
        except (aiohttp.ClientError, TimeoutError) as error:
            detail = repr(error)
        except asyncio.CancelledError:
            if ledger is not None:
                ledger.note(topic, payload, kind="unknown", node=node.name, answer={})
            raise
        outcome = Outcome(kind, node.name, payload, sent, time.monotonic(), detail, answer)
        if ledger is not None:
            ledger.note(topic, payload, kind=kind, node=node.name, answer=answer.body if answer else {})
        return outcome


def _judge(answer: Answer) -> tuple[Kind, str]:
    if answer.status == 200:
        assert answer.body["status"] == "message committed"
        return "acknowledged", ""
    detail = f"{answer.status} {answer.body.get('code')}: {answer.body.get('detail')}"
    assert answer.status in {429, 503, UNKNOWN_STATUS}, f"a valid publish was answered with {detail}"
    return ("unknown" if answer.status == UNKNOWN_STATUS else "refused"), detail


class Publishers:
    """Concurrent publishers that never stop at a failure, each with one request at a time."""

    def __init__(
        self, http: Http, nodes: Sequence[Reachable], ledger: Ledger, *, topic: str, count: int, pace_seconds: float
    ) -> None:
        self._http = http
        self._nodes = nodes
        self._ledger = ledger
        self._topic = topic
        self._count = count
        self._pace_seconds = pace_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._acknowledged: list[tuple[float, float]] = []
        self.counts: dict[str, int] = {"acknowledged": 0, "refused": 0, "unknown": 0}

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._publish(number)) for number in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if error is None and isinstance(result, Exception):
                raise result

    async def acknowledge(self, count: int) -> None:
        """Waits for so many more acknowledgements."""
        wanted = len(self._acknowledged) + count

        async def probe() -> bool:
            return len(self._acknowledged) >= wanted

        await until(f"{count} acknowledgements", probe)

    async def acknowledged_after(self, moment: float) -> float:
        """Waits for an acknowledgement of a request that was sent at or after the moment; when the first one came."""
        seen = len(self._acknowledged)

        async def probe() -> float | None:
            for task in self._tasks:
                if task.done():
                    task.result()
            return min((ended for sent, ended in self._acknowledged[seen:] if sent >= moment), default=None)

        return await until("an acknowledgement", probe)

    def longest_gap(self, start: float, end: float) -> float:
        """The longest time without an acknowledgement between the two moments."""
        moments = [start, *sorted(ended for _, ended in self._acknowledged if start < ended < end), end]
        return max(later - earlier for earlier, later in pairwise(moments))

    async def _publish(self, number: int) -> None:
        position, failed = number, 0
        while True:
            node = self._nodes[position % len(self._nodes)]
            payload = self._ledger.new_payload(f"p{number}")
            priority = "high" if self._ledger.size % HIGH_EVERY == 0 else "low"
            outcome = await self._http.publish(node, self._topic, payload, priority=priority, ledger=self._ledger)
            self.counts[outcome.kind] += 1
            pause = self._pace_seconds
            if outcome.kind == "acknowledged":
                self._acknowledged.append((outcome.sent, outcome.ended))
            else:
                # The next node; after a whole round without an answer, more slowly.
                position += 1
                failed += 1
                pause = UNREACHABLE_SECONDS if failed >= len(self._nodes) else RETRY_SECONDS
            failed = 0 if outcome.answer is not None else failed
            await asyncio.sleep(pause)
