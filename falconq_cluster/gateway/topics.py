"""Topics as resources: /v1/topics and /v1/topics/{topic}.

What lives here: the handlers, also of a purge, and what ETag and conditions mean.
Rules: an ETag names one version of a topic's settings for ever, also over a deletion. A condition is judged where the
change is applied, so of two clients that saw the same version one wins. Settings that are not known are refused.
Must not know: aiohttp, the log.
"""

from __future__ import annotations

import re

from falconq_cluster.broker.requests import TopicInfo, TopicRequest
from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway import answers
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
    Text,
)
from falconq_cluster.gateway.fields import check_content_type, read_name, refuse
from falconq_cluster.gateway.minimum import wait_min_index
from falconq_cluster.gateway.query import Query
from falconq_cluster.gateway.routing import Answer, Call, Route
from falconq_cluster.gateway.seams import Service
from falconq_cluster.gateway.settings import SETTINGS_SCHEMA, read_settings
from falconq_cluster.gateway.shapes import TopicAnswer, TopicDeletedAnswer, TopicPageAnswer, TopicPurgedAnswer
from falconq_cluster.machine.commands import ANY_VERSION, EXISTING_VERSION, MISSING_VERSION

READ = ("GET", "HEAD")
LIMIT_DEFAULT = 100
LIMIT_MAX = 1000

LIMIT = Number(name="limit", text="Most topics in the answer.", least=1, most=LIMIT_MAX, default=LIMIT_DEFAULT)
AFTER = Name(name="after", text="The last name of the page before.")
IF_MATCH = Text(
    name="If-Match",
    text="Only if the topic has this version, as its `ETag` gave it with its quotes; `*`: only if it is there.",
    pattern=r'^(\*|"[^",]*")$',
)
IF_NONE_MATCH = Text(name="If-None-Match", text="`*`: only create. Stands alone.", pattern=r"^\*$")
SETTINGS_EXAMPLE = {"partitions": 4, "levels": ["low", "normal", "high"]}
PROBLEMS_OF_CHANGES = ("precondition_failed", *PROBLEMS_OF_WRITES)

LIST = Operation(
    id="listTopics",
    summary="Topics with their settings, page by page",
    tag="Topics",
    parameters=(LIMIT, AFTER, CONSISTENCY),
    headers=(MIN_INDEX,),
    replies=(Reply(text="One page.", body=TopicPageAnswer, headers=("Link",)),),
    problems=PROBLEMS_OF_READS,
)
TOPIC: dict[str, Operation] = {
    "GET": Operation(
        id="getTopic",
        summary="A topic's settings",
        tag="Topics",
        parameters=(CONSISTENCY,),
        headers=(MIN_INDEX,),
        replies=(Reply(text="The topic.", body=TopicAnswer, headers=("ETag",)),),
        problems=("topic_not_found", *PROBLEMS_OF_READS),
    ),
    "PUT": Operation(
        id="putTopic",
        summary="Create a topic, or give it exactly these settings",
        tag="Topics",
        text="Settings that are left out have their defaults.",
        headers=(IF_MATCH, IF_NONE_MATCH, MIN_INDEX),
        body=Body(content={JSON: SETTINGS_SCHEMA}, is_required=False, examples={JSON: SETTINGS_EXAMPLE}),
        replies=(
            Reply(text="It has these settings.", body=TopicAnswer, headers=("ETag",)),
            Reply(text="It was created.", status=201, body=TopicAnswer, headers=("ETag", "Location")),
        ),
        problems=PROBLEMS_OF_CHANGES,
    ),
    "PATCH": Operation(
        id="patchTopic",
        summary="Change some settings of a topic",
        tag="Topics",
        text="Settings that are left out stay.",
        headers=(IF_MATCH, MIN_INDEX),
        refused_headers=(IF_NONE_MATCH.name,),
        body=Body(content={JSON: SETTINGS_SCHEMA}, is_required=False, examples={JSON: {"partitions": 8}}),
        replies=(Reply(text="It has these settings.", body=TopicAnswer, headers=("ETag",)),),
        problems=("topic_not_found", *PROBLEMS_OF_CHANGES),
    ),
    "DELETE": Operation(
        id="deleteTopic",
        summary="Delete a topic with all that it holds",
        tag="Topics",
        headers=(IF_MATCH, MIN_INDEX),
        refused_headers=(IF_NONE_MATCH.name,),
        replies=(Reply(text="It is gone, and its name is free.", body=TopicDeletedAnswer),),
        problems=("topic_not_found", "request_timeout", "body_too_large", *PROBLEMS_OF_CHANGES),
    ),
}
PURGE = Operation(
    id="purgeTopic",
    summary="Drop all messages that a topic holds, for everybody",
    tag="Topics",
    text="What consumers have in hand is dropped too. The topic, its settings and its consumers stay.",
    headers=(MIN_INDEX,),
    replies=(Reply(text="It is empty.", body=TopicPurgedAnswer),),
    problems=("topic_not_found", "request_timeout", "body_too_large", *PROBLEMS_OF_WRITES),
)

_ETAG = re.compile(r'"([1-9a-f][0-9a-f]{0,15})"')


class TopicRoutes:
    """The handlers, over one service."""

    def __init__(self, service: Service, *, json_depth_max: int) -> None:
        self._service = service
        self._json_depth_max = json_depth_max

    def routes(self) -> list[Route]:
        return [
            Route(READ, "/v1/topics", self.listed, LIST),
            Route((*READ, "PUT", "PATCH", "DELETE"), "/v1/topics/{topic}", self.topic, TOPIC),
            Route(("POST",), "/v1/topics/{topic}/purge", self.purge, PURGE),
        ]

    async def listed(self, call: Call) -> Answer:
        query = Query(call.query, call.operation.parameters)
        limit = query.number_or_default(LIMIT)
        after = query.name(AFTER)
        await wait_to_read(self._service, call, query)
        # One more than asked tells whether there is a next page.
        found = self._service.topics_after(after or "", limit + 1)
        page = found[:limit]
        if len(found) <= limit:
            return Answer(answers.encode_topic_page(page, None))
        following = page[-1].topic
        link = next_page("/v1/topics", {LIMIT.name: limit, AFTER.name: following}, query)
        return Answer(answers.encode_topic_page(page, following), headers=link)

    async def topic(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        query = Query(call.query, call.operation.parameters)
        match call.method:
            case "PUT":
                return await self._set(call, topic, is_change=False)
            case "PATCH":
                return await self._set(call, topic, is_change=True)
            case "DELETE":
                return await self._delete(call, topic)
        await wait_to_read(self._service, call, query)
        return _shown(await self._service.topic(topic))

    async def purge(self, call: Call) -> Answer:
        topic = read_name(call.topic, "topic")
        Query(call.query, call.operation.parameters)
        if await call.body():
            raise refuse("body", "a topic is purged without a body; send an empty one")
        await wait_min_index(self._service, call)
        purged = await self._service.purge_topic(topic, deadline_ms=call.deadline_ms)
        return Answer(answers.encode_topic_purged(topic, purged.count), index=purged.index)

    async def _set(self, call: Call, topic: str, *, is_change: bool) -> Answer:
        if_version = read_condition(call.header("If-Match"), call.header("If-None-Match"), may_create=not is_change)
        body = await call.body()
        if body:
            check_content_type(call.header("Content-Type"), call.header("Content-Encoding"))
        given = read_settings(body, depth_max=self._json_depth_max)
        await wait_min_index(self._service, call)
        info = await self._service.set_topic(
            TopicRequest(
                topic=topic,
                is_change=is_change,
                if_version=if_version,
                given=given,
                deadline_ms=call.deadline_ms,
            )
        )
        return _shown(info)

    async def _delete(self, call: Call, topic: str) -> Answer:
        if_version = read_condition(call.header("If-Match"), call.header("If-None-Match"), may_create=False)
        if await call.body():
            raise refuse("body", "a topic is deleted without a body; send an empty one")
        await wait_min_index(self._service, call)
        index = await self._service.delete_topic(topic, if_version=if_version, deadline_ms=call.deadline_ms)
        return Answer(answers.encode_topic_deleted(topic), index=index)


def _shown(topic: TopicInfo) -> Answer:
    headers = {"ETag": f'"{answers.topic_version(topic)}"'}
    if topic.is_new:
        headers["Location"] = f"/v1/topics/{topic.topic}"
    return Answer(answers.encode_topic(topic), status=201 if topic.is_new else 200, index=topic.index, headers=headers)


def read_condition(if_match: str | None, if_none_match: str | None, *, may_create: bool) -> int:
    """The version that the topic must have. Raises: bad_request, precondition_failed."""
    if if_none_match is not None:
        if not may_create or if_none_match.strip() != "*" or if_match is not None:
            text = "header 'If-None-Match' is '*' and stands alone, in a PUT that shall only create; else use If-Match"
            raise refuse("If-None-Match", text)
        return MISSING_VERSION
    if if_match is None:
        return ANY_VERSION
    tag = if_match.strip()
    if tag == "*":
        return EXISTING_VERSION
    if "," in tag or not tag.endswith('"'):
        raise refuse("If-Match", "header 'If-Match' is '*' or one ETag as it was given, with its quotes")
    match = _ETAG.fullmatch(tag)
    if match is None:
        raise FalconQError("precondition_failed", "header 'If-Match' has an ETag that no topic ever had; get it again")
    return int(match[1], 16)
