"""From stored messages to the envelopes of consume and peek.

What lives here: reading what was delivered or is looked at, and the fields around it.
Rules: everything is read in one turn, so that messages, cursors and index belong together (PROTOCOL.md P13).
Must not know: how a pull came about, asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from falconq_cluster.broker.requests import (
    ORDER_DELIVERY,
    ORDER_OFFSET,
    Batch,
    ConsumeRequest,
    Deliveries,
    Delivery,
    Message,
    PartitionStatus,
    PeekRequest,
    PullRequest,
    TopicInfo,
)
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import Leased, Pulled, TopicSet
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.views import Order, TopicView, Views


def consumed_batch(views: Views, request: ConsumeRequest, pulled: Pulled | None, index: int) -> Batch:
    """The answer to a consume: what was pulled, or empty. Raises: FalconQError when the topic is gone."""
    topic = known_topic(views, request.topic)
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
        messages=shown_messages(messages, levels, delivery_count=1),
        start_offset=start_offset,
        next_offset=next_offset,
        cursor=cursor,
        pending=dict(zip(levels, pending, strict=True)),
        index=index,
    )


def peeked_batch(views: Views, request: PeekRequest, *, bytes_max: int, index: int) -> Batch:
    """The answer to a peek. Raises: FalconQError (topic_not_found, unknown_partition)."""
    topic = find_partition(views, request.topic, request.partition)
    asked = _single_partition(topic, request.partition)
    start, at_ms = request.offset or 0, request.at_ms or 0
    if at_ms and asked is not None:
        start = views.offset_at(request.topic, asked, at_ms, least=start)
    order: Order = "delivery" if request.order == ORDER_DELIVERY else "offset"
    messages = views.peek(
        request.topic,
        partition=request.partition,
        offset=start,
        count=request.batch,
        order=order,
        bytes_max=bytes_max,
        at_ms=at_ms,
    )
    next_offset = start
    if messages:
        next_offset = max(message.offset for message in messages) + 1
    has_pages = asked is not None and request.order == ORDER_OFFSET
    return Batch(
        topic=request.topic,
        consumer=None,
        partition=asked,
        messages=shown_messages(messages, topic.config.levels, delivery_count=0),
        start_offset=None if asked is None else start,
        next_offset=next_offset if has_pages else None,
        index=index,
    )


def leased_deliveries(
    views: Views, request: PullRequest, leased: Leased | None, lease_id: Callable[[int, int, bytes], str], index: int
) -> Deliveries:
    """The answer to a pull: what was leased, or nothing. Raises: FalconQError when the topic is gone."""
    levels = known_topic(views, request.topic).config.levels
    if leased is None:
        return Deliveries(topic=request.topic, consumer=request.consumer, deliveries=[], index=index)
    deliveries: list[Delivery] = []
    number = leased.first_number
    for found in leased.ranges:
        messages = views.read_ranges(request.topic, [found.messages])
        for message in shown_messages(messages, levels, delivery_count=found.delivery_count):
            name = lease_id(message.partition, message.offset, leased.nonce) if leased.expires_ms else None
            deliveries.append(Delivery(message, name, leased.expires_ms, number))
            number += 1 if number else 0
    return Deliveries(
        topic=request.topic, consumer=request.consumer, deliveries=deliveries, index=index, nonce=leased.nonce
    )


def partition_statuses(views: Views, name: str, leader: str | None) -> Sequence[PartitionStatus]:
    """All partitions of a topic. Raises: FalconQError (topic_not_found)."""
    levels = known_topic(views, name).config.levels
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


def find_partition(views: Views, name: str, partition: int | None) -> TopicView:
    """The topic, which has the partition if one is given. Raises: FalconQError (topic_not_found, unknown_partition)."""
    topic = known_topic(views, name)
    count = topic.config.partitions
    if partition is not None and not 0 <= partition < count:
        raise FalconQError("unknown_partition", f"topic {name!r} has partitions 0 to {count - 1}, not {partition}")
    return topic


def topic_info(topic: TopicView, index: int) -> TopicInfo:
    """A topic as this node has it at the index."""
    return TopicInfo(
        topic=topic.name,
        config=topic.config,
        created_ms=topic.created_ms,
        version=topic.version,
        index=index,
    )


def topic_set(result: TopicSet, index: int) -> TopicInfo:
    """A topic as a command left it."""
    return TopicInfo(
        topic=result.topic,
        config=result.config,
        created_ms=result.created_ms,
        version=result.version,
        index=index,
        is_new=result.is_new,
    )


def known_topic(views: Views, name: str) -> TopicView:
    """The topic. Raises: FalconQError (topic_not_found)."""
    topic = views.topic(name)
    if topic is None:
        raise FalconQError("topic_not_found", f"there is no topic {name!r}; publish to it first, or see GET /topics")
    return topic


def level_of(priority: str | int | None, levels: Sequence[str]) -> int:
    """The position of a level given by name or position; None is the least urgent. Raises: unknown_priority."""
    if priority is None:
        return 0
    if isinstance(priority, int):
        if 0 <= priority < len(levels):
            return priority
    elif priority in levels:
        return levels.index(priority)
    known = ", ".join(repr(level) for level in levels)
    message = f"priority {priority!r} is not a level of the topic: use {known}, or 0 to {len(levels) - 1}"
    raise FalconQError("unknown_priority", message)


def _single_partition(topic: TopicView, partition: int | None) -> int | None:
    if partition is not None:
        return partition
    return 0 if topic.config.partitions == 1 else None


def shown_messages(
    messages: Sequence[DeliveredMessage], levels: Sequence[str], *, delivery_count: int
) -> list[Message]:
    """The messages as clients see them."""
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
