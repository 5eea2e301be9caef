"""The route that moves leadership; the move itself is tested where it is made."""

from __future__ import annotations

import pytest

from tests.unit.gateway.rig import running_gateway

PATH = "/v1/cluster/leader"


async def test_a_member_that_takes_over_is_answered_with_the_cluster_as_it_is_then() -> None:
    async with running_gateway() as rig, rig.session.post(rig.url + PATH, json={"to": "n3"}) as response:
        assert (response.status, (await response.json())["leader"]) == (200, "n3")
        assert response.headers["FalconQ-Leader"] == "n3"


async def test_a_member_that_does_not_take_over_is_named_with_who_leads_and_can_be_asked_again() -> None:
    async with running_gateway() as rig:
        rig.node.takes_over = False
        async with rig.session.post(rig.url + PATH, json={"to": "n3"}) as response:
            problem = await response.json(content_type=None)
            assert (response.status, problem["code"], problem["retryable"]) == (503, "leader_not_moved", True)
            assert "n3 did not take over" in problem["detail"]
            assert "the leader is n2" in problem["detail"]
            assert response.headers["Retry-After"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "'to'"),
        (b"{}", "'to'"),
        (b'{"to":"n9"}', "no member: use n1, n2, n3"),
        (b'{"to":null}', "'to'"),
        (b'{"to":"n1","force":true}', "'force'"),
        (b"{", "not valid JSON"),
    ],
)
async def test_what_is_wrong_is_refused_with_a_sentence(body: bytes, says: str) -> None:
    async with running_gateway() as rig:
        async with rig.session.post(
            rig.url + PATH, data=body, headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 400
            assert says in (await response.json(content_type=None))["detail"]
        assert rig.node.leader == "n2"
