"""Whoever is not a member of the cluster, or does not speak as one, gets nothing and costs little."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import replace

import msgspec
import pytest
from structlog.testing import capture_logs

from falconq_cluster.raft.frames import PROTOCOL_VERSION, encode_frame
from falconq_cluster.raft.handshake import HANDSHAKE_BYTES_MAX
from tests.unit.raft.transport_rig import (
    QUICK,
    Caller,
    Member,
    make_frame,
    make_hello,
    on_both_loops,
    refusal,
    started,
    stopped,
    until,
)


def greeting(
    *,
    version: int = PROTOCOL_VERSION,
    channel: str = "main",
    dialler: str = "a",
    target: str = "b",
    nonce: bytes = bytes(32),
) -> bytes:
    return msgspec.msgpack.encode([1, "falconq-peer", version, channel, dialler, target, nonce])


async def answer_to(member: Member, message: bytes) -> str:
    """The reason with which the member ends the handshake after this message."""
    caller = await Caller.connected(member.address)
    caller.send(message)
    kind, reason = msgspec.msgpack.decode(await caller.receive())
    assert kind == 6
    await caller.ends()
    await caller.close()
    return str(reason)


@on_both_loops
async def test_a_wrong_secret_is_refused_by_both_sides_and_the_log_says_why():
    b = Member("b", "a")
    with capture_logs() as logs:
        await started(b)
        assert await refusal(Caller.authenticated(b, secret=b"guess")) == "the shared secret differs"
        a = Member("a", "b", secret=b"other")
        await started(a, introduce=False)
        a.knows(b)
        await until(lambda: any("the peer refused" in line.get("reason", "") for line in logs))
        await stopped(a, b)
    reasons = {line["reason"] for line in logs if line["event"] == "peer_refused"}
    assert reasons == {"the shared secret differs"}
    assert a.events.story == b.events.story == []


@on_both_loops
async def test_a_member_that_does_not_know_the_secret_is_not_believed_by_those_who_dial_it():
    greeted_count = served_count = 0

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted_count, served_count
        greeted_count += 1
        # The dialler ends it as soon as it does not believe, with whatever that does to what is under way.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            for message in (
                msgspec.msgpack.encode([2, os.urandom(32)]),
                msgspec.msgpack.encode([4, encode_frame(make_hello("b")), os.urandom(32)]),
            ):
                writer.write(len(message).to_bytes(4, "big") + message)
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        served_count += 1

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    a = Member("a", "b")
    a.peers["b"] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with capture_logs() as logs:
        await started(a)
        await until(lambda: greeted_count >= 2)
        await stopped(a)
    await until(lambda: served_count == greeted_count)
    assert "the shared secret differs" in {line.get("reason") for line in logs}
    assert a.events.story == []
    server.close()
    await server.wait_closed()


@on_both_loops
async def test_strangers_other_versions_and_wrong_addresses_are_refused_by_name():
    b = Member("b", "a")
    await started(b)
    assert await answer_to(b, greeting(dialler="mallory")) == "'mallory' is not a member"
    assert "this node's own name, 'b'" in await answer_to(b, greeting(dialler="b"))
    assert "'c' was dialled, this is 'b'" in await answer_to(b, greeting(target="c"))
    assert await answer_to(b, greeting(version=99)) == f"protocol version 99 is not ours, {PROTOCOL_VERSION}"
    assert "no channel 'side'" in await answer_to(b, greeting(channel="side"))
    assert "not one of a FalconQ member" in await answer_to(b, greeting(nonce=b"short"))
    assert "came out of turn" in await answer_to(b, msgspec.msgpack.encode([5]))
    assert b.events.story == []
    await stopped(b)


@on_both_loops
async def test_a_member_of_another_cluster_is_refused_in_both_directions():
    b = Member("b", "a")
    await started(b)
    reason = await refusal(Caller.authenticated(b, cluster_id="c2"))
    assert reason == "cluster c2 is not ours"
    a = Member("a", "b", cluster_id="c2")
    await started(a, introduce=False)
    with capture_logs() as logs:
        a.knows(b)
        b.knows(a)
        await until(lambda: {"cluster c1 is not ours"} <= {line.get("reason") for line in logs})
    assert a.events.story == b.events.story == []
    await stopped(a, b)


@on_both_loops
async def test_a_bulk_connection_without_a_main_one_is_refused():
    b = Member("b", "a")
    await started(b)
    assert await refusal(Caller.authenticated(b, channel="bulk")) == "there is no main connection"
    await stopped(b)


@on_both_loops
async def test_garbage_before_the_handshake_closes_only_its_own_connection():
    b = Member("b", "a")
    await started(b)
    member = await Caller.authenticated(b)
    dice = random.Random(1)
    for _ in range(50):
        caller = await Caller.connected(b.address)
        # The first byte makes half of them short messages and the others announcements of gigabytes.
        caller.send_raw(bytes([0, 0, 0, 20]) * dice.randrange(2) + dice.randbytes(200))
        await caller.ends()
        await caller.close()
    assert "no handshake of a FalconQ member" in await answer_to(b, b"GET / HTTP/1.1")
    member.send_frame(make_frame(1))
    await until(lambda: b.events.numbers() == [1])
    assert b.events.story == [("up", "a")]
    await member.close()
    await stopped(b)


@on_both_loops
async def test_garbage_after_the_handshake_closes_the_connection_and_the_log_says_why():
    b = Member("b", "a")
    await started(b)
    for garbage in (b"\xc1 garbage", b"\x92\x63\x00", msgspec.msgpack.encode([5, "not a term"]), b"\x91" * 5000):
        caller = await Caller.authenticated(b)
        caller.send_frame(make_frame(1))
        with capture_logs() as logs:
            caller.send(garbage)
            await caller.ends()
            await until(lambda: b.events.of("a")[-1] == "down")
        # The member's own dials, which nobody answers, may be logged at any time.
        assert any("not a frame of protocol version" in log.get("reason", "") for log in logs)
        await caller.close()
    assert b.events.of("a") == ["up", "down"] * 4
    assert b.events.numbers() == [1] * 4
    await stopped(b)


@on_both_loops
async def test_an_oversized_frame_closes_the_connection_before_it_is_buffered():
    b = Member("b", "a", limits=replace(QUICK, frame_bytes_max=1000))
    await started(b)
    caller = await Caller.authenticated(b)
    await until(lambda: b.transport.is_connected("a"))
    with capture_logs() as logs:
        caller.send_raw((1001).to_bytes(4, "big"))
        await caller.ends()
        await until(lambda: b.events.of("a") == ["up", "down"])
    assert "a message of 1001 bytes is announced, the limit is 1000" in logs[-1]["reason"]
    await caller.close()
    await stopped(b)


@on_both_loops
async def test_before_the_handshake_is_done_little_is_buffered():
    b = Member("b", "a")
    await started(b)
    for flood in (
        (HANDSHAKE_BYTES_MAX + 1).to_bytes(4, "big"),
        # An announcement within the limit, and far more behind it.
        len(greeting()).to_bytes(4, "big") + greeting() + (60_000).to_bytes(4, "big") + bytes(1_000_000),
    ):
        caller = await Caller.connected(b.address)
        caller.send_raw(flood)
        await caller.ends()
        await caller.close()
    assert b.events.story == []
    await stopped(b)


@on_both_loops
async def test_a_handshake_that_drips_in_is_ended_in_time():
    b = Member("b", "a", limits=replace(QUICK, handshake_timeout_ms=100))
    await started(b)
    loop = asyncio.get_running_loop()
    caller = await Caller.connected(b.address)
    begin = loop.time()

    async def drip() -> None:
        for byte in (1000).to_bytes(4, "big") + bytes(1000):
            caller.send_raw(bytes([byte]))
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    await caller.ends()
    assert 0.09 < loop.time() - begin < 1
    dripping.cancel()
    await asyncio.wait([dripping])
    await caller.close()
    await stopped(b)


@on_both_loops
async def test_idle_strangers_do_not_keep_members_out():
    b = Member("b", "a", limits=replace(QUICK, pending_count_max=4))
    await started(b)
    strangers = [await Caller.connected(b.address) for _ in range(10)]
    member = await Caller.authenticated(b)
    await until(lambda: b.transport.is_connected("a"))
    assert len(b.transport._pending) <= 4
    for each in [*strangers, member]:
        await each.close()
    await stopped(b)


@on_both_loops
async def test_strangers_cannot_flood_the_log():
    b = Member("b", "a")
    await started(b)
    with capture_logs() as logs:
        for _ in range(60):
            await answer_to(b, b"nonsense")
        await until(lambda: not b.transport._pending)
    # Ten a second; a slow machine may need several seconds for the sixty.
    assert sum(line["event"] == "peer_refused" for line in logs) < 60
    await stopped(b)


@on_both_loops
async def test_every_cut_of_a_valid_conversation_is_survived():
    b = Member("b", "a")
    await started(b)
    message = len(greeting()).to_bytes(4, "big") + greeting()
    for cut in range(0, len(message), 7):
        caller = await Caller.connected(b.address)
        caller.send_raw(message[:cut])
        await caller.close()
    await until(lambda: not b.transport._pending)
    caller = await Caller.authenticated(b)
    await caller.close()
    await until(lambda: b.events.of("a") == ["up", "down"])
    await stopped(b)


def test_a_defect_above_closes_the_connection_and_reaches_the_loop():
    async def scenario() -> list[str]:
        problems: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(f"{context['message']}: {context['exception']}")
        )
        b = Member("b", "a")

        def fail(peer: str, frame: object) -> None:
            raise RuntimeError("boom")

        b.events.frame_received = fail  # type: ignore[method-assign]
        await started(b)
        caller = await Caller.authenticated(b)
        caller.send_frame(make_frame(1))
        await caller.ends()
        await caller.close()
        await until(lambda: b.events.of("a") == ["up", "down"])
        await stopped(b)
        return problems

    assert asyncio.run(scenario()) == ["a frame of 'a' could not be handled: boom"]


@pytest.mark.parametrize("address", ["host", "host:", ":x", "host:70000", "host:-1"])
def test_a_malformed_peer_address_is_a_failed_dial_and_no_crash(address: str):
    async def scenario() -> None:
        a = Member("a", "b")
        a.peers["b"] = address
        with capture_logs() as logs:
            await started(a)
            await until(lambda: any(line["event"] == "peer_dial_failed" for line in logs))
        assert any("not of the form host:port" in line.get("reason", "") for line in logs)
        await stopped(a)

    asyncio.run(scenario())
