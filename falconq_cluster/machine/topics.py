"""Topics: they are created, changed and deleted.

What lives here: the SetTopic and DeleteTopic operations, and what is wrong with settings.
Rules (PROTOCOL.md P12, P16): partitions never shrink; levels never reorder or vanish, new ones are more urgent than all
others. A change writes the topic's row, and where partitions are added another one, however many consumers there are:
what they have in new partitions and levels is 0 by its absence. A deleted topic is gone at once, by its name; a new one
of the name has another number.
Must not know: how the keys of a deleted topic go.
"""

from __future__ import annotations

from collections.abc import Sequence

from falconq_cluster.machine import keys
from falconq_cluster.machine.commands import (
    ANY_VERSION,
    EXISTING_VERSION,
    MISSING_VERSION,
    DeleteTopic,
    Done,
    Refused,
    SetTopic,
    TopicSet,
)
from falconq_cluster.machine.events import TopicChanged, TopicDeleted
from falconq_cluster.machine.names import is_name
from falconq_cluster.machine.rows import AdditionRow, DeletionRow
from falconq_cluster.machine.settings import (
    AGED,
    FACTOR_ONE,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    OVERFLOWS,
    RETURN_MS_MAX,
    STRICT,
    WEIGHTED,
    Retry,
    Scheduler,
    TopicConfig,
    with_settings,
)
from falconq_cluster.machine.state import Deletion, TopicState, new_topic
from falconq_cluster.machine.turn import Turn

LEVELS_MAX = 16
WEIGHT_MAX = 1000
MAX_WAIT_MS_MAX = 604_800_000
IN_FLIGHT_MAX = 50_000
DELIVERIES_MAX = 1000
DEDUPE_WINDOW_MS_MIN = 1_000
"""A window that is over before a client's first try has timed out would promise nothing."""
DEDUPE_WINDOW_MS_MAX = 604_800_000
"""A week. How many keys fit is bounded by their count, whatever the window."""
FACTOR_MAX = 100
RETENTION_MS_MIN = 1_000
RETENTION_MS_MAX = 10 * 366 * 86_400_000
RETENTION_BYTES_MIN = 1 << 20
"""More than messages that were published at one moment have together, and share one judgement."""
RETENTION_COUNT_MAX = 2**53 - 1
"""The largest that every JSON reader keeps exact (RFC 8259 section 6)."""
_SHOWN_CHARS_MAX = 80

Mistake = tuple[str, str]
"""(setting, sentence)."""


def set_topic(turn: Turn, operation: SetTopic) -> TopicSet | Refused:
    """The topic has the settings, or nothing is changed. Equal settings keep their version."""
    topic = turn.state.topics.get(operation.topic)
    refusal = _refused_early(turn, operation, topic)
    if refusal is not None:
        return refusal
    base = topic.config if topic is not None and operation.is_change else TopicConfig()
    config = with_settings(base, operation.given)
    # A node that allows fewer partitions than the topic has still changes other settings.
    partitions_max = max(turn.limits.partitions_per_topic_max, 0 if topic is None else len(topic.partitions))
    mistakes = config_mistakes(config, partitions_max=partitions_max) + unknown_level_mistakes(config)
    if config.dead_letter_topic == operation.topic:
        mistakes.append(("deadLetterTopic", "'deadLetterTopic' is the topic itself; dead letters go to another one."))
    if not mistakes and topic is not None:
        mistakes = change_mistakes(topic.config, config)
    if mistakes:
        return Refused("bad_request", " ".join(sentence for _, sentence in mistakes))
    if topic is None:
        return _answer(create_topic(turn, operation.topic, config), is_new=True)
    if config != topic.config:
        if config.partitions > topic.config.partitions:
            _note_addition(turn, topic)
        topic.configure(config, turn.next_number())
        turn.state.watch(topic)
        turn.put(keys.topic_key(topic.name), topic.row())
        turn.events.append(TopicChanged(topic.name))
    return _answer(topic, is_new=False)


def _note_addition(turn: Turn, topic: TopicState) -> None:
    """Remember where the partitions stood when others were added, for consumers with an order (PROTOCOL.md P16)."""
    first, ends = len(topic.partitions), tuple(partition.next_offset for partition in topic.partitions)
    if any(ends):
        topic.additions[first] = ends
        turn.put(keys.addition_key(topic.number, first), AdditionRow(ends))


def delete_topic(turn: Turn, operation: DeleteTopic) -> Done | Refused:
    """The name is free at once, and what the topic holds is left to be trimmed."""
    topic = turn.state.topics.get(operation.topic)
    if turn.is_expired(operation.not_after_ms):
        return _expired(turn, operation.not_after_ms)
    if topic is None:
        return Refused("topic_not_found", f"there is no topic {operation.topic[:200]!r}")
    refusal = _precondition(operation.if_version, topic, operation.topic)
    if refusal is not None:
        return refusal
    number = turn.next_number()
    deletion = Deletion(topic.number, b"")
    turn.state.deletions[number] = deletion
    del turn.state.topics[topic.name]
    turn.state.trimmable.pop(topic.name, None)
    if topic.held_count.value:
        for consumer in topic.consumers.values():
            consumer.holdings.forget()
    turn.delete(keys.topic_key(topic.name))
    turn.put(keys.deletion_key(number), DeletionRow(deletion.topic, deletion.next_key))
    turn.events.append(TopicDeleted(topic.name))
    return Done()


def create_topic(turn: Turn, name: str, config: TopicConfig) -> TopicState:
    """A topic of a new number; whoever calls has judged name, settings and room."""
    topic = new_topic(name, turn.next_number(), turn.log_time_ms, config, turn.state.held_count)
    turn.state.topics[name] = topic
    turn.state.watch(topic)
    turn.put(keys.topic_key(name), topic.row())
    turn.events.append(TopicChanged(name))
    return topic


def no_room(turn: Turn) -> Refused | None:
    """The refusal of one more topic."""
    count, most = len(turn.state.topics) + len(turn.state.deletions), turn.limits.topics_max
    if count < most:
        return None
    text = f"there are {count} topics, with those that are being deleted, and topics_max is {most}"
    return Refused("overloaded", f"{text}; delete some, or raise it on the nodes")


def config_mistakes(config: TopicConfig, *, partitions_max: int) -> list[Mistake]:
    """What is wrong with the settings by themselves: a sentence for each mistake."""
    mistakes: list[Mistake] = []
    if not 1 <= config.partitions <= partitions_max:
        text = f"'partitions' is {config.partitions}; a topic has 1 to {partitions_max} (partitions_per_topic_max)."
        mistakes.append(("partitions", text))
    levels = config.levels
    if not 1 <= len(levels) <= LEVELS_MAX:
        mistakes.append(("levels", f"'levels' has {len(levels)} names; a topic has 1 to {LEVELS_MAX} levels."))
    for place, name in enumerate(levels[: LEVELS_MAX + 1]):
        if not is_name(name):
            sentence = (
                f"Level {place} is {name[:_SHOWN_CHARS_MAX]!r}; a name has 1 to 200 of A-Z a-z 0-9 . _ - and does not "
                f"start with . or -."
            )
            mistakes.append(("levels", sentence))
        elif name in levels[:place]:
            mistakes.append(("levels", f"Level {name!r} is there more than once; give each level its own name."))
    return mistakes + _scheduler_mistakes(config.scheduler) + _delivery_mistakes(config) + _retention_mistakes(config)


def _delivery_mistakes(config: TopicConfig) -> list[Mistake]:
    ranges = [
        ("leaseMs", config.lease_ms, LEASE_MS_MIN, LEASE_MS_MAX),
        ("maxInFlight", config.in_flight_max, 1, IN_FLIGHT_MAX),
        ("maxDeliveries", config.deliveries_max, 0, DELIVERIES_MAX),
        ("dedupeWindowMs", config.dedupe_window_ms, DEDUPE_WINDOW_MS_MIN, DEDUPE_WINDOW_MS_MAX),
    ]
    mistakes = [
        (name, f"'{name}' is {value}; it is from {least} to {most}.")
        for name, value, least, most in ranges
        if not least <= value <= most
    ]
    name = config.dead_letter_topic
    if name and not is_name(name):
        mistakes.append(("deadLetterTopic", f"{name[:_SHOWN_CHARS_MAX]!r} can't be the name of a topic."))
    return mistakes + _retry_mistakes(config.retry)


def _retry_mistakes(retry: Retry) -> list[Mistake]:
    if not 0 <= retry.min_ms <= retry.max_ms <= RETURN_MS_MAX:
        text = f"'retry' waits from {retry.min_ms} to {retry.max_ms} ms; 'minMs' is from 0 to 'maxMs', and that is"
        return [("retry", f"{text} at most {RETURN_MS_MAX}.")]
    if not FACTOR_ONE <= retry.factor <= FACTOR_MAX * FACTOR_ONE:
        return [("retry", f"'retry' has a 'factor' that is not from 1 to {FACTOR_MAX}.")]
    return []


def _retention_mistakes(config: TopicConfig) -> list[Mistake]:
    retention, mistakes = config.retention, []
    for name, value, least, most in (
        ("ms", retention.ms, RETENTION_MS_MIN, RETENTION_MS_MAX),
        ("bytes", retention.bytes, RETENTION_BYTES_MIN, RETENTION_COUNT_MAX),
        ("messages", retention.messages, 1, RETENTION_COUNT_MAX),
    ):
        if value and not least <= value <= most:
            text = f"'retention' has {value} for '{name}'; it is from {least} to {most}, or left out for no limit."
            mistakes.append(("retention", text))
    if config.overflow not in OVERFLOWS:
        text = f"'overflow' is {config.overflow[:_SHOWN_CHARS_MAX]!r}; it is one of {', '.join(OVERFLOWS)}."
        mistakes.append(("overflow", text))
    return mistakes


def _scheduler_mistakes(scheduler: Scheduler) -> list[Mistake]:
    policy = scheduler.policy
    if policy not in (STRICT, WEIGHTED, AGED):
        known = f"{STRICT!r}, {WEIGHTED!r} or {AGED!r}"
        return [("scheduler", f"'scheduler' has the policy {policy[:_SHOWN_CHARS_MAX]!r}; it is {known}.")]
    if policy != WEIGHTED and scheduler.weights:
        return [("scheduler", f"'scheduler' has weights with the policy {policy!r}; they are for {WEIGHTED!r}.")]
    if policy != AGED and scheduler.max_wait_ms:
        return [("scheduler", f"'scheduler' has maxWaitMs with the policy {policy!r}; it is for {AGED!r}.")]
    if policy == AGED and not scheduler.max_wait_ms:
        text = f"'scheduler' has the policy {AGED!r} without maxWaitMs; give a level its limit, or use {STRICT!r}."
        return [("scheduler", text)]
    for what, values in (("weights", scheduler.weights), ("limits in maxWaitMs", scheduler.max_wait_ms)):
        if len(values) > LEVELS_MAX:
            text = f"'scheduler' has {len(values)} {what}; a topic has 1 to {LEVELS_MAX} levels."
            return [("scheduler", text)]
    mistakes = [
        f"The weight of {name[:_SHOWN_CHARS_MAX]!r} is {weight}; it is from 1 to {WEIGHT_MAX}."
        for name, weight in scheduler.weights
        if not 1 <= weight <= WEIGHT_MAX
    ]
    mistakes += [
        f"The maxWaitMs of {name[:_SHOWN_CHARS_MAX]!r} is {wait_ms}; it is from 1 to {MAX_WAIT_MS_MAX}."
        for name, wait_ms in scheduler.max_wait_ms
        if not 1 <= wait_ms <= MAX_WAIT_MS_MAX
    ]
    return [("scheduler", sentence) for sentence in mistakes]


def unknown_level_mistakes(config: TopicConfig) -> list[Mistake]:
    """What is given for levels that the topic does not have. Of no concern to who sees only what a request gives."""
    known = _listed(config.levels)
    scheduler = config.scheduler
    return [
        ("scheduler", f"'scheduler' has a {what} for {name[:_SHOWN_CHARS_MAX]!r}; the topic's levels are {known}.")
        for what, values in (("weight", scheduler.weights), ("limit", scheduler.max_wait_ms))
        for name, _ in values
        if name not in config.levels
    ]


def change_mistakes(old: TopicConfig, new: TopicConfig) -> list[Mistake]:
    """What forbids a topic to go from one configuration to another."""
    mistakes: list[Mistake] = []
    if new.partitions < old.partitions:
        sentence = f"'partitions' is {new.partitions}, the topic has {old.partitions}; partitions never shrink."
        mistakes.append(("partitions", sentence))
    if new.levels[: len(old.levels)] != old.levels:
        sentence = (
            f"'levels' is {_listed(new.levels)}, the topic has {_listed(old.levels)}; levels never change their name "
            f"or place, new ones are added at the end."
        )
        mistakes.append(("levels", sentence))
    return mistakes


def _listed(levels: Sequence[str]) -> str:
    return f"[{', '.join(levels)}]"


def _answer(topic: TopicState, *, is_new: bool) -> TopicSet:
    return TopicSet(
        topic=topic.name,
        created_ms=topic.created_ms,
        version=topic.version,
        config=topic.config,
        is_new=is_new,
    )


def _refused_early(turn: Turn, operation: SetTopic, topic: TopicState | None) -> Refused | None:
    if turn.is_expired(operation.not_after_ms):
        return _expired(turn, operation.not_after_ms)
    if topic is None and operation.is_change:
        return Refused("topic_not_found", f"there is no topic {operation.topic[:200]!r}")
    refusal = _precondition(operation.if_version, topic, operation.topic)
    if refusal is not None or topic is not None:
        return refusal
    if not is_name(operation.topic):
        return Refused("bad_request", f"{operation.topic[:200]!r} can't be the name of a topic")
    return no_room(turn)


def _precondition(if_version: int, topic: TopicState | None, name: str) -> Refused | None:
    if topic is None:
        if if_version in (ANY_VERSION, MISSING_VERSION):
            return None
        return Refused("precondition_failed", f"there is no topic {name[:200]!r}")
    if if_version in (ANY_VERSION, EXISTING_VERSION, topic.version):
        return None
    if if_version == MISSING_VERSION:
        return Refused("precondition_failed", f"topic {name!r} is there already")
    return Refused("precondition_failed", f"topic {name!r} was changed meanwhile; get it again")


def _expired(turn: Turn, not_after_ms: int) -> Refused:
    return Refused("expired", f"the time to change the topic ran out at {not_after_ms}, it is {turn.log_time_ms}")
