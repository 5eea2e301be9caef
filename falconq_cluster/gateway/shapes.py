"""The shape of every answer.

What lives here: a struct for the body of each answer, with what each field means.
Rules: field names are the contract of API.md and only grow. Each field and each struct says what it is: the document
at /v1/openapi.json is made of it, and answers.py makes nothing else.
Must not know: aiohttp, routes, where the values come from.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from falconq_cluster.gateway.describing import reference, says

COMMITTED = "message committed"
DELETED = "topic deleted"
PURGED = "topic purged"
STATES = "`leader`, `follower`, `candidate`, `learner`, `forming`, `stopped`, or of another member `unreachable`."


class PublishAnswer(msgspec.Struct, frozen=True):
    """The message is on the disks of a majority, at this place.

    The place is null for a repeat of a producer's sequence of which only a later one is remembered.
    """

    status: Annotated[str, says("What happened.", const=COMMITTED)]
    topic: Annotated[str, says("The topic.")]
    partition: Annotated[int | None, says("The partition.")] = msgspec.field(name="partitionID")
    offset: Annotated[int | None, says("The message's place in its partition; null of one that waits for its time.")]
    priority: Annotated[str | None, says("The name of its level.")]
    id: Annotated[str | None, says("Names the message for ever.")]
    level: Annotated[int | None, says("The number of its level; 0 is the least urgent.")]
    index: Annotated[int, says("The log index that appended it; of a repeat without a place, the repeat's.")]
    timestamp: Annotated[str | None, says("When it was appended, by the cluster's clock.", format="date-time")]
    duplicate: Annotated[bool, says("Whether an earlier publish with the same key or sequence appended it.")]
    due_at: Annotated[
        str | None,
        says("When it enters its level and gets its offset; null of what was not delayed.", format="date-time"),
    ] = msgspec.field(name="dueAt")


class MessageAnswer(msgspec.Struct, frozen=True):
    """A stored message."""

    id: Annotated[str, says("Names the message for ever.")]
    message: Annotated[msgspec.Raw, says("The JSON as it was published, byte for byte.")]
    priority: Annotated[str, says("The name of its level.")]
    level: Annotated[int, says("The number of its level; 0 is the least urgent.")]
    offset: Annotated[int, says("Its place in its partition.")]
    partition: Annotated[int, says("Its partition.")] = msgspec.field(name="partitionID")
    timestamp: Annotated[str, says("When it was appended, by the cluster's clock.", format="date-time")]
    headers: Annotated[
        msgspec.Raw,
        says("The headers as they were published.", type=["object", "null"], additionalProperties={"type": "string"}),
    ]
    partition_key: Annotated[str | None, says("The key that chose its partition.")] = msgspec.field(name="partitionKey")
    delivery_count: Annotated[int, says("How often it was delivered to the consumer, this time included.")] = (
        msgspec.field(name="deliveryCount")
    )


class BatchAnswer(msgspec.Struct, frozen=True):
    """Messages of a topic. Over several partitions, partition, offsets and cursor are null."""

    consumer: Annotated[str | None, says("Who consumed; null in a peek.")] = msgspec.field(name="consumerID")
    topic: Annotated[str, says("The topic.")]
    partition: Annotated[int | None, says("The partition that was asked, or the only one.")] = msgspec.field(
        name="partitionID"
    )
    messages: Annotated[list[MessageAnswer], says("In the order of delivery, or as a peek asked for.")]
    count: Annotated[int, says("How many messages there are.")]
    start_offset: Annotated[
        int | None, says("The lowest offset not delivered before; in a peek, the lowest that was looked at.")
    ] = msgspec.field(name="startOffset")
    next_offset: Annotated[
        int | None, says("The lowest offset not delivered yet; in a peek, where the next page begins.")
    ] = msgspec.field(name="nextOffset")
    cursor: Annotated[
        dict[str, int] | None, says("Level -> the offset behind the last one delivered of it; null in a peek.")
    ]
    pending: Annotated[dict[str, int] | None, says("Level -> messages not delivered yet; null in a peek.")]


class ReplayAnswer(msgspec.Struct, frozen=True):
    """Messages of one partition in the order of their offsets."""

    topic: Annotated[str, says("The topic.")]
    partition: Annotated[int, says("The partition.")] = msgspec.field(name="partitionID")
    messages: Annotated[list[MessageAnswer], says("This page's.")]
    count: Annotated[int, says("How many messages there are.")]
    next_offset: Annotated[
        int, says("Where the next page begins; without one, where the next message will be at the earliest.")
    ] = msgspec.field(name="nextOffset")


class PartitionAnswer(msgspec.Struct, frozen=True):
    """A partition as this node sees it."""

    id: Annotated[int, says("Its number.")]
    leader: Annotated[str | None, says("The node that leads it; one node leads all partitions.")]
    first_offset: Annotated[int, says("The oldest offset that is kept; the next one when none is.")] = msgspec.field(
        name="firstOffset"
    )
    next_offset: Annotated[int, says("The offset of the next message.")] = msgspec.field(name="nextOffset")
    depth: Annotated[dict[str, int], says("Level -> messages kept.")]
    bytes: Annotated[int, says("How much is kept.")]


class PartitionsAnswer(msgspec.Struct, frozen=True):
    """The partitions of a topic."""

    topic: Annotated[str, says("The topic.")]
    partitions: Annotated[list[PartitionAnswer], says("In the order of their numbers.")]


class TopicNamesAnswer(msgspec.Struct, frozen=True):
    """The names of all topics."""

    topics: Annotated[list[str], says("All names, sorted.")]


class SchedulerAnswer(msgspec.Struct, frozen=True):
    """Which level is given next."""

    policy: Annotated[str, says("By what rule.", enum=["strict", "weighted", "aged"])]
    weights: Annotated[
        dict[str, int] | msgspec.UnsetType, says("Level -> its share of deliveries; a level not named has 1.")
    ] = msgspec.UNSET
    max_wait_ms: Annotated[
        dict[str, int] | msgspec.UnsetType,
        says("Level -> how long its messages may wait; a level not named: for ever."),
    ] = msgspec.field(default=msgspec.UNSET, name="maxWaitMs")


class RetryAnswer(msgspec.Struct, frozen=True):
    """How long a message waits after a delivery that failed, unless its nack says otherwise."""

    min_ms: Annotated[int, says("After the first failure.")] = msgspec.field(name="minMs")
    max_ms: Annotated[int, says("Never longer than this.")] = msgspec.field(name="maxMs")
    factor: Annotated[float | int, says("By which each wait is longer than the one before.")]


class RetentionAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a topic keeps; a limit that is not there is none."""

    ms: Annotated[int | msgspec.UnsetType, says("No message is kept for longer.")] = msgspec.UNSET
    bytes: Annotated[int | msgspec.UnsetType, says("All partitions together keep no more.")] = msgspec.UNSET
    messages: Annotated[int | msgspec.UnsetType, says("All partitions together keep no more.")] = msgspec.UNSET
    acked: Annotated[bool, says("Nothing is kept that every consumer has settled.")] = False


class TopicAnswer(msgspec.Struct, frozen=True):
    """A topic with its settings."""

    topic: Annotated[str, says("Its name.")]
    partitions: Annotated[int, says("How many partitions it has.")]
    levels: Annotated[tuple[str, ...], says("Least to most urgent.")]
    scheduler: Annotated[SchedulerAnswer, says("Which level is given next.")]
    lease_ms: Annotated[int, says("How long a lease lasts for which nobody said otherwise.")] = msgspec.field(
        name="leaseMs"
    )
    in_flight_max: Annotated[int, says("How many messages of a consumer are leased at a time.")] = msgspec.field(
        name="maxInFlight"
    )
    deliveries_max: Annotated[
        int, says("After so many deliveries that failed a message goes to the dead letters; 0 for never.")
    ] = msgspec.field(name="maxDeliveries")
    dead_letter_topic: Annotated[str, says("Where they go.")] = msgspec.field(name="deadLetterTopic")
    retry: Annotated[RetryAnswer, says("How long a message waits after a delivery that failed.")]
    retention: Annotated[RetentionAnswer, says("What it keeps.")]
    overflow: Annotated[str, says("What gives way when it is full.", enum=["drop-oldest", "reject", "drop-lowest"])]
    dedupe_window_ms: Annotated[int, says("How long a repeat of a publish is known as one.")] = msgspec.field(
        name="dedupeWindowMs"
    )
    created_at: Annotated[str, says("When it was created.", format="date-time")] = msgspec.field(name="createdAt")
    version: Annotated[str, says("Another one after each change; in quotes, the ETag.")]


class TopicPageAnswer(msgspec.Struct, frozen=True):
    """Topics in the order of their names."""

    topics: Annotated[list[TopicAnswer], says("This page's.")]
    following: Annotated[str | None, says("What `after` is for the next page; null after the last one.")] = (
        msgspec.field(name="next")
    )


class TopicDeletedAnswer(msgspec.Struct, frozen=True):
    """The topic is gone, on every node from the answer's `FalconQ-Index` on."""

    status: Annotated[str, says("What happened.", const=DELETED)]
    topic: Annotated[str, says("The name that is free now.")]


class TopicPurgedAnswer(msgspec.Struct, frozen=True):
    """The topic is empty, on every node from the answer's `FalconQ-Index` on."""

    status: Annotated[str, says("What happened.", const=PURGED)]
    topic: Annotated[str, says("Its name.")]
    count: Annotated[int, says("How many messages it held.")]


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 section 3.1, and our members."""

    type: Annotated[str, says("`urn:falconq:problem:` and the code.")]
    title: Annotated[str, says("The code in words.")]
    status: Annotated[int, says("The HTTP status.")]
    detail: Annotated[str, says("What was refused, its value, and what to do; for people.")]
    code: Annotated[str, says("What programs decide by; never renamed.")]
    retryable: Annotated[bool, says("Whether the same request may succeed later; it surely was not applied.")]
    message: Annotated[str, says("The same as `detail`.")]
    details: Annotated[
        dict[str, Any],
        says("`field`: what was refused; `mistakes`: a `field` and a `detail` for each; or what else there is."),
    ]


class BatchResultsAnswer(msgspec.Struct, frozen=True):
    """What became of each message."""

    results: Annotated[
        list[Annotated[Any, says("", anyOf=[reference(PublishAnswer), reference(Problem)])]],
        says("One result a message, in their order: what a publish answers, or a problem."),
    ]


class LiveAnswer(msgspec.Struct, frozen=True):
    """Whether the process works."""

    live: Annotated[bool, says("False asks for a restart.")]


class ReadyAnswer(msgspec.Struct, frozen=True):
    """Whether the node takes requests."""

    ready: Annotated[bool, says("Whether it does.")]
    reasons: Annotated[list[str], says("Why not: one sentence a reason.")]


class QuorumAnswer(msgspec.Struct, frozen=True):
    """Whether the cluster can do without the asked node."""

    critical: Annotated[bool, says("Whether it can't: without this node, writes stop.")]
    reasons: Annotated[list[str], says("Why: one sentence a reason.")]


class MemberAnswer(msgspec.Struct, frozen=True):
    """A member of the cluster as the asked node sees it."""

    id: Annotated[str, says("Its name.")]
    raft_address: Annotated[str | None, says("Where the other members reach it.")] = msgspec.field(name="raftAddress")
    http_address: Annotated[str | None, says("Where clients reach it, as far as it is known.")] = msgspec.field(
        name="httpAddress"
    )
    state: Annotated[str | None, says(STATES)]
    connected: Annotated[bool, says("Whether there is a connection to it.")]
    match_index: Annotated[int | None, says("How far its log is known to agree; only the leader knows.")] = (
        msgspec.field(name="matchIndex")
    )
    lag_ms: Annotated[int | None, says("How long it is behind; only the leader knows.")] = msgspec.field(name="lagMs")


class ClusterAnswer(msgspec.Struct, frozen=True):
    """The cluster as the asked node sees it."""

    cluster_id: Annotated[str | None, says("Names the cluster for ever; null while it forms.")] = msgspec.field(
        name="clusterID"
    )
    node: Annotated[str, says("The node that answers.")]
    state: Annotated[str, says(STATES)]
    leader: Annotated[str | None, says("Who leads; null when it is not known.")]
    term: Annotated[int, says("The term of the last election that it knows of.")]
    commit_index: Annotated[int, says("What a majority has, as far as it knows.")] = msgspec.field(name="commitIndex")
    applied_index: Annotated[int, says("What it shows.")] = msgspec.field(name="appliedIndex")
    nodes: Annotated[list[MemberAnswer], says("All members, this one too.")]
