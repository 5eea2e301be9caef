"""Every alert is tested, documented, and made of metrics that a node has; the operator of Prometheus would take it."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.prometheus import copy_alerts
from falconq_cluster.telemetry import Metrics
from tests.deploy import crds
from tests.deploy.tools import ROOT, only, render, run, tool

PROMETHEUS = ROOT / "deploy/prometheus"
ALERTS = copy_alerts.ALERTS
METRIC = re.compile(r"\bfalconq_\w+")
COMPONENT = ROOT / "k8s/components/monitoring"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    """Names of all samples that a node shows."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.http_requests.labels("/", "200").inc()
    metrics.http_latency.labels("/").observe(1)
    metrics.show_consumer("t", "c", 0, lag_count=1, oldest_age_s=1)
    return {sample.name for metric in registry.collect() for sample in metric.samples}


@pytest.fixture
def monitored(tmp_path: Path) -> list[dict[str, Any]]:
    """What an overlay with the component renders."""
    overlay = tmp_path / "monitored"
    overlay.mkdir()
    lines = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "falconq",
        "resources": [os.path.relpath(ROOT / "k8s/overlays/prod", overlay)],
        "components": [os.path.relpath(COMPONENT, overlay)],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    return render(str(overlay))


def test_promtool_takes_the_alerts_and_each_fires_when_it_must_and_only_then() -> None:
    run(tool("promtool"), "check", "rules", ALERTS)
    run(tool("promtool"), "test", "rules", PROMETHEUS / "alerts_test.yaml")


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    cases = (PROMETHEUS / "alerts_test.yaml").read_text()
    for rule in rules():
        assert f'alertname="{rule["alert"]}"' in cases, rule["alert"]


def test_each_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in rules():
        assert {"summary", "description", "runbook"} == set(rule["annotations"]), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]


def test_alerts_are_made_of_metrics_that_a_node_has() -> None:
    known = exported()
    for rule in rules():
        for name in METRIC.findall(rule["expr"]):
            assert name in known, f"{rule['alert']} asks for {name}"


def test_the_copies_of_the_alerts_are_as_the_alerts_are() -> None:
    source = ALERTS.read_text()
    how = "run: python deploy/prometheus/copy_alerts.py"
    assert copy_alerts.RULE.read_text() == copy_alerts.prometheus_rule(source), how
    text = copy_alerts.GUIDE.read_text()
    assert text == copy_alerts.guide(text, source), how
    assert yaml.safe_load(copy_alerts.RULE.read_text())["spec"] == yaml.safe_load(source)


def test_the_monitoring_component_fits_the_definitions_of_the_prometheus_operator(
    monitored: list[dict[str, Any]],
) -> None:
    customs = [resource for resource in monitored if resource["apiVersion"].startswith("monitoring.")]
    assert sorted(resource["kind"] for resource in customs) == ["PrometheusRule", "ServiceMonitor"]
    for resource in customs:
        assert crds.mistakes(resource) == []
        assert resource["metadata"]["namespace"] == "falconq"
        wrong = copy.deepcopy(resource)
        wrong["spec"]["intervall"] = "15s"
        assert crds.mistakes(wrong), "a field that nobody knows is found"


def test_the_monitor_scrapes_all_members_also_those_that_are_not_ready(monitored: list[dict[str, Any]]) -> None:
    spec = only(monitored, "ServiceMonitor")["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    services = [resource for resource in monitored if resource["kind"] == "Service"]
    (service,) = [one for one in services if wanted <= one["metadata"]["labels"].items()]
    assert service["spec"]["publishNotReadyAddresses"] is True
    (endpoint,) = spec["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
