"""One TCP connection between two members: a handshake, then frames.

What lives here: framing (u32 length, then the bytes), the limits on what either side may make the other hold, the
detection of a peer that went silent, and the end of a connection for any reason.
Rules: a length is judged before anything is buffered for it. Until the handshake is done, at most
`HANDSHAKE_BYTES_MAX` and `handshake_timeout_ms` are spent on a connection. After `end` nothing is delivered any more.
A frame of length 0 is the transport's own keepalive: silence then means that the peer is gone.
Must not know: other connections, back-off, what the frames mean.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from falconq_cluster.raft.frames import Frame, FrameError, decode_frame, encode_frame
from falconq_cluster.raft.handshake import HANDSHAKE_BYTES_MAX, Handshake, HandshakeError, encode_refusal

_LENGTH_BYTES = 4
_KEEPALIVE = bytes(_LENGTH_BYTES)
_JOIN_BYTES_MAX = 64 * 1024
"""Up to here one write of header and body is cheaper than two; above, a copy of the body costs more."""
_SILENT_TICKS_MAX = 3
"""A tick is this part of the idle timeout; the first may come at once, so the one after this many ends it in time."""


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What one peer may cost, in bytes and milliseconds."""

    frame_bytes_max: int = 24 * 1024 * 1024
    """Above the 16 MiB of a batch of entries (RAFT.md L4), with its largest command."""
    outbound_bytes_max: int = 64 * 1024 * 1024
    """Per peer and channel; a peer that reads slower is disconnected and comes back through the log."""
    handshake_timeout_ms: int = 3000
    connect_timeout_ms: int = 1000
    """For resolving a name, and for each address that it resolves to."""
    backoff_min_ms: int = 50
    backoff_max_ms: int = 1000
    idle_timeout_ms: int = 3000
    """A main connection on which nothing came for so long is dead."""
    bulk_idle_timeout_ms: int = 30_000
    """A bulk connection on which nothing moved for so long is not needed any more."""
    pending_count_max: int = 64
    """Connections in their handshake; the oldest goes when there are more."""


class ConnectionOwner(Protocol):
    """Who is told what becomes of a connection."""

    def authenticated(self, connection: Connection) -> None:
        """The handshake is done; frames follow."""

    def frame_received(self, connection: Connection, frame: Frame) -> None:
        """The peer sent a frame."""

    def ended(self, connection: Connection, reason: str) -> None:
        """The connection is over, for this reason; called once, on a later turn of the loop than the cause."""


class Connection(asyncio.Protocol):
    """One connection, from its first byte to its last."""

    def __init__(
        self,
        handshake: Handshake,
        owner: ConnectionOwner,
        limits: TransportLimits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.handshake = handshake
        self.is_over = False
        """Nothing is delivered or sent any more."""
        self.is_ended_here = False
        """This side ended it, for a reason; not the other side or the network."""
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the socket is closed."""
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when the handshake has ended, one way or the other."""
        self._owner = owner
        self._limits = limits
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._reason = ""
        self._timer: asyncio.TimerHandle | None = None
        self._silent_ticks = 0
        self._has_sent = False

    @property
    def peer(self) -> str:
        return self.handshake.peer

    @property
    def is_made(self) -> bool:
        """Whether there was a socket ever, so that `closed` comes true."""
        return self._transport is not None

    @property
    def end_reason(self) -> str:
        """Why it is over; "" while it is not."""
        return self._reason

    @property
    def address(self) -> str:
        """Where the other end is, for a log line."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unknown"

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        return 0 if self._transport is None or self.is_over else self._transport.get_write_buffer_size()

    def send_encoded(self, body: bytes) -> None:
        """Queues an encoded frame; dropped when the connection is over, which it is when too much waits."""
        if self.is_over or self._transport is None:
            return
        if self.pending_bytes + len(body) > self._limits.outbound_bytes_max:
            self.end(f"more than {self._limits.outbound_bytes_max} bytes wait for the peer to read", is_abrupt=True)
            return
        self._write(body)

    def end(self, reason: str, *, is_abrupt: bool = False) -> None:
        """Closes the connection; the first reason stands. Not abrupt: what was queued is still sent, if it can be."""
        if self.is_over:
            return
        self.is_over = True
        self.is_ended_here = True
        self._reason = reason
        self._received.clear()
        self._cancel_timer()
        if self._transport is None:
            return
        if is_abrupt:
            self._transport.abort()
        else:
            self._transport.close()
            # Also a close must end when the peer never reads what is still queued.
            self._set_timer(self._limits.handshake_timeout_ms, self.abort)

    def abort(self) -> None:
        """Drops what is still queued by an earlier `end`, too."""
        self.end("aborted", is_abrupt=True)
        if self._transport is not None and not self.closed.done():
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, since uvloop's transports have no class in common with asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if self.is_over:
            self._transport.abort()
            return
        _tune(transport.get_extra_info("socket"))
        self._set_timer(self._limits.handshake_timeout_ms, self._handshake_too_slow)
        opening = self.handshake.open()
        if opening is not None:
            self._write(opening)

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            return
        self._silent_ticks = 0
        try:
            if self._received:
                self._received += data
                used = self._consume(self._received)
                del self._received[:used]
            else:
                self._received += memoryview(data)[self._consume(data) :]
            if self.is_over:
                self._received.clear()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the door: a bug above ends in the loop's handler, not in silence.
            self.end("a frame could not be handled", is_abrupt=True)
            self._loop.call_exception_handler(
                {"message": f"a frame of {self.peer!r} could not be handled", "exception": error}
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._reason = self._reason or (f"lost: {exc}" if exc is not None else "closed by the peer")
        self.is_over = True
        self._received.clear()
        self._cancel_timer()
        _finish(self.settled)
        _finish(self.closed)
        self._owner.ended(self, self._reason)

    # Reading

    def _consume(self, data: bytes | bytearray) -> int:
        """Handles the whole messages in `data` and returns how many bytes that were."""
        position = 0
        while not self.is_over and len(data) - position >= _LENGTH_BYTES:
            body_position = position + _LENGTH_BYTES
            length = int.from_bytes(data[position:body_position], "big")
            limit = self._limits.frame_bytes_max if self.handshake.is_done else HANDSHAKE_BYTES_MAX
            if length > limit:
                self._refuse(f"a message of {length} bytes is announced, the limit is {limit}")
                break
            if len(data) - body_position < length:
                break
            position = body_position + length
            if length == 0:
                continue
            if self.handshake.is_done:
                self._frame_bytes_received(data, body_position, position)
            else:
                self._handshake_received(bytes(data[body_position:position]))
        if not self.handshake.is_done and not self.is_over and len(data) - position > HANDSHAKE_BYTES_MAX:
            self._refuse(f"more than {HANDSHAKE_BYTES_MAX} bytes came before the handshake was done")
        return position

    def _frame_bytes_received(self, data: bytes | bytearray, start: int, end: int) -> None:
        # The view must be gone before the frame is handled: a buffer with a view cannot be resized.
        try:
            with memoryview(data) as view, view[start:end] as body:
                frame = decode_frame(body)
        except FrameError as error:
            self.end(str(error), is_abrupt=True)
            return
        self._owner.frame_received(self, frame)

    def _handshake_received(self, message: bytes) -> None:
        try:
            answer = self.handshake.receive(message)
        except HandshakeError as error:
            if error.is_from_peer:
                self.end(f"the peer refused: {error.reason}")
            else:
                self._refuse(error.reason)
            return
        if answer is not None:
            self._write(answer)
        if self.handshake.is_done:
            self._cancel_timer()
            self._watch_silence()
            self._owner.authenticated(self)
            _finish(self.settled)

    def _refuse(self, reason: str) -> None:
        """Ends the connection; while it is in its handshake the peer is told why."""
        if not self.handshake.is_done:
            self._write(encode_refusal(reason))
        self.end(reason, is_abrupt=self.handshake.is_done)

    def _handshake_too_slow(self) -> None:
        self.end(f"the handshake took more than {self._limits.handshake_timeout_ms} ms", is_abrupt=True)

    # Silence

    def _watch_silence(self) -> None:
        """Counts ticks without a byte, not time: a process that was stopped for long reads before it judges."""
        is_main = self.handshake.channel == "main"
        timeout_ms = self._limits.idle_timeout_ms if is_main else self._limits.bulk_idle_timeout_ms
        if self._silent_ticks >= _SILENT_TICKS_MAX:
            self.end(f"nothing came for {timeout_ms} ms", is_abrupt=True)
            return
        self._silent_ticks += 1
        if not self._has_sent and is_main and self._transport is not None:
            self._transport.write(_KEEPALIVE)
        self._has_sent = False
        self._set_timer(timeout_ms // _SILENT_TICKS_MAX, self._watch_silence)

    # Writing and timers

    def _write(self, body: bytes) -> None:
        if self._transport is None:
            return
        self._has_sent = True
        if self.handshake.channel == "bulk":
            self._silent_ticks = 0
        header = len(body).to_bytes(_LENGTH_BYTES, "big")
        if len(body) <= _JOIN_BYTES_MAX:
            self._transport.write(header + body)
        else:
            self._transport.write(header)
            self._transport.write(body)

    def _set_timer(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(delay_ms / 1000, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def encode_checked(frame: Frame, limits: TransportLimits) -> bytes:
    """The encoded frame. Raises: ValueError when every peer would refuse it, which is a defect of the caller."""
    body = encode_frame(frame)
    if len(body) > limits.frame_bytes_max:
        raise ValueError(f"a {type(frame).__name__} of {len(body)} bytes is over the limit of {limits.frame_bytes_max}")
    return body


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _tune(sock: socket.socket | None) -> None:
    """Frames leave at once, and the kernel also looks whether the peer's host is there."""
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
