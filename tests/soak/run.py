"""One run of the load: a cluster, all clients at once, kills, and what was found.

What lives here: the order of a run, and who is killed when.
Rules: one member at a time is killed, the leader as often as not, now and then by SIGTERM, and the next one only when
all are ready again. After the load the cluster is made whole, each kind of client says what is wrong, and the stores
are compared byte for byte.
Must not know: what clients do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console

from chaos.resources import Sample, watch
from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.soak.publishing import Consuming, Later, Publishing, Reading
from tests.soak.queues import Jobs, Keys
from tests.soak.topics import Recent
from tests.soak.world import REQUEST_SECONDS, Actor, World

DOWN_SECONDS = (0.2, 3.0)
TERM_EVERY = 4
WHOLE_SECONDS = 120.0
PAUSE_SECONDS = 0.2
OK = 200


@dataclass(slots=True)
class Report:
    """What a run did and found."""

    seed: int
    seconds: float
    kills: int
    done: dict[str, int]
    broken: dict[str, int]
    examples: list[str]
    samples: list[Sample]


async def run(
    directory: Path, *, seconds: float, kill_every: float, seed: int, only: Sequence[str], console: Console
) -> Report:
    """Raises: whatever a client raised, and AssertionError when stores differ."""
    chance = random.Random(seed)
    samples: list[Sample] = []
    timeout = aiohttp.ClientTimeout(REQUEST_SECONDS)
    async with Http() as http, aiohttp.ClientSession(timeout=timeout) as session:
        cluster = Cluster(directory, http, request_timeout_ms=5000)
        sampler: asyncio.Task[None] | None = None
        try:
            cluster.start()
            await cluster.wait_ready()
            nodes = list(cluster.nodes.values())
            sampler = asyncio.create_task(watch(nodes, samples))
            world = World(nodes, session, random.Random(seed + 1))
            kills = await _load(cluster, world, actors_of(world, only), chance, seconds, kill_every, console)
            await cluster.compare_stores()
        finally:
            if sampler is not None:
                sampler.cancel()
                (ended,) = await asyncio.gather(sampler, return_exceptions=True)
                if isinstance(ended, Exception):
                    console.print(f"memory and files were no longer sampled: {ended!r}")
            cluster.close()
    return Report(seed, seconds, kills, dict(world.done), dict(world.broken), world.examples, samples)


def actors_of(world: World, only: Sequence[str]) -> list[Actor]:
    """All kinds of clients, or those with these names."""
    publishing = Publishing(world)
    actors = [publishing, Consuming(world, publishing), Reading(world, publishing)]
    actors += [Later(world), Jobs(world), Keys(world), Recent(world)]
    return [actor for actor in actors if not only or actor.name in only]


async def _load(
    cluster: Cluster,
    world: World,
    actors: Sequence[Actor],
    chance: random.Random,
    seconds: float,
    kill_every: float,
    console: Console,
) -> int:
    """How many members were killed."""
    for actor in actors:
        await actor.prepare()
    tasks = [asyncio.create_task(actor.go_on(copy)) for actor in actors for copy in range(actor.copies)]
    begin = time.monotonic()
    kills = 0
    try:
        while time.monotonic() - begin + kill_every < seconds:
            await asyncio.sleep(kill_every)
            failed = [task for task in tasks if task.done()]
            if failed:
                break
            kills += 1
            await _kill_one(cluster, chance, kills)
            console.print(
                f"{time.monotonic() - begin:.0f} s: {sum(world.done.values())} answers, {kills} kills, "
                f"{sum(world.broken.values())} broken promises"
            )
        await asyncio.sleep(max(0.0, begin + seconds - time.monotonic()))
        world.is_over.set()
        await _whole(cluster)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for actor in actors:
        console.print(f"looking at: {actor.name}")
        await actor.finish()
    return kills


async def _kill_one(cluster: Cluster, chance: random.Random, number: int) -> None:
    leader = await cluster.leader()
    victim = leader if chance.random() < 0.5 else chance.choice(cluster.running)
    if number % TERM_EVERY:
        victim.kill()
    else:
        await asyncio.to_thread(victim.terminate)
    await asyncio.sleep(chance.uniform(*DOWN_SECONDS))
    victim.start()
    await _whole(cluster)


async def _whole(cluster: Cluster) -> None:
    """Waits until all are ready, and says who is not and why when that takes too long."""
    end = time.monotonic() + WHOLE_SECONDS
    while True:
        answers = {node.name: await cluster.http.ask(node, "/readyz") for node in cluster.nodes.values()}
        if all(answer is not None and answer.status == OK for answer in answers.values()):
            return
        if time.monotonic() > end:
            said = {name: "no answer" if answer is None else answer.body for name, answer in answers.items()}
            tails = "\n".join(f"{node.name}:\n{node.log_tail()}" for node in cluster.nodes.values())
            raise TimeoutError(f"not whole after {WHOLE_SECONDS:.0f} s: {said}\n{tails}")
        await asyncio.sleep(PAUSE_SECONDS)
