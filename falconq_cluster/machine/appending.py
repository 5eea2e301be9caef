"""Append: records enter a level and get their offsets.

What lives here: the Append and AppendMany operations, and the creation of a topic by its first message.
Rules: offsets of a partition are dense over all its levels and are given in the order of operations; nothing is
changed unless the whole operation is accepted. The records are stored as they came, unread. An append that repeats
an earlier one is answered with what that one did.
Must not know: what is in a record.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendedMany, AppendMany, Part, Place
from falconq_cluster.machine.commands import Append, Appended, Duplicate, Refused
from falconq_cluster.machine.deduping import first_result, remember
from falconq_cluster.machine.delaying import delay, refusal_of_delays
from falconq_cluster.machine.events import LevelGrew
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.names import is_name
from falconq_cluster.machine.records import RECORD_BYTES_MIN, BatchHeader, pack_batch
from falconq_cluster.machine.retention import refusal_of_full
from falconq_cluster.machine.rows import PlacedRow
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.topics import create_topic, no_room
from falconq_cluster.machine.turn import Turn

_DEFAULTS = TopicConfig()


def append(turn: Turn, operation: Append) -> Appended | Duplicate | Refused:
    """Stores the records behind all that the partition holds, or changes nothing."""
    topic = turn.state.topics.get(operation.topic)
    if turn.is_expired(operation.not_after_ms):
        return _expired(turn, operation.not_after_ms)
    config = _DEFAULTS if topic is None else topic.config
    answer = (
        _refusal(turn, operation, topic)
        or _refusal_of_part(operation, operation.topic, config)
        or first_result(turn, operation, topic)
    )
    if answer is None and topic is not None:
        answer = refusal_of_full(topic, [operation])
    if answer is not None:
        return answer
    if topic is None:
        topic = create_topic(turn, operation.topic, _DEFAULTS)
    first_id = turn.message_count
    appended = _appended(turn, topic, store(turn, topic, operation), first_id)
    remember(turn, operation, topic, appended)
    return appended


def append_many(turn: Turn, operation: AppendMany) -> Appended | AppendedMany | Duplicate | Refused:
    """Stores all parts, each behind what its partition holds, or changes nothing. Of one part: as an Append of it."""
    topic = turn.state.topics.get(operation.topic)
    if turn.is_expired(operation.not_after_ms):
        return _expired(turn, operation.not_after_ms)
    answer = (
        _refusal(turn, operation, topic)
        or _refusal_of_parts(turn, operation, topic)
        or first_result(turn, operation, topic)
        or refusal_of_delays(turn, operation.parts, topic)
        or _refusal_of_expectation(operation, topic)
    )
    if answer is None and topic is not None:
        answer = refusal_of_full(topic, operation.parts)
    if answer is not None:
        return answer
    if topic is None:
        topic = create_topic(turn, operation.topic, _DEFAULTS)
    first_id = turn.message_count
    places = [delay(turn, topic, part) if part.delay_ms else store(turn, topic, part) for part in operation.parts]
    appended: Appended | AppendedMany
    if len(places) == 1:
        appended = _appended(turn, topic, places[0], first_id)
    else:
        appended = AppendedMany(topic.name, places, first_id, turn.log_time_ms)
    remember(turn, operation, topic, appended)
    return appended


def store(turn: Turn, topic: TopicState, part: Append | Part, first_id: tuple[int, int] | None = None) -> Place:
    """One record batch behind all that the partition holds; whoever calls has judged it.

    `first_id` is (log index, number) of messages that have their ids already.
    """
    partition = topic.partitions[part.partition]
    level = partition.levels[part.level]
    base, count, size = partition.next_offset, part.count, len(part.records)
    log_index, number = (turn.index, turn.message_count) if first_id is None else first_id
    header = BatchHeader(count, log_index, number, turn.log_time_ms, level.appended_count)
    value = pack_batch(header, part.records)
    ttl_ms = part.ttl_ms if isinstance(part, Part) else 0
    batch = Batch(base, count, size, turn.log_time_ms, turn.log_time_ms + ttl_ms if ttl_ms else 0)
    if first_id is not None:
        batch = batch._replace(
            log_index=log_index, first_id=number, entered_index=turn.index, entered_id=turn.message_count
        )
        turn.put(keys.placed_key(topic.number, batch), PlacedRow(part.partition, part.level, base))
    turn.changes.append((keys.batch_key(level.prefix, batch), value))
    level.append(batch)
    topic.retained_count += count
    topic.retained_bytes += size
    partition.next_offset = base + count
    turn.message_count += count if first_id is None else 0
    turn.partition_changed(topic, partition)
    turn.events.append(LevelGrew(topic.name, partition.number, part.level))
    return Place(partition.number, part.level, base, count)


def _appended(turn: Turn, topic: TopicState, place: Place, first_id: int) -> Appended:
    return Appended(
        topic=topic.name,
        partition=place.partition,
        level=place.level,
        base_offset=place.base_offset,
        count=place.count,
        first_id=first_id,
        timestamp_ms=turn.log_time_ms,
        due_ms=place.due_ms,
    )


def _expired(turn: Turn, not_after_ms: int) -> Refused:
    return Refused("expired", f"the time to append ran out at {not_after_ms}, it is {turn.log_time_ms}")


def _refusal(turn: Turn, operation: Append | AppendMany, topic: TopicState | None) -> Refused | None:
    if topic is not None:
        return None
    if not operation.may_create:
        return Refused("topic_not_found", f"there is no topic {operation.topic!r}")
    if not is_name(operation.topic):
        return Refused("bad_request", f"{operation.topic[:200]!r} can't be the name of a topic")
    return no_room(turn)


def _refusal_of_parts(turn: Turn, operation: AppendMany, topic: TopicState | None) -> Refused | None:
    count, most = len(operation.parts), turn.limits.append_parts_max
    if not 1 <= count <= most:
        return Refused("bad_request", f"an append has 1 to {most} parts, not {count}")
    config = _DEFAULTS if topic is None else topic.config
    for part in operation.parts:
        refusal = _refusal_of_part(part, operation.topic, config)
        if refusal is not None:
            return refusal
    return None


def _refusal_of_part(part: Append | Part, topic: str, config: TopicConfig) -> Refused | None:
    if not 0 <= part.partition < config.partitions:
        return _unknown_partition(topic, config, part.partition)
    if not 0 <= part.level < len(config.levels):
        return Refused(
            "unknown_priority",
            f"topic {topic!r} has the levels {', '.join(config.levels)}, none is number {part.level}",
        )
    # Whoever packed the records counted them; reading them here would cost every node, for every message.
    if part.count < 1 or len(part.records) < part.count * RECORD_BYTES_MIN:
        return Refused("bad_request", f"{len(part.records)} bytes can't hold {part.count} records")
    return None


def _refusal_of_expectation(operation: AppendMany, topic: TopicState | None) -> Refused | None:
    config = _DEFAULTS if topic is None else topic.config
    for number, expected in operation.expected:
        if not 0 <= number < config.partitions:
            return _unknown_partition(operation.topic, config, number)
        last = -1 if topic is None else topic.partitions[number].next_offset - 1
        if last != expected:
            return Refused(
                "precondition_failed",
                f"the last offset of partition {number} of topic {operation.topic!r} is {last}, not {expected}",
            )
    return None


def _unknown_partition(topic: str, config: TopicConfig, partition: int) -> Refused:
    text = f"topic {topic!r} has {config.partitions} partitions, none has the number {partition}"
    return Refused("unknown_partition", text)
