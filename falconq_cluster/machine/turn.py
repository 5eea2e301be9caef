"""One entry being applied: what it changes, and the numbers it gives out.

What lives here: the collector of changes and events, and the rolling hash over what an entry wrote.
Rules: rows that several operations of one entry touch are encoded once, at the end. Changes are in the order in which
the operations made them, so two nodes that apply one entry write and hash the same bytes.
Must not know: what an operation means.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys, rows
from falconq_cluster.machine.events import Event
from falconq_cluster.machine.levels import PartitionState, cursor_row
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.state import ConsumerState, State, TopicState
from falconq_cluster.storage.store import Change, Reader

DIGEST_BYTES = 16

_ORDINAL_BITS = 20
"""Numbers are log index and ordinal: 2^20 of one entry, more than fit into its bytes; 2^44 entries."""
_LENGTHS = struct.Struct("<II")


def index_of(number: int) -> int:
    """Log index of the entry that gave out the number."""
    return number >> _ORDINAL_BITS


class Turn:
    """What operations see of the entry, and where they leave what they change."""

    __slots__ = (
        "_consumers",
        "_cursors",
        "_ordinal",
        "_partitions",
        "amend_bytes",
        "aside_left",
        "changes",
        "events",
        "index",
        "limits",
        "log_time_ms",
        "message_count",
        "move_bytes_left",
        "move_count_left",
        "reader",
        "state",
    )

    def __init__(self, state: State, reader: Reader, limits: MachineLimits, index: int, log_time_ms: int) -> None:
        self.state = state
        self.reader = reader
        self.limits = limits
        self.index = index
        self.log_time_ms = log_time_ms
        self.changes: list[Change] = []
        self.events: list[Event] = []
        self.message_count = 0
        """Messages that the entry has appended so far: the next message's number in its id (P14)."""
        self.move_count_left = limits.move_count_max
        self.move_bytes_left = limits.move_bytes_max
        """How much more the entry may move from one topic to another (P12)."""
        self.aside_left = limits.aside_max
        """How many more messages the entry may set aside (P12)."""
        self.amend_bytes = 0
        """Of batches that were written anew because of one message (P12)."""
        self._ordinal = 0
        self._partitions: dict[tuple[int, int], PartitionState] = {}
        self._consumers: dict[tuple[int, int], tuple[TopicState, ConsumerState]] = {}
        self._cursors: dict[tuple[int, int, int], ConsumerState] = {}

    def next_number(self) -> int:
        """A number that nothing else ever has or had (P12)."""
        if self._ordinal >> _ORDINAL_BITS:
            message = f"entry {self.index} makes more than {1 << _ORDINAL_BITS} things"
            raise ValueError(message)
        number = self.index << _ORDINAL_BITS | self._ordinal
        self._ordinal += 1
        return number

    def made(self, number: int) -> bool:
        """Whether this entry gave out the number: the store does not show what it stands for yet."""
        return index_of(number) == self.index

    def is_expired(self, not_after_ms: int) -> bool:
        """Whether an operation came too late (P10)."""
        return 0 < not_after_ms < self.log_time_ms

    def put(self, key: bytes, row: rows.Row) -> None:
        self.changes.append((key, rows.encode_row(row)))

    def stored(self, key: bytes) -> bytes:
        """What stands at a key that is written once, by the present entry or before. Raises: CorruptionError."""
        value = self.reader.get(key)
        if value is None:
            value = next((value for changed, value in reversed(self.changes) if changed == key), None)
        if value is None:
            raise CorruptionError(f"there is nothing at key {key.hex()}")
        return value

    def latest(self, key: bytes) -> bytes:
        """The same of a key whose value may be replaced by the present entry. Raises: CorruptionError."""
        value = next((value for changed, value in reversed(self.changes) if changed == key), None)
        return self.stored(key) if value is None else value

    def last_key(self, start: bytes, stop: bytes) -> bytes | None:
        """The last key with start <= key < stop, as the present entry leaves the store so far."""
        changed = {key: value is not None for key, value in self.changes if start <= key < stop}
        found = max((key for key, is_there in changed.items() if is_there), default=None)
        for key in self.reader.scan_keys(start, stop, reverse=True):
            if key not in changed:
                return key if found is None else max(key, found)
        return found

    def delete(self, key: bytes) -> None:
        self.changes.append((key, None))

    def partition_changed(self, topic: TopicState, partition: PartitionState) -> None:
        self._partitions[topic.number, partition.number] = partition

    def consumer_changed(self, topic: TopicState, consumer: ConsumerState) -> None:
        self._consumers[topic.number, consumer.number] = topic, consumer

    def has_changed(self, topic: TopicState, partition: PartitionState) -> bool:
        """Whether this entry changed the partition: the store may not show all its batches yet."""
        return (topic.number, partition.number) in self._partitions

    def cursors_changed(self, topic: TopicState, consumer: ConsumerState, partition: int) -> None:
        self._cursors[topic.number, consumer.number, partition] = consumer

    def finish(self) -> None:
        """Add the rows that were changed in memory to the changes."""
        for of, consumer in self._consumers.values():
            # Its name may stand for another one by now.
            if self.state.topics.get(of.name) is of and of.consumers.get(consumer.name) is consumer:
                self.put(keys.consumer_key(of.number, consumer.name), consumer.row())
        for (topic, number), partition in self._partitions.items():
            self.put(keys.partition_key(topic, number), partition.row())
            for level in partition.levels:
                level.settle()
        for (topic, number, place), consumer in self._cursors.items():
            self.put(keys.cursor_key(topic, number, place), cursor_row(consumer.cursors[place]))

    def digest(self, previous: bytes) -> bytes:
        """The rolling hash after this entry: over the previous one, the index, and every key and value (P18)."""
        state = blake2b(previous, digest_size=DIGEST_BYTES)
        state.update(self.index.to_bytes(8, "little"))
        for key, value in self.changes:
            # A deletion is told from an empty value by its length, which is one more for a value.
            state.update(_LENGTHS.pack(len(key), 0 if value is None else len(value) + 1))
            state.update(key)
            if value is not None:
                state.update(value)
        return state.digest()
