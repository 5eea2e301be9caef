"""Moving: messages go from one topic to another within the entry that is being applied.

What lives here: reading stored records, appending them elsewhere, and how much of both one entry may.
Rules (PROTOCOL.md P12): an entry moves at most `move_count_max` messages and about `move_bytes_max`, read and written;
a message is moved whole or not at all. Those that go to one level of one partition become one record batch, in the
order in which they were added. What the present entry appended is read from its changes: the store has it later.
Must not know: why messages are moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.appending import store
from falconq_cluster.machine.appends import Part
from falconq_cluster.machine.levels import LevelState
from falconq_cluster.machine.records import Record, batch_records, read_batch_header
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.turn import Turn

_headers_decoder: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])
_headers_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Stored:
    """A record, and the id of its message."""

    record: Record
    id: str


@dataclass(slots=True)
class _Pile:
    """What goes to one level of one partition."""

    topic: TopicState
    records: list[bytes]


class Mover:
    """Moves what one operation moves; `close` appends it."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._read: dict[bytes, tuple[str, int, list[Record]]] = {}
        """By key of a batch: log index, first id, records."""
        self._piles: dict[tuple[int, int, int], _Pile] = {}

    def has_room_for(self, level: LevelState, batch_offset: int, offset: int, *, is_first_free: bool) -> bool:
        """Whether one more message of the batch may be moved; with `is_first_free`, one may in any case."""
        turn = self._turn
        if is_first_free and turn.move_count_left == turn.limits.move_count_max:
            return True
        batch = level.batch_of(turn.reader, batch_offset, offset)
        is_read = keys.batch_key(level.prefix, batch) in self._read
        cost = -(-batch.size // batch.record_count) + (0 if is_read else batch.size)
        return turn.move_count_left > 0 and cost <= turn.move_bytes_left

    def read(self, level: LevelState, batch_offset: int, offset: int) -> Stored:
        """The record at the offset. Raises: CorruptionError when it is not there."""
        batch = level.batch_of(self._turn.reader, batch_offset, offset)
        key = keys.batch_key(level.prefix, batch)
        if key not in self._read:
            value = self._turn.stored(key)
            header = read_batch_header(value)
            self._read[key] = str(header.log_index), header.first_id, list(batch_records(value))
            self._turn.move_bytes_left -= batch.size
        log_index, first_id, records = self._read[key]
        place = offset - batch.base
        if not 0 <= place < len(records):
            raise CorruptionError(f"offset {offset} is not in {batch}, in level {level.prefix.hex()}")
        return Stored(records[place], f"{log_index}.{first_id + place}")

    def add(self, topic: TopicState, partition: int, level: int, record: bytes) -> None:
        """Let the record go there."""
        self._turn.move_count_left -= 1
        self._turn.move_bytes_left -= len(record)
        pile = self._piles.setdefault((topic.number, partition, level), _Pile(topic, []))
        pile.records.append(record)

    def close(self) -> None:
        """Append all that was added."""
        for (_, partition, level), pile in self._piles.items():
            records = pile.records
            store(self._turn, pile.topic, Part(partition, level, len(records), b"".join(records)))
        self._piles.clear()


def read_headers(headers: bytes | None) -> dict[str, str]:
    """A record's headers, as the gateway judged them; empty for none."""
    if headers is None:
        return {}
    try:
        return _headers_decoder.decode(headers)
    except msgspec.DecodeError:
        # Whoever appended them was not a gateway of this version; a move must not end the process.
        return {}


def write_headers(headers: dict[str, str]) -> bytes | None:
    """The same for a record; None for none."""
    return _headers_encoder.encode(headers) if headers else None
