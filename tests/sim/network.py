"""The simulated network: links between machines, connections between processes.

What lives here: latency, bandwidth, partitions, stalls, lost connections, the handshake, and `raft.seams.Network`.
Rules: frames of one connection come in order and are encoded and decoded, so that nothing is shared by reference; a
lost connection drops a suffix of what was in flight; a blocked direction holds frames until it heals or the receiver
gives the connection up; an end learns of a loss at its own time, and a replaced connection delivers nothing more.
Must not know: what frames mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from falconq_cluster.raft.frames import Frame, Hello, decode_frame, encode_frame
from falconq_cluster.raft.seams import PeerEvents
from tests.sim.world import US_PER_MS, US_PER_S, Process, World

IDLE_TIMEOUT_US = 3 * US_PER_S
"""A receiver that hears nothing for so long closes the connection, as the transport does."""
BACKOFF_MIN_US, BACKOFF_MAX_US = 50 * US_PER_MS, US_PER_S
IN_FLIGHT_FRAMES_MAX = 50_000
"""More than that held on a blocked link closes the connection, as the transport's outbound limit does."""


@dataclass(slots=True)
class Link:
    """One direction between two machines."""

    latency_us: int
    jitter_us: int
    bytes_per_s: int
    is_blocked: bool = False
    stalled_until_us: int = 0
    slow_share: float = 0.0
    """Share of frames that take ten times as long."""


@dataclass(slots=True)
class _Flow:
    """One direction of a connection: frames in flight, in order."""

    arrives_us: int = 0
    held: list[tuple[bytes, bool]] = field(default_factory=list)
    """Sent while the direction was blocked: (frame, is_bulk)."""
    blocked_since_us: int = 0


class Connection:
    """A connection between two processes; each end is open or closed by itself."""

    __slots__ = ("flows", "number", "open_ends", "processes")

    def __init__(self, number: int, processes: dict[str, Process]) -> None:
        self.number = number
        self.processes = processes
        self.open_ends = set(processes)
        self.flows = {name: _Flow() for name in processes}

    def other(self, name: str) -> str:
        first, second = self.processes
        return second if name == first else first


class NodeNetwork:
    """One process's view of the network; fulfils `raft.seams.Network`."""

    def __init__(
        self,
        network: SimNetwork,
        process: Process,
        events: PeerEvents,
        hello: Callable[[], Hello],
        judge: Callable[[Hello], str | None],
    ) -> None:
        self._network = network
        self.process = process
        self.events = events
        self.hello = hello
        self.judge = judge

    def send(self, peer: str, frame: Frame) -> None:
        self.process.touch("send")
        self._network.send(self.process, peer, frame, is_bulk=False)

    def send_bulk(self, peer: str, frame: Frame) -> None:
        self.process.touch("send")
        self._network.send(self.process, peer, frame, is_bulk=True)

    def is_connected(self, peer: str) -> bool:
        return self._network.is_connected(self.process.name, peer)

    def bulk_pending(self, peer: str) -> int:
        """Bytes of bulk frames that are not at the peer yet."""
        return self._network.bulk_pending.get((self.process.name, peer), 0)


class SimNetwork:
    """All links and connections of the world."""

    def __init__(self, world: World, make_link: Callable[[str, str], Link]) -> None:
        self.world = world
        self.bulk_pending: dict[tuple[str, str], int] = {}
        self.frame_count = 0
        self.byte_count = 0
        self._make_link = make_link
        self._links: dict[tuple[str, str], Link] = {}
        self._nodes: dict[str, NodeNetwork] = {}
        self._connections: dict[tuple[str, str], Connection] = {}
        """The present connection of an ordered pair, as the first one's end sees it."""
        self._dialling: set[tuple[str, str]] = set()
        self._bulk_arrives: dict[tuple[str, str], int] = {}
        self._number = 0

    # What the cluster does.

    def attach(self, node: NodeNetwork) -> None:
        """A process listens and begins to dial everybody that ever listened."""
        name = node.process.name
        self._nodes[name] = node
        for peer in sorted(self._nodes):
            if peer != name:
                self._dialling -= {(name, peer), (peer, name)}
                self._dial(name, peer, BACKOFF_MIN_US)

    def detach(self, process: Process, *, is_power_loss: bool) -> None:
        """A process died: its peers see a reset soon, or after a power loss nothing but silence."""
        node = self._nodes.get(process.name)
        if node is None or node.process is not process:
            return
        for peer, connection in self._connections_of(process.name):
            del self._connections[(process.name, peer)]
            connection.open_ends.discard(process.name)
            if is_power_loss:
                self._give_up_later(connection, peer, IDLE_TIMEOUT_US)
            else:
                self._close_far_end(connection, process.name)

    # What the nemesis does.

    def paused(self, process: Process) -> None:
        """A process stands still: peers that hear nothing for long enough give it up."""
        for peer, connection in self._connections_of(process.name):
            self._give_up_later(connection, peer, IDLE_TIMEOUT_US)

    def link(self, source: str, target: str) -> Link:
        """The direction from one machine to another."""
        key = (source, target)
        if key not in self._links:
            self._links[key] = self._make_link(source, target)
        return self._links[key]

    def block(self, source: str, target: str) -> None:
        """Nothing from `source` arrives at `target` until `unblock`."""
        link = self.link(source, target)
        if link.is_blocked:
            return
        link.is_blocked = True
        connection = self._connections.get((source, target))
        if connection is not None:
            connection.flows[source].blocked_since_us = self.world.now_us
            self._give_up_later(connection, target, IDLE_TIMEOUT_US)

    def unblock(self, source: str, target: str) -> None:
        """Let what was held arrive, and whatever comes."""
        link = self.link(source, target)
        if not link.is_blocked:
            return
        link.is_blocked = False
        connection = self._connections.get((source, target))
        if connection is not None:
            held, connection.flows[source].held = connection.flows[source].held, []
            for data, is_bulk in held:
                self._transmit(connection, source, data, is_bulk=is_bulk)

    def cut(self, first: str, second: str) -> None:
        """Reset the connection of two nodes: each end learns it at its own time, what is in flight is lost."""
        connection = self._connections.get((first, second))
        if connection is None:
            return
        for name in (first, second):
            self._give_up_later(connection, name, self.world.random.randrange(0, 20 * US_PER_MS), is_reset=True)

    # What nodes do.

    def is_connected(self, name: str, peer: str) -> bool:
        return (name, peer) in self._connections

    def send(self, process: Process, peer: str, frame: Frame, *, is_bulk: bool) -> None:
        connection = self._connections.get((process.name, peer))
        if connection is None or connection.processes[process.name] is not process:
            return
        data = encode_frame(frame)
        self.frame_count += 1
        self.byte_count += len(data)
        if is_bulk:
            key = (process.name, peer)
            self.bulk_pending[key] = self.bulk_pending.get(key, 0) + len(data)
        flow = connection.flows[process.name]
        if not self.link(process.name, peer).is_blocked:
            self._transmit(connection, process.name, data, is_bulk=is_bulk)
            return
        flow.held.append((data, is_bulk))
        if len(flow.held) > IN_FLIGHT_FRAMES_MAX:
            self._give_up_later(connection, process.name, 0, is_reset=True)

    # Frames on their way.

    def _transmit(self, connection: Connection, source: str, data: bytes, *, is_bulk: bool) -> None:
        target = connection.other(source)
        link = self.link(source, target)
        random = self.world.random
        delay_us = link.latency_us + int(link.jitter_us * random.random())
        if link.slow_share and random.random() < link.slow_share:
            delay_us *= 10
        delay_us += len(data) * US_PER_S // link.bytes_per_s
        now_us = self.world.now_us
        arrives_us = max(now_us + delay_us, link.stalled_until_us)
        if is_bulk:
            # Bulk frames have their own connection: they neither wait for the others nor hold them up.
            arrives_us = max(arrives_us, self._bulk_arrives.get((source, target), 0))
            self._bulk_arrives[(source, target)] = arrives_us
        else:
            flow = connection.flows[source]
            arrives_us = max(arrives_us, flow.arrives_us)
            flow.arrives_us = arrives_us
        process = connection.processes[target]
        self.world.at(
            arrives_us - now_us, lambda: self._deliver(connection, source, target, data, is_bulk=is_bulk), process
        )

    def _deliver(self, connection: Connection, source: str, target: str, data: bytes, *, is_bulk: bool) -> None:
        if is_bulk:
            self.bulk_pending[(source, target)] = max(0, self.bulk_pending.get((source, target), 0) - len(data))
        if target not in connection.open_ends or self._connections.get((target, source)) is not connection:
            return
        frame = decode_frame(data)
        self.world.note(target, f"<- {source}", frame, zlib.crc32(data).to_bytes(4))
        self._nodes[target].events.frame_received(source, frame)

    # Connections come and go.

    def _dial(self, name: str, peer: str, backoff_us: int) -> None:
        """Try to connect, again and again until there is a connection."""
        if (name, peer) in self._dialling or (peer, name) in self._dialling:
            return
        self._dialling.add((name, peer))
        delay_us = backoff_us // 2 + self.world.random.randrange(backoff_us)
        self.world.at(delay_us, lambda: self._try(name, peer, backoff_us))

    def _try(self, name: str, peer: str, backoff_us: int) -> None:
        self._dialling.discard((name, peer))
        present = self._connections.get((name, peer))
        if present is not None and present is self._connections.get((peer, name)):
            return
        ends = self._ready_ends(name, peer)
        if ends is None or not self._shake_hands(*ends):
            self._dial(name, peer, min(2 * backoff_us, BACKOFF_MAX_US))

    def _ready_ends(self, name: str, peer: str) -> tuple[NodeNetwork, NodeNetwork] | None:
        near, far = self._nodes.get(name), self._nodes.get(peer)
        if near is None or far is None or not near.process.is_alive or not far.process.is_alive:
            return None
        now_us = self.world.now_us
        if near.process.paused_until_us > now_us or far.process.paused_until_us > now_us:
            return None
        links = self.link(name, peer), self.link(peer, name)
        if any(link.is_blocked or link.stalled_until_us > now_us for link in links):
            return None
        return near, far

    def _shake_hands(self, near: NodeNetwork, far: NodeNetwork) -> bool:
        """Exchange hellos; both judge; a connection when both agree. It replaces older ones at both ends."""
        near_hello, far_hello = self._hello_of(near), self._hello_of(far)
        if near_hello is None or far_hello is None:
            return False
        if not self._agrees(near, far_hello) or not self._agrees(far, near_hello):
            return False
        self._number += 1
        ends = ((near, far.process.name, far_hello), (far, near.process.name, near_hello))
        connection = Connection(self._number, {node.process.name: node.process for node, _, _ in ends})
        for node, peer, _ in ends:
            old = self._connections.get((node.process.name, peer))
            if old is not None:
                old.open_ends.discard(node.process.name)
                self._end(old, node.process.name, at_once=True)
        if not near.process.is_alive or not far.process.is_alive:
            return False  # one died of being told that the old connection is gone
        for node, peer, _ in ends:
            self._connections[(node.process.name, peer)] = connection
            self._bulk_arrives.pop((node.process.name, peer), None)
        for node, peer, hello in ends:
            self._welcome(node, peer, connection, hello)
        return True

    def _welcome(self, node: NodeNetwork, peer: str, connection: Connection, hello: Hello) -> None:
        if self._connections.get((node.process.name, peer)) is connection:
            self.world.note(node.process.name, "connected", f"{peer} #{connection.number}")
            self.world.enter(node.process, lambda: node.events.peer_connected(peer, hello))

    def _hello_of(self, node: NodeNetwork) -> Hello | None:
        said: list[Hello] = []
        self.world.enter(node.process, lambda: said.append(node.hello()))
        if not said or not node.process.is_alive:
            return None
        hello = decode_frame(encode_frame(said[0]))
        assert isinstance(hello, Hello)
        return hello

    def _agrees(self, node: NodeNetwork, hello: Hello) -> bool:
        reasons: list[str | None] = []
        self.world.enter(node.process, lambda: reasons.append(node.judge(hello)))
        if not reasons or not node.process.is_alive:
            return False
        if reasons[0] is not None:
            self.world.note(node.process.name, "refused", f"{hello.node}: {reasons[0]}")
            return False
        return True

    def _close_far_end(self, connection: Connection, name: str) -> None:
        """The other end sees the close after what arrives before it, unless the direction is blocked."""
        peer = connection.other(name)
        if self.link(name, peer).is_blocked:
            self._give_up_later(connection, peer, IDLE_TIMEOUT_US)
            return
        delay_us = self.link(name, peer).latency_us + self.world.random.randrange(1, 10 * US_PER_MS)
        self._give_up_later(connection, peer, delay_us, is_reset=True)

    def _give_up_later(self, connection: Connection, name: str, delay_us: int, *, is_reset: bool = False) -> None:
        """Close one end after a delay: for sure when reset, else only if its incoming direction is still dead then."""

        def give_up() -> None:
            if name not in connection.open_ends:
                return
            peer = connection.other(name)
            link = self.link(peer, name)
            far, now_us = connection.processes[peer], self.world.now_us
            is_dead = not far.is_alive or far.paused_until_us > now_us or peer not in connection.open_ends
            is_silent = link.is_blocked and now_us - connection.flows[peer].blocked_since_us >= delay_us
            if not (is_reset or is_dead or is_silent):
                return
            connection.open_ends.discard(name)
            self._end(connection, name)
            if peer in connection.open_ends:
                self._close_far_end(connection, name)

        self.world.at(delay_us, give_up)

    def _end(self, connection: Connection, name: str, *, at_once: bool = False) -> None:
        """Tell one end that its connection is gone, and dial anew."""
        peer = connection.other(name)
        process = connection.processes[name]
        if self._connections.get((name, peer)) is not connection:
            return
        del self._connections[(name, peer)]
        self.bulk_pending.pop((name, peer), None)

        def tell() -> None:
            self.world.note(name, "disconnected", f"{peer} #{connection.number}")
            self._nodes[name].events.peer_disconnected(peer)

        if at_once:
            self.world.enter(process, tell)
        else:
            self.world.at(0, tell, process)
            self._dial(name, peer, BACKOFF_MIN_US)

    def _connections_of(self, name: str) -> list[tuple[str, Connection]]:
        pairs = ((peer, self._connections.get((name, peer))) for peer in sorted(self._nodes))
        return [(peer, connection) for peer, connection in pairs if connection is not None]
