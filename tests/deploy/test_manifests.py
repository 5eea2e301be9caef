"""Kubernetes would take what is rendered, and it says what the guide says."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from falconq_cluster.config import parse_peers
from tests.deploy.tools import ROOT, only, render, run, tool

OVERLAYS = (
    "k8s",
    "k8s/overlays/prod",
    "k8s/overlays/five",
    "k8s/overlays/dev",
    "k8s/overlays/chaos",
    "k8s/overlays/eks",
    "k8s/three-to-five",
)
CLUSTERS = {"k8s": 3, "k8s/overlays/five": 5, "k8s/overlays/dev": 1}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_renders_and_fits_the_schema_of_kubernetes_strictly(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(render(overlay)))
    run(tool("kubernetes-validate"), "--strict", "-k", "1.32", file)


def test_checkov_finds_nothing_but_what_has_a_reason(tmp_path: Path) -> None:
    files: list[str | Path] = []
    for number, overlay in enumerate(OVERLAYS):
        file = tmp_path / f"{number}-{overlay.rpartition('/')[2]}.yaml"
        file.write_text(yaml.safe_dump_all(render(overlay)))
        files += ["-f", file]
    run(tool("checkov"), "--config-file", ROOT / "k8s/checkov.yaml", *files)


def test_yamllint_finds_nothing() -> None:
    run(tool("yamllint"), "--strict", "-c", ROOT / ".yamllint.yaml", "k8s", "deploy")


def test_what_is_applied_from_the_top_is_the_production_overlay() -> None:
    assert render("k8s") == render("k8s/overlays/prod")


@pytest.mark.parametrize(("overlay", "count"), CLUSTERS.items())
def test_members_are_named_one_by_one_and_are_as_many_as_the_replicas(overlay: str, count: int) -> None:
    resources = render(overlay)
    stateful = only(resources, "StatefulSet")["spec"]
    peers = parse_peers(only(resources, "ConfigMap")["data"]["FALCONQ_PEERS"])
    assert stateful["replicas"] == len(peers) == count
    service = stateful["serviceName"]
    for number, (name, address) in enumerate(peers.items()):
        assert name == f"falconq-{number}"
        assert str(address) == f"{name}.{service}:7000"


def test_peers_are_found_before_they_are_ready_and_clients_only_find_ready_ones() -> None:
    resources = render("k8s")
    peers = only(resources, "Service", "falconq-peers")["spec"]
    assert peers["clusterIP"] == "None"
    assert peers["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in only(resources, "Service")["spec"]


def test_only_members_reach_the_raft_port() -> None:
    rules = only(render("k8s"), "NetworkPolicy")["spec"]["ingress"]
    raft = [rule for rule in rules if any(port["port"] == "raft" for port in rule["ports"])]
    selector = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "falconq"}}}
    assert [rule["from"] for rule in raft] == [[selector]]


def test_a_pod_has_time_for_a_clean_stop_and_a_hung_one_is_not_waited_for() -> None:
    pod = only(render("k8s"), "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    # docs/configuration.md: drain_ms and ten seconds more.
    assert pod["terminationGracePeriodSeconds"] >= pause + 5 + 10
    assert container["livenessProbe"]["terminationGracePeriodSeconds"] <= 5


def test_the_jobs_from_three_to_five_name_the_members_of_the_overlay_of_five_and_the_volumes_of_three() -> None:
    peers = parse_peers(only(render("k8s/overlays/five"), "ConfigMap")["data"]["FALCONQ_PEERS"])
    stateful = only(render("k8s"), "StatefulSet")["spec"]
    (template,) = stateful["volumeClaimTemplates"]
    jobs = [job for job in render("k8s/three-to-five") if job["kind"] == "Job"]
    for number, job in enumerate(jobs):
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert {"name": "MEMBERS", "value": ",".join(peers)} in container["env"]
        assert {"name": "NODE", "value": f"falconq-{number}"} in container["env"]
        claim = pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
        assert claim == f"{template['metadata']['name']}-falconq-{number}"
        labels = job["spec"]["template"]["metadata"]["labels"].items()
        assert not stateful["selector"]["matchLabels"].items() <= labels, "no service leads to it"
    assert len(jobs) == stateful["replicas"]


def test_on_eks_a_stopping_pod_serves_on_until_the_load_balancer_has_noticed() -> None:
    resources = render("k8s/overlays/eks")
    notes = only(resources, "Service", "falconq-lb")["metadata"]["annotations"]
    prefix = "service.beta.kubernetes.io/aws-load-balancer"
    notices = int(notes[f"{prefix}-healthcheck-interval"]) * int(notes[f"{prefix}-healthcheck-unhealthy-threshold"])
    pod = only(resources, "StatefulSet")["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause > notices
    assert pod["terminationGracePeriodSeconds"] >= pause + 5 + 10
    (claim,) = only(resources, "StatefulSet")["spec"]["volumeClaimTemplates"]
    storage = only(resources, "StorageClass", claim["spec"]["storageClassName"])
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"
    assert notes[f"{prefix}-scheme"] == "internal"


def test_the_storage_class_of_the_guide_is_that_of_the_overlay() -> None:
    guide = (ROOT / "docs/eks.md").read_text()
    block = guide[guide.index("    apiVersion:") : guide.index("\n\n- `WaitForFirstConsumer`")]
    shown = yaml.safe_load(textwrap.dedent(block))
    assert shown == only(render("k8s/overlays/eks"), "StorageClass")


def test_no_secret_is_in_the_repository() -> None:
    for overlay in OVERLAYS:
        assert not [resource for resource in render(overlay) if resource["kind"] == "Secret"]
