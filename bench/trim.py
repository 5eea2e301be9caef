"""Measures what purging and deleting a large topic costs the loop of a node, and whether the space comes back.

What lives here: the figures of docs/retention.md, made by `python -m bench.trim`.
Rules: the real machine over the real store, in the steps that run on a node's loop: apply an entry, write its changes.
The compaction, which runs in a thread of its own, is measured apart.
Must not know: HTTP, Raft.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    AnyOperation,
    Append,
    Command,
    DeleteTopic,
    Trim,
    encode_command,
    encode_entry,
)
from falconq_cluster.machine.events import Trimmed
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.machine import Applied, Machine
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.surveying import is_due, trim_now
from falconq_cluster.storage.leveldb import LevelStore

BATCH = 10_000
DIFFERENT = 20
MIB = 1 << 20


@dataclass(slots=True)
class Loop:
    """One node's machine and store, and how long each of its turns took."""

    store: LevelStore
    machine: Machine
    turns_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """The same without what the thread waited for the disk and for other processes."""
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)

    def turn(self, operation: AnyOperation) -> Applied:
        entry = encode_entry(encode_command(Command("", 0, 0, [operation])), self.machine.applied_index + 1)
        started, cpu_started = time.perf_counter(), time.thread_time()
        applied = self.machine.apply(self.machine.applied_index + 1, 1, entry)
        self.store.write(applied.changes)
        self.turns_ms.append(1000 * (time.perf_counter() - started))
        self.cpu_ms.append(1000 * (time.thread_time() - cpu_started))
        self.ranges += [found for event in applied.events if isinstance(event, Trimmed) for found in event.ranges]
        return applied

    def compact(self) -> float:
        """Seconds that the compaction of what was erased takes."""
        started = time.perf_counter()
        for start, stop in self.ranges:
            self.store.compact(start, stop)
        self.ranges.clear()
        return time.perf_counter() - started


def fill(loop: Loop, topic: str, messages: int, message_bytes: int) -> None:
    # Random, so that compression does not make them small; a few are enough, since each is larger than a block.
    packed = [
        b"".join(pack_record(os.urandom(message_bytes // 2).hex().encode()) for _ in range(BATCH))
        for _ in range(DIFFERENT)
    ]
    for number in range(messages // BATCH):
        loop.turn(Append(0, topic, 0, number % 2, BATCH, packed[number % DIFFERENT], may_create=True))


def measure(loop: Loop, what: str, messages: int, message_bytes: int) -> list[str]:
    """The row of one kind."""
    fill(loop, what, messages, message_bytes)
    loop.store.flush()
    full = loop.store.disk_bytes
    loop.turns_ms.clear()
    loop.turn(Purge(0, what) if what == "purge" else DeleteTopic(0, what, 0))
    asked_ms = loop.turns_ms.pop()
    loop.cpu_ms.clear()
    while loop.machine.state.deletions or (what in loop.machine.state.topics and is_due(loop.machine, what, 1 << 50)):
        loop.turn(Trim() if what == "delete" else trim_now(loop.machine, [what], 1 << 50))
    left = sum(1 for _ in loop.store.scan_keys(keys.BATCH, keys.prefix_end(keys.BATCH)))
    assert left == 0, f"{left} record batches are left"
    seconds = loop.compact()
    turns = loop.turns_ms
    return [
        what,
        f"{asked_ms:.1f}",
        f"{len(turns)}",
        f"{sorted(turns)[len(turns) // 2]:.1f}",
        f"{max(turns):.1f}",
        f"{max(loop.cpu_ms):.1f}",
        f"{full / MIB:.0f}",
        f"{loop.store.disk_bytes / MIB:.0f}",
        f"{seconds:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the purge and the deletion of a large topic.")
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--bytes", type=int, default=100, help="of each message")
    options = parser.parse_args()
    head = [
        "what",
        "answered ms",
        "commands",
        "median ms",
        "longest ms",
        "most CPU ms",
        "MiB before",
        "MiB after",
        "compaction s",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for what in ("purge", "delete"):
        with tempfile.TemporaryDirectory(prefix="falconq-trim-") as directory:
            store = LevelStore.open(f"{directory}/store")
            try:
                loop = Loop(store, Machine.load(store))
                lines.append(f"| {' | '.join(measure(loop, what, options.messages, options.bytes))} |")
            finally:
                store.close()
    load = os.getloadavg()[0]
    sys.stdout.write(f"{options.messages:,} messages of {options.bytes} bytes, load average {load:.1f}\n\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
