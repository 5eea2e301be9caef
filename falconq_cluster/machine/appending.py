"""Append: records enter a level and get their offsets.

What lives here: the Append operation, and the creation of a topic by its first message.
Rules: offsets of a partition are dense over all its levels and are given in the order of operations; nothing is
changed unless the whole operation is accepted. The records are stored as they came, unread. An append that repeats
an earlier one is answered with what that one did.
Must not know: what is in a record.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Append, Appended, Duplicate, Refused
from falconq_cluster.machine.deduping import first_result, remember
from falconq_cluster.machine.events import LevelGrew
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.names import is_name
from falconq_cluster.machine.records import RECORD_BYTES_MIN, BatchHeader, pack_batch
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.topics import create_topic, no_room
from falconq_cluster.machine.turn import Turn

_DEFAULTS = TopicConfig()


def append(turn: Turn, operation: Append) -> Appended | Duplicate | Refused:
    """Stores the records behind all that the partition holds, or changes nothing."""
    topic = turn.state.topics.get(operation.topic)
    if turn.is_expired(operation.not_after_ms):
        return Refused("expired", f"the time to append ran out at {operation.not_after_ms}, it is {turn.log_time_ms}")
    answer = _refusal(turn, operation, topic) or first_result(turn, operation, topic)
    if answer is not None:
        return answer
    if topic is None:
        topic = create_topic(turn, operation.topic, _DEFAULTS)
    partition = topic.partitions[operation.partition]
    level = partition.levels[operation.level]
    base, count, size = partition.next_offset, operation.count, len(operation.records)
    first_id = turn.message_count
    value = pack_batch(
        BatchHeader(count, turn.index, first_id, turn.log_time_ms, level.appended_count), operation.records
    )
    batch = Batch(base, count, size, turn.log_time_ms)
    turn.changes.append((keys.batch_key(level.prefix, batch), value))
    level.tail.append(batch)
    level.appended_count += count
    level.appended_bytes += size
    partition.next_offset = base + count
    turn.message_count = first_id + count
    turn.partition_changed(topic, partition)
    turn.events.append(LevelGrew(topic.name, partition.number, operation.level))
    appended = Appended(
        topic=topic.name,
        partition=partition.number,
        level=operation.level,
        base_offset=base,
        count=count,
        first_id=first_id,
        timestamp_ms=turn.log_time_ms,
    )
    remember(turn, operation, topic, appended)
    return appended


def _refusal(turn: Turn, operation: Append, topic: TopicState | None) -> Refused | None:
    if topic is None:
        if not operation.may_create:
            return Refused("topic_not_found", f"there is no topic {operation.topic!r}")
        if not is_name(operation.topic):
            return Refused("bad_request", f"{operation.topic[:200]!r} can't be the name of a topic")
        refusal = no_room(turn)
        if refusal is not None:
            return refusal
    config = _DEFAULTS if topic is None else topic.config
    if not 0 <= operation.partition < config.partitions:
        return Refused(
            "unknown_partition",
            f"topic {operation.topic!r} has {config.partitions} partitions, none has the number {operation.partition}",
        )
    if not 0 <= operation.level < len(config.levels):
        return Refused(
            "unknown_priority",
            f"topic {operation.topic!r} has the levels {', '.join(config.levels)}, none is number {operation.level}",
        )
    # Whoever packed the records counted them; reading them here would cost every node, for every message.
    if operation.count < 1 or len(operation.records) < operation.count * RECORD_BYTES_MIN:
        return Refused("bad_request", f"{len(operation.records)} bytes can't hold {operation.count} records")
    return None
