"""What must be left of topics that do not keep everything, once all is quiet.

What lives here: the checks of a machine and its store after a run, against the model.
Rules: what is kept is there, byte for byte, and nothing that need not be; the store holds no batch that is trimmed but
what a remembered attempt may name, and no lease of what is trimmed; what consumers lost is counted; what clients were
told is what happened, and of those who named the same last offset one was told that it was stored.
Must not know: how the machine trims and erases.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from falconq_cluster.machine import keys
from falconq_cluster.machine.appends import AppendMany
from falconq_cluster.machine.commands import Duplicate
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.settings import REJECT
from falconq_cluster.machine.state import TopicState
from falconq_cluster.machine.views import Views
from falconq_cluster.storage.store import Reader
from tests.sim.clients import DONE, Asked
from tests.sim.keep_consumers import Place, is_forgotten
from tests.sim.keep_graves import check_graves, check_hand
from tests.sim.keep_model import PEEKED_MAX, KeepModel, check_same
from tests.sim.keep_topics import KeptTopic
from tests.sim.keeping import KEPT_TOPICS
from tests.sim.world import Violation

LATE_MS = 3000
"""The leader looks for what is due, or too old, about once a second."""


def check_kept(model: KeepModel, machine: Machine, reader: Reader, asked: Sequence[Asked]) -> None:
    """All of it. Raises: Violation."""
    views, now_ms = Views(machine, reader), machine.log_time_ms
    for name, topic in model.topics.items():
        state = machine.state.topics[name]
        _check_messages(views, topic)
        _check_limits(topic, now_ms)
        _check_store(reader, topic, state, now_ms)
        check_graves(views, name, topic, topic.consumers, now_ms)
        for consumer_name, consumer in topic.consumers.items():
            check_hand(views, name, state.consumers[consumer_name], consumer, now_ms)
            view = views.consumers.consumer(name, consumer_name)
            if view is None or not consumer.lost_least <= sum(view.lost) <= consumer.lost_most:
                text = f"{consumer.lost_least} to {consumer.lost_most}"
                raise Violation(f"{consumer_name} of {name} lost {text} messages, not {view}")
    _check_answers(model, asked)


def _check_messages(views: Views, topic: KeptTopic) -> None:
    """Peek shows what is kept, and nothing else; what was cancelled is found nowhere."""
    for number, partition in enumerate(topic.partitions):
        kept = [message for message in partition if not message.is_gone and not message.is_cancelled]
        shown = views.peek(topic.name, partition=number, offset=0, count=PEEKED_MAX, bytes_max=1 << 40)
        if len(shown) != len(kept):
            raise Violation(f"partition {number} of {topic.name} shows {len(shown)} messages, not {len(kept)}")
        for known, message in zip(kept, shown, strict=True):
            check_same(known, message)
    for message_id in sorted(topic.cancelled):
        log_index, number_of = map(int, message_id.split("."))
        places = [place for place in views.messages.locate(topic.name, log_index, number_of) if place]
        if places:
            raise Violation(f"{message_id} of {topic.name} was cancelled, and is at {places}")


def _check_limits(topic: KeptTopic, now_ms: int) -> None:
    """Nothing is kept, and nothing waits, for too long."""
    retention, kept = topic.config.retention, list(topic.kept())
    late = [delayed for delayed in topic.waiting.values() if delayed.due_ms + LATE_MS < now_ms]
    if late:
        raise Violation(f"{late} of {topic.name} wait at {now_ms}")
    if topic.config.overflow != REJECT and len(kept) > topic.kept_max:
        raise Violation(f"{topic.name} keeps {len(kept)} messages, not {topic.kept_max}")
    old = [message for message in kept if 0 < retention.ms <= now_ms - message.stamp_ms - LATE_MS]
    if old:
        raise Violation(f"{topic.name} keeps {old} at {now_ms}, for longer than {retention.ms} ms")
    for line in topic.lines.values() if retention.acked and topic.consumers else ():
        for message in [message for message in line if not message.is_gone][:1]:
            if all(consumer.is_done_with(message) for consumer in topic.consumers.values()):
                raise Violation(f"{topic.name} keeps {message}, which all consumers have settled")


def _check_store(reader: Reader, topic: KeptTopic, state: TopicState, now_ms: int) -> None:
    """Batches that are kept, or that a remembered attempt may name, and leases of what is kept."""
    named: dict[Place, int] = {}
    for consumer in topic.consumers.values():
        for since_ms, ranges in consumer.attempts.values():
            for found in () if is_forgotten(since_ms, now_ms) else ranges:
                place = found.partition, found.level
                named[place] = min(found.batch_offset, named.get(place, found.batch_offset))
    for number in range(len(topic.partitions)):
        for level in range(len(topic.config.levels)):
            line = topic.lines.get((number, level), [])
            prefix = keys.level_prefix(state.number, number, level)
            stored = [keys.read_batch_key(key).base for key in reader.scan_keys(prefix, keys.prefix_end(prefix))]
            gone = list(takewhile(lambda message: message.is_gone, line))
            kept = {message.base for message in line[len(gone) :]}
            first = named.get((number, level), len(topic.partitions[number]))
            may = kept | {message.base for message in gone if message.base >= first}
            if not kept <= set(stored) <= may:
                raise Violation(f"of level {level} of {number} of {topic.name} the store has {stored}, not {kept}")
    start, stop = keys.topic_range(keys.LEASE, state.number)
    for key in reader.scan_keys(start, stop):
        place = keys.read_lease_key(key)[2:]
        if topic.at(place).is_gone:
            raise Violation(f"{topic.at(place)} of {topic.name} is in hand")


def _check_answers(model: KeepModel, asked: Sequence[Asked]) -> None:
    """What clients were told happened; of those that expected one offset, one was stored."""
    winners: dict[tuple[str, tuple[int, int]], bytes] = {}
    for one in asked:
        operation = one.operation
        if one.state != DONE or getattr(operation, "topic", "") not in KEPT_TOPICS:
            continue
        if one.index in model.results and one.result not in model.results[one.index]:
            raise Violation(f"{one.node} answered {operation} with {one.result}, entry {one.index} says no such")
        if not isinstance(operation, AppendMany):
            continue
        known = model.topics[operation.topic].known
        if isinstance(one.result, Duplicate) and one.token.decode() not in known:
            raise Violation(f"{one.token.decode()} is called a repeat by {one.node}, and was never stored")
        for expected in operation.expected:
            if all(part.delay_ms or part.partition != expected[0] for part in operation.parts):
                # What waits for its time leaves the last offset as it is.
                continue
            if winners.setdefault((operation.topic, expected), one.token) != one.token:
                raise Violation(f"two of {operation.topic} were told that {expected} was what they expected")
