"""The README does what it says, on real nodes.

What lives here: `falconq dev up --demo` as `make run` starts it, and the five curl commands, word for word.
Rules: the commands are read from the README; the ports are the README's own, so nothing else may hold them.
Must not know: what the answers mean beyond their fields.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
STOP_SECONDS = 30
FIELDS = [
    {"status", "topic", "partitionID", "offset", "priority"},
    {"consumerID", "topic", "partitionID", "messages", "count", "startOffset", "nextOffset"},
    {"topic", "messages", "count", "startOffset", "nextOffset"},
    {"topics"},
    {"topic", "partitions"},
]


def test_a_local_cluster_answers_the_readmes_commands_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    output = tmp_path / "up.log"
    command = [sys.executable, "-m", "falconq_cluster", "dev", "up", "--demo", "--data-dir", str(tmp_path / "data")]
    with output.open("wb") as file:
        up = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=tmp_path, env=_environment())
    try:
        _wait_ready(up, output)
        lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("curl ")]
        assert len(lines) == len(FIELDS)
        answers = [json.loads(_shell(line)) for line in lines]
        for answer, fields in zip(answers, FIELDS, strict=True):
            assert fields <= set(answer), answer
        assert answers[0]["status"] == "message committed"
        assert "hello" in [message["message"] for message in answers[1]["messages"]]
        up.send_signal(signal.SIGINT)
        assert up.wait(STOP_SECONDS) == 0, output.read_text()
    finally:
        if up.poll() is None:
            up.send_signal(signal.SIGTERM)
            up.wait(STOP_SECONDS)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _shell(line: str) -> str:
    command = ["bash", "-c", f"{line} --silent --show-error --fail"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _wait_ready(up: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert up.poll() is None, output.read_text()
        try:
            with urllib.request.urlopen("http://localhost:8081/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(output.read_text())
