"""The routes for operators: probes, the cluster as this node sees it, metrics.

What lives here: /livez, /readyz, /v1/health/quorum-critical, /v1/cluster, /v1/cluster/leader, /metrics.
Rules: they answer from what the node knows, also when it has too much to do or no leader; at once, but for the change
of the leader, which is answered when it has happened or did not in time.
Must not know: the broker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway import answers
from falconq_cluster.gateway.bodies import read_body
from falconq_cluster.gateway.describing import JSON, Body, Operation, Reply, says
from falconq_cluster.gateway.fields import check_content_type
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import NodeStatus
from falconq_cluster.gateway.shapes import ClusterAnswer, LiveAnswer, QuorumAnswer, ReadyAnswer
from falconq_cluster.telemetry import METRICS_CONTENT_TYPE, Metrics

READ = ("GET", "HEAD")

LIVE = Operation(
    id="getLiveness",
    summary="Whether the process works",
    tag="Operations",
    is_probe=True,
    replies=(
        Reply(text="It works.", body=LiveAnswer),
        Reply(text="It does not: restart it.", status=503, body=LiveAnswer),
    ),
)
READY = Operation(
    id="getReadiness",
    summary="Whether the node takes requests",
    tag="Operations",
    is_probe=True,
    replies=(
        Reply(text="It does.", body=ReadyAnswer),
        Reply(text="It does not, for these reasons.", status=503, body=ReadyAnswer),
    ),
)
QUORUM = Operation(
    id="getQuorumCritical",
    summary="Whether the cluster can do without this node",
    tag="Operations",
    is_probe=True,
    replies=(
        Reply(text="It can: the node may be stopped.", body=QuorumAnswer),
        Reply(text="It can't: without this node, writes stop.", status=503, body=QuorumAnswer),
    ),
)
CLUSTER = Operation(
    id="getCluster",
    summary="The cluster as this node sees it",
    tag="Operations",
    is_probe=True,
    replies=(Reply(text="At once, also without a leader.", body=ClusterAnswer),),
)
_LEADER_EXAMPLE = '{"to": "n2"}'


class LeaderBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who shall lead."""

    to: Annotated[str, says("A member's id.")]


MOVE = Operation(
    id="moveLeader",
    summary="Let another member lead",
    tag="Operations",
    text=(
        "For maintenance: before a machine is taken away, or to have the leader near its clients. Writes wait for some "
        "milliseconds meanwhile. A member that leads already goes on."
    ),
    body=Body(content={JSON: LeaderBody}, examples={JSON: {"to": "n2"}}),
    replies=(Reply(text="It leads; the cluster as this node sees it.", body=ClusterAnswer),),
    problems=(
        "bad_request", "unknown_field", "request_timeout", "body_too_large", "unsupported_media_type", "overloaded",
        "leader_not_moved",
    ),
)  # fmt: skip
METRICS = Operation(
    id="getMetrics",
    summary="The node's metrics for Prometheus",
    tag="Operations",
    is_probe=True,
    replies=(Reply(text="In Prometheus' text format.", body={"type": "string"}, content_type=METRICS_CONTENT_TYPE),),
)


class OperationRoutes:
    """The handlers, over one node's status."""

    def __init__(
        self, node: NodeStatus, metrics: Metrics, is_draining: Callable[[], bool], *, json_depth_max: int
    ) -> None:
        self._node = node
        self._json_depth_max = json_depth_max
        self._metrics = metrics
        self._is_draining = is_draining

    def routes(self) -> list[Route]:
        return [
            Route(READ, "/livez", self.livez, LIVE),
            Route(READ, "/readyz", self.readyz, READY),
            Route(READ, "/v1/health/quorum-critical", self.quorum_critical, QUORUM),
            Route(READ, "/v1/cluster", self.cluster, CLUSTER),
            Route(("POST",), "/v1/cluster/leader", self.move_leader, MOVE),
            Route(READ, "/metrics", self.scrape, METRICS),
        ]

    async def livez(self, _call: Call) -> Answer:
        is_live = self._node.live()
        return Answer(answers.encode_live(is_live=is_live), status=200 if is_live else 503)

    async def readyz(self, _call: Call) -> Answer:
        is_ready, reasons = self._node.ready()
        if self._is_draining():
            is_ready, reasons = False, [*reasons, "the node is stopping"]
        body = answers.encode_ready(is_ready=is_ready, reasons=reasons)
        return Answer(body, status=200 if is_ready else 503)

    async def quorum_critical(self, _call: Call) -> Answer:
        reasons = self._node.needed()
        body = answers.encode_quorum(is_critical=bool(reasons), reasons=reasons)
        return Answer(body, status=503 if reasons else 200)

    async def cluster(self, call: Call) -> Answer:
        Query(call.query, call.operation.parameters)
        return Answer(answers.encode_cluster(self._node.status()))

    async def move_leader(self, call: Call) -> Answer:
        Query(call.query, call.operation.parameters)
        data = await call.body()
        if data:
            check_content_type(call.header("Content-Type"), call.header("Content-Encoding"))
        body = read_body(data or b"{}", LeaderBody, depth_max=self._json_depth_max, example=_LEADER_EXAMPLE)
        if await self._node.move_leader(body.to):
            return Answer(answers.encode_cluster(self._node.status()))
        text = (
            f"{body.to} did not take over: it may be down, unreachable from the leader or behind its log, see "
            f"/v1/cluster; the leader is {self._node.leader or 'not known here'}"
        )
        raise FalconQError("leader_not_moved", text)

    async def scrape(self, _call: Call) -> Answer:
        return Answer(self._metrics.scrape(), content_type=METRICS_CONTENT_TYPE)
