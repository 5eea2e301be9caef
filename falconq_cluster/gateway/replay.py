"""Replay: GET /v1/topics/{topic}/messages.

What lives here: the handler, and what `from` means.
Rules: it changes nothing and knows no consumer. JSON or NDJSON, as `Accept` says; a page that is not the last one names
the next.
Must not know: aiohttp, how pages are read.
"""

from __future__ import annotations

from falconq_cluster.broker.requests import ReplayPage, ReplayRequest
from falconq_cluster.gateway import answers
from falconq_cluster.gateway.consistency import CONSISTENCY, next_page, wait_to_read
from falconq_cluster.gateway.describing import (
    MIN_INDEX,
    NDJSON,
    PARTITION_MAX,
    PROBLEMS_OF_READS,
    Number,
    Operation,
    Reply,
    Text,
)
from falconq_cluster.gateway.fields import media_type, read_name, refuse, shown
from falconq_cluster.gateway.query import Query, read_number, read_time_ms
from falconq_cluster.gateway.routing import Answer, Call
from falconq_cluster.gateway.seams import Service
from falconq_cluster.gateway.shapes import ReplayAnswer

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
FROM_OFFSET, FROM_TIME = "offset:", "time:"

FROM = Text(
    name="from",
    text="Where to begin: `offset:N`, or `time:T` with T by RFC 3339, the first message that was published then or "
    "later. Unset: the oldest that is kept.",
    pattern="^(offset:[0-9]{1,19}|time:.+)$",
    example="offset:0",
)
LIMIT = Number(name="limit", text="Most messages in the answer.", least=1, most=LIMIT_MAX, default=LIMIT_DEFAULT)
PARTITION = Number(
    name="partitionID",
    text="Of which partition. Required where the topic has several: each has an order of its own.",
    most=PARTITION_MAX,
)
ACCEPT = Text(name="Accept", text=f"`{NDJSON}`: one message a line, and nothing else.")
REPLAY = Operation(
    id="replayMessages",
    summary="What a partition holds, page by page",
    tag="Messages",
    text="In the order of offsets; no consumer is moved. Below what is kept the answer is 410, and `firstOffset` in "
    "its `details` says where the rest begins.",
    parameters=(FROM, LIMIT, PARTITION, CONSISTENCY),
    headers=(ACCEPT, MIN_INDEX),
    replies=(
        Reply(text="One page.", body=ReplayAnswer, headers=("Link",)),
        Reply(text="The same as lines.", body={"type": "string"}, content_type=NDJSON, headers=("Link",)),
    ),
    problems=("topic_not_found", "unknown_partition", "offset_gone", *PROBLEMS_OF_READS),
)

_OFFSET = Number(name="from", text="The offset of `from`.")


async def replay(service: Service, call: Call) -> Answer:
    """One page of a partition."""
    topic = read_name(call.topic, "topic")
    query = Query(call.query, call.operation.parameters)
    offset, at_ms = read_from(query.text(FROM))
    request = ReplayRequest(
        topic=topic,
        partition=query.number(PARTITION),
        offset=offset,
        at_ms=at_ms,
        limit=query.number_or_default(LIMIT),
    )
    is_lines = wants_lines(call.header(ACCEPT.name))
    await wait_to_read(service, call, query)
    page = await service.replay(request)
    headers = _next_page(request, page, query)
    if is_lines:
        lines = answers.encode_message_lines(page.messages)
        return Answer(lines, content_type=NDJSON, index=page.index, headers=headers)
    return Answer(answers.encode_replay(page), index=page.index, headers=headers)


def read_from(value: str | None) -> tuple[int | None, int | None]:
    """(offset, time in ms) of `from`, of which one is None. Raises: bad_request."""
    if value is None:
        return None, None
    if value.startswith(FROM_OFFSET):
        return read_number(value.removeprefix(FROM_OFFSET), _OFFSET), None
    if value.startswith(FROM_TIME):
        # A plus sign that wasn't encoded arrives as a space.
        text = value.removeprefix(FROM_TIME).replace(" ", "+")
        return None, read_time_ms(text, "from", shown_value=value)
    raise refuse("from", f"parameter 'from' is {shown(value)}; write offset:0 or time:2026-01-31T12:00:00Z")


def wants_lines(accept: str | None) -> bool:
    """Whether NDJSON is the first of both kinds that the client names."""
    kinds = [media_type(part) for part in (accept or "").split(",")]
    return NDJSON in kinds and "application/json" not in kinds[: kinds.index(NDJSON)]


def _next_page(request: ReplayRequest, page: ReplayPage, asked: Query) -> dict[str, str]:
    if not page.has_more:
        return {}
    query: dict[str, int | str] = {FROM.name: f"{FROM_OFFSET}{page.next_offset}", LIMIT.name: request.limit}
    if request.partition is not None:
        query[PARTITION.name] = request.partition
    return next_page(f"/v1/topics/{request.topic}/messages", query, asked)
