"""The one connection to a peer on one channel: who dials, which of two is kept, when it is dialled again.

What lives here: the referee between simultaneous connections, and the dialling with its back-off.
Rules:
- At most one connection is current. A newer one replaces it, and frames of the older one no longer come (RAFT.md L11).
- Both sides dial while there is none. Of two dials that cross, the one of the smaller member goes on. The smaller
  member decides alone and in one place: once it has proven itself on its own dial it welcomes no other, and once it has
  welcomed one it proves itself on no other. The larger one, asked last, does not take its own dial when it has welcomed
  the peer's. So the two never choose differently and no connection that was announced is replaced by its twin.
- A name is resolved again for each dial (L9), with at most one lookup under way.
Must not know: frames, the accepting socket, other peers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

import structlog

from falconq_cluster.raft.handshake import Channel, DiallerHandshake, Identity
from falconq_cluster.raft.transport_connection import Connection, ConnectionOwner, TransportLimits

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of (host, port), most wanted first. Raises: OSError."""

_ADDRESSES_MAX = 4
"""Of one name, per dial: a name with very many addresses must not hold up the back-off."""
_YIELDED = "the other connection between the two goes on"

_log = structlog.get_logger(__name__)


class PeerLink:
    """What this node has with one peer on one channel."""

    def __init__(
        self,
        *,
        peer: str,
        channel: Channel,
        identity: Identity,
        address: Callable[[], str],
        is_wanted: Callable[[], bool],
        owner: ConnectionOwner,
        limits: TransportLimits,
        resolve: Resolve,
    ) -> None:
        self.peer = peer
        self.channel: Channel = channel
        self.current: Connection | None = None
        """Announced to the owner's listeners; may be over already, then its end is about to be announced."""
        self._identity = identity
        self._address = address
        self._is_wanted = is_wanted
        self._owner = owner
        self._limits = limits
        self._resolve = resolve
        self._welcomed: Connection | None = None
        """The peer's dial that we agreed to, until the peer says `Ready`."""
        self._dialled: Connection | None = None
        self._has_proven = False
        """Our dial has got so far that the peer may take it."""
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._backoff_ms = limits.backoff_min_ms
        self._lookup: asyncio.Future[Sequence[str]] | None = None
        self._last_failure = ""

    @property
    def is_connected(self) -> bool:
        return self.current is not None and not self.current.is_over

    def connections(self) -> list[Connection]:
        """Every connection of this link that may have an open socket."""
        return [each for each in (self.current, self._welcomed, self._dialled) if each is not None]

    # The referee

    def may_prove(self) -> str | None:
        if self.current is not None or self._welcomed is not None:
            return _YIELDED
        self._has_proven = True
        return None

    def may_take(self) -> str | None:
        if self.current is not None:
            return _YIELDED
        # Only the larger member has both: the smaller one has not proven itself, or has not welcomed.
        return _YIELDED if self._welcomed is not None else None

    def may_welcome(self, connection: Connection) -> str | None:
        """The peer has proven itself on a connection that it dialled; None: we agree to it."""
        if self._has_proven and self._identity.node_id < self.peer:
            return _YIELDED
        if self._welcomed is not None:
            self._welcomed.end(_YIELDED, is_abrupt=True)
        self._welcomed = connection
        # It reaches us, so we may reach it: should this connection fail, the next dial is soon.
        self._backoff_ms = self._limits.backoff_min_ms
        self._hurry.set()
        return None

    def take(self, connection: Connection) -> None:
        """Makes an authenticated connection the current one; the caller has announced the end of an earlier one."""
        previous, self.current = self.current, connection
        for other in (previous, self._welcomed, self._dialled):
            if other is not None and other is not connection:
                other.end(_YIELDED, is_abrupt=True)
        self._welcomed = None
        self._backoff_ms = self._limits.backoff_min_ms
        self._last_failure = ""
        self._drop_lookup()

    def forget(self, connection: Connection) -> bool:
        """Takes note that a connection is over; True when it was the current one."""
        if self._welcomed is connection:
            self._welcomed = None
        was_current = self.current is connection
        if was_current:
            self.current = None
        self.wake()
        return was_current

    # Dialling

    def wake(self) -> None:
        """Looks again whether a connection is wanted."""
        self._wake.set()

    async def keep_dialling(self) -> None:
        """Dials whenever there is no connection and one is wanted, until it is cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._is_wanted() and self.current is None and self._welcomed is None:
                    await self._dial()
                    # Also after a success: connections that never last must not be dialled in a tight loop.
                    await self._pause()
        finally:
            self._drop_lookup()

    async def _dial(self) -> None:
        address = self._address()
        reason = "the name has no address"
        try:
            host, port = split_address(address)
            for numeric_host in (await self._look_up(host, port))[:_ADDRESSES_MAX]:
                reason = await self._dial_one(numeric_host, port)
                if self.current is not None or self._welcomed is not None:
                    return
        except TimeoutError:
            reason = f"the name was not resolved within {self._limits.connect_timeout_ms} ms"
        except (OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        if reason != self._last_failure and not is_yielded(reason):
            # Once per reason: a peer that is away for an hour is one line, not thousands.
            self._last_failure = reason
            _log.warning("peer_dial_failed", peer=self.peer, channel=self.channel, address=address, reason=reason)

    async def _dial_one(self, host: str, port: int) -> str:
        """Connects and shakes hands; the reason why there is no connection, if there is none."""
        loop = asyncio.get_running_loop()
        connection = self.begin_dial(loop)
        try:
            async with asyncio.timeout(self._limits.connect_timeout_ms / 1000):
                await loop.create_connection(lambda: connection, host, port)
            # The connection itself ends a handshake that takes too long.
            await connection.settled
            return connection.end_reason
        except TimeoutError:
            return f"no connection within {self._limits.connect_timeout_ms} ms"
        except OSError as error:
            return str(error) or type(error).__name__
        finally:
            self.end_dial(connection)

    def begin_dial(self, loop: asyncio.AbstractEventLoop) -> Connection:
        """The protocol of a new dial; there is one at a time."""
        assert self._dialled is None
        handshake = DiallerHandshake(self._identity, self, peer=self.peer, channel=self.channel)
        self._dialled = Connection(handshake, self._owner, self._limits, loop)
        return self._dialled

    def end_dial(self, connection: Connection) -> None:
        """To be called when the dial's handshake is settled, or the dial given up."""
        self._dialled = None
        self._has_proven = False
        if connection is not self.current:
            connection.end("given up", is_abrupt=True)

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        """Starts no second lookup while one hangs: they share the process's few resolver threads."""
        if self._lookup is None:
            self._lookup = asyncio.ensure_future(self._resolve(host, port))
            # A failure after the deadline is nobody's any more, and must not be reported as one that was overlooked.
            self._lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        lookup = self._lookup
        try:
            async with asyncio.timeout(self._limits.connect_timeout_ms / 1000):
                return await asyncio.shield(lookup)
        finally:
            if lookup.done():
                self._lookup = None

    def _drop_lookup(self) -> None:
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None

    async def _pause(self) -> None:
        """Waits for half to all of the back-off, or until the peer has shown that it is there."""
        self._hurry.clear()
        half_ms = self._backoff_ms // 2
        delay_ms = half_ms + secrets.randbelow(half_ms + 1)
        self._backoff_ms = min(self._backoff_ms * 2, self._limits.backoff_max_ms)
        try:
            async with asyncio.timeout(delay_ms / 1000):
                await self._hurry.wait()
        except TimeoutError:
            pass


def is_yielded(reason: str) -> bool:
    """Whether the connection only made way for its twin, which is nobody's fault."""
    return reason.endswith(_YIELDED)


def split_address(address: str) -> tuple[str, int]:
    """The host and port of "host:port" or "[v6]:port". Raises: ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the largest port there is.
        raise ValueError(f"{address!r} is not of the form host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
