"""A cluster of three on volumes becomes one of five by the script of the guide."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.ledger import Ledger
from tests.deploy.fake_kubectl import FakeKubectl
from tests.deploy.pods import Pods
from tests.deploy.test_rolling import TOPIC, check_everywhere
from tests.deploy.tools import ROOT, only

SCRIPT = ROOT / "k8s/scripts/three-to-five.sh"
MakePods = Callable[[str], Pods]


async def run_script(programs: Path, typed: str) -> tuple[int, str]:
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    process = await asyncio.create_subprocess_exec(
        SCRIPT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(120):
        said, _ = await process.communicate(f"{typed}\n".encode())
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_script_makes_five_members_of_three_and_every_message_is_on_all(
    make_pods: MakePods, http: Http, ledger: Ledger, tmp_path: Path
) -> None:
    pods = make_pods("k8s")
    (container,) = only(pods.resources, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    container["image"] = "registry.example/falconq-cluster:0.1.0"
    members = pods.start()
    await pods.wait_ready(members)
    for number in range(50):
        outcome = await http.publish(members[number % 3], TOPIC, f"before-{number}", ledger=ledger)
        assert outcome.kind == "acknowledged"
    async with FakeKubectl(pods, tmp_path / "programs") as kubectl:
        code, said = await run_script(tmp_path / "programs", "no")
        assert (code, pods.pods["falconq-0"].is_ready) == (1, True), said
        code, said = await run_script(tmp_path / "programs", "five")
        assert code == 0, said
        again, why = await run_script(tmp_path / "programs", "five")
    print("\n".join(kubectl.words), said, sep="\n")
    assert again == 1
    assert "has 5 replicas" in why
    assert sorted(pods.pods) == [f"falconq-{number}" for number in range(5)]
    for number, pod in enumerate(pods.pods.values()):
        outcome = await http.publish(pod, TOPIC, f"after-{number}", ledger=ledger)
        assert outcome.kind == "acknowledged"
    view = (await http.call("GET", f"{pods.pods['falconq-4'].url}/v1/cluster")).body
    assert sorted(node["id"] for node in view["nodes"]) == sorted(pods.pods)
    assert {node["state"] for node in view["nodes"]} == {"leader", "follower"}
    await check_everywhere(http, pods, ledger)
    # Two of five may go.
    for name in ("falconq-0", "falconq-3"):
        await pods.pods.pop(name).kill()
    outcome = await http.publish(pods.pods["falconq-4"], TOPIC, "with three of five", ledger=ledger)
    assert outcome.kind == "acknowledged", outcome
