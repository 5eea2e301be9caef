"""The seed routes: publish, consume, peek, topics, partitions.

What lives here: from a call to a broker request, and from the broker's answer to bytes.
Rules: these routes are frozen and only gain fields. Everything that can be judged without the topic's configuration is
judged before the broker is asked. `FalconQ-Min-Index` is honoured on each of them, before anything is done.
Must not know: aiohttp, the log.
"""

from __future__ import annotations

from dataclasses import replace

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
from falconq_cluster.gateway.consistency import CONSISTENCY, next_page, wait_to_read
from falconq_cluster.gateway.describing import (
    CONSUMER_ID,
    IDEMPOTENCY_KEY,
    JSON,
    MIN_INDEX,
    PARTITION,
    PROBLEMS_OF_READS,
    PROBLEMS_OF_WRITES,
    Body,
    Choice,
    Name,
    Number,
    Operation,
    Reply,
    Time,
)
from falconq_cluster.gateway.fields import (
    PublishBody,
    check_content_type,
    read_idempotency_key,
    read_name,
    read_producer,
    read_publish,
    refuse,
)
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.nesting import check_large
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service
from falconq_cluster.gateway.shapes import BatchAnswer, PartitionsAnswer, PublishAnswer, TopicNamesAnswer
from falconq_cluster.gateway.tracing import TRACEPARENT, read_traceparent

BATCH_MAX = 1000
REPLAYED = {"Idempotency-Replayed": "true"}
NO_STORE = {"Cache-Control": "no-store"}

BATCH = Number(name="batch", text="Most messages in the answer.", least=1, most=BATCH_MAX, default=1, example=10)
ATTEMPT = Name(
    name="attempt",
    text="An id of the client's choice, such as a UUID: the same request with the same id gets the same batch again, "
    "for some minutes.",
    example="5f1c9a52-7d0e-4a57-8a43-d0a3c0a1b2c3",
)
OFFSET = Number(name="offset", text="The lowest offset to show. Unset: the oldest that is stored.")
AT = Time(name="at", text="Show nothing that was published before this time.")
ORDER = Choice(
    name="order",
    text="`offset`, or `delivery`: as a new consumer would get them.",
    choices=(ORDER_OFFSET, ORDER_DELIVERY),
)
PUBLISH_EXAMPLE = {"message": {"order": 17}, "priority": "high", "partitionKey": "customer-4"}
PROBLEMS_OF_PUBLISHES = (
    "unknown_priority",
    "unknown_partition",
    "topic_not_found",
    "sequence_gap",
    "precondition_failed",
    "key_reused",
    "dedupe_full",
    "delayed_full",
    "topic_full",
    "body_too_large",
    *PROBLEMS_OF_WRITES,
)

PUBLISH = Operation(
    id="publish",
    summary="Append one message",
    tag="Messages",
    text="A missing topic is created, unless `auto_create` is off.",
    headers=(IDEMPOTENCY_KEY, TRACEPARENT, MIN_INDEX),
    body=Body(content={JSON: PublishBody}, examples={JSON: PUBLISH_EXAMPLE}),
    replies=(
        Reply(text="The message is on the disks of a majority.", body=PublishAnswer, headers=("Idempotency-Replayed",)),
    ),
    problems=PROBLEMS_OF_PUBLISHES,
)
PEEK = Operation(
    id="peek",
    summary="Look at messages and change nothing",
    tag="Messages",
    parameters=(OFFSET, BATCH, PARTITION, AT, ORDER, CONSISTENCY),
    headers=(MIN_INDEX,),
    replies=(Reply(text="What the node has stored.", body=BatchAnswer, headers=("Link",)),),
    problems=("topic_not_found", "unknown_partition", *PROBLEMS_OF_READS),
)
TOPICS = Operation(
    id="listTopicNames",
    summary="The names of all topics",
    tag="Topics",
    parameters=(CONSISTENCY,),
    headers=(MIN_INDEX,),
    replies=(Reply(text="All of them.", body=TopicNamesAnswer),),
    problems=PROBLEMS_OF_READS,
)
PARTITIONS = Operation(
    id="listPartitions",
    summary="A topic's partitions with their offsets and depths",
    tag="Topics",
    parameters=(CONSISTENCY,),
    headers=(MIN_INDEX,),
    replies=(Reply(text="All of them.", body=PartitionsAnswer),),
    problems=("topic_not_found", *PROBLEMS_OF_READS),
)


def consume_operation(wait: Number) -> Operation:
    """What consume takes and gives; how long it may wait is configured."""
    return Operation(
        id="consume",
        summary="Take the next messages for a consumer",
        tag="Messages",
        text="The consumer's place moves before the answer is sent: without `attempt`, an answer that gets lost takes "
        "its messages with it. With it, repeat until there is an answer, then use a new id.",
        parameters=(CONSUMER_ID, BATCH, PARTITION, wait, ATTEMPT),
        headers=(MIN_INDEX,),
        replies=(Reply(text="The next messages, or none.", body=BatchAnswer, headers=("Cache-Control",)),),
        problems=(
            "topic_not_found",
            "unknown_partition",
            "request_timeout",
            "body_too_large",
            *PROBLEMS_OF_WRITES,
        ),
    )


class SeedRoutes:
    """The handlers, over one service."""

    def __init__(self, service: Service, *, long_poll_ms_max: int, json_depth_max: int) -> None:
        self._service = service
        self._wait = Number(
            name="waitMs",
            text="How long to wait when there is nothing, in milliseconds.",
            most=long_poll_ms_max,
            default=0,
            example=1000,
        )
        self._json_depth_max = json_depth_max

    def routes(self) -> list[Route]:
        return [
            Route(("POST",), "/topic/{topic}/publish", self.publish, PUBLISH),
            Route(("GET", "POST"), "/topic/{topic}/consume", self.consume, consume_operation(self._wait)),
            Route(("GET", "HEAD"), "/topic/{topic}/peek", self.peek, PEEK),
            Route(("GET", "HEAD"), "/topics", self.topics, TOPICS),
            Route(("GET", "HEAD"), "/topics/{topic}/partitions", self.partitions, PARTITIONS),
        ]

    async def publish(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        Query(call.query, call.operation.parameters)
        request = await read_json_publish(call, topic, depth_max=self._json_depth_max)
        await wait_min_index(self._service, call)
        published = await self._service.publish(request)
        replayed = REPLAYED if published.duplicate else {}
        return Answer(answers.encode_published(published), index=published.index, headers=replayed)

    async def consume(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, call.operation.parameters)
        consumer = query.required_name(CONSUMER_ID)
        batch = query.number_or_default(BATCH)
        partition = query.number(PARTITION)
        wait_ms = query.number_or_default(self._wait)
        attempt = query.name(ATTEMPT)
        if call.method == "POST" and await call.body():
            raise refuse("body", "consume takes its parameters from the query; send an empty body")
        await wait_min_index(self._service, call)
        taken = await self._service.consume(
            ConsumeRequest(
                topic=topic,
                consumer=consumer,
                batch=batch,
                partition=partition,
                wait_ms=wait_ms,
                attempt=attempt or "",
                deadline_ms=call.deadline_ms + wait_ms,
            )
        )
        return Answer(answers.encode_batch(taken), index=taken.index, headers=NO_STORE)

    async def peek(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, call.operation.parameters)
        request = PeekRequest(
            topic=topic,
            batch=query.number_or_default(BATCH),
            partition=query.number(PARTITION),
            offset=query.number(OFFSET),
            at_ms=query.time_ms(AT),
            order=query.choice(ORDER),
        )
        await wait_to_read(self._service, call, query)
        batch = await self._service.peek(request)
        return Answer(answers.encode_batch(batch), index=batch.index, headers=_next_page(request, batch, query))

    async def topics(self, call: Call) -> Answer:
        query = Query(call.query, call.operation.parameters)
        await wait_to_read(self._service, call, query)
        return Answer(answers.encode_topics(self._service.topics()))

    async def partitions(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, call.operation.parameters)
        await wait_to_read(self._service, call, query)
        return Answer(answers.encode_partitions(topic, self._service.partitions(topic)))


async def read_json_publish(call: Call, topic: str, *, depth_max: int) -> PublishRequest:
    """The request of a publish with a JSON body. Raises: FalconQError."""
    key = read_idempotency_key(call.headers(IDEMPOTENCY_KEY.name))
    check_content_type(call.header("Content-Type"), call.header("Content-Encoding"))
    body = await call.body()
    depth_max = await check_large(body, depth_max)
    request = publish_request(body, topic, depth_max=depth_max, deadline_ms=call.deadline_ms)
    if key is not None and request.producer is not None:
        raise refuse("producer", "there are both an 'Idempotency-Key' and a 'producer'; give one of them")
    return replace(request, idempotency_key=key, traceparent=read_traceparent(call.headers(TRACEPARENT.name)))


def publish_request(data: bytes, topic: str, *, depth_max: int, deadline_ms: int) -> PublishRequest:
    """The request of one message in JSON, without the key of a header. Raises: FalconQError."""
    body = read_publish(data, depth_max=depth_max)
    producer = read_producer(bytes(body.producer))
    headers = bytes(body.headers)
    if body.expected_last_offset is not None and body.partition is None:
        text = "'expectedLastOffset' is of one partition; give its 'partitionID' too"
        raise refuse("expectedLastOffset", text)
    if body.expected_last_offset is not None and body.delay_ms:
        raise refuse("delayMs", "a delayed message has no offset yet; give 'delayMs' or 'expectedLastOffset'")
    return PublishRequest(
        topic=topic,
        message=bytes(body.message),
        priority=body.priority,
        partition_key=body.partition_key,
        partition=body.partition,
        headers=None if headers in (b"", b"null") else headers,
        producer=None if producer is None else Producer(id=producer[0], sequence=producer[1]),
        expected_last_offset=body.expected_last_offset,
        delay_ms=body.delay_ms or 0,
        ttl_ms=body.ttl_ms or 0,
        deadline_ms=deadline_ms,
    )


def _next_page(request: PeekRequest, batch: Batch, asked: Query) -> dict[str, str]:
    """A link to the next page; none after the last one, and none where one offset can't say where it begins."""
    if batch.next_offset is None or len(batch.messages) < request.batch or request.order != ORDER_OFFSET:
        return {}
    query: dict[str, int | str] = {"offset": batch.next_offset, "batch": request.batch}
    if request.partition is not None:
        query[PARTITION.name] = request.partition
    return next_page(f"/topic/{request.topic}/peek", query, asked)
