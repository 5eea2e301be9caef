"""From a publish request to the operation that is proposed.

What lives here: the choice of level and partition, the records, and the record batches of what is atomic.
Rules: whatever the topic's settings can judge is judged here, before anything is proposed; the machine judges it again.
What says only how a message came, its `traceparent`, is stored and is no part of what a repeat must be equal in.
Must not know: HTTP, how operations are proposed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.partitioner import Turns, partition_of_key
from falconq_cluster.broker.reading import level_of
from falconq_cluster.broker.requests import AtomicRequest, PublishRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.appends import AppendMany, Part
from falconq_cluster.machine.commands import NO_DEADLINE, Append, AppendOnce
from falconq_cluster.machine.deduping import digest_of
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.records import RecordError, pack_record
from falconq_cluster.machine.settings import TopicConfig

TRACEPARENT = "traceparent"
"""Its name among the headers, as W3C Trace Context names it."""

_PARTS_MAX = MachineLimits().append_parts_max
_headers_decoder: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])


class Composer:
    """Makes operations for one node's clients."""

    def __init__(self, limits: BrokerLimits) -> None:
        self._limits = limits
        self._turns = Turns()

    def append_of(self, request: PublishRequest, config: TopicConfig) -> Append | AppendMany:
        """The append of the request's message to a topic of these settings.

        Raises: FalconQError (bad_request, unknown_partition, unknown_priority).
        """
        partition, level = self._choose_partition(request, config), level_of(request.priority, config.levels)
        records = _record(request, _traced(request))
        once = _once(request, level)
        if request.expected_last_offset is not None or request.delay_ms or request.ttl_ms:
            if once is not None and not once.digest:
                once = msgspec.structs.replace(once, digest=digest_of((level, records)))
            return AppendMany(
                not_after_ms=NO_DEADLINE,
                topic=request.topic,
                parts=[Part(partition, level, 1, records, request.delay_ms, request.ttl_ms)],
                may_create=self._limits.auto_create,
                expected=_expected([request]),
                once=once,
            )
        operation = Append(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            partition=partition,
            level=level,
            count=1,
            records=records,
            may_create=self._limits.auto_create,
        )
        return operation if once is None else AppendOnce.of(operation, once)

    def append_of_all(self, request: AtomicRequest, config: TopicConfig) -> tuple[AppendMany, list[int]]:
        """The append of all messages, and the number that each has in it.

        Messages of one partition and level follow each other in their order, in record batches that are as large as
        those of merged appends, since whoever reads one message reads its batch. Raises: FalconQError (as `append_of`,
        body_too_large).
        """
        groups: dict[tuple[int, int, int, int], list[tuple[int, bytes]]] = {}
        compared: list[tuple[int, bytes]] = []
        for number, message in enumerate(request.messages):
            try:
                partition, level = self._choose_partition(message, config), level_of(message.priority, config.levels)
                record = _record(message, message.headers)
            except FalconQError as error:
                raise error.at_place(number) from error
            compared.append((level, record))
            if message.traceparent is not None:
                record = _record(message, _traced(message))
            groups.setdefault((partition, level, message.delay_ms, message.ttl_ms), []).append((number, record))
        parts: list[Part] = []
        numbers = [0] * len(request.messages)
        following = 0
        for (partition, level, delay_ms, ttl_ms), records in groups.items():
            parts += [
                Part(partition, level, len(some), b"".join(some), delay_ms, ttl_ms) for some in self._batches(records)
            ]
            for number, _ in records:
                numbers[number] = following
                following += 1
        if len(parts) > _PARTS_MAX:
            text = (
                f"the batch would become {len(parts)} record batches, in {len(groups)} levels of partitions; an atomic "
                f"one becomes at most {_PARTS_MAX}: give it fewer partitions, or several requests"
            )
            raise FalconQError("body_too_large", text)
        operation = AppendMany(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            parts=parts,
            may_create=self._limits.auto_create,
            expected=_expected(request.messages),
            once=None
            if request.idempotency_key is None
            else Once(request.idempotency_key, digest=digest_of(*compared)),
        )
        return operation, numbers

    def _batches(self, records: Sequence[tuple[int, bytes]]) -> list[list[bytes]]:
        batches: list[list[bytes]] = []
        size = 0
        for _, record in records:
            is_full = not batches or len(batches[-1]) >= self._limits.merge_count_max
            if is_full or size + len(record) > self._limits.merge_bytes_max:
                batches.append([])
                size = 0
            batches[-1].append(record)
            size += len(record)
        return batches

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
    digest = b"" if request.traceparent is None else digest_of((level, _record(request, request.headers)))
    if producer is not None:
        return Once(producer.id, producer.sequence, digest)
    return Once(request.idempotency_key or "", digest=digest)


def _expected(messages: Sequence[PublishRequest]) -> tuple[tuple[int, int], ...]:
    """What the messages expect of their partitions, each once."""
    pairs = {
        (message.partition or 0, message.expected_last_offset)
        for message in messages
        if message.expected_last_offset is not None
    }
    return tuple(sorted(pairs))
