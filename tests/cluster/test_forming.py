"""A cluster that is killed while it forms.

What lives here: PROTOCOL.md P5 on real processes.
Rules: the shim kills a node in place of its N-th durable step, for every N until forming needs no more steps.
Must not know: which steps there are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger
from tests.cluster.waiting import until

STEPS_MIN = 5
"""Identity, journal, term and vote, the formed entry: fewer would mean that the shim saw nothing."""
STEPS_MAX = 60


async def formed(cluster: Cluster, http: Http, ledger: Ledger) -> None:
    await cluster.wait_ready()
    for node in cluster.running:
        outcome = await http.publish(node, "t", ledger.new_payload(node.name), ledger=ledger)
        assert outcome.kind == "acknowledged", outcome
    views = await cluster.views()
    assert views is not None
    assert len({view["clusterID"] for view in views}) == 1


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


async def test_killing_every_node_at_every_durable_step_of_forming_still_ends_in_a_cluster(
    make_cluster: Callable[..., Cluster], http: Http, sync_shim: Path
) -> None:
    step = 0
    has_died = True
    while has_died:
        step += 1
        assert step < STEPS_MAX, "forming never ends"
        ledger = Ledger()
        cluster = make_cluster(preload=sync_shim)
        for node in cluster.nodes.values():
            node.start(SYNC_SHIM_KILL_AT=str(step))
        has_died = await _restart_the_dead(cluster)
        await formed(cluster, http, ledger)
        cluster.close()
    print(f"\nforming was killed at each of {step - 1} durable steps")
    assert step > STEPS_MIN


async def _restart_the_dead(cluster: Cluster) -> bool:
    """Each node that its shim killed is started once more, until the cluster is ready; whether one died."""
    alive = {name: cluster[name] for name in cluster.members}
    dead: set[str] = set()

    async def probe() -> bool:
        for name, node in alive.items():
            if not node.is_running and name not in dead:
                dead.add(name)
                node.start()
        return all([await cluster.is_ready(node) for node in alive.values()])

    await until("the cluster is ready", probe)
    return bool(dead)
