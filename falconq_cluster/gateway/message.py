"""One message as a resource: /v1/topics/{topic}/messages/{id}.

What lives here: the handlers that explain, change and cancel a message, and what each takes and gives.
Rules: a message is changed or cancelled before any consumer is handed it, or not at all (PROTOCOL.md P14); that is
judged where the change is applied. What can be judged without the topic is judged before the broker is asked.
Must not know: aiohttp, the log, how a message is found.
"""

from __future__ import annotations

import msgspec

from falconq_cluster.broker.message_requests import (
    CONSUMERS_SHOWN,
    ChangeRequest,
    ExplainedMessage,
    ExplainRequest,
    MessageId,
)
from falconq_cluster.gateway.bodies import read_body
from falconq_cluster.gateway.consistency import CONSISTENCY, next_page, wait_to_read
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
from falconq_cluster.gateway.message_shapes import (
    CANCELLED,
    ExplainedMessageAnswer,
    MessageCancelledAnswer,
    MessageChangeBody,
    read_message_id,
    shown_message,
)
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.query import Query, read_time_ms
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service

LIMIT_MAX = 1000
CONSUMER = Name(name="consumer", text="Where it stands with this consumer. Unset: with all of them, page by page.")
LIMIT = Number(name="limit", text="Most consumers in the answer.", least=1, most=LIMIT_MAX, default=CONSUMERS_SHOWN)
AFTER = Name(name="after", text="The last consumer of the page before; not together with `consumer`.")
CHANGE_EXAMPLE = '{"priority": "high"}'
_PROBLEMS = ("topic_not_found", "message_not_found")
_PROBLEMS_OF_CHANGES = (*_PROBLEMS, "already_delivered", *PROBLEMS_OF_WRITES)

MESSAGE: dict[str, Operation] = {
    "GET": Operation(
        id="getMessage",
        summary="A message, and where it stands",
        tag="Messages",
        text="`delayed`: it waits for its time; `ready`: it is to be given; `leased`: a worker has it; `acked`: it is "
        "settled, or was taken without a lease; `dead`: it went to the dead letters.",
        parameters=(CONSUMER, LIMIT, AFTER, CONSISTENCY),
        headers=(MIN_INDEX,),
        replies=(Reply(text="The message.", body=ExplainedMessageAnswer, headers=("Link",)),),
        problems=(*_PROBLEMS, "consumer_not_found", *PROBLEMS_OF_READS),
    ),
    "PATCH": Operation(
        id="patchMessage",
        summary="Change the priority or the due time of a message that nobody was handed",
        tag="Messages",
        text="What is left out stays. Safe to repeat.",
        headers=(MIN_INDEX,),
        body=Body(content={JSON: MessageChangeBody}, examples={JSON: {"priority": "high"}}),
        replies=(Reply(text="The message as it is now.", body=ExplainedMessageAnswer),),
        problems=("unknown_priority", "delayed_full", *_PROBLEMS_OF_CHANGES),
    ),
    "DELETE": Operation(
        id="deleteMessage",
        summary="Cancel a message that nobody was handed",
        tag="Messages",
        text="From then on it is given to nobody. Safe to repeat: 404 says that it is gone.",
        headers=(MIN_INDEX,),
        replies=(Reply(text="It is gone.", body=MessageCancelledAnswer),),
        problems=("request_timeout", "body_too_large", *_PROBLEMS_OF_CHANGES),
    ),
}

_encoder = msgspec.json.Encoder()


class SingleMessageRoutes:
    """The handlers, over one service."""

    def __init__(self, service: Service, *, json_depth_max: int) -> None:
        self._service = service
        self._json_depth_max = json_depth_max

    def routes(self) -> list[Route]:
        methods = ("GET", "HEAD", "PATCH", "DELETE")
        return [Route(methods, "/v1/topics/{topic}/messages/{id}", self.message, MESSAGE)]

    async def message(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, call.operation.parameters)
        message = read_message_id(call.variable("id"))
        match call.method:
            case "PATCH":
                return await self._change(call, topic, message)
            case "DELETE":
                return await self._cancel(call, topic, message)
        return await self._explain(call, query, topic, message)

    async def _explain(self, call: Call, query: Query, topic: str, message: MessageId) -> Answer:
        consumer, after = query.name(CONSUMER), query.name(AFTER)
        if consumer is not None and after is not None:
            raise refuse("after", "parameter 'after' goes on with other consumers; leave it out beside 'consumer'")
        limit = query.number_or_default(LIMIT)
        await wait_to_read(self._service, call, query)
        request = ExplainRequest(
            topic=topic, id=message, consumer=consumer, after=after or "", limit=limit, deadline_ms=call.deadline_ms
        )
        found = await self._service.explain_message(request)
        if not found.has_more:
            return _answer(found)
        following: dict[str, int | str] = {LIMIT.name: limit, AFTER.name: found.consumers[-1].consumer}
        return _answer(found, next_page(f"/v1/topics/{topic}/messages/{message}", following, query))

    async def _change(self, call: Call, topic: str, message: MessageId) -> Answer:
        data, body = await call.body(), MessageChangeBody()
        if data:
            check_content_type(call.header("Content-Type"), call.header("Content-Encoding"))
            body = read_body(data, MessageChangeBody, depth_max=self._json_depth_max, example=CHANGE_EXAMPLE)
        if body.priority is None and body.delay_ms is None and body.due_at is None:
            text = f"the body changes nothing; give 'priority', 'delayMs' or 'dueAt', such as {CHANGE_EXAMPLE}"
            raise refuse("body", text)
        if body.delay_ms is not None and body.due_at is not None:
            raise refuse("dueAt", "fields 'delayMs' and 'dueAt' say the same; give one of them")
        due_ms = None if body.due_at is None else read_time_ms(body.due_at, "dueAt")
        await wait_min_index(self._service, call)
        request = ChangeRequest(
            topic=topic,
            id=message,
            priority=body.priority,
            delay_ms=body.delay_ms,
            due_ms=due_ms,
            deadline_ms=call.deadline_ms,
        )
        return _answer(await self._service.change_message(request))

    async def _cancel(self, call: Call, topic: str, message: MessageId) -> Answer:
        if await call.body():
            raise refuse("body", "a message is cancelled without a body; send an empty one")
        await wait_min_index(self._service, call)
        index = await self._service.cancel_message(topic, message, deadline_ms=call.deadline_ms)
        return Answer(_encoder.encode(MessageCancelledAnswer(CANCELLED, topic, str(message))), index=index)


def _answer(message: ExplainedMessage, link: dict[str, str] | None = None) -> Answer:
    return Answer(_encoder.encode(shown_message(message)), index=message.index, headers=link or {})
