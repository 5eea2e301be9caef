"""From stored messages to the envelopes of consume and peek.

What lives here: reading what was delivered or is looked at, and the fields around it.
Rules: everything is read in one turn, so that messages, cursors and index belong together (PROTOCOL.md P13).
Must not know: how a pull came about, asyncio.
"""

from __future__ import annotations

from collections.abc import Sequence

from falconq_cluster.broker.requests import ORDER_DELIVERY, Batch, ConsumeRequest, Message, PartitionStatus, PeekRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import Pulled
from falconq_cluster.machine.views import DeliveredMessage, Order, TopicView, Views

_READ_AHEAD = 1000
"""Messages read at once while those before a wanted time are passed over."""


def consumed_batch(views: Views, request: ConsumeRequest, pulled: Pulled | None, index: int) -> Batch:
    """The answer to a consume: what was pulled, or empty. Raises: FalconQError when the topic is gone."""
    topic = _known_topic(views, request.topic)
    asked = _single_partition(topic, request.partition)
    messages = [] if pulled is None else views.read_ranges(request.topic, pulled.ranges)
    next_offset = None if asked is None else views.next_offset(request.topic, request.consumer, asked)
    start_offset = next_offset
    if pulled is not None and asked is not None:
        start_offset = pulled.start_offsets.get(asked, next_offset)
    levels = topic.config.levels
    cursor: dict[str, int] | None = None
    if asked is not None:
        cursor = dict(zip(levels, views.cursor(request.topic, request.consumer, asked), strict=True))
    pending = views.pending(request.topic, request.consumer, -1 if request.partition is None else request.partition)
    return Batch(
        topic=request.topic,
        consumer=request.consumer,
        partition=asked,
        messages=_shown(messages, levels, delivery_count=1),
        start_offset=start_offset,
        next_offset=next_offset,
        cursor=cursor,
        pending=dict(zip(levels, pending, strict=True)),
        index=index,
    )


def peeked_batch(views: Views, request: PeekRequest, *, bytes_max: int, index: int) -> Batch:
    """The answer to a peek. Raises: FalconQError (topic_not_found, unknown_partition)."""
    topic = _known_topic(views, request.topic)
    if request.partition is not None and request.partition >= topic.config.partitions:
        raise _unknown_partition(topic, request.partition)
    asked = _single_partition(topic, request.partition)
    start = request.offset or 0
    messages = _peek(views, request, start, bytes_max)
    next_offset: int | None = None
    if asked is not None:
        next_offset = max((message.offset + 1 for message in messages), default=start)
    return Batch(
        topic=request.topic,
        consumer=None,
        partition=asked,
        messages=_shown(messages, topic.config.levels, delivery_count=0),
        start_offset=None if asked is None else start,
        next_offset=next_offset,
        index=index,
    )


def _peek(views: Views, request: PeekRequest, start: int, bytes_max: int) -> list[DeliveredMessage]:
    order: Order = "delivery" if request.order == ORDER_DELIVERY else "offset"
    count = request.batch if request.at_ms is None else _READ_AHEAD
    wanted: list[DeliveredMessage] = []
    while True:
        found = views.peek(
            request.topic, partition=request.partition, offset=start, count=count, order=order, bytes_max=bytes_max
        )
        at_ms = request.at_ms
        if at_ms is None:
            return found
        wanted += [message for message in found if message.timestamp_ms >= at_ms]
        if len(wanted) >= request.batch or not found or order == "delivery":
            return wanted[: request.batch]
        start = max(message.offset for message in found) + 1


def partition_statuses(views: Views, name: str, leader: str | None) -> Sequence[PartitionStatus]:
    """All partitions of a topic. Raises: FalconQError (topic_not_found)."""
    levels = _known_topic(views, name).config.levels
    return [
        PartitionStatus(
            id=status.partition,
            leader=leader,
            first_offset=status.first_offset,
            next_offset=status.next_offset,
            bytes=status.size_bytes,
            depth=dict(zip(levels, status.depth, strict=True)),
        )
        for status in views.partition_status(name)
    ]


def _known_topic(views: Views, name: str) -> TopicView:
    topic = views.topic(name)
    if topic is None:
        raise FalconQError("topic_not_found", f"there is no topic {name!r}; publish to it first, or see GET /topics")
    return topic


def _unknown_partition(topic: TopicView, partition: int) -> FalconQError:
    count = topic.config.partitions
    return FalconQError("unknown_partition", f"topic {topic.name!r} has partitions 0 to {count - 1}, not {partition}")


def _single_partition(topic: TopicView, partition: int | None) -> int | None:
    if partition is not None:
        return partition
    return 0 if topic.config.partitions == 1 else None


def _shown(messages: Sequence[DeliveredMessage], levels: Sequence[str], *, delivery_count: int) -> list[Message]:
    return [
        Message(
            id=message.id,
            message=message.message,
            priority=levels[message.level],
            level=message.level,
            offset=message.offset,
            partition=message.partition,
            timestamp_ms=message.timestamp_ms,
            headers=message.headers,
            partition_key=message.key,
            delivery_count=delivery_count,
        )
        for message in messages
    ]
