"""One run of the load: a cluster, all clients at once, kills, and what was found.

What lives here: the order of a run.
Rules: after the load the cluster is made whole, each kind of client says what is wrong, and the stores are compared
byte for byte.
Must not know: what clients do, who is killed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console

from chaos.resources import Sample, watch
from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.soak.actors import actors_of
from tests.soak.bounds import SETTINGS, Bound, Kept, bounds_of, watch_kept
from tests.soak.kills import Kills, whole
from tests.soak.world import REQUEST_SECONDS, Actor, World

SPARED_FROM = 2 / 3


@dataclass(slots=True)
class Plan:
    """What is to be run."""

    seconds: float
    kill_every: float
    seed: int
    only: Sequence[str] = ()


@dataclass(slots=True)
class Report:
    """What a run did and found."""

    plan: Plan
    kills: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    """While the load lasted."""
    kept: list[Kept] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.broken and all(bound.is_kept for bound in self.bounds)


async def run(directory: Path, plan: Plan, console: Console) -> Report:
    """Raises: whatever a client raised, and AssertionError when stores differ."""
    timeout = aiohttp.ClientTimeout(REQUEST_SECONDS)
    report = Report(plan)
    async with Http() as http, aiohttp.ClientSession(timeout=timeout) as session:
        cluster = Cluster(directory, http, **SETTINGS)
        try:
            cluster.start()
            await cluster.wait_ready()
            world = World(list(cluster.nodes.values()), session, random.Random(plan.seed + 1))
            actors = actors_of(world, plan.only)
            for actor in actors:
                await actor.prepare()
            kills = Kills(cluster, random.Random(plan.seed))
            async with _watched(world, report, console):
                await _load(cluster, world, actors, kills, plan, console)
            for actor in actors:
                console.print(f"looking at: {actor.name}")
                await actor.finish()
            await cluster.compare_stores()
        finally:
            cluster.close()
    report.kills, report.done, report.broken = dict(kills.done), dict(world.done), dict(world.broken)
    report.examples = world.examples
    report.bounds = bounds_of(report.samples, report.kept)
    return report


@asynccontextmanager
async def _watched(world: World, report: Report, console: Console) -> AsyncGenerator[None]:
    """What nodes use is sampled meanwhile."""
    watchers = [
        asyncio.create_task(watch(world.nodes, report.samples)),
        asyncio.create_task(watch_kept(world.nodes, world.session, report.kept)),
    ]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        for ended in await asyncio.gather(*watchers, return_exceptions=True):
            if isinstance(ended, Exception):
                console.print(f"memory and files were no longer sampled: {ended!r}")


async def _load(
    cluster: Cluster, world: World, actors: Sequence[Actor], kills: Kills, plan: Plan, console: Console
) -> None:
    """All clients at once, until they have ended in a cluster that is whole."""
    tasks = [asyncio.create_task(actor.go_on(copy)) for actor in actors for copy in range(actor.copies)]
    begin = time.monotonic()
    is_sparing = False
    try:
        while time.monotonic() - begin + plan.kill_every < plan.seconds:
            await asyncio.sleep(plan.kill_every)
            if any(task.done() for task in tasks):
                break
            if not is_sparing and time.monotonic() - begin > SPARED_FROM * plan.seconds:
                is_sparing = True
                await kills.spare_one()
            await kills.next()
            console.print(
                f"{time.monotonic() - begin:.0f} s: {sum(world.done.values())} answers, {kills.count} troubles, "
                f"{sum(world.broken.values())} broken promises"
            )
        await asyncio.sleep(max(0.0, begin + plan.seconds - time.monotonic()))
        world.is_over.set()
        await whole(cluster)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
