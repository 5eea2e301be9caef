"""Amending: one message is changed or cancelled while nobody was handed it.

What lives here: the ChangeMessage and CancelMessage operations.
Rules (PROTOCOL.md P12, P14): a message keeps its id and its time to live. While it is delayed it is taken out of those
that wait with it, and waits again as it is wanted; it enters its level by a Ripen alone. Once it is in its level, what
it was there is cancelled, and it is appended at the end of the other one, or waits. A consumer whose cursor has passed
it counts as having been handed it, unless it set it aside; one that seeks back gives up what it was handed, so the
message may be changed again. A change that was made already is answered as it stands, so a repeat does no harm.
Must not know: what is in a message, who asks.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.amends import AmendOperation, CancelMessage, ChangeMessage, MessageChanged
from falconq_cluster.machine.appending import store
from falconq_cluster.machine.appends import Part
from falconq_cluster.machine.commands import Done, Refused
from falconq_cluster.machine.consumers import drop_in_hand
from falconq_cluster.machine.delaying import DELAY_MS_MAX, find_waiting, refusal_of_more, take_out, wait
from falconq_cluster.machine.events import ConsumerUnlinked
from falconq_cluster.machine.finding import Stored, find_stored, not_found
from falconq_cluster.machine.keys import Waiting
from falconq_cluster.machine.rows import DelayedRow, decode_row
from falconq_cluster.machine.splitting import KEYS_MAX, take_from_level
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.turn import Turn

AMEND_KEYS_MAX = KEYS_MAX + 3
"""Keys that one of these operations writes at most (P12), beside what was set aside: a message out of its level, and
three where it goes. Of one that waits: two that go, and two each of those before it, behind
it, and itself."""


def change_message(turn: Turn, operation: ChangeMessage) -> MessageChanged | Refused:
    """The message has the level and the time that are asked for, or nothing is changed."""
    refusal = _judged(turn, operation) or _judged_change(turn, operation)
    if refusal is not None:
        return refusal
    topic = turn.state.topics[operation.topic]
    waiting = find_waiting(turn.last_key, topic, operation.log_index, operation.number)
    if waiting is not None:
        return _change_delayed(turn, topic, waiting, operation)
    found = find_stored(turn, topic, operation)
    return found if isinstance(found, Refused) else _change_stored(turn, topic, found, operation)


def cancel_message(turn: Turn, operation: CancelMessage) -> Done | Refused:
    """Nobody is given the message, or nothing is changed."""
    refusal = _judged(turn, operation)
    if refusal is not None:
        return refusal
    topic = turn.state.topics[operation.topic]
    waiting = find_waiting(turn.last_key, topic, operation.log_index, operation.number)
    if waiting is not None:
        refusal = _no_room(turn, len(_row(turn, waiting).records))
        if refusal is None:
            take_out(turn, topic, waiting, operation.number)
        return refusal or Done()
    found = find_stored(turn, topic, operation)
    taken = found if isinstance(found, Refused) else _take_stored(turn, topic, found)
    return taken if isinstance(taken, Refused) else Done()


def _judged(turn: Turn, operation: AmendOperation) -> Refused | None:
    if turn.is_expired(operation.not_after_ms):
        text = f"the time to change the message ran out at {operation.not_after_ms}, it is {turn.log_time_ms}"
        return Refused("expired", text)
    if operation.topic not in turn.state.topics:
        return Refused("topic_not_found", f"there is no topic {operation.topic[:200]!r}")
    is_id = 0 <= operation.log_index <= keys.INDEX_MAX and 0 <= operation.number <= keys.NUMBER_MAX
    return None if is_id else not_found(operation)


def _judged_change(turn: Turn, operation: ChangeMessage) -> Refused | None:
    levels = turn.state.topics[operation.topic].config.levels
    if not -1 <= operation.level < len(levels):
        text = f"topic {operation.topic!r} has the levels {', '.join(levels)}, none is number {operation.level}"
        return Refused("unknown_priority", text)
    if operation.due_ms >= 0 and operation.delay_ms >= 0:
        return Refused("bad_request", "a message is due at a time or after a delay; give one of both")
    until_ms = turn.log_time_ms + DELAY_MS_MAX
    if not -1 <= operation.due_ms <= until_ms or not -1 <= operation.delay_ms <= DELAY_MS_MAX:
        text = f"a message waits for 0 to {DELAY_MS_MAX} ms, until {until_ms} at most"
        return Refused("bad_request", f"{text}, not until {max(operation.due_ms, operation.delay_ms)}")
    return None


def _no_room(turn: Turn, size: int) -> Refused | None:
    """Why the entry can't write so many bytes anew as well; the first batch may be as large as it is (P12)."""
    if turn.amend_bytes and turn.amend_bytes + size > turn.limits.amend_bytes_max:
        return Refused("overloaded", "many messages of large batches are changed at this moment; repeat a little later")
    turn.amend_bytes += size
    return None


def _wanted_ms(turn: Turn, operation: ChangeMessage) -> int | None:
    """From when on it is to be given; None as before."""
    if operation.due_ms >= 0:
        return max(operation.due_ms, turn.log_time_ms)
    return turn.log_time_ms + operation.delay_ms if operation.delay_ms >= 0 else None


def _row(turn: Turn, waiting: Waiting) -> DelayedRow:
    return decode_row(turn.latest(keys.delayed_key(waiting)), DelayedRow)


def _change_delayed(
    turn: Turn, topic: TopicState, waiting: Waiting, operation: ChangeMessage
) -> MessageChanged | Refused:
    row, wanted_ms = _row(turn, waiting), _wanted_ms(turn, operation)
    level = row.level if operation.level < 0 else operation.level
    due_ms = waiting.due_ms if wanted_ms is None else wanted_ms
    if waiting.due_ms <= turn.log_time_ms and due_ms <= turn.log_time_ms:
        # It is due already, and its place among what is due stays its own.
        due_ms = waiting.due_ms
    if (level, due_ms) != (row.level, waiting.due_ms):
        refusal = _no_room(turn, len(row.records))
        if refusal is not None:
            return refusal
        own = replace(take_out(turn, topic, waiting, operation.number), level=level)
        alone = waiting._replace(due_ms=due_ms, first_id=operation.number, record_count=1)
        wait(turn, topic, alone, own)
    return MessageChanged(topic.name, row.partition, level, -1, due_ms)


def _change_stored(turn: Turn, topic: TopicState, found: Stored, operation: ChangeMessage) -> MessageChanged | Refused:
    wanted_ms = _wanted_ms(turn, operation)
    level = found.level if operation.level < 0 else operation.level
    is_delayed = wanted_ms is not None and wanted_ms > turn.log_time_ms
    if level == found.level and not is_delayed:
        return MessageChanged(topic.name, found.partition.number, level, found.offset, 0)
    refusal = refusal_of_more(turn, topic, 1) if is_delayed else None
    record = refusal or _take_stored(turn, topic, found)
    if isinstance(record, Refused):
        return record
    expires_ms = found.batch.expires_ms
    ttl_ms = expires_ms - turn.log_time_ms if expires_ms else 0
    if wanted_ms is not None and is_delayed:
        alone = Waiting(wanted_ms, topic.number, operation.log_index, operation.number, 1)
        wait(turn, topic, alone, DelayedRow(found.partition.number, level, record, ttl_ms))
        return MessageChanged(topic.name, found.partition.number, level, -1, wanted_ms)
    part = Part(found.partition.number, level, 1, record, ttl_ms=ttl_ms)
    place = store(turn, topic, part, first_id=(operation.log_index, operation.number))
    return MessageChanged(topic.name, place.partition, level, place.base_offset, 0)


def _take_stored(turn: Turn, topic: TopicState, found: Stored) -> bytes | Refused:
    """The record, which nobody is given from its place any more."""
    place = found.partition.number, found.level, found.offset
    aside = [consumer for consumer in topic.consumers.values() if _has_passed(consumer, *place)]
    for consumer in aside:
        held = consumer.holdings.get(place[0], place[2])
        if held is None or not held.row.is_aside:
            text = "a consumer was handed the message, or is behind it; it can't be changed any more"
            return Refused("already_delivered", text)
    if any(isinstance(event, ConsumerUnlinked) and event.topic == topic.name for event in turn.events):
        # What this entry handed to it is read only when the entry is applied.
        return Refused("overloaded", "a consumer of the topic was moved or deleted at this moment; repeat")
    if len(aside) > turn.aside_left:
        text = f"{len(aside)} consumers keep the message for later, behind others of its key or partition"
        return Refused("overloaded", f"{text}; it can be changed when fewer do")
    refusal = _no_room(turn, found.batch.size)
    if refusal is not None:
        return refusal
    turn.aside_left -= len(aside)
    for consumer in sorted(aside, key=lambda consumer: consumer.number):
        held = consumer.holdings.get(place[0], place[2])
        assert held is not None
        drop_in_hand(turn, topic, consumer, held)
    return take_from_level(turn, topic, found.partition, found.level, found.batch, found.offset)


def _has_passed(consumer: ConsumerState, partition: int, level: int, offset: int) -> bool:
    """Whether its cursor is behind a message that is retained: it was handed out, set aside, or left out.

    Looks at the cursors as they are: moving all of them behind what is trimmed would cost more and change nothing.
    """
    cursors = consumer.cursors.get(partition, [])
    return level < len(cursors) and cursors[level].next_offset > offset
