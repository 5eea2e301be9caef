"""Strict priority over any number of levels and partitions, also while both are added."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.machine.commands import SetTopic
from falconq_cluster.machine.settings import TopicSettings
from tests.unit.machine.helpers import Node

LEVELS = tuple(f"l{n}" for n in range(16))

Step = tuple[str, int, int, int]


@settings(max_examples=80, deadline=None)
@given(
    level_count=st.integers(1, 16),
    partition_count=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from(["publish", "publish", "pull", "grow"]), *[st.integers(0, 15)] * 3), max_size=60
    ),
)
def test_the_most_urgent_level_of_all_partitions_goes_first_and_each_message_once(
    level_count: int, partition_count: int, steps: list[Step]
) -> None:
    node = Node()
    node.result(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(partition_count, LEVELS[:level_count])))
    waiting: dict[tuple[int, int], list[str]] = {}
    published = delivered = 0

    def take(count: int) -> None:
        nonlocal delivered
        messages = node.read(node.pull(count))
        assert len(messages) == min(count, sum(len(queue) for queue in waiting.values()))
        for message in messages:
            # Nothing more urgent waits anywhere, and within its level of its partition it is the oldest.
            assert message.level == max(level for (level, _), queue in waiting.items() if queue)
            assert waiting[message.level, message.partition].pop(0) == message.message.decode()
        delivered += len(messages)

    for kind, one, two, three in steps:
        if kind == "publish":
            level, partition = one % level_count, two % partition_count
            texts = [str(published + place) for place in range(1 + three % 4)]
            node.publish(*texts, level=level, partition=partition)
            waiting.setdefault((level, partition), []).extend(texts)
            published += len(texts)
        elif kind == "pull":
            take(1 + one)
        else:
            level_count, partition_count = min(16, level_count + one % 3), min(8, partition_count + two % 2)
            node.result(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(partition_count, LEVELS[:level_count])))
            if three % 2:
                node.reload()
    take(1000)
    assert delivered == published
