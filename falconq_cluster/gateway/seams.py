"""What the gateway asks of the node it stands in.

What lives here: the protocols of the broker's service and of the node's status; app.py hands in what fulfils them.
Rules: whatever goes wrong in a service call is a `FalconQError`. Status calls return at once, but for
a change of the leader.
Must not know: HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Protocol

from falconq_cluster.broker.consumer_requests import ConsumerInfo, ConsumerRequest, RedriveInfo, SeekRequest
from falconq_cluster.broker.message_requests import ChangeRequest, ExplainedMessage, ExplainRequest, MessageId
from falconq_cluster.broker.requests import (
    AtomicRequest,
    Batch,
    ConsumeRequest,
    Deliveries,
    PartitionStatus,
    PeekRequest,
    Published,
    PublishRequest,
    PullRequest,
    ReplayPage,
    ReplayRequest,
    Settled,
    SettleRequest,
    StreamEnd,
    StreamRequest,
    TopicInfo,
    TopicPurge,
    TopicRequest,
)


class Service(Protocol):
    """What the product does; implemented by broker/service.py."""

    async def publish(self, request: PublishRequest) -> Published:
        """The message is on the disks of a majority when it returns. Cancelling forgets the answer, not the message."""

    async def publish_atomic(self, request: AtomicRequest) -> Sequence[Published]:
        """All messages are on the disks of a majority when it returns; on an error none is ever stored, or 504."""

    async def consume(self, request: ConsumeRequest) -> Batch:
        """The next messages; the cursors have moved when it returns."""

    async def pull(self, request: PullRequest) -> Deliveries:
        """The next messages, leased when it returns. Raises: topic_not_found, unknown_priority, leases_full."""

    async def open_stream(self, request: StreamRequest) -> AsyncGenerator[Deliveries | StreamEnd, None]:
        """An event stream that has begun: deliveries as they come, none for a heartbeat, an end as the last.

        Raises: topic_not_found, unknown_priority.
        """

    async def settle(self, request: SettleRequest) -> Settled:
        """The leases are settled or extended, each by itself. Raises: topic_not_found."""

    async def peek(self, request: PeekRequest) -> Batch:
        """What this node has stored."""

    async def replay(self, request: ReplayRequest) -> ReplayPage:
        """What this node has stored of a partition. Raises: topic_not_found, unknown_partition, offset_gone."""

    async def explain_message(self, request: ExplainRequest) -> ExplainedMessage:
        """Where the message stands. Raises: topic_not_found, message_not_found, consumer_not_found, overloaded."""

    async def change_message(self, request: ChangeRequest) -> ExplainedMessage:
        """The message is as the request says, and nobody was handed it before.

        Raises: topic_not_found, message_not_found, already_delivered, unknown_priority, bad_request, delayed_full.
        """

    async def cancel_message(self, topic: str, message: MessageId, *, deadline_ms: int) -> int:
        """The message is gone from the returned log index on, and nobody is ever handed it.

        Raises: topic_not_found, message_not_found, already_delivered.
        """

    def topics(self) -> Sequence[str]:
        """Names of all topics, sorted."""

    def partitions(self, topic: str) -> Sequence[PartitionStatus]:
        """The topic's partitions. Raises: topic_not_found."""

    async def set_topic(self, request: TopicRequest) -> TopicInfo:
        """The topic has the settings. Raises: bad_request, topic_not_found, precondition_failed."""

    async def delete_topic(self, topic: str, *, if_version: int, deadline_ms: int) -> int:
        """The topic is gone from the returned log index on. Raises: topic_not_found, precondition_failed."""

    async def purge_topic(self, topic: str, *, deadline_ms: int) -> TopicPurge:
        """The topic is empty. Raises: topic_not_found."""

    async def topic(self, topic: str) -> TopicInfo:
        """The topic's settings. Raises: topic_not_found."""

    def topics_after(self, after: str, limit: int) -> Sequence[TopicInfo]:
        """The first topics behind this name, in the order of their names."""

    async def set_consumer(self, request: ConsumerRequest) -> ConsumerInfo:
        """The consumer has the settings. Raises: bad_request, topic_not_found."""

    async def delete_consumer(self, topic: str, consumer: str, *, deadline_ms: int) -> int:
        """The consumer is gone from the returned log index on. Raises: topic_not_found, consumer_not_found."""

    async def seek_consumer(self, request: SeekRequest) -> ConsumerInfo:
        """The consumer goes on there, and has nothing in hand. Raises: topic_not_found, consumer_not_found."""

    async def pause_consumer(self, topic: str, consumer: str, *, is_paused: bool, deadline_ms: int) -> ConsumerInfo:
        """The consumer is given nothing, or messages again. Raises: topic_not_found, consumer_not_found."""

    async def consumer(self, topic: str, consumer: str) -> ConsumerInfo:
        """The consumer as it stands. Raises: topic_not_found, consumer_not_found."""

    async def consumers_after(self, topic: str, after: str, limit: int) -> tuple[Sequence[ConsumerInfo], bool]:
        """Up to so many consumers behind this name, and whether there are more. Raises: topic_not_found."""

    async def redrive(self, topic: str, *, count_max: int, deadline_ms: int) -> RedriveInfo:
        """Dead letters of the topic go back, all with 0. Raises: topic_not_found."""

    def end_waits(self) -> None:
        """Answers every consume that waits for messages now, empty: the node stops."""

    async def confirm_read(self, deadline_ms: int) -> None:
        """Returns once this node shows all that was acknowledged anywhere before the call.

        Raises: no_leader, index_not_reached, not_ready, overloaded.
        """

    async def wait_index(self, index: int, deadline_ms: int) -> None:
        """Returns when this node has applied `index`. Raises: index_not_reached."""


class NodeStatus(Protocol):
    """What the node knows about itself and the cluster."""

    @property
    def node_id(self) -> str:
        """This member's name."""

    @property
    def leader(self) -> str | None:
        """Who leads as far as this node knows."""

    @property
    def applied_index(self) -> int:
        """Last log index that this node has applied."""

    def status(self) -> dict[str, object]:
        """The body of /v1/cluster."""

    def ready(self) -> tuple[bool, list[str]]:
        """Whether the node takes requests, and if not, why: one sentence a reason."""

    def backup(self) -> tuple[int, Generator[bytes]]:
        """(log index, parts) of a backup of what the node shows now, to be closed in the end. Raises: not_ready."""

    async def move_leader(self, to: str) -> bool:
        """Whether this member leads, once it does or did not in time. Raises: bad_request for a stranger."""

    def live(self) -> bool:
        """Whether the process works; false asks for a restart."""

    def needed(self) -> list[str]:
        """Why the cluster can't do without this node, one sentence a reason; empty when it can."""
