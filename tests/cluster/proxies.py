"""Links between nodes that a test can cut, hold, delay and heal.

What lives here: a TCP proxy for each ordered pair of nodes, in a thread of its own.
Rules: `cut` closes the connections and refuses new ones, as a network that answers with resets does. `hold` forwards
no byte from a sender to a receiver and closes nothing, as a network that drops packets does; after `heal` what was
held arrives, as TCP would send it again. Nothing is ever lost inside a connection that stays open.
Must not know: what the nodes say to each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 64 * 1024
COMMAND_SECONDS = 10.0


@dataclass(slots=True)
class _Direction:
    """What happens to bytes from one node to another."""

    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_seconds: float = 0.0


@dataclass(slots=True)
class _Link:
    """Connections that `source` opened to `target`."""

    source: str
    target: str
    target_port: int
    server: asyncio.Server | None = None
    is_cut: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Proxies:
    """All links of one cluster."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._links: dict[tuple[str, str], _Link] = {}
        self._directions: dict[tuple[str, str], _Direction] = {}

    def add(self, source: str, target: str, target_port: int) -> int:
        """The port on which `source` now reaches `target`."""
        return self._run(self._add(_Link(source, target, target_port)))

    def cut(self, one: str, other: str) -> None:
        """Close what connects the two, and refuse what they open, until `heal`."""
        self._run(self._cut([self._links[one, other], self._links[other, one]]))

    def isolate(self, name: str) -> None:
        """Cut the node off from all others."""
        self._run(self._cut([link for pair, link in self._links.items() if name in pair]))

    def hold(self, sender: str, receiver: str) -> None:
        """Forward nothing from the one to the other, over any connection, until `heal`."""
        self._run(self._hold([self._directions[sender, receiver]]))

    def hold_all(self, name: str) -> None:
        """Forward nothing from or to the node until `heal`."""
        self._run(self._hold([direction for pair, direction in self._directions.items() if name in pair]))

    def delay(self, names: Iterable[str], seconds: float) -> None:
        """Each piece between these nodes takes so much longer."""
        self._run(self._delay([self._directions[pair] for pair in permutations(names, 2)], seconds))

    def heal(self) -> None:
        """All links work again."""
        self._run(self._heal())

    def close(self) -> None:
        """Stop the thread and close every socket; idempotent."""
        if self._loop.is_closed():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_SECONDS)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(COMMAND_SECONDS)

    async def _add(self, link: _Link) -> int:
        for pair in ((link.source, link.target), (link.target, link.source)):
            direction = self._directions.setdefault(pair, _Direction())
            direction.is_open.set()
        self._links[link.source, link.target] = link
        link.server = await asyncio.start_server(self._serve(link), "127.0.0.1", 0, limit=CHUNK_BYTES)
        return int(link.server.sockets[0].getsockname()[1])

    def _serve(self, link: _Link) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if link.is_cut:
                writer.transport.abort()
                return
            task = self._loop.create_task(self._connection(link, reader, writer))
            link.tasks.add(task)
            task.add_done_callback(link.tasks.discard)

        return accepted

    async def _connection(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", link.target_port, limit=CHUNK_BYTES)
        except OSError:
            writer.transport.abort()
            return
        there = self._directions[link.source, link.target]
        back = self._directions[link.target, link.source]
        pumps = [
            self._loop.create_task(_pump(reader, there_writer, there)),
            self._loop.create_task(_pump(there_reader, writer, back)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for side in (writer, there_writer):
                side.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _cut(self, links: list[_Link]) -> None:
        for link in links:
            link.is_cut = True
            for task in list(link.tasks):
                task.cancel()

    async def _hold(self, directions: list[_Direction]) -> None:
        for direction in directions:
            direction.is_open.clear()

    async def _delay(self, directions: list[_Direction], seconds: float) -> None:
        for direction in directions:
            direction.delay_seconds = seconds

    async def _heal(self) -> None:
        for link in self._links.values():
            link.is_cut = False
        for direction in self._directions.values():
            direction.delay_seconds = 0.0
            direction.is_open.set()

    async def _close(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        for link in self._links.values():
            if link.server is not None:
                link.server.close()
            tasks += link.tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
    """Forward until the end of the stream; the end is held back like any byte."""
    with contextlib.suppress(OSError):
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            if direction.delay_seconds:
                await asyncio.sleep(direction.delay_seconds)
            await direction.is_open.wait()
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
