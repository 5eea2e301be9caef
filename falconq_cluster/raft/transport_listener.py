"""The socket on which members are awaited.

What lives here: binding, and accepting in spite of everything that makes `accept` fail.
Rules: no failed accept closes the listener (RAFT.md L7). Descriptors are kept in reserve, so that clients that use up
the process's limit cannot keep the members from each other; without any left, accepting goes on after a moment.
asyncio's own servers are not used: one of uvloop's closes its listener when an accept fails.
Must not know: what is done with an accepted socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

import structlog

from falconq_cluster.errors import ConfigurationError
from falconq_cluster.raft.transport_link import split_address

_BACKLOG = 128
_ACCEPTS_PER_TURN = 16
"""So that a storm of connections leaves the loop time for others."""
_RETRY_SECONDS = 0.1
_REFILL_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Listener:
    """Accepts connections until it is closed."""

    def __init__(self, accepted: Callable[[socket.socket], None], *, reserve_count: int) -> None:
        """`accepted` gets a socket that does not block, and owns it."""
        self._accepted = accepted
        self._reserve_count = reserve_count
        self._reserve: list[int] = []
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port that is bound, also when any was asked for. Raises: RuntimeError when closed."""
        if self._socket is None:
            raise RuntimeError("the listener is closed")
        return int(self._socket.getsockname()[1])

    async def open(self, bind_address: str) -> None:
        """Binds the first address of "host:port" (no host: all of IPv4). Raises: ConfigurationError."""
        loop = asyncio.get_running_loop()
        listening: socket.socket | None = None
        try:
            host, port = split_address(bind_address)
            infos = await loop.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104 - see above.
            family, kind, protocol, _, address = infos[0]
            listening = socket.socket(family, kind, protocol)
            listening.setblocking(False)
            # A restarted node must get its port although connections of its former life linger.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except (OSError, ValueError) as error:
            if listening is not None:
                listening.close()
            raise ConfigurationError(
                f"cannot listen for members on {bind_address!r}: {error}; free the address or configure another one"
            ) from error
        self._socket = listening
        self._refill()
        loop.add_reader(listening, self._readable)

    def close(self) -> None:
        """Accepts nothing from now on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        while self._reserve:
            os.close(self._reserve.pop())

    def _readable(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if self._socket is None:
                return
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE} and self._reserve:
                    os.close(self._reserve.pop())
                    self._later(_REFILL_SECONDS)
                    continue
                self._accept_failed(error)
                return
            accepted.setblocking(False)
            self._accepted(accepted)

    def _accept_failed(self, error: OSError) -> None:
        """Looks away for a moment: the connection that could not be accepted keeps the socket readable."""
        _log.error("peer_accept_failed", reason=str(error), retry_ms=int(_RETRY_SECONDS * 1000))
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._later(_RETRY_SECONDS)

    def _later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if self._socket is None:
            return
        self._refill()
        if len(self._reserve) < self._reserve_count:
            self._later(_REFILL_SECONDS)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._reserve) < self._reserve_count:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
