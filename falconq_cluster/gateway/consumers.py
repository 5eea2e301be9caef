"""Consumers as resources: /v1/topics/{topic}/consumers and below, and the redrive of dead letters.

What lives here: the handlers, and what each route takes and gives.
Rules: PUT gives a consumer exactly these settings, the defaults where the body says nothing; where it starts counts
only when it is made. What can be judged without the topic is judged before the broker is asked.
Must not know: aiohttp, the log, how a consumer's place is kept.
"""

from __future__ import annotations

import msgspec

from falconq_cluster.broker.consumer_requests import ConsumerInfo, ConsumerRequest, SeekRequest
from falconq_cluster.gateway.bodies import read_body
from falconq_cluster.gateway.consistency import CONSISTENCY, next_page, wait_to_read
from falconq_cluster.gateway.consumer_shapes import (
    DELETED,
    REDRIVEN,
    ConsumerAnswer,
    ConsumerBody,
    ConsumerDeletedAnswer,
    ConsumerPageAnswer,
    RedriveBody,
    RedrivenAnswer,
    SeekBody,
    Shape,
    read_place,
    shown_consumer,
)
from falconq_cluster.gateway.describing import (
    JSON,
    MIN_INDEX,
    PROBLEMS_OF_READS,
    PROBLEMS_OF_WRITES,
    Body,
    Name,
    Number,
    Operation,
    Reply,
)
from falconq_cluster.gateway.fields import check_content_type, read_name, refuse
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service
from falconq_cluster.machine.managing import EXPIRE_AFTER_MS_MIN
from falconq_cluster.machine.subscriptions import ConsumerConfig, Ordering

READ = ("GET", "HEAD")
LIMIT_DEFAULT = 100
LIMIT_MAX = 1000

LIMIT = Number(name="limit", text="Most consumers in the answer.", least=1, most=LIMIT_MAX, default=LIMIT_DEFAULT)
AFTER = Name(name="after", text="The last name of the page before.")


_CONSUMER_EXAMPLE = '{"start": "latest", "leaseMs": 60000, "expireAfterMs": 0}'
_SEEK_EXAMPLE = '{"to": "earliest"}, {"to": {"offset": 5}} or {"to": {"time": "2026-01-31T12:00:00Z"}}'
_REDRIVE_EXAMPLE = '{"max": 100}'
_PROBLEMS = ("topic_not_found", "consumer_not_found", *PROBLEMS_OF_WRITES)
_SHOWN = Reply(text="The consumer.", body=ConsumerAnswer)

LIST = Operation(
    id="listConsumers",
    summary="Consumers of a topic, page by page",
    tag="Consumers",
    parameters=(LIMIT, AFTER, CONSISTENCY),
    headers=(MIN_INDEX,),
    replies=(Reply(text="One page.", body=ConsumerPageAnswer, headers=("Link",)),),
    problems=("topic_not_found", *PROBLEMS_OF_READS),
)
CONSUMER: dict[str, Operation] = {
    "GET": Operation(
        id="getConsumer",
        summary="A consumer: settings, lag, age of what waits",
        tag="Consumers",
        parameters=(CONSISTENCY,),
        headers=(MIN_INDEX,),
        replies=(_SHOWN,),
        problems=("topic_not_found", "consumer_not_found", *PROBLEMS_OF_READS),
    ),
    "PUT": Operation(
        id="putConsumer",
        summary="Make a consumer, or give it exactly these settings",
        tag="Consumers",
        text="Settings that are left out have their defaults; `start` counts only when the consumer is made.",
        headers=(MIN_INDEX,),
        body=Body(
            content={JSON: ConsumerBody}, is_required=False, examples={JSON: {"start": "latest", "leaseMs": 60000}}
        ),
        replies=(_SHOWN, Reply(text="It was made.", status=201, body=ConsumerAnswer, headers=("Location",))),
        problems=("topic_not_found", *PROBLEMS_OF_WRITES),
    ),
    "DELETE": Operation(
        id="deleteConsumer",
        summary="Delete a consumer with its place and what it has in hand",
        tag="Consumers",
        headers=(MIN_INDEX,),
        replies=(Reply(text="It is gone.", body=ConsumerDeletedAnswer),),
        problems=("request_timeout", "body_too_large", *_PROBLEMS),
    ),
}
SEEK = Operation(
    id="seekConsumer",
    summary="Let a consumer go on elsewhere",
    tag="Consumers",
    text="All its leases end, and what it had in hand counts as not given.",
    headers=(MIN_INDEX,),
    body=Body(content={JSON: SeekBody}, examples={JSON: {"to": "earliest"}}),
    replies=(_SHOWN,),
    problems=_PROBLEMS,
)
PAUSE = Operation(
    id="pauseConsumer",
    summary="Give a consumer nothing from now on",
    tag="Consumers",
    text="It may settle what it has in hand.",
    headers=(MIN_INDEX,),
    replies=(_SHOWN,),
    problems=("request_timeout", "body_too_large", *_PROBLEMS),
)
RESUME = Operation(
    id="resumeConsumer",
    summary="Give a paused consumer messages again",
    tag="Consumers",
    headers=(MIN_INDEX,),
    replies=(_SHOWN,),
    problems=("request_timeout", "body_too_large", *_PROBLEMS),
)
REDRIVE = Operation(
    id="redriveDeadLetters",
    summary="Move dead letters back to their topic",
    tag="Consumers",
    text="Each goes back once, with its level. All consumers of the topic are given it.",
    headers=(MIN_INDEX,),
    body=Body(content={JSON: RedriveBody}, is_required=False, examples={JSON: {"max": 100}}),
    replies=(Reply(text="They go back.", body=RedrivenAnswer),),
    problems=("topic_not_found", *PROBLEMS_OF_WRITES),
)

_encoder = msgspec.json.Encoder()


class ConsumerRoutes:
    """The handlers, over one service."""

    def __init__(self, service: Service, *, json_depth_max: int) -> None:
        self._service = service
        self._json_depth_max = json_depth_max

    def routes(self) -> list[Route]:
        consumers = "/v1/topics/{topic}/consumers"
        return [
            Route(READ, consumers, self.listed, LIST),
            Route((*READ, "PUT", "DELETE"), f"{consumers}/{{consumer}}", self.consumer, CONSUMER),
            Route(("POST",), f"{consumers}/{{consumer}}/seek", self.seek, SEEK),
            Route(("POST",), f"{consumers}/{{consumer}}/pause", self.pause, PAUSE),
            Route(("POST",), f"{consumers}/{{consumer}}/resume", self.resume, RESUME),
            Route(("POST",), "/v1/topics/{topic}/dead-letters:redrive", self.redrive, REDRIVE),
        ]

    async def listed(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, call.operation.parameters)
        limit, after = query.number_or_default(LIMIT), query.name(AFTER) or ""
        await wait_to_read(self._service, call, query)
        page, has_more = await self._service.consumers_after(topic, after, limit)
        shown = [shown_consumer(info) for info in page]
        if not has_more:
            return Answer(_encoder.encode(ConsumerPageAnswer(shown, None)))
        following = shown[-1].consumer
        link = next_page(f"/v1/topics/{topic}/consumers", {LIMIT.name: limit, AFTER.name: following}, query)
        return Answer(_encoder.encode(ConsumerPageAnswer(shown, following)), headers=link)

    async def consumer(self, call: Call) -> Answer:
        topic, consumer = _names(call)
        query = Query(call.query, call.operation.parameters)
        match call.method:
            case "PUT":
                return await self._set(call, topic, consumer)
            case "DELETE":
                await _refuse_body(call)
                await wait_min_index(self._service, call)
                index = await self._service.delete_consumer(topic, consumer, deadline_ms=call.deadline_ms)
                return Answer(_encoder.encode(ConsumerDeletedAnswer(DELETED, topic, consumer)), index=index)
        await wait_to_read(self._service, call, query)
        return _answer(await self._service.consumer(topic, consumer))

    async def _set(self, call: Call, topic: str, consumer: str) -> Answer:
        body = await self._read(call, ConsumerBody, _CONSUMER_EXAMPLE) or ConsumerBody()
        if 0 < body.expire_after_ms < EXPIRE_AFTER_MS_MIN:
            text = f"field 'expireAfterMs' is {body.expire_after_ms}; it is 0 for never, or from {EXPIRE_AFTER_MS_MIN}"
            raise refuse("expireAfterMs", text)
        start, ordering = read_place(body.start, "start"), Ordering[body.ordering.upper()]
        config = ConsumerConfig(start, body.lease_ms or 0, body.in_flight_max or 0, body.expire_after_ms, ordering)
        await wait_min_index(self._service, call)
        request = ConsumerRequest(topic=topic, consumer=consumer, config=config, deadline_ms=call.deadline_ms)
        return _answer(await self._service.set_consumer(request))

    async def seek(self, call: Call) -> Answer:
        topic, consumer = _names(call)
        Query(call.query, ())
        body = await self._read(call, SeekBody, _SEEK_EXAMPLE)
        if body is None:
            raise refuse("to", f"field 'to' is missing; send {_SEEK_EXAMPLE}")
        to = read_place(body.to, "to")
        await wait_min_index(self._service, call)
        request = SeekRequest(topic=topic, consumer=consumer, to=to, deadline_ms=call.deadline_ms)
        return _answer(await self._service.seek_consumer(request))

    async def pause(self, call: Call) -> Answer:
        return await self._pause(call, is_paused=True)

    async def resume(self, call: Call) -> Answer:
        return await self._pause(call, is_paused=False)

    async def _pause(self, call: Call, *, is_paused: bool) -> Answer:
        topic, consumer = _names(call)
        Query(call.query, ())
        await _refuse_body(call)
        await wait_min_index(self._service, call)
        return _answer(
            await self._service.pause_consumer(topic, consumer, is_paused=is_paused, deadline_ms=call.deadline_ms)
        )

    async def redrive(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        Query(call.query, ())
        body = await self._read(call, RedriveBody, _REDRIVE_EXAMPLE) or RedriveBody()
        await wait_min_index(self._service, call)
        info = await self._service.redrive(topic, count_max=body.count or 0, deadline_ms=call.deadline_ms)
        shown = RedrivenAnswer(REDRIVEN, info.topic, info.dead_letter_topic, info.count)
        return Answer(_encoder.encode(shown), index=info.index)

    async def _read(self, call: Call, shape: type[Shape], example: str) -> Shape | None:
        """The body as its struct; None for an empty one. Raises: bad_request, unknown_field."""
        data = await call.body()
        if not data:
            return None
        check_content_type(call.header("Content-Type"), call.header("Content-Encoding"))
        return read_body(data, shape, depth_max=self._json_depth_max, example=example)


def _names(call: Call) -> tuple[str, str]:
    """(topic, consumer). Raises: bad_request."""
    return read_name(call.topic, "topic"), read_name(call.variable("consumer"), "consumer")


async def _refuse_body(call: Call) -> None:
    if await call.body():
        raise refuse("body", f"{call.method} {call.route.pattern} has no body; send an empty one")


def _answer(info: ConsumerInfo) -> Answer:
    shown = shown_consumer(info)
    headers = {"Location": f"/v1/topics/{shown.topic}/consumers/{shown.consumer}"} if info.is_new else {}
    return Answer(_encoder.encode(shown), status=201 if info.is_new else 200, index=info.index, headers=headers)
