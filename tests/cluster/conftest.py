"""Fixtures of the tests with real processes.

What lives here: `http`, `make_cluster`, and the shim that stands between a node and its disk.
Rules: whatever a test started is ended when it ends, also when it fails; then the nodes' logs are shown and kept.
Must not know: what is tested.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.ledger import Ledger

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with Http() as session:
        yield session


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def make_cluster(
    request: pytest.FixtureRequest, tmp_path: Path, http: Http
) -> AsyncIterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(**arguments: Any) -> Cluster:
        cluster = Cluster(tmp_path / f"cluster{len(made)}", http, **arguments)
        made.append(cluster)
        return cluster

    yield make
    has_failed = request.node.stash.get(FAILED, True)
    for cluster in made:
        cluster.close(is_kept=has_failed)
        if has_failed:
            for node in cluster.nodes.values():
                print(f"--- {node.name} ({node.data})\n{node.log_tail()}")


@pytest.fixture(scope="session")
def sync_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library to preload, compiled for this machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "the tests of slow and dying disks need a C compiler (Debian: gcc libc6-dev)"
    source = Path(__file__).parent / "shims" / "sync.c"
    built = tmp_path_factory.mktemp("shims") / "sync.so"
    subprocess.run([compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
    return built


@pytest.fixture
async def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes that are ready."""
    made = make_cluster()
    made.start()
    await made.wait_ready()
    return made
