"""The machine against a model that anyone can check by reading, and against replicas that restart at each step."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falconq_cluster.machine.commands import (
    ANY_VERSION,
    AnyOperation,
    Appended,
    Duplicate,
    Pulled,
    Refused,
    Result,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from tests.unit.machine.helpers import Node, append, pull

LIMITS = MachineLimits(attempts_per_consumer_max=3, attempt_ms=1000, pull_count_max=6, dedupe_per_topic_max=4)
WINDOWS_MS = (1000, 1500, 3000)
PARTITIONS, LEVELS = 2, 3


@dataclass(frozen=True)
class Message:
    partition: int
    level: int
    offset: int
    text: str


@dataclass
class ModelConsumer:
    delivered: set[tuple[int, int]] = field(default_factory=set)
    last_partition: int = -1
    attempts: list[tuple[str, int, list[Message]]] = field(default_factory=list)


@dataclass
class ModelOnce:
    until_ms: int
    sequence: int
    message: Message


class Model:
    """Everything is kept; a model of what is not says so in `retained`."""

    def __init__(self) -> None:
        self.partitions: list[list[Message]] = [[] for _ in range(PARTITIONS)]
        self.consumers: dict[str, ModelConsumer] = {}
        self.once: dict[tuple[str, bool], ModelOnce] = {}
        self.window_ms = WINDOWS_MS[0]

    def publish_once(self, once: Once, partition: int, level: int, text: str, now_ms: int) -> str | Message | None:
        """A code, the message that the answer names, or None for a repeat of which only a later one is known."""
        self.once = {name: known for name, known in self.once.items() if now_ms < known.until_ms}
        name = (once.name, once.sequence > 0)
        known = self.once.get(name)
        last = 0 if known is None else known.sequence
        if known is not None and once.sequence < last:
            return None
        if known is not None and once.sequence == last:
            same = (known.message.level, known.message.text) == (level, text)
            return known.message if same else "key_reused"
        if once.sequence > last + 1:
            return "sequence_gap"
        if known is None and len(self.once) >= LIMITS.dedupe_per_topic_max:
            return "dedupe_full"
        message = Message(partition, level, self.publish(partition, level, [text]), text)
        promised_ms = 0 if known is None else known.until_ms
        self.once[name] = ModelOnce(max(now_ms + self.window_ms, promised_ms), once.sequence, message)
        return message

    def publish(self, partition: int, level: int, texts: list[str]) -> int:
        messages = self.partitions[partition]
        base = len(messages)
        messages.extend(Message(partition, level, base + place, text) for place, text in enumerate(texts))
        return base

    def pull(
        self, consumer: str, partition: int, count: int, size_max: int, attempt: str, now_ms: int
    ) -> list[Message]:
        state = self.consumers.setdefault(consumer, ModelConsumer())
        state.attempts = [entry for entry in state.attempts if now_ms - entry[1] < LIMITS.attempt_ms]
        for name, _, given in state.attempts:
            if name == attempt:
                return given
        given = []
        for message in self.waiting(consumer, partition)[: min(count, LIMITS.pull_count_max)]:
            size_max -= len(message.text) + 10
            if given and size_max < 0:
                break
            given.append(message)
        state.delivered.update((message.partition, message.offset) for message in given)
        if given:
            state.last_partition = given[-1].partition
        if given and attempt:
            state.attempts = [*state.attempts, (attempt, now_ms, given)][-LIMITS.attempts_per_consumer_max :]
        return given

    def waiting(self, consumer: str, partition: int) -> list[Message]:
        """What was not delivered, in the order of delivery."""
        state = self.consumers.get(consumer, ModelConsumer())
        asked = [partition] if partition >= 0 else range(PARTITIONS)
        waiting = [m for p in asked for m in self.retained(p) if (p, m.offset) not in state.delivered]
        turn = state.last_partition + 1
        return sorted(waiting, key=lambda m: (-m.level, (m.partition - turn) % PARTITIONS, m.offset))

    def retained(self, partition: int) -> list[Message]:
        return self.partitions[partition]


class MachineAndModel(RuleBasedStateMachine):
    limits = LIMITS

    @initialize()
    def start(self) -> None:
        self.node, self.restarting = Node(self.limits), Node(self.limits)
        self.model = self.new_model()
        for node in (self.node, self.restarting):
            levels = tuple(f"l{n}" for n in range(LEVELS))
            node.add_topic("t", TopicConfig(PARTITIONS, levels, dedupe_window_ms=WINDOWS_MS[0]))
        self.sequence = 0
        self.published = 0
        self.epoch = self.node.open_origin("n1")
        self.restarting.apply(self.node.entries[-1])

    def new_model(self) -> Model:
        return Model()

    def send(self, *operations: AnyOperation) -> list[Result]:
        self.sequence += 1
        applied = self.node.command(*operations, origin="n1", epoch=self.epoch, sequence=self.sequence)
        assert not applied.is_repeat
        self.restarting.reload()
        assert self.restarting.apply(self.node.entries[-1]) == applied
        return applied.results

    def texts(self, count: int, size: int) -> list[str]:
        self.published += count
        return [f"{self.published - place:0{size}}" for place in range(count)]

    def assert_delivered(self, result: Result, expected: list[Message]) -> None:
        assert isinstance(result, Pulled)
        found = [Message(m.partition, m.level, m.offset, m.message.decode()) for m in self.node.read(result)]
        assert found == expected

    partition = st.integers(0, PARTITIONS - 1)
    level = st.integers(0, LEVELS - 1)
    consumer = st.sampled_from("xy")
    attempt = st.sampled_from(["", "a", "b", "c", "d"])

    @rule(partition=partition, level=level, count=st.integers(1, 4), size=st.sampled_from([4, 40]))
    def publish(self, partition: int, level: int, count: int, size: int) -> None:
        texts = self.texts(count, size)
        (result,) = self.send(append(*texts, partition=partition, level=level))
        assert isinstance(result, Appended)
        assert result.base_offset == self.model.publish(partition, level, texts)

    @rule(
        partition=partition,
        level=level,
        name=st.sampled_from("abcdef"),
        sequence=st.integers(0, 4),
        text=st.sampled_from(["one", "one", "one", "two"]),
    )
    def publish_once(self, partition: int, level: int, name: str, sequence: int, text: str) -> None:
        once = Once(name, sequence)
        expected = self.model.publish_once(once, partition, level % 2, text, self.node.now_ms)
        (result,) = self.send(append(text, partition=partition, level=level % 2, once=once))
        if isinstance(result, Refused):
            assert result.code == expected
            return
        told = result.first if isinstance(result, Duplicate) else result
        if expected is None:
            assert told is None
            return
        assert isinstance(told, Appended)
        assert isinstance(expected, Message)
        place = (told.partition, told.level, told.base_offset)
        assert place == (expected.partition, expected.level, expected.offset)

    @rule(
        consumer=consumer,
        partition=st.integers(-1, PARTITIONS - 1),
        count=st.integers(1, 8),
        bytes_max=st.sampled_from([1, 60, 100, 10_000]),
        attempt=attempt,
    )
    def pull(self, consumer: str, partition: int, count: int, bytes_max: int, attempt: str) -> None:
        expected = self.model.pull(consumer, partition, count, bytes_max, attempt, self.node.now_ms)
        operation = pull(count, consumer=consumer, partition=partition, attempt=attempt, bytes_max=bytes_max)
        (result,) = self.send(operation)
        self.assert_delivered(result, expected)

    @rule(partition=partition, low=level, high=level, consumer=consumer, counts=st.tuples(level, level))
    def publish_and_pull_in_one_command(
        self, partition: int, low: int, high: int, consumer: str, counts: tuple[int, int]
    ) -> None:
        one, two = self.texts(2, 5), self.texts(1, 6)
        bound, take = 10_000, [count + 1 for count in counts]
        results = self.send(
            append(*one, partition=partition, level=low),
            pull(take[0], consumer=consumer, bytes_max=bound),
            append(*two, partition=partition, level=high),
            pull(take[1], consumer=consumer, bytes_max=bound),
        )
        expected = []
        for level, texts, count in ((low, one, take[0]), (high, two, take[1])):
            self.model.publish(partition, level, texts)
            expected.append(self.model.pull(consumer, -1, count, bound, "", self.node.now_ms))
        self.assert_delivered(results[1], expected[0])
        # Both are read when the command is done; nothing trims what was delivered.
        self.assert_delivered(results[3], expected[1])

    @rule(partition=partition, level=level, consumer=consumer)
    def expired_operations_change_nothing(self, partition: int, level: int, consumer: str) -> None:
        late = self.node.machine.log_time_ms - 1
        results = self.send(
            append("late", partition=partition, level=level, not_after_ms=late),
            pull(consumer=consumer, not_after_ms=late),
        )
        assert [result.code for result in results if isinstance(result, Refused)] == ["expired"] * 2

    @rule(back=st.integers(0, 3), ahead=st.integers(2, 3), is_gap=st.booleans())
    def repeats_and_gaps_change_nothing(self, back: int, ahead: int, is_gap: bool) -> None:
        sequence = self.sequence + ahead if is_gap else max(self.sequence - back, 0)
        applied = self.node.command(append("again"), origin="n1", epoch=self.epoch, sequence=sequence)
        assert applied.is_repeat
        assert [key for key, _ in applied.changes] == [b"\x01"]
        assert self.restarting.apply(self.node.entries[-1]) == applied

    @rule(window_ms=st.sampled_from(WINDOWS_MS))
    def window_changes(self, window_ms: int) -> None:
        given = TopicSettings(dedupe_window_ms=window_ms)
        (result,) = self.send(SetTopic(0, "t", ANY_VERSION, is_change=True, given=given))
        assert isinstance(result, TopicSet)
        self.model.window_ms = window_ms

    @rule(step_ms=st.sampled_from([1, 400, 1000]))
    def time_passes(self, step_ms: int) -> None:
        self.node.now_ms += step_ms

    @rule()
    def restart(self) -> None:
        self.node.reload()

    @invariant()
    def views_agree_with_the_model(self) -> None:
        views = self.node.views
        for consumer in "xy":
            waiting = self.model.waiting(consumer, -1)
            assert views.pending("t", consumer) == [sum(m.level == n for m in waiting) for n in range(LEVELS)]
            assert views.has_deliverable("t", consumer) == bool(waiting)
            for partition, messages in enumerate(self.model.partitions):
                offsets = [m.offset for m in waiting if m.partition == partition]
                assert views.next_offset("t", consumer, partition) == min(offsets, default=len(messages))

    @invariant()
    def peek_agrees_with_the_model(self) -> None:
        for partition in range(PARTITIONS):
            found = self.node.views.peek("t", partition=partition, offset=0, count=10_000)
            assert [m.message.decode() for m in found] == [m.text for m in self.model.retained(partition)]

    def teardown(self) -> None:
        assert self.node.machine.digest == self.restarting.machine.digest
        assert self.node.everything() == self.restarting.everything()


TestMachineAndModel = MachineAndModel.TestCase
TestMachineAndModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
