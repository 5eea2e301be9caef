"""Each experiment, for a short time, on a real cluster; and what is left of a run that was killed.

What lives here: the short pass of what `make chaos` does at length.
Rules: a run must be valid, not only without an anomaly. Namespaces need root: without it nothing here runs.
Must not know: how a fault is performed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.waiting import until

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "chaos" / "mesh").glob("*.yaml"))
DISK = ROOT / "chaos" / "disk"
SECONDS = 6
RUN_SECONDS = 420
MISSING = [name for name in ("ip", "iptables", "gcc", "setpriv", "mkfs.ext4") if shutil.which(name) is None]
if os.geteuid() != 0:
    MISSING.append("root")


@pytest.fixture(autouse=True)
def needed() -> None:
    if MISSING:
        assert "FALCONQ_REQUIRE_ALL" not in os.environ or MISSING == ["root"], MISSING
        pytest.skip(f"experiments on processes need {', '.join(MISSING)}")


def chaos(*words: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "chaos", *map(str, words)]
    full = os.environ | environment
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=full)


def perform(*words: object, **environment: str) -> tuple[str, int]:
    """What a run printed, and its exit code."""
    started = chaos("run", *words, **environment)
    try:
        shown, _ = started.communicate(timeout=RUN_SECONDS)
    finally:
        started.kill()
    return shown, started.returncode


@pytest.mark.parametrize("group", ["disk", "other"])
def test_every_experiment_of_a_short_pass_is_valid(group: str, tmp_path: Path) -> None:
    # What writes down all that a node writes makes it slow: it is there when it is needed.
    files = sorted(DISK.glob("*.yaml")) if group == "disk" else FILES
    shown, code = perform(*files, "--seconds", SECONDS, "--target", tmp_path)
    print(shown)
    assert code == 0, shown


def test_losing_the_power_of_all_nodes_with_what_was_not_synced_loses_nothing_acknowledged(tmp_path: Path) -> None:
    shown, code = perform(DISK / "power-loss.yaml", "--times", 3, "--target", tmp_path)
    assert code == 0, shown
    assert "losses of power met" in shown


@pytest.mark.parametrize(
    ("reopened", "arguments", "anomaly"),
    [
        ("dedupe", ("chaos/mesh/pod-kill.yaml", "--seconds", SECONDS), "duplicate"),
        # A leader that is cut off acknowledges; when it returns it stops itself, since it wrote something else.
        ("majority", ("chaos/mesh/partition-leader.yaml", "--seconds", 4, "--seed", 1, "--patience", 5), "lost"),
        # With this seed nothing is left of what was not synced. With a part of it the nodes refuse to start.
        ("sync", ("chaos/disk/power-loss.yaml", "--times", 1, "--seed", 2), "lost"),
    ],
)
def test_a_build_with_a_guard_taken_out_is_convicted(
    reopened: str, arguments: tuple[object, ...], anomaly: str, tmp_path: Path
) -> None:
    changed = str(ROOT / "tests" / "chaos" / "reopened" / reopened)
    shown, code = perform(*arguments, "--target", tmp_path, CHAOS_NODE_PATH=changed)
    assert code == 1, shown
    assert f"  {anomaly}" in (tmp_path / "verdict.txt").read_text(), shown


async def test_nothing_is_left_of_a_run_that_was_killed(tmp_path: Path) -> None:
    def spaces() -> set[str]:
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        return {name for name in listed.split() if name.startswith("fqc-")}

    def mounted() -> str:
        return subprocess.run(["mount"], capture_output=True, text=True, check=True).stdout

    others = spaces()
    started = chaos("run", DISK / "disk-full.yaml", "--seconds", 60, "--target", tmp_path)

    async def is_on() -> bool:
        assert started.poll() is None
        runs = {name.split("-")[1] for name in spaces() - others}
        has_disk = any(f"falconq-chaos-{run}/n1" in mounted() for run in runs)
        return (tmp_path / "history.jsonl").exists() and len(spaces() - others) >= 5 and has_disk

    await until("the run has its namespaces and disks", is_on)
    own = spaces() - others
    run = next(iter(own)).split("-")[1]
    started.send_signal(signal.SIGKILL)
    started.communicate(timeout=30)

    async def is_gone() -> bool:
        return not own & spaces() and run not in mounted()

    await until("its namespaces and file systems are gone", is_gone)
