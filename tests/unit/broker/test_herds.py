"""Thousands who wait for one topic: they are woken in several turns, and none is forgotten."""

from __future__ import annotations

from falconq_cluster.broker.pulls import WAKES_MAX
from tests.unit.broker.test_pulls import Rig


def test_of_more_consumers_than_one_turn_wakes_each_gets_the_message():
    rig = Rig("n1", "n2")
    rig.publish("first")
    names = [f"c{number}" for number in range(2 * WAKES_MAX + 50)]
    for name in names:
        rig.consume("n2", consumer=name)
    rig.cluster.settle()
    consumes = [rig.consume("n2", consumer=name, wait_ms=5_000) for name in names]
    rig.cluster.settle()
    rig.publish("second")
    rig.cluster.advance(50)
    assert [consume.got for consume in consumes] == [["second"]] * len(names)
