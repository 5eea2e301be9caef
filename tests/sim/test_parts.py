"""The simulated parts keep their own promises: time, disk, store, links."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from falconq_cluster.raft.frames import Frame, Hello, StaleTerm
from tests.sim.disk import SimDisk, SimFileSystem
from tests.sim.disk_tree import SECTOR_BYTES
from tests.sim.network import Link, NodeNetwork, SimNetwork
from tests.sim.store import SimStore
from tests.sim.world import Crashed, Process, ProcessClock, World


def make_process(world: World, name: str = "n1") -> Process:
    return Process(world, name, ProcessClock(world, rate=1.0, wall_offset_us=0))


def test_events_of_one_instant_run_in_the_order_in_which_they_were_asked_for():
    world = World("1")
    seen: list[int] = []
    for number in range(5):
        world.at(1000, partial(seen.append, number))
    world.run(2000)
    assert seen == [0, 1, 2, 3, 4]
    assert world.now_us == 2000


def test_a_paused_process_does_all_it_missed_in_order_and_a_dead_one_nothing():
    world = World("1")
    process = make_process(world)
    seen: list[int] = []
    for number in range(3):
        process.clock.call_later(number + 1, partial(seen.append, number))
    world.pause(process, 10_000)
    world.run(9_999)
    assert seen == []
    world.run(10_000)
    assert seen == [0, 1, 2]
    process.clock.call_later(1, lambda: seen.append(9))
    process.is_alive = False
    world.run(20_000)
    assert seen == [0, 1, 2]


def test_a_planned_crash_strikes_at_a_call_to_the_outside():
    world = World("1")
    process = make_process(world)
    files = SimFileSystem(process, SimDisk(Random(1)))
    died: list[Process] = []
    world.on_crash = died.append
    process.crash_after_touches = 3

    def work() -> None:
        files.make_directory("/data")
        files.open_file("/data/a", create=True)
        files.list_directory("/data")
        raise AssertionError("it went on")

    world.enter(process, work)
    assert died == [process]
    with pytest.raises(Crashed):
        files.exists("/data")


def test_a_power_loss_keeps_synced_bytes_and_some_sectors_of_the_rest():
    kept: set[bytes] = set()
    for seed in range(60):
        disk = SimDisk(Random(seed))
        files = SimFileSystem(make_process(World("1")), disk)
        files.make_directory("/data")
        file = files.open_file("/data/a", create=True)
        file.write_at(0, b"a" * SECTOR_BYTES)
        file.sync()
        files.sync_directory("/data")
        file.write_at(SECTOR_BYTES, b"b" * 3 * SECTOR_BYTES)
        disk.lose_power()
        content = files.read_file("/data/a")
        assert content is not None
        assert content.startswith(b"a" * SECTOR_BYTES)
        kept.add(bytes(content[SECTOR_BYTES::SECTOR_BYTES]))
    assert b"" in kept
    assert b"bbb" in kept
    assert any(b"\x00" in sectors for sectors in kept), "no sector was lost in the middle"


def test_a_file_without_a_synced_name_may_vanish_in_a_power_loss():
    found = set()
    for seed in range(40):
        disk = SimDisk(Random(seed))
        files = SimFileSystem(make_process(World("1")), disk)
        files.make_directory("/data")
        file = files.open_file("/data/a", create=True)
        file.write_at(0, b"~m1~")
        file.sync()
        assert not disk.durable_tokens
        disk.lose_power()
        found.add(files.read_file("/data/a"))
    assert found == {None, b"~m1~"}


def test_a_store_keeps_a_prefix_of_its_batches_and_all_that_was_flushed():
    lengths = set()
    for seed in range(40):
        disk = SimDisk(Random(seed))
        process = make_process(World("1"))
        files = SimFileSystem(process, disk)
        store = SimStore(process, disk, files, "/store")
        for number in range(6):
            store.write([(b"%d" % number, b"x"), (b"last", b"%d" % number)])
            if number == 2:
                store.flush()
        disk.lose_stores()
        again = SimStore(process, disk, files, "/store")
        length = len(again.pairs()) - 1
        assert again.get(b"last") == b"%d" % (length - 1)
        lengths.add(length)
    assert min(lengths) >= 3
    assert {3, 6} <= lengths


class Peer:
    def __init__(self, name: str, log: list[tuple[str, object]]) -> None:
        self.name = name
        self.log = log

    def hello(self) -> Hello:
        return Hello(self.name, "", "disk", True, "", {}, 0, 0)

    def peer_connected(self, peer: str, hello: Hello) -> None:
        self.log.append((self.name, f"+{peer}"))

    def peer_disconnected(self, peer: str) -> None:
        self.log.append((self.name, f"-{peer}"))

    def frame_received(self, peer: str, frame: Frame) -> None:
        assert isinstance(frame, StaleTerm)
        self.log.append((self.name, frame.term))


def connected_pair(seed: str = "1") -> tuple[World, SimNetwork, dict[str, NodeNetwork], list[tuple[str, object]]]:
    world = World(seed)
    network = SimNetwork(world, lambda source, target: Link(1000, 5000, 1_000_000, slow_share=0.2))
    log: list[tuple[str, object]] = []
    nodes = {}
    for name in ("a", "b"):
        peer = Peer(name, log)
        nodes[name] = NodeNetwork(network, make_process(world, name), peer, peer.hello, lambda hello: None)
        network.attach(nodes[name])
    world.run(500_000)
    assert sorted(log, key=str) == [("a", "+b"), ("b", "+a")]
    log.clear()
    return world, network, nodes, log


def test_frames_of_a_connection_come_in_order_whatever_each_takes():
    world, _, nodes, log = connected_pair()
    for number in range(200):
        nodes["a"].send("b", StaleTerm(number))
    world.run(2_000_000)
    assert log == [("b", number) for number in range(200)]


def test_a_blocked_direction_holds_frames_and_lets_them_go_when_it_heals():
    world, network, nodes, log = connected_pair()
    network.block("a", "b")
    nodes["a"].send("b", StaleTerm(1))
    nodes["b"].send("a", StaleTerm(2))
    world.run(1_500_000)
    assert log == [("a", 2)]
    network.unblock("a", "b")
    nodes["a"].send("b", StaleTerm(3))
    world.run(3_000_000)
    assert log == [("a", 2), ("b", 1), ("b", 3)]


def test_a_direction_that_stays_blocked_ends_the_connection_and_heals_into_a_new_one():
    world, network, nodes, log = connected_pair()
    network.block("a", "b")
    nodes["a"].send("b", StaleTerm(1))
    world.run(8_000_000)
    assert sorted(log, key=str) == [("a", "-b"), ("b", "-a")]
    network.unblock("a", "b")
    world.run(11_000_000)
    assert sorted(log[2:], key=str) == [("a", "+b"), ("b", "+a")]


def test_a_cut_connection_drops_a_suffix_and_comes_back():
    dropped = set()
    for seed in range(20):
        world, network, nodes, log = connected_pair(str(seed))
        for number in range(50):
            nodes["a"].send("b", StaleTerm(number))
        network.cut("a", "b")
        world.run(world.now_us + 2_000_000)
        got = [what for who, what in log if who == "b" and isinstance(what, int)]
        assert got == list(range(len(got)))
        assert [what for _, what in log if what in {"+a", "-a"}] == ["-a", "+a"]
        dropped.add(50 - len(got))
    assert len(dropped) > 1


def test_a_dead_process_is_noticed_and_its_last_frames_may_still_come():
    world, network, nodes, log = connected_pair()
    nodes["a"].send("b", StaleTerm(1))
    nodes["a"].process.is_alive = False
    network.detach(nodes["a"].process, is_power_loss=False)
    world.run(world.now_us + 100_000)
    assert ("b", "-a") in log
