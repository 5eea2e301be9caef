"""What the gateway asks about one message, and what it gets back.

What lives here: requests and answers as data.
Rules: those of broker/requests.py. An answer is of one log index, however long the message was looked for.
Must not know: HTTP, asyncio, how a message is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from falconq_cluster.machine.message_states import MessageState

CONSUMERS_SHOWN = 100
"""Consumers in an answer of which nobody said how many."""


@dataclass(frozen=True, slots=True)
class MessageId:
    """What names a message for ever, in its topic."""

    log_index: int
    number: int

    def __str__(self) -> str:
        return f"{self.log_index}.{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainRequest:
    """Where a message stands."""

    topic: str
    id: MessageId
    consumer: str | None = None
    """With this consumer alone; None with all of them, a page at a time."""
    after: str = ""
    """Only consumers behind this name."""
    limit: int = CONSUMERS_SHOWN
    """Most consumers in the answer."""
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """What a message that nobody was handed shall be; None leaves it as it is."""

    topic: str
    id: MessageId
    priority: str | int | None = None
    """A level's name or its position."""
    delay_ms: int | None = None
    """It enters its level so long after the change."""
    due_ms: int | None = None
    """Log time at which it does; never together with `delay_ms`."""
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """Where a message stands with one consumer."""

    consumer: str
    state: MessageState
    ahead: int | None
    """Messages that the consumer would be given before it; None unless it is ready, or where nobody counts so far."""
    deliveries: int | None
    """How often it was delivered; None where that is settled and not known any more."""
    due_ms: int | None
    """Log time from which on it is given again; None unless it is delayed."""
    lease_ends_ms: int | None
    """Log time; None unless it is leased."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedMessage:
    """A message, and where it stands at one log index."""

    topic: str
    id: str
    message: bytes
    """JSON text, as published."""
    priority: str
    """Name of the level."""
    level: int
    offset: int | None
    """None while it is delayed."""
    partition: int
    timestamp_ms: int | None
    """Log time at which it entered its level; None while it is delayed."""
    headers: bytes | None
    partition_key: str | None
    state: MessageState
    ahead: int | None
    deliveries: int | None
    """Those three are of the consumer that was asked for, else of all together."""
    due_ms: int | None
    """Log time at which it enters its level, or is given again; None unless it is delayed."""
    expires_ms: int | None
    """Log time from which on it is not given; None for never, or not known yet."""
    consumers: Sequence[ConsumerState]
    """By name: the one that was asked for, or a page of them; none before it has entered its level."""
    has_more: bool
    """Whether there are consumers behind the page."""
    index: int
    """Log index that the answer shows."""
