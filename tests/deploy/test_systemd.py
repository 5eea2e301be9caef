"""The systemd unit is well formed, and what it forbids a node does not need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from falconq_cluster.config import load_settings
from tests.cluster.clients import Http
from tests.cluster.processes import Node, free_ports
from tests.cluster.waiting import until
from tests.deploy.tools import ROOT, run, tool

UNIT = ROOT / "deploy/systemd/falconq.service"
EXPOSURE_MAX = 2.0
"""systemd's own mark: 0 is a unit that may do nothing, 10 one that may do everything."""
CALL = re.compile(r"^\d+ +(\w+)\(", re.MULTILINE)
STARTED_BY_SYSTEMD = {"execve", "exit", "exit_group"}


def installed(directory: Path) -> Path:
    """The unit, with a program that is there."""
    path = directory / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/falconq/bin/falconq", "/bin/true"))
    return path


def allowed_calls() -> set[str]:
    """What SystemCallFilter leaves, groups resolved as systemd does it."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        names = {name for group in line.removeprefix("~").split() for name in calls_of(group)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def calls_of(group: str) -> set[str]:
    if not group.startswith("@"):
        return {group}
    lines = run(tool("systemd-analyze"), "syscall-filter", group).splitlines()[1:]
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return {name for word in words for name in calls_of(word)}


def test_systemd_takes_the_unit_and_finds_it_well_confined(tmp_path: Path) -> None:
    unit = installed(tmp_path)
    assert run(tool("systemd-analyze"), "verify", unit) == ""
    marked = run(tool("systemd-analyze"), "security", "--offline=true", unit)
    mark = re.search(r"Overall exposure level for falconq.service: ([\d.]+)", marked)
    assert mark is not None
    assert float(mark[1]) <= EXPOSURE_MAX, marked


def test_the_settings_of_the_guide_and_of_the_unit_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs/operating.md").read_text()
    lines = re.findall(r"^    (FALCONQ_\w+)=(.*)$", guide, re.MULTILINE)
    lines += re.findall(r"^Environment=(FALCONQ_\w+)=(.*)$", UNIT.read_text(), re.MULTILINE)
    for name, value in lines:
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert settings.node_id in settings.peers
    assert str(settings.data_dir).startswith("/var/lib/falconq/")
    assert len(settings.cluster_secret.get_secret_value()) > 0
    assert {"FALCONQ_PEERS", "FALCONQ_CLUSTER_SECRET", "FALCONQ_DATA_DIR"} <= {name for name, _ in lines}


async def test_a_node_needs_no_system_call_that_the_unit_forbids(tmp_path: Path, http: Http) -> None:
    port, raft = free_ports(2)
    trace = tmp_path / "trace"
    node = Node("n1", tmp_path, port, raft, wrapper=[tool("strace"), "-D", "-f", "-o", str(trace)])
    node.start()
    try:

        async def is_ready() -> bool:
            answer = await http.ask(node, "/readyz")
            return answer is not None and answer.status == 200

        await until("the node is ready", is_ready)
        published = await http.publish(node, "t", "message")
        assert published.kind == "acknowledged", published
        assert (await http.get(node, "/topic/t/consume", consumerID="c")).body["count"] == 1
        assert (await http.get(node, "/metrics")).status == 200
        assert node.terminate() == 0
    finally:
        node.kill()
    used = set(CALL.findall(trace.read_text(errors="replace")))
    assert {"fdatasync", "accept4"} <= used, "the trace is of a node that served"
    assert used - allowed_calls() - STARTED_BY_SYSTEMD == set()
