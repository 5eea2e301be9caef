"""What an applied command means to those who wait, as data.

What lives here: the events that `apply` gives out beside results.
Rules: events say only what changed; they hold for every node that applies the entry, whoever proposed it.
Must not know: who listens.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopicChanged:
    """A topic was created or its settings changed."""

    topic: str


@dataclass(frozen=True, slots=True)
class TopicDeleted:
    """There is no such topic any more; another one may have its name in a later command."""

    topic: str


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A Trim or TrimLevels is applied."""

    ranges: tuple[tuple[bytes, bytes], ...]
    """(start, stop) of the keys that it took out of the store: nothing is left between them."""
    size_bytes: int
    """Of the packed records that went with them."""
    is_over: bool
    """Whether nothing is left to be trimmed."""
    count: int = 0
    """Messages that were retained until now."""
    count_bytes: int = 0
    """Of their packed records."""


@dataclass(frozen=True, slots=True)
class TopicPurged:
    """All that the topic held is trimmed, and is to be erased."""

    topic: str
    count: int
    count_bytes: int


@dataclass(frozen=True, slots=True)
class LevelGrew:
    """Messages were appended: long polls may have something."""

    topic: str
    partition: int
    level: int


@dataclass(frozen=True, slots=True)
class HoldingsChanged:
    """A consumer has other messages in hand, or others until another time: long polls may have something by then."""

    topic: str
    consumer: str


@dataclass(frozen=True, slots=True)
class Buried:
    """Messages went to the dead letters of their topic."""

    topic: str
    consumer: str
    count: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """A Reap is applied."""


@dataclass(frozen=True, slots=True)
class LeftUndone:
    """The entry had no room for all that is due: a Reap shall name these."""

    consumers: tuple[tuple[str, str], ...]
    """(topic, consumer) of those that have dead messages."""
    redrives: tuple[str, ...]
    """Dead-letter topics that are to be moved back."""


@dataclass(frozen=True, slots=True)
class ConsumerUnlinked:
    """What the consumer held is to be trimmed: it was deleted, or moved."""

    topic: str
    consumer: str


@dataclass(frozen=True, slots=True)
class StreamReplaced:
    """Another event stream is the only one of the consumer now."""

    topic: str
    consumer: str
    nonce: bytes
    """Of that stream."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A consumer passed messages over whose time to live was over."""

    topic: str
    count: int


@dataclass(frozen=True, slots=True)
class Delayed:
    """Messages wait for their time."""


@dataclass(frozen=True, slots=True)
class Ripened:
    """A Ripen is applied."""


@dataclass(frozen=True, slots=True)
class OriginOpened:
    """A node has a new epoch. If the nonce is not its latest, the node opens again."""

    node: str
    nonce: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """The cluster formed, or another disk counts for a member."""


Event = (
    TopicChanged
    | TopicDeleted
    | Trimmed
    | TopicPurged
    | LevelGrew
    | HoldingsChanged
    | ConsumerUnlinked
    | Buried
    | Reaped
    | LeftUndone
    | StreamReplaced
    | Expired
    | Delayed
    | Ripened
    | OriginOpened
    | MembersChanged
)
