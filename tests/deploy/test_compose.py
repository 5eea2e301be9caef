"""The compose file is one that docker-compose takes, and its three nodes are a cluster."""

from __future__ import annotations

import subprocess
from asyncio import to_thread
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from falconq_cluster.config import parse_peers
from tests.cluster.clients import Http
from tests.cluster.processes import free_ports
from tests.cluster.waiting import until
from tests.deploy.containers import IMAGE, Podman
from tests.deploy.tools import ROOT, run, tool

COMPOSE = ROOT / "deploy/compose/compose.yaml"
NODES = ("falconq-0", "falconq-1", "falconq-2")


@dataclass(frozen=True)
class Published:
    """A node as it is reached on this machine."""

    name: str
    url: str


def resolved() -> dict[str, Any]:
    """What docker-compose makes of the file."""
    text = run(tool("docker-compose"), "-f", COMPOSE, "config", FALCONQ_CLUSTER_SECRET="made-for-this-test")
    return dict(yaml.safe_load(text))


def test_the_file_is_taken_but_not_without_a_secret() -> None:
    assert set(resolved()["services"]) == {*NODES, "prometheus", "grafana"}
    refused = subprocess.run(
        [tool("docker-compose"), "-f", COMPOSE, "config"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    assert "set it first, as docs/operating.md shows" in refused.stderr


def test_nodes_name_each_other_and_prometheus_scrapes_them_all() -> None:
    services = resolved()["services"]
    for name in NODES:
        environment = services[name]["environment"]
        assert environment["FALCONQ_NODE_ID"] == name
        assert {key: str(at) for key, at in parse_peers(environment["FALCONQ_PEERS"]).items()} == {
            node: f"{node}:7000" for node in NODES
        }
        assert all(str(port).startswith("127.0.0.1:") for port in services[name]["ports"])
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert jobs[0]["static_configs"][0]["targets"] == [f"{node}:8080" for node in NODES]


def test_what_is_mounted_is_there() -> None:
    for service in resolved()["services"].values():
        for mount in service.get("volumes", []):
            source = str(mount).split(":")[0]
            if "/" in source:
                assert Path(source).exists(), source


@pytest.fixture
def socket(podman: Podman) -> Iterator[str]:
    """Where podman answers as docker does."""
    path = podman.directory / "docker.sock"
    with podman.serving(path):
        yield f"unix://{path}"


async def test_three_nodes_of_the_file_are_a_cluster(podman: Podman, socket: str, http: Http, tmp_path: Path) -> None:
    made = resolved()
    ports = free_ports(len(NODES))
    made["services"] = {name: made["services"][name] for name in NODES}
    for name, port in zip(NODES, ports, strict=True):
        service = made["services"][name]
        del service["build"]
        service |= {"image": IMAGE, "ports": [f"127.0.0.1:{port}:8080"], "restart": "no"}
    file = tmp_path / "compose.yaml"
    file.write_text(yaml.safe_dump(made))
    compose = (tool("docker-compose"), "--project-name", podman.network, "-f", str(file))
    nodes = [Published(name, f"http://127.0.0.1:{port}") for name, port in zip(NODES, ports, strict=True)]

    async def are_ready() -> bool:
        answers = [await http.ask(node, "/readyz") for node in nodes]
        return all(answer is not None and answer.status == 200 for answer in answers)

    try:
        await to_thread(run, *compose, "up", "--detach", DOCKER_HOST=socket)
        await until("all nodes are ready", are_ready, timeout=60)
        published = await http.publish(nodes[0], "t", "hello")
        assert published.kind == "acknowledged", published
        taken = await http.get(nodes[2], "/topic/t/consume", consumerID="c", waitMs=5000)
        assert [message["message"] for message in taken.body["messages"]] == ["hello"]
    finally:
        await to_thread(run, *compose, "down", "--volumes", "--timeout", "10", DOCKER_HOST=socket)
