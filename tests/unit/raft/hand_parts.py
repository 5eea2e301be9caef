"""The world around a bench's node, moved by hand.

What lives here: a disk worker, files with stores, a network that only remembers, and a broker that only waits.
Rules: nothing happens before the test says so; frames are encoded and decoded.
Must not know: the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from falconq_cluster.machine import commands
from falconq_cluster.machine.machine import Applied
from falconq_cluster.raft import frames as f
from falconq_cluster.storage.memory import MemoryStore
from tests.unit.broker.loopback import append
from tests.unit.raft.memory_files import MemoryFileSystem


class HandDisk:
    """A disk worker that works when it is told to: `is_held` lets jobs wait, `is_mute` what they report."""

    def __init__(self) -> None:
        self.is_held = False
        self.is_mute = False
        self._reports: deque[Callable[[], None]] = deque()
        self.error: BaseException | None = None
        self._jobs: deque[tuple[Sequence[Callable[[], None]], Callable[[BaseException | None], None]]] = deque()

    def submit(self, steps: Sequence[Callable[[], None]], done: Callable[[BaseException | None], None]) -> None:
        self._jobs.append((steps, done))

    @property
    def waiting_count(self) -> int:
        return len(self._jobs)

    def run(self) -> bool:
        """Whether a job was done or reported."""
        if self._reports and not self.is_mute:
            self._reports.popleft()()
            return True
        if self.is_held or not self._jobs:
            return False
        steps, done = self._jobs.popleft()
        error = self.error
        try:
            for step in steps if error is None else ():
                step()
        except OSError as raised:
            error = raised
        self._reports.append(partial(done, error))
        return True


class Files(MemoryFileSystem):
    """Files with the stores in their directories."""

    def __init__(self) -> None:
        super().__init__()
        self.stores: dict[str, MemoryStore] = {}

    def open_store(self, path: str) -> MemoryStore:
        return self.stores.setdefault(path, MemoryStore())

    def remove_tree(self, path: str) -> None:
        super().remove_tree(path)
        self.stores.pop(path, None)


class HandNetwork:
    """What a node sends, as a list; who is connected is the test's choice."""

    def __init__(self) -> None:
        self.connected: set[str] = set()
        self.sent: list[tuple[str, f.Frame]] = []

    def send(self, peer: str, frame: f.Frame) -> None:
        if peer in self.connected:
            self.sent.append((peer, f.decode_frame(f.encode_frame(frame))))

    def send_bulk(self, peer: str, frame: f.Frame) -> None:
        self.send(peer, frame)

    def is_connected(self, peer: str) -> bool:
        return peer in self.connected


class HandBroker:
    """Commands that wait, and what was applied."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.applied_entries: list[Applied] = []
        self.when_applied: Callable[[Applied], None] = lambda applied: None
        self.when_jumped: Callable[[], None] = lambda: None
        self.jumps = 0

    def publish(self, text: str) -> None:
        self.waiting.append(commands.encode_command(commands.Command("", 0, 0, [append(f'"{text}"')])))

    def collect(self, bytes_max: int) -> Sequence[bytes]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def applied(self, applied: Applied) -> None:
        self.applied_entries.append(applied)
        self.when_applied(applied)

    def leadership_changed(self) -> None:
        """Read when needed."""

    def broker_frame(self, peer: str, frame: f.Frame) -> None:
        raise AssertionError(f"{peer} sent {frame}")

    def snapshot_installed(self) -> None:
        self.jumps += 1
        self.when_jumped()
