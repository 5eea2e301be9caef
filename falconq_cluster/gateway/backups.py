"""The backup route: /v1/cluster/backup.

What lives here: the handler, and how a backup goes out beside everything else that the node does.
Rules: one backup at a time, since each keeps a state of the store alive. It goes out in parts, between which the loop
has its turn. A stopping node breaks it off, and whoever reads the file sees that its end is missing.
Must not know: aiohttp, the format of a backup.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.consistency import CONSISTENCY, wait_to_read
from falconq_cluster.gateway.describing import MIN_INDEX, PROBLEMS_OF_READS, Operation, Reply
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import NodeStatus, Service

BACKUP_TYPE = "application/octet-stream"

BACKUP = Operation(
    id="getBackup",
    summary="All that the node shows, as a file",
    tag="Operations",
    text="`falconq backup check` says whether the file is whole, `falconq node restore` makes it the start of a "
    "cluster. Of a follower it costs the leader nothing. One at a time on a node.",
    parameters=(CONSISTENCY,),
    headers=(MIN_INDEX,),
    replies=(
        Reply(
            text="The backup of the log index in `FalconQ-Index`.",
            body={"type": "string"},
            content_type=BACKUP_TYPE,
            headers=("Cache-Control",),
        ),
    ),
    problems=PROBLEMS_OF_READS,
)


class BackupRoutes:
    """The handler, over one node."""

    def __init__(self, service: Service, node: NodeStatus, is_draining: Callable[[], bool]) -> None:
        self._service = service
        self._node = node
        self._is_draining = is_draining
        self._is_busy = False

    def routes(self) -> list[Route]:
        return [Route(("GET",), "/v1/cluster/backup", self.backup, BACKUP)]

    async def backup(self, call: Call) -> Answer:
        await wait_to_read(self._service, call, Query(call.query, call.operation.parameters))
        if self._is_busy:
            raise FalconQError("overloaded", "this node writes another backup; wait for its end, or ask another node")
        index, parts = self._node.backup()
        stream = self._written(parts)
        # It has begun, so that it also ends when nobody reads it.
        await anext(stream)
        return Answer(b"", content_type=BACKUP_TYPE, index=index, headers={"Cache-Control": "no-store"}, stream=stream)

    async def _written(self, parts: Generator[bytes]) -> AsyncGenerator[bytes, None]:
        """Nothing at first, then the backup."""
        self._is_busy = True
        try:
            with closing(parts):
                yield b""
                for part in parts:
                    if self._is_draining():
                        return
                    yield part
                    await asyncio.sleep(0)
        finally:
            self._is_busy = False
