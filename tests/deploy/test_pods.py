"""Pods that run exactly as rendered are a cluster, and the probes mean what they say.

What lives here: the rendered StatefulSet with processes for containers and network namespaces for pods.
Rules: nothing is set that was not rendered; a probe's times are the rendered ones.
Must not know: how a node decides that it is ready.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable

import pytest

from tests.cluster.clients import Answer, Http
from tests.cluster.waiting import until
from tests.deploy.pods import Pod, Pods
from tests.deploy.podspec import ConfigError, pod_spec
from tests.deploy.tools import render

MakePods = Callable[[str], Pods]


async def publish(http: Http, pod: Pod, *texts: str) -> int:
    """Publishes each; the largest log index."""
    url = f"{pod.url}/topic/t/publish"
    answers = await asyncio.gather(*(http.call("POST", url, json={"message": text}) for text in texts))
    assert {answer.status for answer in answers} == {200}, answers
    return max(int(answer.body["index"]) for answer in answers)


async def cluster_view(http: Http, pod: Pod) -> Answer:
    return await http.call("GET", f"{pod.url}/v1/cluster")


async def count_of(http: Http, pod: Pod) -> int:
    answer = await http.call("GET", f"{pod.url}/topics/t/partitions")
    return int(answer.body["partitions"][0]["nextOffset"])


async def test_pods_as_rendered_form_a_cluster_and_one_that_moves_to_another_address_is_found(
    make_pods: MakePods, http: Http
) -> None:
    pods = make_pods("k8s")
    first, second, third = members = pods.start()
    print(f"ready after {await pods.wait_ready(members):.1f} s")
    await publish(http, first, "before")
    view = (await cluster_view(http, second)).body
    assert {node["httpAddress"] for node in view["nodes"]} == {f"{pod.spec.name}.falconq-peers:8080" for pod in members}
    old, started = third.address, time.monotonic()
    assert await third.delete() == 0
    stopped = time.monotonic() - started
    assert stopped < third.spec.pre_stop_seconds + 10
    third = pods.add(2)
    assert third.address != old
    ready = await pods.wait_ready([third])
    print(f"a deleted pod ended after {stopped:.1f} s, and was ready elsewhere after {ready:.1f} s")
    index = await publish(http, third, "after")
    seen = await http.call("GET", f"{first.url}/topic/t/peek?batch=10", headers={"FalconQ-Min-Index": str(index)})
    assert [message["message"] for message in seen.body["messages"]] == ["before", "after"]
    assert [pod.restart_count for pod in pods.pods.values()] == [0, 0, 0]


async def test_a_stopped_process_becomes_not_ready_is_restarted_and_comes_back(make_pods: MakePods, http: Http) -> None:
    pods = make_pods("k8s")
    members = pods.start()
    await pods.wait_ready(members)
    await publish(http, members[0], "kept")
    hung = members[0]
    hung.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()

    async def is_unready() -> bool:
        return not hung.is_ready

    async def is_restarted() -> bool:
        return hung.restart_count == 1

    await until("the pod is not ready", is_unready)
    unready = time.monotonic() - stopped
    assert hung.restart_count == 0, "out of the endpoints first"
    await until("the pod is restarted", is_restarted, timeout=90)
    print(f"a stopped process was not ready after {unready:.1f} s, restarted after {time.monotonic() - stopped:.1f} s")
    assert hung.exit_codes == [-signal.SIGKILL]
    await pods.wait_ready(members)
    assert await count_of(http, hung) == 1
    assert [pod.restart_count for pod in members] == [1, 0, 0]


async def test_a_node_without_a_quorum_stays_alive_and_not_ready(make_pods: MakePods, http: Http) -> None:
    pods = make_pods("k8s")
    left, *others = members = pods.start()
    await pods.wait_ready(members)
    for pod in others:
        await pod.kill()

    async def is_unready() -> bool:
        return not left.is_ready

    await until("the pod is not ready", is_unready)
    liveness = left.spec.probes["liveness"]
    enough = (liveness.failure_threshold + 1) * (liveness.period_seconds + liveness.timeout_seconds)
    until_then = time.monotonic() + enough

    async def is_over() -> bool:
        assert not left.is_ready
        assert left.restart_count == 0
        return time.monotonic() > until_then

    await until("liveness was asked often enough to restart", is_over, timeout=enough + 10)
    assert (await http.call("GET", f"{left.url}/livez")).status == 200
    answer = await http.call("GET", f"{left.url}/readyz")
    assert answer.status == 503
    print(f"not ready because: {answer.body['reasons']}")
    pods.add(1)
    await pods.wait_ready([left])
    assert left.restart_count == 0


async def test_a_node_that_lags_is_not_ready_until_it_has_caught_up(make_pods: MakePods, http: Http) -> None:
    pods = make_pods("k8s")
    first, _, third = members = pods.start()
    await pods.wait_ready(members)
    await third.kill()
    for number in range(20):
        await publish(http, first, *(f"{number}-{place}-" + "x" * 2000 for place in range(200)))
    before = (await cluster_view(http, first)).body["commitIndex"]
    third = pods.add(2)

    async def is_up() -> Answer | None:
        return await http.call("GET", f"{third.url}/readyz") if third.process.poll() is None else None

    refusals: list[str] = []

    async def is_ready() -> bool:
        try:
            view = (await cluster_view(http, third)).body
            answer = await is_up()
        except OSError:
            return False
        assert answer is not None
        if answer.status == 200:
            view = (await cluster_view(http, third)).body
            assert view["appliedIndex"] >= before, "ready before it had caught up"
            return True
        refusals.extend(answer.body["reasons"])
        return False

    await until("the pod is ready", is_ready, timeout=60)
    assert refusals, "it said that it was not ready yet"
    print(f"while it lagged: {sorted(set(refusals))}")
    assert await count_of(http, third) == 4000


async def test_a_pod_whose_volume_was_deleted_is_ready_again_once_it_has_everything(
    make_pods: MakePods, http: Http
) -> None:
    pods = make_pods("k8s")
    first, second, third = members = pods.start()
    await pods.wait_ready(members)
    await publish(http, first, *(f"kept-{number}" for number in range(200)))
    assert await second.delete() == 0
    shutil.rmtree(second.volume)
    second = pods.add(1)

    async def is_ready() -> bool:
        if second.is_ready:
            assert await count_of(http, second) == 200, "ready before it had everything"
        return second.is_ready

    await until("the pod is ready", is_ready, timeout=60)
    # Its disk counts: with it and one other there is a majority.
    await third.kill()
    await publish(http, second, "after")
    assert await count_of(http, first) == 201


async def test_a_pod_that_kubectl_scale_adds_is_no_member_and_says_so(make_pods: MakePods) -> None:
    pods = make_pods("k8s")
    stranger = pods.add(3)

    async def has_ended() -> bool:
        return bool(stranger.exit_codes)

    await until("the pod ended", has_ended)
    assert stranger.exit_codes[0] == 78
    assert "node_id is 'falconq-3', but peers has only falconq-0, falconq-1, falconq-2" in stranger.log.read_text()


def test_a_pod_waits_for_the_secret_and_names_it() -> None:
    with pytest.raises(ConfigError, match='secret "falconq-cluster-secret" not found'):
        pod_spec(render("k8s"), "falconq-0", secrets={}, address="")
