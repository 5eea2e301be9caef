"""Replaying: what a partition holds, page by page, from an offset or a time on.

What lives here: the pages of a replay.
Rules: a page is of one partition, in the order of offsets, and is read in one turn; nothing that is kept is skipped.
Who asks for what is not kept any more is told so, and from where on there is something.
Must not know: HTTP, consumers.
"""

from __future__ import annotations

from falconq_cluster.broker.reading import find_partition, shown_messages
from falconq_cluster.broker.requests import ReplayPage, ReplayRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.views import Views


def replayed_page(views: Views, request: ReplayRequest, *, bytes_max: int, index: int) -> ReplayPage:
    """The page. Raises: FalconQError (topic_not_found, unknown_partition, bad_request, offset_gone)."""
    name = request.topic
    topic = find_partition(views, name, request.partition)
    count = topic.config.partitions
    if request.partition is None and count > 1:
        text = f"topic {name!r} has {count} partitions, each with an order of its own; replay one with 'partitionID'"
        raise FalconQError("bad_request", text, details={"field": "partitionID"})
    partition = request.partition or 0
    status = views.partition(name, partition)
    start = status.first_offset
    if request.offset is not None:
        start = request.offset
    elif request.at_ms is not None:
        start = views.offset_at(name, partition, request.at_ms)
    if start < status.first_offset:
        text = f"offset {start} of partition {partition} is not kept any more; the lowest is {status.first_offset}"
        details: dict[str, object] = {"field": "from", "firstOffset": status.first_offset, "partitionID": partition}
        raise FalconQError("offset_gone", text, details=details)
    found = views.peek(name, partition=partition, offset=start, count=request.limit, bytes_max=bytes_max)
    next_offset = found[-1].offset + 1 if found else start
    has_more = bool(views.peek(name, partition=partition, offset=next_offset, count=1))
    if not has_more:
        # What is between the last one and the end is not kept.
        next_offset = max(next_offset, status.next_offset)
    return ReplayPage(
        topic=name,
        partition=partition,
        messages=shown_messages(found, topic.config.levels, delivery_count=0),
        next_offset=next_offset,
        has_more=has_more,
        index=index,
    )
