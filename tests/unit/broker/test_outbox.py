"""The origin's side: sending again, deadlines, clients that go (PROTOCOL.md P9, P10)."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import Appended, Pulled, Refused
from tests.unit.broker.loopback import Loopback, append, commands_of, error_of, pull, settled, stored


def test_commands_lost_with_a_connection_are_sent_again_in_order_and_applied_once():
    cluster = settled("n1", "n2", leader="n1")
    asks = []
    for n in range(4):
        asks.append(cluster["n2"].submit(append(f'"{n}"')))
        cluster.clock.run_due()
    cluster.deliver_one("n2", "n1")
    cluster.lose("n2", "n1")
    cluster.reconnect("n1", "n2")
    cluster.settle()
    assert stored(cluster["n2"]) == ['"0"', '"1"', '"2"', '"3"']
    assert [c.sequence for c in commands_of(cluster, "n2")] == [1, 2, 3, 4]
    assert all(isinstance(ask.outcome.result, Appended) for ask in asks)


def test_a_command_is_sent_again_unchanged():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    first = cluster.links["n2", "n1"][0]
    cluster.lose("n2", "n1")
    cluster.clock.now_ms += 700
    cluster.reconnect("n2")
    cluster.clock.run_due()
    assert cluster.links["n2", "n1"][0] == first


def test_a_gap_is_answered_once_and_the_origin_rewinds_once():
    cluster = settled("n1", "n2", leader="n1")
    for n in range(5):
        cluster["n2"].submit(append(f'"{n}"'))
        cluster.clock.run_due()
    cluster.links["n2", "n1"].popleft()
    cluster.deliver()
    assert len(cluster.links["n1", "n2"]) == 1
    cluster.settle()
    assert cluster["n2"].broker.metrics.rewind_count == 1
    assert cluster["n1"].broker.metrics.gap_count == 4
    assert stored(cluster["n1"]) == [f'"{n}"' for n in range(5)]


def test_a_loss_without_a_sign_is_made_good_after_the_resend_time_and_repeats_get_rarer():
    cluster = settled("n1", "n2", leader="n1")
    ask = cluster["n2"].submit(append('"a"'), timeout_ms=60_000)
    cluster.clock.run_due()
    cluster.lose("n2", "n1")
    cluster.cut.add(frozenset(("n1", "n2")))
    cluster.advance(10_000)
    assert cluster["n2"].broker.metrics.rewind_count == 3
    cluster.cut.clear()
    cluster.advance(8_000)
    assert isinstance(ask.outcome.result, Appended)
    assert stored(cluster["n2"]) == ['"a"']


def test_what_the_new_leader_already_has_is_not_appended_twice():
    cluster = settled("n1", "n2", "n3", leader="n1")
    ask = cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    cluster.deliver()
    cluster["n1"].step()
    cluster.elect("n3")
    cluster.settle()
    assert isinstance(ask.outcome.result, Appended)
    assert [c.sequence for c in commands_of(cluster, "n2")] == [1]


def test_what_the_new_leader_lacks_is_sent_to_it():
    cluster = settled("n1", "n2", "n3", leader="n1")
    asks = []
    for n in range(3):
        asks.append(cluster["n2"].submit(append(f'"{n}"')))
        cluster.clock.run_due()
        cluster.deliver()
        cluster["n1"].step()
    cluster.elect("n3", kept_count=1)
    cluster.settle()
    assert all(isinstance(ask.outcome.result, Appended) for ask in asks)
    assert stored(cluster["n3"]) == ['"0"', '"1"', '"2"']


def test_an_origin_that_sent_before_the_leader_could_take_it_is_asked_again():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n2"].submit(append('"a"'))
    cluster.elect("n1")
    cluster.clock.run_due()
    cluster.deliver()  # n1 has not applied the no-op of its term yet.
    assert not cluster.tail
    cluster["n1"].apply()
    cluster.settle()
    assert stored(cluster["n2"]) == ['"a"']
    assert cluster.clock.now_ms == 1_000


def test_a_leader_that_becomes_a_follower_forwards_what_was_not_committed():
    cluster = settled("n1", "n2", leader="n1")
    asks = [cluster["n1"].submit(append('"a"')), cluster["n1"].submit(append('"b"', level=1))]
    cluster["n1"].step()
    asks.append(cluster["n1"].submit(append('"c"')))
    cluster.elect("n2", kept_count=0)
    cluster.settle()
    assert stored(cluster["n2"]) == ['"a"', '"b"', '"c"']
    assert all(isinstance(ask.outcome.result, Appended) for ask in asks)


def test_without_a_leader_nothing_gets_a_sequence_and_the_deadline_says_surely_not_applied():
    cluster = settled("n1", "n2", leader="n1")
    cluster.elect(None)
    ask = cluster["n2"].submit(append('"a"'), timeout_ms=300)
    cluster.advance(320)
    assert error_of(ask).code.code == "no_leader"
    assert error_of(ask).code.status == 503
    cluster.elect("n1")
    cluster.settle()
    assert stored(cluster["n1"]) == []


def test_a_request_outlives_an_election_that_is_shorter_than_its_deadline():
    cluster = settled("n1", "n2", leader="n1")
    cluster.elect(None)
    ask = cluster["n2"].submit(append('"a"'))
    cluster.advance(2_000)
    assert not ask.outcomes
    cluster.elect("n1")
    cluster.settle()
    assert isinstance(ask.outcome.result, Appended)


def test_after_five_seconds_without_a_leader_all_that_wait_are_refused_and_new_ones_at_once():
    cluster = settled("n1", "n2", leader="n1")
    cluster.elect(None)
    ask = cluster["n2"].submit(append('"a"'), timeout_ms=60_000)
    cluster.advance(4_900)
    assert not ask.outcomes
    cluster.advance(200)
    assert error_of(ask).code.code == "no_leader"
    with pytest.raises(FalconQError) as caught:
        cluster["n2"].submit(append('"b"'))
    assert caught.value.code.code == "no_leader"
    cluster.elect("n2")
    cluster.settle()
    cluster["n2"].submit(append('"c"'))
    cluster.settle()
    assert stored(cluster["n2"]) == ['"c"']


def test_a_sequenced_operation_whose_deadline_passes_has_an_unknown_outcome():
    cluster = settled("n1", "n2", leader="n1")
    ask = cluster["n2"].submit(append('"a"'), timeout_ms=300)
    cluster.clock.run_due()
    cluster.deliver()
    cluster["n1"].step()
    cluster.clock.now_ms += 320
    cluster.clock.run_due()
    assert error_of(ask).code.code == "unknown_outcome"
    assert error_of(ask).code.status == 504
    cluster.settle()
    assert stored(cluster["n2"]) == ['"a"']
    assert len(ask.outcomes) == 1


def test_what_a_cut_off_follower_still_holds_takes_no_effect_after_its_time():
    cluster = settled("n1", "n2", leader="n1")
    cluster["n1"].submit(append('"a"'))
    cluster.settle()
    cluster.cut.add(frozenset(("n1", "n2")))
    ask = cluster["n2"].submit(pull(1), timeout_ms=1_000)
    cluster.advance(600_000, grain_ms=10_000)
    assert error_of(ask).code.code == "unknown_outcome"
    cluster.cut.clear()
    cluster.reconnect("n1", "n2")
    cluster.settle()
    (command,) = commands_of(cluster, "n2")
    assert command.sequence == 1
    taken = cluster["n1"].submit(pull(1))
    cluster.settle()
    assert isinstance(taken.outcome.result, Pulled)
    assert len(taken.outcome.result.ranges) == 1


def test_a_refusal_is_a_result_with_its_index():
    cluster = settled("n1", leader="n1")
    ask = cluster["n1"].submit(append('"a"', partition=7))
    cluster.settle()
    assert isinstance(ask.outcome.result, Refused)
    assert ask.outcome.result.code == "unknown_partition"
    assert ask.outcome.index == len(cluster.committed)


def test_a_node_that_does_not_serve_takes_nothing_new():
    cluster = settled("n1", leader="n1")
    cluster["n1"].is_serving = False
    with pytest.raises(FalconQError) as caught:
        cluster["n1"].submit(append('"a"'))
    assert caught.value.code.code == "not_ready"


def test_a_deadline_that_passes_before_the_node_has_its_epoch_says_not_ready():
    cluster = Loopback("n1", "n2")
    cluster.cut.add(frozenset(("n1", "n2")))
    cluster.elect("n1")
    ask = cluster["n2"].submit(append('"a"'), timeout_ms=300)
    cluster.advance(320)
    assert error_of(ask).code.code == "not_ready"


def test_a_deadline_that_passes_behind_a_full_window_says_overloaded():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(outstanding_commands_max=1))
    cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    ask = cluster["n2"].submit(append('"b"'), timeout_ms=300)
    cluster.clock.now_ms += 320
    cluster.clock.run_due()
    assert error_of(ask).code.code == "overloaded"
    cluster.settle()
    assert stored(cluster["n2"]) == ['"a"']


def test_a_waiter_that_fails_stops_neither_the_apply_nor_the_other_waiters():
    cluster = settled("n1", leader="n1")

    def defect(_outcome: object) -> None:
        raise RuntimeError("a defect of the submitter")

    cluster["n1"].broker.submit(append('"a"'), deadline_ms=cluster.clock.now_ms + 1_000, done=defect)
    ask = cluster["n1"].submit(append('"b"'))
    cluster.settle()
    assert isinstance(ask.outcome.result, Appended)


def test_a_cancelled_operation_without_a_sequence_is_never_proposed():
    cluster = Loopback("n1")
    ask = cluster["n1"].submit(append('"a"'))
    assert ask.waiter is not None
    ask.waiter.cancel()
    cluster.elect("n1")
    cluster.settle()
    assert stored(cluster["n1"]) == []
    assert ask.outcomes == []
    assert cluster["n1"].broker.outbox.waiting_bytes == 0


def test_a_cancelled_operation_with_a_sequence_is_applied_and_breaks_nothing():
    cluster = settled("n1", leader="n1")
    asks = [cluster["n1"].submit(append(f'"{n}"')) for n in range(3)]
    cluster["n1"].step()
    assert asks[1].waiter is not None
    asks[1].waiter.cancel()
    cluster.settle()
    assert stored(cluster["n1"]) == ['"0"', '"1"', '"2"']
    assert [isinstance(asks[n].outcome.result, Appended) for n in (0, 2)] == [True, True]


def test_a_stop_ends_every_waiter_with_what_is_known_of_it_and_leaves_no_timer():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(outstanding_commands_max=1))
    sequenced = cluster["n2"].submit(append('"a"'))
    cluster.clock.run_due()
    waiting = cluster["n2"].submit(append('"b"'))
    for node in cluster.nodes.values():
        node.broker.stop()
    assert error_of(sequenced).code.code == "unknown_outcome"
    assert error_of(waiting).code.code == "not_ready"
    cluster.clock.run_due()
    assert cluster.clock.live_count == 0
