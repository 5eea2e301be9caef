"""Operations on consumers, and what they did.

What lives here: a consumer's settings, the operations that make, change, move, pause and delete consumers, and the one
that opens an event stream.
Rules: those of machine/commands.py, which lists all operations and results.
Must not know: the log, the network, time.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from falconq_cluster.machine.operation import Operation

EXPIRE_AFTER_MS = 604_800_000
"""How long a consumer that nobody uses is kept, where nobody said otherwise: a week. Published."""


class StartKind(IntEnum):
    """Where a consumer begins."""

    EARLIEST = 0
    LATEST = 1
    """Behind all that is there when the operation is applied."""
    OFFSET = 2
    """At this offset of every partition."""
    TIME = 3
    """At the first message of each partition that was published at this time or later."""


class Start(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a consumer begins, or goes on."""

    kind: StartKind = StartKind.EARLIEST
    value: int = 0
    """The offset, or the time in ms."""


class Ordering(IntEnum):
    """Of which messages a consumer has one at a time in its hand."""

    NONE = 0
    KEY = 1
    """Of those with one key."""
    PARTITION = 2
    """Of those of one partition."""


class ConsumerConfig(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The settings of a consumer; the defaults are those of one that a pull makes."""

    start: Start = Start()
    """Counts only when the consumer is made."""
    lease_ms: int = 0
    """0 for what the topic says."""
    in_flight_max: int = 0
    """0 for what the topic says."""
    expire_after_ms: int = EXPIRE_AFTER_MS
    """A consumer that nobody used for so long is deleted; 0 keeps it for ever."""
    ordering: Ordering = Ordering.NONE


class SetConsumer(Operation, frozen=True, tag=22):
    """Make a consumer, or give one these settings."""

    not_after_ms: int
    topic: str
    consumer: str
    config: ConsumerConfig
    offsets: tuple[int, ...] = ()
    """By partition, where a consumer that starts at a time begins; whoever proposes has looked them up."""


class DeleteConsumer(Operation, frozen=True, tag=23):
    """Unlink a consumer; what it holds is trimmed later (P12)."""

    not_after_ms: int
    topic: str
    consumer: str


class Seek(Operation, frozen=True, tag=24):
    """Let a consumer go on elsewhere. What it has in hand is in nobody's hand any more."""

    not_after_ms: int
    topic: str
    consumer: str
    to: Start
    offsets: tuple[int, ...] = ()
    """As in SetConsumer."""


class PauseConsumer(Operation, frozen=True, tag=25):
    """From now on a consumer is given nothing, or is given messages again. It may settle what it has in any case."""

    not_after_ms: int
    topic: str
    consumer: str
    is_paused: bool


class StreamKind(IntEnum):
    """Whether a pull is an event stream's, and what there is beside the stream."""

    NONE = 0
    ALONE = 1
    """The only stream of its consumer."""
    SHARED = 2
    """One of several."""


class OpenStream(Operation, frozen=True, tag=29):
    """Begin an event stream, or go on with one from the last delivery that its client has seen (P20)."""

    not_after_ms: int
    topic: str
    consumer: str
    nonce: bytes
    """16 random bytes of the origin."""
    stream: StreamKind
    acked_number: int = 0
    """Of the last delivery that the client has seen; 0 for none."""
    acked_nonce: bytes = b""
    """SHARED: of the stream that gave it."""


class Redrive(Operation, frozen=True, tag=26):
    """Move dead letters of a topic back, in as many commands as it takes (P12)."""

    not_after_ms: int
    topic: str
    count_max: int
    """0 for all that are there when the operation is applied."""


class Reap(Operation, frozen=True, tag=27):
    """Do what is due for these consumers and dead-letter topics, within P12's bounds."""

    consumers: list[tuple[str, str]]
    """(topic, consumer)."""
    redrives: list[str]


ConsumerOperation = SetConsumer | DeleteConsumer | Seek | PauseConsumer
QueueOperation = OpenStream | Redrive
"""What else clients ask for."""


class StreamOpened(msgspec.Struct, frozen=True, tag=True):
    """The stream may be handed messages."""

    topic: str
    consumer: str
    is_done: bool
    """Whether all that earlier streams had in hand is settled; else the operation is to be sent again."""


class ConsumerSet(msgspec.Struct, frozen=True, tag=True):
    """The consumer is as it was asked to be."""

    topic: str
    consumer: str
    is_new: bool


class Redriven(msgspec.Struct, frozen=True, tag=True):
    """Dead letters go back: some by this entry, the rest soon."""

    topic: str
    dead_letter_topic: str
    count: int


ConsumerResult = ConsumerSet | StreamOpened | Redriven
