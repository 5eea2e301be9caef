"""Clients of a cluster whose pods are restarted, updated and drained one after the other.

What lives here: what the StatefulSet's controller and `kubectl drain` do to pods, under load.
Rules: order, waits and budget are the rendered ones.
Must not know: how a node hands leadership over.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.clients import Http
from tests.cluster.ledger import Ledger
from tests.cluster.waiting import until
from tests.deploy.pods import Pod, Pods
from tests.deploy.service import Service, Traffic
from tests.deploy.tools import only

MakePods = Callable[[str], Pods]
TOPIC = "t"
PAGE = 1000
RETRYING_RATE = 500
PLAIN_RATE = 50


async def roll(pods: Pods, resources: list[dict[str, Any]]) -> None:
    """As the controller updates: the last pod first, each after the one before was ready for long enough."""
    pods.resources = resources
    stateful = only(resources, "StatefulSet")["spec"]
    assert stateful["updateStrategy"]["type"] == "RollingUpdate"
    for ordinal in reversed(range(stateful["replicas"])):
        assert await pods.pods[f"falconq-{ordinal}"].delete() == 0
        await pods.wait_ready([pods.add(ordinal)])
        await asyncio.sleep(stateful["minReadySeconds"])


def may_evict(pods: Pods) -> bool:
    """Whether the disruption budget allows one pod less."""
    budget = int(only(pods.resources, "PodDisruptionBudget")["spec"]["maxUnavailable"])
    return sum(not pod.is_ready for pod in pods.pods.values()) < budget


async def drain(pods: Pods, pod: Pod) -> float:
    """As `kubectl drain` of the pod's machine: evicted when the budget allows it, and started elsewhere; the wait."""
    asked = time.monotonic()

    async def may_evict_now() -> bool:
        return may_evict(pods)

    await until("the budget allows an eviction", may_evict_now, timeout=120)
    waited = time.monotonic() - asked
    assert await pod.delete() == 0
    await pods.wait_ready([pods.add(int(pod.spec.name.rpartition("-")[2]))])
    return waited


async def check_everywhere(http: Http, pods: Pods, ledger: Ledger) -> None:
    """Every pod has what was acknowledged, once."""
    nodes = list(pods.pods.values())
    views = [(await http.call("GET", f"{pod.url}/v1/cluster")).body for pod in nodes]
    last = str(max(view["commitIndex"] for view in views))
    for pod in nodes:
        messages: list[dict[str, Any]] = []
        while True:
            url = f"{pod.url}/topic/{TOPIC}/peek?offset={len(messages)}&batch={PAGE}"
            page = await http.call("GET", url, headers={"FalconQ-Min-Index": last})
            assert page.status == 200, page
            if not page.body["messages"]:
                break
            messages += page.body["messages"]
        ledger.check(TOPIC, messages, reader=pod.spec.name)


async def test_a_rolling_update_of_all_pods_under_load_fails_no_request_that_is_retried_and_loses_nothing(
    make_pods: MakePods, http: Http, ledger: Ledger
) -> None:
    pods = make_pods("k8s")
    await pods.wait_ready(pods.start())
    updated = copy.deepcopy(pods.resources)
    only(updated, "ConfigMap")["data"]["FALCONQ_LOG_LEVEL"] = "debug"
    async with Service(pods) as service:
        retrying = Traffic(http, service, ledger, topic=TOPIC, rate=RETRYING_RATE, workers=50, does_retry=True)
        plain = Traffic(http, service, ledger, topic=TOPIC, rate=PLAIN_RATE, workers=10, does_retry=False)
        async with retrying, plain:
            await roll(pods, updated)
    print(f"with retries: {retrying}\nwithout: {plain}")
    assert all(pod.spec.environment["FALCONQ_LOG_LEVEL"] == "debug" for pod in pods.pods.values())
    assert not retrying.failed
    assert retrying.took
    assert plain.took
    await check_everywhere(http, pods, ledger)
    assert [pod.restart_count for pod in pods.pods.values()] == [0, 0, 0]


async def test_two_machines_that_are_drained_at_once_give_up_one_pod_after_the_other(
    make_pods: MakePods, http: Http, ledger: Ledger
) -> None:
    pods = make_pods("k8s")
    first, second, _ = members = pods.start()
    await pods.wait_ready(members)
    async with Service(pods) as service:
        traffic = Traffic(http, service, ledger, topic=TOPIC, rate=100, workers=10, does_retry=True)
        async with traffic:
            one = asyncio.create_task(drain(pods, first))
            await asyncio.sleep(0)
            waits = await asyncio.gather(one, drain(pods, second))
    print(f"{traffic}; the second drain waited {waits[1]:.1f} s")
    assert waits[1] > first.spec.pre_stop_seconds
    assert not traffic.failed
    await check_everywhere(http, pods, ledger)
