"""Fixtures: pods from what is rendered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.clients import Http
from tests.cluster.ledger import Ledger
from tests.deploy.containers import Podman
from tests.deploy.pods import Pods
from tests.deploy.tools import need_root, render, tool


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with Http() as session:
        yield session


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def make_pods(tmp_path: Path) -> AsyncIterator[Callable[[str], Pods]]:
    need_root()
    tool("ip")
    made: list[Pods] = []

    def make(overlay: str) -> Pods:
        made.append(Pods(tmp_path / f"pods{len(made)}", render(overlay)))
        return made[-1]

    yield make
    for pods in made:
        await pods.close()
        for pod in pods.pods.values():
            print(f"--- {pod.spec.name} exits {pod.exit_codes}\n{pod.log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    need_root()
    made = Podman(tmp_path_factory.mktemp("podman") / "own")
    try:
        started = time.monotonic()
        made.make_base()
        based = time.monotonic()
        made.build()
        print(f"the base took {based - started:.0f} s, the image {time.monotonic() - based:.0f} s")
        made("network", "create", made.network)
        yield made
    finally:
        made.close()
