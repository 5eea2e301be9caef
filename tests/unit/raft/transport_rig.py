"""Members with real sockets on the loopback, and strangers and half-members that speak bytes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from falconq_cluster.raft.frames import Frame, Hello, Status, encode_frame
from falconq_cluster.raft.handshake import Channel, DiallerHandshake, HandshakeError, Identity
from falconq_cluster.raft.transport import PeerTransport
from falconq_cluster.raft.transport_connection import TransportLimits
from falconq_cluster.raft.transport_link import Resolve

NOBODY = "127.0.0.1:9"
"""Refuses connections at once."""
QUICK = TransportLimits(backoff_min_ms=10, backoff_max_ms=50, handshake_timeout_ms=2000)


def on_both_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs the test on asyncio's loop and on uvloop; what reaches the loop's exception handler fails it."""

    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            problems: list[dict[str, Any]] = []
            runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
            runner.run(asyncio.wait_for(test(), 30))
            assert problems == []

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


async def until(condition: Callable[[], object], *, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for knows of no event.
            await asyncio.sleep(0.002)


def make_hello(node: str, *, cluster_id: str = "c1") -> Hello:
    return Hello(node, cluster_id, f"disk-{node}", forming=False, restore_id="", members={}, record_index=0, wall_ms=0)


def make_frame(number: int) -> Frame:
    """A frame that can be told from others."""
    return Status("c1", forming=False, restore_id="", members={}, record_index=number, wall_ms=0, heard_all=True)


def number_of(frame: Frame) -> int:
    assert isinstance(frame, Status)
    return frame.record_index


class Events:
    """What a member was told, in order."""

    def __init__(self) -> None:
        self.story: list[tuple[str, str]] = []
        self.frames: list[tuple[str, Frame]] = []
        self.hellos: list[Hello] = []

    def peer_connected(self, peer: str, hello: Hello) -> None:
        self.story.append(("up", peer))
        self.hellos.append(hello)

    def peer_disconnected(self, peer: str) -> None:
        self.story.append(("down", peer))

    def frame_received(self, peer: str, frame: Frame) -> None:
        self.frames.append((peer, frame))

    def numbers(self) -> list[int]:
        return [number_of(frame) for _, frame in self.frames if isinstance(frame, Status)]

    def of(self, peer: str) -> list[str]:
        return [what for what, who in self.story if who == peer]


class Member:
    """One transport with its events."""

    def __init__(
        self,
        name: str,
        others: str,
        *,
        secret: bytes = b"secret",
        cluster_id: str = "c1",
        limits: TransportLimits = QUICK,
        bind_address: str = "127.0.0.1:0",
        resolve: Resolve | None = None,
    ) -> None:
        self.name = name
        self.peers = dict.fromkeys(others, NOBODY)
        self.events = Events()
        self.transport = PeerTransport(
            node_id=name,
            bind_address=bind_address,
            peers=self.peers,
            secret=secret,
            hello=lambda: make_hello(name, cluster_id=cluster_id),
            judge=lambda hello: None if hello.cluster_id == cluster_id else f"cluster {hello.cluster_id} is not ours",
            events=self.events,
            limits=limits,
            resolve=resolve,
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.transport.bound_port}"

    def knows(self, other: Member) -> None:
        self.peers[other.name] = other.address


async def started(*members: Member, introduce: bool = True) -> None:
    await asyncio.gather(*(member.transport.start() for member in members))
    if introduce:
        for member in members:
            for other in members:
                if other is not member:
                    member.knows(other)


async def stopped(*members: Member) -> None:
    await asyncio.gather(*(member.transport.stop() for member in members))


class Caller:
    """The dialling end of a connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, address: str) -> Caller:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    @classmethod
    async def authenticated(
        cls,
        to: Member,
        name: str = "a",
        *,
        secret: bytes = b"secret",
        channel: Channel = "main",
        cluster_id: str = "c1",
    ) -> Caller:
        """Raises: HandshakeError as the member says it, EOFError when it says nothing."""
        caller = await cls.connected(to.address)
        identity = Identity(name, secret, {to.name}, lambda: make_hello(name, cluster_id=cluster_id), lambda _: None)
        handshake = DiallerHandshake(identity, Willing(), peer=to.name, channel=channel)
        message = handshake.open()
        try:
            while message is not None:
                caller.send(message)
                if handshake.is_done:
                    return caller
                message = handshake.receive(await caller.receive())
        except (HandshakeError, EOFError, ConnectionError):
            await caller.close()
            raise
        raise AssertionError

    def send(self, body: bytes) -> None:
        self.send_raw(len(body).to_bytes(4, "big") + body)

    def send_frame(self, frame: Frame) -> None:
        self.send(encode_frame(frame))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> bytes:
        """The next message that is not the transport's keepalive."""
        while True:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            if length:
                return await self._reader.readexactly(length)

    async def ends(self) -> None:
        """Returns when the other side has closed."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Willing:
    """Goes on with every connection."""

    def may_prove(self) -> str | None:
        return None

    def may_take(self) -> str | None:
        return None


async def refusal(attempt: Awaitable[Caller]) -> str:
    """The reason why a member refused."""
    with pytest.raises(HandshakeError) as raised:
        await attempt
    assert raised.value.is_from_peer
    return raised.value.reason
