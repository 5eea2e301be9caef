"""One request for messages on its way, whatever becomes of them.

What lives here: what every kind of pull has in common, and the autoCommit pull of consume.
Rules: delivered bytes are read in the turn in which the pull is applied (PROTOCOL.md P13). What a poll asks of the
topic is judged before anything is proposed.
Must not know: when a poll proposes, waits and is woken; asyncio, HTTP.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from falconq_cluster.broker.broker import Broker
from falconq_cluster.broker.pending import Pending
from falconq_cluster.broker.reading import consumed_batch, find_partition
from falconq_cluster.broker.requests import Batch, ConsumeRequest
from falconq_cluster.broker.waiters import Waiter
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.commands import NO_DEADLINE, ClientOperation, Pull, Pulled, Range, Result
from falconq_cluster.machine.views import Views

ALL_PARTITIONS = -1
ConsumerName = tuple[str, str]
"""(topic, consumer)."""
T = TypeVar("T")


class PollOwner(Protocol):
    """Who holds a poll."""

    def cancelled(self, poll: Poll[Any]) -> None:
        """Nobody waits for the poll's answer any more."""


class Poll(Pending[T | FalconQError], Generic[T]):
    """One request; cancel it when its client is gone."""

    __slots__ = ("_owner", "consumer", "count", "deadline_ms", "is_at_once", "is_fresh", "place", "until_ms", "waiter")

    def __init__(
        self,
        owner: PollOwner,
        done: Callable[[T | FalconQError], None],
        *,
        consumer: ConsumerName,
        place: Hashable,
        count: int,
        until_ms: int,
        deadline_ms: int,
        is_at_once: bool = False,
    ) -> None:
        super().__init__(done)
        self._owner = owner
        self.consumer = consumer
        self.place = place
        """Polls of one consumer with the same place ask for the same messages."""
        self.count = count
        """Messages that it takes at most."""
        self.until_ms = until_ms
        """An empty answer is held back until then."""
        self.deadline_ms = deadline_ms
        self.is_at_once = is_at_once
        """Whether it is proposed whatever this node sees."""
        self.is_fresh = False
        """Whether the node's view was made sure of since the request came."""
        self.waiter: Waiter | None = None
        """The pull under way."""

    def _given_up(self) -> None:
        # A pull that has a sequence goes on without its client.
        self._owner.cancelled(self)

    @abstractmethod
    def judge(self, views: Views) -> None:
        """Raises: FalconQError when the topic has not what is asked for."""

    @abstractmethod
    def available_count(self, views: Views, log_time_ms: int) -> int:
        """Messages that it could be given now, or about so many; at least 1 if there is one."""

    @abstractmethod
    def takes_from(self, other: Poll[Any]) -> bool:
        """Whether both may be given the same message; `other` is of the same consumer."""

    def is_replaced_by(self, _nonce: bytes) -> FalconQError | None:
        """Why the poll is over now that an event stream with this nonce has the consumer alone; None if it is not."""
        return None

    @abstractmethod
    def operation(self) -> ClientOperation:
        """What is proposed."""

    @abstractmethod
    def ranges(self, result: Result) -> list[Range]:
        """Messages that the result of the operation gives."""

    @abstractmethod
    def answer(self, views: Views, result: Result | None, index: int) -> T:
        """What the client gets; None for nothing. Raises: FalconQError, CorruptionError, RecordError."""


class ConsumePoll(Poll[Batch]):
    """One consume."""

    __slots__ = ("_bytes_max", "partition", "request")

    def __init__(
        self, owner: PollOwner, broker: Broker, request: ConsumeRequest, done: Callable[[Batch | FalconQError], None]
    ) -> None:
        self.request = request
        self.partition = ALL_PARTITIONS if request.partition is None else request.partition
        self._bytes_max = broker.limits.pull_bytes_max
        super().__init__(
            owner,
            done,
            consumer=(request.topic, request.consumer),
            place=self.partition,
            count=request.batch,
            until_ms=min(broker.clock.monotonic_ms() + request.wait_ms, request.deadline_ms),
            deadline_ms=request.deadline_ms,
            # It may name a batch that a pull still on its way elsewhere will be given: only the log's order tells.
            is_at_once=bool(request.attempt),
        )

    def judge(self, views: Views) -> None:
        find_partition(views, self.request.topic, self.request.partition)

    def available_count(self, views: Views, _log_time_ms: int) -> int:
        if views.consumers.is_paused(*self.consumer):
            return 0
        return sum(views.pending(*self.consumer, self.partition))

    def takes_from(self, other: Poll[Any]) -> bool:
        if not isinstance(other, ConsumePoll):
            return True
        return ALL_PARTITIONS in (self.partition, other.partition) or self.partition == other.partition

    def operation(self) -> ClientOperation:
        request = self.request
        return Pull(
            not_after_ms=NO_DEADLINE,
            topic=request.topic,
            consumer=request.consumer,
            partition=self.partition,
            count_max=request.batch,
            bytes_max=self._bytes_max,
            attempt=request.attempt,
        )

    def ranges(self, result: Result) -> list[Range]:
        return result.ranges if isinstance(result, Pulled) else []

    def answer(self, views: Views, result: Result | None, index: int) -> Batch:
        return consumed_batch(views, self.request, result if isinstance(result, Pulled) else None, index)
