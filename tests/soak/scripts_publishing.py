"""Scripts of publishing: conditions, keys, sequences, and one message that is changed.

What lives here: the scripts, by name.
Rules: those of tests/soak/scripts.py.
Must not know: how a node remembers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.soak.scripts_reading import numbers

if TYPE_CHECKING:
    from tests.soak.scripts import Client, Script

CREATED, CONFLICT, FAILED, REUSED = 201, 409, 412, 422
WRITERS, TURNS = 3, 3


async def expecting(client: Client) -> None:
    """Of several who saw the same end of a partition, one gets its message in."""
    await client.make()
    won: list[int] = []
    for last in range(-1, TURNS - 1):
        tries = [
            client.one({"message": number, "partitionID": 0, "expectedLastOffset": last}, also={FAILED})
            for number in range(WRITERS)
        ]
        outcomes = await asyncio.gather(*tries)
        winners = [number for number, outcome in enumerate(outcomes) if outcome.status == CREATED]
        client.equal("one of those who saw the same end wins", len(winners), 1)
        won += winners
    client.equal("who lost left nothing", numbers(await client.take_all("reader")), won)


async def repeating(client: Client) -> None:
    """A key is of one message, and a sequence has no gap."""
    await client.make()
    key = f"script-{client.world.number()}"
    first = await client.one({"message": 1}, key=key)
    again = await client.one({"message": 1}, key=key)
    places = [again.body["offset"], again.body["duplicate"]]
    client.equal("a repeat is answered as the first was", places, [first.body["offset"], True])
    other = await client.one({"message": 2}, key=key, also={REUSED})
    client.equal("a key is of one message", other.status, REUSED)
    for sequence, wanted in ((1, CREATED), (2, CREATED), (2, CREATED), (4, CONFLICT)):
        body = {"message": sequence + 10, "producer": {"id": "writer", "sequence": sequence}}
        outcome = await client.ask("POST", "/messages", json=body, also={CONFLICT})
        client.equal("a sequence has no gap", outcome.status, wanted)
    client.equal("a repeat is not appended", numbers(await client.take_all("reader")), [1, 11, 12])


SCRIPTS: dict[str, Script] = {"expected offset": expecting, "repeats": repeating}
