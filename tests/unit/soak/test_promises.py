"""What the mixed load holds against the cluster: each promise, broken once."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
import pytest

from tests.soak.publishing import Ledger
from tests.soak.queues import LEASE_MS, Jobs
from tests.soak.world import Outcome, World


@pytest.fixture
async def world():
    async with aiohttp.ClientSession() as session:
        yield World([], session, random.Random(1), asyncio.Event())


def message(value: int, offset: int) -> dict[str, Any]:
    return {"message": {"n": value}, "partitionID": 0, "offset": offset, "level": 0}


def answer(sent: float, ended: float) -> Outcome:
    return Outcome("ok", 200, {}, {}, sent, ended)


async def test_a_clean_ledger_breaks_nothing(world: World):
    ledger = Ledger(sure={1, 2}, maybe={1, 2, 3}, groups=[[1, 2]])
    for offset, value in enumerate((1, 2)):
        ledger.receive(world, "orders", message(value, offset))
    ledger.check(world, "orders")
    assert not world.broken


@pytest.mark.parametrize(
    ("came", "promise"),
    [
        ([1], "nothing acknowledged is lost"),
        ([1, 2, 2], "a message is there once"),
        ([1, 2, 9], "nothing comes that nobody published"),
        ([1, 2, 3], "an atomic batch is there as a whole or not at all"),
    ],
)
async def test_a_ledger_says_what_is_wrong(world: World, came: list[int], promise: str):
    ledger = Ledger(sure={1, 2}, maybe={1, 2, 3, 4}, groups=[[3, 4]])
    for offset, value in enumerate(came):
        ledger.receive(world, "orders", message(value, offset))
    ledger.check(world, "orders")
    assert list(world.broken) == [promise]


async def test_an_offset_with_two_messages_is_seen(world: World):
    ledger = Ledger()
    ledger.receive(world, "orders", message(1, 0))
    ledger.receive(world, "orders", message(2, 0))
    assert list(world.broken) == ["an offset holds one message"]


async def test_a_lease_held_twice_and_a_settled_message_that_comes_again_are_seen(world: World):
    jobs = Jobs(world)
    jobs._given(message(1, 0), answer(0.0, 0.1))
    jobs._given(message(1, 0), answer(0.2, 0.3))
    assert list(world.broken) == ["a message is leased to one worker at a time"]
    after = LEASE_MS / 1000
    jobs._given(message(1, 0), answer(after, after + 0.1))
    jobs.over[1] = after + 0.2
    jobs._given(message(1, 0), answer(2 * after, 2 * after + 0.1))
    assert world.broken["a message is leased to one worker at a time"] == 1
    assert world.broken["what was settled is never given again"] == 1
