"""Group commit: what waits becomes commands, in order and within every bound (PROTOCOL.md P10, P12)."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.capacity import Capacity, Within
from falconq_cluster.machine.commands import Append, Appended, AppendOnce, Refused, decode_command, decode_entry
from falconq_cluster.machine.operation import Once
from tests.unit.broker.loopback import Loopback, Member, append, commands_of, pull, settled, stored


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


def test_an_append_that_is_to_happen_once_is_never_merged_and_keeps_its_place():
    cluster = settled("n1", leader="n1")
    onces = [None, None, Once("a"), None, Once("b"), Once("p", 1), None]
    asks = [cluster["n1"].submit(append(f'"{n}"', once=once)) for n, once in enumerate(onces)]
    cluster.settle()
    (command,) = commands_of(cluster, "n1")
    operations = [operation for operation in command.operations if isinstance(operation, Append)]
    assert [(o.once if isinstance(o, AppendOnce) else None, o.count) for o in operations] == [
        (None, 2),
        *((once, 1) for once in onces[2:]),
    ]
    assert stored(cluster["n1"]) == [f'"{n}"' for n in range(7)]
    assert all(isinstance(ask.outcome.result, Appended) for ask in asks)


def test_a_command_of_appends_that_happen_once_stays_within_its_keys():
    cluster = settled("n1", leader="n1")
    for n in range(300):
        cluster["n1"].submit(append('"m"', once=Once(f"{n}")))
    cluster.settle()
    first, second = commands_of(cluster, "n1")
    # The batch, the own row, and three that are over.
    assert len(first.operations) == (BrokerLimits().command_keys_max - 2) // 5
    assert len(first.operations) + len(second.operations) == 300


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


def test_a_node_with_limits_of_its_own_says_them_before_what_its_clients_ask_for():
    said = Capacity(dedupe_max=3)
    cluster = settled("n1", "n2", leader="n1", limits=BrokerLimits(capacity=said))
    asks = [cluster["n2"].submit(append(f'"{n}"', once=Once(f"{n}"))) for n in range(4)]
    cluster.settle()
    (command,) = commands_of(cluster, "n2")
    assert [type(operation) for operation in command.operations] == [Within, *[AppendOnce] * 4]
    assert command.operations[0] == Within(said)
    assert [type(ask.outcome.result) for ask in asks] == [Appended, Appended, Appended, Refused]
    assert cluster["n2"].broker.metrics.operation_count == 4


def test_a_node_with_the_machines_limits_says_nothing():
    cluster = settled("n1", leader="n1")
    cluster["n1"].submit(append('"a"'))
    cluster.settle()
    (command,) = commands_of(cluster, "n1")
    assert [type(operation) for operation in command.operations] == [Append]
