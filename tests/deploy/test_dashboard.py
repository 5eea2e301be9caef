"""Prometheus, set up as for compose, scrapes a loaded cluster, and every expression of the dashboard has data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from deploy.grafana import build_dashboard
from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node, free_ports
from tests.cluster.waiting import until
from tests.deploy.tools import ROOT, running, tool

CONFIGURATION = ROOT / "deploy/prometheus/prometheus.yml"
ANSWER_SECONDS = 15.0


def dashboard() -> dict[str, Any]:
    return dict(json.loads(build_dashboard.TARGET.read_text()))


def expressions() -> dict[str, str]:
    """Panel and legend -> expression, with the variables filled in."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "10s").replace("$job", "falconq")
            found[f"{panel['title']}: {target['legendFormat']}"] = text
    return found


def test_the_dashboard_is_as_its_source_builds_it() -> None:
    assert build_dashboard.TARGET.read_text() == build_dashboard.overview(), (
        "run: python deploy/grafana/build_dashboard.py"
    )


def test_every_panel_asks_something_of_the_chosen_data_source() -> None:
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"] or panel["title"]


def test_grafana_finds_the_dashboard_and_its_data_source_where_they_are_provisioned() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/falconq.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    compose = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())["services"]
    mounts = dict(mount.split(":")[:2] for mount in compose["grafana"]["volumes"])
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    assert compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == (
        f"{provider['options']['path']}/{build_dashboard.TARGET.name}"
    )
    assert source["url"] == "http://prometheus:9090"


def configuration(nodes: list[Node]) -> dict[str, Any]:
    """The one of compose, with these nodes, and looking more often."""
    made = yaml.safe_load(CONFIGURATION.read_text())
    made["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    made["rule_files"] = [str(CONFIGURATION.parent / name) for name in made["rule_files"]]
    (job,) = made["scrape_configs"]
    (static,) = job["static_configs"]
    assert len(static["targets"]) == len(nodes)
    static["targets"] = [node.url.removeprefix("http://") for node in nodes]
    return dict(made)


@pytest.fixture
async def loaded(tmp_path: Path, http: Http) -> AsyncIterator[Cluster]:
    """A cluster whose clients publish and consume on every level, as long as the test runs."""
    cluster = Cluster(tmp_path / "cluster", http)
    try:
        cluster.start()
        await cluster.wait_ready()
        work = [asyncio.create_task(_work(http, node)) for node in cluster.nodes.values()]
        yield cluster
        for task in work:
            task.cancel()
        ended = await asyncio.gather(*work, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    finally:
        cluster.close(is_kept=False)


async def _work(http: Http, node: Node) -> None:
    number = 0
    while True:
        number += 1
        priority = "high" if number % 3 == 0 else "low"
        assert (await http.publish(node, "orders", f"{node.name}-{number}", priority=priority)).kind == "acknowledged"
        if number % 5 == 0:
            assert (await http.get(node, "/topic/orders/consume", consumerID="billing", batch=10)).status == 200


@pytest.fixture
def prometheus(loaded: Cluster, tmp_path: Path) -> Iterator[str]:
    """Where a Prometheus answers that scrapes the cluster."""
    (port,) = free_ports(1)
    file, log = tmp_path / "prometheus.yml", tmp_path / "prometheus.log"
    file.write_text(yaml.safe_dump(configuration(list(loaded.nodes.values()))))
    words = [tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with log.open("wb") as output, running([*words, f"--web.listen-address=127.0.0.1:{port}"], output=output):
        yield f"http://127.0.0.1:{port}"
    print(log.read_text()[-2000:])


async def fetch(url: str, **parameters: str) -> tuple[int, Any]:
    """Status and JSON, if it is some, of Prometheus' answer."""
    limit = aiohttp.ClientTimeout(ANSWER_SECONDS)
    async with aiohttp.request("GET", url, params=parameters, timeout=limit) as answer:
        return answer.status, await answer.json() if answer.content_type == "application/json" else None


async def ask(prometheus: str, expression: str) -> list[dict[str, Any]]:
    status, body = await fetch(f"{prometheus}/api/v1/query", query=expression)
    assert status == 200, f"{expression}: {body}"
    return list(body["data"]["result"])


async def without_data(prometheus: str) -> dict[str, str]:
    """The expressions that have no answer, or one that is no number."""
    missing = {}
    for name, expression in expressions().items():
        samples = await ask(prometheus, expression)
        if not samples or any(sample["value"][1] == "NaN" for sample in samples):
            missing[name] = expression
    return missing


async def test_every_expression_of_the_dashboard_and_the_alerts_has_an_answer_from_a_loaded_cluster(
    prometheus: str,
) -> None:
    async def answers() -> bool:
        try:
            return (await fetch(f"{prometheus}/-/ready"))[0] == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def all_have_data() -> bool:
        return not await without_data(prometheus)

    await until("Prometheus answers", answers)
    try:
        await until("every expression has data", all_have_data)
    except TimeoutError:
        pytest.fail(f"without data: {await without_data(prometheus)}")
    assert len(await ask(prometheus, "falconq_raft_is_leader")) == 3
    published = await ask(prometheus, expressions()["Published, by level: level {{level}}"])
    busy = {sample["metric"]["level"] for sample in published if float(sample["value"][1]) > 0}
    assert busy == {"0", "1"}
    assert await ask(prometheus, 'ALERTS{alertstate="firing"}') == []
    _, rules = await fetch(f"{prometheus}/api/v1/rules")
    assert {rule["health"] for rule in rules["data"]["groups"][0]["rules"]} == {"ok"}
