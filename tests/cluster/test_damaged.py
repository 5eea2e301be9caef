"""A node whose store is damaged while it serves.

What lives here: bytes of a running node's tables that change on the disk, and what its clients and the others see.
Rules: only blocks that hold messages are damaged, and none that the node has read since its start.
Must not know: what the blocks mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import aiohttp

from falconq_cluster.damage import DAMAGE_FILE, EXIT_DISK
from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node
from tests.cluster.waiting import until

MESSAGES = 400
STEP_BYTES = 4_000
"""Less than a message takes, so each block of messages is hit."""


def damage(node: Node) -> None:
    """Flip a bit in each message's block; the rest of the table, where its index and small rows are, stays."""
    tables = sorted(node.store.glob("*.ldb"), key=lambda path: path.stat().st_size)
    with tables[-1].open("r+b") as table:
        for place in range(100_000, tables[-1].stat().st_size * 3 // 4, STEP_BYTES):
            table.seek(place)
            byte = table.read(1)
            table.seek(place)
            table.write(bytes([byte[0] ^ 16]))


async def test_a_node_that_meets_damage_while_it_serves_ends_at_once_and_the_others_serve_on(
    make_cluster: Callable[..., Cluster], http: Http
) -> None:
    cluster = make_cluster()
    cluster.start()
    await cluster.wait_ready()
    nodes = list(cluster.nodes.values())
    messages = [{"message": os.urandom(3_000).hex()} for _ in range(MESSAGES)]
    url = f"{nodes[0].url}/v1/topics/t/messages:batch"
    for start in range(0, MESSAGES, 100):
        assert (await http.call("POST", url, json=messages[start : start + 100])).status == 200
    await cluster.converge()
    node, other = nodes[0], nodes[1]
    assert node.terminate() == 0
    node.start()
    await cluster.wait_ready()
    damage(node)

    async def ended() -> bool:
        try:
            answer = await http.call("GET", f"{node.url}/topic/t/peek?offset=0&batch=1000")
        except (aiohttp.ClientError, OSError):
            return not node.is_running
        assert answer.status != 500, answer
        return False

    await until("the damaged node has ended", ended)
    assert node.wait() == EXIT_DISK
    assert "process_ended" in node.log_tail()
    assert str(node.store) in node.log_tail()
    read = await cluster.read_all(other, "t")
    assert [message["message"] for message in read] == [message["message"] for message in messages]
    assert (await http.call("POST", f"{other.url}/topic/t/publish", json={"message": "goes on"})).status == 200

    node.start()
    assert node.wait() == 78
    assert str(node.data / DAMAGE_FILE) in node.log_tail()
    node.wipe()
    node.start()
    await cluster.wait_ready()
    await cluster.converge()
    assert len(await cluster.read_all(node, "t")) == MESSAGES + 1
