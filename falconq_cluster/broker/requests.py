"""What the gateway asks of the broker, and what it gets back.

What lives here: requests and answers as data, with the field meanings of the HTTP contract.
Rules: a request carries its deadline in `Clock.monotonic_ms` and has valid names and numbers: what can be judged
without the topic was judged by the gateway. Whatever goes wrong is a `FalconQError` from the call, never a field.
Must not know: HTTP, asyncio, the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from falconq_cluster.machine.settings import TopicConfig, TopicSettings

ORDER_OFFSET = "offset"
ORDER_DELIVERY = "delivery"
AS_RETRIED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Producer:
    """Who publishes, and which of its messages this is."""

    id: str
    sequence: int
    """1, 2, 3 … in each topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """One message for one topic."""

    topic: str
    message: bytes
    """The message as JSON text, kept byte for byte."""
    priority: str | int | None = None
    """A level's name or its position (more is more urgent); None is the least urgent."""
    partition_key: str | None = None
    partition: int | None = None
    """Wins over the key; None picks one by the key, or round robin without a key."""
    headers: bytes | None = None
    """A JSON object, kept byte for byte."""
    idempotency_key: str | None = None
    """With it the message is appended once, however often it is published with this key."""
    producer: Producer | None = None
    """The same with a sequence instead; never both."""
    expected_last_offset: int | None = None
    """Only if this is the last offset of `partition`, which is then given; -1 of an empty one."""
    delay_ms: int = 0
    """How long it waits before it enters its level."""
    ttl_ms: int = 0
    """How long from then on it may be given; 0 for ever."""
    traceparent: str | None = None
    """Given back among the headers, unless they have one; a repeat may come with another."""
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomicRequest:
    """Messages for one topic of which all are appended or none."""

    topic: str
    messages: Sequence[PublishRequest]
    """Without keys and producers of their own."""
    idempotency_key: str | None = None
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The message is on the disks of a majority, at this place.

    The place is None for a repeat of a producer's sequence of which only a later one is remembered.
    """

    topic: str
    partition: int | None
    offset: int | None
    priority: str | None
    """Name of the level."""
    level: int | None
    """Position of the level, 0 is the least urgent."""
    id: str | None
    index: int
    """Log index of the command that appended it; where the place is None, of this repeat."""
    timestamp_ms: int | None
    due_ms: int | None = None
    """When it enters its level and gets its offset; None of what was not delayed."""
    duplicate: bool = False
    """Whether an earlier publish appended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeRequest:
    """The next messages for a consumer; its cursors move past them."""

    topic: str
    consumer: str
    batch: int = 1
    partition: int | None = None
    """None takes from all partitions."""
    wait_ms: int = 0
    """How long an empty answer may be held back for messages to come; bounded by the deadline as well."""
    attempt: str = ""
    """A repeated attempt gets the batch that it named first; empty is at most once."""
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class StreamTag:
    """Names an event stream."""

    nonce: bytes
    is_shared: bool


@dataclass(frozen=True, slots=True)
class SeenDelivery:
    """The last delivery of an event stream that its client has seen."""

    number: int
    nonce: bytes
    """Of the stream, if it shared its consumer; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRequest:
    """An event stream of a consumer, or its continuation."""

    topic: str
    consumer: str
    seen: SeenDelivery | None = None
    """What was given up to it is acknowledged; None acknowledges nothing."""
    is_shared: bool = False
    """Beside other streams of the consumer; else in their place."""
    lease_ms: int
    """How long after the stream broke its messages are given to others."""
    level_min: str | int | None = None
    """As in `PullRequest`."""
    deadline_ms: int
    """Of the opening."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The stream is over."""

    reason: str
    """`draining`: the node stops, go on at another one; `replaced`: another stream took the consumer, or there is no
    such consumer any more; `deleted`: the topic was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """The next messages for a consumer, each under a lease of its own."""

    topic: str
    consumer: str
    count: int = 1
    bytes_max: int | None = None
    """Of messages in the answer; one message always fits. None is the node's limit."""
    wait_ms: int = 0
    """As in `ConsumeRequest`."""
    lease_ms: int | None = None
    """How long the leases last; None is what the topic says."""
    level_min: str | int | None = None
    """Only messages of this level, by name or position, or a more urgent one."""
    auto_commit: bool = False
    """Settle the messages as they are given: no leases."""
    stream: StreamTag | None = None
    """The event stream that they are for."""
    deadline_ms: int


class WishKind(IntEnum):
    """What a client wishes of a lease; the values are those of `machine.commands.SettleKind`."""

    ACK = 1
    NACK = 2
    EXTEND = 3
    REJECT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWish:
    """What shall become of one lease."""

    kind: WishKind
    lease_id: str
    ms: int = 0
    """NACK: how long the message shall wait, AS_RETRIED for what the topic says; EXTEND: how long the lease shall last.

    Both from now on."""
    priority: str | int | None = None
    """NACK: the level as which it is given again; None leaves it as it is."""
    reason: str = ""
    """REJECT: why; kept with the dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleRequest:
    """What shall become of leases of one consumer, in order."""

    topic: str
    consumer: str
    wishes: list[LeaseWish]
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class FailedWish:
    """A wish that changed nothing."""

    lease_id: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of the wishes."""

    ok_count: int
    failed: list[FailedWish]
    """In the order of the wishes."""
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeekRequest:
    """A look at what is stored; changes nothing."""

    topic: str
    batch: int = 1
    partition: int | None = None
    """None looks at all partitions, one after the other in offset order."""
    offset: int | None = None
    """Lowest offset to show; None begins with the oldest that is stored."""
    at_ms: int | None = None
    """Show nothing that was published before this time (ms since 1970); with `offset` both must hold."""
    order: str = ORDER_OFFSET
    """ORDER_OFFSET, or ORDER_DELIVERY: as a new consumer would get them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What a partition holds, from somewhere on."""

    topic: str
    partition: int | None
    """None for the only one."""
    offset: int | None = None
    at_ms: int | None = None
    """Published then or later; neither of both: the oldest that is kept."""
    limit: int


@dataclass(frozen=True, slots=True)
class Message:
    """One stored message as it is shown."""

    id: str
    message: bytes
    """JSON text, as published."""
    priority: str
    """Name of the level."""
    level: int
    """Position of the level, 0 is the least urgent."""
    offset: int
    partition: int
    timestamp_ms: int
    headers: bytes | None
    """JSON object as published, or None."""
    partition_key: str | None
    delivery_count: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as a pull gives it."""

    message: Message
    lease_id: str | None
    """What settles it; None when it is settled already."""
    expires_ms: int
    """Log time at which the lease ends."""
    number: int = 0
    """Of a delivery to an event stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """The answer to a pull."""

    topic: str
    consumer: str
    deliveries: list[Delivery]
    index: int
    """Log index that the answer shows."""
    nonce: bytes = b""
    """Of the pull, or of the event stream that it was for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The envelope of consume and peek."""

    topic: str
    consumer: str | None
    """None for a peek."""
    partition: int | None
    """The partition that was asked, or the only one; None over several, and then so are both offsets and cursor."""
    messages: list[Message]
    start_offset: int | None
    """consume: lowest offset not delivered before this batch; peek: lowest offset that was looked at."""
    next_offset: int | None
    """consume: lowest offset not delivered yet; peek: where the next page begins."""
    cursor: dict[str, int] | None = None
    """consume: level name -> offset behind the last one delivered of that level; None for a peek."""
    pending: dict[str, int] | None = None
    """consume: level name -> messages not delivered yet, over the partitions asked; None for a peek."""
    index: int
    """Log index that the answer shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRequest:
    """The settings that a topic shall have."""

    topic: str
    is_change: bool
    """Settings that are not given stay, and the topic must exist; otherwise they take their defaults."""
    if_version: int = 0
    """As in `machine.commands.SetTopic`."""
    given: TopicSettings = field(default_factory=TopicSettings)
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicInfo:
    """A topic as it is shown."""

    topic: str
    config: TopicConfig
    created_ms: int
    version: int
    """Another one after each change of the settings, never used twice."""
    index: int
    """Log index that the answer shows."""
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPage:
    """Messages of one partition in the order of their offsets."""

    topic: str
    partition: int
    messages: list[Message]
    next_offset: int
    """Where the next page begins; without more, where the next message will be at the earliest."""
    has_more: bool
    """Whether something is kept behind this page."""
    index: int
    """Log index that the answer shows."""


@dataclass(frozen=True, slots=True)
class TopicPurge:
    """A topic was emptied."""

    count: int
    """Messages that it held."""
    index: int
    """Log index at which it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """One partition of a topic as this node sees it."""

    id: int
    leader: str | None
    first_offset: int
    next_offset: int
    bytes: int
    depth: dict[str, int] = field(default_factory=dict)
    """Level name -> messages retained."""
