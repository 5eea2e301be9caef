"""A cluster that is killed while it forms.

What lives here: PROTOCOL.md P5 on real processes.
Rules: the shim kills a node in place of its N-th durable step, for every N until forming needs no more steps.
Must not know: which steps there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.waiting import until

STEPS_MIN = 5
"""Identity, journal, term and vote, the formed entry: fewer would mean that the shim saw nothing."""
STEPS_MAX = 60


async def test_two_of_three_form_nothing_and_say_whom_they_miss(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.start("n1", "n2")

    async def names_the_missing() -> bool:
        answers = [await cluster.readiness(cluster[name]) for name in ("n1", "n2")]
        return all(answer.status == 503 and "has not heard n3:" in str(answer.body) for answer in answers)

    await until("readyz names who is missing", names_the_missing)
    cluster.start("n3")
    await cluster.wait_ready()


async def test_killing_a_node_at_every_durable_step_of_forming_still_ends_in_a_cluster(
    make_cluster: Callable[..., Cluster], http: Http, sync_shim: Path
) -> None:
    """Each round kills each node once, at three steps that follow each other; the nodes take turns at going first."""
    step = 0
    has_died = True
    while has_died:
        assert step < STEPS_MAX, "forming never ends"
        cluster = make_cluster(preload=sync_shim)
        names = deque(cluster.members)
        names.rotate(step // len(names))
        for number, name in enumerate(names, start=step + 1):
            cluster[name].start(SYNC_SHIM_KILL_AT=str(number))
        has_died = await _survives(cluster, http)
        cluster.close()
        step += len(names) if has_died else 0
    print(f"\nforming was killed at each of its {step} durable steps")
    assert step > STEPS_MIN


async def _survives(cluster: Cluster, http: Http) -> bool:
    """Restarts each node that its shim killed until the cluster acknowledges; whether one died before it was ready."""
    nodes = [cluster[name] for name in cluster.members]
    dead: set[str] = set()
    ledger = Ledger()

    async def restart_the_dead() -> None:
        for node in nodes:
            if not node.is_running:
                assert node.name not in dead, node.log_tail()
                dead.add(node.name)
                node.start()

    async def is_ready() -> bool:
        await restart_the_dead()
        return all([await cluster.is_ready(node) for node in nodes])

    async def is_acknowledged() -> bool:
        await restart_the_dead()
        outcome = await http.publish(nodes[0], "t", ledger.new_payload("m"), ledger=ledger)
        return outcome.kind == "acknowledged"

    await until("the cluster is ready", is_ready)
    has_died = bool(dead)
    await until("the cluster acknowledges", is_acknowledged)
    for node in nodes:
        if node.name not in dead:  # its step may still come, at any moment while it is looked at
            node.kill()
    await until("the cluster is ready", is_ready)
    views = await cluster.views(nodes)
    assert views is not None
    assert len({view["clusterID"] for view in views}) == 1
    for node in nodes:
        ledger.check("t", await cluster.read_all(node, "t"), reader=node.name)
    return has_died
