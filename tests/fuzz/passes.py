"""A fuzzer over three nodes, of which the leader is killed.

What lives here: one pass: all nodes, then without the leader that was, then all again.
Rules: the leader gets kill -9 while requests go on. In the end all stores are equal byte for byte.
Must not know: how requests are made.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.fuzz.fuzzer import Findings, Fuzzer

REQUEST_TIMEOUT_MS = 2000
"""What waits for a new leader is given up soon."""
LONG_POLL_MS = 1000
KILL_AFTER_SECONDS = 1.0
"""Into the second round."""


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
                while kill_count == 0 or (ends is not None and time.monotonic() < ends):
                    await _three_rounds(cluster, fuzzer, valid=valid, invalid=invalid)
                    kill_count += 1
                fuzzer.close()
                await cluster.converge()
                await cluster.compare_stores()
            finally:
                cluster.close()
    return fuzzer.findings, kill_count


async def _three_rounds(cluster: Cluster, fuzzer: Fuzzer, *, valid: int, invalid: int) -> None:
    """What breaks the document is refused before the cluster has a part in it, so it is sent in the first alone."""
    await asyncio.to_thread(fuzzer.run, valid=valid, invalid=invalid)
    leader = await cluster.leader()
    second = asyncio.create_task(asyncio.to_thread(fuzzer.run, valid=valid, invalid=0))
    await asyncio.sleep(KILL_AFTER_SECONDS)
    fuzzer.down.add(leader.url)
    leader.kill()
    await second
    leader.start()
    await cluster.wait_ready()
    fuzzer.down.discard(leader.url)
    await asyncio.to_thread(fuzzer.run, valid=valid, invalid=0)
