"""Nodes that come back without their disk.

What lives here: PROTOCOL.md P4 (a wiped node is a learner until both others confirm it) and the way out of P5.
Rules: a wiped node brings nothing to a majority, neither votes nor acknowledgements.
Must not know: how a snapshot is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.cluster.clients import Http, Publishers
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.waiting import stays, until

SHORT_LOG = {"flush_entries": 50, "journal_keep_entries": 10, "journal_segment_bytes": 65536}
"""The journal is cut so soon that a wiped node can only come back by snapshot."""
SHORT_WAIT = {"request_timeout_ms": 1500, "no_leader_wait_ms": 1000}
NO_QUORUM_SECONDS = 2.5
"""Several election timeouts."""


async def fill(cluster: Cluster, http: Http, ledger: Ledger, count: int) -> None:
    """Publish one by one, so that each message is an entry of the log."""
    leader = await cluster.leader()
    for _ in range(count):
        outcome = await http.publish(leader, "t", ledger.new_payload("f"), ledger=ledger)
        assert outcome.kind == "acknowledged", outcome


async def test_a_wiped_follower_comes_back_by_snapshot_while_writes_go_on(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster(**SHORT_LOG)
    cluster.start()
    await cluster.wait_ready()
    await fill(cluster, http, ledger, 200)
    follower = (await cluster.followers())[0]
    others = [node for node in cluster.nodes.values() if node is not follower]
    async with Publishers(http, others, ledger, topic="t", count=8, pace_seconds=0.01) as publishers:
        follower.kill()
        follower.wipe()
        await publishers.acknowledged_after(time.monotonic())
        follower.start()
        assert (await cluster.readiness(follower)).status == 503
        await cluster.wait_ready()
        await publishers.acknowledged_after(time.monotonic())
    assert publishers.counts["refused"] == 0
    assert await cluster.metric(follower, "falconq_raft_installed_snapshots_total") > 0
    await cluster.verify(ledger, "t")


async def test_a_wiped_node_counts_only_after_both_others_confirmed_its_disk(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster(**SHORT_LOG, **SHORT_WAIT)
    cluster.start()
    await cluster.wait_ready()
    await fill(cluster, http, ledger, 100)
    leader = await cluster.leader()
    wiped, paused = await cluster.followers()
    wiped.kill()
    wiped.wipe()
    paused.pause()
    wiped.start()
    answer = await cluster.readiness(wiped)
    assert answer.status == 503

    # A majority of three is there, but one of the two has forgotten what it acknowledged.
    for node in (leader, wiped):
        outcome = await http.publish(node, "t", ledger.new_payload("learner"), ledger=ledger)
        assert outcome.kind != "acknowledged", outcome
    view = await cluster.view(wiped)
    assert view is not None
    assert view["state"] == "learner"
    assert not await cluster.is_ready(wiped)

    paused.resume()
    await cluster.wait_ready()
    leader = await cluster.leader()
    third = next(node for node in (await cluster.followers()) if node is not wiped) if leader is not wiped else paused
    third.pause()
    await until("a majority with the confirmed disk acknowledges", lambda: _acknowledges(cluster, ledger))
    third.resume()
    await cluster.wait_ready()
    await cluster.verify(ledger, "t")


async def _acknowledges(cluster: Cluster, ledger: Ledger) -> bool:
    node = cluster.running[0]
    outcome = await cluster.http.publish(node, "t", ledger.new_payload("again"), ledger=ledger)
    return outcome.kind == "acknowledged"


async def test_two_wiped_nodes_and_one_with_data_elect_nobody_say_what_to_do_and_recover_works(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster(**SHORT_WAIT)
    cluster.start()
    await cluster.wait_ready()
    await fill(cluster, http, ledger, 50)
    await cluster.converge()
    cluster_id = (await cluster.view(cluster["n1"]) or {})["clusterID"]
    cluster.kill_all()
    for name in ("n1", "n3"):
        cluster[name].wipe()
    cluster.start()

    async def says_what_to_do() -> bool:
        answers = [await cluster.readiness(node) for node in cluster.running]
        return all(a.status == 503 and "falconq node recover --sole-survivor" in str(a.body) for a in answers)

    await until("each node says what to do", says_what_to_do)

    async def nobody_leads() -> bool:
        views = await cluster.views()
        return views is not None and all(view["leader"] is None for view in views)

    await stays("nobody leads", nobody_leads, seconds=NO_QUORUM_SECONDS)
    outcome = await http.publish(cluster["n2"], "t", ledger.new_payload("nobody"), ledger=ledger)
    assert outcome.kind != "acknowledged", outcome
    await cluster.terminate_all()

    refused = cluster.cli("node", "recover", "--sole-survivor", "--data-dir", str(cluster["n2"].data), typed="no\n")
    assert refused.returncode != 0, refused
    done = cluster.cli("node", "recover", "--sole-survivor", "--data-dir", str(cluster["n2"].data), typed="n2\n")
    assert done.returncode == 0, done
    cluster.start()
    await cluster.wait_ready()
    assert (await cluster.view(cluster["n2"]) or {})["clusterID"] not in ("", cluster_id)
    await fill(cluster, http, ledger, 5)
    await cluster.verify(ledger, "t")
