"""Lease pulls: through any node, woken by what comes back, and settled one by one (PROTOCOL.md P13, P14, P19)."""

from __future__ import annotations

from falconq_cluster.broker.leases import Settlement, lease_id, read_lease_id
from falconq_cluster.broker.pulls import Pulls
from falconq_cluster.broker.requests import Deliveries, LeaseWish, PullRequest, SettleRequest, WishKind
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import LeasePull, LeaseSettled, Settle, SettleItem, SettleKind
from tests.unit.broker.loopback import Loopback, append, commands_of


class Worker:
    """One pull and its answer."""

    def __init__(
        self,
        pulls: Pulls,
        *,
        count: int = 1,
        wait_ms: int = 0,
        lease_ms: int | None = None,
        level_min: str | int | None = None,
        auto_commit: bool = False,
        topic: str = "t",
    ) -> None:
        self.answers: list[Deliveries | FalconQError] = []
        now_ms = pulls._broker.clock.monotonic_ms()
        self.poll = pulls.lease(
            PullRequest(
                topic=topic,
                consumer="c",
                count=count,
                wait_ms=wait_ms,
                lease_ms=lease_ms,
                level_min=level_min,
                auto_commit=auto_commit,
                deadline_ms=now_ms + wait_ms + 10_000,
            ),
            self.answers.append,
        )

    @property
    def answer(self) -> Deliveries:
        (answer,) = self.answers
        assert isinstance(answer, Deliveries), answer
        return answer

    @property
    def got(self) -> list[str]:
        return [delivery.message.message.decode() for delivery in self.answer.deliveries]

    @property
    def code(self) -> str:
        (answer,) = self.answers
        assert isinstance(answer, FalconQError)
        return answer.code.code

    def items(self, kind: SettleKind, ms: int = 0) -> list[SettleItem]:
        found = [read_lease_id(delivery.lease_id or "") for delivery in self.answer.deliveries]
        return [SettleItem(kind, *place, ms) for place in found if place is not None]


class Rig:
    """A cluster of n1, who leads, and n2, and the pulls of each node."""

    def __init__(self) -> None:
        self.cluster = Loopback("n1", "n2", leader="n1")
        self.pulls = {name: Pulls(node.broker) for name, node in self.cluster.nodes.items()}
        self.cluster.settle()

    def publish(self, *messages: str, level: int = 0) -> None:
        self.cluster["n1"].submit(append(*messages, level=level))
        self.cluster.settle()

    def pull(self, node: str = "n1", **kwargs: object) -> Worker:
        worker = Worker(self.pulls[node], **kwargs)  # type: ignore[arg-type]
        self.cluster.settle()
        return worker

    def settle(self, node: str, items: list[SettleItem]) -> LeaseSettled:
        ask = self.cluster[node].submit(Settle(0, "t", "c", items))
        self.cluster.settle()
        assert isinstance(ask.outcome.result, LeaseSettled)
        return ask.outcome.result

    def pull_count(self) -> int:
        """Lease pulls in the log."""
        commands = [c for name in self.cluster.nodes for c in commands_of(self.cluster, name)]
        return sum(isinstance(operation, LeasePull) for command in commands for operation in command.operations)


def test_a_lease_pulled_through_one_node_is_settled_through_another():
    rig = Rig()
    rig.publish('"a"', '"b"')
    worker = rig.pull("n2", count=2)
    assert worker.got == ['"a"', '"b"']
    assert len({delivery.lease_id for delivery in worker.answer.deliveries}) == 2
    assert rig.settle("n1", worker.items(SettleKind.ACK)).ok_count == 2
    rig.cluster.advance(100_000, grain_ms=1_000)
    assert rig.pull("n1").got == []


def test_a_message_whose_lease_ended_wakes_a_pull_on_any_node_at_that_time_with_one_entry():
    rig = Rig()
    rig.publish('"a"')
    rig.pull("n1", lease_ms=2_000)
    waiting = [rig.pull("n2", wait_ms=20_000) for _ in range(100)]
    before = rig.pull_count()
    rig.cluster.advance(1_990)
    assert not any(worker.answers for worker in waiting)
    assert rig.pull_count() == before
    rig.cluster.advance(30)
    assert waiting[0].got == ['"a"']
    assert [delivery.message.delivery_count for delivery in waiting[0].answer.deliveries] == [2]
    assert sum(len(worker.answers) for worker in waiting) == 1
    assert rig.pull_count() == before + 1
    assert rig.cluster["n2"].broker.metrics.lease_expired_count == 1


def test_a_message_that_is_given_back_wakes_a_pull_elsewhere_when_its_delay_is_over():
    rig = Rig()
    rig.publish('"a"', '"b"')
    worker = rig.pull("n1", count=2)
    waiting = [rig.pull("n2", wait_ms=20_000) for _ in range(3)]
    now, later = worker.items(SettleKind.NACK)[0], worker.items(SettleKind.NACK, ms=500)[1]
    rig.settle("n1", [now, later])
    assert waiting[0].got == ['"a"']
    rig.cluster.advance(480)
    assert not waiting[1].answers
    rig.cluster.advance(40)
    assert waiting[1].got == ['"b"']
    assert not waiting[2].answers


def test_several_that_come_back_at_once_wake_as_many_pulls():
    rig = Rig()
    rig.publish(*[f'"{n}"' for n in range(5)])
    rig.pull("n1", count=5, lease_ms=1_000)
    waiting = [rig.pull("n2", wait_ms=20_000, count=2) for _ in range(10)]
    rig.cluster.advance(1_050)
    assert [len(worker.got) for worker in waiting if worker.answers] == [2, 2, 1]


def test_a_consumer_with_as_much_in_flight_as_it_may_waits_until_something_is_settled():
    rig = Rig()
    rig.publish(*["1"] * 1_001)
    workers = [rig.pull("n1", count=400) for _ in range(3)]
    assert [len(worker.got) for worker in workers] == [400, 400, 200]
    before = rig.pull_count()
    assert rig.pull("n2").got == []
    waiting = rig.pull("n2", wait_ms=20_000)
    assert rig.pull_count() == before
    rig.settle("n1", workers[0].items(SettleKind.ACK)[:1])
    assert len(waiting.got) == 1


def test_an_empty_pull_costs_no_entry_once_the_consumer_exists():
    rig = Rig()
    rig.publish('"a"')
    rig.pull("n2")
    before = len(rig.cluster.committed)
    assert rig.pull("n2").got == []
    assert len(rig.cluster.committed) == before


def test_a_pull_of_urgent_levels_alone_is_not_woken_by_the_others():
    rig = Rig()
    rig.publish('"a"')
    assert rig.pull(level_min="high").got == []
    waiting = rig.pull("n2", level_min="high", wait_ms=20_000)
    before = rig.pull_count()
    rig.publish('"b"')
    assert rig.pull_count() == before
    rig.publish('"c"', level=1)
    assert waiting.got == ['"c"']


def test_what_the_topic_does_not_have_is_refused_once_the_view_is_fresh():
    rig = Rig()
    assert rig.pull("n2").code == "topic_not_found"
    rig.publish('"a"')
    assert rig.pull("n2", level_min="urgent").code == "unknown_priority"
    assert rig.pull("n2", level_min=2).code == "unknown_priority"
    assert rig.pull("n2", lease_ms=99).code == "bad_request"


def test_a_pull_without_leases_gives_what_is_settled():
    rig = Rig()
    rig.publish('"a"')
    worker = rig.pull("n2", auto_commit=True)
    assert worker.got == ['"a"']
    assert worker.answer.deliveries[0].lease_id is None
    rig.cluster.advance(100_000, grain_ms=1_000)
    assert rig.pull("n2").got == []


def test_a_client_that_goes_before_its_pull_has_a_sequence_leases_nothing():
    rig = Rig()
    rig.publish('"a"')
    Worker(rig.pulls["n2"]).poll.cancel()
    rig.cluster.settle()
    assert rig.pull_count() == 0
    assert rig.pull("n2").got == ['"a"']


def test_pulls_and_acks_of_one_moment_are_cut_into_commands_within_the_bound_of_keys():
    rig = Rig()
    rig.publish(*["1"] * 4_000)
    node = rig.cluster["n1"]
    first = rig.pull(count=400)
    sizes: list[int] = []
    apply = node.machine.apply

    def measured(index: int, term: int, entry: bytes):
        applied = apply(index, term, entry)
        sizes.append(len(applied.changes))
        return applied

    node.machine.apply = measured  # type: ignore[method-assign]
    operations = [LeasePull(0, "t", f"c{number}", 400, 1 << 20, 1_000, 0, bytes(16), 400) for number in range(5)]
    asks = [node.submit(operation) for operation in operations]
    asks.append(node.submit(Settle(0, "t", "c", first.items(SettleKind.ACK))))
    rig.cluster.settle()
    assert all(len(ask.outcomes) == 1 for ask in asks)
    assert sum(sizes) > 5 * 400
    assert max(sizes) <= 1_000


def test_each_wish_is_judged_alone_and_fails_by_its_own_name():
    good, other = lease_id(0, 3, bytes(16)), lease_id(1, 0, b"n" * 16)
    wishes = [
        LeaseWish(kind=WishKind.ACK, lease_id="0.3"),
        LeaseWish(kind=WishKind.ACK, lease_id=good),
        LeaseWish(kind=WishKind.NACK, lease_id=other, ms=5, priority="urgent"),
        LeaseWish(kind=WishKind.NACK, lease_id=other, ms=5, priority="high"),
    ]
    settlement = Settlement(SettleRequest(topic="t", consumer="c", wishes=wishes, deadline_ms=0), ("low", "high"))
    assert settlement.items == [
        SettleItem(SettleKind.ACK, 0, 3, bytes(16)),
        SettleItem(SettleKind.NACK, 1, 0, b"n" * 16, 5, 1),
    ]
    settled = settlement.settled(LeaseSettled(1, [(1, "lease_lost", "it is over")]), 7)
    assert (settled.ok_count, settled.index) == (1, 7)
    assert [(wish.lease_id, wish.code) for wish in settled.failed] == [
        ("0.3", "bad_request"),
        (other, "unknown_priority"),
        (other, "lease_lost"),
    ]


def test_only_what_a_pull_gave_is_a_lease_id():
    assert read_lease_id(lease_id(7, 1 << 40, b"\xff" * 16)) == (7, 1 << 40, b"\xff" * 16)
    for wrong in (
        "",
        "0.0",
        "00.0." + "0" * 32,
        "0.0." + "0" * 31,
        "0.0." + "G" * 32,
        "-1.0." + "0" * 32,
        "٣.0." + "0" * 32,
    ):
        assert read_lease_id(wrong) is None
