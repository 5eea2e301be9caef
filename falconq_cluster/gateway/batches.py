"""Many messages in one request: /v1/topics/{topic}/messages:batch.

What lives here: the handler, how a body is split into messages, and the answer with one result for each.
Rules: results are in the order of the messages. Each message is judged, appended and refused for itself; those of one
partition and level are appended in their order. An `Idempotency-Key` gives each message the key `<key>.<place>`, so a
repeat of the batch repeats each of its messages. With `atomic=true` one operation appends all of them or none.
Must not know: aiohttp, the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from falconq_cluster.broker.requests import AtomicRequest, Published, PublishRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway import answers
from falconq_cluster.gateway.cloudevents import (
    CLOUDEVENT,
    CLOUDEVENT_BATCH_JSON,
    STRUCTURED_SCHEMA,
    batch_key,
    check_structured,
    read_structured,
    refuse_key,
)
from falconq_cluster.gateway.describing import (
    IDEMPOTENCY_KEY,
    JSON,
    MIN_INDEX,
    NDJSON,
    Body,
    Choice,
    Operation,
    Reply,
    reference,
)
from falconq_cluster.gateway.fields import (
    IDEMPOTENCY_KEY_CHARS_MAX,
    PublishBody,
    check_content_type,
    media_type,
    read_idempotency_key,
    read_name,
    refuse,
)
from falconq_cluster.gateway.messages import (
    RAW_HEADERS,
    refuse_raw_headers,
)
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.nesting import check_large
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service
from falconq_cluster.gateway.seed import PROBLEMS_OF_PUBLISHES, PUBLISH_EXAMPLE, REPLAYED, publish_request
from falconq_cluster.gateway.shapes import BatchResultsAnswer
from falconq_cluster.gateway.splitting import split_array, split_lines
from falconq_cluster.gateway.tracing import TRACEPARENT, read_traceparent

BATCH_MESSAGES_MAX = 10_000
ATOMIC_MESSAGES_MAX = 1_000
"""They become one operation in one turn of the loop, which takes 5 ms then."""
PLACE_CHARS = 6
"""What `.9999` adds to a key, and one to spare."""
TURN_MESSAGES = 50
"""So many are judged, or proposed, before the loop has its turn: 50 take 1 to 2 ms, and heartbeats must go on."""
TURN_BYTES = 65_536
"""The same for large messages: to judge so much takes about 1 ms."""

ATOMIC = Choice(
    name="atomic",
    text=f"`true`: all messages, at most {ATOMIC_MESSAGES_MAX}, are appended at one place of the log, or none is. An "
    "`Idempotency-Key` is then that of the batch.",
    choices=("false", "true"),
)

BATCH = Operation(
    id="createMessages",
    summary="Append up to 10,000 messages, each with a result of its own",
    tag="Messages",
    text="Messages of one partition and level are appended in their order. An `Idempotency-Key` gives each message the "
    "key `<key>.<place>`, so a repeat of the batch repeats each of its messages.",
    parameters=(ATOMIC,),
    headers=(IDEMPOTENCY_KEY, TRACEPARENT, MIN_INDEX),
    refused_headers=RAW_HEADERS,
    body=Body(
        content={
            JSON: {
                "type": "array",
                "items": reference(PublishBody),
                "minItems": 1,
                "maxItems": BATCH_MESSAGES_MAX,
            },
            NDJSON: {"type": "string"},
            CLOUDEVENT_BATCH_JSON: {
                "type": "array",
                "items": STRUCTURED_SCHEMA,
                "minItems": 1,
                "maxItems": BATCH_MESSAGES_MAX,
            },
        },
        text="An array of messages, one message a line, or an array of CloudEvents. An atomic batch of events has one "
        "key, of all their sources and ids in their order.",
        examples={JSON: [PUBLISH_EXAMPLE, {"message": "second"}]},
    ),
    replies=(Reply(text="What became of each.", body=BatchResultsAnswer, headers=("Idempotency-Replayed",)),),
    problems=PROBLEMS_OF_PUBLISHES,
)


class BatchRoutes:
    """The handler, over one service."""

    def __init__(self, service: Service, *, json_depth_max: int, batch_bytes_max: int) -> None:
        self._service = service
        self._json_depth_max = json_depth_max
        self._batch_bytes_max = batch_bytes_max

    def routes(self) -> list[Route]:
        pattern = "/v1/topics/{topic}/messages:batch"
        return [Route(("POST",), pattern, self.publish, BATCH, body_bytes_max=self._batch_bytes_max)]

    async def publish(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        is_atomic = Query(call.query, call.operation.parameters).choice(ATOMIC) == "true"
        refuse_raw_headers(call)
        key = read_idempotency_key(call.headers(IDEMPOTENCY_KEY.name))
        if key is not None and len(key) > IDEMPOTENCY_KEY_CHARS_MAX - PLACE_CHARS:
            most = IDEMPOTENCY_KEY_CHARS_MAX - PLACE_CHARS
            raise refuse("Idempotency-Key", f"the key of a batch has at most {most} characters")
        has_events = _has_events(call)
        if has_events:
            refuse_key([] if key is None else [key])
        parts = await self._parts(call, ATOMIC_MESSAGES_MAX if is_atomic else BATCH_MESSAGES_MAX, has_events=has_events)
        await wait_min_index(self._service, call)
        trace = read_traceparent(call.headers(TRACEPARENT.name))
        requests: list[PublishRequest | FalconQError] = []
        turn_bytes = 0
        for place, part in enumerate(parts):
            own_key = None if key is None or is_atomic else f"{key}.{place}"
            try:
                depth_max = await check_large(part, self._json_depth_max)
            except FalconQError as error:
                requests.append(error)
                continue
            requests.append(self._request(part, call, topic, own_key, trace, depth_max, is_event=has_events))
            turn_bytes += len(part)
            if place % TURN_MESSAGES == TURN_MESSAGES - 1 or turn_bytes >= TURN_BYTES:
                turn_bytes = 0
                await asyncio.sleep(0)
        if is_atomic:
            return await self._publish_atomic(call, topic, key, requests, has_events=has_events)
        results = await self._publish_all(requests)
        index = max((result.index for result in results if isinstance(result, Published)), default=None)
        return Answer(answers.encode_batch_results(results), index=index)

    async def _publish_atomic(
        self,
        call: Call,
        topic: str,
        key: str | None,
        requests: Sequence[PublishRequest | FalconQError],
        *,
        has_events: bool,
    ) -> Answer:
        messages: list[PublishRequest] = []
        for place, request in enumerate(requests):
            if isinstance(request, FalconQError):
                raise request.at_place(place)
            if request.producer is not None:
                text = "messages of an atomic batch have no 'producer'; give the batch an 'Idempotency-Key'"
                raise refuse("producer", text).at_place(place)
            messages.append(request)
        if has_events:
            key = batch_key([message.idempotency_key for message in messages])
        published = await self._service.publish_atomic(
            AtomicRequest(topic=topic, messages=messages, idempotency_key=key, deadline_ms=call.deadline_ms)
        )
        headers = REPLAYED if published[0].duplicate else {}
        return Answer(answers.encode_batch_results(published), index=published[0].index, headers=headers)

    async def _parts(self, call: Call, count_max: int, *, has_events: bool) -> list[bytes]:
        """The messages as they came. Raises: bad_request."""
        content_type = call.header("Content-Type")
        is_lines = content_type is not None and media_type(content_type) == NDJSON
        if has_events:
            check_structured(content_type or "", CLOUDEVENT_BATCH_JSON)
        check_content_type(None if is_lines or has_events else content_type, call.header("Content-Encoding"))
        body = await call.body()
        parts = await (split_lines if is_lines else split_array)(body, count_max)
        if not 1 <= len(parts) <= count_max:
            has = f"more than {count_max}" if parts else "no"
            raise refuse("body", f"the body has {has} messages; such a batch has 1 to {count_max}")
        return parts

    def _request(
        self,
        part: bytes,
        call: Call,
        topic: str,
        key: str | None,
        trace: str | None,
        depth_max: int,
        *,
        is_event: bool,
    ) -> PublishRequest | FalconQError:
        read = read_structured if is_event else publish_request
        try:
            request = read(part, topic, depth_max=depth_max, deadline_ms=call.deadline_ms)
            if key is not None and request.producer is not None:
                raise refuse("producer", "there are both an 'Idempotency-Key' and a 'producer'; give one of them")
        except FalconQError as error:
            return error
        return replace(request, idempotency_key=request.idempotency_key or key, traceparent=trace)

    async def _publish_all(self, requests: list[PublishRequest | FalconQError]) -> list[Published | FalconQError]:
        """The outcome of each. All are proposed in their order before any is waited for."""
        results: list[Published | FalconQError | None] = [
            request if isinstance(request, FalconQError) else None for request in requests
        ]

        async def publish(place: int, request: PublishRequest) -> None:
            try:
                results[place] = await self._service.publish(request)
            except FalconQError as error:
                results[place] = error

        async with asyncio.TaskGroup() as group:
            for place, request in enumerate(requests):
                if isinstance(request, PublishRequest):
                    group.create_task(publish(place, request))
                if place % TURN_MESSAGES == TURN_MESSAGES - 1:
                    await asyncio.sleep(0)
        return [result for result in results if result is not None]


def _has_events(call: Call) -> bool:
    return media_type(call.header("Content-Type") or JSON).startswith(CLOUDEVENT)
