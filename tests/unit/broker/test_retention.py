"""The leader sees to it that topics keep no more than they may, and that what is trimmed leaves the store."""

from __future__ import annotations

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.machine.commands import (
    SetTopic,
    decode_command,
    decode_entry,
)
from falconq_cluster.machine.keeping import Purge, Purged, TrimLevels
from falconq_cluster.machine.keys import BATCH, prefix_end
from falconq_cluster.machine.settings import Retention, TopicSettings
from tests.unit.broker.loopback import Loopback, Member, append, pull, settled

INTERVAL_MS = BrokerLimits().trim_interval_ms
LOOK_MS = BrokerLimits().retention_interval_ms


def keep(cluster: Loopback, retention: Retention, topic: str = "t") -> None:
    given = TopicSettings(retention=retention)
    cluster["n1"].submit(SetTopic(0, topic, 0, is_change=False, given=given))
    cluster.settle()


def publish(cluster: Loopback, *texts: str, topic: str = "t") -> None:
    for text in texts:
        cluster["n1"].submit(append(text, topic=topic))
        cluster.settle()


def kept(node: Member, topic: str = "t") -> list[str]:
    return [m.message.decode() for m in node.broker.views().peek(topic, partition=0, offset=0, count=10_000)]


def stored(node: Member) -> int:
    return sum(1 for _ in node.store.scan_keys(BATCH, prefix_end(BATCH)))


def trims_of(cluster: Loopback) -> int:
    count = 0
    for _, entry in cluster.committed:
        if entry[0] == 0:
            operations = decode_command(decode_entry(entry)[1]).operations
            count += sum(isinstance(operation, TrimLevels) for operation in operations)
    return count


def test_a_topic_that_grew_too_large_is_trimmed_at_once_and_erased_a_little_later():
    cluster = settled("n1", "n2", leader="n2")
    keep(cluster, Retention(messages=2))
    publish(cluster, "a", "b", "c")
    assert [kept(node) for node in cluster.nodes.values()] == [["b", "c"]] * 2
    cluster.advance(3 * INTERVAL_MS)
    assert [stored(node) for node in cluster.nodes.values()] == [2, 2]
    before = trims_of(cluster)
    cluster.advance(5 * LOOK_MS)
    assert trims_of(cluster) == before
    assert cluster["n2"].broker.metrics.trimmed_count == 1
    assert cluster["n1"].broker.metrics.trimmed_count == 0


def test_what_grows_old_is_trimmed_though_nobody_asks_for_anything():
    cluster = settled("n1", "n2", leader="n1")
    keep(cluster, Retention(ms=10_000))
    publish(cluster, "a")
    cluster.advance(9_000)
    publish(cluster, "b")
    cluster.advance(1_000 + 2 * LOOK_MS)
    assert [kept(node) for node in cluster.nodes.values()] == [["b"]] * 2
    cluster.advance(10_000)
    assert [stored(node) for node in cluster.nodes.values()] == [0, 0]


def test_what_every_consumer_has_settled_is_trimmed():
    cluster = settled("n1", "n2", leader="n1")
    keep(cluster, Retention(acked=True))
    publish(cluster, "a", "b", "c")
    cluster["n2"].submit(pull(2))
    cluster.settle()
    cluster.advance(3 * LOOK_MS)
    assert [kept(node) for node in cluster.nodes.values()] == [["c"]] * 2
    assert [stored(node) for node in cluster.nodes.values()] == [1, 1]


def test_a_purged_topic_is_erased_and_other_topics_are_left_alone():
    cluster = settled("n1", "n2", leader="n1")
    publish(cluster, *"abc")
    publish(cluster, "other", topic="u")
    ask = cluster["n2"].submit(Purge(0, "t"))
    cluster.settle()
    assert ask.outcome.result == Purged(3)
    assert kept(cluster["n1"]) == []
    cluster.advance(3 * INTERVAL_MS)
    assert [stored(node) for node in cluster.nodes.values()] == [1, 1]
    assert kept(cluster["n2"], "u") == ["other"]


def test_the_next_leader_goes_on_where_the_last_one_ended():
    cluster = settled("n1", "n2", "n3", leader="n1")
    keep(cluster, Retention(ms=10_000))
    publish(cluster, *"abc")
    cluster.elect("n2")
    cluster.settle()
    cluster.advance(11_000)
    assert [kept(node) for node in cluster.nodes.values()] == [[], [], []]
    # What the leader before had proposed and lost is proposed again.
    publish(cluster, "d")
    cluster.clock.now_ms += 10_000
    cluster.advance(LOOK_MS)
    cluster.elect("n3", kept_count=0)
    cluster.settle()
    cluster.advance(3 * LOOK_MS)
    assert [stored(node) for node in cluster.nodes.values()] == [0, 0, 0]


def test_without_retention_no_leader_looks_at_anything():
    cluster = settled("n1", leader="n1")
    publish(cluster, *"abc")
    before = cluster.clock.live_count
    cluster.advance(5 * LOOK_MS)
    assert (trims_of(cluster), cluster.clock.live_count <= before) == (0, True)


def test_more_topics_than_one_look_takes_are_all_looked_at():
    cluster = settled("n1", leader="n1")
    for number in range(450):
        keep(cluster, Retention(ms=10_000), topic=f"t{number}")
        cluster["n1"].submit(append("a", topic=f"t{number}"))
    cluster.settle()
    cluster.advance(10_000 + 6 * LOOK_MS)
    assert stored(cluster["n1"]) == 0
