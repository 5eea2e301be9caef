"""The members' connections to each other over TCP: the `Network` of a process.

What lives here: one main connection and, when needed, one bulk connection to each other member; what becomes of what
is sent and of what comes; starting and stopping.
Rules: `peer_connected` and `peer_disconnected` alternate for each peer. Frames come only from the connection that was
announced last. A bulk connection lives within a main one and ends with it. `send` never raises for a lost peer: what
cannot be queued is dropped, and who needs it sends it again. After `stop` has begun nothing is announced any more. An
exception out of `events` is a defect: it closes the connection and goes to the loop's exception handler.
Must not know: what the frames mean.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field

import structlog

from falconq_cluster.raft.frames import Frame, Hello
from falconq_cluster.raft.handshake import AcceptorHandshake, Channel, Identity
from falconq_cluster.raft.seams import PeerEvents
from falconq_cluster.raft.transport_connection import Connection, TransportLimits, encode_checked
from falconq_cluster.raft.transport_link import PeerLink, Resolve, is_yielded
from falconq_cluster.raft.transport_listener import Listener

_LOG_LINES_PER_SECOND = 10
"""Of strangers' doing: they must not be able to fill a disk."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Peer:
    main: PeerLink
    bulk: PeerLink
    waiting: list[bytes] = field(default_factory=list)
    """Encoded bulk frames that wait for the bulk connection."""
    waiting_bytes: int = 0

    def drop_waiting(self) -> None:
        self.waiting.clear()
        self.waiting_bytes = 0


class PeerTransport:
    """Connects this node with every other member and keeps it so."""

    def __init__(
        self,
        *,
        node_id: str,
        bind_address: str,
        peers: Mapping[str, str],
        secret: bytes,
        hello: Callable[[], Hello],
        judge: Callable[[Hello], str | None],
        events: PeerEvents,
        limits: TransportLimits | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        """`peers` has "host:port" of each other member and is read at each dial; `judge` says why to refuse a hello."""
        self._bind_address = bind_address
        self._addresses = peers
        self._events = events
        self._limits = limits or TransportLimits()
        self._resolve = resolve or resolve_with_system
        self._identity = Identity(node_id, secret, frozenset(peers) - {node_id}, hello, judge)
        self._peers = {name: self._make_peer(name) for name in sorted(self._identity.members)}
        # Both channels of every peer, and as many strangers.
        self._listener = Listener(self._accepted, reserve_count=4 * len(self._peers))
        self._pending: dict[Connection, None] = {}
        """Accepted connections in their handshake, oldest first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._log_second = 0
        self._log_count = 0

    # Life

    async def start(self) -> None:
        """Binds and begins to dial. Raises: ConfigurationError when the address can't be bound."""
        await self._listener.open(self._bind_address)
        for peer in self._peers.values():
            for link in (peer.main, peer.bulk):
                self._own(link.keep_dialling(), name=f"falconq-dial-{link.channel}-{link.peer}")
                link.wake()
        _log.info("peer_listener_started", address=self._bind_address, port=self.bound_port)

    async def stop(self, flush_ms: int = 500) -> None:
        """Closes everything; what was queued is sent, as far as `flush_ms` suffices for it."""
        self._is_stopping = True
        self._listener.close()
        tasks = list(self._tasks)
        links = [link for peer in self._peers.values() for link in (peer.main, peer.bulk)]
        connections = [each for link in links for each in link.connections()] + list(self._pending)
        for task in tasks:
            task.cancel()
        for connection in connections:
            connection.end("this node stops")
        await asyncio.gather(*tasks, return_exceptions=True)
        closing = [each.closed for each in connections if each.is_made]
        if closing:
            await asyncio.wait(closing, timeout=flush_ms / 1000)
            for connection in connections:
                connection.abort()
            await asyncio.wait(closing, timeout=flush_ms / 1000)

    @property
    def bound_port(self) -> int:
        """The port of the listener. Raises: RuntimeError when not started, or stopped."""
        return self._listener.port

    # Network

    def send(self, peer: str, frame: Frame) -> None:
        """Queue the frame to the peer; dropped when there is no connection. Raises: ValueError if over the limit."""
        connection = self._peers[peer].main.current
        if connection is not None and not connection.is_over and not self._is_stopping:
            connection.send_encoded(encode_checked(frame, self._limits))

    def send_bulk(self, peer: str, frame: Frame) -> None:
        """Queue the frame on the second connection, which is opened; dropped without a main connection."""
        state = self._peers[peer]
        if not state.main.is_connected or self._is_stopping:
            return
        body = encode_checked(frame, self._limits)
        connection = state.bulk.current
        if connection is not None and not connection.is_over:
            connection.send_encoded(body)
        elif state.waiting_bytes + len(body) > self._limits.outbound_bytes_max:
            _log.warning("peer_bulk_frames_dropped", peer=peer, bytes=state.waiting_bytes)
            state.drop_waiting()
        else:
            state.waiting.append(body)
            state.waiting_bytes += len(body)
            state.bulk.wake()

    def is_connected(self, peer: str) -> bool:
        """Whether a main connection to the peer is up."""
        return self._peers[peer].main.is_connected

    def pending_bytes(self, peer: str) -> int:
        """Bytes on the main connection that the peer has not read yet."""
        connection = self._peers[peer].main.current
        return connection.pending_bytes if connection is not None else 0

    def bulk_pending(self, peer: str) -> int:
        """Bulk bytes that wait for the connection or for the peer to read; who sends bulk keeps this small."""
        state = self._peers[peer]
        connection = state.bulk.current
        return state.waiting_bytes + (connection.pending_bytes if connection is not None else 0)

    # ConnectionOwner

    def authenticated(self, connection: Connection) -> None:
        self._pending.pop(connection, None)
        if self._is_stopping:
            connection.end("this node stops")
            return
        state = self._peers[connection.peer]
        if connection.handshake.channel == "main":
            self._main_up(state, connection)
        else:
            self._bulk_up(state, connection)

    def frame_received(self, connection: Connection, frame: Frame) -> None:
        if self._is_stopping or connection is not self.link(connection.peer, connection.handshake.channel).current:
            return
        self._events.frame_received(connection.peer, frame)

    def ended(self, connection: Connection, reason: str) -> None:
        was_pending = connection in self._pending
        self._pending.pop(connection, None)
        if connection.handshake.hello is None or not connection.peer:
            if was_pending:
                self._log_refused(connection, reason)
            return
        state = self._peers[connection.peer]
        link = self.link(connection.peer, connection.handshake.channel)
        if not link.forget(connection):
            if was_pending:
                self._log_refused(connection, reason)
            return
        if link is state.main:
            self._main_down(state, reason)
        else:
            _log.info("peer_bulk_disconnected", peer=connection.peer, reason=reason)

    # What becomes of connections

    def _main_up(self, state: _Peer, connection: Connection) -> None:
        hello = connection.handshake.hello
        assert hello is not None
        if state.main.current is not None:
            self._main_down(state, "replaced by a newer connection")
        state.main.take(connection)
        _log.info("peer_connected", peer=connection.peer, address=connection.address)
        self._events.peer_connected(connection.peer, hello)

    def _main_down(self, state: _Peer, reason: str) -> None:
        state.drop_waiting()
        if state.bulk.current is not None:
            state.bulk.current.end("the main connection is gone", is_abrupt=True)
        if not self._is_stopping:
            _log.warning("peer_disconnected", peer=state.main.peer, reason=reason)
            self._events.peer_disconnected(state.main.peer)

    def _bulk_up(self, state: _Peer, connection: Connection) -> None:
        if not state.main.is_connected:
            connection.end("there is no main connection", is_abrupt=True)
            return
        state.bulk.take(connection)
        waiting = list(state.waiting)
        state.drop_waiting()
        for body in waiting:
            connection.send_encoded(body)
        _log.info("peer_bulk_connected", peer=connection.peer)

    def _accepted(self, accepted: socket.socket) -> None:
        connection = self.begin_accept(asyncio.get_running_loop())
        task = self._own(self._adopt(accepted, connection), name="falconq-accept")
        # A task that is cancelled before its first step closes nothing itself.
        task.add_done_callback(lambda _: None if connection.is_made else accepted.close())

    def begin_accept(self, loop: asyncio.AbstractEventLoop) -> Connection:
        """The protocol of a connection that somebody dialled."""

        def may_welcome(peer: str, channel: Channel) -> str | None:
            if channel == "bulk" and not self._peers[peer].main.is_connected:
                return "there is no main connection"
            return self.link(peer, channel).may_welcome(connection)

        connection = Connection(AcceptorHandshake(self._identity, may_welcome), self, self._limits, loop)
        if len(self._pending) >= self._limits.pending_count_max:
            next(iter(self._pending)).end("too many connections are in their handshake", is_abrupt=True)
        self._pending[connection] = None
        return connection

    async def _adopt(self, accepted: socket.socket, connection: Connection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except OSError as error:
            self._pending.pop(connection, None)
            _log.info("peer_accept_abandoned", reason=str(error))

    # Helpers

    def _make_peer(self, name: str) -> _Peer:
        make = functools.partial(
            PeerLink,
            peer=name,
            identity=self._identity,
            address=lambda: self._addresses[name],
            owner=self,
            limits=self._limits,
            resolve=self._resolve,
        )
        return _Peer(
            main=make(channel="main", is_wanted=lambda: True),
            bulk=make(channel="bulk", is_wanted=lambda: bool(self._peers[name].waiting)),
        )

    def link(self, peer: str, channel: Channel) -> PeerLink:
        """What there is with a peer on a channel."""
        state = self._peers[peer]
        return state.main if channel == "main" else state.bulk

    def _own(self, work: Coroutine[None, None, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": f"the task {task.get_name()} failed", "exception": error, "task": task}
            asyncio.get_running_loop().call_exception_handler(context)

    def _log_refused(self, connection: Connection, reason: str) -> None:
        if is_yielded(reason) or not connection.is_ended_here:
            # Twins that make way, port scans and probes: nobody has to act on them.
            _log.debug("peer_handshake_abandoned", peer=connection.peer, address=connection.address, reason=reason)
            return
        second = int(asyncio.get_running_loop().time())
        if second != self._log_second:
            self._log_second, self._log_count = second, 0
        self._log_count += 1
        if self._log_count <= _LOG_LINES_PER_SECOND:
            _log.warning("peer_refused", peer=connection.peer, address=connection.address, reason=reason)


async def resolve_with_system(host: str, port: int) -> list[str]:
    """The addresses as the system resolves them now; in a thread, since the system's call blocks."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))
