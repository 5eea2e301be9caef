"""The guide to publishing runs on real nodes."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

from tests.cluster.harness import Cluster
from tests.cluster.test_exactly_once import run_command

GUIDE = Path(__file__).parents[2] / "docs" / "publishing.md"


async def test_the_commands_of_the_guide_are_answered_as_it_says(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    curl ")]
    answers = [await asyncio.to_thread(run_command, line, nodes) for line in lines]
    *single, (status, _, batch) = answers
    *single, traced = single
    assert traced[0] == 201
    assert [(code, body["priority"]) for code, _, body in single] == [(201, "high"), (201, "high"), (201, "low")]
    stored, refused = batch["results"]
    assert (status, stored["priority"], refused["code"]) == (200, "low", "unknown_priority")
    await cluster.converge()
    for node in nodes:
        json_one, text, raw, with_trace, from_batch = await cluster.read_all(node, "orders")
        assert (json_one["message"], json_one["headers"]) == ({"order": 17}, None)
        assert (text["message"], text["partitionKey"]) == ("order 18", "customer-4")
        assert text["headers"] == {"contentType": "text/plain"}
        assert b64decode(raw["message"]) == b"order 19"
        assert with_trace["headers"] == {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        assert from_batch["message"] == "order 20"
        assert raw["headers"] == {"contentType": "application/octet-stream", "encoding": "base64"}
