"""Benches on one clock, which PySyncObj reads too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.broker.loopback import ManualClock
from tests.unit.raft.cluster_helpers import Bench, library_time

MakeBench = Callable[..., Bench]


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with library_time(clock):
        yield clock


@pytest.fixture
def make_bench(clock: ManualClock) -> MakeBench:
    return lambda **options: Bench(clock, **options)


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """A formed node that hears both others."""
    bench = make_bench()
    bench.connect()
    return bench
