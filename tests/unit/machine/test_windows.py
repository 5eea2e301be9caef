"""Topics of different dedupe windows, which are changed, against a model of what was promised."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    AnyOperation,
    Appended,
    DeleteTopic,
    Duplicate,
    Result,
    SetTopic,
    Trim,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.settings import DEDUPE_WINDOW_MS, TopicSettings
from tests.unit.machine.helpers import Node, append
from tests.unit.machine.test_once import code_of


class TopicsAndWindows(RuleBasedStateMachine):
    """What was promised at each append, and two nodes, of which one restarts before each entry."""

    limits = MachineLimits(dedupe_per_topic_max=3, dedupe_max=5, trim_keys_max=3)
    topics = ("t", "u", "v")

    @initialize()
    def start(self) -> None:
        self.node, self.restarting = Node(self.limits), Node(self.limits)
        self.windows: dict[str, int] = {}
        self.promised: dict[tuple[str, str], tuple[int, int]] = {}
        """(topic, name) -> (until when it is known, the producer's last sequence)."""

    def send(self, operation: AnyOperation) -> Result:
        applied = self.node.command(operation)
        self.restarting.reload()
        assert self.restarting.apply(self.node.entries[-1]) == applied
        now_ms = self.node.now_ms
        self.promised = {name: known for name, known in self.promised.items() if known[0] > now_ms}
        return applied.results[0]

    topic = st.sampled_from(topics)

    @rule(topic=topic, window_ms=st.sampled_from([1000, 2500, 7000]))
    def window_changes(self, topic: str, window_ms: int) -> None:
        given = TopicSettings(dedupe_window_ms=window_ms)
        self.send(SetTopic(0, topic, ANY_VERSION, is_change=False, given=given))
        self.windows[topic] = window_ms

    @rule(topic=topic, name=st.sampled_from("abcd"), sequence=st.integers(0, 3))
    def publish(self, topic: str, name: str, sequence: int) -> None:
        now_ms, of = self.node.now_ms, (topic, f"{name}{sequence > 0}")
        until_ms, last = self.promised.get(of, (0, 0))
        if until_ms <= now_ms:
            until_ms = last = 0
        result = self.send(append("m", topic=topic, once=Once(name, sequence)))
        if until_ms and sequence <= last:
            assert isinstance(result, Duplicate)
        elif sequence and sequence != last + 1:
            assert code_of(result) == "sequence_gap"
        elif isinstance(result, Appended):
            until_ms = max(until_ms, now_ms + self.windows.setdefault(topic, DEDUPE_WINDOW_MS))
            self.promised[of] = (until_ms, sequence)
        else:
            # Only what is known, or what a deleted topic left, takes room: two rows that are over go first.
            assert code_of(result) == "dedupe_full"
            assert not until_ms
            live = [known for known in self.promised.items() if known[1][0] > now_ms]
            own = sum(1 for (of_topic, _), _ in live if of_topic == topic)
            assert own == 3 or self.node.views.dedupe_count == 5

    @rule(topic=topic)
    def delete(self, topic: str) -> None:
        self.send(DeleteTopic(0, topic, ANY_VERSION))
        self.windows.pop(topic, None)
        self.promised = {of: known for of, known in self.promised.items() if of[0] != topic}

    @rule()
    def trim(self) -> None:
        self.send(Trim())

    @rule(step_ms=st.sampled_from([1, 500, 1000, 3000]))
    def time_passes(self, step_ms: int) -> None:
        self.node.now_ms += step_ms

    @invariant()
    def nothing_is_forgotten_early_and_nothing_is_kept_that_no_row_holds(self) -> None:
        table, topics = self.node.machine.state.once, self.node.machine.state.topics
        for (topic, name), (until_ms, sequence) in self.promised.items():
            row = table.get(topics[topic].number, (name[0], sequence > 0))
            assert row is not None
            assert row.known_until_ms == until_ms
        stored = [key for key, _ in self.node.everything() if key[:1] == keys.ONCE]
        assert len(stored) == len(table) <= self.limits.dedupe_max

    def teardown(self) -> None:
        assert self.node.machine.digest == self.restarting.machine.digest
        assert self.node.everything() == self.restarting.everything()


TestTopicsAndWindows = TopicsAndWindows.TestCase
