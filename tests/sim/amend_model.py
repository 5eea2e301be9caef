"""What becomes of messages that are changed or cancelled, found out once more and by itself.

What lives here: the judgement of each such operation.
Rules: what waits may be changed and cancelled; what is in its level too, until it was handed to somebody; nothing else.
A message keeps its id, its record and its time to live; it is at one place, or waits, or is gone. The others that were
stored with it stay where they are.
Must not know: how the machine finds messages and takes them out.
"""

from __future__ import annotations

from dataclasses import replace

from falconq_cluster.machine.amends import CancelMessage, ChangeMessage, MessageChanged
from falconq_cluster.machine.appends import Part
from falconq_cluster.machine.commands import Done, Refused, Result
from tests.sim.keep_consumers import Message
from tests.sim.keep_topics import Delayed, KeptTopic
from tests.sim.world import Violation

Amend = ChangeMessage | CancelMessage


def amended(topic: KeptTopic, operation: Amend, result: Result, now_ms: int) -> None:
    """Judge the answer, and have its effect. Raises: Violation."""
    message_id = f"{operation.log_index}.{operation.number}"
    waiting, stored = topic.waiting.get(message_id), topic.by_id.get(message_id)
    if stored is not None and stored.is_over(now_ms):
        stored = None
    is_handed = stored is not None and any(consumer.has_passed(stored) for consumer in topic.consumers.values())
    is_there = waiting is not None or stored is not None
    match result:
        case Refused(code="expired" | "overloaded" | "delayed_full"):
            return
        case Refused(code="message_not_found"):
            is_right = waiting is None and not (stored is not None and _is_named(stored, operation))
        case Refused(code="already_delivered"):
            is_right = waiting is None and is_handed
        case Done():
            is_right = isinstance(operation, CancelMessage) and is_there and not is_handed
        case MessageChanged():
            is_same = isinstance(operation, ChangeMessage) and _is_same(stored, operation)
            is_right = isinstance(operation, ChangeMessage) and is_there and (is_same or not is_handed)
        case _:
            is_right = False
    if not is_right:
        raise Violation(f"{result}: waiting is {waiting}, stored {stored}, handed out {is_handed}")
    if isinstance(operation, CancelMessage) and isinstance(result, Done):
        _take(topic, message_id)
        topic.cancelled.add(message_id)
    elif isinstance(operation, ChangeMessage) and isinstance(result, MessageChanged):
        _change(topic, operation, message_id, result, now_ms)


def _is_named(stored: Message, operation: Amend) -> bool:
    """Whether the operation is about the message: one that had its id before is found without its place."""
    return stored.had_id or stored.place == (operation.partition, operation.offset)


def _is_same(stored: Message | None, operation: ChangeMessage) -> bool:
    """Whether a message that is in its level is as it is wanted."""
    return stored is not None and operation.level in (-1, stored.level) and operation.delay_ms <= 0


def _change(topic: KeptTopic, operation: ChangeMessage, message_id: str, result: MessageChanged, now_ms: int) -> None:
    waiting, stored = topic.waiting.get(message_id), topic.by_id.get(message_id)
    due_ms = now_ms + operation.delay_ms if operation.delay_ms >= 0 else 0
    if waiting is not None:
        part, record = waiting.part, waiting.record
        partition, was, ttl_ms = part.partition, (part.level, waiting.due_ms), part.ttl_ms
        due_ms = due_ms or waiting.due_ms
        if max(due_ms, waiting.due_ms) <= now_ms:
            due_ms = waiting.due_ms
    else:
        assert stored is not None
        partition, was, record = stored.place[0], (stored.level, 0), stored.record
        ttl_ms = stored.expires_ms - now_ms if stored.expires_ms else 0
        due_ms = due_ms if due_ms > now_ms else 0
    level = was[0] if operation.level < 0 else operation.level
    offset = -1
    if not due_ms:
        assert stored is not None
        offset = stored.place[1] if was == (level, due_ms) else len(topic.partitions[partition])
    if result != MessageChanged(topic.name, partition, level, offset, due_ms):
        raise Violation(f"{result} is not level {level} at {offset}, due {due_ms}: {waiting}, {stored}")
    if was == (level, due_ms):
        return
    _take(topic, message_id)
    new = Part(partition, level, 1, record, ttl_ms=ttl_ms)
    if due_ms:
        topic.waiting[message_id] = Delayed(new, due_ms, record, 0)
    else:
        topic.append(new, offset, [message_id], now_ms, had_id=True)


def _take(topic: KeptTopic, message_id: str) -> None:
    """Take the message out of what it waits or is stored with; the others are in batches before and behind it."""
    waiting = topic.waiting.pop(message_id, None)
    if waiting is not None:
        for other_id, other in topic.waiting.items():
            if other.is_with(waiting) and other.number > waiting.number:
                topic.waiting[other_id] = replace(other, first=waiting.number + 1)
        return
    stored = topic.by_id[message_id]
    stored.is_cancelled = True
    base, place = stored.base, stored.place[1]
    mates = [m for m in topic.lines[stored.line] if m.base == base and not m.is_gone]
    for mate in mates:
        offset = mate.place[1]
        now = mates[0].place[1] if offset < place else place if offset == place else place + 1
        if now != base:
            mate.bases.append(now)
