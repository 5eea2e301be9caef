"""Redriving: dead letters go back to where they came from.

What lives here: the Redrive operation, and the chunks in which it is done.
Rules (PROTOCOL.md P12): a redrive is a number that the dead-letter topic keeps of messages still to be moved. Each
chunk moves the place of the consumer `_redrive` past what it appends to the origin, by the same entry: so a message
goes back exactly once. It keeps message, key and level, and loses the headers that its burial added, but the one that
names the consumer for which it died: to the origin's other consumers it is a message that they had before.
Must not know: who proposes the chunks.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.burying import CONSUMER, PARTITION, TOPIC, redriver_of, without_marks
from falconq_cluster.machine.commands import Range, Refused
from falconq_cluster.machine.events import LeftUndone
from falconq_cluster.machine.moving import Mover, read_headers, write_headers
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.scheduling import ALL_PARTITIONS, Demand, take_next
from falconq_cluster.machine.settings import dead_letter_topic
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import Redrive, Redriven
from falconq_cluster.machine.turn import Turn

_DIGITS_MAX = 9
"""More than the number of any partition has."""


def redrive(turn: Turn, operation: Redrive) -> Redriven | Refused:
    """Begins to move dead letters back, and says how many."""
    topic = turn.state.topics.get(operation.topic)
    if turn.is_expired(operation.not_after_ms):
        return Refused("expired", f"the time to redrive ran out at {operation.not_after_ms}, it is {turn.log_time_ms}")
    if topic is None:
        return Refused("topic_not_found", f"there is no topic {operation.topic[:200]!r}")
    name = dead_letter_topic(topic.name, topic.config)
    grave = turn.state.topics.get(name)
    if grave is None or not grave.is_dead_letters:
        return Redriven(topic.name, name, 0)
    waiting = _waiting_count(grave, redriver_of(turn, grave))
    count = min(operation.count_max or waiting, waiting)
    if count:
        grave.redrive_left, grave.redrive_to = count, topic.name
        redrive_chunk(turn, grave)
        turn.put(keys.topic_key(name), grave.row())
        if grave.redrive_left:
            turn.events.append(LeftUndone((), (name,)))
    return Redriven(topic.name, name, count)


def redrive_on(turn: Turn, grave: TopicState) -> None:
    """Moves the next chunk of what is left of a redrive."""
    if grave.redrive_left:
        redrive_chunk(turn, grave)
        turn.put(keys.topic_key(grave.name), grave.row())


def redrive_chunk(turn: Turn, grave: TopicState) -> None:
    """Moves as many dead letters as the entry has room for, and counts down what is left."""
    consumer = redriver_of(turn, grave)
    if consumer.is_paused or grave.redrive_to not in turn.state.topics:
        grave.redrive_left = 0
        return
    count = min(grave.redrive_left, turn.move_count_left)
    if count < 1 or turn.move_bytes_left < 1:
        return
    taken = take_next(turn, grave, consumer, Demand(ALL_PARTITIONS, count, turn.move_bytes_left))
    mover = Mover(turn)
    moved_count = 0
    for found in taken.ranges:
        _move(turn, grave, found, mover)
        moved_count += found.count
    mover.close()
    # Nothing is there any more if others took it, or it was trimmed.
    grave.redrive_left = grave.redrive_left - moved_count if moved_count else 0


def _move(turn: Turn, grave: TopicState, found: Range, mover: Mover) -> None:
    level = grave.partitions[found.partition].levels[found.level]
    for offset in range(found.offset, found.offset + found.count):
        record = mover.read(level, found.batch_offset, offset).record
        headers = read_headers(record.headers)
        origin = turn.state.topics.get(headers.get(TOPIC, ""))
        if origin is None or origin is grave:
            origin = turn.state.topics[grave.redrive_to]
        partition = _known_partition(origin, headers.get(PARTITION, ""))
        kept = without_marks(headers)
        if CONSUMER in headers:
            kept[CONSUMER] = headers[CONSUMER]
        packed = pack_record(record.message, record.key, write_headers(kept))
        mover.add(origin, partition, min(found.level, len(origin.config.levels) - 1), packed)


def _known_partition(topic: TopicState, number: str) -> int:
    """The partition of this number, or the first one: whoever published may have written what was no number."""
    if not number.isascii() or not number.isdigit() or len(number) > _DIGITS_MAX:
        return 0
    return int(number) if int(number) < len(topic.partitions) else 0


def _waiting_count(grave: TopicState, consumer: ConsumerState) -> int:
    return sum(
        level.appended_count - cursor.delivered_count
        for partition in grave.partitions
        for level, cursor in zip(partition.levels, consumer.cursors_of(partition), strict=True)
    )
