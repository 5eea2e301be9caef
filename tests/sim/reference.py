"""What the committed log means, found out once more and by itself.

What lives here: the checks after a run: the log is applied from its first entry to a fresh machine, and every node's
store, every answer and every delivery is compared with that.
Rules: equal stores byte for byte (a snapshot equals a replay); an acknowledged message is there once, at its place; a
refused operation is nowhere; offsets are dense; no command takes effect twice; a consumer gets every message once, in
order within a level, the most urgent level first, or as leases and the topic's policy say; a change of a topic that
names a version is the only one that does.
Must not know: how the log came to be.
"""

from __future__ import annotations

from itertools import chain

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import burying
from falconq_cluster.machine.commands import (
    Append,
    Appended,
    CommandError,
    DeleteTopic,
    Duplicate,
    Leased,
    LeaseSettled,
    Pulled,
    SetTopic,
    TopicSet,
    decode_command,
    decode_entry,
)
from falconq_cluster.machine.keys import OF_TOPICS, prefix_end, read_topic_number
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.settings import REJECT
from falconq_cluster.machine.views import Views
from falconq_cluster.storage.memory import MemoryStore
from tests.sim.clients import DONE, REFUSED, TOPICS, Asked, Ledger, ranges_of
from tests.sim.disk import TOKEN
from tests.sim.invariants import Committed
from tests.sim.keep_model import KeepModel
from tests.sim.once_model import OnceModel
from tests.sim.order_model import OrderModel
from tests.sim.ordered import ORDERED_TOPICS
from tests.sim.queue_model import QueueModel
from tests.sim.workers import QUEUES
from tests.sim.world import Violation

MESSAGES_MAX = 1_000_000
ALL_TOPICS = (*TOPICS, *QUEUES, *ORDERED_TOPICS)
Place = tuple[str, DeliveredMessage]
"""(topic, message)."""


class Reference:
    """The committed log, applied to a fresh machine."""

    def __init__(self, committed: Committed, limits: MachineLimits) -> None:
        self.store = MemoryStore()
        self.machine = Machine.load(self.store, limits)
        self._topic_sets: dict[int, list[TopicSet]] = {}
        """Log index -> the settings that its operations left."""
        self._pulls: dict[int, list[tuple[Pulled | Leased, list[DeliveredMessage]]]] = {}
        """Log index -> what its pulls delivered."""
        self._settled: dict[int, list[LeaseSettled]] = {}
        """Log index -> what became of settlements."""
        self._once = OnceModel()
        self._queues = QueueModel(QUEUES)
        self.kept = KeepModel()
        self.orders = OrderModel(ORDERED_TOPICS)
        self._sequences: set[tuple[str, int, int]] = set()
        for number, (entry, term) in enumerate(zip(committed.entries, committed.terms, strict=True)):
            self._apply(number + 1, term, entry)
        self.messages = self._read_messages()

    def _apply(self, index: int, term: int, entry: bytes) -> None:
        applied = self.machine.apply(index, term, entry)
        self.store.write(applied.changes)
        header = applied.header
        if header is not None and header.origin and not applied.is_repeat:
            key = (header.origin, header.epoch, header.sequence)
            if key in self._sequences:
                raise Violation(f"command {key} took effect twice, at last at entry {index}")
            self._sequences.add(key)
        views = Views(self.machine, self.store)
        for result in applied.results:
            if isinstance(result, TopicSet):
                self._topic_sets.setdefault(index, []).append(result)
            if isinstance(result, Pulled | Leased):
                try:
                    messages = views.read_ranges(result.topic, ranges_of(result))
                except CorruptionError as error:
                    raise Violation(f"entry {index} gives {result}, and {error}") from error
                self._pulls.setdefault(index, []).append((result, messages))
            if isinstance(result, LeaseSettled):
                self._settled.setdefault(index, []).append(result)
        if applied.results:
            operations = decode_command(decode_entry(entry)[1]).operations
            self._once.applied(applied, operations)
            self._queues.applied(applied, operations, views)
            self.kept.applied(applied, operations, views)
            self.orders.applied(applied, operations)

    def _read_messages(self) -> dict[bytes, list[Place]]:
        """token -> where it is stored: once, or as often as its window was over; offsets are dense."""
        found: dict[bytes, list[Place]] = {}
        views = Views(self.machine, self.store)
        names = [(topic, status.partition) for topic in ALL_TOPICS for status in views.partition_status(topic)]
        for topic, partition in names:
            messages = views.peek(topic, partition=partition, offset=0, count=MESSAGES_MAX, bytes_max=1 << 40)
            for offset, message in enumerate(messages):
                if message.offset != offset:
                    raise Violation(f"{topic} has offset {message.offset} where {offset} is due")
                token = _token(message)
                places = found.setdefault(token, [])
                is_redriven = burying.CONSUMER.encode() in (message.headers or b"")
                if (
                    places
                    and not is_redriven
                    and not self._once.may_be_again(token, places[-1][1].timestamp_ms, message.timestamp_ms)
                ):
                    raise Violation(f"{token.decode()} is stored twice: {places[-1]} and {topic} {message}")
                places.append((topic, message))
        return found

    # Comparing.

    def check_store(self, name: str, pairs: dict[bytes, bytes]) -> None:
        """A node's store is what a replay gives, byte for byte."""
        own = dict(self.store.scan(b"", b"\xff" * 16))
        if own == pairs:
            return
        keys = sorted(key for key in own.keys() | pairs.keys() if own.get(key) != pairs.get(key))
        raise Violation(f"the store of {name} differs from a replay in {len(keys)} keys, first {keys[0]!r}")

    def check_ledger(self, ledger: Ledger, committed: Committed) -> None:
        """Every answer that a client got is true."""
        present = _tokens_with_effect(committed)
        # A message that was sent several times may be stored by any of its tries.
        tried_again = {asked.token for asked in ledger.asked if asked.state != REFUSED}
        for asked in ledger.asked:
            if asked.state == REFUSED and asked.token in self.messages.keys() - tried_again:
                raise Violation(f"{asked.token.decode()} was refused by {asked.node}, and is stored")
            if asked.state != DONE:
                continue
            if isinstance(asked.result, TopicSet) and asked.result not in self._topic_sets.get(asked.index, []):
                raise Violation(f"{asked.node} answered a change with {asked.result}, entry {asked.index} says no such")
            if isinstance(asked.result, LeaseSettled) and asked.result not in self._settled.get(asked.index, []):
                raise Violation(f"{asked.node} answered a settlement with {asked.result}, entry {asked.index} no such")
            if isinstance(asked.result, Appended) and asked.result.topic in ALL_TOPICS:
                self._check_appended(asked.token, asked.result, asked.index)
            elif isinstance(asked.result, Duplicate):
                first = asked.result.first
                if isinstance(first, Appended) and first.topic in ALL_TOPICS:
                    self._check_appended(asked.token, first, asked.result.first_index)
                elif first is None and asked.token not in self.messages:
                    raise Violation(f"{asked.token.decode()} is called a repeat by {asked.node}, and is not stored")
            elif isinstance(asked.result, Pulled | Leased):
                known = self._pulls.get(asked.index, [])
                if not any(result == asked.result and messages == asked.messages for result, messages in known):
                    raise Violation(
                        f"{asked.node} answered a pull with {asked.result}, entry {asked.index} says {known}"
                    )
        for token in self.messages:
            if token not in present:
                raise Violation(f"{token.decode()} is stored, and nobody published it")

    def _check_appended(self, token: bytes, result: Appended, index: int) -> None:
        if token not in self.messages:
            raise Violation(f"{token.decode()} was acknowledged at entry {index} and is missing")
        offsets = range(result.base_offset, result.base_offset + result.count)
        if not any(
            (topic, message.partition, message.level, message.id.partition(".")[0])
            == (result.topic, result.partition, result.level, str(index))
            and message.offset in offsets
            for topic, message in self.messages[token]
        ):
            raise Violation(f"{token.decode()} was acknowledged as {result} of {index}, and is {self.messages[token]}")

    def check_topics(self, ledger: Ledger) -> None:
        """Of those who saw one version of a topic, one changed it; what shall not be kept is gone."""
        winners: dict[int, Asked] = {}
        shapes: dict[int, tuple[int, tuple[str, ...]]] = {}
        for asked in sorted((a for a in ledger.asked if a.state == DONE), key=lambda a: a.index):
            operation, result = asked.operation, asked.result
            if isinstance(result, TopicSet):
                shape = (result.config.partitions, result.config.levels)
                if shapes.setdefault(result.version, shape) != shape:
                    raise Violation(f"version {result.version} is {shape} and {shapes[result.version]}")
            if not isinstance(operation, SetTopic | DeleteTopic) or operation.if_version <= 0:
                continue
            if isinstance(result, TopicSet) and result.version == operation.if_version:
                continue
            other = winners.setdefault(operation.if_version, asked)
            if other is not asked:
                raise Violation(f"entries {other.index} and {asked.index} both changed version {operation.if_version}")
        state = self.machine.state
        if state.deletions:
            raise Violation(f"{len(state.deletions)} deleted topics are not trimmed")
        for topic in state.topics.values():
            retention = topic.config.retention
            if topic.config.overflow != REJECT and 0 < retention.messages < topic.retained_count:
                raise Violation(f"{topic.name} keeps {topic.retained_count} messages, not {retention.messages}")
            has_attempts = any(consumer.attempts for consumer in topic.consumers.values())
            if topic.has_unerased and not has_attempts:
                raise Violation(f"{topic.name} has messages that are trimmed and not erased")
        numbers = {topic.number for topic in state.topics.values()}
        for prefix in OF_TOPICS:
            for key in self.store.scan_keys(prefix, prefix_end(prefix)):
                if read_topic_number(key) not in numbers:
                    raise Violation(f"key {key.hex()} is left of a topic that was deleted")

    def check_deliveries(self) -> None:
        """Each consumer got each message at most once, and nothing was passed over."""
        given: dict[tuple[str, str], list[DeliveredMessage]] = {}
        for index in sorted(self._pulls):
            for result, messages in self._pulls[index]:
                if result.topic not in TOPICS or not isinstance(result, Pulled) or result.is_replay:
                    # The models of queues and orders have judged the others.
                    continue
                levels = [message.level for message in messages]
                if levels != sorted(levels, reverse=True):
                    raise Violation(f"entry {index} delivers levels {levels} to {result.consumer}")
                given.setdefault((result.topic, result.consumer), []).extend(messages)
        views = Views(self.machine, self.store)
        self._queues.check_end(views, self.machine.state)
        self.orders.check_end(views, self.machine.state)
        for (topic, consumer), messages in given.items():
            for level in (0, 1):
                offsets = [message.offset for message in messages if message.level == level]
                stored = [m.offset for t, m in chain(*self.messages.values()) if t == topic and m.level == level]
                if offsets != sorted(stored)[: len(offsets)]:
                    raise Violation(
                        f"{consumer} got level {level} of {topic} as {offsets}, stored are {sorted(stored)}"
                    )
                pending = views.pending(topic, consumer)[level]
                if len(offsets) + pending != len(stored):
                    raise Violation(f"{consumer} has {pending} pending in level {level} of {topic}, not the rest")


def _token(message: DeliveredMessage) -> bytes:
    tokens = TOKEN.findall(message.message)
    if len(tokens) != 1:
        raise Violation(f"a message with {len(tokens)} tokens is stored: {message}")
    return bytes(tokens[0])


def _tokens_with_effect(committed: Committed) -> set[bytes]:
    tokens: set[bytes] = set()
    for entry in committed.entries:
        try:
            command = decode_command(decode_entry(entry)[1])
        except CommandError:
            continue
        for operation in command.operations:
            if isinstance(operation, Append):
                tokens.update(TOKEN.findall(operation.records))
    return tokens
