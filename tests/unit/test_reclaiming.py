"""Space comes back: what is trimmed of a topic leaves LevelDB's files, while the topic goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from falconq_cluster.errors import StopProcess
from falconq_cluster.machine.commands import AnyOperation, Append, Command, SetTopic, encode_command, encode_entry
from falconq_cluster.machine.keeping import Purge
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import Retention, TopicSettings
from falconq_cluster.machine.surveying import is_due, trim_now
from falconq_cluster.reclaiming import COMPACTED_BYTES_MIN, Reclaiming
from falconq_cluster.storage.leveldb import LevelStore

MIB = 1 << 20


class AtOnce:
    """A disk worker without a thread."""

    def submit(self, steps: Sequence[Callable[[], None]], done: Callable[[BaseException | None], None]) -> None:
        for step in steps:
            step()
        done(None)


class Node:
    """A machine over a real store, and what gives its space back."""

    def __init__(self, store: LevelStore) -> None:
        self.store = store
        self.machine = Machine.load(store)
        self.reclaiming = Reclaiming(lambda: store, AtOnce(), self.fatal)

    def fatal(self, error: StopProcess) -> None:
        raise error

    def send(self, operation: AnyOperation) -> None:
        entry = encode_entry(encode_command(Command("", 0, 0, [operation])), self.machine.applied_index + 1)
        applied = self.machine.apply(self.machine.applied_index + 1, 1, entry)
        self.store.write(applied.changes)
        self.reclaiming.applied(applied.events)

    def trim(self) -> None:
        while is_due(self.machine, "t", self.machine.log_time_ms):
            self.send(trim_now(self.machine, ["t"], self.machine.log_time_ms))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    store = LevelStore.open(str(tmp_path / "store"))
    yield Node(store)
    store.close()


def publish(node: Node, mib: int) -> Iterator[int]:
    """A batch of a MiB each time, that no compression makes smaller; tells what the files have after each."""
    for number in range(mib):
        records = b"".join(pack_record(os.urandom(MIB // 20 - 10)) for _ in range(20))
        node.send(Append(0, "t", 0, number % 2, 20, records, may_create=True))
        node.trim()
        yield node.store.disk_bytes


def test_the_files_of_a_topic_with_a_limit_do_not_grow_with_what_is_published(node: Node) -> None:
    given = TopicSettings(retention=Retention(bytes=16 * MIB))
    node.send(SetTopic(0, "t", 0, is_change=False, given=given))
    largest = max(publish(node, 150))
    print(f"\n150 MiB published, 16 kept: the files had {largest / MIB:.0f} MiB at most")
    # Beside what is kept: what is gathered for one compaction, and LevelDB's own log.
    assert largest < 16 * MIB + COMPACTED_BYTES_MIN + 32 * MIB


def test_the_files_shrink_when_a_large_topic_is_purged(node: Node) -> None:
    full = list(publish(node, 60))[-1]
    node.store.flush()
    node.send(Purge(0, "t"))
    node.trim()
    node.store.flush()
    print(f"\n{full / MIB:.0f} MiB before the purge, {node.store.disk_bytes / MIB:.0f} after")
    assert full > 60 * MIB
    assert node.store.disk_bytes < 4 * MIB
