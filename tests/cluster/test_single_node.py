"""A node alone: kill -9 at random moments, and the sync before every acknowledgement.

What lives here: durability of one disk.
Rules: the count is that of the promise; the order of system calls is read from a trace of the real process.
Must not know: the journal's format.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.clients import Http, Publishers
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.waiting import until

KILLS = 50
STARTING_KILLS = 10
"""As many of them come while the node still starts."""
STARTING_SECONDS, SERVING_SECONDS = 0.8, 0.1
"""The kill comes at a random moment within so long after the start, or after an acknowledgement."""
TRACED = "trace=pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync"


async def test_killing_a_single_node_fifty_times_at_random_moments_loses_nothing_acknowledged(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster(count=1, flush_entries=300, journal_keep_entries=50, journal_segment_bytes=65536)
    node = cluster["n1"]
    chance = random.Random(3)
    node.start()
    async with Publishers(http, [node], ledger, topic="t", count=8, pace_seconds=0.002) as publishers:
        for number in range(KILLS):
            if number % (KILLS // STARTING_KILLS) == 1:
                await asyncio.sleep(chance.random() * STARTING_SECONDS)  # a random moment is the point
            else:
                await publishers.acknowledged_after(time.monotonic())
                await asyncio.sleep(chance.random() * SERVING_SECONDS)
            node.kill()
            node.start()
        await publishers.acknowledged_after(time.monotonic())
    count = await cluster.verify(ledger, "t")
    print(f"\n{count} messages stored, outcomes {publishers.counts}")


@pytest.mark.skipif(
    shutil.which("strace") is None and not os.environ.get("FALCONQ_REQUIRE_ALL"), reason="strace is not installed"
)
async def test_an_acknowledgement_is_preceded_by_the_write_and_fdatasync_of_its_message(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster(count=1)
    node = cluster["n1"]
    trace = cluster.directory / "trace"
    # -D: the node itself is the process that the harness knows, and ends; strace ends behind it.
    node.wrapper = ["strace", "-D", "-f", "-y", "-s", "4096", "-e", TRACED, "-o", str(trace)]
    node.start()
    await cluster.wait_ready()
    payloads = [f"traced-message-{number}" for number in range(5)]
    for payload in payloads:
        outcome = await http.publish(node, "t", payload, ledger=ledger)
        assert outcome.kind == "acknowledged", outcome
    await cluster.verify(ledger, "t")
    node.kill()

    async def is_whole() -> bool:
        return "+++ killed by SIGKILL +++" in trace.read_text(errors="replace")

    await until("the trace ends", is_whole)
    for payload in payloads:
        _check_order(trace, payload)


def _check_order(trace: Path, payload: str) -> None:
    """The message is written to the journal, then the journal is synced, then the client is answered."""
    written = synced = False
    synced_thread = ""
    for line in trace.read_text(errors="replace").splitlines():
        thread = line.split(maxsplit=1)[0]
        if "/journal/" in line and "write" in line and payload in line:
            written = True
        elif written and not synced and "fdatasync(" in line and "/journal/" in line:
            synced, synced_thread = line.rstrip().endswith("= 0"), thread
        elif written and not synced and thread == synced_thread and re.search(r"fdatasync resumed.*= 0", line):
            synced = True
        elif "message committed" in line and written:
            assert synced, f"answered before the journal with {payload!r} was synced: {line[:200]}"
            return
    raise AssertionError(f"the trace shows no answer to {payload!r} after its write (written: {written})")


async def test_a_single_node_acknowledges_nothing_while_its_sync_hangs(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger, sync_shim: Path
) -> None:
    cluster = make_cluster(count=1, preload=sync_shim)
    node = cluster["n1"]
    node.start()
    await cluster.wait_ready()
    assert (await http.publish(node, "t", ledger.new_payload("first"), ledger=ledger)).kind == "acknowledged"
    node.hang_file.touch()
    publishing = asyncio.create_task(http.publish(node, "t", ledger.new_payload("held"), ledger=ledger))
    done, _ = await asyncio.wait({publishing}, timeout=0.5)
    assert not done, publishing.result()
    node.hang_file.unlink()
    assert (await publishing).kind == "acknowledged"
    await cluster.verify(ledger, "t")
