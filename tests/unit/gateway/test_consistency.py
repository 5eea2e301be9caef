"""`consistency` is judged and confirmed before anything is read, on each route that only reads."""

from __future__ import annotations

import pytest

from tests.unit.gateway.rig import running_gateway

READS = ("/topics", "/topics/orders/partitions", "/topic/orders/peek", "/v1/topics", "/v1/topics/orders")


@pytest.mark.parametrize("path", READS)
async def test_a_linearizable_read_is_confirmed_first_and_a_local_one_is_not(path: str) -> None:
    async with running_gateway() as rig:
        for consistency, count in (("local", 0), ("linearizable", 1)):
            async with rig.session.get(f"{rig.url}{path}?consistency={consistency}") as response:
                assert response.status == 200
            assert rig.service.confirmed_count == count
        async with rig.session.get(f"{rig.url}{path}?consistency=strong") as response:
            assert response.status == 400
            assert (await response.json())["details"] == {"field": "consistency"}


async def test_what_changes_something_takes_no_consistency() -> None:
    async with running_gateway() as rig:
        for method in ("PUT", "PATCH", "DELETE"):
            url = f"{rig.url}/v1/topics/orders?consistency=linearizable"
            async with rig.session.request(method, url) as response:
                assert response.status == 400
