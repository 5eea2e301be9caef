"""A backup of a serving cluster is restored, and everything that it promises is there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.clients import Http, Publishers
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger


def download(url: str, file: Path) -> int:
    """As the guide says it; the log index of the file."""
    command = ["curl", "--silent", "--show-error", "--fail", "--dump-header", "-", url, "-o", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("FalconQ-Index:"))


async def take_backup(cluster: Cluster, file: Path) -> int:
    """A follower's backup of all that was acknowledged before the call; its log index."""
    leader = await cluster.leader()
    asked = next(node for node in cluster.nodes.values() if node is not leader)
    return await asyncio.to_thread(download, f"{asked.url}/v1/cluster/backup?consistency=linearizable", file)


@pytest.mark.parametrize("restored_on", [["n2"], ["n1", "n2", "n3"]], ids=["one", "all"])
async def test_what_was_acknowledged_before_a_backup_is_there_after_its_restore(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger, tmp_path: Path, restored_on: list[str]
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes, file = list(cluster.nodes.values()), tmp_path / "falconq.backup"
    later = Ledger()
    for number in range(50):
        outcome = await http.publish(nodes[number % 3], "t", ledger.new_payload("m"), ledger=ledger)
        assert outcome.kind == "acknowledged", outcome
    leased = await http.call("POST", f"{nodes[0].url}/v1/topics/t/consumers/c/pull", json={"max": 5})
    ids = [delivery["lease"]["id"] for delivery in leased.body["deliveries"]]
    await http.call("POST", f"{nodes[1].url}/v1/topics/t/consumers/c/ack", json={"ack": ids[:3]})
    async with Publishers(http, nodes, later, topic="later", count=4, pace_seconds=0.01) as publishers:
        await publishers.acknowledged_after(time.monotonic())
        index = await take_backup(cluster, file)
    checked = cluster.cli("backup", "check", str(file))
    assert checked.returncode == 0, checked
    assert f"up to index {index}, " in checked.stdout
    before = (await cluster.view(cluster["n1"]) or {})["clusterID"]
    assert set((await cluster.terminate_all()).values()) == {0}

    for node in nodes:
        node.wipe()
    for name in restored_on:
        done = cluster.cli("node", "restore", str(file), "--data-dir", str(cluster[name].data))
        assert done.returncode == 0, done
    cluster.start()
    await cluster.wait_ready()
    assert (await cluster.view(cluster["n3"]) or {})["clusterID"] not in ("", before)
    await cluster.verify(ledger, "t")
    consumer = (await http.call("GET", f"{cluster['n3'].url}/v1/topics/t/consumers/c")).body
    assert (consumer["inFlight"] + consumer["returned"], consumer["lag"]["low"]) == (2, 45)
    assert (await http.publish(cluster["n1"], "t", ledger.new_payload("after"), ledger=ledger)).kind == "acknowledged"
    await cluster.verify(ledger, "t")


async def test_a_file_that_was_cut_off_is_not_restored(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger, tmp_path: Path
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    await http.publish(cluster["n1"], "t", ledger.new_payload("m"), ledger=ledger)
    file = tmp_path / "falconq.backup"
    await take_backup(cluster, file)
    await cluster.terminate_all()
    os.truncate(file, os.path.getsize(file) - 10)  # noqa: ASYNC240, PTH202 (of a small file)
    cluster["n1"].wipe()
    refused = cluster.cli("node", "restore", str(file), "--data-dir", str(cluster["n1"].data))
    assert refused.returncode == 78, refused
    assert "breaks off at byte" in refused.stderr
    cluster.start()
    await cluster.wait_ready()
    await cluster.verify(ledger, "t")
