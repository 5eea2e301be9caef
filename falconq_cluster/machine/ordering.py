"""Ordering: which fresh messages a consumer with an order may be given.

What lives here: a message's lane, and the gate at which it is given or set aside.
Rules (PROTOCOL.md P12, P16): with the order `key`, messages with one key share a lane; with `partition`, those of one
partition. Messages without a key have no lane. A message whose lane is taken is set aside: the cursor passes it, so
that it holds up no other lane, and it is in hand until it is given. An entry sets a bounded number aside, and a pull
reads a bounded number of bytes to learn keys; what comes then is for the next one. A key that moved when partitions
were added has earlier messages elsewhere, so with the order `key` a level of an added partition is closed until the
consumer has passed all that the level held in the others then.
Must not know: leases, levels' schedulers.
"""

from __future__ import annotations

from hashlib import blake2b

from falconq_cluster.machine import keys
from falconq_cluster.machine.consumers import put_in_hand
from falconq_cluster.machine.keys import Batch
from falconq_cluster.machine.levels import LevelState
from falconq_cluster.machine.records import record_keys
from falconq_cluster.machine.rows import LeaseRow
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import Ordering
from falconq_cluster.machine.turn import Turn

LANE_BYTES = 8
"""Two keys whose lanes are equal by chance wait for each other, nothing worse."""
READ_BYTES_MAX = 4 * 1024 * 1024
NO_LANE = b""


class Gate:
    """Lets through what one pull of one consumer may be given."""

    def __init__(self, turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
        self._turn, self._topic, self._consumer = turn, topic, consumer
        self._keys: dict[bytes, list[bytes | None]] = {}
        self._read_left = READ_BYTES_MAX
        self._passed: dict[tuple[int, int], bool] = {}
        """(first partition of an addition, level) -> whether what was there before is passed."""
        self.aside_count = 0
        """Messages that were set aside."""

    def is_open(self, partition: int, level: int) -> bool:
        """Whether the level of the partition may give fresh messages at all."""
        if self._consumer.config.ordering is not Ordering.KEY:
            return True
        first = max((first for first in self._topic.additions if first <= partition), default=None)
        if first is None:
            return True
        if (first, level) not in self._passed:
            self._passed[first, level] = self._has_passed(self._topic.additions[first], level)
        return self._passed[first, level]

    def _has_passed(self, ends: tuple[int, ...], number: int) -> bool:
        for partition, end in zip(self._topic.partitions, ends, strict=False):
            level, cursor = partition.levels[number], self._consumer.cursors_of(partition)[number]
            if cursor.next_offset >= end or cursor.delivered_count >= level.appended_count:
                continue
            # In the midst of a batch the next message is the next one of the batch.
            is_within = cursor.next_offset > cursor.batch_offset
            if is_within or level.first_batch(self._turn.reader, cursor.next_offset).base < end:
                return False
        return True

    def lane(self, partition: int, level: LevelState, batch: Batch, offset: int) -> bytes | None:
        """The lane of the message; None when no more can be read now."""
        if self._consumer.config.ordering is Ordering.PARTITION:
            return partition.to_bytes(LANE_BYTES, "big")
        stored = keys.batch_key(level.prefix, batch)
        if stored not in self._keys:
            if self._keys and batch.size > self._read_left:
                return None
            self._read_left -= batch.size
            self._keys[stored] = record_keys(self._turn.stored(stored))
        key = self._keys[stored][offset - batch.base]
        return NO_LANE if key is None else blake2b(key, digest_size=LANE_BYTES).digest()

    def lets(self, lane: bytes, priority: int, place: tuple[int, int]) -> bool:
        """Whether the message may be given."""
        return lane == NO_LANE or self._consumer.holdings.lanes.is_free(lane, priority, place)

    def claim(self, lane: bytes, place: tuple[int, int]) -> None:
        """The message is given."""
        if lane != NO_LANE:
            self._consumer.holdings.claim(lane, place)

    def set_aside(self, lane: bytes, level: int, batch: Batch, place: tuple[int, int]) -> bool:
        """Keep the message for later, unless the entry has set enough aside."""
        if self._turn.aside_left < 1:
            return False
        self._turn.aside_left -= 1
        self.aside_count += 1
        row = LeaseRow(
            level=level,
            batch_offset=batch.base,
            size_bytes=-(-batch.size // batch.record_count),
            priority=level,
            failed_count=0,
            acquired_count=0,
            nonce=b"",
            # It has waited since it was published, also in the eyes of the scheduler.
            until_ms=batch.stamp_ms,
            backoff_ms=0,
            lane=lane,
            is_aside=True,
            expires_ms=batch.expires_ms,
        )
        put_in_hand(self._turn, self._topic, self._consumer, place, row)
        return True
