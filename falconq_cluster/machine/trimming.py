"""Trimming: the keys of deleted topics and consumers leave the store, a bounded number with each command.

What lives here: the Trim operation.
Rules (PROTOCOL.md P12): a command takes out at most `trim_keys_max` keys, with about `trim_bytes_max` of records, and
writes no values but the place where the next one goes on: a scan that began at the front would pass over all that was
deleted before, each time. The oldest deletion goes first. What the present entry wrote or deleted is not in the store
yet and is left to a later one.
Must not know: why they were deleted, who proposes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from falconq_cluster.machine import keys
from falconq_cluster.machine.events import Trimmed
from falconq_cluster.machine.rows import DeletionRow
from falconq_cluster.machine.state import Deletion
from falconq_cluster.machine.turn import Turn


@dataclass(slots=True)
class _Taken:
    """What one command has taken out so far, and how much more it may."""

    keys_left: int
    bytes_max: int
    size_bytes: int = 0
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return self.keys_left < 1 or self.size_bytes >= self.bytes_max


def trim(turn: Turn) -> None:
    """Takes out the next keys; a deletion of which nothing is left is forgotten."""
    taken = _Taken(turn.limits.trim_keys_max, turn.limits.trim_bytes_max)
    for number, deletion in list(islice(turn.state.deletions.items(), taken.keys_left)):
        taken.keys_left -= 1  # for the deletion's own row
        if taken.is_full or turn.made(number):
            break
        _trim_deletion(turn, number, deletion, taken)
    turn.events.append(Trimmed(tuple(taken.ranges), taken.size_bytes, is_over=not turn.state.deletions))


def _trim_deletion(turn: Turn, number: int, deletion: Deletion, taken: _Taken) -> None:
    for prefix in keys.OF_CONSUMERS if deletion.consumer else keys.OF_TOPICS:
        start, stop = keys.topic_range(prefix, deletion.topic)
        if deletion.consumer:
            start, stop = keys.consumer_range(prefix, deletion.topic, deletion.consumer)
        start = max(start, deletion.next_key)
        has_any = False
        for key in turn.reader.scan_keys(start, stop):
            if taken.is_full:
                deletion.next_key = key
                turn.put(keys.deletion_key(number), DeletionRow(deletion.topic, key, deletion.consumer))
                if has_any:
                    taken.ranges.append((start, key))
                return
            turn.delete(key)
            taken.keys_left -= 1
            has_any = True
            if prefix == keys.BATCH:
                taken.size_bytes += keys.read_batch_key(key).size
            elif prefix == keys.ONCE:
                topic, name, is_producer = keys.read_once_key(key)
                turn.state.once.drop(topic, (name, is_producer))
        if has_any:
            taken.ranges.append((start, stop))
    del turn.state.deletions[number]
    turn.delete(keys.deletion_key(number))
