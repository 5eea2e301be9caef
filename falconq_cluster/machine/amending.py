"""Amending: one message is changed or cancelled while nobody was handed it.

What lives here: the ChangeMessage and CancelMessage operations.
Rules (PROTOCOL.md P12, P14): a message keeps its id. While it is delayed it is taken out of those that wait with it,
and waits again as it is wanted. It enters its level by a Ripen alone. A change that was made already is answered as it
stands, so a repeat of it does no harm.
Must not know: what is in a message, who asks.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.amends import AmendOperation, CancelMessage, ChangeMessage, MessageChanged
from falconq_cluster.machine.commands import Done, Refused
from falconq_cluster.machine.delaying import DELAY_MS_MAX, find_waiting, take_out, wait
from falconq_cluster.machine.keys import Waiting
from falconq_cluster.machine.rows import DelayedRow, decode_row
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.turn import Turn

AMEND_KEYS_MAX = 20
"""Keys that one of these operations writes at most (P12), beside what was set aside. Of a message that waits: two that
go, and two each of those before it, behind it, and itself."""


def change_message(turn: Turn, operation: ChangeMessage) -> MessageChanged | Refused:
    """The message has the level and the time that are asked for, or nothing is changed."""
    refusal = _judged(turn, operation) or _judged_change(turn, operation)
    if refusal is not None:
        return refusal
    topic = turn.state.topics[operation.topic]
    waiting = find_waiting(turn.last_key, topic, operation.log_index, operation.number)
    if waiting is None:
        return _not_found(operation)
    return _change_delayed(turn, topic, waiting, operation)


def cancel_message(turn: Turn, operation: CancelMessage) -> Done | Refused:
    """Nobody is given the message, or nothing is changed."""
    refusal = _judged(turn, operation)
    if refusal is not None:
        return refusal
    topic = turn.state.topics[operation.topic]
    waiting = find_waiting(turn.last_key, topic, operation.log_index, operation.number)
    if waiting is None:
        return _not_found(operation)
    row = _row(turn, waiting)
    refusal = _no_room(turn, len(row.records))
    if refusal is not None:
        return refusal
    take_out(turn, topic, waiting, operation.number)
    return Done()


def _judged(turn: Turn, operation: AmendOperation) -> Refused | None:
    if turn.is_expired(operation.not_after_ms):
        text = f"the time to change the message ran out at {operation.not_after_ms}, it is {turn.log_time_ms}"
        return Refused("expired", text)
    if operation.topic not in turn.state.topics:
        return Refused("topic_not_found", f"there is no topic {operation.topic[:200]!r}")
    is_id = 0 <= operation.log_index <= keys.INDEX_MAX and 0 <= operation.number <= keys.NUMBER_MAX
    return None if is_id else _not_found(operation)


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


def _not_found(operation: AmendOperation) -> Refused:
    message_id = f"{operation.log_index}.{operation.number}"
    text = f"topic {operation.topic!r} has no message {message_id}: it never had, or the message is not kept any more"
    return Refused("message_not_found", text)


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
    return decode_row(turn.stored(keys.delayed_key(waiting)), DelayedRow)


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
