"""Who is killed, when and how, in a run of the load.

What lives here: one trouble after the other, and waiting until the cluster is whole again.
Rules: mostly one member at a time gets `kill -9`, the leader as often as not; now and then SIGTERM; a leader that is
asked to let another lead; and twice in ten minutes all members at once. The next trouble waits until all are ready. In
the last third one member is spared, so that what a process needs in the long run is seen.
Must not know: what clients do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import aiohttp

from tests.cluster.harness import Cluster
from tests.cluster.processes import Node

DOWN_SECONDS = (0.2, 3.0)
TERM_EVERY, TERM_AT = 4, 0
ALL_EVERY, ALL_AT = 9, 2
MOVE_EVERY, MOVE_AT = 5, 4
"""Of each so many troubles, the one at this place; the first of these that fits."""
WHOLE_SECONDS = 120.0
PAUSE_SECONDS = 0.2
OK = 200


class Kills:
    """The troubles of one run."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._spared: Node | None = None
        self.done: Counter[str] = Counter()
        """Kind of trouble -> how often."""

    @property
    def count(self) -> int:
        return sum(self.done.values())

    async def spare_one(self) -> None:
        """From here on the present leader goes on."""
        self._spared = await self._cluster.leader()

    async def next(self) -> None:
        """One trouble, until the cluster is whole again."""
        number = self.count + 1
        if number % ALL_EVERY == ALL_AT and self._spared is None:
            await self._kill_all()
        elif number % MOVE_EVERY == MOVE_AT and self._spared is None:
            await self._move_leader()
        else:
            await self._end_one(is_killed=number % TERM_EVERY != TERM_AT)
        await whole(self._cluster)

    async def _kill_all(self) -> None:
        self.done["all members at once by kill -9"] += 1
        self._cluster.kill_all()
        await asyncio.sleep(self._chance.uniform(*DOWN_SECONDS))
        self._cluster.start()

    async def _move_leader(self) -> None:
        self.done["leader moved"] += 1
        leader = await self._cluster.leader()
        others = [node for node in self._cluster.running if node is not leader]
        body = {"to": self._chance.choice(others).name}
        try:
            await self._cluster.http.call("POST", f"{leader.url}/v1/cluster/leader", json=body)
        except (aiohttp.ClientError, TimeoutError):
            return  # It is the load that has to bear it.

    async def _end_one(self, *, is_killed: bool) -> None:
        leader = await self._cluster.leader()
        victim = leader if self._chance.random() < 0.5 else self._chance.choice(self._cluster.running)
        while victim is self._spared:
            victim = self._chance.choice(self._cluster.running)
        role = "leader" if victim is leader else "follower"
        if is_killed:
            self.done[f"{role} by kill -9"] += 1
            victim.kill()
        else:
            self.done[f"{role} by SIGTERM"] += 1
            await asyncio.to_thread(victim.terminate)
        await asyncio.sleep(self._chance.uniform(*DOWN_SECONDS))
        victim.start()


async def whole(cluster: Cluster) -> None:
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
