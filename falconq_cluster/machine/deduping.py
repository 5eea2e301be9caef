"""Appends that happen once, however often and through whichever nodes they come.

What lives here: the judgement of an append with an idempotency key or a producer's sequence, and what is remembered.
Rules: within its topic's window a repeat gets what the first append did and changes nothing; after it, the key is as
new. Until when that is, is decided at the append and kept with it: a change of the window counts for later appends, and
a producer that goes on is never known for less long than it was promised before. What is appended under a known key or
sequence must be the same bytes on the same level, but for what its origin left out of the digest; the partition is the
first one's. A producer's sequences are 1, 2, 3 …, so nothing that was never appended is taken for a repeat. A row is
dropped only when it is over, or its topic is deleted: a full table refuses (PROTOCOL.md P15). Dropping is bounded for
each operation and each command (P12).
Must not know: what is in a record.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendedMany, AppendMany, Place
from falconq_cluster.machine.commands import Append, Appended, AppendOnce, Duplicate, Refused
from falconq_cluster.machine.once import Name
from falconq_cluster.machine.operation import Once
from falconq_cluster.machine.rows import OnceRow
from falconq_cluster.machine.settings import TopicConfig
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.turn import Turn

ONCE_NAME_LENGTH_MAX = 256
KEYS_PER_APPEND_MAX = 4
"""Keys that an append writes beside its records: its own row, and rows that are over."""
DROPPED_PER_COMMAND_MAX = 8
"""Rows that are over and go with any command, so that memory comes back when nobody uses keys any more."""

DIGEST_BYTES = 16
_DEFAULTS = TopicConfig()
_DROPPED_PER_APPEND = 2
"""Of all topics, beside one of its own: more than an append adds."""


def first_result(turn: Turn, operation: Append | AppendMany, topic: TopicState | None) -> Duplicate | Refused | None:
    """What the append is answered with instead of being done; None when it is new, and there is room to remember it."""
    once = _once(operation)
    if once is None:
        return None
    if not 1 <= len(once.name) <= ONCE_NAME_LENGTH_MAX or once.sequence < 0:
        return Refused(
            "bad_request",
            f"a key or producer id has 1 to {ONCE_NAME_LENGTH_MAX} characters, and no sequence is below 0",
        )
    if len(once.digest) not in (0 if isinstance(operation, Append) else DIGEST_BYTES, DIGEST_BYTES):
        return Refused("bad_request", f"a digest has {DIGEST_BYTES} bytes, not {len(once.digest)}")
    number = -1 if topic is None else topic.number
    row = turn.state.once.get(number, _name(once))
    if row is not None and _is_over(turn, row):
        row = None
    if row is not None and once.sequence <= row.sequence:
        return _repeated(operation, once, row)
    if once.sequence and once.sequence != 1 + (0 if row is None else row.sequence):
        return _gap(once, row, _DEFAULTS if topic is None else topic.config)
    return None if row is not None else _room(turn, operation.topic, number)


def remember(turn: Turn, operation: Append | AppendMany, topic: TopicState, appended: Appended | AppendedMany) -> None:
    """Keep what the append did, for its repeats."""
    once = _once(operation)
    if once is None:
        return
    places = appended.places if isinstance(appended, AppendedMany) else []
    first = places[0] if isinstance(appended, AppendedMany) else appended
    name = _name(once)
    known = turn.state.once.get(topic.number, name)
    until_ms = turn.log_time_ms + topic.config.dedupe_window_ms
    row = OnceRow(
        number=turn.next_number(),
        made_ms=turn.log_time_ms,
        sequence=once.sequence,
        log_index=turn.index,
        digest=_digest(operation, once),
        partition=first.partition,
        level=first.level,
        base_offset=first.base_offset,
        count=first.count,
        first_id=appended.first_id,
        places=msgspec.msgpack.encode(places) if places else b"",
        due_ms=first.due_ms,
        # A producer's window may have been shortened since its last append.
        until_ms=until_ms if known is None else max(until_ms, known.known_until_ms),
    )
    turn.state.once.add(topic.number, name, row)
    turn.put(keys.once_key(topic.number, once.name, is_producer=name[1]), row)


def digest_of(*messages: tuple[int, bytes]) -> bytes:
    """What tells an append of these (level, records) from another one under its key."""
    state = blake2b(digest_size=DIGEST_BYTES)
    for level, records in messages:
        state.update(level.to_bytes(8, "little", signed=True))
        state.update(records)
    return state.digest()


def drop_over(turn: Turn, count: int) -> None:
    """Forget up to so many of the rows whose window has passed, the longest over first."""
    for _ in range(count):
        first = turn.state.once.first()
        if first is None or not _is_over(turn, first[2]):
            return
        _drop(turn, first[0], first[1])


def _once(operation: Append | AppendMany) -> Once | None:
    return operation.once if isinstance(operation, AppendOnce | AppendMany) else None


def _digest(operation: Append | AppendMany, once: Once) -> bytes:
    if once.digest or isinstance(operation, AppendMany):
        return once.digest
    return digest_of((operation.level, operation.records))


def _name(once: Once) -> Name:
    return once.name, once.sequence > 0


def _is_over(turn: Turn, row: OnceRow) -> bool:
    return turn.log_time_ms >= row.known_until_ms


def _repeated(operation: Append | AppendMany, once: Once, row: OnceRow) -> Duplicate | Refused:
    if once.sequence < row.sequence:
        return Duplicate(operation.topic, None, 0)
    if row.digest != _digest(operation, once):
        what = f"sequence {once.sequence} of producer" if once.sequence else "idempotency key"
        return Refused(
            "key_reused",
            f"{what} {once.name!r} was used for another message, with the id {row.log_index}.{row.first_id}, in "
            f"partition {row.partition}; give each message its own",
        )
    if row.places:
        places = msgspec.msgpack.decode(row.places, type=list[Place])
        many = AppendedMany(operation.topic, places, row.first_id, row.made_ms)
        return Duplicate(operation.topic, many, row.log_index)
    first = Appended(
        topic=operation.topic,
        partition=row.partition,
        level=row.level,
        base_offset=row.base_offset,
        count=row.count,
        first_id=row.first_id,
        timestamp_ms=row.made_ms,
        due_ms=row.due_ms,
    )
    return Duplicate(operation.topic, first, row.log_index)


def _gap(once: Once, row: OnceRow | None, config: TopicConfig) -> Refused:
    if row is None:
        known = f"producer {once.name!r} is new, or has appended nothing for {config.dedupe_window_ms} ms"
    else:
        known = f"the last sequence of producer {once.name!r} is {row.sequence}"
    expected = 1 if row is None else row.sequence + 1
    return Refused("sequence_gap", f"{known}: its next sequence is {expected}, not {once.sequence}")


def _room(turn: Turn, topic_name: str, topic: int) -> Refused | None:
    table, limits = turn.state.once, turn.limits
    first = table.first_of(topic)
    if first is not None and _is_over(turn, first[2]):
        _drop(turn, topic, first[1])
    drop_over(turn, _DROPPED_PER_APPEND)
    own, most = table.count(topic), limits.dedupe_per_topic_max
    if own >= most:
        text = f"{own} keys of topic {topic_name!r} are remembered, and dedupe_per_topic_max is {most}"
    elif len(table) >= limits.dedupe_max:
        text = f"{len(table)} keys of all topics are remembered, and dedupe_max is {limits.dedupe_max}"
    else:
        return None
    return Refused(
        "dedupe_full", f"{text}; each is for its topic's 'dedupeWindowMs'. Use fewer, or raise it on the nodes"
    )


def _drop(turn: Turn, topic: int, name: Name) -> None:
    turn.state.once.drop(topic, name)
    turn.delete(keys.once_key(topic, name[0], is_producer=name[1]))
