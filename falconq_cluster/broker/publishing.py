"""What publishers are told.

What lives here: from the outcome of an append to the places of its messages.
Rules: a repeat is told what the first try did.
Must not know: HTTP, how operations are proposed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from falconq_cluster.broker.requests import Published
from falconq_cluster.broker.waiters import Outcome, accepted
from falconq_cluster.machine.appends import AppendedMany
from falconq_cluster.machine.commands import Appended, Duplicate


def published(outcome: Outcome, levels: Sequence[str]) -> Published:
    """The place of an append's one message. Raises: FalconQError."""
    result = outcome.result
    if isinstance(result, Duplicate) and result.first is None:
        return Published(
            topic=result.topic,
            partition=None,
            offset=None,
            priority=None,
            level=None,
            id=None,
            index=outcome.index,
            timestamp_ms=None,
            duplicate=True,
        )
    return published_all(outcome, levels, [0])[0]


def published_all(outcome: Outcome, levels: Sequence[str], numbers: Sequence[int]) -> list[Published]:
    """The places of the messages that have these numbers in the append. Raises: FalconQError."""
    result, index = outcome.result, outcome.index
    is_duplicate = isinstance(result, Duplicate)
    appended: Appended | AppendedMany
    if isinstance(result, Duplicate) and result.first is not None:
        appended, index = result.first, result.first_index
    else:
        appended = result if isinstance(result, AppendedMany) else accepted(outcome, Appended)
    places = list(_places(appended))
    return [
        Published(
            topic=appended.topic,
            partition=places[number][0],
            offset=places[number][2],
            due_ms=places[number][3],
            priority=levels[places[number][1]],
            level=places[number][1],
            id=f"{index}.{appended.first_id + number}",
            index=index,
            timestamp_ms=appended.timestamp_ms,
            duplicate=is_duplicate,
        )
        for number in numbers
    ]


def _places(appended: Appended | AppendedMany) -> Iterator[tuple[int, int, int | None, int | None]]:
    """(partition, level, offset, when it is due) of each message."""
    for place in appended.places if isinstance(appended, AppendedMany) else (appended,):
        for position in range(place.count):
            if place.due_ms:
                yield place.partition, place.level, None, place.due_ms
            else:
                yield place.partition, place.level, place.base_offset + position, None
