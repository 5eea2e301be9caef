"""`FalconQ-Min-Index`: read your own writes on any node.

What lives here: the wait that every route of topics begins with.
Rules: nothing is done before the node has applied the index, or the deadline refuses the request.
Must not know: what the route does.
"""

from __future__ import annotations

from falconq_cluster.gateway.describing import MIN_INDEX
from falconq_cluster.gateway.query import read_number
from falconq_cluster.gateway.routing import Call
from falconq_cluster.gateway.seams import Service


async def wait_min_index(service: Service, call: Call) -> None:
    """Returns once the node has applied the index that the request names. Raises: index_not_reached."""
    value = call.header(MIN_INDEX.name)
    if value is not None:
        await service.wait_index(read_number(value, MIN_INDEX), call.deadline_ms)
