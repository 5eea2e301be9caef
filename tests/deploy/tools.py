"""Programs that these tests run.

What lives here: finding a program, and running it.
Rules: what is not installed skips the test, which the summary lists; with FALCONQ_REQUIRE_ALL it fails it.
Must not know: what a test is about.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 300.0
STOP_SECONDS = 20.0


def leave_out(reason: str) -> None:
    """Skip the test, or fail it where nothing may be left out."""
    if os.environ.get("FALCONQ_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


def tool(name: str) -> str:
    """The path of a program, of this environment before the system's."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        leave_out(f"{name} is not installed")
    return cast(str, found)


def need_root() -> None:
    if os.geteuid() != 0:
        leave_out("root is needed, for network namespaces and containers")


def run(*command: str | Path, stdin: str | None = None, timeout: float = RUN_SECONDS, **environment: str) -> str:
    """What the command prints, both streams; asserts that it exits 0."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout


@contextmanager
def running(
    command: Sequence[str], *, output: int | IO[bytes] = subprocess.DEVNULL, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Within it the command runs; afterwards it is gone, also when it does not end on SIGTERM, which fails the test."""
    process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:
        yield
        process.terminate()
        process.wait(STOP_SECONDS)
    finally:
        process.kill()
        process.wait()


def render(path: str) -> list[dict[str, Any]]:
    """The resources that `kubectl apply -k` would apply."""
    return [resource for resource in yaml.safe_load_all(run(tool("kubectl"), "kustomize", path)) if resource]


def only(resources: list[dict[str, Any]], kind: str, name: str = "falconq") -> dict[str, Any]:
    """The one resource of this kind and name."""
    (found,) = [item for item in resources if item["kind"] == kind and item["metadata"]["name"] == name]
    return found
