"""Messages as resources: /v1/topics/{topic}/messages.

What lives here: the handler of a publish as JSON or as a raw body; that of a replay is in gateway/replay.py.
Rules: a body of type application/json is the publish body of the seed route; one of any other type is the message
itself. Raw text is kept as a JSON string, all else as one in base64, and the message's headers say which.
Must not know: aiohttp, the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from falconq_cluster.broker.requests import Published, PublishRequest
from falconq_cluster.gateway import answers
from falconq_cluster.gateway.cloudevents import (
    CLOUDEVENT,
    CLOUDEVENT_JSON,
    PREFIX,
    STRUCTURED_SCHEMA,
    binary_attributes,
    check_structured,
    is_json,
    read_binary,
    read_structured,
    refuse_key,
)
from falconq_cluster.gateway.describing import IDEMPOTENCY_KEY, JSON, MIN_INDEX, Body, Operation, Reply, Text
from falconq_cluster.gateway.fields import (
    PARTITION_KEY_CHARS_MAX,
    PublishBody,
    check_encoding,
    media_type,
    read_idempotency_key,
    read_name,
    refuse,
    shown,
)
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.nesting import check_large
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.raw import DELAY, TTL, level_of_text, raw_message, read_timing, single_header
from falconq_cluster.gateway.replay import REPLAY, replay
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service
from falconq_cluster.gateway.seed import PROBLEMS_OF_PUBLISHES, PUBLISH_EXAMPLE, REPLAYED, read_json_publish
from falconq_cluster.gateway.shapes import PublishAnswer
from falconq_cluster.gateway.tracing import TRACEPARENT, read_traceparent

PRIORITY = "FalconQ-Priority"
KEY = "FalconQ-Key"
RAW_HEADERS = (PRIORITY, KEY, DELAY.name, TTL.name)
"""A JSON body has fields for them."""
CONTENT_TYPE_CHARS_MAX = 256

PUBLISH = Operation(
    id="createMessage",
    summary="Append one message, as JSON or as a raw body",
    tag="Messages",
    text="A body of any type but `application/json` is the message itself: text is kept as a JSON string, all else as "
    "one in base64, and the headers `contentType` and `encoding` of the message say which. With the "
    "headers `ce-specversion`, `ce-id`, `ce-source` and `ce-type`, and others that begin with `ce-`, the body is the "
    "data of a CloudEvent in binary mode, by the HTTP binding of CloudEvents 1.0.",
    headers=(
        IDEMPOTENCY_KEY,
        Text(name=PRIORITY, text="Of a raw body: its `priority`, a level's name or number."),
        Text(name=KEY, text="Of a raw body: its `partitionKey`, in ASCII.", pattern="^[!-~]([ -~]{0,254}[!-~])?$"),
        DELAY,
        TTL,
        TRACEPARENT,
        MIN_INDEX,
    ),
    header_prefix=PREFIX,
    body=Body(
        content={
            JSON: PublishBody,
            CLOUDEVENT_JSON: STRUCTURED_SCHEMA,
            "text/plain": {"type": "string"},
            "application/octet-stream": {},
        },
        text="Every other type is taken as `application/octet-stream` is.",
        examples={JSON: PUBLISH_EXAMPLE, "text/plain": "hello"},
    ),
    replies=(
        Reply(
            text="The message is on the disks of a majority.",
            status=201,
            body=PublishAnswer,
            headers=("Idempotency-Replayed", "Location"),
        ),
    ),
    problems=PROBLEMS_OF_PUBLISHES,
)

_encoder = msgspec.json.Encoder()


class MessageRoutes:
    """The handlers, over one service."""

    def __init__(self, service: Service, *, json_depth_max: int) -> None:
        self._service = service
        self._json_depth_max = json_depth_max

    def routes(self) -> list[Route]:
        describes = {"GET": REPLAY, "POST": PUBLISH}
        return [Route(("GET", "HEAD", "POST"), "/v1/topics/{topic}/messages", self.messages, describes)]

    async def messages(self, call: Call) -> Answer:
        return await (self.publish(call) if call.method == "POST" else replay(self._service, call))

    async def publish(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        Query(call.query, call.operation.parameters)
        kind = media_type(call.header("Content-Type") or JSON)
        attributes = binary_attributes(call.prefixed_headers())
        if attributes or kind.startswith(CLOUDEVENT):
            request = await self._read_event(call, topic, attributes)
        elif kind == JSON:
            refuse_raw_headers(call)
            request = await read_json_publish(call, topic, depth_max=self._json_depth_max)
        else:
            request = await _read_raw_publish(call, topic)
        await wait_min_index(self._service, call)
        return _made(await self._service.publish(request))

    async def _read_event(self, call: Call, topic: str, attributes: dict[str, str]) -> PublishRequest:
        """The body, or with attributes in headers the data, is of a CloudEvent. Raises: FalconQError."""
        refuse_raw_headers(call, (PRIORITY, KEY))
        refuse_key(call.headers(IDEMPOTENCY_KEY.name))
        check_encoding(call.header("Content-Encoding"))
        timing = read_timing(call)
        content_type, body = call.header("Content-Type"), await call.body()
        is_structured = media_type(content_type or JSON).startswith(CLOUDEVENT)
        depth_max = self._json_depth_max
        if is_structured or is_json(content_type or ""):
            depth_max = await check_large(body, depth_max)
        if is_structured:
            check_structured(content_type or "", CLOUDEVENT_JSON)
            request = read_structured(body, topic, depth_max=depth_max, deadline_ms=call.deadline_ms, timing=timing)
        else:
            if content_type is not None:
                attributes["datacontenttype"] = content_type
            request = read_binary(
                attributes, body, topic, depth_max=depth_max, deadline_ms=call.deadline_ms, timing=timing
            )
        return replace(request, traceparent=read_traceparent(call.headers(TRACEPARENT.name)))


def refuse_raw_headers(call: Call, names: Sequence[str] = RAW_HEADERS) -> None:
    """Raises: bad_request when a header gives what a JSON body has a field for."""
    for name in names:
        if call.headers(name):
            raise refuse(name, f"header '{name}' is for raw bodies; in JSON, give the field in the body")


async def _read_raw_publish(call: Call, topic: str) -> PublishRequest:
    """The body is the message. Raises: bad_request, unsupported_media_type."""
    key = read_idempotency_key(call.headers(IDEMPOTENCY_KEY.name))
    content_type = call.header("Content-Type") or ""
    check_encoding(call.header("Content-Encoding"))
    if len(content_type) > CONTENT_TYPE_CHARS_MAX or not content_type.isascii():
        text = f"header 'Content-Type' has at most {CONTENT_TYPE_CHARS_MAX} ASCII characters"
        raise refuse("Content-Type", text)
    priority = single_header(call, PRIORITY)
    partition_key = single_header(call, KEY)
    if partition_key is not None and not (
        partition_key.isascii() and 1 <= len(partition_key) <= PARTITION_KEY_CHARS_MAX
    ):
        raise refuse(KEY, f"header '{KEY}' is {shown(partition_key)}; a key has 1 to 256 ASCII characters here")
    timing = read_timing(call)
    message, headers = raw_message(await call.body(), content_type)
    return PublishRequest(
        topic=topic,
        message=message,
        priority=level_of_text(priority),
        partition_key=partition_key,
        headers=_encoder.encode(headers),
        delay_ms=timing.delay_ms or 0,
        ttl_ms=timing.ttl_ms or 0,
        idempotency_key=key,
        traceparent=read_traceparent(call.headers(TRACEPARENT.name)),
        deadline_ms=call.deadline_ms,
    )


def _made(published: Published) -> Answer:
    headers = dict(REPLAYED) if published.duplicate else {}
    if published.id is not None:
        headers["Location"] = f"/v1/topics/{published.topic}/messages/{published.id}"
    return Answer(answers.encode_published(published), status=201, index=published.index, headers=headers)
