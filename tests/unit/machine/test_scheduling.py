"""The choice of fresh messages, as every kind of pull uses it."""

from __future__ import annotations

from falconq_cluster.machine.consumers import create_consumer
from falconq_cluster.machine.machine import DEFAULT_LIMITS
from falconq_cluster.machine.scheduling import ALL_PARTITIONS, Demand, take_next
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.turn import Turn
from tests.unit.machine.helpers import START_MS, Node


def test_nothing_below_the_least_level_that_is_asked_for_is_taken():
    node = Node()
    node.add_topic("t", TopicConfig(2, ("low", "mid", "high")))
    for level in range(3):
        for partition in range(2):
            node.publish(f"{level}{partition}", level=level, partition=partition)
    turn = Turn(node.machine.state, node.store, DEFAULT_LIMITS, node.machine.applied_index + 1, START_MS)
    topic = node.machine.state.topics["t"]
    consumer = create_consumer(turn, topic, "c")
    taken = take_next(turn, topic, consumer, Demand(ALL_PARTITIONS, 10, 1 << 20, level_min=1))
    found = [message.message.decode() for message in node.views.read_ranges("t", taken.ranges)]
    assert found == ["20", "21", "10", "11"]
    assert node.views.pending("t", "c") == [2, 0, 0]
