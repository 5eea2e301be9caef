"""From a publish request to the operation that is proposed.

What lives here: the choice of level and partition, and the record.
Rules: whatever the topic's settings can judge is judged here, before anything is proposed; the machine judges it again.
What says only how a message came, its `traceparent`, is stored and is no part of what a repeat must be equal in.
Must not know: HTTP, how operations are proposed.
"""

from __future__ import annotations

import msgspec

from falconq_cluster.broker.partitioner import Turns, partition_of_key
from falconq_cluster.broker.reading import level_of
from falconq_cluster.broker.requests import PublishRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import NO_DEADLINE, Append, AppendOnce, Once
from falconq_cluster.machine.deduping import digest_of
from falconq_cluster.machine.records import RecordError, pack_record
from falconq_cluster.machine.settings import TopicConfig

TRACEPARENT = "traceparent"
"""Its name among the headers, as W3C Trace Context names it."""

_headers_decoder: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])


class Composer:
    """Makes operations for one node's clients."""

    def __init__(self) -> None:
        self._turns = Turns()

    def append_of(self, request: PublishRequest, config: TopicConfig, *, may_create: bool) -> Append:
        """The append of the request's message to a topic of these settings.

        Raises: FalconQError (bad_request, unknown_partition, unknown_priority).
        """
        operation = Append(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            partition=self._choose_partition(request, config),
            level=level_of(request.priority, config.levels),
            count=1,
            records=_record(request, _traced(request)),
            may_create=may_create,
        )
        once = _once(request, operation.level)
        return operation if once is None else AppendOnce.of(operation, once)

    def _choose_partition(self, request: PublishRequest, config: TopicConfig) -> int:
        count = config.partitions
        if request.partition is not None:
            if request.partition >= count:
                message = f"topic {request.topic!r} has partitions 0 to {count - 1}, not {request.partition}"
                raise FalconQError("unknown_partition", message)
            return request.partition
        if request.partition_key is not None:
            return partition_of_key(request.partition_key, count)
        return self._turns.take(request.topic, count)


def _record(request: PublishRequest, headers: bytes | None) -> bytes:
    try:
        return pack_record(request.message, request.partition_key, headers)
    except RecordError as error:
        raise FalconQError("bad_request", str(error)) from error


def _traced(request: PublishRequest) -> bytes | None:
    """The message's headers, with the `traceparent` that came beside it unless they have their own."""
    headers, trace = request.headers, request.traceparent
    if trace is None:
        return headers
    pair = f'"{TRACEPARENT}":"{trace}"'.encode()
    given = {} if headers is None else _headers_decoder.decode(headers)
    if headers is None or not given:
        return b"{" + pair + b"}"
    return headers if TRACEPARENT in given else b"{" + pair + b"," + headers.lstrip()[1:]


def _once(request: PublishRequest, level: int) -> Once | None:
    producer = request.producer
    if producer is None and request.idempotency_key is None:
        return None
    # Without a traceparent the digest is of the record as it is, and each node makes it.
    digest = b"" if request.traceparent is None else digest_of(level, _record(request, request.headers))
    if producer is not None:
        return Once(producer.id, producer.sequence, digest)
    return Once(request.idempotency_key or "", digest=digest)
