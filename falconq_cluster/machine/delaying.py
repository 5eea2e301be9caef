"""Delay: messages that wait for their time before they enter their level.

What lives here: what is to wait, how many may, and one message that waits no more.
Rules (PROTOCOL.md P14): a delayed message has its id from its publish, and gets its offset when it enters its level.
Its body stands below its topic's number; when it is due stands in one order for all topics. A deleted topic's bodies go
as all of it does, what else there is of them goes when their time comes.
Must not know: what is in a record, how messages enter their level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import Part, Place
from falconq_cluster.machine.commands import Refused
from falconq_cluster.machine.events import Delayed
from falconq_cluster.machine.keys import Waiting
from falconq_cluster.machine.records import cut_records
from falconq_cluster.machine.rows import DelayedRow, decode_row
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.turn import Turn

DELAY_MS_MAX = 31_536_000_000
"""A year."""

LastKey = Callable[[bytes, bytes], bytes | None]
"""Finds the last key of (start, stop)."""


def refusal_of_delays(turn: Turn, parts: Sequence[Part], topic: TopicState | None) -> Refused | None:
    """Why the parts can't wait as they ask."""
    for part in parts:
        if not 0 <= part.delay_ms <= DELAY_MS_MAX:
            return Refused("bad_request", f"a message waits for 0 to {DELAY_MS_MAX} ms, not {part.delay_ms}")
        if not 0 <= part.ttl_ms <= DELAY_MS_MAX:
            return Refused(
                "bad_request", f"a message lives for 1 to {DELAY_MS_MAX} ms, or 0 for ever, not {part.ttl_ms}"
            )
    count = sum(part.count for part in parts if part.delay_ms)
    return refusal_of_more(turn, topic, count) if count else None


def refusal_of_more(turn: Turn, topic: TopicState | None, count: int) -> Refused | None:
    """Why so many messages of the topic can't wait as well."""
    own, all_count, limits = 0 if topic is None else topic.delayed_count, turn.state.delays.count, turn.limits
    if own + count > limits.delayed_per_topic_max:
        text = f"{own} messages of the topic are delayed, and delayed_per_topic_max is {limits.delayed_per_topic_max}"
    elif all_count + count > limits.delayed_max:
        text = f"{all_count} messages of all topics are delayed, and delayed_max is {limits.delayed_max}"
    else:
        return None
    return Refused("delayed_full", f"{text}; repeat when some have become due, or raise it on the nodes")


def delay(turn: Turn, topic: TopicState, part: Part) -> Place:
    """The part waits for its time; whoever calls has judged it."""
    due_ms = turn.log_time_ms + part.delay_ms
    waiting = Waiting(due_ms, topic.number, turn.index, turn.message_count, part.count)
    wait(turn, topic, waiting, DelayedRow(part.partition, part.level, part.records, part.ttl_ms))
    turn.message_count += part.count
    return Place(part.partition, part.level, -1, part.count, due_ms)


def wait(turn: Turn, topic: TopicState, waiting: Waiting, row: DelayedRow) -> None:
    """The messages, which have their ids, wait for their time."""
    turn.changes.append((keys.due_key(waiting), topic.name.encode()))
    turn.put(keys.delayed_key(waiting), row)
    topic.delayed_count += waiting.record_count
    turn.state.delays.added(waiting.record_count, waiting.due_ms)
    turn.events.append(Delayed())


def find_waiting(last_key: LastKey, topic: TopicState, log_index: int, number: int) -> Waiting | None:
    """The messages that wait together with the one of this id, and it."""
    key = last_key(*keys.ids_range(keys.DELAYED, topic.number, log_index, number))
    waiting = None if key is None else keys.read_delayed_key(key)
    return waiting if waiting is not None and number < waiting.first_id + waiting.record_count else None


def take_out(turn: Turn, topic: TopicState, waiting: Waiting, number: int) -> DelayedRow:
    """The message waits no more, all that waited with it do; its own row. Raises: CorruptionError."""
    row = decode_row(turn.latest(keys.delayed_key(waiting)), DelayedRow)
    turn.delete(keys.due_key(waiting))
    turn.delete(keys.delayed_key(waiting))
    topic.delayed_count -= waiting.record_count
    turn.state.delays.removed(waiting.record_count)
    place = number - waiting.first_id
    before, record, after = cut_records(row.records, (place, place + 1))
    behind_count = waiting.record_count - place - 1
    for first_id, count, records in ((waiting.first_id, place, before), (number + 1, behind_count, after)):
        if count:
            part = waiting._replace(first_id=first_id, record_count=count)
            wait(turn, topic, part, replace(row, records=records))
    return replace(row, records=record)
