"""The backup route: a file in parts, one at a time, and one that breaks off when the node stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.unit.gateway.rig import running_gateway, until

PATH = "/v1/cluster/backup"


class Endless:
    """A backup that never ends."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield bytes(100_000)


async def test_a_backup_comes_whole_with_its_log_index() -> None:
    async with running_gateway() as rig, rig.session.get(rig.url + PATH) as response:
        assert (response.status, await response.read()) == (200, b"all of it")
        assert response.headers["FalconQ-Index"] == "7"
        assert response.headers["Content-Type"] == "application/octet-stream"


async def test_a_node_without_a_whole_state_says_why_and_to_ask_another() -> None:
    async with running_gateway() as rig:
        rig.node.reasons.append("a snapshot is being installed")
        async with rig.session.get(rig.url + PATH) as response:
            problem = await response.json(content_type=None)
            assert (response.status, problem["code"]) == (503, "not_ready")
            assert "a snapshot is being installed; ask another one" in problem["detail"]


async def test_one_backup_at_a_time_and_the_next_one_once_its_client_is_gone() -> None:
    async with running_gateway() as rig:
        rig.node.backup_parts = Endless()
        response = await rig.session.get(rig.url + PATH)
        async with rig.session.get(rig.url + PATH) as refused:
            assert (refused.status, (await refused.json(content_type=None))["code"]) == (429, "overloaded")
        response.close()
        await until(lambda: rig.gateway.inflight_count == 0)
        rig.node.backup_parts = (b"all of it",)
        async with rig.session.get(rig.url + PATH) as again:
            assert await again.read() == b"all of it"


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async with running_gateway(request_timeout_ms=50) as rig:
        rig.node.backup_parts = Endless()
        response = await rig.session.get(rig.url + PATH)
        await until(lambda: rig.gateway.inflight_count == 0)
        response.close()


async def test_a_backup_breaks_off_when_the_node_stops() -> None:
    async with running_gateway() as rig:
        rig.node.backup_parts = Endless()
        response = await rig.session.get(rig.url + PATH)
        draining = asyncio.create_task(rig.gateway.drain(5_000))
        async for _ in response.content.iter_any():
            pass
        await asyncio.wait({draining}, timeout=5)
        assert draining.done()
