"""What a read is sure to see: `FalconQ-Min-Index` and `consistency`.

What lives here: the wait that every route that only reads begins with, and the link to its next page.
Rules: `consistency=linearizable` sees all that was acknowledged anywhere before the request came, or the request is
refused; the parameter is judged before anything waits. What is read afterwards is read in one turn.
Must not know: what the route does.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from falconq_cluster.gateway.describing import Choice
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Call
from falconq_cluster.gateway.seams import Service

LOCAL, LINEARIZABLE = "local", "linearizable"
CONSISTENCY = Choice(
    name="consistency",
    text="`local` shows what the node has applied; `linearizable` shows all that was acknowledged anywhere before the "
    "request came, or is refused with 503.",
    choices=(LOCAL, LINEARIZABLE),
)


async def wait_to_read(service: Service, call: Call, query: Query) -> None:
    """Returns once the node shows what the request has to see. Raises: bad_request, index_not_reached, no_leader."""
    choice = query.choice(CONSISTENCY)
    await wait_min_index(service, call)
    if choice == LINEARIZABLE:
        await service.confirm_read(call.deadline_ms)


def next_page(path: str, parameters: Mapping[str, int | str], asked: Query) -> dict[str, str]:
    """The header that names the next page, which sees as much as the one that was asked for."""
    if asked.text(CONSISTENCY) == LINEARIZABLE:
        parameters = {**parameters, CONSISTENCY.name: LINEARIZABLE}
    return {"Link": f'<{path}?{urlencode(parameters, safe=":")}>; rel="next"'}
