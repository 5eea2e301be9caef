"""Pull: a consumer takes the next messages and its cursors move past them.

What lives here: the Pull operation, and what is remembered of attempts.
Rules: a pull is judged before anything changes. An attempt that comes again is given what it was given before, and
moves nothing.
Must not know: which messages are the next ones, what is in a message.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import Pull, Pulled, Refused
from falconq_cluster.machine.consumers import create_consumer, refusal_of_new, used
from falconq_cluster.machine.queueing import Taken
from falconq_cluster.machine.rows import AttemptRow
from falconq_cluster.machine.scheduling import ALL_PARTITIONS, Demand, take_next
from falconq_cluster.machine.state import Attempt, ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import Ordering
from falconq_cluster.machine.turn import Turn

ATTEMPT_LENGTH_MAX = 200


def pull(turn: Turn, operation: Pull) -> Pulled | Refused:
    """Gives ranges in delivery order and moves the cursors, repeats what the attempt was given, or changes nothing."""
    topic = turn.state.topics.get(operation.topic)
    if topic is None or turn.is_expired(operation.not_after_ms):
        return _refused_early(turn, operation)
    consumer = topic.consumers.get(operation.consumer)
    refusal = _refusal(turn, operation, topic, consumer)
    if refusal is not None:
        return refusal
    if consumer is None:
        consumer = create_consumer(turn, topic, operation.consumer)
    used(turn, topic, consumer)
    _forget_old_attempts(turn, topic, consumer)
    remembered = consumer.attempts.get(operation.attempt)
    if remembered is not None:
        row = remembered.row
        return Pulled(topic.name, consumer.name, row.ranges, is_replay=True, start_offsets=dict(row.start_offsets))
    if consumer.is_paused:
        return Pulled(topic.name, consumer.name, [], is_replay=False, start_offsets={})
    demand = Demand(operation.partition, min(operation.count_max, turn.limits.pull_count_max), operation.bytes_max)
    taken = take_next(turn, topic, consumer, demand)
    if operation.attempt and taken.ranges:
        _remember(turn, topic, consumer, operation.attempt, taken)
    return Pulled(topic.name, consumer.name, taken.ranges, is_replay=False, start_offsets=taken.start_offsets)


def _refused_early(turn: Turn, operation: Pull) -> Refused:
    if turn.is_expired(operation.not_after_ms):
        return Refused("expired", f"the time to pull ran out at {operation.not_after_ms}, it is {turn.log_time_ms}")
    return Refused("topic_not_found", f"there is no topic {operation.topic!r}")


def _refusal(turn: Turn, operation: Pull, topic: TopicState, consumer: ConsumerState | None) -> Refused | None:
    if not ALL_PARTITIONS <= operation.partition < len(topic.partitions):
        return Refused(
            "unknown_partition",
            f"topic {topic.name!r} has {len(topic.partitions)} partitions, none has the number {operation.partition}",
        )
    if operation.count_max < 1:
        return Refused("bad_request", f"a pull takes at least 1 message, not {operation.count_max}")
    if consumer is not None and consumer.config.ordering is not Ordering.NONE:
        return Refused("bad_request", f"consumer {operation.consumer!r} has an order; pull under leases instead")
    if len(operation.attempt) > ATTEMPT_LENGTH_MAX:
        return Refused("bad_request", f"an attempt has at most {ATTEMPT_LENGTH_MAX} characters")
    return None if consumer is not None else refusal_of_new(turn, topic, operation.consumer)


def _forget_old_attempts(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    while consumer.attempts:
        oldest = next(iter(consumer.attempts.values()))
        if turn.log_time_ms - oldest.row.made_ms < turn.limits.attempt_ms:
            return
        _forget(turn, topic, consumer, oldest)


def _remember(turn: Turn, topic: TopicState, consumer: ConsumerState, attempt: str, taken: Taken) -> None:
    while len(consumer.attempts) >= turn.limits.attempts_per_consumer_max:
        _forget(turn, topic, consumer, next(iter(consumer.attempts.values())))
    row = AttemptRow(attempt, turn.log_time_ms, taken.ranges, list(taken.start_offsets.items()))
    number = turn.next_number()
    consumer.attempts[attempt] = Attempt(number, row)
    turn.put(keys.attempt_key(topic.number, consumer.number, number), row)


def _forget(turn: Turn, topic: TopicState, consumer: ConsumerState, attempt: Attempt) -> None:
    del consumer.attempts[attempt.row.attempt]
    turn.delete(keys.attempt_key(topic.number, consumer.number, attempt.number))
