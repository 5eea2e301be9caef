"""The shapes of what is asked and answered about one message.

What lives here: the structs of bodies and answers, ids, and how a message is shown in them.
Rules: those of gateway/shapes.py; each field says what it is.
Must not know: aiohttp, routes, the log.
"""

from __future__ import annotations

import re
from typing import Annotated, get_args

import msgspec

from falconq_cluster.broker.message_requests import ConsumerState, ExplainedMessage, MessageId
from falconq_cluster.gateway.answers import rfc3339
from falconq_cluster.gateway.describing import MESSAGE_ID_PATTERN, NUMBER_MAX, PARTITION_MAX, says
from falconq_cluster.gateway.fields import refuse, shown
from falconq_cluster.machine.delaying import DELAY_MS_MAX
from falconq_cluster.machine.message_states import MessageState

CANCELLED = "message cancelled"
STATES = list(get_args(MessageState))

_ID = re.compile(MESSAGE_ID_PATTERN, re.ASCII)
_NULL = msgspec.Raw(b"null")


class MessageChangeBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a message shall be; what is left out stays."""

    priority: Annotated[
        str | Annotated[int, msgspec.Meta(ge=0, le=PARTITION_MAX)] | None,
        says("The level that it is to have: a name or a number."),
    ] = None
    delay_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=DELAY_MS_MAX)] | None,
        says("It enters its level so long after this change, in ms; 0 for at once. Not together with `dueAt`."),
    ] = msgspec.field(name="delayMs", default=None)
    due_at: Annotated[
        str | None,
        says("It enters its level at this time; at once, if that is past.", format="date-time"),
    ] = msgspec.field(name="dueAt", default=None)


class ConsumerStateAnswer(msgspec.Struct, frozen=True):
    """Where a message stands with one consumer."""

    consumer: Annotated[str, says("The consumer.")]
    state: Annotated[str, says("Where the message stands with it.", enum=STATES)]
    ahead: Annotated[
        int | None, says("Messages that it is given before this one, as far as they are counted; else null.")
    ]
    deliveries: Annotated[
        int | None, says("How often it was delivered to it; null where that is settled and not known any more.")
    ]
    due_at: Annotated[
        str | None, says("From when on it is given again; null unless it is `delayed`.", format="date-time")
    ] = msgspec.field(name="dueAt")
    lease_expires_at: Annotated[
        str | None, says("When the lease ends; null unless it is `leased`.", format="date-time")
    ] = msgspec.field(name="leaseExpiresAt")


class ExplainedMessageAnswer(msgspec.Struct, frozen=True):
    """A message, and where it stands."""

    topic: Annotated[str, says("Its topic.")]
    id: Annotated[str, says("Names the message for ever.")]
    message: Annotated[msgspec.Raw, says("The JSON as it was published, byte for byte.")]
    priority: Annotated[str, says("The name of its level.")]
    level: Annotated[int, says("The number of its level; 0 is the least urgent.")]
    offset: Annotated[int | None, says("Its place in its partition; null while it is delayed.")]
    partition: Annotated[int, says("Its partition.")] = msgspec.field(name="partitionID")
    timestamp: Annotated[str | None, says("When it entered its level; null while it is delayed.", format="date-time")]
    headers: Annotated[
        msgspec.Raw,
        says("The headers as they were published.", type=["object", "null"], additionalProperties={"type": "string"}),
    ]
    partition_key: Annotated[str | None, says("The key that chose its partition.")] = msgspec.field(name="partitionKey")
    state: Annotated[
        str, says("Where it stands, with the consumer that was asked for or with all together.", enum=STATES)
    ]
    ahead: Annotated[
        int | None, says("Messages that are given before it, if it is `ready`; else, or not counted, null.")
    ]
    deliveries: Annotated[
        int | None, says("How often it was delivered; null where that is settled and not known any more.")
    ]
    due_at: Annotated[
        str | None,
        says("When it enters its level, or is given again; null unless it is `delayed`.", format="date-time"),
    ] = msgspec.field(name="dueAt")
    expires_at: Annotated[
        str | None, says("From when on it is not given to anybody; null for never.", format="date-time")
    ] = msgspec.field(name="expiresAt")
    consumers: Annotated[
        list[ConsumerStateAnswer], says("By name: where it stands with the consumer that was asked for, or with each.")
    ]
    following: Annotated[str | None, says("What `after` is for the next consumers; null after the last one.")] = (
        msgspec.field(name="next")
    )


class MessageCancelledAnswer(msgspec.Struct, frozen=True):
    """The message is gone, and nobody is ever given it."""

    status: Annotated[str, says("What happened.", const=CANCELLED)]
    topic: Annotated[str, says("Its topic.")]
    id: Annotated[str, says("Its id.")]


def read_message_id(value: str) -> MessageId:
    """The id in a path. Raises: bad_request."""
    match = _ID.fullmatch(value)
    if match is None or max(int(part) for part in match.groups()) > NUMBER_MAX:
        raise refuse("id", f"the message's id is {shown(value)}; it is as a publish answered it, such as 52.0")
    return MessageId(int(match[1]), int(match[2]))


def shown_message(message: ExplainedMessage) -> ExplainedMessageAnswer:
    """The message as an answer has it."""
    return ExplainedMessageAnswer(
        topic=message.topic,
        id=message.id,
        message=msgspec.Raw(message.message),
        priority=message.priority,
        level=message.level,
        offset=message.offset,
        partition=message.partition,
        timestamp=_time(message.timestamp_ms),
        headers=_NULL if message.headers is None else msgspec.Raw(message.headers),
        partition_key=message.partition_key,
        state=message.state,
        ahead=message.ahead,
        deliveries=message.deliveries,
        due_at=_time(message.due_ms),
        expires_at=_time(message.expires_ms),
        consumers=[_shown_consumer(consumer) for consumer in message.consumers],
        following=message.consumers[-1].consumer if message.has_more else None,
    )


def _shown_consumer(state: ConsumerState) -> ConsumerStateAnswer:
    lease_ends, due = _time(state.lease_ends_ms), _time(state.due_ms)
    return ConsumerStateAnswer(state.consumer, state.state, state.ahead, state.deliveries, due, lease_ends)


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else rfc3339(time_ms)
