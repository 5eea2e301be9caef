"""Where everything stands in the store.

What lives here: the table of key prefixes, and the functions that build and read keys.

    01                                                           meta: applied index, term, log time, rolling hash
    02                                                           cluster: id, members and their disks
    03 node                                                      origin
    10 topic name                                                topic: number, configuration
    11 topic number, partition                                   partition: offsets and counts per level
    12 topic number, consumer name                               consumer: number, where its turn stands
    13 topic number, consumer number, partition                  cursors of the partition, one per level
    14 topic number, consumer number, attempt number             what a pull's attempt was given
    20 topic number, partition, level, base, count, size, time   record batch; behind it, what else there is of `Batch`
    30 topic number, consumer number, partition, offset          message in a consumer's hand
    31 topic number, partition                                   addition of this and later partitions
    40 due time, topic number, log index, first number, count    when delayed messages enter their level: topic name
    41 topic number, log index, first number, count, due time    delayed messages
    42 topic number, log index, first number, count              where messages are that had their ids before a place
    43 topic number, partition, level, offset, consumer number   message that the consumer buried
    60 topic number, 00 and key or 01 and producer               append that is to happen once, and what it did
    68 deletion number                                           topic that is unlinked and not wholly trimmed

Rules: numbers are big-endian, so key order is delivery order within a level. A prefix is never reused. Names stand
only in the keys that give them a number (P12): deleting a name unlinks what it numbered, and a new thing of the same
name inherits nothing. A batch's count, size in bytes and log time are in its key, so that neither a pull nor retention
reads values.
Must not know: what the values hold.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

META = b"\x01"
CLUSTER = b"\x02"
ORIGIN = b"\x03"
TOPIC = b"\x10"
PARTITION = b"\x11"
CONSUMER = b"\x12"
CURSOR = b"\x13"
ATTEMPT = b"\x14"
BATCH = b"\x20"
LEASE = b"\x30"
ADDITION = b"\x31"
DUE = b"\x40"
DELAYED = b"\x41"
PLACED = b"\x42"
BURIED = b"\x43"
ONCE = b"\x60"
DELETION = b"\x68"

OF_TOPICS = (PARTITION, CONSUMER, CURSOR, ATTEMPT, BATCH, LEASE, ADDITION, DELAYED, PLACED, BURIED, ONCE)
"""Every prefix that a topic's number follows, in key order: what a deleted topic leaves behind.

Not DUE: it goes when its time has come, whatever became of the topic.
"""

OF_CONSUMERS = (CURSOR, ATTEMPT, LEASE)
"""Every prefix that the numbers of a topic and of a consumer follow: what a deleted consumer leaves behind."""

_TOPIC_PART = struct.Struct(">QI")
_TOPIC_THING = struct.Struct(">QQ")
_CURSOR = struct.Struct(">QQI")
_LEASE = struct.Struct(">QQIQ")
_ATTEMPT = struct.Struct(">QQQ")
_LEVEL = struct.Struct(">cQIB")
_BATCH_TAIL = struct.Struct(">QIIQ")
_OFFSET = struct.Struct(">Q")
_BATCH_KEY_BYTES = _LEVEL.size + _BATCH_TAIL.size
_BATCH_ID = struct.Struct(">QIQI")
_BATCH_ID_FROM = _BATCH_KEY_BYTES + _OFFSET.size
_PLACED = struct.Struct(">QQII")
_BURIED = struct.Struct(">QQ")
CANCELLED_MS = 1
"""Until when a message is given that was cancelled: before any log time."""
_DUE = struct.Struct(">QQQII")
_DELAYED = struct.Struct(">QQIIQ")
_ID = struct.Struct(">QQI")
NUMBER_MAX = (1 << 32) - 2
"""Of a message within its log index: the number behind it has a key too."""
INDEX_MAX = (1 << 64) - 1


class Batch(NamedTuple):
    """One record batch of a level, as its key tells it."""

    base: int
    """Offset of its first record; those of the others follow without a gap."""
    record_count: int
    size: int
    """Bytes of its packed records."""
    stamp_ms: int
    """Log time at which it was appended; never falls from one batch of a level to the next."""
    expires_ms: int = 0
    """Log time from which on nobody is given it; 0 for never."""
    log_index: int = 0
    first_id: int = 0
    """Record i has the id "<log_index>.<first_id + i>", of a batch that did not get its ids as it entered its level;
    of all others, both are 0 and are in its header."""
    entered_index: int = 0
    entered_id: int = 0
    """What the ids of such a batch would be, had it got them then: these rise along a level."""

    @property
    def end(self) -> int:
        """The offset behind its last record."""
        return self.base + self.record_count

    @property
    def is_cancelled(self) -> bool:
        """Whether it is one message that nobody is given, without its record."""
        return self.expires_ms == CANCELLED_MS

    def is_expired(self, now_ms: int) -> bool:
        return 0 < self.expires_ms <= max(now_ms, CANCELLED_MS)

    def size_of(self, first: int, end: int) -> int:
        """Bytes of the records from `first` on, before `end`: all parts of a batch together have its size."""
        return self.size * end // self.record_count - self.size * first // self.record_count


class Placed(NamedTuple):
    """Messages of one batch that had their ids before they entered its level, as their key tells it."""

    topic: int
    """Number of the topic."""
    log_index: int
    first_id: int
    record_count: int


class Waiting(NamedTuple):
    """Delayed messages of one part of one append, as their keys tell it."""

    due_ms: int
    topic: int
    """Number of the topic."""
    log_index: int
    first_id: int
    """Message i has the id "<log index>.<first_id + i>"."""
    record_count: int


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all keys that start with the prefix, whose last byte is below ff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def origin_key(node: str) -> bytes:
    return ORIGIN + node.encode()


def topic_key(name: str) -> bytes:
    return TOPIC + name.encode()


def deletion_key(number: int) -> bytes:
    return DELETION + number.to_bytes(8, "big")


def read_deletion_key(key: bytes) -> int:
    return int.from_bytes(key[1:], "big")


def topic_range(prefix: bytes, topic: int) -> tuple[bytes, bytes]:
    """(start, stop) of the keys of one topic below a prefix of `OF_TOPICS`."""
    return prefix + topic.to_bytes(8, "big"), prefix + (topic + 1).to_bytes(8, "big")


def consumer_range(prefix: bytes, topic: int, consumer: int) -> tuple[bytes, bytes]:
    """(start, stop) of the keys of one consumer below a prefix of `OF_CONSUMERS`."""
    return prefix + _TOPIC_THING.pack(topic, consumer), prefix + _TOPIC_THING.pack(topic, consumer + 1)


def read_topic_number(key: bytes) -> int:
    """The topic's number in a key below a prefix of `OF_TOPICS`."""
    return int.from_bytes(key[1:9], "big")


def partition_key(topic: int, partition: int) -> bytes:
    return PARTITION + _TOPIC_PART.pack(topic, partition)


def addition_key(topic: int, partition: int) -> bytes:
    return ADDITION + _TOPIC_PART.pack(topic, partition)


def read_partition_key(key: bytes) -> tuple[int, int]:
    """(topic number, partition), also of an addition."""
    topic, partition = _TOPIC_PART.unpack_from(key, 1)
    return topic, partition


def consumer_key(topic: int, name: str) -> bytes:
    return CONSUMER + topic.to_bytes(8, "big") + name.encode()


def read_consumer_key(key: bytes) -> tuple[int, str]:
    """(topic number, consumer name)."""
    return int.from_bytes(key[1:9], "big"), key[9:].decode()


def cursor_key(topic: int, consumer: int, partition: int) -> bytes:
    return CURSOR + _CURSOR.pack(topic, consumer, partition)


def read_cursor_key(key: bytes) -> tuple[int, int, int]:
    """(topic number, consumer number, partition)."""
    topic, consumer, partition = _CURSOR.unpack_from(key, 1)
    return topic, consumer, partition


def attempt_key(topic: int, consumer: int, number: int) -> bytes:
    return ATTEMPT + _ATTEMPT.pack(topic, consumer, number)


def read_attempt_key(key: bytes) -> tuple[int, int, int]:
    """(topic number, consumer number, attempt number)."""
    topic, consumer, number = _ATTEMPT.unpack_from(key, 1)
    return topic, consumer, number


def lease_key(topic: int, consumer: int, partition: int, offset: int) -> bytes:
    return LEASE + _LEASE.pack(topic, consumer, partition, offset)


def read_lease_key(key: bytes) -> tuple[int, int, int, int]:
    """(topic number, consumer number, partition, offset)."""
    topic, consumer, partition, offset = _LEASE.unpack_from(key, 1)
    return topic, consumer, partition, offset


def once_key(topic: int, name: str, *, is_producer: bool) -> bytes:
    return ONCE + topic.to_bytes(8, "big") + bytes((is_producer,)) + name.encode()


def read_once_key(key: bytes) -> tuple[int, str, bool]:
    """(topic number, name, whether it is a producer's)."""
    return int.from_bytes(key[1:9], "big"), key[10:].decode(), key[9] == 1


def due_key(waiting: Waiting) -> bytes:
    return DUE + _DUE.pack(*waiting)


def read_due_key(key: bytes) -> Waiting:
    return Waiting._make(_DUE.unpack_from(key, 1))


def ids_range(prefix: bytes, topic: int, log_index: int, number: int) -> tuple[bytes, bytes]:
    """(start, stop) of the keys of one log index whose first number is at most this one, below DELAYED or PLACED."""
    return prefix + _ID.pack(topic, log_index, 0), prefix + _ID.pack(topic, log_index, number + 1)


def delayed_key(waiting: Waiting) -> bytes:
    return DELAYED + _DELAYED.pack(*waiting[1:], waiting.due_ms)


def read_delayed_key(key: bytes) -> Waiting:
    *rest, due_ms = _DELAYED.unpack_from(key, 1)
    return Waiting(due_ms, *rest)


def placed_key(topic: int, batch: Batch) -> bytes:
    """The key of a batch that has `log_index`."""
    return PLACED + _PLACED.pack(topic, batch.log_index, batch.first_id, batch.record_count)


def read_placed_key(key: bytes) -> Placed:
    return Placed._make(_PLACED.unpack_from(key, 1))


def buried_from(level: bytes, offset: int) -> bytes:
    """The key at which what was buried of the level with this prefix, at or behind the offset, starts."""
    return BURIED + level[1:] + _OFFSET.pack(offset)


def buried_key(level: bytes, offset: int, consumer: int) -> bytes:
    return BURIED + level[1:] + _BURIED.pack(offset, consumer)


def read_buried_offset(key: bytes) -> int:
    """Offset of the message that was buried."""
    return int.from_bytes(key[_LEVEL.size : _LEVEL.size + _OFFSET.size], "big")


def read_buried_consumer(key: bytes) -> int:
    """Number of the consumer that buried it."""
    return int.from_bytes(key[_LEVEL.size + _OFFSET.size :], "big")


def level_prefix(topic: int, partition: int, level: int) -> bytes:
    """What the keys of all record batches of one level start with."""
    return _LEVEL.pack(BATCH, topic, partition, level)


def batch_key(prefix: bytes, batch: Batch) -> bytes:
    """The key of a record batch of the level with this prefix."""
    key = prefix + _BATCH_TAIL.pack(*batch[:4])
    if batch.expires_ms or batch.log_index:
        key += _OFFSET.pack(batch.expires_ms)
    return key + _BATCH_ID.pack(*batch[5:]) if batch.log_index else key


def batches_from(prefix: bytes, base: int) -> bytes:
    """The key at which the level's batches with a base offset of at least `base` start."""
    return prefix + _OFFSET.pack(base)


def read_batch_key(key: bytes) -> Batch:
    batch = Batch(*_BATCH_TAIL.unpack_from(key, _LEVEL.size))
    if len(key) == _BATCH_KEY_BYTES:
        return batch
    batch = batch._replace(expires_ms=_OFFSET.unpack_from(key, _BATCH_KEY_BYTES)[0])
    if len(key) == _BATCH_ID_FROM:
        return batch
    return Batch._make((*batch[:5], *_BATCH_ID.unpack_from(key, _BATCH_ID_FROM)))
