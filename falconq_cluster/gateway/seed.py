"""The seed routes: publish, consume, peek, topics, partitions.

What lives here: from a call to a broker request, and from the broker's answer to bytes.
Rules: these routes are frozen and only gain fields. Everything that can be judged without the topic's configuration is
judged before the broker is asked. `FalconQ-Min-Index` is honoured on each of them, before anything is done.
Must not know: aiohttp, the log.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

from falconq_cluster.broker.requests import (
    ORDER_DELIVERY,
    ORDER_OFFSET,
    Batch,
    ConsumeRequest,
    PeekRequest,
    Producer,
    PublishRequest,
)
from falconq_cluster.gateway import answers
from falconq_cluster.gateway.consistency import CONSISTENCY, LINEARIZABLE, wait_to_read
from falconq_cluster.gateway.fields import (
    PARTITION_MAX,
    Query,
    check_content_type,
    read_idempotency_key,
    read_name,
    read_producer,
    read_publish,
    refuse,
)
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service

BATCH_MAX = 1000
REPLAYED = {"Idempotency-Replayed": "true"}
NO_STORE = {"Cache-Control": "no-store"}
CONSUME_PARAMETERS = ("consumerID", "batch", "partitionID", "waitMs", "attempt")
PEEK_PARAMETERS = ("offset", "batch", "partitionID", "at", "order", CONSISTENCY)
READ_PARAMETERS = (CONSISTENCY,)


class SeedRoutes:
    """The handlers, over one service."""

    def __init__(self, service: Service, *, long_poll_ms_max: int, json_depth_max: int) -> None:
        self._service = service
        self._long_poll_ms_max = long_poll_ms_max
        self._json_depth_max = json_depth_max

    def routes(self) -> list[Route]:
        return [
            Route(("POST",), "/topic/{topic}/publish", self.publish),
            Route(("GET", "POST"), "/topic/{topic}/consume", self.consume),
            Route(("GET", "HEAD"), "/topic/{topic}/peek", self.peek),
            Route(("GET", "HEAD"), "/topics", self.topics),
            Route(("GET", "HEAD"), "/topics/{topic}/partitions", self.partitions),
        ]

    async def publish(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        Query(call.query, ())
        request = await read_json_publish(call, topic, depth_max=self._json_depth_max)
        await wait_min_index(self._service, call)
        published = await self._service.publish(request)
        replayed = REPLAYED if published.duplicate else {}
        return Answer(answers.encode_published(published), index=published.index, headers=replayed)

    async def consume(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, CONSUME_PARAMETERS)
        consumer = read_name(query.required("consumerID", "?consumerID=billing"), "consumerID")
        batch = query.number("batch", least=1, most=BATCH_MAX)
        partition = query.number("partitionID", least=0, most=PARTITION_MAX)
        wait_ms = query.number("waitMs", least=0, most=self._long_poll_ms_max) or 0
        attempt = query.text("attempt")
        if attempt is not None:
            attempt = read_name(attempt, "attempt")
        if call.method == "POST" and await call.body():
            raise refuse("body", "consume takes its parameters from the query; send an empty body")
        await wait_min_index(self._service, call)
        taken = await self._service.consume(
            ConsumeRequest(
                topic=topic,
                consumer=consumer,
                batch=1 if batch is None else batch,
                partition=partition,
                wait_ms=wait_ms,
                attempt=attempt or "",
                deadline_ms=call.deadline_ms + wait_ms,
            )
        )
        return Answer(answers.encode_batch(taken), index=taken.index, headers=NO_STORE)

    async def peek(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, PEEK_PARAMETERS)
        size = query.number("batch", least=1, most=BATCH_MAX)
        request = PeekRequest(
            topic=topic,
            batch=1 if size is None else size,
            partition=query.number("partitionID", least=0, most=PARTITION_MAX),
            offset=query.number("offset", least=0),
            at_ms=query.time_ms("at"),
            order=query.choice("order", (ORDER_OFFSET, ORDER_DELIVERY)),
        )
        await wait_to_read(self._service, call, query)
        batch = await self._service.peek(request)
        return Answer(answers.encode_batch(batch), index=batch.index, headers=_next_page(request, batch, query))

    async def topics(self, call: Call) -> Answer:
        query = Query(call.query, READ_PARAMETERS)
        await wait_to_read(self._service, call, query)
        return Answer(answers.encode_topics(self._service.topics()))

    async def partitions(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, READ_PARAMETERS)
        await wait_to_read(self._service, call, query)
        return Answer(answers.encode_partitions(topic, self._service.partitions(topic)))


async def read_json_publish(call: Call, topic: str, *, depth_max: int) -> PublishRequest:
    """The request of a publish with a JSON body. Raises: FalconQError."""
    key = read_idempotency_key(call.headers("Idempotency-Key"))
    check_content_type(call.header("Content-Type"), call.header("Content-Encoding"))
    request = publish_request(await call.body(), topic, depth_max=depth_max, deadline_ms=call.deadline_ms)
    if key is not None and request.producer is not None:
        raise refuse("producer", "there are both an 'Idempotency-Key' and a 'producer'; give one of them")
    return replace(request, idempotency_key=key)


def publish_request(data: bytes, topic: str, *, depth_max: int, deadline_ms: int) -> PublishRequest:
    """The request of one message in JSON, without the key of a header. Raises: FalconQError."""
    body = read_publish(data, depth_max=depth_max)
    producer = read_producer(bytes(body.producer))
    headers = bytes(body.headers)
    return PublishRequest(
        topic=topic,
        message=bytes(body.message),
        priority=body.priority,
        partition_key=body.partition_key,
        partition=body.partition,
        headers=None if headers in (b"", b"null") else headers,
        producer=None if producer is None else Producer(id=producer[0], sequence=producer[1]),
        deadline_ms=deadline_ms,
    )


def _next_page(request: PeekRequest, batch: Batch, asked: Query) -> dict[str, str]:
    """A link to the next page; none after the last one, and none where one offset can't say where it begins."""
    if batch.next_offset is None or len(batch.messages) < request.batch or request.order != ORDER_OFFSET:
        return {}
    query: dict[str, int | str] = {"offset": batch.next_offset, "batch": request.batch}
    if request.partition is not None:
        query["partitionID"] = request.partition
    if asked.text(CONSISTENCY) == LINEARIZABLE:
        query[CONSISTENCY] = LINEARIZABLE
    return {"Link": f'</topic/{request.topic}/peek?{urlencode(query)}>; rel="next"'}
