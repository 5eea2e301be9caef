"""All kinds of clients of the load.

What lives here: which there are.
Rules: the names are what `--only` takes; clients that work on the same topic share one.
Must not know: what they do.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.soak.dead import Dead
from tests.soak.ordered import ByKey, ByPartition, Growing
from tests.soak.publishing import Consuming, Later, Publishing, Reading
from tests.soak.queues import Jobs
from tests.soak.scripts import Scripts
from tests.soak.streams import Streams
from tests.soak.topics import Abandoned, Recent
from tests.soak.world import Actor, World


def actors_of(world: World, only: Sequence[str]) -> list[Actor]:
    """All kinds of clients, or those with these names."""
    publishing, jobs, growing = Publishing(world), Jobs(world), Growing(world)
    actors: list[Actor] = [publishing, Consuming(world, publishing), Reading(world, publishing), Later(world)]
    actors += [jobs, Dead(world, jobs), growing, ByKey(world, growing), ByPartition(world, growing)]
    actors += [Recent(world), Streams(world), Scripts(world), Abandoned(world)]
    return [actor for actor in actors if not only or actor.name in only]
