"""The origin's side: group commit, order, windows, resending, deadlines (PROTOCOL.md P9, P10, P12)."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import (
    Append,
    Appended,
    Command,
    Pulled,
    Refused,
    decode_command,
    decode_entry,
)
from tests.unit.broker.loopback import Ask, Loopback, Member, append, pull, stored


def commands_of(cluster: Loopback, origin: str) -> list[Command]:
    """What the log holds of one origin."""
    found = []
    for _, entry in cluster.committed + cluster.tail:
        if entry[0] == 0:
            command = decode_command(decode_entry(entry)[1])
            if command.origin == origin:
                found.append(command)
    return found


def error_of(ask: Ask) -> FalconQError:
    assert isinstance(ask.outcome.result, FalconQError)
    return ask.outcome.result


def settled(*names: str, leader: str, limits: BrokerLimits | None = None) -> Loopback:
    cluster = Loopback(*names, leader=leader, limits=limits)
    cluster.settle()
    return cluster


def test_all_that_waits_at_one_moment_becomes_one_command_with_one_operation_for_each_level():
    cluster = settled("n1", leader="n1")
    asks = [cluster["n1"].submit(append(f'"{n}"', level=n % 2)) for n in range(40)]
    cluster.settle()
    (command,) = commands_of(cluster, "n1")
    assert [(o.level, o.count) for o in command.operations if isinstance(o, Append)] == [(0, 20), (1, 20)]
    offsets = [ask.outcome.result.base_offset for ask in asks if isinstance(ask.outcome.result, Appended)]
    assert offsets == [n // 2 + 20 * (n % 2) for n in range(40)]
    assert stored(cluster["n1"]) == [f'"{n}"' for n in (*range(0, 40, 2), *range(1, 40, 2))]


def test_each_waiter_of_a_merged_append_gets_the_place_the_id_and_the_index_of_its_own_message():
    cluster = settled("n1", "n2", leader="n1")
    asks = [cluster["n2"].submit(append(f'"{n}"')) for n in range(5)]
    cluster.settle()
    index = asks[0].outcome.index
    shown = cluster["n2"].broker.views().peek("t", partition=0, offset=0, count=10)
    for ask, message in zip(asks, shown, strict=True):
        result = ask.outcome.result
        assert isinstance(result, Appended)
        assert (result.base_offset, result.count) == (message.offset, 1)
        assert f"{ask.outcome.index}.{result.first_id}" == message.id
        assert ask.outcome.index == index


def test_requests_that_expire_at_different_times_are_judged_apart():
    cluster = settled("n1", leader="n1")
    cluster["n1"].submit(append('"short"'), timeout_ms=500)
    cluster["n1"].submit(append('"long"'), timeout_ms=5_000)
    cluster.settle()
    (command,) = commands_of(cluster, "n1")
    assert len(command.operations) == 2


def test_messages_of_one_level_keep_their_order_whatever_can_be_merged():
    cluster = settled("n1", leader="n1")
    cluster["n1"].submit(append('"0"'), timeout_ms=5_000)
    cluster["n1"].submit(append('"1"'), timeout_ms=500)
    cluster["n1"].submit(append('"2"'), timeout_ms=5_000)
    cluster["n1"].submit(append('"3"', '"4"'), timeout_ms=5_000)
    cluster["n1"].submit(append('"5"'), timeout_ms=5_000)
    cluster.settle()
    assert stored(cluster["n1"]) == [f'"{n}"' for n in range(6)]


def test_an_operation_expires_after_its_deadline_and_not_long_after():
    cluster = settled("n1", leader="n1")
    cluster["n1"].submit(append('"a"'), timeout_ms=3_000)
    cluster.settle()
    (command,) = commands_of(cluster, "n1")
    (operation,) = command.operations
    assert isinstance(operation, Append)
    deadline = cluster["n1"].log_time_ms() + 3_000
    assert deadline <= operation.not_after_ms <= deadline + 500


def test_one_batch_stays_small_however_much_waits():
    limits = BrokerLimits(merge_count_max=10)
    cluster = settled("n1", leader="n1", limits=limits)
    for n in range(25):
        cluster["n1"].submit(append(f'"{n}"'))
    cluster.settle()
    (command,) = commands_of(cluster, "n1")
    assert [o.count for o in command.operations if isinstance(o, Append)] == [10, 10, 5]
    assert stored(cluster["n1"]) == [f'"{n}"' for n in range(25)]


def test_a_command_is_bounded_in_bytes_operations_and_keys():
    big = '"' + "x" * 600_000 + '"'
    cluster = settled("n1", leader="n1")
    for _ in range(4):
        cluster["n1"].submit(append(big))
    cluster.settle()
    assert [len(c.operations) for c in commands_of(cluster, "n1")] == [1, 1, 1, 1]

    for n in range(900):
        cluster["n1"].submit(append('"m"', topic=f"topic-{n}"))
    before = len(cluster.committed)
    cluster.settle()
    for term, entry in cluster.committed[before:]:
        assert len(decode_command(decode_entry(entry)[1]).operations) <= 500, term
    check = Member(cluster, "check", BrokerLimits())
    while check.applied_index < len(cluster.committed):
        assert len(check.apply_silently().changes) <= 1_000


def test_pulls_with_attempts_of_many_consumers_stay_within_the_keys_of_one_command():
    cluster = settled("n1", leader="n1")
    cluster["n1"].submit(append(*[f'"{n}"' for n in range(50)]))
    cluster.settle()
    for n in range(300):
        cluster["n1"].submit(pull(1, consumer=f"c{n}", attempt=f"a{n}"))
    cluster.settle()
    check = Member(cluster, "check", BrokerLimits())
    while check.applied_index < len(cluster.committed):
        assert len(check.apply_silently().changes) <= 1_000


def test_an_operation_that_fits_no_log_entry_is_refused_at_once():
    cluster = settled("n1", leader="n1")
    with pytest.raises(FalconQError) as caught:
        cluster["n1"].submit(append('"' + "x" * (4 << 20) + '"'))
    assert caught.value.code.code == "body_too_large"


@pytest.mark.parametrize("limits", [BrokerLimits(waiting_operations_max=3), BrokerLimits(waiting_bytes_max=300)])
def test_waiting_work_is_bounded_in_count_and_bytes(limits: BrokerLimits):
    cluster = Loopback("n1", limits=limits)
    with pytest.raises(FalconQError) as caught:  # noqa: PT012  # which of them is refused depends on the limit
        for _ in range(10):
            cluster["n1"].submit(append('"' + "x" * 40 + '"'))
    assert caught.value.code.code == "overloaded"
    assert 1 <= cluster["n1"].broker.outbox.waiting_count <= 3
    cluster.elect("n1")
    cluster.settle()
    assert cluster["n1"].broker.outbox.waiting_bytes == 0
    assert len(stored(cluster["n1"])) >= 1


def test_no_more_commands_are_outstanding_than_the_window_and_what_waits_gathers_for_the_next():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(outstanding_commands_max=2))
    origin = cluster["n2"]
    for n in range(6):
        origin.submit(append(f'"{n}"'))
        cluster.clock.run_due()
    assert origin.broker.outbox.outstanding_count == 2
    assert origin.broker.outbox.waiting_count == 4
    cluster.settle()
    assert [c.sequence for c in commands_of(cluster, "n2")] == [1, 2, 3]
    assert stored(origin) == [f'"{n}"' for n in range(6)]


def test_outstanding_bytes_are_bounded():
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(outstanding_bytes_max=1_000))
    for _ in range(5):
        cluster["n2"].submit(append('"' + "x" * 600 + '"'))
        cluster.clock.run_due()
    assert cluster["n2"].broker.outbox.outstanding_count == 2
    cluster.settle()
    assert len(stored(cluster["n2"])) == 5


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
