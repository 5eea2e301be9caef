"""Which trace a publish names, and what is none."""

from __future__ import annotations

import pytest

from falconq_cluster.broker.requests import PublishRequest
from tests.unit.gateway.rig import running_gateway

ID = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
VALID = [f"00-{ID}", f"01-{ID}", f"01-{ID}-what.comes"]
INVALID = [
    "",
    "00",
    f"ff-{ID}",
    f"00-{ID}-more",
    f"00-{ID.upper()}",
    f"00-{'0' * 32}-b7ad6b7169203331-01",
    f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    f'01-{ID}-"',
]


@pytest.mark.parametrize("path", ["/topic/t/publish", "/v1/topics/t/messages", "/v1/topics/t/messages:batch"])
async def test_a_valid_trace_is_kept_and_another_is_as_none(path: str):
    message = '{"message": 1}' if "batch" not in path else '[{"message": 1}]'
    async with running_gateway() as rig:
        for trace in VALID + INVALID:
            headers = {"Content-Type": "application/json", "traceparent": trace}
            async with rig.session.post(rig.url + path, data=message, headers=headers) as response:
                assert response.status in (200, 201)
        assert [getattr(r, "traceparent", "") for r in rig.service.requests] == VALID + [None] * len(INVALID)


async def test_a_raw_body_has_a_trace_too_and_two_are_none():
    async with running_gateway() as rig:
        for traces in ([VALID[0]], VALID[:2]):
            headers = [("Content-Type", "text/plain"), *(("traceparent", trace) for trace in traces)]
            async with rig.session.post(rig.url + "/v1/topics/t/messages", data=b"a", headers=headers) as response:
                assert response.status == 201
        first, second = rig.service.requests
    assert isinstance(first, PublishRequest)
    assert isinstance(second, PublishRequest)
    assert (first.traceparent, second.traceparent) == (VALID[0], None)
