"""Pull: a consumer takes the next messages and its cursors move past them.

What lives here: the Pull operation with strict priority, and what is remembered of attempts.
Rules: the most urgent level of all asked partitions goes first, ties go to the partition after the one that was
served last, and a partition that has its turn gives all it has of the level before the next one does. Within a level
nothing is skipped, given twice, or reordered. Bytes are counted from keys: a message of a batch counts as the batch's
average, rounded up, so a pull reads no values on any node and passes `bytes_max` by less than one batch.
Must not know: what is in a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Pull, Pulled, Range, Refused
from falconq_cluster.machine.names import is_name
from falconq_cluster.machine.rows import AttemptRow, ConsumerRow
from falconq_cluster.machine.state import (
    Attempt,
    ConsumerState,
    Cursor,
    LevelState,
    TopicState,
    first_undelivered,
)
from falconq_cluster.machine.turn import Turn

ALL_PARTITIONS = -1
ATTEMPT_LENGTH_MAX = 200


def pull(turn: Turn, operation: Pull) -> Pulled | Refused:
    """Gives ranges in delivery order and moves the cursors, repeats what the attempt was given, or changes nothing."""
    topic = turn.state.topics.get(operation.topic)
    if topic is None or turn.is_expired(operation.not_after_ms):
        return _refused_early(turn, operation)
    consumer = topic.consumers.get(operation.consumer)
    refusal = _refusal(turn, operation, topic, consumer)
    if refusal is not None:
        return refusal
    if consumer is None:
        consumer = _create(turn, topic, operation.consumer)
    _forget_old_attempts(turn, topic, consumer)
    remembered = consumer.attempts.get(operation.attempt)
    if remembered is not None:
        row = remembered.row
        return Pulled(topic.name, consumer.name, row.ranges, is_replay=True, start_offsets=dict(row.start_offsets))
    taken = _take(turn, topic, consumer, operation)
    if operation.attempt and taken.ranges:
        _remember(turn, topic, consumer, operation.attempt, taken)
    return Pulled(topic.name, consumer.name, taken.ranges, is_replay=False, start_offsets=taken.start_offsets)


def _refused_early(turn: Turn, operation: Pull) -> Refused:
    if turn.is_expired(operation.not_after_ms):
        return Refused("expired", f"the time to pull ran out at {operation.not_after_ms}, it is {turn.log_time_ms}")
    return Refused("topic_not_found", f"there is no topic {operation.topic!r}")


def _refusal(turn: Turn, operation: Pull, topic: TopicState, consumer: ConsumerState | None) -> Refused | None:
    if not ALL_PARTITIONS <= operation.partition < len(topic.partitions):
        return Refused(
            "unknown_partition",
            f"topic {topic.name!r} has {len(topic.partitions)} partitions, none has the number {operation.partition}",
        )
    if operation.count_max < 1:
        return Refused("bad_request", f"a pull takes at least 1 message, not {operation.count_max}")
    if len(operation.attempt) > ATTEMPT_LENGTH_MAX:
        return Refused("bad_request", f"an attempt has at most {ATTEMPT_LENGTH_MAX} characters")
    if consumer is None:
        if not is_name(operation.consumer):
            return Refused("bad_request", f"{operation.consumer[:200]!r} can't be the name of a consumer")
        if len(topic.consumers) >= turn.limits.consumers_per_topic_max:
            return Refused(
                "overloaded",
                f"topic {topic.name!r} has {turn.limits.consumers_per_topic_max} consumers, the most there may be",
            )
    return None


@dataclass(slots=True)
class _Taken:
    """What one pull has so far, and how much more it may take."""

    count_left: int
    bytes_left: int
    ranges: list[Range] = field(default_factory=list)
    start_offsets: dict[int, int] = field(default_factory=dict)
    is_full: bool = False


def _take(turn: Turn, topic: TopicState, consumer: ConsumerState, operation: Pull) -> _Taken:
    taken = _Taken(min(operation.count_max, turn.limits.pull_count_max), operation.bytes_max)
    if operation.partition == ALL_PARTITIONS:
        first = (consumer.last_partition + 1) % len(topic.partitions)
        asked = topic.partitions[first:] + topic.partitions[:first]
    else:
        asked = [topic.partitions[operation.partition]]
    if len(asked) == 1:
        taken.start_offsets[asked[0].number] = first_undelivered(turn.reader, asked[0], consumer.cursors_of(asked[0]))
    last_partition = consumer.last_partition
    for number in reversed(range(len(topic.config.levels))):
        for partition in asked:
            level, cursors = partition.levels[number], consumer.cursors_of(partition)
            if taken.is_full or cursors[number].delivered_count == level.appended_count:
                continue
            if partition.number not in taken.start_offsets:
                taken.start_offsets[partition.number] = first_undelivered(turn.reader, partition, cursors)
            ranges_before = len(taken.ranges)
            _take_level(turn, taken, level, cursors[number], partition.number, number)
            if len(taken.ranges) > ranges_before:
                last_partition = partition.number
                turn.cursors_changed(topic, consumer, partition.number)
    if last_partition != consumer.last_partition:
        consumer.last_partition = last_partition
        _put_consumer(turn, topic, consumer)
    return taken


def _take_level(turn: Turn, taken: _Taken, level: LevelState, cursor: Cursor, partition: int, number: int) -> None:
    for batch in level.batches(turn.reader, cursor.batch_offset):
        offset = max(batch.base, cursor.next_offset)
        left = batch.base + batch.record_count - offset
        message_bytes = -(-batch.size // batch.record_count)
        fitting = max(taken.bytes_left // message_bytes, 0 if taken.ranges else 1)
        count = min(left, taken.count_left, fitting)
        if count < 1:
            taken.is_full = True
            return
        taken.ranges.append(Range(partition, number, batch.base, offset, count))
        taken.count_left -= count
        taken.bytes_left = max(taken.bytes_left - count * message_bytes, 0)
        cursor.next_offset = offset + count
        cursor.batch_offset = cursor.next_offset if count == left else batch.base
        cursor.delivered_count += count
        if count < left or taken.count_left == 0:
            taken.is_full = True
            return
    if cursor.delivered_count != level.appended_count:
        message = f"level {level.prefix.hex()} holds {cursor.delivered_count} messages, not {level.appended_count}"
        raise CorruptionError(message)


def _create(turn: Turn, topic: TopicState, name: str) -> ConsumerState:
    consumer = ConsumerState(name, turn.next_number(), turn.log_time_ms, last_partition=-1)
    topic.consumers[name] = consumer
    _put_consumer(turn, topic, consumer)
    return consumer


def _put_consumer(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    row = ConsumerRow(consumer.number, consumer.created_ms, consumer.last_partition)
    turn.put(keys.consumer_key(topic.number, consumer.name), row)


def _forget_old_attempts(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    while consumer.attempts:
        oldest = next(iter(consumer.attempts.values()))
        if turn.log_time_ms - oldest.row.made_ms < turn.limits.attempt_ms:
            return
        _forget(turn, topic, consumer, oldest)


def _remember(turn: Turn, topic: TopicState, consumer: ConsumerState, attempt: str, taken: _Taken) -> None:
    while len(consumer.attempts) >= turn.limits.attempts_per_consumer_max:
        _forget(turn, topic, consumer, next(iter(consumer.attempts.values())))
    row = AttemptRow(attempt, turn.log_time_ms, taken.ranges, list(taken.start_offsets.items()))
    number = turn.next_number()
    consumer.attempts[attempt] = Attempt(number, row)
    turn.put(keys.attempt_key(topic.number, consumer.number, number), row)


def _forget(turn: Turn, topic: TopicState, consumer: ConsumerState, attempt: Attempt) -> None:
    del consumer.attempts[attempt.row.attempt]
    turn.delete(keys.attempt_key(topic.number, consumer.number, attempt.number))
