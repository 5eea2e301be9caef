"""Measures what one turn of a node's loop takes where a count is at its limit, and how long a start takes then.

What lives here: the figures of docs/operating.md on capacity, made by `python -m bench.limits`.
Rules: the real machine over the real store, filled by entries; each row is the median of a few runs and says the CPU
time of one call, without what was waited for. Nothing on the loop may take longer than 5 ms.
Must not know: HTTP, Raft.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from falconq_cluster.broker.reaping import LOOKED_AT_MAX
from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendMany, Part
from falconq_cluster.machine.commands import (
    AnyOperation,
    Command,
    DeleteTopic,
    LeasePull,
    Pull,
    Refused,
    SetTopic,
    encode_command,
    encode_entry,
)
from falconq_cluster.machine.keeping import Purge, TrimLevels
from falconq_cluster.machine.keys import Waiting
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.reaping import is_due
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.rows import DelayedRow, encode_row
from falconq_cluster.machine.settings import WEIGHTED, Retention, Scheduler, TopicSettings
from falconq_cluster.machine.subscriptions import ConsumerConfig, Seek, SetConsumer, Start, StartKind
from falconq_cluster.machine.surveying import Survey
from falconq_cluster.machine.views import Views
from falconq_cluster.storage.leveldb import LevelStore

PARTITIONS, LEVELS, CONSUMERS, TOPICS, DELAYED, HELD = 256, 16, 10_000, 100_000, 1_000_000, 50_000
LOOKS = 4_000
_START_MS = 1_700_000_000_000


class Bench:
    """A machine with its store, and the rows so far."""

    def __init__(self, store: LevelStore) -> None:
        self.store = store
        self.machine = Machine.load(store)
        self.now_ms = _START_MS
        self.is_slow = False

    @property
    def views(self) -> Views:
        return Views(self.machine, self.store)

    def send(self, *operations: AnyOperation) -> float:
        """CPU milliseconds of the entry's apply and write."""
        entry = encode_entry(encode_command(Command("", 0, 0, list(operations))), self.now_ms)
        started = time.thread_time()
        applied = self.machine.apply(self.machine.applied_index + 1, 1, entry)
        self.store.write(applied.changes)
        spent_ms = 1000 * (time.thread_time() - started)
        refused = [result for result in applied.results if isinstance(result, Refused)]
        assert not refused, refused
        return spent_ms

    def show(self, name: str, *milliseconds: float, turn_max_ms: float = 5) -> None:
        found = statistics.median(milliseconds)
        self.is_slow = self.is_slow or found > turn_max_ms
        sys.stdout.write(f"| {name} | {found:.2f} |{' over' if found > turn_max_ms else ''}\n")
        sys.stdout.flush()

    def time(self, name: str, call: Callable[[], object], *, count: int = 3) -> None:
        self.show(name, *(_cpu_ms(call) for _ in range(count)))

    def load(self, name: str) -> None:
        self.store.flush()
        started = time.thread_time()
        self.machine = Machine.load(self.store)
        self.show(name, 1000 * (time.thread_time() - started), turn_max_ms=60_000)


def _cpu_ms(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return 1000 * (time.thread_time() - started)


@contextmanager
def _bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as path:
        store = LevelStore.open(str(Path(path) / "store"))
        try:
            yield Bench(store)
        finally:
            store.close()


def _fill(bench: Bench, topic: str, partitions: int, levels: int, times: int = 1) -> None:
    """Some record batches in each level of each partition."""
    record = pack_record(b"x" * 100)
    places = [(p, n) for _ in range(times) for p in range(partitions) for n in range(levels)]
    for place in range(0, len(places), 400):
        parts = [Part(p, n, 1, record) for p, n in places[place : place + 400]]
        bench.send(AppendMany(0, topic, parts, may_create=False))


def _lease(consumer: str, count: int, nonce: int) -> LeasePull:
    return LeasePull(0, "t", consumer, count, 1 << 20, 30_000, 0, nonce.to_bytes(16, "big"), HELD)


def wide_topic() -> None:
    """One topic with all partitions and levels."""
    with _bench() as bench:
        names = tuple(f"l{n}" for n in range(LEVELS))
        bench.send(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(PARTITIONS, names)))
        _fill(bench, "t", PARTITIONS, LEVELS, times=4)
        bench.load("start")
        views = bench.views
        for count in (10, 1_000):
            bench.show(
                f"pull of {count}", *(bench.send(Pull(0, "t", f"c{count}", -1, count, 1 << 20, "")) for _ in range(2))
            )
        bench.show("lease of 400", *(bench.send(_lease("leased", 400, n)) for n in range(3)))
        weighted = TopicSettings(scheduler=Scheduler(WEIGHTED, tuple((name, 1) for name in names)))
        bench.send(SetTopic(0, "t", 0, is_change=True, given=weighted))
        bench.show(
            "weighted pull of 1000", *(bench.send(Pull(0, "t", "c10", -1, 1_000, 1 << 20, "")) for _ in range(2))
        )
        bench.time("what waits for a consumer", lambda: views.pending("t", "c10"))
        bench.time("peek of 10", lambda: views.peek("t", partition=None, offset=0, count=10))
        bench.time("partitions", lambda: views.partition_status("t"))
        bench.time("one consumer", lambda: views.consumers.consumer("t", "c10"))
        bench.time("offset of a time, in one partition", lambda: views.consumers.offset_at("t", 9, _START_MS))
        bench.show("seek to an offset", bench.send(Seek(0, "t", "c10", Start(StartKind.OFFSET, 40))))
        bench.show("new consumer", bench.send(SetConsumer(0, "t", "new", ConsumerConfig())))
        bench.send(SetTopic(0, "t", 0, is_change=True, given=TopicSettings(retention=Retention(ms=1_000))))
        bench.now_ms += 2_000
        bench.show("trim of what is old", bench.send(TrimLevels(["t"])))
        bench.show("purge", bench.send(Purge(0, "t")))


def many_consumers() -> None:
    """One topic with all its consumers, which have read all levels of 16 partitions to the end."""
    with _bench() as bench:
        given = TopicSettings(16, ("low", "high"), retention=Retention(acked=True))
        bench.send(SetTopic(0, "t", 0, is_change=False, given=given))
        _fill(bench, "t", 16, 2)
        for number in range(CONSUMERS):
            bench.send(Pull(0, "t", f"c{number}", -1, 1_000, 1 << 20, ""))
        views, turns_ms = bench.views, []
        topic = bench.machine.state.topics["t"]
        survey = Survey(topic, bench.machine.applied_index, bench.now_ms, bench.machine.limits)
        while not survey.is_done:
            turns_ms.append(_cpu_ms(lambda: survey.look(LOOKS)))
        bench.show(f"one of {len(turns_ms)} turns of a survey", max(turns_ms))
        bench.show("trim of what it found", bench.send(TrimLevels([], (survey.found,))))
        bench.time("page of 100 consumers", lambda: views.consumers.consumers_after("t", "c5", 100))
        bench.time("whether there are more", lambda: views.consumers.more_after("t", "c9999"))
        some = list(topic.consumers.values())[:LOOKED_AT_MAX]
        bench.time("which are to be reaped, one turn", lambda: [c for c in some if is_due(c, bench.now_ms)])
        bench.load("start")
        bench.show("deletion of the topic", bench.send(DeleteTopic(0, "t", 0)))


def many_topics() -> None:
    with _bench() as bench:
        for number in range(0, TOPICS, 100):
            given = TopicSettings()
            bench.send(
                *(
                    SetTopic(0, f"t{n * 7919 % TOPICS}", 0, is_change=False, given=given)
                    for n in range(number, number + 100)
                )
            )
        views = bench.views
        bench.time("names of all topics", views.topics)
        bench.time("page of 100 topics", lambda: views.topics_after("t5", 100))
        bench.load("start")


def full_hands() -> None:
    """A consumer with all that it may have in hand, of which all leases end at once."""
    with _bench() as bench:
        bench.send(SetTopic(0, "t", 0, is_change=False, given=TopicSettings(in_flight_max=HELD)))
        record = pack_record(b"x") * 500
        for _ in range(HELD // 500):
            bench.send(AppendMany(0, "t", [Part(0, 0, 500, record)], may_create=False))
        turns_ms = [bench.send(_lease("c", 400, n)) for n in range(HELD // 400)]
        bench.show("the longest lease of 400", max(turns_ms))
        bench.now_ms += 60_000
        bench.show("the first lease after all others have ended", bench.send(_lease("c", 400, 1 << 20)))
        bench.load("start")


def much_delayed() -> None:
    with _bench() as bench:
        bench.send(SetTopic(0, "t", 0, is_change=False, given=TopicSettings()))
        number = bench.machine.state.topics["t"].number
        row = encode_row(DelayedRow(0, 0, pack_record(b"x" * 100)))
        for index in range(0, DELAYED, 1_000):
            waiting = [Waiting(_START_MS + n, number, 1 + n, 0, 1) for n in range(index, index + 1_000)]
            due = [(keys.due_key(each), b"t") for each in waiting]
            bench.store.write([*due, *((keys.delayed_key(each), row) for each in waiting)])
        bench.load("start")


CASES = {
    "wide": (f"{PARTITIONS} partitions with {LEVELS} levels", wide_topic),
    "consumers": (f"{CONSUMERS} consumers of 16 partitions with 2 levels", many_consumers),
    "topics": (f"{TOPICS} topics", many_topics),
    "hands": (f"{HELD} messages in hand", full_hands),
    "delayed": (f"{DELAYED} delayed messages", much_delayed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    for name in parser.parse_args().cases or CASES:
        title, case = CASES[name]
        sys.stdout.write(f"\n| {title} | ms |\n|---|---:|\n")
        case()


if __name__ == "__main__":
    main()
