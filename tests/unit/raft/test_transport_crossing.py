"""Two members dial each other at the same time: every order in which the messages can arrive is tried."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from falconq_cluster.raft.handshake import Channel
from falconq_cluster.raft.transport import PeerTransport
from falconq_cluster.raft.transport_connection import Connection
from tests.unit.raft.transport_rig import Member


class Pipe:
    """One end's transport: what it writes waits until the schedule delivers it to the other end."""

    def __init__(self, own: Connection) -> None:
        self.own = own
        self.other: Pipe | None = None
        self.inbox: deque[bytes | None] = deque()
        """What is on its way to this end; None is the end of the stream."""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        if not self.is_closed and self.other is not None:
            self.other.inbox.append(data)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            # The own end is told later, as asyncio does; what is still on its way to it is lost.
            self.inbox.clear()
            self.inbox.append(None)
            if self.other is not None and not self.other.is_closed:
                self.other.inbox.append(None)

    abort = close

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def deliver(self) -> None:
        data = self.inbox.popleft()
        if data is not None:
            self.own.data_received(data)
            return
        self.is_closed = True
        self.inbox.clear()
        self.own.connection_lost(None)


class Crossing:
    """Members a and b, each with a dial to the other under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Channel, *, has_stale: str) -> None:
        self._loop = loop
        self.members = {"a": Member("a", "b"), "b": Member("b", "a")}
        self.pipes: list[Pipe] = []
        self._dials: list[tuple[PeerTransport, str, Channel, Connection]] = []
        if channel == "bulk":
            self._dial("a", "b", "main")
            self._settle()
        if has_stale:
            # A connection of this member's that the other end has forgotten: its peer was restarted without a word.
            self._dial("a", "b", channel)
            self._settle()
            other = "b" if has_stale == "a" else "a"
            for pipe in self.pipes:
                pipe.other = None
            self.members[other] = Member(other, has_stale)
            self.pipes.clear()
        self._dial("a", "b", channel)
        self._dial("b", "a", channel)

    def choices(self) -> list[Callable[[], None]]:
        """What may happen next."""
        return [pipe.deliver for pipe in self.pipes if pipe.inbox]

    def tidy(self) -> None:
        """What the dialling tasks do at once when their handshake is settled."""
        for dial in [each for each in self._dials if each[3].settled.done()]:
            self._dials.remove(dial)
            transport, peer, channel, connection = dial
            transport.link(peer, channel).end_dial(connection)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.own.end("the test is over")
            pipe.own._cancel_timer()

    def _dial(self, name: str, peer: str, channel: Channel) -> None:
        dialler, acceptor = self.members[name].transport, self.members[peer].transport
        connection = dialler.link(peer, channel).begin_dial(self._loop)
        near, far = Pipe(connection), Pipe(acceptor.begin_accept(self._loop))
        near.other, far.other = far, near
        self.pipes += [near, far]
        self._dials.append((dialler, peer, channel, connection))
        for pipe in (far, near):
            pipe.own.connection_made(cast("Any", pipe))

    def _settle(self) -> None:
        while choices := self.choices():
            choices[0]()
            self.tidy()


def every_outcome(loop: asyncio.AbstractEventLoop, channel: Channel, *, has_stale: str = "") -> Iterator[Crossing]:
    """Plays the crossing once for every order of deliveries, each from the start."""
    schedule: list[tuple[int, int]] = []
    while True:
        crossing = Crossing(loop, channel, has_stale=has_stale)
        step = 0
        while choices := crossing.choices():
            if step == len(schedule):
                schedule.append((0, len(choices)))
            choices[schedule[step][0]]()
            crossing.tidy()
            step += 1
        yield crossing
        crossing.close()
        while schedule and schedule[-1][0] + 1 == schedule[-1][1]:
            schedule.pop()
        if not schedule:
            return
        choice, count = schedule.pop()
        schedule.append((choice + 1, count))


def ends_meet(crossing: Crossing, channel: Channel) -> bool:
    """Both members use the two ends of one connection."""
    a = crossing.members["a"].transport.link("b", channel).current
    b = crossing.members["b"].transport.link("a", channel).current
    return (a, b) in [(pipe.own, pipe.other.own) for pipe in crossing.pipes if pipe.other is not None]


async def test_crossing_dials_end_in_one_connection_that_was_announced_once_on_both_sides():
    count = 0
    for crossing in every_outcome(asyncio.get_running_loop(), "main"):
        count += 1
        assert ends_meet(crossing, "main")
        assert crossing.members["a"].events.story == [("up", "b")]
        assert crossing.members["b"].events.story == [("up", "a")]
    assert count > 500


async def test_crossing_bulk_dials_end_in_one_connection():
    for crossing in every_outcome(asyncio.get_running_loop(), "bulk"):
        assert ends_meet(crossing, "bulk")
        assert crossing.members["a"].events.story == [("up", "b")]


@pytest.mark.parametrize(("stale", "restarted"), [("a", "b"), ("b", "a")])
async def test_a_restarted_member_replaces_the_connection_that_the_other_still_believes_in(stale: str, restarted: str):
    for crossing in every_outcome(asyncio.get_running_loop(), "main", has_stale=stale):
        assert ends_meet(crossing, "main")
        assert crossing.members[stale].events.of(restarted) == ["up", "down", "up"]
        assert crossing.members[restarted].events.of(stale) == ["up"]
