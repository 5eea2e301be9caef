"""Topics that do not keep everything, as a naive model has them.

What lives here: a topic's messages, those that wait for their time, and what is known of its publishes.
Rules: everything that ever was is remembered; the model's other modules say what may become of it.
Must not know: operations and results, the machine's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from falconq_cluster.machine.appends import AppendedMany, Part
from falconq_cluster.machine.commands import Appended
from tests.sim.keep_consumers import Consumer, Message, Stock
from tests.sim.keeping import RECORD_BYTES

UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Delayed:
    """A message that waits for its time."""

    part: Part
    due_ms: int
    record: bytes
    number: int
    """In its part."""
    first: int = 0
    """Number of the first message that waits with it: it is the first of their record batch."""

    def is_with(self, other: Delayed) -> bool:
        return self.part is other.part and self.first == other.first


@dataclass(slots=True)
class KeptTopic(Stock):
    """All that there is of a topic."""

    name: str = ""
    consumers: dict[str, Consumer] = field(default_factory=dict)
    waiting: dict[str, Delayed] = field(default_factory=dict)
    """By the message's id."""
    by_id: dict[str, Message] = field(default_factory=dict)
    """Where each message is, or was at last."""
    cancelled: set[str] = field(default_factory=set)
    """Ids."""
    known: dict[str, tuple[Appended | AppendedMany, int]] = field(default_factory=dict)
    """Key -> what the last append with it did, and its log index."""

    def first(self, key: str, now_ms: int) -> tuple[Appended | AppendedMany, int] | None:
        """The same while its window lasts."""
        found = self.known.get(key)
        return None if found is None or now_ms - found[0].timestamp_ms >= self.config.dedupe_window_ms else found

    def kept(self) -> Iterator[Message]:
        return (message for partition in self.partitions for message in partition if not message.is_gone)

    @property
    def kept_max(self) -> int:
        """How many messages it may keep: all have the same size."""
        retention = self.config.retention
        by_bytes = retention.bytes // RECORD_BYTES if retention.bytes else UNLIMITED
        return min(retention.messages or UNLIMITED, by_bytes)

    def append(
        self, part: Part, base: int, ids: Sequence[str], now_ms: int, first: int = 0, *, had_id: bool = False
    ) -> None:
        """Have the messages of a part, from its `first` on."""
        partition = self.partitions[part.partition]
        line = self.lines.setdefault((part.partition, part.level), [])
        for number, message_id in enumerate(ids, first):
            expires_ms = now_ms + part.ttl_ms if part.ttl_ms else 0
            place = (part.partition, len(partition))
            record = record_of(part, number)
            message = Message(place, part.level, len(line), now_ms, expires_ms, message_id, record, [base], had_id)
            partition.append(message)
            line.append(message)
            self.by_id[message_id] = message


def record_of(part: Part, number: int) -> bytes:
    return part.records[number * RECORD_BYTES : (number + 1) * RECORD_BYTES]
