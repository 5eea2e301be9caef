"""The shapes of what is asked and answered about consumers.

What lives here: the structs of bodies and answers, and how a consumer is shown in them.
Rules: those of gateway/shapes.py; each field says what it is.
Must not know: aiohttp, routes, the log.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from falconq_cluster.broker.consumer_requests import ConsumerInfo
from falconq_cluster.gateway.answers import rfc3339
from falconq_cluster.gateway.describing import says
from falconq_cluster.gateway.fields import refuse, shown
from falconq_cluster.gateway.query import read_time_ms
from falconq_cluster.machine.managing import EXPIRE_AFTER_MS_MAX, EXPIRE_AFTER_MS_MIN, START_MAX
from falconq_cluster.machine.settings import LEASE_MS_MAX, LEASE_MS_MIN
from falconq_cluster.machine.subscriptions import EXPIRE_AFTER_MS, Ordering, Start, StartKind
from falconq_cluster.machine.topics import IN_FLIGHT_MAX

REDRIVEN_MAX = 2**31 - 1
DELETED = "consumer deleted"
REDRIVEN = "dead letters redriven"

Shape = TypeVar("Shape", bound=msgspec.Struct)

ORDERS: dict[Ordering, Literal["none", "key", "partition"]] = {
    Ordering.NONE: "none",
    Ordering.KEY: "key",
    Ordering.PARTITION: "partition",
}
_WORDS = {"earliest": StartKind.EARLIEST, "latest": StartKind.LATEST}
Word = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(_WORDS)})]


class PlaceBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A place in the topic: one of the two."""

    offset: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=START_MAX)] | None, says("This offset of every partition.")
    ] = None
    time: Annotated[
        str | None,
        says("The first message of each partition that was published then or later.", format="date-time"),
    ] = None


Place = Annotated[PlaceBody, msgspec.Meta(extra_json_schema={"minProperties": 1, "maxProperties": 1})]


class ConsumerBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The settings of a consumer, or some of them."""

    start: Annotated[
        Word | Place,
        says('Where it begins: `"earliest"`, `"latest"`, an offset or a time. Counts only when it is made.'),
    ] = "earliest"
    lease_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=LEASE_MS_MIN, le=LEASE_MS_MAX)] | None,
        says("How long its leases last unless a pull says otherwise. Unset: the topic's `leaseMs`."),
    ] = msgspec.field(name="leaseMs", default=None)
    in_flight_max: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=IN_FLIGHT_MAX)] | None,
        says("How many of its messages are leased at a time. Unset: the topic's `maxInFlight`."),
    ] = msgspec.field(name="maxInFlight", default=None)
    ordering: Annotated[
        Literal["none", "key", "partition"],
        says("Whether it has one message at a time in hand of those with one key, or of those of one partition."),
    ] = "none"
    expire_after_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=EXPIRE_AFTER_MS_MAX)],
        says(f"It is deleted when nobody used it for so long; 0 for never, else at least {EXPIRE_AFTER_MS_MIN}."),
    ] = msgspec.field(name="expireAfterMs", default=EXPIRE_AFTER_MS)


class SeekBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where a consumer goes on."""

    to: Annotated[Word | Place, says('`"earliest"`, `"latest"`, an offset or a time.')]


class RedriveBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How much of the dead letters goes back."""

    count: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=REDRIVEN_MAX)] | None, says("Most messages. Unset: all that are there.")
    ] = msgspec.field(name="max", default=None)


class PlaceAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the topic: one of the two."""

    offset: Annotated[int | None, says("This offset of every partition.")] = None
    time: Annotated[str | None, says("This time.", format="date-time")] = None


class ConsumerAnswer(msgspec.Struct, frozen=True):
    """A consumer, with its settings and how far it is behind."""

    topic: Annotated[str, says("Its topic.")]
    consumer: Annotated[str, says("Its name.")]
    start: Annotated[str | PlaceAnswer, says("Where it began: `earliest`, `latest`, an offset or a time.")]
    lease_ms: Annotated[int | None, says("How long its leases last; null for the topic's `leaseMs`.")] = msgspec.field(
        name="leaseMs"
    )
    in_flight_max: Annotated[
        int | None, says("How many messages are leased at a time; null for the topic's `maxInFlight`.")
    ] = msgspec.field(name="maxInFlight")
    ordering: Annotated[Literal["none", "key", "partition"], says("Of which messages it has one at a time in hand.")]
    expire_after_ms: Annotated[int, says("It is deleted when nobody used it for so long; 0 for never.")] = (
        msgspec.field(name="expireAfterMs")
    )
    paused: Annotated[bool, says("Whether it is given nothing.")]
    created_at: Annotated[str, says("When it was made.", format="date-time")] = msgspec.field(name="createdAt")
    used_at: Annotated[str, says("When it was last used, to the minute or an eighth of `expireAfterMs`.")] = (
        msgspec.field(name="usedAt")
    )
    lag: Annotated[dict[str, int], says("Level -> messages that it was not given yet.")]
    oldest_age_ms: Annotated[
        dict[str, int | None], says("Level -> how long ago the oldest of them was published; null without any.")
    ] = msgspec.field(name="oldestAgeMs")
    leased_count: Annotated[int, says("Messages that are leased, when something was last given or settled.")] = (
        msgspec.field(name="inFlight")
    )
    returned_count: Annotated[int, says("Messages that wait to be given again.")] = msgspec.field(name="returned")
    lost: Annotated[
        dict[str, int], says("Level -> messages that the topic stopped keeping before the consumer had settled them.")
    ]


class ConsumerPageAnswer(msgspec.Struct, frozen=True):
    """Consumers in the order of their names."""

    consumers: Annotated[list[ConsumerAnswer], says("This page's; may be fewer than `limit` where more follow.")]
    following: Annotated[str | None, says("What `after` is for the next page; null after the last one.")] = (
        msgspec.field(name="next")
    )


class ConsumerDeletedAnswer(msgspec.Struct, frozen=True):
    """The consumer is gone, on every node from the answer's `FalconQ-Index` on."""

    status: Annotated[str, says("What happened.", const=DELETED)]
    topic: Annotated[str, says("Its topic.")]
    consumer: Annotated[str, says("The name that is free now.")]


class RedrivenAnswer(msgspec.Struct, frozen=True):
    """Dead letters go back: each moves once, the last of many a little later than the answer."""

    status: Annotated[str, says("What happened.", const=REDRIVEN)]
    topic: Annotated[str, says("Where they go.")]
    dead_letter_topic: Annotated[str, says("Where they were.")] = msgspec.field(name="deadLetterTopic")
    count: Annotated[int, says("How many.")]


def read_place(value: str | PlaceBody, field: str) -> Start:
    """A place in a topic. Raises: bad_request."""
    if isinstance(value, str):
        if value not in _WORDS:
            text = (
                f"field '{field}' is {shown(value)}; it is 'earliest', 'latest', {{\"offset\": …}} or {{\"time\": …}}"
            )
            raise refuse(field, text)
        return Start(_WORDS[value])
    if (value.offset is None) == (value.time is None):
        raise refuse(field, f"field '{field}' is an object with one of 'offset' and 'time'")
    if value.offset is not None:
        return Start(StartKind.OFFSET, value.offset)
    return Start(StartKind.TIME, read_time_ms(value.time or "", f"{field}.time"))


def shown_consumer(info: ConsumerInfo) -> ConsumerAnswer:
    """The consumer as an answer has it."""
    view, config = info.view, info.view.config
    ages = [None if at_ms is None else max(0, info.log_time_ms - at_ms) for at_ms in view.oldest_ms]
    return ConsumerAnswer(
        topic=info.topic,
        consumer=view.name,
        start=_shown_start(config.start),
        lease_ms=config.lease_ms or None,
        in_flight_max=config.in_flight_max or None,
        ordering=ORDERS[config.ordering],
        expire_after_ms=config.expire_after_ms,
        paused=view.is_paused,
        created_at=rfc3339(view.created_ms),
        used_at=rfc3339(view.used_ms),
        lag=dict(zip(info.levels, view.lag, strict=True)),
        oldest_age_ms=dict(zip(info.levels, ages, strict=True)),
        leased_count=view.leased_count,
        returned_count=view.returned_count,
        lost=dict(zip(info.levels, view.lost, strict=True)),
    )


def _shown_start(start: Start) -> str | PlaceAnswer:
    match start.kind:
        case StartKind.EARLIEST:
            return "earliest"
        case StartKind.LATEST:
            return "latest"
        case StartKind.OFFSET:
            return PlaceAnswer(offset=start.value)
        case StartKind.TIME:
            return PlaceAnswer(time=rfc3339(start.value))
