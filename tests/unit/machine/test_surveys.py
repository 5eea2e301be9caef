"""What a look at all consumers finds stays true until the command comes, whatever happens between."""

from __future__ import annotations

from random import Random

import pytest

from falconq_cluster.machine.commands import AnyOperation, LeasePull, Pulled, Settle, SettleItem, SettleKind, SetTopic
from falconq_cluster.machine.keeping import Purge, TrimLevels
from falconq_cluster.machine.levels import Cursor
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import Retention, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, DeleteConsumer, Seek, SetConsumer, Start, StartKind
from falconq_cluster.machine.surveying import Survey, is_due, trim_now
from tests.unit.machine.helpers import Node, append, pull

PARTITIONS, LEVELS = 2, 2
LIMITS = MachineLimits(attempt_ms=1_000, trim_keys_max=12, trim_batches_max=3)
Place = tuple[int, int]


def acked_node(limits: MachineLimits = LIMITS) -> Node:
    node = Node(limits)
    given = TopicSettings(PARTITIONS, ("low", "high"), retention=Retention(acked=True))
    node.result(SetTopic(0, "t", 0, is_change=False, given=given))
    return node


def first_offsets(node: Node) -> list[int]:
    return [status.first_offset for status in node.views.partition_status("t")]


def survey_of(node: Node) -> Survey:
    return Survey(node.machine.state.topics["t"], node.machine.applied_index, node.now_ms, node.limits)


def seen(survey: Survey) -> TrimLevels:
    survey.look(1 << 60)
    return TrimLevels([], (survey.found,))


def seek(to: Start, consumer: str = "c") -> Seek:
    return Seek(0, "t", consumer, to)


EARLIEST = Start(StartKind.EARLIEST)


@pytest.mark.parametrize(
    "meanwhile",
    [
        seek(EARLIEST),
        SetConsumer(0, "t", "new", ConsumerConfig()),
        pull(1, consumer="new"),
        LeasePull(0, "t", "new", 1, 1 << 20, 30_000, 0, bytes(16), 0),
    ],
)
@pytest.mark.parametrize("is_same_entry", [False, True])
def test_who_comes_after_the_look_keeps_what_all_others_have_settled(
    meanwhile: AnyOperation, is_same_entry: bool
) -> None:
    node = acked_node()
    node.publish("a", "b", "c")
    node.pull(3)
    command = seen(survey_of(node))
    assert command.surveys[0].acked == [(0, 0, 3)]
    node.command(meanwhile, *([command] if is_same_entry else []))
    node.command(command)
    kept = [m.message for m in node.views.peek("t", partition=0, offset=0, count=9)]
    assert kept == ([b"b", b"c"] if meanwhile == pull(1, consumer="new") else [b"a", b"b", b"c"])
    # Whoever looks again sees them all.
    node.pull(3)
    node.pull(3, consumer="new")
    node.command(Settle(0, "t", "new", [SettleItem(SettleKind.ACK, 0, 0, bytes(16))]))
    while is_due(node.machine, "t", node.now_ms):
        node.command(trim_now(node.machine, ["t"], node.now_ms))
    assert first_offsets(node) == [3, 0]


def test_without_a_consumer_at_that_time_or_without_acked_by_then_nothing_goes() -> None:
    node = acked_node()
    node.publish("a")
    node.pull(1)
    command = seen(survey_of(node))
    node.result(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(retention=Retention(messages=9))))
    node.command(command)
    assert first_offsets(node) == [0, 0]
    node.result(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(retention=Retention(acked=True))))
    node.result(DeleteConsumer(0, "t", "c"))
    node.command(command)
    assert first_offsets(node) == [0, 0]


def test_a_look_makes_no_cursors_where_a_consumer_never_was() -> None:
    node = acked_node()
    node.publish("a")
    node.publish("b", partition=1)
    node.pull(1, partition=0)
    seen(survey_of(node))
    assert list(node.machine.state.topics["t"].consumers["c"].cursors) == [0]


def test_a_look_may_take_any_number_of_turns() -> None:
    node = acked_node()
    for number in range(50):
        node.publish(str(number))
        node.pull(number + 1, consumer=f"c{number}")
    node.pull(50, consumer="c0")
    survey, turns = survey_of(node), 0
    while not survey.is_done:
        survey.look(5)
        turns += 1
    assert turns > 10
    assert survey.found.acked == [(0, 0, 2)]
    assert TrimLevels([], (survey.found,)) == seen(survey_of(node))


class Randomly:
    """Random operations of five consumers, on a node, one that restarts at each step, and a plain oracle."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.node, self.restarting = acked_node(), acked_node()
        self.survey: Survey | None = None
        self.found: list[TrimLevels] = []
        self.nonce = 0
        self.in_hand: list[tuple[str, int, int, bytes]] = []

    def needed(self) -> dict[Place, int]:
        """By place, the lowest offset that a consumer needs; the end of the partition where none does."""
        topic = self.node.machine.state.topics["t"]
        found = {}
        for partition in topic.partitions:
            for number in range(LEVELS):
                offsets = [partition.next_offset] if topic.consumers else [0]
                for consumer in topic.consumers.values():
                    cursors = consumer.cursors.get(partition.number, [])
                    cursor = cursors[number] if number < len(cursors) else Cursor()
                    offsets.append(cursor.next_offset)
                    offsets += [
                        h.offset for h in consumer.holdings if (h.partition, h.row.level) == (partition.number, number)
                    ]
                found[partition.number, number] = min(offsets)
        return found

    def trimmed_to(self) -> dict[Place, int]:
        partitions = self.node.machine.state.topics["t"].partitions
        return {(p.number, n): level.trimmed_to for p in partitions for n, level in enumerate(p.levels)}

    def send(self, operation: AnyOperation) -> None:
        for result in self.node.command(operation).results:
            if isinstance(result, Pulled):
                self.node.read(result)  # Also what an attempt is given again is still there.
        self.restarting.reload()
        self.restarting.apply(self.node.entries[-1])

    def trim(self, command: TrimLevels) -> None:
        before, needed = self.trimmed_to(), self.needed()
        self.send(command)
        for place, offset in self.trimmed_to().items():
            assert offset == before[place] or offset <= needed[place]

    def operation(self) -> AnyOperation:
        random, consumer = self.random, self.random.choice("abcde")
        start = random.choice([EARLIEST, Start(StartKind.LATEST), Start(StartKind.OFFSET, random.randrange(20))])
        kind = random.randrange(12)
        if kind < 3:
            texts = ["x"] * random.randrange(1, 5)
            return append(*texts, partition=random.randrange(PARTITIONS), level=random.randrange(LEVELS))
        if kind < 6:
            attempt = random.choice(["", "", "once", "twice"])
            return pull(random.randrange(1, 20), consumer=consumer, attempt=attempt)
        if kind < 8:
            self.nonce += 1
            nonce = self.nonce.to_bytes(16, "big")
            return LeasePull(0, "t", consumer, random.randrange(1, 9), 1 << 20, 0, 0, nonce, 0)
        if kind < 10:
            topic = self.node.machine.state.topics["t"]
            held = [] if consumer not in topic.consumers else list(topic.consumers[consumer].holdings)
            how = random.choice([SettleKind.ACK, SettleKind.ACK, SettleKind.NACK, SettleKind.RELEASE])
            items = [SettleItem(how, h.partition, h.offset, h.row.nonce) for h in held if random.random() < 0.8]
            return Settle(0, "t", consumer, items)
        if kind == 10:
            return seek(start, consumer)
        rare: list[AnyOperation] = [
            DeleteConsumer(0, "t", consumer),
            SetConsumer(0, "t", consumer, ConsumerConfig(start)),
            Purge(0, "t"),
        ]
        return random.choice(rare)

    def step(self) -> None:
        self.node.now_ms += self.random.choice([0, 1, 400])
        what = self.random.randrange(10)
        if what < 6:
            self.send(self.operation())
        elif what < 8:
            self.survey = self.survey or survey_of(self.node)
            self.survey.look(self.random.randrange(1, 12))
            if self.survey.is_done:
                self.found.append(TrimLevels([], (self.survey.found,)))
                self.survey = None
        elif self.found:
            self.trim(self.found.pop(self.random.randrange(len(self.found))))
        else:
            self.trim(trim_now(self.node.machine, ["t"], self.node.now_ms))


@pytest.mark.parametrize("seed", range(40))
def test_old_looks_trim_nothing_that_a_consumer_needs_by_now_and_restarted_nodes_agree(seed: int) -> None:
    run = Randomly(seed)
    for _ in range(150):
        run.step()
    count = 0
    while is_due(run.node.machine, "t", run.node.now_ms):
        run.trim(trim_now(run.node.machine, ["t"], run.node.now_ms))
        count += 1
        assert count < 1_000
    topic = run.node.machine.state.topics["t"]
    for (partition, number), offset in run.needed().items():
        level = topic.partitions[partition].levels[number]
        assert not topic.consumers or not level.retained_count or level.first_offset >= offset
    assert run.node.machine.digest == run.restarting.machine.digest
    assert run.node.everything() == run.restarting.everything()
