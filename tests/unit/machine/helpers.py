"""A machine with its store, driven entry by entry."""

from __future__ import annotations

from falconq_cluster.machine.commands import (
    AnyOperation,
    Append,
    Appended,
    AppendOnce,
    Command,
    OpenOrigin,
    Pull,
    Pulled,
    Result,
    SetTopic,
    TopicSet,
    encode_command,
    encode_entry,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import DEFAULT_LIMITS, Applied, Machine
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from falconq_cluster.machine.views import Views
from falconq_cluster.storage.memory import MemoryStore

START_MS = 1_700_000_000_000


class Node:
    """One replica: applies entries and writes what they change."""

    def __init__(self, limits: MachineLimits = DEFAULT_LIMITS) -> None:
        self.store = MemoryStore()
        self.limits = limits
        self.machine = Machine.load(self.store, limits)
        self.entries: list[bytes] = []
        self.now_ms = START_MS

    @property
    def views(self) -> Views:
        return Views(self.machine, self.store)

    def apply(self, entry: bytes) -> Applied:
        self.entries.append(entry)
        applied = self.machine.apply(self.machine.applied_index + 1, 1, entry)
        self.store.write(applied.changes)
        return applied

    def command(self, *operations: AnyOperation, origin: str = "", epoch: int = 0, sequence: int = 0) -> Applied:
        command = Command(origin, epoch, sequence, list(operations))
        return self.apply(encode_entry(encode_command(command), self.now_ms))

    def result(self, operation: AnyOperation) -> Result:
        (result,) = self.command(operation).results
        return result

    def publish(self, *messages: str, level: int = 0, partition: int = 0, topic: str = "t") -> Appended:
        result = self.result(append(*messages, level=level, partition=partition, topic=topic))
        assert isinstance(result, Appended)
        return result

    def pull(
        self, count: int = 10, *, consumer: str = "c", partition: int = -1, attempt: str = "", bytes_max: int = 1 << 20
    ) -> Pulled:
        result = self.result(pull(count, consumer=consumer, partition=partition, attempt=attempt, bytes_max=bytes_max))
        assert isinstance(result, Pulled)
        return result

    def read(self, pulled: Pulled) -> list[DeliveredMessage]:
        return self.views.read_ranges(pulled.topic, pulled.ranges)

    def consume(self, count: int = 10, *, consumer: str = "c", partition: int = -1, attempt: str = "") -> list[str]:
        pulled = self.pull(count, consumer=consumer, partition=partition, attempt=attempt)
        return [message.message.decode() for message in self.read(pulled)]

    def open_origin(self, node: str = "n1", nonce: bytes = b"a") -> int:
        self.command(OpenOrigin(node, nonce))
        origin = self.machine.origin(node)
        assert origin is not None
        return origin.epoch

    def reload(self) -> None:
        """Forget memory, as a restart does."""
        self.machine = Machine.load(self.store, self.limits)

    def add_topic(self, name: str, config: TopicConfig) -> None:
        """A topic of another shape than a publish makes."""
        operation = SetTopic(0, name, 0, is_change=False, given=_given(config))
        assert isinstance(self.result(operation), TopicSet)

    def everything(self) -> list[tuple[bytes, bytes]]:
        return list(self.store.scan(b"", b"\xff"))


def _given(config: TopicConfig) -> TopicSettings:
    return TopicSettings(*(getattr(config, name) for name in TopicSettings.__struct_fields__))


def append(
    *messages: str,
    level: int = 0,
    partition: int = 0,
    topic: str = "t",
    may_create: bool = True,
    not_after_ms: int = 0,
    once: Once | None = None,
) -> Append:
    records = b"".join(pack_record(message.encode()) for message in messages)
    operation = Append(not_after_ms, topic, partition, level, len(messages), records, may_create)
    return operation if once is None else AppendOnce.of(operation, once)


def pull(
    count: int = 10,
    *,
    topic: str = "t",
    consumer: str = "c",
    partition: int = -1,
    attempt: str = "",
    bytes_max: int = 1 << 20,
    not_after_ms: int = 0,
) -> Pull:
    return Pull(not_after_ms, topic, consumer, partition, count, bytes_max, attempt)
