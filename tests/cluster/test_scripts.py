"""The scripts of the mixed load: they find nothing wrong in what a node says, and they find it when it is.

What lives here: all scripts against a node alone, as it answers and with answers that are not true.
Rules: a lie is in the answers alone; the node does what it does.
Must not know: what the scripts are about.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp

from tests.cluster.harness import Cluster
from tests.soak.scripts import SCRIPTS, play
from tests.soak.world import Outcome, World

LIES_MAX = 4
"""Of one script; the true answers after them let it end."""


class Lying(World):
    """A cluster that turns the first message of some answers into another one."""

    lies_left = LIES_MAX

    async def insist(self, method: str, path: str, what: str, **arguments: Any) -> Outcome:
        outcome = await super().insist(method, path, what, **arguments)
        found = outcome.body
        if isinstance(found, dict):
            found = found.get("messages") or found.get("deliveries")
        if self.lies_left and isinstance(found, list) and found:
            self.lies_left -= 1
            first = found[0]
            first |= {"message": _other(first["message"]), "level": -1, "deliveryCount": 0}
        return replace(outcome)


def _other(content: Any) -> Any:
    return {int: -1, list: [-1]}.get(type(content), "lie")


async def test_each_script_of_the_load_holds_for_a_node_that_does_what_it_says_and_finds_one_that_does_not(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(count=1)
    cluster.start()
    await cluster.wait_ready()
    nodes = [cluster["n1"]]
    async with aiohttp.ClientSession() as session:
        true = {name: World(nodes, session, random.Random(1)) for name in SCRIPTS}
        await asyncio.gather(*(play(world, name) for name, world in _apart(true, 0)))
        assert [world.examples for world in true.values() if world.broken] == []
        lying = {name: Lying(nodes, session, random.Random(1)) for name in SCRIPTS}
        await asyncio.gather(*(play(world, name) for name, world in _apart(lying, 1)))
        assert [name for name, world in lying.items() if not world.broken] == []


def _apart(worlds: dict[str, Any], part: int) -> list[tuple[str, World]]:
    """Each draws names of its own."""
    for place, world in enumerate(worlds.values()):
        for _ in range(1000 * (place + part * len(worlds))):
            world.number()
    return list(worlds.items())
