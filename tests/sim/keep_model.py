"""What becomes of topics that do not keep everything, found out once more and by itself.

What lives here: a naive model of time to live, delays, retention, purges and expected offsets, fed with each applied
entry, and what must be left at the end.
Rules: an append is stored, known as a repeat, or refused for the one reason that the model finds; of those that expect
the same last offset one is stored. What waits enters its level once and in time. Nothing is trimmed but what is too
old, what every consumer is done with, or what is too much: the oldest, or of the least urgent level, and no more than
that. In the end nothing is left that need not be kept, in the store neither, but what a remembered attempt names.
Must not know: how the machine counts and erases.
"""

from __future__ import annotations

from collections.abc import Sequence

from falconq_cluster.machine.amends import CancelMessage, ChangeMessage
from falconq_cluster.machine.appends import AppendedMany, AppendMany, Ripen
from falconq_cluster.machine.appends import Place as StoredPlace
from falconq_cluster.machine.commands import (
    AnyOperation,
    Appended,
    Duplicate,
    Leased,
    LeasePull,
    LeaseSettled,
    Pull,
    Pulled,
    Refused,
    Result,
    Settle,
    TopicSet,
)
from falconq_cluster.machine.keeping import Purge, Purged, TrimLevels
from falconq_cluster.machine.machine import Applied
from falconq_cluster.machine.reading import DeliveredMessage
from falconq_cluster.machine.records import pack_record
from falconq_cluster.machine.settings import DROP_LOWEST, DROP_OLDEST, REJECT
from falconq_cluster.machine.views import Views
from tests.sim.amend_model import amended
from tests.sim.keep_consumers import Consumer, Message, leased, pulled, settled
from tests.sim.keep_graves import is_buried
from tests.sim.keep_topics import Delayed, KeptTopic, record_of
from tests.sim.keeping import KEPT_TOPICS, PARTITIONS
from tests.sim.world import Violation

PEEKED_MAX = 100_000


class KeepModel:
    """All topics of `keeping.py`."""

    def __init__(self) -> None:
        self.topics: dict[str, KeptTopic] = {}
        self._now_ms = 0
        self.results: dict[int, list[Result]] = {}
        """Log index -> results, for who compares them with what clients were told."""
        self.trimmed_count = 0

    def applied(self, applied: Applied, operations: Sequence[AnyOperation], views: Views) -> None:
        """Judge each result of the entry; the views show what it left. Raises: Violation."""
        self._now_ms = max(self._now_ms, applied.stamp_ms)
        for operation, result in zip(operations, applied.results, strict=True):
            try:
                self._applied(operation, result, applied.index, views)
            except Violation as violation:
                raise Violation(f"entry {applied.index} at {applied.stamp_ms}: {operation}: {violation}") from violation

    def _applied(self, operation: AnyOperation, result: Result, index: int, views: Views) -> None:
        if isinstance(operation, TrimLevels):
            for name in dict.fromkeys([*operation.topics, *(survey.topic for survey in operation.surveys)]):
                if name in self.topics:
                    self._trimmed(self.topics[name], views)
            return
        if isinstance(operation, Ripen):
            for topic in self.topics.values():
                self._ripened(topic, views)
            return
        if isinstance(result, TopicSet) and result.topic in KEPT_TOPICS:
            new = KeptTopic(result.config, [[] for _ in range(PARTITIONS)], {}, result.topic)
            self.topics.setdefault(result.topic, new).config = result.config
            return
        known = self.topics.get(getattr(operation, "topic", ""))
        if known is None:
            return
        self.results.setdefault(index, []).append(result)
        match operation, result:
            case ChangeMessage() | CancelMessage(), _:
                amended(known, operation, result, self._now_ms)
            case AppendMany(), _:
                self._appended(known, operation, result, index)
            case Purge(), Purged():
                kept = list(known.kept())
                if result.count != len(kept):
                    raise Violation(f"a purge of {len(kept)} messages says {result}")
                self._drop(known, kept)
            case Pull() | LeasePull(), Pulled() | Leased():
                self._given(known, operation, result, views)
            case Settle(), LeaseSettled():
                consumer = known.consumers.get(operation.consumer, Consumer())
                failed = [
                    number
                    for number, item in enumerate(operation.items)
                    if not settled(known, consumer, item, self._now_ms)
                ]
                if [number for number, _, _ in result.failed] != failed:
                    raise Violation(f"those at {failed} have no lease, not {result}; in hand is {consumer.held}")
            case _:
                # Too late, or nobody is in the way of it.
                pass

    # Appends.

    def _appended(self, topic: KeptTopic, operation: AppendMany, result: Result, index: int) -> None:
        key = operation.once.name if operation.once is not None else ""
        first, refusal = topic.first(key, self._now_ms), _refusal_of(topic, operation)
        match result:
            case Refused(code="expired"):
                return
            case Duplicate():
                if first != (result.first, result.first_index):
                    raise Violation(f"{result} is no repeat: known is {first}")
            case Refused():
                if first is not None or result.code != refusal:
                    raise Violation(f"{result} is due as {refusal or 'stored'}, known is {first}")
            case Appended() | AppendedMany():
                if first is not None or refusal:
                    raise Violation(f"{result} is to be refused: {refusal or 'a repeat'}")
                self._store(topic, operation, result, index)
                if key:
                    topic.known[key] = result, index
            case _:
                raise Violation(f"an append is answered with {result}")

    def _store(self, topic: KeptTopic, operation: AppendMany, result: Appended | AppendedMany, index: int) -> None:
        places = result.places if isinstance(result, AppendedMany) else [_place_of(result)]
        number = result.first_id
        for part, place in zip(operation.parts, places, strict=True):
            ids = [f"{index}.{number + i}" for i in range(part.count)]
            number += part.count
            base = -1 if part.delay_ms else len(topic.partitions[part.partition])
            due_ms = self._now_ms + part.delay_ms if part.delay_ms else 0
            if place != StoredPlace(part.partition, part.level, base, part.count, due_ms):
                raise Violation(f"{part} is at {place}, its offset is {base}")
            if part.delay_ms:
                topic.waiting |= {
                    message_id: Delayed(part, due_ms, record_of(part, i), i) for i, message_id in enumerate(ids)
                }
            else:
                topic.append(part, base, ids, self._now_ms)

    def _ripened(self, topic: KeptTopic, views: Views) -> None:
        """What entered its level was due, and is as it was published."""
        for number, partition in enumerate(topic.partitions if topic.waiting else ()):
            for message in views.peek(topic.name, partition=number, offset=len(partition), count=PEEKED_MAX):
                delayed = topic.waiting.pop(message.id, None)
                if delayed is None or delayed.due_ms > self._now_ms:
                    raise Violation(f"{message} enters its level at {self._now_ms}, known is {delayed}")
                part = delayed.part
                base = len(partition) - delayed.number + delayed.first
                topic.append(part, base, [message.id], self._now_ms, delayed.number, had_id=True)
                check_same(partition[-1], message)

    # Pulls.

    def _given(self, topic: KeptTopic, operation: Pull | LeasePull, result: Pulled | Leased, views: Views) -> None:
        consumer = topic.consumers.setdefault(result.consumer, Consumer())
        if isinstance(operation, Pull) and isinstance(result, Pulled):
            pulled(topic, consumer, operation, result, self._now_ms)
            ranges = result.ranges
        elif isinstance(operation, LeasePull) and isinstance(result, Leased):
            leased(topic, consumer, operation, result, self._now_ms)
            ranges = [found.messages for found in result.ranges]
        for known, message in zip(topic.messages_of(ranges), views.read_ranges(topic.name, ranges), strict=True):
            check_same(known, message)

    # Trimming.

    def _trimmed(self, topic: KeptTopic, views: Views) -> None:
        """What a command of the leader trimmed might go."""
        gone: list[Message] = []
        for status in views.partition_status(topic.name):
            for level, count in enumerate(status.depth):
                kept = [m for m in topic.lines.get((status.partition, level), []) if not m.is_gone]
                if count > len(kept):
                    raise Violation(f"level {level} of {status.partition} has {count} messages, not {len(kept)}")
                gone += kept[: len(kept) - count]
        too_many = [message for message in gone if not self._may_go(topic, message, views)]
        self._drop(topic, gone)
        if not too_many:
            return
        left = list(topic.kept())
        overflow = topic.config.overflow
        if overflow == REJECT or len(left) < topic.kept_max:
            raise Violation(f"{too_many} are trimmed of {topic.config}, and {len(left)} are left")
        if max(map(_RANKS[overflow], too_many)) > min(map(_RANKS[overflow], left)):
            raise Violation(f"{too_many} are trimmed before some of {left} by {overflow}")

    def _may_go(self, topic: KeptTopic, message: Message, views: Views) -> bool:
        """Whether it is too old, or every consumer is done with it."""
        retention = topic.config.retention
        if 0 < retention.ms <= self._now_ms - message.stamp_ms:
            return True
        return (
            retention.acked
            and bool(topic.consumers)
            and all(
                consumer.may_be_done_with(message, self._now_ms)
                and (not consumer.has_died(message, self._now_ms) or is_buried(views, topic.name, name, message.place))
                for name, consumer in topic.consumers.items()
            )
        )

    def _drop(self, topic: KeptTopic, gone: Sequence[Message]) -> None:
        for message in gone:
            for consumer in topic.consumers.values():
                consumer.trimmed(message, self._now_ms)
            message.is_gone = True
        self.trimmed_count += len(gone)


def _refusal_of(topic: KeptTopic, operation: AppendMany) -> str:
    """The code with which the append is refused; empty when it is to be stored."""
    if any(len(topic.partitions[partition]) - 1 != last for partition, last in operation.expected):
        return "precondition_failed"
    overflow, most, size_max = topic.config.overflow, topic.kept_max, topic.config.retention.bytes
    if 0 < size_max < sum(len(part.records) for part in operation.parts):
        return "body_too_large"
    if overflow == DROP_OLDEST:
        return ""
    levels = sorted(message.level for message in topic.kept())
    for part in operation.parts:
        for _ in range(len(levels) + part.count - most):
            if overflow == REJECT or not levels or levels[0] > part.level:
                return "topic_full"
            levels.pop(0)
        levels = sorted([*levels, *[part.level] * part.count])
    return ""


_RANKS = {
    DROP_OLDEST: lambda message: (message.stamp_ms, message.level),
    DROP_LOWEST: lambda message: (message.level, message.stamp_ms),
}
"""Overflow -> what of a message goes first, the least first."""


def _place_of(appended: Appended) -> StoredPlace:
    return StoredPlace(appended.partition, appended.level, appended.base_offset, appended.count, appended.due_ms)


def check_same(known: Message, message: DeliveredMessage) -> None:
    """Raises: Violation."""
    shown = (message.partition, message.offset), message.level, message.id, pack_record(message.message)
    if shown != (known.place, known.level, known.id, known.record):
        raise Violation(f"{known} is shown as {message}")
