"""Event streams over a cluster that moves by hand: they go on elsewhere, hold their leases, and end with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from falconq_cluster.broker.requests import Deliveries, SeenDelivery, StreamEnd, StreamRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import DeleteTopic, Settle, SettleItem, SettleKind
from tests.unit.broker.service_rig import Rig

LEASE_MS = 3_000


class Reader:
    """One stream and what was read of it."""

    def __init__(self, rig: Rig, parts: AsyncGenerator[Deliveries | StreamEnd, None]) -> None:
        self._rig = rig
        self._parts = parts
        self._next: asyncio.Task[Deliveries | StreamEnd] | None = None
        self.got: list[str] = []
        self.numbers: list[int] = []
        self.nonce = b""
        self.end: str | None = None

    async def read(self, advance_ms: int = 0) -> None:
        """Read what there is after so much time; a heartbeat is nothing."""
        for _ in range(30):
            if self.end is not None:
                return
            if self._next is None:
                self._next = asyncio.ensure_future(anext(self._parts))
            for _ in range(5):
                await asyncio.sleep(0)
                self._rig.cluster.settle()
            if advance_ms:
                self._rig.cluster.advance(advance_ms)
                advance_ms = 0
                continue
            if not self._next.done():
                return
            part, self._next = self._next.result(), None
            if isinstance(part, StreamEnd):
                self.end = part.reason
                continue
            self.nonce = part.nonce or self.nonce
            self.got += [delivery.message.message.decode() for delivery in part.deliveries]
            self.numbers += [delivery.number for delivery in part.deliveries]

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._parts.aclose()


async def opened(rig: Rig, node: str = "n1", **wanted: Any) -> Reader:
    deadline_ms = rig.cluster.clock.now_ms + 5_000
    fields: dict[str, Any] = {"topic": "t", "consumer": "c", "lease_ms": LEASE_MS, "deadline_ms": deadline_ms} | wanted
    request = StreamRequest(**fields)
    reader = Reader(rig, await rig.run(rig.services[node].open_stream(request)))
    await reader.read()
    return reader


async def test_a_stream_that_broke_goes_on_through_another_node_without_loss_or_repeat():
    rig = Rig("n1", "n2")
    for text in ('"a"', '"b"', '"c"'):
        await rig.publish(text)
    first = await opened(rig, "n1")
    assert (first.got, first.numbers) == (['"a"', '"b"', '"c"'], [1, 2, 3])
    await first.close()
    second = await opened(rig, "n2", seen=SeenDelivery(2, b""))
    assert (second.got, second.numbers) == (['"c"'], [4])
    await rig.publish('"d"')
    await second.read()
    assert (second.got, second.numbers) == (['"c"', '"d"'], [4, 5])
    await second.close()


async def test_the_leases_of_a_stream_last_as_long_as_it_goes_on_and_end_when_it_broke():
    rig = Rig("n1")
    await rig.publish('"a"')
    reader = await opened(rig)
    for _ in range(20):
        await reader.read(advance_ms=LEASE_MS // 4)
    assert reader.got == ['"a"']
    await reader.close()
    rig.cluster.advance(LEASE_MS + 100)
    other = await opened(rig, is_shared=True)
    assert other.got == ['"a"']
    await other.close()


async def test_what_is_acked_while_the_stream_goes_on_is_extended_no_more():
    rig = Rig("n1")
    await rig.publish('"a"')
    reader = await opened(rig)
    rig.cluster["n1"].submit(Settle(0, "t", "c", [SettleItem(SettleKind.ACK, 0, 0, reader.nonce)]))
    for _ in range(8):
        await reader.read(advance_ms=LEASE_MS // 4)
    before = len(rig.cluster.committed)
    for _ in range(8):
        await reader.read(advance_ms=LEASE_MS // 4)
    assert len(rig.cluster.committed) == before
    await reader.close()


async def test_a_stream_ends_as_soon_as_another_takes_its_place_on_any_node():
    rig = Rig("n1", "n2")
    await rig.publish('"a"')
    first = await opened(rig, "n1")
    second = await opened(rig, "n2", seen=SeenDelivery(1, b""))
    await first.read()
    assert first.end == "replaced"
    assert second.end is None
    await second.close()


async def test_streams_that_share_a_consumer_share_its_messages():
    rig = Rig("n1", "n2")
    await rig.publish('"a"')
    readers = [await opened(rig, node, is_shared=True) for node in ("n1", "n2")]
    for text in ('"b"', '"c"', '"d"'):
        await rig.publish(text)
        for reader in readers:
            await reader.read()
    assert sorted(readers[0].got + readers[1].got) == ['"a"', '"b"', '"c"', '"d"']
    assert all(reader.end is None for reader in readers)
    for reader in readers:
        await reader.close()


async def test_a_stopping_node_and_a_deleted_topic_end_a_stream_with_their_reason():
    rig = Rig("n1", "n2")
    await rig.publish('"a"')
    leaving = await opened(rig, "n1", is_shared=True)
    losing = await opened(rig, "n2", is_shared=True)
    rig.services["n1"].end_waits()
    await leaving.read()
    assert leaving.end == "draining"
    rig.cluster["n2"].submit(DeleteTopic(0, "t", 0))
    await losing.read()
    assert losing.end == "deleted"


async def test_a_stream_says_something_now_and_then():
    rig = Rig("n1")
    await rig.publish('"a"')
    reader = await opened(rig)
    rig.cluster["n1"].submit(Settle(0, "t", "c", [SettleItem(SettleKind.ACK, 0, 0, reader.nonce)]))
    await reader.close()
    deadline_ms = rig.cluster.clock.now_ms + 5_000
    request = StreamRequest(topic="t", consumer="c", lease_ms=LEASE_MS, deadline_ms=deadline_ms)
    parts = await rig.run(rig.services["n1"].open_stream(request))
    part = await rig.run(anext(parts), advance_ms=10_100)
    assert isinstance(part, Deliveries)
    assert not part.deliveries
    await parts.aclose()


async def test_a_stream_that_can_not_begin_is_refused():
    rig = Rig("n1")
    with pytest.raises(FalconQError) as missing:
        await opened(rig)
    assert missing.value.code.code == "topic_not_found"
    await rig.publish('"a"')
    with pytest.raises(FalconQError) as ahead:
        await opened(rig, seen=SeenDelivery(3, b""))
    assert ahead.value.code.code == "bad_request"
