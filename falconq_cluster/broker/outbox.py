"""The origin's side: operations wait, become commands, and stay until they are applied here.

What lives here: waiting operations, sealed commands, and which of them were sent.
Rules (PROTOCOL.md P9, P10): sequences start at 1 in each epoch and have no gap. A sealed command is never changed and
is kept until it is applied here or its epoch is over; it is sent again from the lowest outstanding one. An operation is
sealed only while a leader is known: before that its deadline is a 503, afterwards a 504. Every waiter of a merged
append has the same time to expire, so each gets its own exact result. Everything is bounded in count and bytes.
Must not know: how commands travel, asyncio.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from falconq_cluster.broker.deadlines import Deadlines
from falconq_cluster.broker.limits import BrokerLimits, BrokerMetrics
from falconq_cluster.broker.sealing import KeyCount, SealedOperation, seal
from falconq_cluster.broker.waiters import Outcome, Waiter
from falconq_cluster.clock import Clock
from falconq_cluster.errors import FalconQError
from falconq_cluster.machine.amends import AmendOperation
from falconq_cluster.machine.appends import AppendedMany, AppendMany
from falconq_cluster.machine.commands import (
    Append,
    Appended,
    AppendOnce,
    ClientOperation,
    Command,
    Duplicate,
    LeasePull,
    Result,
    Settle,
    SetTopic,
    TopicOperation,
    encode_command,
)
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.subscriptions import ConsumerOperation, OpenStream, Redrive, Seek, SetConsumer
from falconq_cluster.raft.seams import RaftView

_RANGE_BYTES = 32
"""Encoded size of a range that an attempt remembers, at most."""
_ONCE_BYTES = 128
"""What is remembered of an append that is to happen once, beside its name."""
_LEASE_BYTES = 128
"""A lease in an operation, and its row with its key."""
_LEASES_BYTES = MachineLimits().lease_count_max * _LEASE_BYTES
"""Of as many as one operation may name or write."""

_PART_BYTES = 64
"""Of a part beside its records, and of what is remembered of it."""
_EXPECTED_BYTES = 16


@dataclass(slots=True)
class _Outstanding:
    """A command that has a sequence and is not applied here."""

    sequence: int
    command: bytes
    operations: list[SealedOperation]
    sealed_ms: int


class Outbox:
    """All operations of this node's clients, in order."""

    def __init__(self, *, raft: RaftView, clock: Clock, limits: BrokerLimits, metrics: BrokerMetrics) -> None:
        self._raft = raft
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._waiting_bytes = 0
        self._outstanding: deque[_Outstanding] = deque()
        self._outstanding_bytes = 0
        self._epoch = 0
        self._next_sequence = 1
        self._next_to_send = 1
        self._deadlines: Deadlines[Waiter] = Deadlines(clock, self._deadline_passed)

    @property
    def epoch(self) -> int:
        """The epoch of what is outstanding; 0 before the first one."""
        return self._epoch

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    @property
    def outstanding_count(self) -> int:
        return len(self._outstanding)

    @property
    def lowest_outstanding(self) -> int:
        """The lowest sequence that is not applied here; the next one when all are."""
        return self._outstanding[0].sequence if self._outstanding else self._next_sequence

    def submit(
        self, operation: ClientOperation, *, deadline_ms: int, done: Callable[[Outcome], None], partitions: int = 1
    ) -> Waiter:
        """Queue the operation, which touches at most so many partitions.

        Raises: FalconQError (overloaded, body_too_large), and then nothing was queued.
        """
        limits = self._limits
        size = _size(operation)
        if size > limits.operation_bytes_max:
            message = f"the operation has {size} bytes, at most {limits.operation_bytes_max} fit into one log entry"
            raise FalconQError("body_too_large", message)
        count = len(self._waiting)
        if count >= limits.waiting_operations_max or self._waiting_bytes + size > limits.waiting_bytes_max:
            self._metrics.overloaded_count += 1
            message = f"{count} operations of {self._waiting_bytes} bytes wait here already; repeat a little later"
            raise FalconQError("overloaded", message)
        waiter = Waiter(self, operation, size_bytes=size, partitions=partitions, deadline_ms=deadline_ms, done=done)
        self._waiting[waiter] = None
        self._waiting_bytes += size
        self._deadlines.add(waiter, deadline_ms)
        return waiter

    # Waiters that end early.

    def cancelled(self, waiter: Waiter) -> None:
        """The submitter of an operation that has no sequence is gone."""
        self._deadlines.remove(waiter, waiter.deadline_ms)
        self._forget_waiting(waiter)

    def refuse_waiting(self, code: str, message: str) -> None:
        """End everything that has no sequence: it surely is not applied."""
        waiters = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        for waiter in waiters:
            self._deadlines.remove(waiter, waiter.deadline_ms)
            waiter.finish(Outcome(FalconQError(code, message)))

    def _deadline_passed(self, waiter: Waiter) -> None:
        if waiter.is_sequenced:
            self._metrics.unknown_outcome_count += 1
            waiter.finish(Outcome(_unknown("the deadline passed before it was applied on this node")))
            return
        self._metrics.expired_count += 1
        self._forget_waiting(waiter)
        waiter.finish(Outcome(self._why_not_sealed()))

    def _why_not_sealed(self) -> FalconQError:
        if self._raft.leader is None:
            return FalconQError("no_leader", "no leader was found before the deadline; nothing was applied")
        if not self._epoch or not self._raft.is_serving:
            return FalconQError("not_ready", "the node was not ready before the deadline; nothing was applied")
        return FalconQError("overloaded", "earlier work took longer than the deadline; nothing was applied")

    def _forget_waiting(self, waiter: Waiter) -> None:
        if waiter in self._waiting:
            del self._waiting[waiter]
            self._waiting_bytes -= waiter.size_bytes

    # Commands.

    def seal(self) -> None:
        """Make commands of what waits, as far as the window allows."""
        limits = self._limits
        while (
            self._waiting
            and self._epoch
            and len(self._outstanding) < limits.outstanding_commands_max
            and self._outstanding_bytes < limits.outstanding_bytes_max
        ):
            self._seal_one()

    def _seal_one(self) -> None:
        now_ms = self._clock.monotonic_ms()
        operations = seal(self._take(), self._limits, log_time_ms=self._raft.log_time_ms(), now_ms=now_ms)
        command = Command(self._raft.node_id, self._epoch, self._next_sequence, [o.operation for o in operations])
        encoded = encode_command(command)
        self._outstanding.append(_Outstanding(self._next_sequence, encoded, operations, now_ms))
        self._outstanding_bytes += len(encoded)
        self._next_sequence += 1
        self._metrics.command_count += 1
        self._metrics.operation_count += sum(1 for operation in operations if operation.waiters)
        self._metrics.observe_messages_per_command(sum(len(operation.waiters) for operation in operations))

    def _take(self) -> list[Waiter]:
        """What waits longest, as much as fits one command; at least one.

        A change of a topic goes alone: what a pull beside it delivered is read when the whole command is applied (P13).
        """
        limits = self._limits
        taken: list[Waiter] = []
        keys = KeyCount()
        size = 0
        while self._waiting and len(taken) < limits.command_operations_max:
            waiter = next(iter(self._waiting))
            is_alone = isinstance(waiter.operation, TopicOperation)
            if taken and is_alone:
                break
            size += waiter.size_bytes
            keys.add(waiter.operation, waiter.partitions)
            if taken and (size > limits.command_bytes_max or keys.count > limits.command_keys_max):
                break
            self._waiting.popitem(last=False)
            self._waiting_bytes -= waiter.size_bytes
            waiter.is_sequenced = True
            taken.append(waiter)
            if is_alone:
                break
        return taken

    def unsent(self) -> Iterator[tuple[int, bytes]]:
        """(sequence, command) of what was not sent since the last rewind, in order; each counts as sent once given."""
        for outstanding in self._outstanding:
            if outstanding.sequence >= self._next_to_send:
                self._next_to_send = outstanding.sequence + 1
                yield outstanding.sequence, outstanding.command

    def rewind(self, sequence: int) -> None:
        """Send again, from this sequence on, or from the lowest outstanding one if that is higher."""
        self._next_to_send = min(max(sequence, self.lowest_outstanding), self._next_sequence)

    def applied(self, sequence: int, index: int, results: Sequence[Result]) -> None:
        """The command with this sequence took effect: give every waiter its result, in order."""
        if not self._outstanding or self._outstanding[0].sequence != sequence:
            return
        outstanding = self._outstanding.popleft()
        self._outstanding_bytes -= len(outstanding.command)
        self._next_to_send = max(self._next_to_send, self.lowest_outstanding)
        self._metrics.observe_commit_ms(self._clock.monotonic_ms() - outstanding.sealed_ms)
        for sealed, result in zip(outstanding.operations, results, strict=True):
            self._answer(sealed, result, index)

    def _answer(self, sealed: SealedOperation, result: Result, index: int) -> None:
        if isinstance(result, Appended):
            self._metrics.published_counts[result.level] += result.count
        elif isinstance(result, AppendedMany):
            for place in result.places:
                self._metrics.published_counts[place.level] += place.count
        elif isinstance(result, Duplicate):
            self._metrics.duplicate_count += 1
        for position, waiter in enumerate(sealed.waiters):
            if waiter.is_over:
                continue
            self._deadlines.remove(waiter, waiter.deadline_ms)
            own = _part(result, position) if isinstance(result, Appended) and len(sealed.waiters) > 1 else result
            waiter.finish(Outcome(own, index))

    # Epochs.

    def jumped(self, last_sequence: int) -> None:
        """A snapshot went over commands up to this sequence: they were applied, with results that nobody here saw."""
        while self._outstanding and self._outstanding[0].sequence <= last_sequence:
            outstanding = self._outstanding.popleft()
            self._outstanding_bytes -= len(outstanding.command)
            for waiter in _live(outstanding):
                self._deadlines.remove(waiter, waiter.deadline_ms)
                self._metrics.unknown_outcome_count += 1
                waiter.finish(Outcome(_unknown("a snapshot replaced the part of the log that tells")))
        self._next_to_send = max(self._next_to_send, self.lowest_outstanding)

    def jumped_out_of_sight(self) -> None:
        """A snapshot has another epoch of this node: what was outstanding was applied or not, and nothing tells."""
        if self._outstanding:
            self.jumped(self._outstanding[-1].sequence)
        self._epoch = 0

    def epoch_ended(self) -> None:
        """What is outstanding can no longer be applied, and was not: it waits again, before what came later."""
        unwanted: list[Waiter] = []
        for outstanding in reversed(self._outstanding):
            for waiter in reversed(_live(outstanding)):
                waiter.is_sequenced = False
                if waiter.is_cancelled:
                    unwanted.append(waiter)
                    continue
                self._waiting[waiter] = None
                self._waiting.move_to_end(waiter, last=False)
                self._waiting_bytes += waiter.size_bytes
                self._metrics.resubmitted_count += 1
        self._outstanding.clear()
        self._outstanding_bytes = 0
        self._epoch = 0
        for waiter in unwanted:
            self._deadlines.remove(waiter, waiter.deadline_ms)
            waiter.finish(Outcome(FalconQError("not_ready", "the request was given up; nothing was applied")))

    def begin_epoch(self, epoch: int) -> None:
        """Sequences start again at 1."""
        assert not self._outstanding
        self._epoch = epoch
        self._next_sequence = self._next_to_send = 1

    def stop(self) -> None:
        """End every waiter: what has a sequence with an unknown outcome, the rest surely not applied."""
        for outstanding in self._outstanding:
            for waiter in _live(outstanding):
                waiter.finish(Outcome(_unknown("the node stops")))
        self._outstanding.clear()
        self._outstanding_bytes = 0
        self.refuse_waiting("not_ready", "the node stops; nothing was applied")
        self._deadlines.clear()


def _live(outstanding: _Outstanding) -> list[Waiter]:
    return [waiter for sealed in outstanding.operations for waiter in sealed.waiters if not waiter.is_over]


def _unknown(why: str) -> FalconQError:
    message = f"{why}: it is not known whether the request takes effect; look before you repeat it"
    return FalconQError("unknown_outcome", message)


def _size(operation: ClientOperation) -> int:
    """At most about the bytes of the operation, and of what it writes."""
    if isinstance(operation, Append):
        named = len(operation.once.name) + _ONCE_BYTES if isinstance(operation, AppendOnce) else 0
        return len(operation.records) + len(operation.topic) + 48 + named
    if isinstance(operation, AppendMany):
        size = sum(len(part.records) + _PART_BYTES for part in operation.parts)
        named = 0 if operation.once is None else len(operation.once.name) + _ONCE_BYTES
        return size + len(operation.topic) + 64 + len(operation.expected) * _EXPECTED_BYTES + named
    if isinstance(operation, AmendOperation):
        return len(operation.topic) + 96
    if isinstance(operation, TopicOperation):
        levels = operation.given.levels or () if isinstance(operation, SetTopic) else ()
        scheduler = operation.given.scheduler if isinstance(operation, SetTopic) else None
        given = () if scheduler is None else scheduler.weights + scheduler.max_wait_ms
        named = sum(len(level) + 8 for level in levels) + sum(len(level) + 8 for level, _ in given)
        dead_letter_topic = operation.given.dead_letter_topic or "" if isinstance(operation, SetTopic) else ""
        return len(operation.topic) + len(dead_letter_topic) + 160 + named
    if isinstance(operation, Settle):
        reasons = sum(len(item.reason) for item in operation.items)
        return len(operation.topic) + len(operation.consumer) + 64 + len(operation.items) * _LEASE_BYTES + reasons
    if isinstance(operation, LeasePull):
        return len(operation.topic) + len(operation.consumer) + 96 + operation.count_max * _LEASE_BYTES
    if isinstance(operation, ConsumerOperation):
        offsets = operation.offsets if isinstance(operation, SetConsumer | Seek) else ()
        return len(operation.topic) + len(operation.consumer) + 160 + len(offsets) * _LEASE_BYTES
    if isinstance(operation, Redrive):
        return len(operation.topic) + 64
    if isinstance(operation, OpenStream):
        return len(operation.topic) + len(operation.consumer) + 96 + _LEASES_BYTES
    remembered = operation.count_max * _RANGE_BYTES if operation.attempt else 0
    return len(operation.topic) + len(operation.consumer) + len(operation.attempt) + 64 + remembered


def _part(result: Appended, position: int) -> Appended:
    """The result of the position-th waiter of a merged append: one message each."""
    return Appended(
        topic=result.topic,
        partition=result.partition,
        level=result.level,
        base_offset=result.base_offset + position,
        count=1,
        first_id=result.first_id + position,
        timestamp_ms=result.timestamp_ms,
    )
