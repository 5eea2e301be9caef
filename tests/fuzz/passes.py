"""A fuzzer over three nodes, of which the leader is killed.

What lives here: one pass: all nodes, then one leader killed after the other, then all again.
Rules: a leader gets kill -9 while requests go on. In the end all stores are equal byte for byte.
Must not know: how requests are made.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.fuzz.fuzzer import Findings, Fuzzer

REQUEST_TIMEOUT_MS = 2000
"""What waits for a new leader is given up soon."""
LONG_POLL_MS = 1000
KILL_AFTER_SECONDS, DOWN_SECONDS = (0.5, 6.0), 2.0
"""Into the second round, and again and again until it ends: every route is asked while a leader dies."""


async def run_pass(*, seed: int, valid: int, invalid: int, seconds: float | None = None) -> tuple[Findings, int]:
    """What was seen, and how often a leader was killed: once, or again and again for so many seconds."""
    ends = None if seconds is None else time.monotonic() + seconds
    kill_count = 0
    with tempfile.TemporaryDirectory() as directory:
        async with Http() as http:
            cluster = Cluster(
                Path(directory) / "cluster",
                http,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                long_poll_ms_max=LONG_POLL_MS,
            )
            try:
                cluster.start()
                await cluster.wait_ready()
                document = (await http.get(cluster["n1"], "/v1/openapi.json")).body
                fuzzer = Fuzzer(document, [node.url for node in cluster.nodes.values()], seed=seed)
                chance = random.Random(seed)
                while kill_count == 0 or (ends is not None and time.monotonic() < ends):
                    kill_count += await _three_rounds(cluster, fuzzer, chance, valid=valid, invalid=invalid)
                fuzzer.close()
                await cluster.converge()
                await cluster.compare_stores()
            finally:
                cluster.close()
    return fuzzer.findings, kill_count


async def _three_rounds(cluster: Cluster, fuzzer: Fuzzer, chance: random.Random, *, valid: int, invalid: int) -> int:
    """How many leaders were killed in the second one.

    What breaks the document is refused before the cluster has a part
    in it, so it is sent in the first round alone.
    """
    await asyncio.to_thread(fuzzer.run, valid=valid, invalid=invalid)
    second = asyncio.create_task(asyncio.to_thread(fuzzer.run, valid=valid, invalid=0))
    kill_count = 0
    while not second.done():
        await asyncio.wait([second], timeout=chance.uniform(*KILL_AFTER_SECONDS))
        if second.done() and kill_count:
            break
        await _kill_leader(cluster, fuzzer)
        kill_count += 1
    await second
    await asyncio.to_thread(fuzzer.run, valid=valid, invalid=0)
    return kill_count


async def _kill_leader(cluster: Cluster, fuzzer: Fuzzer) -> None:
    """The others go on for a while without it."""
    leader = await cluster.leader()
    fuzzer.down.add(leader.url)
    leader.kill()
    await asyncio.sleep(DOWN_SECONDS)
    leader.start()
    await cluster.wait_ready()
    fuzzer.down.discard(leader.url)
