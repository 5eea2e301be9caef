"""Partitions, by links that the test cuts or holds.

What lives here: the minority acknowledges nothing, healing deposes nobody, and no false success is ever given.
Rules: links heal before the check; what a client was told before is held against what is stored after.
Must not know: how frames look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.clients import Http, Outcome, Publishers
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.processes import Node
from tests.cluster.proxies import Proxies
from tests.cluster.waiting import stays, until

SHORT_WAIT = {"request_timeout_ms": 1500, "no_leader_wait_ms": 1000}
SHORT_LOG = {"flush_entries": 50, "journal_keep_entries": 10, "journal_segment_bytes": 65536}
EXPIRY_SECONDS = 1.0
"""Beyond what an operation outlives its client's deadline: 250 ms, for what two clocks may differ."""
SLOW_SECONDS = 0.04
UNDISTURBED_SECONDS = 1.5
"""Several election timeouts."""


ENTRIES_MIN = 150


def first_segment(node: Node) -> str:
    """Name of the oldest file of the node's journal."""
    return min(path.name for path in (node.data / "journal").glob("*.seg"))


async def start(make_cluster: Callable[..., Cluster], **settings: Any) -> tuple[Cluster, Proxies]:
    cluster = make_cluster(is_proxied=True, **settings)
    cluster.start()
    await cluster.wait_ready()
    assert cluster.proxies is not None
    return cluster, cluster.proxies


async def publish_many(http: Http, node: Node, ledger: Ledger, count: int) -> list[Outcome]:
    return list(
        await asyncio.gather(
            *(http.publish(node, "t", ledger.new_payload(node.name), ledger=ledger) for _ in range(count))
        )
    )


async def leadership(cluster: Cluster, nodes: list[Node]) -> tuple[str, int] | None:
    """Leader and term, when these nodes agree."""
    views = await cluster.views(nodes)
    seen = {(view["leader"], view["term"]) for view in views or []}
    return seen.pop() if len(seen) == 1 and next(iter(seen))[0] is not None else None


@pytest.mark.parametrize("how", ["cut", "held"])
async def test_an_isolated_leader_acknowledges_nothing_and_healing_deposes_nobody(
    how: str, make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster, proxies = await start(make_cluster, **SHORT_WAIT)
    old = await cluster.leader()
    others = [node for node in cluster.nodes.values() if node is not old]
    assert {outcome.kind for outcome in await publish_many(http, old, ledger, 5)} == {"acknowledged"}
    isolated = time.monotonic()
    (proxies.isolate if how == "cut" else proxies.hold_all)(old.name)
    alone, beside = await asyncio.gather(
        publish_many(http, old, ledger, 8), until_acknowledged(http, others[0], ledger)
    )
    print(f"\n{how}: the majority acknowledged {beside - isolated:.2f} s after the partition")
    assert "acknowledged" not in {outcome.kind for outcome in alone}, alone
    new = await until("the majority agrees on a leader", lambda: leadership(cluster, others))
    assert new[0] != old.name
    assert "acknowledged" not in {outcome.kind for outcome in await publish_many(http, old, ledger, 3)}
    assert not await cluster.is_ready(old)
    proxies.heal()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    assert await until("all agree", lambda: leadership(cluster, nodes)) == new

    async def is_undisturbed() -> bool:
        return await leadership(cluster, nodes) == new

    await stays("the leader of the majority leads", is_undisturbed, seconds=UNDISTURBED_SECONDS)
    await cluster.verify(ledger, "t")


async def until_acknowledged(http: Http, node: Node, ledger: Ledger) -> float:
    """When the node acknowledged again."""

    async def probe() -> float | None:
        outcome = await http.publish(node, "t", ledger.new_payload(node.name), ledger=ledger)
        return outcome.ended if outcome.kind == "acknowledged" else None

    return await until(f"{node.name} acknowledges", probe)


@pytest.mark.parametrize("how", ["cut", "held", "one way", "slow"])
async def test_a_follower_that_was_away_or_slow_deposes_no_leader(
    how: str, make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster, proxies = await start(make_cluster, **SHORT_WAIT)
    leader = await cluster.leader()
    followers = await cluster.followers()
    away, beside = followers
    before = await leadership(cluster, [leader, beside])
    async with Publishers(http, [leader, beside], ledger, topic="t", count=4, pace_seconds=0.01) as publishers:
        if how == "slow":
            proxies.delay(cluster.members, SLOW_SECONDS)
        elif how == "one way":  # it hears nothing of the leader, and all hear it
            proxies.hold(leader.name, away.name)
        else:
            (proxies.isolate if how == "cut" else proxies.hold_all)(away.name)

        async def is_undisturbed() -> bool:
            return await leadership(cluster, [leader, beside]) == before

        await stays("the leader leads", is_undisturbed, seconds=UNDISTURBED_SECONDS)
        proxies.heal()
        await cluster.wait_ready()
        await stays("the leader leads", is_undisturbed, seconds=UNDISTURBED_SECONDS)
        await publishers.acknowledged_after(time.monotonic())
    assert publishers.counts["refused"] == 0
    await cluster.verify(ledger, "t")


async def test_a_deposed_leader_with_a_divergent_tail_that_returns_by_snapshot_gives_no_false_success(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster, proxies = await start(make_cluster, **SHORT_LOG, request_timeout_ms=8000, no_leader_wait_ms=1000)
    old = await cluster.leader()
    others = [node for node in cluster.nodes.values() if node is not old]
    await publish_many(http, old, ledger, 5)
    await cluster.converge()
    proxies.hold_all(old.name)
    # These entries are only in the old leader's log, and their clients still wait when it is back.
    waiting = asyncio.create_task(publish_many(http, old, ledger, 20))
    await until_acknowledged(http, others[0], ledger)
    proxies.isolate(old.name)  # a leader keeps for a while what a connected member still needs
    before = {node.name: first_segment(node) for node in others}
    for number in range(1500):  # one by one and long, until the others cut whole segments, beyond the tail
        outcome = await http.publish(others[0], "t", ledger.new_payload("majority" + "x" * 2000), ledger=ledger)
        assert outcome.kind == "acknowledged", outcome
        if number >= ENTRIES_MIN and all(first_segment(node) > before[node.name] for node in others):
            break
    proxies.heal()
    outcomes = await waiting
    await cluster.wait_ready()
    assert await cluster.metric(old, "falconq_raft_installed_snapshots_total") > 0
    print(f"\nwhat the old leader's clients were told: {sorted({outcome.kind for outcome in outcomes})}")
    await cluster.verify(ledger, "t")


async def test_a_consume_that_a_cut_off_follower_still_holds_moves_no_cursor_later(
    make_cluster: Callable[..., Cluster], http: Http, ledger: Ledger
) -> None:
    cluster, proxies = await start(make_cluster, **SHORT_WAIT)
    leader = await cluster.leader()
    follower = (await cluster.followers())[0]
    await publish_many(http, leader, ledger, 10)
    warm_up = await http.get(follower, "/topic/t/consume", consumerID="c", batch=1)
    assert warm_up.body["count"] == 1
    await cluster.converge()

    for how in (proxies.hold_all, proxies.isolate):
        applied = await cluster.converge()

        async def is_cut_off(applied: int = applied) -> bool:
            return bool((await cluster.view(follower) or {})["appliedIndex"] == applied)

        how(follower.name)
        held = await http.get(follower, "/topic/t/consume", consumerID="c", batch=4)
        assert held.status in {503, 504}, held
        assert held.body["code"] in {"no_leader", "not_ready", "expired", "unknown_outcome"}
        await stays("the follower is cut off", is_cut_off, seconds=EXPIRY_SECONDS)
        proxies.heal()
        await cluster.wait_ready()
        # The follower's later commands come behind the held one: with this one, that one is judged too.
        await until_acknowledged(http, follower, ledger)
        await cluster.converge()
    entries = sorted(ledger.acknowledged("t"), key=lambda entry: entry.offset)
    rest = await http.get(leader, "/topic/t/consume", consumerID="c", batch=100)
    assert [message["offset"] for message in rest.body["messages"]] == [entry.offset for entry in entries[1:]]
