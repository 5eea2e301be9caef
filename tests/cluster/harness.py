"""A cluster of real processes.

What lives here: starting and stopping members, waiting for what they agree on, and reading what they store.
Rules: everything is on loopback and below one directory; every wait has a deadline; `close` ends every process by its
pid, whatever happened before.
Must not know: what a test is about.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plyvel

from falconq_cluster.machine.keys import META
from falconq_cluster.machine.rows import MetaRow, decode_row
from tests.cluster.clients import Answer, Http
from tests.cluster.ledger import Ledger
from tests.cluster.processes import Node, free_ports, node_environment
from tests.cluster.proxies import Proxies
from tests.cluster.waiting import until

PAGE = 1000
CLI_SECONDS = 30.0


class Cluster:
    """Members n1..nN; with one member, a node alone."""

    def __init__(
        self,
        directory: Path,
        http: Http,
        *,
        count: int = 3,
        spare: int = 0,
        is_proxied: bool = False,
        preload: Path | None = None,
        **settings: object,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.http = http
        self.proxies = Proxies() if is_proxied else None
        total = count + spare
        ports = free_ports(2 * total)
        names = [f"n{number + 1}" for number in range(total)]
        self.nodes = {
            name: Node(name, directory, http_port, raft_port, settings=dict(settings), preload=preload)
            for name, http_port, raft_port in zip(names, ports[:total], ports[total:], strict=True)
        }
        if total > 1:
            self.set_members(names[:count])
        self.members = names[:count]

    def set_members(self, names: list[str]) -> None:
        """From their next start on, these nodes are each other's peers."""
        self.members = names
        for node in self.nodes.values():
            node.peers = {name: self._port(node.name, name) for name in names}

    def _port(self, source: str, target: str) -> int:
        port = self.nodes[target].raft_port
        if self.proxies is None or source == target:
            return port
        return self.proxies.add(source, target, port)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    # Processes.

    def start(self, *names: str) -> None:
        """Start these members, or all."""
        for name in names or self.members:
            self.nodes[name].start()

    def kill_all(self) -> None:
        """SIGKILL to all members before any is waited for."""
        for node in self.running:
            assert node.process is not None
            node.process.kill()
        for name in self.members:
            self.nodes[name].kill()

    async def terminate_all(self) -> dict[str, int]:
        """SIGTERM to all at once; their exit codes."""
        running = self.running
        codes = await asyncio.gather(*(asyncio.to_thread(node.terminate) for node in running))
        return {node.name: code for node, code in zip(running, codes, strict=True)}

    def close(self, *, is_kept: bool = False) -> None:
        """End everything; remove the data unless it is to be looked at."""
        for node in self.nodes.values():
            node.kill()
        if self.proxies is not None:
            self.proxies.close()
        if not is_kept:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> list[Node]:
        """Members that run and are not paused."""
        return [node for node in self.nodes.values() if node.is_running and not node.is_paused]

    @staticmethod
    def cli(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run `falconq` with these arguments, typing `typed` when it asks."""
        return subprocess.run(
            [sys.executable, "-m", "falconq_cluster", *arguments],
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=CLI_SECONDS,
            env=node_environment({}),
        )

    # What the members say.

    async def view(self, node: Node) -> dict[str, Any] | None:
        """/v1/cluster of one node, or None when it does not answer."""
        answer = await self.http.ask(node, "/v1/cluster")
        return answer.body if answer is not None and answer.status == 200 else None

    async def views(self, nodes: Iterable[Node] | None = None) -> list[dict[str, Any]] | None:
        """/v1/cluster of all that run, or None while one does not answer."""
        views = await asyncio.gather(*(self.view(node) for node in (nodes or self.running)))
        answered = [view for view in views if view is not None]
        return answered if len(answered) == len(views) else None

    async def readiness(self, node: Node) -> Answer:
        """The answer of /readyz, as soon as the node listens."""
        return await until(f"{node.name} listens", lambda: self.http.ask(node, "/readyz"))

    async def is_ready(self, node: Node) -> bool:
        answer = await self.http.ask(node, "/readyz")
        return answer is not None and answer.status == 200

    async def wait_ready(self, *names: str) -> None:
        """Waits until these members, or all that run, are ready."""
        nodes = [self.nodes[name] for name in names] or self.running

        async def probe() -> bool:
            for node in nodes:
                assert node.is_running, f"{node.name} ended:\n{node.log_tail()}"
            return all(await asyncio.gather(*(self.is_ready(node) for node in nodes)))

        await until(f"{[node.name for node in nodes]} are ready", probe)

    async def leader(self, nodes: Iterable[Node] | None = None) -> Node:
        """The leader that all running members (or these) agree on, in one term."""

        async def probe() -> Node | None:
            views = await self.views(nodes)
            seen = {(view["leader"], view["term"]) for view in views or []}
            name = next(iter(seen))[0] if len(seen) == 1 else None
            return self.nodes[name] if name is not None else None

        return await until("the members agree on a leader", probe)

    async def followers(self) -> list[Node]:
        leader = await self.leader()
        return [node for node in self.running if node is not leader]

    async def converge(self) -> int:
        """Waits until all running members have applied the same, and all of it; the index."""

        async def probe() -> int | None:
            views = await self.views()
            indexes = {view[name] for view in views or [] for name in ("commitIndex", "appliedIndex")}
            return int(indexes.pop()) if len(indexes) == 1 else None

        return await until("the members converge", probe)

    async def metric(self, node: Node, name: str) -> float:
        """The sum over all labels of a metric of the node."""
        answer = await self.http.get(node, "/metrics")
        lines = answer.body["text"].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(?:{{| )", line))

    # What the members store.

    async def read_all(self, node: Node, topic: str) -> list[dict[str, Any]]:
        """All messages of the topic's only partition as this node shows them."""
        messages: list[dict[str, Any]] = []
        offset = 0
        while True:
            page = await self.http.get(node, f"/topic/{topic}/peek", offset=offset, batch=PAGE)
            assert page.status == 200, page
            if not page.body["messages"]:
                return messages
            messages += page.body["messages"]
            offset = page.body["nextOffset"]

    async def verify(self, ledger: Ledger, topic: str) -> int:
        """Holds what each running member shows, and their stores, against each other and the ledger; the count."""
        await self.converge()
        count = 0
        for node in self.running:
            messages = await self.read_all(node, topic)
            ledger.check(topic, messages, reader=node.name)
            count = len(messages)
        await self.compare_stores()
        return count

    async def compare_stores(self) -> None:
        """Asserts that the stores of all running members are equal byte for byte, at one applied index."""

        async def probe() -> bool:
            await self.converge()
            running = self.running
            with self._paused(running):
                dumps = await asyncio.to_thread(lambda: [store_dump(node) for node in running])
            if len({applied_index(dump) for dump in dumps}) > 1:
                return False
            for node, dump in zip(running[1:], dumps[1:], strict=True):
                different = [key for key in dumps[0].keys() | dump.keys() if dumps[0].get(key) != dump.get(key)]
                assert not different, f"{running[0].name} and {node.name} differ in {sorted(different)[:5]}"
            return True

        await until("the members have applied the same entry", probe)

    @contextmanager
    def _paused(self, nodes: list[Node]) -> Iterator[None]:
        for node in nodes:
            node.pause()
        try:
            yield
        finally:
            for node in nodes:
                node.resume()


def applied_index(dump: dict[bytes, bytes]) -> int:
    """How far a store has come."""
    return decode_row(dump[META], MetaRow).applied_index


def store_dump(node: Node) -> dict[bytes, bytes]:
    """All pairs of a stopped or paused node's store, read from a copy with LevelDB's own log replayed."""
    with tempfile.TemporaryDirectory(dir=node.directory) as directory:
        copy = Path(directory) / "store"
        shutil.copytree(node.store, copy)
        (copy / "LOCK").unlink(missing_ok=True)
        database = plyvel.DB(str(copy))
        try:
            return dict(database.iterator())
        finally:
            database.close()
