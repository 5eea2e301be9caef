"""Any history of losses, repeats, jumps and changes of leader: applied at most once, in order, with exact results."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import Append, Appended, Pulled
from falconq_cluster.machine.views import Views
from tests.unit.broker.loopback import Ask, Loopback, append, messages_of, pull

NAMES = ("n1", "n2", "n3")
_name = st.sampled_from(NAMES)
_count = st.integers(0, 4)
_move = st.one_of(
    st.tuples(st.just("publish"), _name, st.integers(1, 2), st.integers(0, 1)),
    st.tuples(st.just("publish"), _name, st.integers(1, 2), st.integers(0, 1)),
    st.tuples(st.just("pull"), _name, st.integers(1, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("turn"), _name),
    st.tuples(st.just("forward"), _name),
    st.tuples(st.just("forward"), _name),
    st.tuples(st.just("forward"), _name),
    st.tuples(st.just("move_all")),
    st.tuples(st.just("deliver"), _name, _name),
    st.tuples(st.just("deliver"), _name, _name),
    st.tuples(st.just("repeat"), _name, _name),
    st.tuples(st.just("lose"), _name, _name, _count),
    st.tuples(st.just("step"), st.integers(1, 400)),
    st.tuples(st.just("step"), st.integers(1, 400)),
    st.tuples(st.just("commit"), _count),
    st.tuples(st.just("apply"), _name, _count),
    st.tuples(st.just("apply"), _name, _count),
    st.tuples(st.just("elect"), st.one_of(_name, st.none()), _count, st.sets(_name, max_size=1)),
    st.tuples(st.just("learn"), _name),
    st.tuples(st.just("jump"), _name, _count),
    st.tuples(st.just("restart"), _name),
    st.tuples(st.just("advance"), st.integers(1, 3_000)),
)


class History:
    """A cluster that is moved at random, and what its clients were told."""

    def __init__(self) -> None:
        self.cluster = Loopback(*NAMES, leader="n1", limits=BrokerLimits(outstanding_commands_max=3))
        self.asks: list[tuple[Append | None, str, int, Ask]] = []
        self.starts = dict.fromkeys(NAMES, 0)
        self.count = 0

    def move(self, kind: str, *arguments: object) -> None:
        getattr(self, f"do_{kind}")(*arguments)

    def do_publish(self, name: str, count: int, level: int) -> None:
        operation = append(*(f'"{self.count + n}"' for n in range(count)), level=level)
        self.count += count
        self._submit(name, operation)

    def do_pull(self, name: str, count: int) -> None:
        self._submit(name, pull(count))

    def _submit(self, name: str, operation: object) -> None:
        try:
            ask = self.cluster[name].submit(operation, timeout_ms=2_000)  # type: ignore[arg-type]
        except FalconQError:
            return
        kept = operation if isinstance(operation, Append) else None
        self.asks.append((kept, name, self.starts[name], ask))

    def do_cancel(self, number: int) -> None:
        if self.asks:
            waiter = self.asks[number % len(self.asks)][3].waiter
            assert waiter is not None
            waiter.cancel()

    def do_turn(self, name: str) -> None:
        self.cluster[name].broker._turn()

    def do_forward(self, name: str) -> None:
        """What the node's clients asked for reaches the leader's log."""
        self.cluster[name].broker._turn()
        leader = self.cluster.leader
        while leader is not None and self.cluster.deliver_one(name, leader):
            pass
        self.do_step(1 << 20)

    def do_move_all(self) -> None:
        self.cluster.turn()

    def do_deliver(self, source: str, target: str) -> None:
        self.cluster.deliver_one(source, target)

    def do_repeat(self, source: str, target: str) -> None:
        queue = self.cluster.links.get((source, target))
        if queue:
            queue.append(queue[0])

    def do_lose(self, source: str, target: str, count: int) -> None:
        self.cluster.lose(source, target, from_frame=count)

    def do_step(self, bytes_max: int) -> None:
        if self.cluster.leader is not None and self.cluster.lead.is_leader:
            self.cluster.lead.step(bytes_max)

    def do_commit(self, count: int) -> None:
        self.cluster.commit(count)

    def do_apply(self, name: str, count: int) -> None:
        node = self.cluster[name]
        node.apply(min(len(self.cluster.committed), node.applied_index + count))

    def do_elect(self, name: str | None, kept_count: int, quiet: set[str]) -> None:
        self.cluster.elect(name, kept_count=kept_count, quiet=quiet)

    def do_learn(self, name: str) -> None:
        self.cluster[name].learn()

    def do_jump(self, name: str, count: int) -> None:
        node = self.cluster[name]
        if name != self.cluster.leader:
            node.jump(min(len(self.cluster.committed), node.applied_index + count))

    def do_restart(self, name: str) -> None:
        self.starts[name] += 1
        self.cluster[name].restart()

    def do_advance(self, ms: int) -> None:
        self.cluster.clock.now_ms += ms
        self.cluster.clock.run_due()

    def heal(self) -> None:
        """Everybody is connected and hears of one leader; all that waits ends."""
        self.cluster.elect("n1")
        self.cluster.settle()
        self.cluster.advance(15_000, grain_ms=250)

    def check(self) -> None:
        stored = self._stored()
        by_text = {text: (offset, level, identity) for text, offset, level, identity in stored}
        assert len(by_text) == len(stored), "a message is there twice"
        for operation, _, _, ask in self.asks:
            if operation is not None:
                self._check_append(operation, ask, by_text)
        self._check_order(by_text)
        self._check_pulls()

    def _stored(self) -> list[tuple[str, int, int, str]]:
        views = self.cluster["n1"].broker.views()
        found = views.peek("t", partition=0, offset=0, count=10_000)
        assert [message.offset for message in found] == list(range(len(found)))
        return [(message.message.decode(), message.offset, message.level, message.id) for message in found]

    def _check_append(self, operation: Append, ask: Ask, stored: dict[str, tuple[int, int, str]]) -> None:
        texts = messages_of(operation)
        assert len(ask.outcomes) == 1 or (ask.waiter is not None and ask.waiter.is_cancelled)
        for outcome in ask.outcomes:
            result = outcome.result
            if isinstance(result, Appended):
                for n, text in enumerate(texts):
                    place = (result.base_offset + n, result.level, f"{outcome.index}.{result.first_id + n}")
                    assert stored[text] == place
            elif not isinstance(result, FalconQError) or result.code.status != 504:
                assert not set(texts) & set(stored), "what was refused is there"

    def _check_order(self, stored: dict[str, tuple[int, int, str]]) -> None:
        """What one start of one node took for one level is in the order in which it was taken."""
        last: dict[tuple[str, int, int], int] = {}
        for operation, name, start, _ in self.asks:
            for text in messages_of(operation) if operation is not None else ():
                if text in stored:
                    offset, level, _ = stored[text]
                    assert offset > last.get((name, start, level), -1)
                    last[name, start, level] = offset

    def _check_pulls(self) -> None:
        """No message is given twice, and what a pull was told is what the log says."""
        given: set[int] = set()
        for operation, _, _, ask in self.asks:
            for outcome in ask.outcomes if operation is None else ():
                if isinstance(outcome.result, Pulled):
                    for taken in outcome.result.ranges:
                        offsets = set(range(taken.offset, taken.offset + taken.count))
                        assert not given & offsets
                        given |= offsets
        views: Views = self.cluster["n1"].broker.views()
        if views.consumer_exists("t", "c"):
            assert len(given) <= len(self._stored()) - sum(views.pending("t", "c"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(_move, min_size=40, max_size=120))
def test_every_operation_is_applied_at_most_once_in_order_and_its_result_is_exact(moves: list[tuple[object, ...]]):
    history = History()
    history.cluster.settle()
    for kind, *arguments in moves:
        assert isinstance(kind, str)
        history.move(kind, *arguments)
    history.heal()
    history.check()
    machines = [node.machine for node in history.cluster.nodes.values()]
    assert len({machine.digest for machine in machines}) == 1
    for node in history.cluster.nodes.values():
        assert node.broker.is_open
        assert node.broker.outbox.outstanding_count == node.broker.outbox.waiting_count == 0
        assert node.broker.outbox.waiting_bytes == 0


def test_a_history_check_sees_a_message_that_is_there_twice():
    history = History()
    history.cluster.settle()
    history.do_publish("n1", 1, 0)
    history.heal()
    history.check()
    history.do_publish("n2", 1, 0)
    history.count -= 1
    history.do_publish("n3", 1, 0)
    history.heal()
    with pytest.raises(AssertionError, match="twice"):
        history.check()
