"""What the gateway asks about consumers and dead letters, and what it gets back.

What lives here: requests and answers as data, and what becomes of the one and the other in the log.
Rules: those of broker/requests.py. A start or a seek to a time was looked up in the node's own store, so that no node
has to search while it applies: what is published later is behind it in any case.
Must not know: HTTP, asyncio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from falconq_cluster.broker.reading import known_topic
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import NO_DEADLINE
from falconq_cluster.machine.consumer_views import ConsumerView
from falconq_cluster.machine.subscriptions import ConsumerConfig, Seek, SetConsumer, Start
from falconq_cluster.machine.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerRequest:
    """The settings that a consumer shall have."""

    topic: str
    consumer: str
    config: ConsumerConfig
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeekRequest:
    """Where a consumer shall go on."""

    topic: str
    consumer: str
    to: Start
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerInfo:
    """A consumer as it is shown."""

    topic: str
    levels: Sequence[str]
    view: ConsumerView
    log_time_ms: int
    index: int
    """Log index that the answer shows."""
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveInfo:
    """Dead letters that go back to their topic."""

    topic: str
    dead_letter_topic: str
    count: int
    index: int


def set_operation(request: ConsumerRequest, offsets: tuple[int, ...]) -> SetConsumer:
    return SetConsumer(NO_DEADLINE, request.topic, request.consumer, request.config, offsets)


def seek_operation(request: SeekRequest, offsets: tuple[int, ...]) -> Seek:
    return Seek(NO_DEADLINE, request.topic, request.consumer, request.to, offsets)


def consumer_info(
    views: Views, topic: str, consumer: str, *, log_time_ms: int, index: int, is_new: bool = False
) -> ConsumerInfo:
    """The consumer on this node. Raises: FalconQError (topic_not_found, consumer_not_found)."""
    levels = known_topic(views, topic).config.levels
    view = views.consumers.consumer(topic, consumer)
    if view is None:
        text = f"topic {topic!r} has no consumer {consumer!r}; make it with PUT, or pull for it"
        raise FalconQError("consumer_not_found", text)
    return ConsumerInfo(topic=topic, levels=levels, view=view, log_time_ms=log_time_ms, index=index, is_new=is_new)


def consumers_page(
    views: Views, topic: str, after: str, limit: int, *, log_time_ms: int, index: int
) -> list[ConsumerInfo]:
    """Consumers behind this name. Raises: FalconQError (topic_not_found)."""
    levels = known_topic(views, topic).config.levels
    return [
        ConsumerInfo(topic=topic, levels=levels, view=view, log_time_ms=log_time_ms, index=index)
        for view in views.consumers.consumers_after(topic, after, limit)
    ]
