"""A rig of the raft shell's tests: one real node whose peers the test plays.

What lives here: `Bench`, a node on a clock, a network and disks that move by hand.
Rules: frames are encoded and decoded; nothing moves by itself. PySyncObj reads the rig's clock while a test runs.
Must not know: which hole a test is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import TypeVar

import pysyncobj.syncobj
import pytest

from falconq_cluster.errors import StopProcess
from falconq_cluster.machine import commands
from falconq_cluster.machine.machine import NO_OP, Machine
from falconq_cluster.node import Node, NodeParts, NodeSettings
from falconq_cluster.raft import frames as f
from falconq_cluster.raft.core import RaftTimes
from falconq_cluster.raft.identity import load_or_create_identity
from falconq_cluster.raft.library import RaftLibrary
from falconq_cluster.raft.seams import PeerEvents
from falconq_cluster.storage.memory import MemoryStore
from tests.unit.broker.loopback import START_MS, ManualClock, append
from tests.unit.raft.hand_parts import Files, HandBroker, HandDisk, HandNetwork

DATA_DIR = "/data"
CLUSTER = "c1"
BASE = (2, 1)
"""(index, term) of the last entry that a formed bench has applied."""
AnyKind = TypeVar("AnyKind", bound=f.Frame)
Entry = tuple[bytes, int, int]


def entry(text: str) -> bytes:
    """A log entry that publishes this text."""
    command = commands.encode_command(commands.Command("", 0, 0, [append(f'"{text}"')]))
    return commands.encode_entry(command, START_MS)


def entries(first: int, last: int, term: int, *, text: str = "m") -> list[Entry]:
    """Entries first..last of one term."""
    return [(entry(f"{text}{index}"), index, term) for index in range(first, last + 1)]


def disk(name: str) -> str:
    return f"disk-of-{name}"


class Bench:
    """The node n1; all others are the test."""

    def __init__(
        self,
        clock: ManualClock,
        *,
        member_count: int = 3,
        is_formed: bool = True,
        times: RaftTimes | None = None,
        is_on_record: bool = True,
    ) -> None:
        self.clock = clock
        self.members = tuple(f"n{number}" for number in range(1, member_count + 1))
        self.others = self.members[1:]
        self.times = times or RaftTimes()
        self.files = Files()
        self.record: dict[str, str] = {}
        self.fatal: list[StopProcess] = []
        self.log: list[tuple[str, dict[str, object]]] = []
        self.chance = Random(7)
        identity = load_or_create_identity(self.files, DATA_DIR, node_id="n1", chance=self.chance)
        self.disk_id = identity.disk_id
        if is_formed:
            own = self.disk_id if is_on_record else "the disk before this one"
            self.record = {name: own if name == "n1" else disk(name) for name in self.members}
            if is_on_record:
                self.form_store(self.files.open_store(f"{DATA_DIR}/store/0"))
        self.start()

    # Life.

    def form_store(self, store: MemoryStore) -> Machine:
        """Apply what forms the cluster."""
        machine = Machine.load(store)
        form = commands.encode_command(commands.Command("", 0, 0, [commands.Form(CLUSTER, self.record)]))
        store.write(machine.apply(1, 0, NO_OP).changes)
        store.write(machine.apply(2, 1, commands.encode_entry(form, START_MS)).changes)
        return machine

    def start(self) -> None:
        self.disk = HandDisk()
        self.background = HandDisk()
        self.network = HandNetwork()
        self.broker = HandBroker()
        self.node = Node(
            NodeSettings(
                node_id="n1",
                members=self.members,
                data_dir=DATA_DIR,
                times=self.times,
                journal_segment_bytes=8192,
            ),
            NodeParts(
                clock=self.clock,
                files=self.files,
                disk=self.disk,
                background=self.background,
                open_store=self.files.open_store,
                chance=self.chance,
                make_network=self._make_network,
                on_fatal=self.fatal.append,
                log=lambda event, **fields: self.log.append((event, fields)),
            ),
        )
        self.driver = self.node.driver
        self.driver.upcalls = self.broker
        self.driver.start()
        self.settle()

    def _make_network(self, events: PeerEvents, hello: object, judge: object) -> HandNetwork:
        return self.network

    def restart(self, *, is_power_loss: bool = False) -> None:
        """Die at once, and start on what the disk holds."""
        self.driver.is_stopped = True
        self.node.journal._destroy()
        if is_power_loss:
            self.files.power_loss(self.chance)
        self.start()

    # Reading.

    @property
    def library(self) -> RaftLibrary:
        return self.driver.core.library

    @property
    def terms(self) -> list[int]:
        """Terms of the log's entries behind the base."""
        return [term for _, index, term in self.node.journal if index > BASE[0]]

    @property
    def last_index(self) -> int:
        return self.node.journal.last_index

    @property
    def applied_index(self) -> int:
        return self.node.machine.applied_index

    @property
    def stop(self) -> StopProcess:
        (stop,) = self.fatal
        return stop

    def events(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.log if event == name]

    def take(self, kind: type[AnyKind], peer: str = "") -> list[AnyKind]:
        """Frames of this kind that were sent since the last time, taken off."""
        taken: list[AnyKind] = []
        left = []
        for to, frame in self.network.sent:
            if isinstance(frame, kind) and peer in ("", to):
                taken.append(frame)
            else:
                left.append((to, frame))
        self.network.sent = left
        return taken

    # Moving.

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(2000):
            moved = self.clock.run_due()
            moved = self.disk.run() or moved
            moved = self.background.run() or moved
            if not moved:
                return
        raise AssertionError("the node does not come to rest")

    def advance(self, ms: int, *, grain_ms: int = 5) -> None:
        """Let time pass, and happen what happens."""
        end_ms = self.clock.now_ms + ms
        while self.clock.now_ms < end_ms:
            self.clock.now_ms = min(end_ms, self.clock.now_ms + grain_ms)
            self.settle()

    def hello(self, peer: str) -> f.Hello:
        return f.Hello(
            node=peer,
            cluster_id=CLUSTER if self.record else "",
            disk_id=disk(peer),
            forming=not self.record,
            restore_id="",
            members=self.record,
            record_index=BASE[0] if self.record else 0,
            wall_ms=self.clock.wall_ms(),
        )

    def connect(self, *peers: str, hello: f.Hello | None = None) -> None:
        for peer in peers or self.others:
            self.network.connected.add(peer)
            self.driver.peer_connected(peer, hello or self.hello(peer))
        self.settle()

    def connect_as(self, peer: str, *, disk_id: str) -> None:
        """The peer is there with another disk."""
        hello = self.hello(peer)
        changed = {name: getattr(hello, name) for name in hello.__struct_fields__} | {"disk_id": disk_id}
        self.connect(peer, hello=f.Hello(**changed))

    def disconnect(self, peer: str) -> None:
        self.network.connected.discard(peer)
        self.driver.peer_disconnected(peer)
        self.settle()

    def receive(self, peer: str, *received: f.Frame) -> None:
        """Frames arrive in one turn."""
        for frame in received:
            self.driver.frame_received(peer, f.decode_frame(f.encode_frame(frame)))
        self.settle()

    # Playing a leader.

    def append(
        self,
        log: list[Entry],
        *,
        term: int,
        leader: str = "n2",
        previous: tuple[int, int] = BASE,
        commit: int = BASE[0],
        epoch: int = 0,
    ) -> None:
        """The leader sends these entries."""
        self.receive(leader, f.Append(term, epoch, previous[0], previous[1], commit, log))

    # Playing followers.

    def become_candidate(self, *granting: str) -> int:
        """Let the timeout pass and these members grant the pre-vote; returns the term asked for."""
        self.take(f.PreVote)
        for _ in range(400):
            self.advance(5)
            asked = self.take(f.PreVote)
            if asked:
                break
        for peer in granting or self.others:
            self.receive(peer, f.PreVoteReply(asked[0].term, asked[0].round, granted=True))
        return asked[0].term

    def become_leader(self) -> int:
        """All vote for it; returns its term."""
        term = self.become_candidate()
        for peer in self.others:
            self.receive(peer, f.Vote(term))
        assert self.library.leads
        return term

    def ack(self, peer: str, index: int, *, term: int | None = None, epoch: int | None = None) -> None:
        """The peer holds everything up to the index."""
        self.receive(peer, self.reply(peer, index + 1, term=term, epoch=epoch))

    def reply(
        self,
        peer: str,
        next_index: int,
        *,
        term: int | None = None,
        epoch: int | None = None,
        is_reset: bool = False,
        applied: tuple[int, bytes] = (0, b""),
    ) -> f.AppendReply:
        current = self.driver.replication._epochs[peer]
        return f.AppendReply(
            term=self.library.term if term is None else term,
            epoch=current if epoch is None else epoch,
            next_index=next_index,
            reset=is_reset,
            success=not is_reset,
            applied_index=applied[0],
            applied_hash=applied[1],
        )

    def lead(self) -> int:
        """Leads, and has applied its no-op; returns its term."""
        if not self.network.connected:
            self.connect()
        term = self.become_leader()
        self.ack("n2", self.last_index)
        assert self.node.raft.is_leader
        return term


@contextmanager
def library_time(clock: ManualClock) -> Iterator[None]:
    """PySyncObj reads the clock, which moves a little at each look: it waits for that inside a call."""
    with pytest.MonkeyPatch.context() as patch:
        looks = [0.0]

        def now_s() -> float:
            looks[0] = max(clock.now_ms / 1000, looks[0] + 1e-5)
            return looks[0]

        patch.setattr(pysyncobj.syncobj, "monotonicTime", now_s)
        patch.setattr(pysyncobj.syncobj, "random", Random(7))
        yield
