"""What clients get: the JSON of every answer.

What lives here: how what the broker found becomes the shapes of shapes.py, and problem+json (RFC 9457).
Rules: message bodies and headers are embedded byte for byte. Times are RFC 3339 in UTC with milliseconds.
Must not know: aiohttp, routes, how the broker found the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from falconq_cluster.broker.requests import Batch, Message, PartitionStatus, Published, ReplayPage, TopicInfo
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.shapes import (
    COMMITTED,
    DELETED,
    PURGED,
    BatchAnswer,
    BatchResultsAnswer,
    LiveAnswer,
    MessageAnswer,
    PartitionAnswer,
    PartitionsAnswer,
    Problem,
    PublishAnswer,
    QuorumAnswer,
    ReadyAnswer,
    ReplayAnswer,
    RetentionAnswer,
    RetryAnswer,
    SchedulerAnswer,
    TopicAnswer,
    TopicDeletedAnswer,
    TopicNamesAnswer,
    TopicPageAnswer,
    TopicPurgedAnswer,
)
from falconq_cluster.machine.settings import (
    AGED,
    FACTOR_ONE,
    WEIGHTED,
    Retention,
    Retry,
    Scheduler,
    dead_letter_topic,
)

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_SECONDS = 1
"""An election takes about half a second."""

_encoder = msgspec.json.Encoder()
_NO_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_NULL = msgspec.Raw(b"null")


def rfc3339(time_ms: int) -> str:
    """The time in UTC, such as 2026-01-31T12:00:00.000Z."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{milliseconds:03d}Z"


def encode_published(published: Published) -> bytes:
    return _encoder.encode(_published(published))


def encode_batch_results(results: Sequence[Published | FalconQError]) -> bytes:
    """One result a message, in their order: what a publish answers, or a problem."""
    shown = [_problem(each) if isinstance(each, FalconQError) else _published(each) for each in results]
    return _encoder.encode(BatchResultsAnswer(shown))


def _published(published: Published) -> PublishAnswer:
    return PublishAnswer(
        COMMITTED,
        published.topic,
        published.partition,
        published.offset,
        published.priority,
        published.id,
        published.level,
        published.index,
        None if published.timestamp_ms is None else rfc3339(published.timestamp_ms),
        published.duplicate,
        None if published.due_ms is None else rfc3339(published.due_ms),
    )


def encode_batch(batch: Batch) -> bytes:
    messages = [message_answer(message) for message in batch.messages]
    return _encoder.encode(
        BatchAnswer(
            batch.consumer,
            batch.topic,
            batch.partition,
            messages,
            len(messages),
            batch.start_offset,
            batch.next_offset,
            batch.cursor,
            batch.pending,
        )
    )


def message_answer(message: Message) -> MessageAnswer:
    """A message as it is shown."""
    return MessageAnswer(
        message.id,
        msgspec.Raw(message.message),
        message.priority,
        message.level,
        message.offset,
        message.partition,
        rfc3339(message.timestamp_ms),
        _NULL if message.headers is None else msgspec.Raw(message.headers),
        message.partition_key,
        message.delivery_count,
    )


def encode_replay(page: ReplayPage) -> bytes:
    messages = [message_answer(message) for message in page.messages]
    return _encoder.encode(ReplayAnswer(page.topic, page.partition, messages, len(messages), page.next_offset))


def encode_message_lines(messages: Sequence[Message]) -> bytes:
    """One message a line. Line breaks in JSON stand between its tokens only, where spaces say the same."""
    lines = (_encoder.encode(message_answer(message)) for message in messages)
    return b"".join(line.translate(_NO_LINE_BREAKS) + b"\n" for line in lines)


def encode_topics(topics: Sequence[str]) -> bytes:
    return _encoder.encode(TopicNamesAnswer(list(topics)))


def encode_partitions(topic: str, partitions: Sequence[PartitionStatus]) -> bytes:
    rows = [
        PartitionAnswer(row.id, row.leader, row.first_offset, row.next_offset, row.depth, row.bytes)
        for row in partitions
    ]
    return _encoder.encode(PartitionsAnswer(topic, rows))


def topic_version(topic: TopicInfo) -> str:
    """What stands in the topic's ETag."""
    return f"{topic.version:x}"


def encode_topic(topic: TopicInfo) -> bytes:
    return _encoder.encode(_topic(topic))


def encode_topic_page(topics: Sequence[TopicInfo], following: str | None) -> bytes:
    return _encoder.encode(TopicPageAnswer([_topic(topic) for topic in topics], following))


def encode_topic_deleted(topic: str) -> bytes:
    return _encoder.encode(TopicDeletedAnswer(DELETED, topic))


def encode_topic_purged(topic: str, count: int) -> bytes:
    return _encoder.encode(TopicPurgedAnswer(PURGED, topic, count))


def _topic(topic: TopicInfo) -> TopicAnswer:
    created = rfc3339(topic.created_ms)
    return TopicAnswer(
        topic.topic,
        topic.config.partitions,
        topic.config.levels,
        _scheduler(topic.config.scheduler),
        topic.config.lease_ms,
        topic.config.in_flight_max,
        topic.config.deliveries_max,
        dead_letter_topic(topic.topic, topic.config),
        _retry(topic.config.retry),
        _retention(topic.config.retention),
        topic.config.overflow,
        topic.config.dedupe_window_ms,
        created,
        topic_version(topic),
    )


def _retry(retry: Retry) -> RetryAnswer:
    whole, thousandths = divmod(retry.factor, FACTOR_ONE)
    return RetryAnswer(retry.min_ms, retry.max_ms, retry.factor / FACTOR_ONE if thousandths else whole)


def _scheduler(scheduler: Scheduler) -> SchedulerAnswer:
    weights = dict(scheduler.weights) if scheduler.policy == WEIGHTED else msgspec.UNSET
    max_wait_ms = dict(scheduler.max_wait_ms) if scheduler.policy == AGED else msgspec.UNSET
    return SchedulerAnswer(scheduler.policy, weights, max_wait_ms)


def _retention(retention: Retention) -> RetentionAnswer:
    return RetentionAnswer(
        retention.ms or msgspec.UNSET,
        retention.bytes or msgspec.UNSET,
        retention.messages or msgspec.UNSET,
        retention.acked,
    )


def encode_live(*, is_live: bool) -> bytes:
    return _encoder.encode(LiveAnswer(is_live))


def encode_ready(*, is_ready: bool, reasons: list[str]) -> bytes:
    return _encoder.encode(ReadyAnswer(is_ready, reasons))


def encode_quorum(*, is_critical: bool, reasons: list[str]) -> bytes:
    return _encoder.encode(QuorumAnswer(is_critical, reasons))


def encode_cluster(status: dict[str, object]) -> bytes:
    """`ClusterAnswer`, as the node gives it."""
    return _encoder.encode(status)


def encode_problem(error: FalconQError) -> bytes:
    """The error as application/problem+json, with the seed's `message` and `details` beside the standard members."""
    return _encoder.encode(_problem(error))


def _problem(error: FalconQError) -> Problem:
    code = error.code
    return Problem(
        f"urn:falconq:problem:{code.code}",
        code.title,
        code.status,
        error.message,
        code.code,
        code.is_retryable,
        error.message,
        error.details,
    )
