"""What can be proposed to the log, and what comes back when it is applied.

What lives here: operations, commands and results as data, and the command's stored format.
Rules: a log entry is `ENTRY_KIND`, version, leader's stamp, command. The command's header (origin, epoch, sequence)
can be read without decoding its operations, since a leader never decodes them. Tags and field order are never
reused; new fields go to the end with a default; what changes the bytes that old nodes would write needs a version
command first (PROTOCOL.md P18).
Must not know: the log, the network, time.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

from falconq_cluster.machine.amends import AmendOperation, MessageChanged
from falconq_cluster.machine.appends import AppendedMany, AppendMany, Ripen
from falconq_cluster.machine.capacity import Within
from falconq_cluster.machine.keeping import Purge, Purged, TrimLevels
from falconq_cluster.machine.operation import Once, Operation
from falconq_cluster.machine.settings import TopicConfig, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerOperation, ConsumerResult, QueueOperation, Reap, StreamKind

ENTRY_KIND = 0
"""First byte of a log entry of ours; PySyncObj's own no-op has 1."""
ENTRY_VERSION = 1
NO_DEADLINE = 0
ANY_VERSION = 0
EXISTING_VERSION = -1
MISSING_VERSION = -2
"""What a topic must be like before an operation on it: anything, there in any version, not there."""

_ENTRY = struct.Struct("<BBQ")
_HEADER = struct.Struct("<BHQQ")


class CommandError(ValueError):
    """The bytes are not a command; says where they went wrong."""


class Append(Operation, frozen=True, tag=1):
    """Append records to one (topic, partition, level)."""

    not_after_ms: int
    """Log time after which the operation is refused as `expired` (P10); NO_DEADLINE never expires."""
    topic: str
    partition: int
    level: int
    """Position in the topic's levels, 0 is the least urgent."""
    count: int
    records: bytes
    """`count` records, packed by `machine.records.pack_record`, one after the other."""
    may_create: bool
    """Create a missing topic with the defaults; otherwise refuse with `topic_not_found`."""


class AppendOnce(Append, frozen=True, tag=7):
    """The same, unless it was done before within the published window."""

    once: Once

    @classmethod
    def of(cls, append: Append, once: Once) -> AppendOnce:
        return cls(**msgspec.structs.asdict(append), once=once)


class Pull(Operation, frozen=True, tag=2):
    """Take the next messages for a consumer and move its cursors past them (autoCommit)."""

    not_after_ms: int
    topic: str
    consumer: str
    partition: int
    """-1 for all partitions."""
    count_max: int
    bytes_max: int
    attempt: str
    """A repeated attempt id gets what it named the first time; empty: at most once."""


class OpenOrigin(Operation, frozen=True, tag=3):
    """A node begins a new epoch: the index of this entry (P9). Repeats of one nonce change nothing."""

    node: str
    nonce: bytes


class Tick(Operation, frozen=True, tag=4):
    """Nothing but the entry's stamp: makes what is due by log time happen."""


class Form(Operation, frozen=True, tag=5):
    """The cluster exists: its id and whose disks count (P5). Ignored when already formed."""

    cluster_id: str
    members: dict[str, str]
    """member -> disk id; "" leaves the member vacant until a SetDisk."""


class SetDisk(Operation, frozen=True, tag=6):
    """From now on this disk counts for the member (P4). Unknown members are ignored."""

    node: str
    disk_id: str


class SetTopic(Operation, frozen=True, tag=10):
    """Create a topic, or change the settings of one."""

    not_after_ms: int
    topic: str
    if_version: int
    """The version that the topic must have, or one of the three constants above; else `precondition_failed`."""
    is_change: bool
    """Settings that are not given stay, and the topic must exist; otherwise they take their defaults."""
    given: TopicSettings


class DeleteTopic(Operation, frozen=True, tag=11):
    """Unlink a topic; what it holds is trimmed later (P12)."""

    not_after_ms: int
    topic: str
    if_version: int


class Trim(Operation, frozen=True, tag=12):
    """Take the next keys of deleted topics out of the store, within P12's bounds."""


class LeasePull(Operation, frozen=True, tag=20):
    """Take the next messages for a consumer and lease them until they are settled or the time is over."""

    not_after_ms: int
    topic: str
    consumer: str
    count_max: int
    bytes_max: int
    lease_ms: int
    """0 for what the topic says."""
    level_min: int
    """Only messages of this level or a more urgent one."""
    nonce: bytes
    """16 random bytes of the origin: who settles names them (P14)."""
    in_flight_max: int
    """No more than so many messages of the consumer are leased at a time; 0 for what the topic says."""
    auto_commit: bool = False
    """The messages are settled as they are given: there is no lease, and nobody gives them back."""
    stream: StreamKind = StreamKind.NONE
    """For which the messages are; then `nonce` is the stream's, and they are numbered."""


class SettleKind(IntEnum):
    """How a lease ends, or goes on."""

    ACK = 1
    NACK = 2
    EXTEND = 3
    RELEASE = 4
    """Given back untouched: not counted as a delivery that failed."""
    REJECT = 5
    """Never to be given again: it goes to the dead letters."""


class SettleItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What becomes of one lease."""

    kind: SettleKind
    partition: int
    offset: int
    nonce: bytes
    ms: int = 0
    """NACK: from when on it may be given again, from now, -1 for the topic's retry; EXTEND: the lease's, from now."""
    priority: int = -1
    """NACK: the level as which it is given again; -1 leaves it as it is."""
    reason: str = ""
    """REJECT: why, for people; kept with the message."""


class Settle(Operation, frozen=True, tag=21):
    """End or extend leases of one consumer; each item is judged alone."""

    not_after_ms: int
    topic: str
    consumer: str
    items: list[SettleItem]


TopicOperation = SetTopic | DeleteTopic | Purge
ClientOperation = (
    Append
    | AppendOnce
    | AppendMany
    | AmendOperation
    | Pull
    | LeasePull
    | Settle
    | TopicOperation
    | ConsumerOperation
    | QueueOperation
)
"""What clients ask for; has a time to expire."""
AnyOperation = ClientOperation | OpenOrigin | Tick | Form | SetDisk | Trim | TrimLevels | Reap | Ripen | Within


class Command(msgspec.Struct, frozen=True):
    """Operations of one origin that are applied together, each judged alone."""

    origin: str
    """Empty for a command without a sequence (OpenOrigin, Tick, Form, SetDisk, Trim, TrimLevels, Reap)."""
    epoch: int
    sequence: int
    operations: list[AnyOperation]


class Header(msgspec.Struct, frozen=True):
    """What a leader reads of a command."""

    origin: str
    epoch: int
    sequence: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The operation changed nothing."""

    code: str
    """A key of `errors.ERROR_CODES`."""
    detail: str


class Appended(msgspec.Struct, frozen=True, tag=True):
    """Records are at base_offset .. base_offset + count - 1 of (topic, partition), in `level`."""

    topic: str
    partition: int
    level: int
    base_offset: int
    count: int
    first_id: int
    """Message i has the id "<log index>.<first_id + i>"."""
    timestamp_ms: int
    due_ms: int = 0
    """Of what waits for its time, which has -1 as its base_offset; else 0."""


class Duplicate(msgspec.Struct, frozen=True, tag=True):
    """The append repeats one that was applied before; nothing was changed."""

    topic: str
    first: Appended | AppendedMany | None
    """What the first one did; None when only a later sequence of the producer is remembered."""
    first_index: int
    """Log index at which it was appended; 0 when `first` is None."""


class Range(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`count` consecutive offsets of one record batch."""

    partition: int
    level: int
    batch_offset: int
    """Base offset of the record batch that holds them."""
    offset: int
    count: int


class Pulled(msgspec.Struct, frozen=True, tag=True):
    """Ranges in delivery order; empty when nothing was there."""

    topic: str
    consumer: str
    ranges: list[Range]
    is_replay: bool
    start_offsets: dict[int, int]
    """partition -> lowest offset that had not been delivered before this pull."""


class LeasedRange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Messages of one range, with what is the same for all of them."""

    messages: Range
    delivery_count: int
    """This delivery, and those before it that failed."""
    acquired_count: int
    """How often they were handed out, this time included."""


class Leased(msgspec.Struct, frozen=True, tag=True):
    """Ranges in delivery order; empty when nothing was there or enough is in flight."""

    topic: str
    consumer: str
    ranges: list[LeasedRange]
    nonce: bytes
    expires_ms: int
    """Log time at which the leases end; 0 when there are none."""
    first_number: int = 0
    """Of the first message, if the pull was an event stream's; those of the others follow."""
    expired_count: int = 0
    """Messages of which the lease before had ended by time."""


class LeaseSettled(msgspec.Struct, frozen=True, tag=True):
    """What became of the items."""

    ok_count: int
    failed: list[tuple[int, str, str]]
    """(place in the items, code, detail) of those that changed nothing."""


class TopicSet(msgspec.Struct, frozen=True, tag=True):
    """The topic has the wanted settings."""

    topic: str
    created_ms: int
    version: int
    config: TopicConfig
    is_new: bool


class Done(msgspec.Struct, frozen=True, tag=True):
    """A command without an answer to a client took effect (or was a repeat)."""


Result = (
    Refused
    | Appended
    | AppendedMany
    | Duplicate
    | MessageChanged
    | Pulled
    | Leased
    | LeaseSettled
    | TopicSet
    | ConsumerResult
    | Purged
    | Done
)

_operations_encoder = msgspec.msgpack.Encoder()
_operations_decoder: msgspec.msgpack.Decoder[list[AnyOperation]] = msgspec.msgpack.Decoder(list[AnyOperation])


def encode_command(command: Command) -> bytes:
    """The command's bytes: header, then the operations."""
    origin = command.origin.encode()
    head = _HEADER.pack(ENTRY_VERSION, len(origin), command.epoch, command.sequence)
    return head + origin + _operations_encoder.encode(command.operations)


def read_header(data: bytes) -> Header:
    """The header alone. Raises: CommandError."""
    return _split(data)[0]


def decode_command(data: bytes) -> Command:
    """The whole command. Raises: CommandError."""
    header, position = _split(data)
    try:
        operations = _operations_decoder.decode(memoryview(data)[position:])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # ValueError: a string that is not UTF-8.
        message = f"operations at byte {position} are not readable: {error}"
        raise CommandError(message) from error
    return Command(header.origin, header.epoch, header.sequence, operations)


def encode_entry(command: bytes, stamp_ms: int) -> bytes:
    """A log entry: the command, stamped with log time by the leader."""
    return _ENTRY.pack(ENTRY_KIND, ENTRY_VERSION, stamp_ms) + command


def decode_entry(entry: bytes) -> tuple[int, bytes]:
    """(stamp_ms, command bytes) of a log entry of kind ENTRY_KIND. Raises: CommandError."""
    if len(entry) < _ENTRY.size or entry[0] != ENTRY_KIND or entry[1] != ENTRY_VERSION:
        start = entry[:2].hex() or "nothing"
        message = f"log entry starts with {start}, expected kind {ENTRY_KIND} version {ENTRY_VERSION}"
        raise CommandError(message)
    return _ENTRY.unpack_from(entry)[2], entry[_ENTRY.size :]


def _split(data: bytes) -> tuple[Header, int]:
    if len(data) < _HEADER.size:
        message = f"command has {len(data)} bytes, its header needs {_HEADER.size}"
        raise CommandError(message)
    version, origin_length, epoch, sequence = _HEADER.unpack_from(data)
    end = _HEADER.size + origin_length
    if version != ENTRY_VERSION or len(data) < end:
        message = f"command of version {version} with an origin of {origin_length} bytes is not readable here"
        raise CommandError(message)
    try:
        origin = data[_HEADER.size : end].decode()
    except UnicodeDecodeError as error:
        message = "the origin of a command is not UTF-8"
        raise CommandError(message) from error
    return Header(origin, epoch, sequence), end
