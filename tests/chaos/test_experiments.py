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

from chaos.pods import FAKETIME
from tests.cluster.waiting import until

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "chaos" / "mesh").glob("*.yaml"))
SECONDS = 6
RUN_SECONDS = 360
MISSING = [name for name in ("ip", "iptables", "gcc", "setpriv") if shutil.which(name) is None]
if not FAKETIME.exists():
    MISSING.append("faketime")
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


@pytest.mark.parametrize("group", ["time", "other"])
def test_every_experiment_of_a_short_pass_is_valid(group: str, tmp_path: Path) -> None:
    # What lies to a node about the time makes it slow: it is only there when it is needed.
    files = [path for path in FILES if path.stem.startswith("time-") == (group == "time")]
    started = chaos("run", *files, "--seconds", SECONDS, "--target", tmp_path)
    try:
        shown, _ = started.communicate(timeout=RUN_SECONDS)
    finally:
        started.kill()
    print(shown)
    assert started.returncode == 0, shown


def test_a_build_that_does_not_recognise_repeats_is_convicted(tmp_path: Path) -> None:
    changed = str(ROOT / "tests" / "chaos" / "reopened" / "dedupe")
    file = ROOT / "chaos" / "mesh" / "pod-kill.yaml"
    started = chaos("run", file, "--seconds", SECONDS, "--target", tmp_path, CHAOS_NODE_PATH=changed)
    try:
        shown, _ = started.communicate(timeout=RUN_SECONDS)
    finally:
        started.kill()
    assert started.returncode == 1, shown
    assert "duplicate" in (tmp_path / "verdict.txt").read_text(), shown


async def test_nothing_is_left_of_a_run_that_was_killed(tmp_path: Path) -> None:
    started = chaos("run", FILES[0], "--seconds", 60, "--target", tmp_path)

    async def is_on() -> bool:
        assert started.poll() is None
        return (tmp_path / "history.jsonl").exists() and len(spaces()) >= 5

    def spaces() -> list[str]:
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        return [name for name in listed.split() if name.startswith("fqc-")]

    await until("the run has its namespaces", is_on)
    own = spaces()
    started.send_signal(signal.SIGKILL)
    started.communicate(timeout=30)

    async def is_gone() -> bool:
        return not set(own) & set(spaces())

    await until("its namespaces are gone", is_gone)
