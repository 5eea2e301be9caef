"""What operators do: stop nodes one by one, and add members.

What lives here: SIGTERM and `falconq node reconfigure`.
Rules: a clean stop exits 0 and hands leadership over; nothing acknowledged is lost on the way.
Must not know: how leadership moves.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from tests.cluster.clients import Http, Publishers
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.test_kill import show
from tests.cluster.waiting import until


async def test_sigterm_hands_leadership_over_and_exits_0_through_a_rolling_restart_under_publishers(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    gaps: list[float] = []
    async with Publishers(http, nodes, ledger, topic="t", count=8, pace_seconds=0.01) as publishers:
        for _ in nodes:
            leader = await cluster.leader()
            await publishers.acknowledged_after(time.monotonic())
            stopping = time.monotonic()
            stopped = asyncio.create_task(asyncio.to_thread(leader.terminate))
            await asyncio.wait({stopped})
            assert stopped.result() == 0, leader.log_tail()
            others = [node for node in nodes if node is not leader]
            assert await cluster.leader(others) is not leader
            gaps.append(publishers.longest_gap(stopping, time.monotonic()))
            leader.start()
            await cluster.wait_ready()
    assert publishers.counts["unknown"] <= 8, "a clean stop leaves no client without an answer"
    show("longest time without an acknowledgement around a SIGTERM of the leader", gaps)
    await cluster.verify(ledger, "t")


async def test_an_operator_moves_the_leader_to_each_member_through_each_node_and_publishers_lose_nothing(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    async with Publishers(http, nodes, ledger, topic="t", count=8, pace_seconds=0.01) as publishers:
        for asked in nodes:
            for to in nodes:
                answer = await http.call("POST", f"{asked.url}/v1/cluster/leader", json={"to": to.name})
                assert (answer.status, answer.body["leader"]) == (200, to.name), answer
                await publishers.acknowledged_after(time.monotonic())
    assert publishers.counts["unknown"] == 0, "a change of the leader leaves no client without an answer"
    await cluster.verify(ledger, "t")


async def test_a_node_that_got_sigterm_has_everything_in_its_store_when_it_starts_again(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    for _ in range(20):
        await http.publish(cluster["n1"], "t", ledger.new_payload("m"), ledger=ledger)
    await cluster.converge()
    assert set((await cluster.terminate_all()).values()) == {0}
    cluster.start()
    await cluster.wait_ready()
    assert await cluster.verify(ledger, "t") == 20


async def test_a_node_that_is_told_to_stop_before_it_has_begun_exits_0(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(count=1)
    node = cluster["n1"]
    # As the container's launcher does it: the signal waits until the command can take it, however early it comes.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        node.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    assert await asyncio.to_thread(node.terminate) == 0
    assert "node_started" not in node.log_tail()
    assert not (node.data / "journal").exists()


async def test_three_members_become_five_after_reconfigure(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster = make_cluster(spare=2)
    cluster.start()
    await cluster.wait_ready()
    for _ in range(20):
        await http.publish(cluster["n1"], "t", ledger.new_payload("three"), ledger=ledger)
    await cluster.converge()
    assert set((await cluster.terminate_all()).values()) == {0}

    old = list(cluster.members)
    five = list(cluster.nodes)
    for name in old:
        done = cluster.cli(
            "node", "reconfigure", "--members", ",".join(five), "--data-dir", str(cluster[name].data), typed=f"{name}\n"
        )
        assert done.returncode == 0, done
    cluster.set_members(five)
    cluster.start()
    await cluster.wait_ready()
    assert len(cluster.running) == 5
    # The new members count: two of the old ones may be gone.
    leader = await cluster.leader()
    for name in [name for name in old if cluster[name] is not leader][:2]:
        cluster[name].kill()
    alive = cluster.running
    async with Publishers(http, alive, ledger, topic="t", count=4, pace_seconds=0.01) as publishers:
        await publishers.acknowledged_after(time.monotonic())
    for name in old:
        if not cluster[name].is_running:
            cluster[name].start()
    await cluster.wait_ready()
    await cluster.verify(ledger, "t")


async def test_a_start_whose_members_are_not_those_that_formed_is_refused(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(spare=1)
    cluster.start()
    await cluster.wait_ready()
    await cluster.terminate_all()
    cluster.set_members(list(cluster.nodes))
    node = cluster["n1"]
    node.start()
    code = await asyncio.to_thread(node.wait)
    assert code == 78, node.log_tail()
    assert "reconfigure" in node.log_tail()


async def test_each_node_says_that_it_is_needed_once_one_of_three_is_gone(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster()

    async def all_say(status: int) -> list[str] | None:
        answers = [await http.get(node, "/v1/health/quorum-critical") for node in cluster.running]
        if {answer.status for answer in answers} != {status}:
            return None
        return [reason for answer in answers for reason in ("", *answer.body["reasons"])]

    cluster.start()
    await cluster.wait_ready()
    await until("no node is needed", lambda: all_say(200))
    cluster["n3"].kill()
    reasons = await until("the other two are needed", lambda: all_say(503))
    assert sum("not serving as this node sees it: n3" in reason for reason in reasons) == 2
    cluster["n3"].start()
    await cluster.wait_ready()
    await until("no node is needed", lambda: all_say(200))
