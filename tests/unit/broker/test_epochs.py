"""Openings, jumps by snapshots, and what the leader accepts (PROTOCOL.md P9)."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import Appended, Command, OpenOrigin, Tick, encode_command
from falconq_cluster.raft.frames import Expected, Forward, Propose
from tests.unit.broker.loopback import Loopback, append, commands_of, error_of, pull, settled, stored


def test_the_epoch_is_the_index_of_the_opening_and_sequences_start_at_one():
    cluster = settled("n1", "n2", leader="n1")
    for name in ("n1", "n2"):
        origin = cluster["n1"].machine.origin(name)
        assert origin is not None
        assert cluster[name].broker.outbox.epoch == origin.epoch
        cluster[name].submit(append(f'"{name}"'))
    cluster.settle()
    assert [(c.epoch, c.sequence) for c in commands_of(cluster, "n2")] == [(cluster["n2"].broker.outbox.epoch, 1)]


def test_an_opening_that_is_lost_is_proposed_again():
    cluster = Loopback("n1", "n2")
    cluster.cut.add(frozenset(("n1", "n2")))
    cluster.elect("n1")
    cluster.settle()
    assert not cluster["n2"].broker.is_open
    cluster.cut.clear()
    cluster.advance(600)
    assert cluster["n2"].broker.is_open


def test_a_restart_takes_a_new_epoch_and_what_the_old_one_sent_is_dropped():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n2"].submit(append('"old"'))
    cluster.clock.run_due()
    frame = cluster.links["n2", "n1"][0]
    cluster.lose("n2", "n1")
    cluster["n2"].restart()
    cluster.settle()
    cluster.links["n2", "n1"].append(frame)
    cluster["n2"].submit(append('"new"'))
    cluster.settle()
    assert stored(cluster["n1"]) == ['"new"']
    assert not cluster.tail


def test_an_older_opening_that_comes_late_makes_the_origin_open_again_and_loses_nothing():
    cluster = settled("n1", "n2", leader="n1")
    asks = [cluster["n2"].submit(append('"a"'))]
    cluster.clock.run_due()
    cluster.links["n2", "n1"].appendleft(cluster.links["n2", "n1"].pop())
    late = encode_command(Command("", 0, 0, [OpenOrigin("n2", b"an earlier start")]))
    cluster["n1"].broker.broker_frame("n2", Propose(late))
    asks.append(cluster["n2"].submit(append('"b"')))
    cluster.settle()
    assert [type(ask.outcome.result) for ask in asks] == [Appended, Appended]
    assert stored(cluster["n2"]) == ['"a"', '"b"']
    assert cluster["n2"].broker.is_open


def test_what_a_snapshot_went_over_is_unknown_and_what_it_did_not_is_applied_once_under_the_new_epoch():
    cluster = settled("n1", "n2", leader="n1")
    asks = []
    for n in range(3):
        asks.append(cluster["n2"].submit(append(f'"{n}"')))
        cluster.clock.run_due()
    cluster.deliver_one("n2", "n1")
    cluster["n1"].step()
    cluster.commit()
    cluster.lose("n2", "n1")
    cluster["n2"].jump(len(cluster.committed))
    assert error_of(asks[0]).code.code == "unknown_outcome"
    assert not asks[1].outcomes
    asks.append(cluster["n2"].submit(append('"3"')))
    cluster.settle()
    assert [isinstance(ask.outcome.result, Appended) for ask in asks[1:]] == [True, True, True]
    assert stored(cluster["n1"]) == ['"0"', '"1"', '"2"', '"3"']


def test_a_command_of_the_old_epoch_that_is_applied_after_the_jump_still_gets_its_exact_result():
    cluster = settled("n1", "n2", leader="n1")
    asks = []
    for n in range(2):
        asks.append(cluster["n2"].submit(append(f'"{n}"')))
        cluster.clock.run_due()
    cluster.deliver()
    cluster["n1"].step()
    cluster.commit(1)
    cluster["n2"].jump(len(cluster.committed))
    cluster.settle()
    assert error_of(asks[0]).code.code == "unknown_outcome"
    assert isinstance(asks[1].outcome.result, Appended)
    assert cluster["n2"].broker.metrics.resubmitted_count == 0
    assert stored(cluster["n1"]) == ['"0"', '"1"']


def test_a_jump_over_the_nodes_own_opening_leaves_everything_outstanding_unknown():
    cluster = settled("n1", "n2", leader="n1")
    ask = cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    cluster["n1"].broker.broker_frame("n2", Propose(encode_command(Command("", 0, 0, [OpenOrigin("n2", b"x")]))))
    cluster["n1"].step()
    cluster.commit()
    cluster["n2"].jump(len(cluster.committed))
    assert error_of(ask).code.code == "unknown_outcome"
    cluster.settle()
    assert cluster["n2"].broker.is_open


def test_a_client_that_went_away_is_not_proposed_for_again_under_the_new_epoch():
    cluster = settled("n1", "n2", leader="n1")
    ask = cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    assert ask.waiter is not None
    ask.waiter.cancel()
    cluster.lose("n2", "n1")
    cluster["n2"].jump(len(cluster.committed))
    cluster.settle()
    assert stored(cluster["n1"]) == []
    assert error_of(ask).code.code == "not_ready"


def test_a_deadline_that_passes_after_the_jump_ends_the_waiter_and_it_is_not_proposed_again():
    cluster = settled("n1", "n2", leader="n1")
    ask = cluster["n2"].submit(append('"a"'), timeout_ms=200)
    cluster.clock.run_due()
    cluster.lose("n2", "n1")
    cluster.cut.add(frozenset(("n1", "n2")))
    cluster["n2"].jump(len(cluster.committed))
    cluster.advance(300)
    assert error_of(ask).code.code == "unknown_outcome"
    cluster.cut.clear()
    cluster.advance(2_000)
    assert cluster["n2"].broker.is_open
    assert stored(cluster["n1"]) == []


def test_a_leader_takes_only_what_a_member_sends_for_itself():
    cluster = settled("n1", "n2", leader="n1")
    broker: Broker = cluster["n1"].broker
    epoch = cluster["n2"].broker.outbox.epoch
    command = encode_command(Command("n2", epoch, 1, [append('"a"')]))
    broker.broker_frame("n3", Forward(epoch, 1, command))
    broker.broker_frame("n2", Forward(epoch, 2, command))
    broker.broker_frame("n2", Forward(epoch, 1, b"not a command"))
    broker.broker_frame("n2", Propose(encode_command(Command("", 0, 0, [OpenOrigin("n3", b"x")]))))
    broker.broker_frame("n2", Propose(encode_command(Command("", 0, 0, [Tick()]))))
    broker.broker_frame("n2", Propose(encode_command(Command("", 0, 0, [OpenOrigin("n2", b"x"), append('"a"')]))))
    broker.broker_frame("n2", Propose(b"not a command"))
    assert cluster["n1"].step() == 0
    broker.broker_frame("n2", Forward(epoch, 1, command))
    assert cluster["n1"].step() == 1


def test_a_follower_takes_no_commands():
    cluster = settled("n1", "n2", leader="n1")
    epoch = cluster["n1"].broker.outbox.epoch
    cluster["n2"].broker.broker_frame("n1", Forward(epoch, 1, encode_command(Command("n1", epoch, 1, []))))
    assert cluster["n2"].step() == 0


def test_a_repeat_is_dropped_by_the_leader_and_by_every_machine():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    frame = cluster.links["n2", "n1"][0]
    cluster.links["n2", "n1"].append(frame)
    cluster.settle()
    assert cluster["n1"].broker.metrics.repeat_count == 1
    (entry,) = [entry for _, entry in cluster.committed if b'"a"' in entry]
    cluster.tail.append((cluster.term, entry))
    cluster.settle()
    assert stored(cluster["n1"]) == stored(cluster["n2"]) == ['"a"']


@pytest.mark.parametrize(
    "change", [{"term": 0}, {"epoch": 1}, {"sequence": 1_000_000}], ids=["term", "epoch", "sequence"]
)
def test_an_answer_that_is_out_of_date_rewinds_nothing_that_matters(change: dict[str, int]):
    cluster = settled("n1", "n2", leader="n1")
    cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    sent = len(cluster.links["n2", "n1"])
    right = {"term": cluster.term, "epoch": cluster["n2"].broker.outbox.epoch, "sequence": 1}
    cluster["n2"].broker.broker_frame("n1", Expected(**(right | change)))
    cluster.clock.run_due()
    assert len(cluster.links["n2", "n1"]) == sent
    cluster.settle()
    assert stored(cluster["n2"]) == ['"a"']


def test_collect_gives_about_as_many_bytes_as_asked_and_the_rest_in_the_next_step():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(command_bytes_max=1_000))
    for _ in range(6):
        cluster["n1"].submit(append('"' + "x" * 900 + '"'))
    counts = []
    while count := cluster["n1"].step(bytes_max=2_500):
        counts.append(count)
        assert cluster["n1"].wants_step == (sum(counts) < 6)
    assert counts == [2, 2, 2]


def test_a_stopped_broker_opens_nothing_and_takes_nothing():
    cluster = settled("n1", leader="n1")
    cluster["n1"].broker.stop()
    with pytest.raises(FalconQError):
        cluster["n1"].submit(pull())
    cluster.committed.append(cluster.committed[1])
    cluster.tail.append((cluster.term, cluster.committed[-1][1]))
    cluster["n1"].apply()
    assert cluster["n1"].step() == 0
    assert cluster.clock.live_count == 0
