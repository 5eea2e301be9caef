"""Leases: /v1/topics/{topic}/consumers/{consumer}/pull and …/ack.

What lives here: the handlers, and the shapes of their bodies and answers.
Rules: an ack is answered 200 whatever became of each lease: what failed is told one by one, and changed nothing. What
can be judged without the topic is judged before the broker is asked.
Must not know: aiohttp, the log, what is in a lease's id.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from falconq_cluster.broker.requests import (
    AS_RETRIED,
    Deliveries,
    Delivery,
    LeaseWish,
    PullRequest,
    Settled,
    SettleRequest,
    WishKind,
)
from falconq_cluster.gateway.answers import message_answer, rfc3339
from falconq_cluster.gateway.bodies import read_body
from falconq_cluster.gateway.describing import (
    JSON,
    MIN_INDEX,
    PARTITION_MAX,
    PROBLEMS_OF_WRITES,
    Body,
    Operation,
    Reply,
    says,
)
from falconq_cluster.gateway.fields import check_content_type, read_name, refuse
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service
from falconq_cluster.gateway.shapes import MessageAnswer
from falconq_cluster.machine.burying import REASON_CHARS_MAX
from falconq_cluster.machine.machine import DEFAULT_LIMITS
from falconq_cluster.machine.settings import LEASE_MS_MAX, LEASE_MS_MIN, RETURN_MS_MAX

LEASES_MAX = DEFAULT_LIMITS.lease_count_max
BYTES_MAX = 2**31 - 1
LEASE_ID_CHARS_MAX = 80

Level = str | Annotated[int, msgspec.Meta(ge=0, le=PARTITION_MAX)]
LeaseId = Annotated[str, says("As the pull gave it."), msgspec.Meta(max_length=LEASE_ID_CHARS_MAX)]
LeaseMs = Annotated[int, msgspec.Meta(ge=LEASE_MS_MIN, le=LEASE_MS_MAX)]


class PullBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a pull asks for."""

    count: Annotated[Annotated[int, msgspec.Meta(ge=1, le=LEASES_MAX)], says("Most messages in the answer.")] = (
        msgspec.field(name="max", default=1)
    )
    bytes_max: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=BYTES_MAX)] | None,
        says("Most bytes of messages in the answer; one message always fits. Unset: what the node gives."),
    ] = msgspec.field(name="maxBytes", default=None)
    wait_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=0)],
        says("How long to wait when there is nothing, in milliseconds; at most `long_poll_ms_max`."),
    ] = msgspec.field(name="waitMs", default=0)
    lease_ms: Annotated[LeaseMs | None, says("How long the leases last. Unset: the topic's `leaseMs`.")] = (
        msgspec.field(name="leaseMs", default=None)
    )
    level_min: Annotated[
        Level | None, says("Only messages of this level, a name or a number, or a more urgent one. Unset: of all.")
    ] = msgspec.field(name="minLevel", default=None)
    auto_commit: Annotated[bool, says("Settle the messages as they are given: there is no lease to settle.")] = (
        msgspec.field(name="autoCommit", default=False)
    )


class NackBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A message that is given back, to be given again."""

    id: LeaseId
    delay_ms: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=RETURN_MS_MAX)] | None,
        says("Not before so many milliseconds. Unset: as the topic's `retry` says."),
    ] = msgspec.field(name="delayMs", default=None)
    priority: Annotated[
        Level | None, says("The level, a name or a number, as which it is given again. Unset: as before.")
    ] = None


class RejectBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A message that can't be done: it goes to the topic's dead letters."""

    id: LeaseId
    reason: Annotated[
        Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)] | None, says("Why; kept with the message.")
    ] = None


class ExtendBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A lease that shall last longer."""

    id: LeaseId
    lease_ms: Annotated[LeaseMs, says("So long from now on, in milliseconds.")] = msgspec.field(name="leaseMs")


class AckBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What shall become of leases; at most 400 together. They are judged in this order."""

    ack: Annotated[
        Annotated[list[LeaseId], msgspec.Meta(max_length=LEASES_MAX)], says("Done: never given to the consumer again.")
    ] = []
    nack: Annotated[
        Annotated[list[NackBody], msgspec.Meta(max_length=LEASES_MAX)], says("Not done: given again, later or at once.")
    ] = []
    reject: Annotated[
        Annotated[list[RejectBody], msgspec.Meta(max_length=LEASES_MAX)], says("Can't be done: to the dead letters.")
    ] = []
    extend: Annotated[
        Annotated[list[ExtendBody], msgspec.Meta(max_length=LEASES_MAX)], says("Not done yet: keep it.")
    ] = []


class LeaseAnswer(msgspec.Struct, frozen=True):
    """The right to settle one delivery."""

    id: Annotated[str, says("What an ack names.")]
    expires_at: Annotated[
        str, says("When the message is given again unless it is settled, by the cluster's clock.", format="date-time")
    ] = msgspec.field(name="expiresAt")


class DeliveryAnswer(MessageAnswer, frozen=True):
    """A message that was handed to the consumer."""

    lease: Annotated[LeaseAnswer | None, says("Null with `autoCommit`: the message is settled.")]


class DeliveriesAnswer(msgspec.Struct, frozen=True):
    """What a pull gives."""

    deliveries: Annotated[list[DeliveryAnswer], says("In the order of the topic's scheduler.")]


class FailedAnswer(msgspec.Struct, frozen=True):
    """A lease for which nothing was changed."""

    id: Annotated[str, says("As it was sent.")]
    code: Annotated[
        str, says("`lease_lost`, `bad_request` or `unknown_priority`; what they mean is in docs/errors.md.")
    ]
    detail: Annotated[str, says("What was refused, and why; for people.")]


class SettledAnswer(msgspec.Struct, frozen=True):
    """What became of the leases."""

    ok: Annotated[int, says("How many of them are as the body wishes.")]
    failed: Annotated[list[FailedAnswer], says("The others, in the order of the body.")]


PULL_EXAMPLE = {"max": 10, "waitMs": 1000, "leaseMs": 30000}
ACK_EXAMPLE = {
    "ack": ["0.5.3f2a9c4e8b7d61500f1e2d3c4b5a6978"],
    "nack": [{"id": "0.6.3f2a9c4e8b7d61500f1e2d3c4b5a6978", "delayMs": 5000}],
}
_PULL_EXAMPLE = '{"max": 10, "waitMs": 1000, "leaseMs": 30000}'
_ACK_EXAMPLE = '{"ack": [id], "nack": [{"id": …}], "reject": [{"id": …}], "extend": [{"id": …, "leaseMs": 30000}]}'

PULL = Operation(
    id="pull",
    summary="Lease the next messages for a consumer",
    tag="Queues",
    text="Nobody else of the consumer is given a leased message until it is given back or its lease ends. A consumer "
    "that does not exist is created, and begins with the oldest message.",
    headers=(MIN_INDEX,),
    body=Body(content={JSON: PullBody}, is_required=False, examples={JSON: PULL_EXAMPLE}),
    replies=(
        Reply(text="The next messages.", body=DeliveriesAnswer),
        Reply(text="There is nothing, or the consumer has enough in flight.", status=204),
    ),
    problems=("topic_not_found", "unknown_priority", "leases_full", *PROBLEMS_OF_WRITES),
)
ACK = Operation(
    id="ack",
    summary="Settle or extend leases",
    tag="Queues",
    text="Each lease is judged alone: one that is over is `lease_lost`, and changes nothing.",
    headers=(MIN_INDEX,),
    body=Body(content={JSON: AckBody}, examples={JSON: ACK_EXAMPLE}),
    replies=(Reply(text="What became of each.", body=SettledAnswer),),
    problems=("topic_not_found", *PROBLEMS_OF_WRITES),
)

_encoder = msgspec.json.Encoder()


class LeaseRoutes:
    """The handlers, over one service."""

    def __init__(self, service: Service, *, long_poll_ms_max: int, json_depth_max: int) -> None:
        self._service = service
        self._long_poll_ms_max = long_poll_ms_max
        self._json_depth_max = json_depth_max

    def routes(self) -> list[Route]:
        consumer = "/v1/topics/{topic}/consumers/{consumer}"
        return [
            Route(("POST",), f"{consumer}/pull", self.pull, PULL),
            Route(("POST",), f"{consumer}/ack", self.ack, ACK),
        ]

    async def pull(self, call: Call) -> Answer:
        topic, consumer = _names(call)
        body = PullBody()
        if data := await _json_body(call):
            body = read_body(data, PullBody, depth_max=self._json_depth_max, example=_PULL_EXAMPLE)
        if body.wait_ms > self._long_poll_ms_max:
            raise refuse("waitMs", f"field 'waitMs' is {body.wait_ms}; it is at most {self._long_poll_ms_max}")
        await wait_min_index(self._service, call)
        taken = await self._service.pull(
            PullRequest(
                topic=topic,
                consumer=consumer,
                count=body.count,
                bytes_max=body.bytes_max,
                wait_ms=body.wait_ms,
                lease_ms=body.lease_ms,
                level_min=body.level_min,
                auto_commit=body.auto_commit,
                deadline_ms=call.deadline_ms + body.wait_ms,
            )
        )
        if not taken.deliveries:
            return Answer(b"", status=204, index=taken.index)
        return Answer(_encoder.encode(_shown(taken)), index=taken.index)

    async def ack(self, call: Call) -> Answer:
        topic, consumer = _names(call)
        body = read_body(await _json_body(call), AckBody, depth_max=self._json_depth_max, example=_ACK_EXAMPLE)
        wishes = _wishes(body)
        if len(wishes) > LEASES_MAX:
            raise refuse("body", f"the body names {len(wishes)} leases; at most {LEASES_MAX} are settled at a time")
        await wait_min_index(self._service, call)
        settled = await self._service.settle(
            SettleRequest(topic=topic, consumer=consumer, wishes=wishes, deadline_ms=call.deadline_ms)
        )
        return Answer(_encoder.encode(_settled(settled)), index=settled.index)


def _names(call: Call) -> tuple[str, str]:
    """(topic, consumer). Raises: bad_request, unknown_field."""
    names = read_name(call.topic, "topic"), read_name(call.variable("consumer"), "consumer")
    Query(call.query, call.operation.parameters)
    return names


async def _json_body(call: Call) -> bytes:
    body = await call.body()
    if body:
        check_content_type(call.header("Content-Type"), call.header("Content-Encoding"))
    return body


def _wishes(body: AckBody) -> list[LeaseWish]:
    return [
        *(LeaseWish(kind=WishKind.ACK, lease_id=name) for name in body.ack),
        *(
            LeaseWish(
                kind=WishKind.NACK,
                lease_id=nack.id,
                ms=AS_RETRIED if nack.delay_ms is None else nack.delay_ms,
                priority=nack.priority,
            )
            for nack in body.nack
        ),
        *(LeaseWish(kind=WishKind.REJECT, lease_id=reject.id, reason=reject.reason or "") for reject in body.reject),
        *(LeaseWish(kind=WishKind.EXTEND, lease_id=extend.id, ms=extend.lease_ms) for extend in body.extend),
    ]


def _shown(taken: Deliveries) -> DeliveriesAnswer:
    return DeliveriesAnswer([delivery_answer(delivery) for delivery in taken.deliveries])


def delivery_answer(delivery: Delivery) -> DeliveryAnswer:
    """A delivery as it is shown."""
    lease = None if delivery.lease_id is None else LeaseAnswer(delivery.lease_id, rfc3339(delivery.expires_ms))
    return DeliveryAnswer(**msgspec.structs.asdict(message_answer(delivery.message)), lease=lease)


def _settled(settled: Settled) -> SettledAnswer:
    return SettledAnswer(
        settled.ok_count, [FailedAnswer(wish.lease_id, wish.code, wish.detail) for wish in settled.failed]
    )
