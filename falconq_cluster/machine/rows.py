"""What the store holds beside messages, as data, and its stored format.

What lives here: one Struct for each kind of stored value.
Rules: a stored value is a version byte and a msgpack array of the Struct's fields. Fields are never reordered,
reused or removed; new ones go to the end with a default, so version 1 reads what older nodes wrote. What changes the
bytes that older nodes would write is switched on by a version command first (P18). Maps are written in key order.
Must not know: keys, how the machine holds this in memory.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine.commands import Range
from falconq_cluster.machine.settings import DEDUPE_WINDOW_MS, TopicConfig
from falconq_cluster.machine.subscriptions import ConsumerConfig

ROW_VERSION = 1

_VERSION_BYTE = bytes((ROW_VERSION,))
_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all stored values."""


class MetaRow(Row, frozen=True):
    """How far this store has come."""

    applied_index: int
    applied_term: int
    log_time_ms: int
    digest: bytes
    """Rolling hash of all that was written up to the applied index (P18)."""


class ClusterRow(Row, frozen=True):
    """Who the cluster is; absent while it is forming (P5)."""

    cluster_id: str
    members: dict[str, str]
    """member -> disk id, "" for a vacancy."""
    record_index: int
    """Log index of the entry that last changed `members`."""


class OriginRow(Row, frozen=True):
    """How far the commands of one origin are applied (P9)."""

    epoch: int
    last_sequence: int
    nonce: bytes


class TopicRow(Row, frozen=True):
    number: int
    created_ms: int
    config: TopicConfig
    version: int = 0
    """Log index and ordinal of the last change of the settings; 0 stands for the topic's number."""
    is_dead_letters: bool = False
    """It has taken dead letters of another topic: it has none of its own."""
    redrive_left: int = 0
    """Dead letters that are still to be moved back."""
    redrive_to: str = ""
    """Where to, if their own origin is gone."""


class DeletionRow(Row, frozen=True):
    """A topic, or a consumer of one, that is unlinked and not wholly trimmed."""

    topic: int
    next_key: bytes
    """All its keys below this one are gone."""
    consumer: int = 0
    """Number of the only consumer of the topic that is meant; 0 for the whole topic."""


class LevelCounts(Row, frozen=True):
    """All that was ever appended to one level of a partition, and what of it is trimmed; as in `state.LevelState`."""

    appended_count: int
    appended_bytes: int
    trimmed_count: int = 0
    trimmed_bytes: int = 0
    trimmed_to: int = 0
    trimmed_base: int = 0
    first_offset: int = 0
    first_ms: int = 0
    erased_to: int = 0


class PartitionRow(Row, frozen=True):
    first_offset: int
    """Lowest offset that is retained; the next one when none is."""
    next_offset: int
    levels: list[LevelCounts]
    """Levels that the topic gained since the row was written are missing: they hold nothing."""


class AdditionRow(Row, frozen=True):
    """Partitions that were added: a key that moved to one of them may have messages before these offsets elsewhere."""

    ends: tuple[int, ...]
    """By partition that was there before, the offset of its next message then."""


class ConsumerRow(Row, frozen=True):
    number: int
    created_ms: int
    last_partition: int
    """The partition that was served last; ties go to the one after it (P16). -1 before the first."""
    served: tuple[int, ...] = ()
    """By level, what a weighted round gave so far. Shorter than the levels: 0."""
    turns: tuple[int, ...] = ()
    """By level, the partition that a weighted round served last. Shorter than the levels: none yet."""
    config: ConsumerConfig = ConsumerConfig()
    is_paused: bool = False
    """It is given nothing."""
    used_ms: int = 0
    """Log time of its last use, to the minute."""
    delivery_number: int = 0
    """Of the last delivery to an event stream."""
    stream: bytes = b""
    """Nonce of the last event stream that had the consumer alone."""


class CursorPosition(Row, frozen=True):
    """Where a consumer stands in one level of a partition."""

    batch_offset: int
    """Base offset of the record batch in which `next_offset` lies; equal to it between two batches."""
    next_offset: int
    """No message of this level at or behind it was delivered, all before it were."""
    delivered_count: int
    """Of all that was ever appended to the level; what was trimmed before it was delivered counts."""
    lost_count: int = 0
    """Messages that were trimmed before they were delivered or settled."""


class CursorRow(Row, frozen=True):
    """A consumer's cursors in one partition, one per level. Absent, or shorter than the levels: at 0 (P16)."""

    levels: list[CursorPosition]


class AttemptRow(Row, frozen=True):
    """What a pull was given, for a repeat of it."""

    attempt: str
    made_ms: int
    """Log time of the first try."""
    ranges: list[Range]
    start_offsets: list[tuple[int, int]]
    """(partition, lowest offset that had not been delivered), in the order of service."""


class LeaseRow(Row, frozen=True):
    """A message that a consumer was handed under a lease and has not settled."""

    level: int
    """In which it is stored."""
    batch_offset: int
    size_bytes: int
    """As a pull counts it."""
    priority: int
    """The level as which it is given again."""
    failed_count: int
    """Deliveries that ended by a nack or by time."""
    acquired_count: int
    nonce: bytes
    """Of the pull that handed it out; empty while it is nobody's."""
    until_ms: int
    """When the lease ends; without a nonce, from when on it may be given again."""
    backoff_ms: int
    """How long after the end of the lease it may be given again."""
    is_last: bool = False
    """If this delivery fails, there is no other one: the message is dead."""
    reason: str = ""
    """Why it is dead, which it is with any: it goes to the dead letters."""
    number: int = 0
    """Of the delivery to an event stream; 0 when it was to none, or was given back."""
    lane: bytes = b""
    """Of all messages with the same one, the consumer has one at a time; empty without an order, or a key."""
    is_aside: bool = False
    """It was never handed out: another message of its lane goes first."""
    expires_ms: int = 0
    """Log time from which on it is not given again; 0 for never."""


class OnceRow(Row, frozen=True):
    """An append that is to happen once: what it did, for a repeat of it."""

    number: int
    """Later appends have larger numbers."""
    made_ms: int
    """Log time of the append."""
    sequence: int
    """The producer's last sequence; 0 for an idempotency key."""
    log_index: int
    digest: bytes
    """Of what was appended."""
    partition: int
    level: int
    base_offset: int
    count: int
    first_id: int
    places: bytes = b""
    """Of an AppendMany with several parts: msgpack of its places. The fields above are then those of the first one."""
    due_ms: int = 0
    """Of messages that were delayed; `base_offset` is -1 then."""
    until_ms: int = 0
    """Log time from which on it is not known any more; 0 in rows of before topics had windows of their own."""

    @property
    def known_until_ms(self) -> int:
        """Log time from which on a repeat is not known as one."""
        return self.until_ms or self.made_ms + DEDUPE_WINDOW_MS


class DelayedRow(Row, frozen=True):
    """Messages that wait for their time."""

    partition: int
    level: int
    records: bytes
    ttl_ms: int = 0


class PlacedRow(Row, frozen=True):
    """Where the record batch is whose ids are in the key."""

    partition: int
    level: int
    base: int


RowT = TypeVar("RowT", bound=Row)


def encode_row(row: Row) -> bytes:
    return _VERSION_BYTE + _encoder.encode(row)


def decode_row(data: bytes, kind: type[RowT]) -> RowT:
    """The row. Raises: CorruptionError."""
    if data[:1] != _VERSION_BYTE:
        message = f"a stored {kind.__name__} has version {data[:1].hex() or 'nothing'}, this node reads {ROW_VERSION}"
        raise CorruptionError(message)
    try:
        return msgspec.msgpack.decode(memoryview(data)[1:], type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        message = f"a stored {kind.__name__} is not readable: {error}"
        raise CorruptionError(message) from error
