"""What a node says of its limits is what its requests are judged by, on every node and exactly."""

from __future__ import annotations

from dataclasses import fields, replace

import msgspec
import pytest

from falconq_cluster.machine.appends import AppendMany, Part
from falconq_cluster.machine.capacity import CEILINGS, Capacity, Within, capacity_of, limits_within
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    AnyOperation,
    Appended,
    Done,
    Leased,
    LeasePull,
    Refused,
    Result,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from tests.unit.machine.helpers import Node, append, pull

OWN = MachineLimits()


def delayed(topic: str = "t") -> AppendMany:
    return AppendMany(0, topic, [Part(0, 0, 1, pack_record(b"m"), delay_ms=1000)], may_create=True)


def leased(consumer: str = "c") -> LeasePull:
    return LeasePull(0, "t", consumer, 1, 1 << 20, 0, 0, b"n" * 16, 0)


def partitions(count: int) -> SetTopic:
    return SetTopic(0, "t", ANY_VERSION, is_change=True, given=TopicSettings(count))


def keyed(number: int, topic: str = "t") -> AnyOperation:
    return append("m", topic=topic, once=Once(f"{number}"))


def refusals(results: list[Result]) -> list[tuple[int, str, str]]:
    return [(n, r.code, r.detail) for n, r in enumerate(results) if isinstance(r, Refused)]


CASES: list[tuple[str, str, list[AnyOperation]]] = [
    ("topics_max", "overloaded", [append("m", topic=f"t{n}") for n in range(5)]),
    ("partitions_per_topic_max", "bad_request", [partitions(2 + n) for n in range(5)]),
    ("consumers_per_topic_max", "overloaded", [pull(1, consumer=f"c{n}") for n in range(5)]),
    ("delayed_per_topic_max", "delayed_full", [delayed() for _ in range(5)]),
    ("delayed_max", "delayed_full", [delayed(f"t{n}") for n in range(5)]),
    ("dedupe_per_topic_max", "dedupe_full", [keyed(n) for n in range(5)]),
    ("dedupe_max", "dedupe_full", [keyed(n, f"t{n}") for n in range(5)]),
    ("held_per_consumer_max", "leases_full", [leased() for _ in range(5)]),
    ("held_max", "leases_full", [leased(f"c{n}") for n in range(5)]),
]


def test_every_limit_of_capacity_has_a_case_and_is_one_of_the_machines() -> None:
    assert [name for name, _, _ in CASES] == list(Capacity.__struct_fields__)
    assert set(Capacity.__struct_fields__) < {field.name for field in fields(MachineLimits)}


@pytest.mark.parametrize(("name", "code", "operations"), CASES)
def test_a_limit_that_a_command_says_is_kept_exactly_and_named(
    name: str, code: str, operations: list[AnyOperation]
) -> None:
    # One topic is there, with one partition, and the limit is 4: of partitions and topics three more, else four.
    node, restarting = Node(), Node()
    node.publish(*"abcdefgh")
    results = node.command(Within(Capacity(**{name: 4})), *operations).results
    assert results[0] == Done()
    expected = 3 if name in ("topics_max", "partitions_per_topic_max") else 4
    refused = refusals(results[1:])
    assert [number for number, _, _ in refused] == list(range(expected, 5))
    for _, refused_code, detail in refused:
        assert refused_code == code
        assert name in detail
        assert "4" in detail
    for entry in node.entries:
        restarting.reload()
        restarting.apply(entry)
    assert restarting.machine.digest == node.machine.digest
    assert restarting.everything() == node.everything()


@pytest.mark.parametrize(("name", "code", "operations"), CASES)
def test_what_one_command_says_counts_for_no_other(name: str, code: str, operations: list[AnyOperation]) -> None:
    node = Node()
    node.publish(*"abcdefgh")
    said = Within(Capacity(**{name: 1}))
    assert refusals(node.command(said, *operations).results)
    assert not refusals(node.command(*operations).results), code


def test_a_node_that_allows_fewer_partitions_still_changes_other_settings() -> None:
    node = Node()
    node.add_topic("t", TopicConfig(partitions=8))
    said = Within(Capacity(partitions_per_topic_max=4))
    change = SetTopic(0, "t", ANY_VERSION, is_change=True, given=TopicSettings(lease_ms=1000))
    _, result = node.command(said, change).results
    assert isinstance(result, TopicSet)
    assert result.config.partitions == 8
    assert len(refusals(node.command(said, partitions(9)).results)) == 1


def test_more_than_the_machines_own_may_be_said_and_never_more_than_the_ceilings() -> None:
    node = Node(MachineLimits(dedupe_per_topic_max=1))
    _, first, second = node.command(Within(Capacity(dedupe_per_topic_max=2)), keyed(1), keyed(2)).results
    assert isinstance(first, Appended)
    assert isinstance(second, Appended)
    beyond = Capacity(**dict.fromkeys(Capacity.__struct_fields__, 1 << 60))
    wide = limits_within(OWN, beyond)
    ceilings = msgspec.structs.asdict(CEILINGS)
    assert wide == replace(OWN, **ceilings)
    for name, ceiling in ceilings.items():
        assert getattr(OWN, name) <= ceiling


def test_a_node_says_only_what_is_not_the_machines_own() -> None:
    limits = {name: getattr(OWN, name) for name in Capacity.__struct_fields__}
    assert capacity_of(limits, OWN) == Capacity()
    assert capacity_of(limits | {"held_max": 7}, OWN) == Capacity(held_max=7)
    assert limits_within(OWN, Capacity()) == OWN
    assert limits_within(OWN, Capacity(held_max=7)) == replace(OWN, held_max=7)


def test_a_lease_pull_takes_what_there_is_room_for() -> None:
    node = Node()
    node.publish(*"abcdefgh")
    _, result = node.command(Within(Capacity(held_per_consumer_max=3)), replace_count(leased(), 8)).results
    assert isinstance(result, Leased)
    assert sum(found.messages.count for found in result.ranges) == 3


def replace_count(operation: LeasePull, count: int) -> LeasePull:
    return msgspec.structs.replace(operation, count_max=count)
