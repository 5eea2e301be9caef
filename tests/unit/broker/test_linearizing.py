"""A linearizable read waits for the leader's confirmed index and until it is applied here, or is refused (P17)."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.errors import FalconQError
from falconq_cluster.raft.frames import ReadIndex
from tests.unit.broker.loopback import Loopback, Member, append, settled, stored


class Reading:
    """One read: the code of its refusal, or None."""

    def __init__(self, member: Member, *, timeout_ms: int = 10_000) -> None:
        self.codes: list[str | None] = []
        deadline_ms = member.log.clock.now_ms + timeout_ms
        self.read = member.broker.linearizable.confirm(deadline_ms, self._done)

    def _done(self, refusal: FalconQError | None) -> None:
        self.codes.append(None if refusal is None else refusal.code.code)


def confirm(cluster: Loopback) -> None:
    cluster.settle()
    cluster.confirm_reads()
    cluster.settle()


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_read_on_any_node_waits_for_the_confirmed_leader(name: str):
    cluster = settled("n1", "n2", "n3", leader="n1")
    reading = Reading(cluster[name])
    cluster.settle()
    assert reading.codes == []
    confirm(cluster)
    assert reading.codes == [None]


def test_a_read_waits_until_the_node_has_applied_what_was_committed_when_it_came():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n1"].submit(append('"a"'))
    cluster["n1"].step()
    cluster.commit()
    cluster["n1"].apply()
    reading = Reading(cluster["n2"])
    cluster.deliver()
    cluster.confirm_reads()
    cluster.deliver()
    assert reading.codes == []
    assert stored(cluster["n2"]) == []
    cluster["n2"].apply()
    assert reading.codes == [None]
    assert stored(cluster["n2"]) == ['"a"']


def test_a_read_that_came_after_the_question_does_not_share_its_answer():
    cluster = settled("n1", "n2", leader="n1")
    first = Reading(cluster["n2"])
    second = Reading(cluster["n2"])
    third = Reading(cluster["n2"])
    assert cluster["n2"].broker.metrics.read_round_count == 1
    confirm(cluster)
    assert first.codes == [None]
    assert second.codes == third.codes == []
    confirm(cluster)
    assert second.codes == third.codes == [None]
    assert cluster["n2"].broker.metrics.read_round_count == 2


def test_without_a_leader_a_read_is_refused_in_time_and_never_answered():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(no_leader_wait_ms=1000))
    cluster.elect(None)
    reading = Reading(cluster["n2"])
    cluster.advance(900)
    assert reading.codes == []
    cluster.advance(200)
    assert reading.codes == ["no_leader"]


def test_a_leader_that_no_quorum_confirms_answers_nobody():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(no_leader_wait_ms=1000))
    readings = [Reading(cluster["n1"]), Reading(cluster["n2"])]
    cluster.advance(1200)
    assert [reading.codes for reading in readings] == [["no_leader"], ["no_leader"]]


def test_a_read_asks_again_when_another_leads():
    cluster = settled("n1", "n2", "n3", leader="n1")
    reading = Reading(cluster["n2"])
    cluster.settle()
    cluster.elect("n3")
    confirm(cluster)
    assert reading.codes == [None]


def test_a_lost_question_is_asked_again():
    cluster = settled("n1", "n2", leader="n1")
    reading = Reading(cluster["n2"])
    cluster.lose("n2", "n1")
    cluster.advance(1100)
    confirm(cluster)
    assert reading.codes == [None]


def test_an_answer_to_another_question_or_process_is_none():
    cluster = settled("n1", "n2", leader="n1")
    reading = Reading(cluster["n2"])
    for number in (0, 1, 2):
        cluster["n2"].broker.broker_frame("n1", ReadIndex(number, 1))
    assert reading.codes == []


def test_a_node_that_does_not_apply_it_in_time_refuses():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n1"].submit(append('"a"'))
    cluster["n1"].step()
    cluster.commit()
    reading = Reading(cluster["n2"], timeout_ms=50)
    cluster.deliver()
    cluster.confirm_reads()
    cluster.deliver()
    cluster.clock.now_ms += 100
    cluster.clock.run_due()
    assert reading.codes == ["index_not_reached"]


def test_a_cancelled_read_and_a_stop_leave_nothing():
    cluster = settled("n1", "n2", leader="n1")
    gone, stopped = Reading(cluster["n2"]), Reading(cluster["n2"])
    gone.read.cancel()
    cluster["n2"].broker.stop()
    confirm(cluster)
    assert gone.codes == []
    assert stopped.codes == ["not_ready"]


def test_reads_are_bounded():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(index_waits_max=2))
    Reading(cluster["n2"])
    Reading(cluster["n2"])
    with pytest.raises(FalconQError, match="wait for the leader already"):
        Reading(cluster["n2"])
