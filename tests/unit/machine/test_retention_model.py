"""Retention against a model that drops one message after the other, in any mix with everything else."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    Appended,
    Refused,
    SetTopic,
)
from falconq_cluster.machine.keeping import Purge, Purged
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.settings import DROP_LOWEST, REJECT, Retention, TopicSettings
from falconq_cluster.machine.surveying import is_due, trim_now
from tests.unit.machine.helpers import Node, append
from tests.unit.machine.test_model import LEVELS, LIMITS, PARTITIONS, MachineAndModel, Message, Model

SMALL = MachineLimits(
    attempts_per_consumer_max=LIMITS.attempts_per_consumer_max,
    attempt_ms=LIMITS.attempt_ms,
    pull_count_max=LIMITS.pull_count_max,
    dedupe_per_topic_max=LIMITS.dedupe_per_topic_max,
    trim_keys_max=4,
    trim_batches_max=2,
)


class KeepingModel(Model):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.retention = Retention()
        self.times: dict[tuple[int, int], int] = {}
        self.trimmed: set[tuple[int, int]] = set()
        self.born: dict[str, dict[tuple[int, int], int]] = {}
        """consumer -> (partition, level) -> messages that were trimmed before there was the consumer."""

    def publish(self, partition: int, level: int, texts: list[str]) -> int:
        base = super().publish(partition, level, texts)
        self.times |= {(partition, base + place): self.node.now_ms for place in range(len(texts))}
        return base

    def pull(
        self, consumer: str, partition: int, count: int, size_max: int, attempt: str, now_ms: int
    ) -> list[Message]:
        if consumer not in self.born:
            levels = Counter((m.partition, m.level) for p in self.partitions for m in p if self.is_trimmed(m))
            self.born[consumer] = dict(levels)
        return super().pull(consumer, partition, count, size_max, attempt, now_ms)

    def is_trimmed(self, message: Message) -> bool:
        return (message.partition, message.offset) in self.trimmed

    def has_had(self, consumer: str, message: Message) -> bool:
        return (message.partition, message.offset) in self.consumers[consumer].delivered

    def retained(self, partition: int) -> list[Message]:
        return [m for m in self.partitions[partition] if not self.is_trimmed(m)]

    def too_much(self) -> set[tuple[int, int]]:
        """What is to go: what is too old, what all have had, then one message after the other, the oldest first."""
        gone: set[tuple[int, int]] = set()
        kept = [message for partition in range(PARTITIONS) for message in self.retained(partition)]
        for message in list(kept):
            place = message.partition, message.offset
            had_by_all = self.consumers and all(place in c.delivered for c in self.consumers.values())
            is_old = 0 < self.retention.ms <= self.node.now_ms - self.times[place]
            if is_old or (self.retention.acked and had_by_all):
                gone.add(place)
                kept.remove(message)
        kept.sort(key=lambda m: (self.times[m.partition, m.offset], m.level, m.partition, m.offset))
        if self.retention.messages:
            gone |= {(m.partition, m.offset) for m in kept[: max(len(kept) - self.retention.messages, 0)]}
        return gone


class RetentionAndModel(MachineAndModel):
    limits = SMALL
    model: KeepingModel

    def new_model(self) -> KeepingModel:
        return KeepingModel(self.node)

    @rule(ms=st.sampled_from([0, 1000, 2000]), messages=st.sampled_from([0, 1, 3, 10]), acked=st.booleans())
    def keep_otherwise(self, ms: int, messages: int, acked: bool) -> None:
        self.model.retention = Retention(ms, 0, messages, acked)
        given = TopicSettings(retention=self.model.retention)
        self.send(SetTopic(0, "t", 0, is_change=True, given=given))

    @rule()
    def trim_a_little(self) -> None:
        gone = self.model.too_much()
        self.send(trim_now(self.node.machine, ["t"], self.node.now_ms))
        for partition in range(PARTITIONS):
            found = {m.offset for m in self.node.views.peek("t", partition=partition, offset=0, count=10_000)}
            trimmed = {(partition, m.offset) for m in self.model.retained(partition) if m.offset not in found}
            assert trimmed <= gone
            self.model.trimmed |= trimmed

    @rule()
    def trim_all(self) -> None:
        gone = self.model.too_much()
        while self.is_due():
            self.send(trim_now(self.node.machine, ["t"], self.node.now_ms))
        self.model.trimmed |= gone

    @rule()
    def purge(self) -> None:
        kept = [(p, m.offset) for p in range(PARTITIONS) for m in self.model.retained(p)]
        assert self.send(Purge(0, "t")) == [Purged(len(kept))]
        self.model.trimmed |= set(kept)

    def is_due(self) -> bool:
        return is_due(self.node.machine, "t", self.node.now_ms)

    @invariant()
    def counters_add_up(self) -> None:
        topic = self.node.machine.state.topics["t"]
        for status, partition in zip(self.node.views.partition_status("t"), topic.partitions, strict=True):
            retained = self.model.retained(status.partition)
            assert status.depth == [sum(m.level == n for m in retained) for n in range(LEVELS)]
            assert status.size_bytes == sum(len(m.text) + 10 for m in retained)
            assert status.first_offset == min((m.offset for m in retained), default=status.next_offset)
            for name, consumer in topic.consumers.items():
                had = [m for m in self.model.partitions[status.partition] if self.model.has_had(name, m)]
                for number, cursor in enumerate(consumer.cursors_of(partition)):
                    born = self.model.born[name].get((status.partition, number), 0)
                    had_count = sum(message.level == number for message in had)
                    assert cursor.delivered_count == born + had_count + cursor.lost_count
        assert topic.retained_count == sum(len(self.model.retained(p)) for p in range(PARTITIONS))

    @precondition(lambda self: not self.is_due())
    @invariant()
    def nothing_else_is_left_in_the_store(self) -> None:
        named: dict[tuple[int, int], int] = {}
        for consumer in self.node.machine.state.topics["t"].consumers.values():
            for attempt in consumer.attempts.values():
                if self.node.now_ms - attempt.row.made_ms < SMALL.attempt_ms:
                    for r in attempt.row.ranges:
                        place = r.partition, r.level
                        named[place] = min(r.batch_offset, named.get(place, r.batch_offset))
        retained = {(p, m.offset) for p in range(PARTITIONS) for m in self.model.retained(p)}
        for key in self.node.store.scan_keys(keys.BATCH, keys.prefix_end(keys.BATCH)):
            partition, level = int.from_bytes(key[9:13], "big"), key[13]
            batch = keys.read_batch_key(key)
            offsets = {(partition, offset) for offset in range(batch.base, batch.base + batch.record_count)}
            assert offsets & retained or batch.base >= named.get((partition, level), batch.base + 1)


TestRetentionAndModel = RetentionAndModel.TestCase
TestRetentionAndModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(
    appends=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.booleans()), max_size=30),
    messages=st.integers(1, 8),
    overflow=st.sampled_from([REJECT, DROP_LOWEST]),
)
@settings(max_examples=150, deadline=None)
def test_nothing_that_was_accepted_gives_way_to_something_less_urgent(
    appends: list[tuple[int, int, bool]], messages: int, overflow: str
) -> None:
    """`reject` drops nothing at all, and takes what there is room for; whenever it is trimmed."""
    node = Node(SMALL)
    given_settings = TopicSettings(1, ("low", "mid", "high"), retention=Retention(messages=messages), overflow=overflow)
    node.result(SetTopic(0, "t", 0, is_change=False, given=given_settings))
    kept: list[tuple[int, str]] = []

    def trim() -> None:
        while is_due(node.machine, "t", node.now_ms):
            node.command(trim_now(node.machine, ["t"], node.now_ms))

    for number, (level, count, is_trimmed) in enumerate(appends):
        node.now_ms += 1
        texts = [f"{number}.{place}" for place in range(count)]
        over = len(kept) + count - messages
        may_go = [] if overflow == REJECT else [message for message in kept if message[0] <= level]
        result = node.result(append(*texts, level=level))
        if over > len(may_go):
            assert isinstance(result, Refused)
            assert result.code == "topic_full"
        else:
            assert isinstance(result, Appended)
            kept += [(level, text) for text in texts]
            # What is over goes in the order of levels, the oldest first; each append is judged as if it were gone.
            for message in sorted(kept, key=lambda m: m[0])[: max(over, 0)]:
                kept.remove(message)
        if is_trimmed:
            trim()
    trim()
    found = node.views.peek("t", partition=0, offset=0, count=1000)
    assert [(m.level, m.message.decode()) for m in found] == kept
