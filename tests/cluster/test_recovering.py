"""What the operator's guide does when a majority of disks is lost, and with a copy of one member's data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.processes import Node

COUNT = 30


async def publish(http: Http, node: Node, ledger: Ledger, author: str) -> None:
    for _ in range(COUNT):
        outcome = await http.publish(node, "t", ledger.new_payload(author), ledger=ledger)
        assert outcome.kind == "acknowledged", outcome


def recover(node: Node) -> None:
    done = Cluster.cli("node", "recover", "--sole-survivor", "--data-dir", str(node.data), typed=f"{node.name}\n")
    assert done.returncode == 0, done
    assert "start all members, the others empty" in done.stdout


async def test_a_copy_of_a_stopped_members_data_is_the_start_of_a_new_cluster(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger, tmp_path: Path
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    leader = await cluster.leader()
    await publish(http, leader, ledger, "copied")
    chosen = (await cluster.followers())[0]
    await cluster.converge()
    assert chosen.terminate() == 0
    backup = tmp_path / "backup"
    shutil.copytree(chosen.data, backup)
    chosen.start()
    await cluster.wait_ready()
    await publish(http, leader, Ledger(), "after the copy")
    assert set((await cluster.terminate_all()).values()) == {0}

    for node in cluster.nodes.values():
        node.wipe()
    shutil.copytree(backup, chosen.data)
    recover(chosen)
    cluster.start()
    await cluster.wait_ready()
    assert await cluster.verify(ledger, "t") == COUNT
    await publish(http, await cluster.leader(), ledger, "new")
    assert await cluster.verify(ledger, "t") == 2 * COUNT


async def test_the_only_member_whose_disk_is_left_is_the_start_of_a_new_cluster(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    await publish(http, await cluster.leader(), ledger, "old")
    await cluster.converge()
    cluster.kill_all()
    survivor, *lost = cluster.nodes.values()
    for node in lost:
        node.wipe()
    recover(survivor)
    cluster.start()
    await cluster.wait_ready()
    assert await cluster.verify(ledger, "t") == COUNT
