"""What the mixed load holds against the cluster: each promise, broken once."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
import pytest

from chaos.resources import MIB, Sample
from tests.soak.bounds import Kept, bounds_of, written_bytes
from tests.soak.dead import Dead
from tests.soak.ordered import ByKey, ByPartition, Growing, Ordered
from tests.soak.publishing import Ledger
from tests.soak.queues import DELIVERIES_MAX, LEASE_MS, Jobs
from tests.soak.report import HEADING, page_of
from tests.soak.run import Plan, Report
from tests.soak.scripts import Client
from tests.soak.streams import Streams, as_event
from tests.soak.topics import Abandoned
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


def delivery(value: int, *, count: int = 1) -> dict[str, Any]:
    return message(value, value) | {"id": f"{value}.0", "deliveryCount": count, "lease": {"id": f"lease-{value}"}}


async def test_a_lease_held_twice_and_a_settled_message_that_comes_again_are_seen(world: World):
    jobs = Jobs(world)
    jobs._given(delivery(1), answer(0.0, 0.1))
    jobs._given(delivery(1), answer(0.2, 0.3))
    assert list(world.broken) == ["a message is leased to one worker at a time"]
    after = LEASE_MS / 1000
    jobs._given(delivery(1), answer(after, after + 0.1))
    jobs.over["1.0"] = after + 0.2
    jobs._given(delivery(1), answer(2 * after, 2 * after + 0.1))
    assert world.broken["a message is leased to one worker at a time"] == 1
    assert world.broken["what was settled is never given again"] == 1


async def test_a_message_that_is_given_too_often_is_seen(world: World):
    jobs = Jobs(world)
    jobs._given(delivery(1, count=DELIVERIES_MAX), answer(0.0, 0.1))
    assert not world.broken
    jobs._given(delivery(2, count=DELIVERIES_MAX + 1), answer(0.0, 0.1))
    assert list(world.broken) == ["nothing is given more often than maxDeliveries"]


def dead_letter(value: int, *, level: int = 0, reason: str = "it does not build", times: int = 1) -> dict[str, Any]:
    headers = {"falconq-dead-id": f"{value}.0", "falconq-dead-reason": reason, "falconq-dead-deliveries": str(times)}
    return message(value, value) | {"level": level, "headers": headers}


async def test_dead_letters_that_come_twice_change_their_level_or_die_early_are_seen(world: World):
    jobs = Jobs(world)
    jobs.published = {1: 0, 2: 0, 3: 0}
    dead = Dead(world, jobs)
    dead.receive(dead_letter(1))
    assert not world.broken
    dead.receive(dead_letter(1))
    dead.receive(dead_letter(2, level=1))
    dead.receive(dead_letter(3, reason="maxDeliveries", times=DELIVERIES_MAX - 1))
    assert world.broken == {
        "a dead letter is moved once": 1,
        "a dead letter keeps its level": 1,
        "nobody dies before maxDeliveries": 1,
    }


def of_key(step: int) -> dict[str, Any]:
    return {"message": {"key": "a", "step": step}, "partitionID": 0, "offset": step - 1}


@pytest.mark.parametrize(("kind", "name"), [(ByKey, "key"), (ByPartition, "partition")])
async def test_a_message_out_of_order_and_two_at_once_are_seen(world: World, kind: type[Ordered], name: str):
    ordered = kind(world, Growing(world))
    ordered.given([of_key(1)])
    assert not world.broken
    ordered.given([of_key(2)])
    assert list(world.broken) == [f"a {name}'s messages come in order"]
    ordered.settled.update({"a": 5, "0": 5})
    ordered.given([of_key(5), of_key(6)])
    assert world.broken == {f"a {name}'s messages come in order": 1, f"one message of a {name} is in hand": 1}


async def test_an_event_that_comes_again_after_it_was_acknowledged_is_seen(world: World):
    streams = Streams(world)
    for number in (1, 2):
        assert streams.receive(as_event(number, number)) == 1
    streams.acknowledged_id = 1
    streams.receive(as_event(3, 2))
    assert not world.broken
    streams.receive(as_event(4, 1))
    assert list(world.broken) == ["what a stream went on from never comes again"]
    streams.receive(as_event(4, 9))
    assert world.broken["the ids of a consumer's events go up"] == 1


async def test_a_consumer_that_goes_early_or_stays_for_ever_is_seen(world: World):
    abandoned = Abandoned(world)
    abandoned.judge(is_there=True, sent=500.0, ended=500.1)
    abandoned.judge(is_there=False, sent=620.0, ended=620.1)
    assert not world.broken
    abandoned.judge(is_there=False, sent=500.0, ended=500.1)
    abandoned.judge(is_there=True, sent=700.0, ended=700.1)
    assert world.broken == {"a consumer is kept for its time": 1, "a consumer that nobody uses expires": 1}


async def test_an_answer_of_a_script_that_is_not_what_it_must_be_is_seen(world: World):
    client = Client(world, "script-1", "peek")
    client.equal("peek shows what is there", [1], [1])
    assert not world.broken
    client.equal("peek shows what is there", [1], [1, 2])
    assert list(world.broken) == ["peek shows what is there"]


@pytest.mark.parametrize("what", ["journal", "store", "snapshots", "memory"])
def test_what_grows_without_end_is_beyond_its_bound(what: str):
    name = {"memory": "resident_bytes", "snapshots": "snapshot_bytes"}.get(what, f"{what}_bytes")
    small = Sample(seconds=0.0, node="n1", resident_bytes=MIB, file_bytes=MIB, file_count=1, descriptor_count=1)
    large = Sample(**{**small._asdict(), "seconds": 9.0, name: 1024 * MIB})
    kept = [Kept(0.0, 3 * MIB)]
    assert all(bound.is_kept for bound in bounds_of([small], kept))
    (broken,) = [bound for bound in bounds_of([small, large], kept) if not bound.is_kept]
    assert (broken.what, broken.last_bytes) == (what, 1024 * MIB)


def test_what_was_written_is_told_though_the_journal_was_cut():
    sizes = [4, 8, 2, 7]
    samples = [Sample(float(at), "n1", 1, 1, 1, 1, journal_bytes=size) for at, size in enumerate(sizes)]
    assert written_bytes(samples) == 4 + 5
    assert written_bytes([]) == 0


def test_a_run_is_written_into_the_page_below_what_stands_there():
    report = Report(Plan(600, 20, 7), kills={"leader by kill -9": 3}, done={"publish": 1234})
    page = page_of(f"# A mixed load\n\ntext\n\n{HEADING}\n\nold\n", report)
    assert page.startswith(f"# A mixed load\n\ntext\n\n{HEADING}\n\nAt commit ")
    assert "old" not in page
    assert "seed 7: 1,234 answers, **no promise broken**" in page
    assert "leader by kill -9: 3" in page
    assert "(soak/journal.svg)" in page
