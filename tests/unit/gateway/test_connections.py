"""Connections: keep-alive, limits, clients that go away, and the drain."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.unit.gateway.rig import Rig, exchange, running_gateway, until

GET_TOPICS = b"GET /topics HTTP/1.1\r\nHost: h\r\n"


async def test_requests_in_a_row_are_answered_in_order_on_one_connection(rig: Rig) -> None:
    answer = await exchange(
        rig.address,
        GET_TOPICS + b"\r\nGET /livez HTTP/1.1\r\nHost: h\r\n\r\n" + GET_TOPICS + b"Connection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.index(b'"topics"') < answer.index(b'"live"') < answer.rindex(b'"topics"')
    assert answer.count(b"Connection: close") == 1


async def test_an_old_client_is_answered_and_keeps_its_connection_only_if_it_asks(rig: Rig) -> None:
    plain = await exchange(rig.address, b"GET /livez HTTP/1.0\r\n\r\n")
    assert b"Connection: close" in plain
    reader, writer = await asyncio.open_connection(rig.address.host, rig.address.port)
    for _ in range(2):
        writer.write(b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection: keep-alive" in head
        await reader.readexactly(len(b'{"live":true}'))
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_goes_away_cancels_its_own_wait(rig: Rig) -> None:
    rig.service.hold = asyncio.Event().wait  # type: ignore[assignment]
    _, writer = await asyncio.open_connection(rig.address.host, rig.address.port)
    writer.write(b"GET /topic/t/consume?consumerID=c HTTP/1.1\r\nHost: h\r\n\r\n")
    await until(lambda: len(rig.service.requests) == 1)
    writer.transport.abort()
    await until(lambda: rig.service.cancelled_count == 1)
    async with rig.session.get(f"{rig.url}/livez") as response:
        assert response.status == 200


async def test_connections_above_the_limit_are_closed_at_once() -> None:
    async with running_gateway(connections_max=1) as rig:
        _, first = await asyncio.open_connection(rig.address.host, rig.address.port)
        first.write(GET_TOPICS + b"\r\n")
        try:
            answer = await exchange(rig.address, GET_TOPICS + b"\r\n")
        except ConnectionResetError:
            answer = b""
        assert answer == b""
        first.close()
        await first.wait_closed()


async def test_an_idle_connection_is_closed_in_time() -> None:
    async with running_gateway(keepalive_ms=50) as rig:
        answer = await exchange(rig.address, GET_TOPICS + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert await exchange(rig.address, b"GET /topics HT") == b""


async def test_a_drain_finishes_what_was_asked_and_takes_nothing_new(rig: Rig) -> None:
    release = asyncio.Event()
    rig.service.hold = release.wait  # type: ignore[assignment]
    idle = await asyncio.open_connection(rig.address.host, rig.address.port)
    asked = asyncio.create_task(
        exchange(rig.address, b'POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\n{"message":1}')
    )
    await until(lambda: len(rig.service.requests) == 1)
    drain = asyncio.create_task(rig.gateway.drain(5000))
    assert await idle[0].read() == b""
    with pytest.raises(aiohttp.ClientConnectorError):
        await rig.session.get(f"{rig.url}/livez")
    assert not drain.done()
    assert rig.service.is_waiting_over
    release.set()
    answer = await asked
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answer
    await drain
    idle[1].close()
    await idle[1].wait_closed()


async def test_a_drain_lets_a_body_that_is_under_way_arrive(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection(rig.address.host, rig.address.port)
    writer.write(b'POST /topic/t/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\n{"mess')
    await until(lambda: rig.gateway.inflight_count == 1)
    drain = asyncio.create_task(rig.gateway.drain(5000))
    await asyncio.sleep(0)
    writer.write(b'age":1}')
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    await drain
    writer.close()
    await writer.wait_closed()


async def test_a_drain_ends_in_time_when_a_request_does_not(rig: Rig) -> None:
    rig.service.hold = asyncio.Event().wait  # type: ignore[assignment]
    asked = asyncio.create_task(exchange(rig.address, b"GET /topic/t/peek HTTP/1.1\r\nHost: h\r\n\r\n"))
    await until(lambda: len(rig.service.requests) == 1)
    async with asyncio.timeout(3):
        await rig.gateway.drain(50)
    assert rig.service.cancelled_count == 1
    await asyncio.wait([asked])
    assert asked.exception() is not None or asked.result() == b""
