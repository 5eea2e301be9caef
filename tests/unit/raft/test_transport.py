"""Two or three members over real sockets: what is promised of the network between them."""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest

from falconq_cluster.errors import ConfigurationError
from falconq_cluster.raft.frames import Append, Propose
from falconq_cluster.raft.seams import Network
from tests.unit.raft.transport_rig import (
    QUICK,
    Caller,
    Member,
    make_frame,
    on_both_loops,
    started,
    stopped,
    until,
)


def as_network(member: Member) -> Network:
    return member.transport


@on_both_loops
async def test_members_connect_and_frames_arrive_in_order_both_ways():
    a, b = Member("a", "b"), Member("b", "a")
    await started(a, b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    for number in range(2000):
        as_network(a).send("b", make_frame(number))
        as_network(b).send("a", make_frame(-number))
    await until(lambda: len(a.events.frames) == len(b.events.frames) == 2000)
    assert b.events.numbers() == list(range(2000))
    assert a.events.numbers() == [-number for number in range(2000)]
    assert [hello.node for hello in a.events.hellos] == ["b"]
    assert [hello.node for hello in b.events.hellos] == ["a"]
    await stopped(a, b)


@on_both_loops
async def test_frames_of_many_megabytes_arrive_whole_between_small_ones():
    a, b = Member("a", "b"), Member("b", "a")
    await started(a, b)
    await until(lambda: a.transport.is_connected("b"))
    big = Append(1, 1, 1, 1, 1, [(bytes([number]) * 4_000_000, number, 1) for number in range(4)])
    a.transport.send("b", make_frame(1))
    a.transport.send("b", big)
    a.transport.send("b", make_frame(2))
    await until(lambda: len(b.events.frames) == 3)
    assert b.events.frames[1] == ("a", big)
    assert b.events.numbers() == [1, 2]
    await stopped(a, b)


@on_both_loops
async def test_an_empty_secret_connects_those_who_have_an_empty_secret():
    a, b = Member("a", "b", secret=b""), Member("b", "a", secret=b"")
    await started(a, b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    await stopped(a, b)


@on_both_loops
async def test_members_that_dial_each_other_at_once_keep_one_connection_without_flapping():
    for _ in range(10):
        members = [Member("a", "bc"), Member("b", "ac"), Member("c", "ab")]
        await started(*members)
        await until(lambda: all(len(member.events.story) >= 2 for member in members))  # noqa: B023 - awaited here.
        for member, other in itertools.permutations(members, 2):
            member.transport.send(other.name, make_frame(1))
        await until(lambda: all(len(member.events.frames) == 2 for member in members))  # noqa: B023
        for member, other in itertools.permutations(members, 2):
            assert member.events.of(other.name) == ["up"]
        await stopped(*members)


@on_both_loops
async def test_a_member_that_can_only_be_dialled_and_one_that_only_dials_connect():
    a, b = Member("a", "b"), Member("b", "a")
    await started(a, b, introduce=False)
    b.knows(a)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    await stopped(a, b)
    a, b = Member("a", "b"), Member("b", "a")
    await started(a, b, introduce=False)
    a.knows(b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    await stopped(a, b)


@on_both_loops
async def test_a_restarted_member_is_connected_again_soon_although_the_back_off_of_others_is_long():
    patient = replace(QUICK, backoff_min_ms=50, backoff_max_ms=60_000)
    a, b = Member("a", "b", limits=patient), Member("b", "a")
    await started(a, b)
    await until(lambda: a.transport.is_connected("b"))
    address = b.address
    await stopped(b)
    await until(lambda: a.events.of("b") == ["up", "down"])
    b = Member("b", "a", bind_address=address)
    b.knows(a)
    await started(b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"), seconds=2)
    assert a.events.of("b") == ["up", "down", "up"]
    await stopped(a, b)


@on_both_loops
async def test_a_peer_that_is_dialled_in_vain_is_found_once_it_is_there():
    a = Member("a", "b")
    await started(a)
    b = Member("b", "a")
    await started(b, introduce=False)
    a.knows(b)
    await until(lambda: a.transport.is_connected("b"))
    await stopped(a, b)


@on_both_loops
async def test_a_name_that_resolves_elsewhere_later_is_followed():
    b = Member("b", "a")
    await started(b)
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        if len(asked) < 3:
            raise OSError("no such name yet")
        # Nobody listens on this port of the first one: the pod's old address.
        return ["127.0.0.9"] if len(asked) < 5 else ["127.0.0.1"]

    a = Member("a", "b", resolve=resolve)
    a.peers["b"] = f"falconq-b.falconq:{b.transport.bound_port}"
    await started(a)
    await until(lambda: a.transport.is_connected("b"))
    assert set(asked) == {"falconq-b.falconq"}
    assert len(asked) == 5
    await stopped(a, b)


@on_both_loops
async def test_a_lookup_that_hangs_is_not_started_twice():
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        await asyncio.Event().wait()
        return []

    a = Member("a", "b", resolve=resolve, limits=replace(QUICK, connect_timeout_ms=10))
    a.peers["b"] = "falconq-b:1"
    await a.transport.start()
    await asyncio.wait([asyncio.create_task(until(lambda: len(asked) > 1, seconds=0.3))])
    assert len(asked) == 1
    await stopped(a)


@on_both_loops
async def test_a_newer_connection_replaces_the_older_whose_late_frames_never_arrive():
    b = Member("b", "a")
    await started(b)
    old = await Caller.authenticated(b)
    old.send_frame(make_frame(1))
    await until(lambda: b.events.numbers() == [1])
    new = await Caller.authenticated(b)
    old.send_frame(make_frame(2))
    new.send_frame(make_frame(3))
    await old.ends()
    new.send_frame(make_frame(4))
    await until(lambda: 4 in b.events.numbers())
    # The frame 2 was sent before the other end took the new connection, or never arrives.
    story = [number for number in b.events.numbers() if number != 2]
    assert story == [1, 3, 4]
    assert b.events.numbers() in ([1, 3, 4], [1, 2, 3, 4])
    assert b.events.of("a") == ["up", "down", "up"]
    await old.close()
    await new.close()
    await until(lambda: b.events.of("a") == ["up", "down", "up", "down"])
    await stopped(b)


@on_both_loops
async def test_a_connection_that_falls_silent_is_closed_and_a_quiet_one_is_not():
    limits = replace(QUICK, idle_timeout_ms=150)
    a, b = Member("a", "b", limits=limits), Member("b", "ac", limits=limits)
    await started(a, b)
    await until(lambda: a.transport.is_connected("b"))
    silent = await Caller.authenticated(b, "c")
    await until(lambda: b.events.of("c") == ["up", "down"])
    assert a.events.of("b") == ["up"]
    await silent.close()
    await stopped(a, b)


@on_both_loops
async def test_a_peer_that_does_not_read_is_disconnected_at_the_limit():
    b = Member("b", "a", limits=replace(QUICK, outbound_bytes_max=8_000_000))
    await started(b)
    caller = await Caller.authenticated(b)
    await until(lambda: b.transport.is_connected("a"))
    largest = 0
    for _ in range(100):
        b.transport.send("a", Propose(bytes(1_000_000)))
        largest = max(largest, b.transport.pending_bytes("a"))
    assert not b.transport.is_connected("a")
    assert largest <= 8_000_000
    await until(lambda: b.events.of("a") == ["up", "down"])
    await caller.close()
    await stopped(b)


@on_both_loops
async def test_sending_to_a_lost_peer_drops_and_a_frame_over_the_limit_is_a_defect():
    b = Member("b", "a", limits=replace(QUICK, frame_bytes_max=1000))
    await started(b)
    b.transport.send("a", make_frame(1))
    b.transport.send_bulk("a", make_frame(1))
    caller = await Caller.authenticated(b)
    await until(lambda: b.transport.is_connected("a"))
    with pytest.raises(ValueError, match="over the limit of 1000"):
        b.transport.send("a", Propose(bytes(1000)))
    await caller.close()
    await stopped(b)


@on_both_loops
async def test_bulk_frames_go_beside_the_main_connection_and_both_ways():
    a, b = Member("a", "b"), Member("b", "a")
    await started(a, b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    big = Propose(bytes(20_000_000))
    a.transport.send_bulk("b", big)
    a.transport.send_bulk("b", make_frame(1))
    assert a.transport.bulk_pending("b") >= 20_000_000
    a.transport.send("b", make_frame(2))
    await until(lambda: len(b.events.frames) == 3)
    # The small frame did not wait behind the big one.
    assert b.events.numbers() == [2, 1]
    b.transport.send_bulk("a", make_frame(3))
    await until(lambda: a.events.numbers() == [3])
    await until(lambda: a.transport.bulk_pending("b") == 0)
    assert a.events.of("b") == b.events.of("a")[:1] == ["up"]
    await stopped(a, b)


@on_both_loops
async def test_both_may_open_the_bulk_connection_at_once_and_nothing_is_lost():
    a, b = Member("a", "b"), Member("b", "a")
    await started(a, b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    for number in range(5):
        a.transport.send_bulk("b", make_frame(number))
        b.transport.send_bulk("a", make_frame(number))
    await until(lambda: len(a.events.frames) == len(b.events.frames) == 5)
    assert a.events.numbers() == b.events.numbers() == list(range(5))
    await stopped(a, b)


@on_both_loops
async def test_a_bulk_connection_that_is_not_used_is_closed_and_opened_again_when_needed():
    limits = replace(QUICK, bulk_idle_timeout_ms=60)
    a, b = Member("a", "b", limits=limits), Member("b", "a", limits=limits)
    await started(a, b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    a.transport.send_bulk("b", make_frame(1))
    await until(lambda: b.events.numbers() == [1])
    await until(lambda: not b.transport.link("a", "bulk").is_connected)
    await until(lambda: not a.transport.link("b", "bulk").is_connected)
    a.transport.send_bulk("b", make_frame(2))
    await until(lambda: b.events.numbers() == [1, 2])
    assert a.events.of("b") == ["up"]
    await stopped(a, b)


@on_both_loops
async def test_the_bulk_connection_ends_with_the_main_one():
    b = Member("b", "a")
    await started(b)
    main = await Caller.authenticated(b)
    await until(lambda: b.transport.is_connected("a"))
    bulk = await Caller.authenticated(b, channel="bulk")
    bulk.send_frame(make_frame(1))
    await until(lambda: b.events.numbers() == [1])
    await main.close()
    await bulk.ends()
    await bulk.close()
    assert b.events.of("a") == ["up", "down"]
    await stopped(b)


@on_both_loops
async def test_stop_sends_what_was_queued_and_announces_nothing_more():
    a, b = Member("a", "b"), Member("b", "a")
    await started(a, b)
    await until(lambda: a.transport.is_connected("b") and b.transport.is_connected("a"))
    for number in range(10):
        a.transport.send("b", Propose(bytes(1_000_000)))
        a.transport.send("b", make_frame(number))
    stopping = asyncio.create_task(a.transport.stop(flush_ms=5000))
    await until(lambda: len(b.events.numbers()) == 10)
    await stopping
    assert a.events.story == [("up", "b")]
    await stopped(b)


@on_both_loops
async def test_stop_ends_although_a_peer_does_not_read():
    b = Member("b", "a")
    await started(b)
    caller = await Caller.authenticated(b)
    await until(lambda: b.transport.is_connected("a"))
    for _ in range(20):
        b.transport.send("a", Propose(bytes(1_000_000)))
    async with asyncio.timeout(3):
        await b.transport.stop(flush_ms=50)
    await caller.close()


@on_both_loops
async def test_an_address_in_use_or_malformed_is_refused_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        b = Member("b", "a", bind_address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConfigurationError, match="free the address or configure another"):
            await b.transport.start()
    b = Member("b", "a", bind_address="127.0.0.1")
    with pytest.raises(ConfigurationError, match="not of the form host:port"):
        await b.transport.start()
    await stopped(b)


@on_both_loops
async def test_members_connect_although_others_use_up_the_descriptors_and_the_listener_survives_that():
    b = Member("b", "a")
    await started(b)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    dialling = [socket.socket() for _ in range(8)]
    lowest = socket.socket()
    used = lowest.fileno() + 1
    lowest.close()
    host, _, port = b.address.rpartition(":")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        hog = socket.socket()
        with pytest.raises(OSError, match="Too many open files"):
            socket.socket()
        # More than the reserve has: the rest waits in the backlog.
        for each in dialling:
            each.setblocking(False)
            each.connect_ex((host, int(port)))
        await until(lambda: len(b.transport._pending) >= 4)
        assert len(b.transport._pending) < 8
        hog.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await until(lambda: len(b.transport._pending) == 8)
    for each in dialling:
        each.close()
    caller = await Caller.authenticated(b)
    await until(lambda: b.transport.is_connected("a"))
    await caller.close()
    await stopped(b)
