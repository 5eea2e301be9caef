"""Ripening: delayed messages enter their level when their time has come.

What lives here: the Ripen operation.
Rules (PROTOCOL.md P12, P14): what is due enters in the order of due times, then of topics and ids, and only by a Ripen,
so that each node gives it the same offset. A Ripen moves a bounded number and stands alone in its command, since what
that writes is not in the store yet. What its topic accepted enters it however full the topic is by then.
Must not know: what is in a record, who proposes.
"""

from __future__ import annotations

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.appending import store
from falconq_cluster.machine.appends import Part
from falconq_cluster.machine.events import Ripened
from falconq_cluster.machine.keys import Waiting
from falconq_cluster.machine.rows import DelayedRow, decode_row
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.turn import Turn

_KEYS_EACH = 5
"""The batch, the place of its ids, its partition, and the two of what was waiting."""


def ripen(turn: Turn) -> None:
    """Moves what is due by log time into its levels, as much as one command may."""
    turn.events.append(Ripened())
    if turn.changes:
        return
    keys_left, bytes_left = turn.limits.ripen_keys_max, turn.limits.ripen_bytes_max
    next_ms: int | None = None
    for key, name in turn.reader.scan(keys.DUE, keys.prefix_end(keys.DUE)):
        waiting = keys.read_due_key(key)
        if waiting.due_ms > turn.log_time_ms or keys_left < _KEYS_EACH or bytes_left < 1:
            next_ms = waiting.due_ms
            break
        turn.delete(key)
        keys_left -= _KEYS_EACH
        turn.state.delays.count -= waiting.record_count
        topic = turn.state.topics.get(name.decode())
        if topic is not None and topic.number == waiting.topic:
            bytes_left -= _enter(turn, topic, waiting)
    turn.state.delays.next_ms = next_ms


def _enter(turn: Turn, topic: TopicState, waiting: Waiting) -> int:
    """The messages enter their level; how many bytes they have. Raises: CorruptionError."""
    key = keys.delayed_key(waiting)
    value = turn.reader.get(key)
    if value is None:
        raise CorruptionError(f"key {key.hex()} is missing, of messages that are due")
    row = decode_row(value, DelayedRow)
    turn.delete(key)
    topic.delayed_count -= waiting.record_count
    part = Part(row.partition, row.level, waiting.record_count, row.records, ttl_ms=row.ttl_ms)
    store(turn, topic, part, first_id=(waiting.log_index, waiting.first_id))
    return len(row.records)
