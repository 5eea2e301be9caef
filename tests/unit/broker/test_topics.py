"""Topics are changed through any node, and the leader sees to it that deleted ones are trimmed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.pulls import Pulls
from falconq_cluster.broker.requests import Batch, ConsumeRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import DeleteTopic, Done, SetTopic, TopicSet, Trim, decode_command, decode_entry
from falconq_cluster.machine.keys import OF_TOPICS
from falconq_cluster.machine.settings import TopicSettings
from tests.unit.broker.loopback import Loopback, Member, append, commands_of, error_of, pull, settled

INTERVAL_MS = BrokerLimits().trim_interval_ms


def put(topic: str = "t", partitions: int = 1, *, if_version: int = 0) -> SetTopic:
    return SetTopic(0, topic, if_version, is_change=False, given=TopicSettings(partitions))


def trims_of(cluster: Loopback) -> int:
    count = 0
    for _, entry in cluster.committed:
        if entry[0] == 0:
            count += [type(o) for o in decode_command(decode_entry(entry)[1]).operations] == [Trim]
    return count


def leftovers(node: Member) -> int:
    return sum(1 for prefix in OF_TOPICS for _ in node.store.scan_keys(prefix, bytes((prefix[0] + 1,))))


def fill(cluster: Loopback, count: int, topic: str = "t") -> None:
    asks = [
        cluster["n1"].submit(append(*(str(m) for m in range(2)), topic=topic, partition=n % 2)) for n in range(count)
    ]
    cluster.settle()
    assert all(not isinstance(ask.outcome.result, FalconQError) for ask in asks)


@pytest.mark.parametrize("through", ["n1", "n2"])
def test_a_topic_is_made_changed_and_deleted_through_any_node(through: str):
    cluster = settled("n1", "n2", "n3", leader="n1")
    node = cluster[through]
    asks = [node.submit(put(partitions=n)) for n in (1, 2)] + [node.submit(DeleteTopic(0, "t", 0))]
    cluster.settle()
    one, two, gone = (ask.outcome.result for ask in asks)
    assert isinstance(one, TopicSet)
    assert isinstance(two, TopicSet)
    assert (one.is_new, two.is_new, two.config.partitions) == (True, False, 2)
    assert gone == Done()
    assert all(member.broker.views().topic("t") is None for member in cluster.nodes.values())


def test_a_change_of_a_topic_has_a_command_of_its_own():
    cluster = settled("n1", leader="n1")
    for operation in (append("a"), append("b"), put("u"), pull(1), DeleteTopic(0, "t", 0), put("t"), append("c")):
        cluster["n1"].submit(operation)
    cluster.settle()
    kinds = [[type(o).__name__ for o in command.operations] for command in commands_of(cluster, "n1")]
    assert kinds == [["Append"], ["SetTopic"], ["Pull"], ["DeleteTopic"], ["SetTopic"], ["Append"]]


def test_the_leader_trims_a_deleted_topic_bit_by_bit_until_nothing_is_left():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n1"].submit(put(partitions=2))
    fill(cluster, 1200)
    before = leftovers(cluster["n2"])
    cluster["n2"].submit(DeleteTopic(0, "t", 0))
    cluster.settle()
    assert trims_of(cluster) == 1
    cluster.advance(INTERVAL_MS - 1, grain_ms=1)
    assert trims_of(cluster) == 1
    cluster.advance(20 * INTERVAL_MS)
    assert trims_of(cluster) == -(-before // 499)
    assert [leftovers(node) for node in cluster.nodes.values()] == [0, 0]
    assert not cluster["n1"].machine.state.deletions
    cluster.advance(20 * INTERVAL_MS)
    assert trims_of(cluster) == -(-before // 499)


def test_trimming_goes_on_under_the_next_leader():
    cluster = settled("n1", "n2", "n3", leader="n1")
    cluster["n1"].submit(put(partitions=2))
    fill(cluster, 2000)
    cluster["n1"].submit(DeleteTopic(0, "t", 0))
    cluster.settle()
    for leader in ("n2", "n3", "n1"):
        # What the old leader had appended is lost, its Trim with it.
        cluster.lead.step()
        cluster.elect(leader, kept_count=0)
        cluster.settle()
        assert cluster["n1"].machine.state.deletions
    cluster.advance(50 * INTERVAL_MS)
    assert [leftovers(node) for node in cluster.nodes.values()] == [0, 0, 0]


def test_trimming_goes_on_after_a_restart_of_all_nodes():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n1"].submit(put(partitions=2))
    fill(cluster, 1500)
    cluster["n1"].submit(DeleteTopic(0, "t", 0))
    cluster.settle()
    for node in cluster.nodes.values():
        node.restart()
    cluster.elect("n2")
    cluster.settle()
    cluster.advance(50 * INTERVAL_MS)
    assert [leftovers(node) for node in cluster.nodes.values()] == [0, 0]


def test_who_waits_for_messages_of_a_topic_is_told_that_it_was_deleted():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n1"].submit(append("a"))
    cluster.settle()
    pulls = Pulls(cluster["n2"].broker)
    answers: list[Batch | FalconQError] = []
    now_ms = cluster.clock.now_ms
    request = ConsumeRequest(topic="t", consumer="c", wait_ms=9_000, deadline_ms=now_ms + 9_000)
    for _ in range(2):
        pulls.consume(request, answers.append)
        cluster.settle()
    pulls.consume(replace(request, partition=0), answers.append)
    cluster.settle()
    assert (len(answers), pulls.waiting_count) == (1, 2)
    cluster["n1"].submit(DeleteTopic(0, "t", 0))
    cluster["n1"].submit(append("of another topic"))
    cluster.settle()
    assert pulls.waiting_count == 0
    for answer in answers[1:]:
        assert isinstance(answer, FalconQError)
        assert answer.code.code == "topic_not_found"


def test_a_change_that_expires_on_its_way_changes_nothing():
    cluster = settled("n1", "n2", leader="n1")
    ask = cluster["n2"].submit(put(), timeout_ms=100)
    cluster["n2"].broker._turn()
    cluster.clock.now_ms += 2_000
    cluster.settle()
    assert error_of(ask).code.code == "unknown_outcome"
    assert cluster["n1"].broker.views().topic("t") is None
