"""Containers of the image are a cluster, whatever is done to one of them."""

from __future__ import annotations

import time
from asyncio import to_thread
from collections.abc import AsyncIterator

import pytest

from tests.cluster.clients import Http, Publishers
from tests.cluster.ledger import Ledger
from tests.cluster.waiting import until
from tests.deploy.containers import BASE, IMAGE, Container, Podman, cluster_of

TOPIC = "t"
PAGE = 1000
IMAGE_BYTES_MAX = 80_000_000
"""What the image has beyond its base."""
GRACE_SECONDS = 10


@pytest.fixture(scope="module")
def members(podman: Podman) -> list[Container]:
    nodes = cluster_of(podman, "falconq-0", "falconq-1", "falconq-2")
    for node in nodes:
        node.run(*node.join(podman.network))
        node.find()
    return nodes


@pytest.fixture
async def running(members: list[Container], http: Http) -> AsyncIterator[list[Container]]:
    await wait_ready(http, members)
    yield members
    for node in members:
        print(f"--- {node.name}\n{node.log[-2000:]}")


async def wait_ready(http: Http, nodes: list[Container]) -> None:
    async def probe() -> bool:
        answers = [await http.ask(node, "/readyz") for node in nodes]
        return all(answer is not None and answer.status == 200 for answer in answers)

    await until(f"{[node.name for node in nodes]} are ready", probe, timeout=60)


async def leader_of(http: Http, nodes: list[Container]) -> Container:
    async def probe() -> Container | None:
        for node in nodes:
            answer = await http.ask(node, "/v1/cluster")
            name = None if answer is None else answer.body["leader"]
            if name is not None:
                return next(one for one in nodes if one.name == name)
        return None

    return await until("a leader", probe)


async def check_everywhere(http: Http, nodes: list[Container], ledger: Ledger) -> None:
    """Every node has what was acknowledged, once; and nothing that was refused."""
    views = [(await http.get(node, "/v1/cluster")).body for node in nodes]
    last = max(int(view["commitIndex"]) for view in views)
    for node in nodes:
        messages: list[dict[str, object]] = []
        while True:
            path = f"{node.url}/topic/{TOPIC}/peek?offset={len(messages)}&batch={PAGE}"
            page = await http.call("GET", path, headers={"FalconQ-Min-Index": str(last)})
            assert page.status == 200, page
            if not page.body["messages"]:
                break
            messages += page.body["messages"]
        ledger.check(TOPIC, messages, reader=node.name)


def test_the_image_is_small_and_holds_nothing_to_install_with(podman: Podman) -> None:
    image, base = podman.inspect(IMAGE), podman.inspect(BASE)
    own = image["Size"] - base["Size"]
    print(f"the image has {image['Size'] / 1e6:.0f} MB, {own / 1e6:.0f} MB of them beyond its base")
    assert own < IMAGE_BYTES_MAX
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Labels"]["org.opencontainers.image.version"]
    look = "id -u; for name in pip pip3 gcc cc make git curl; do command -v $name; done; true"
    assert podman("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", look) == "10001"


async def test_three_containers_lose_nothing_when_one_is_killed_paused_cut_off_or_moved(
    running: list[Container], http: Http, ledger: Ledger
) -> None:
    async with Publishers(http, running, ledger, topic=TOPIC, count=6, pace_seconds=0.01) as publishers:
        await publishers.acknowledge(50)
        started = time.monotonic()
        leader = await leader_of(http, running)
        await to_thread(leader.podman, "kill", leader.name)
        await to_thread(leader.leave_network)
        await publishers.acknowledge(50)
        await to_thread(leader.rejoin_network)
        await to_thread(leader.start)
        await wait_ready(http, running)

        paused = await leader_of(http, running)
        await to_thread(paused.podman, "pause", paused.name)
        await publishers.acknowledge(50)
        await to_thread(paused.podman, "unpause", paused.name)
        await wait_ready(http, running)

        cut = await leader_of(http, running)
        await to_thread(cut.leave_network)
        await publishers.acknowledge(50)
        await to_thread(cut.rejoin_network)
        await wait_ready(http, running)
        await publishers.acknowledge(50)
        ended = time.monotonic()
    print(f"{publishers.counts}, longest time without an answer {publishers.longest_gap(started, ended):.2f} s")
    await check_everywhere(http, running, ledger)
    consumed = await http.get(running[0], f"/topic/{TOPIC}/consume", consumerID="c", batch=10)
    assert consumed.body["count"] == 10


async def test_a_leader_that_is_stopped_hands_over_first_and_exits_0_within_the_grace_period(
    running: list[Container], http: Http, ledger: Ledger
) -> None:
    leader = await leader_of(http, running)
    others = [node for node in running if node is not leader]
    async with Publishers(http, others, ledger, topic="u", count=6, pace_seconds=0.005) as publishers:
        await publishers.acknowledge(100)
        started = time.monotonic()
        code, took = await to_thread(leader.stop, GRACE_SECONDS)
        await publishers.acknowledge(100)
        ended = time.monotonic()
    assert (code, "leadership_moved" in leader.log) == (0, True)
    assert took < GRACE_SECONDS
    assert publishers.counts["refused"] == publishers.counts["unknown"] == 0
    gap = publishers.longest_gap(started, ended)
    print(f"a leader stopped within {took:.1f} s; its clients' longest wait was {1000 * gap:.0f} ms")
    leader.start()
    await wait_ready(http, running)


async def test_the_health_check_passes_on_a_running_node_and_fails_where_nobody_answers(
    running: list[Container], podman: Podman
) -> None:
    node = running[0]
    assert podman.attempt("healthcheck", "run", node.name).returncode == 0
    elsewhere = ("exec", "--env", "FALCONQ_HTTP_ADDRESS=0.0.0.0:9", node.name)
    command = podman.inspect(node.name)["Config"]["Healthcheck"]["Test"]
    assert command[0] == "CMD"
    assert podman.attempt("exec", node.name, *command[1:]).returncode == 0
    assert podman.attempt(*elsewhere, *command[1:]).returncode != 0


@pytest.mark.parametrize("delay_seconds", [0.0, 0.15, 0.4])
def test_a_container_that_is_stopped_while_it_starts_exits_0_at_once(podman: Podman, delay_seconds: float) -> None:
    """As process 1 it would ignore SIGTERM until a handler is set."""
    node = Container(podman, "early", {"FALCONQ_INSECURE": "true"})
    node.run()
    time.sleep(delay_seconds)  # not a wait for something: the moment of the signal is what the cases differ in
    code, took = node.stop(GRACE_SECONDS)
    podman("rm", "--force", "--volumes", node.name)
    print(f"stopped {delay_seconds} s after its start: exit code {code} after {took:.1f} s")
    # After its grace period it would have been killed: 137.
    assert code == 0
