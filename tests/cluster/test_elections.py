"""Who leads: after a higher term came back, and while a disk hangs.

What lives here: PROTOCOL.md P6 and P7 on real processes.
Rules: what is prepared on a stopped node is what the node itself would have written.
Must not know: how a vote is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from falconq_cluster.raft.identity import read_identity
from falconq_cluster.raft.journal import Journal
from falconq_cluster.storage.files import RealFileSystem
from tests.cluster.clients import Http, Publishers
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.processes import Node
from tests.cluster.waiting import until

LOST_WITHIN_SECONDS = 2.0


def raise_term(node: Node, by: int) -> int:
    """Makes a stopped node remember that it once campaigned at a higher term and lost; the term."""
    files = RealFileSystem()
    identity = read_identity(files, str(node.data))
    assert identity is not None
    journal = Journal.open(files, f"{node.data}/journal", node_id=node.name, disk_id=identity.disk_id)
    term = journal.getCurrentTerm() + by
    journal.setCurrentTerm(term, node.name)
    job = journal.begin_sync()
    for step in job.steps:
        step()
    journal.end_sync(job)
    journal._destroy()
    return int(term)


async def test_a_node_at_a_higher_term_than_the_leader_rejoins_and_follows(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    follower = (await cluster.followers())[0]
    nodes = list(cluster.nodes.values())
    async with Publishers(http, nodes, ledger, topic="t", count=4, pace_seconds=0.01) as publishers:
        await publishers.acknowledged_after(time.monotonic())
        follower.kill()
        term = raise_term(follower, by=5)
        follower.start()
        await cluster.wait_ready()
        views = await cluster.views()
        assert views is not None
        assert {view["term"] >= term for view in views} == {True}
        await publishers.acknowledged_after(time.monotonic())
    await cluster.verify(ledger, "t")


async def test_a_leader_whose_sync_hangs_loses_leadership_within_two_seconds_and_the_others_go_on(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger, sync_shim: Path
) -> None:
    cluster = make_cluster(preload=sync_shim)
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    leader = await cluster.leader()
    others = [node for node in nodes if node is not leader]
    async with Publishers(http, nodes, ledger, topic="t", count=8, pace_seconds=0.01) as publishers:
        await publishers.acknowledged_after(time.monotonic())
        hung = time.monotonic()
        leader.hang_file.touch()
        try:
            await until("another leads", lambda: _leads_another(cluster, others, leader.name), timeout=10)
            lost = time.monotonic() - hung
            next_acknowledgement = await publishers.acknowledged_after(time.monotonic()) - hung
            view = await cluster.view(leader)
            assert view is None or view["leader"] != leader.name, "it still believes in itself"
        finally:
            leader.hang_file.unlink()
        await cluster.wait_ready()
        await publishers.acknowledged_after(time.monotonic())
    print(f"\nthe hung leader was replaced after {lost:.2f} s, next acknowledgement after {next_acknowledgement:.2f} s")
    assert lost < LOST_WITHIN_SECONDS
    await cluster.verify(ledger, "t")


async def _leads_another(cluster: Cluster, others: list[Node], name: str) -> bool:
    views = await cluster.views(others)
    return views is not None and all(view["leader"] not in (None, name) for view in views)


async def test_nothing_is_acknowledged_while_the_syncs_of_a_majority_hang(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger, sync_shim: Path
) -> None:
    cluster = make_cluster(preload=sync_shim, sync_stall_ms=20_000)
    cluster.start()
    await cluster.wait_ready()
    leader = await cluster.leader()
    followers = await cluster.followers()
    for node in followers:
        node.hang_file.touch()
    publishing = asyncio.create_task(http.publish(leader, "t", ledger.new_payload("held"), ledger=ledger))
    done, _ = await asyncio.wait({publishing}, timeout=0.5)
    assert not done, publishing.result()
    followers[0].hang_file.unlink()
    outcome = await publishing
    assert outcome.kind == "acknowledged", outcome
    followers[1].hang_file.unlink()
    await cluster.verify(ledger, "t")
