"""The machine's state in memory: what the store holds, without the messages.

What lives here: the state's classes, and reading them from a store.
Rules: everything here can be rebuilt from the store and is equal on all nodes at the same index.
Must not know: commands, and who writes changes to the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from falconq_cluster.errors import CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.holdings import HeldCount, Holdings
from falconq_cluster.machine.levels import Cursor, PartitionState
from falconq_cluster.machine.names import Named
from falconq_cluster.machine.once import OnceTable, read_once_table
from falconq_cluster.machine.rows import (
    AdditionRow,
    AttemptRow,
    ClusterRow,
    ConsumerRow,
    CursorRow,
    DeletionRow,
    LeaseRow,
    OriginRow,
    PartitionRow,
    TopicRow,
    decode_row,
)
from falconq_cluster.machine.settings import Retention, TopicConfig
from falconq_cluster.machine.subscriptions import ConsumerConfig
from falconq_cluster.storage.store import Reader


@dataclass(slots=True)
class OriginState:
    """How far the commands of one origin are applied (P9)."""

    epoch: int
    last_sequence: int
    nonce: bytes


class LostCount:
    """How many messages were trimmed before their consumers had them, as far as this process has noticed."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


@dataclass(slots=True)
class Attempt:
    """What a pull was given."""

    number: int
    row: AttemptRow
    lowest: dict[tuple[int, int], int] = field(init=False)
    """(partition, level) -> base offset of the first batch that it names."""

    def __post_init__(self) -> None:
        self.lowest = {}
        for named in self.row.ranges:
            place = named.partition, named.level
            self.lowest[place] = min(named.batch_offset, self.lowest.get(place, named.batch_offset))


@dataclass(slots=True)
class ConsumerState:
    name: str
    number: int
    created_ms: int
    last_partition: int
    cursors: dict[int, list[Cursor]] = field(default_factory=dict)
    """partition -> cursors by level; read by `cursors_of`, since what was never looked at is absent."""
    attempts: dict[str, Attempt] = field(default_factory=dict)
    """attempt id -> what it was given, oldest first."""
    holdings: Holdings = field(kw_only=True)
    served: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    """`served` and `turns` are those of `rows.ConsumerRow`."""
    lost_count: LostCount = field(kw_only=True)
    config: ConsumerConfig = field(default_factory=ConsumerConfig)
    is_paused: bool = False
    used_ms: int = 0
    """Log time of its last use, to the minute."""
    delivery_number: int = 0
    stream: bytes = b""
    """Both as in `rows.ConsumerRow`."""

    def row(self) -> ConsumerRow:
        return ConsumerRow(
            number=self.number,
            created_ms=self.created_ms,
            last_partition=self.last_partition,
            served=tuple(self.served),
            turns=tuple(self.turns),
            config=self.config,
            is_paused=self.is_paused,
            used_ms=self.used_ms,
            delivery_number=self.delivery_number,
            stream=self.stream,
        )

    def cursors_of(self, partition: PartitionState) -> list[Cursor]:
        """One per level; at 0 in partitions and levels that were added (P16), and never at what is trimmed.

        They are moved here, so that trimming touches no consumer. When that happens decides nothing: two moves one
        after the other do what one does.
        """
        cursors = self.cursors.setdefault(partition.number, [])
        while len(cursors) < len(partition.levels):
            cursors.append(Cursor())
        for cursor, level in zip(cursors, partition.levels, strict=True):
            missed_count = level.trimmed_count - cursor.delivered_count
            if missed_count > 0:
                cursor.lost_count += missed_count
                self.lost_count.value += missed_count
                cursor.batch_offset, cursor.next_offset = level.trimmed_base, level.trimmed_to
                cursor.delivered_count = level.trimmed_count
            elif missed_count == 0 and cursor.next_offset == level.trimmed_to:
                # The batch there may have been split since it was moved (machine/splitting.py): whoever moves it now
                # comes to stand in front of the part that is retained.
                cursor.batch_offset = level.trimmed_base
        return cursors


@dataclass(slots=True)
class TopicState:
    name: str
    number: int
    created_ms: int
    config: TopicConfig
    partitions: list[PartitionState]
    version: int
    """Of the settings: a number that no other settings of any topic had."""
    consumers: Named[ConsumerState] = field(default_factory=Named)
    delayed_count: int = 0
    """Messages that wait for their time."""
    additions: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """First of the partitions that were added together -> `rows.AdditionRow.ends`, in the order of the numbers."""
    is_dead_letters: bool = False
    redrive_left: int = 0
    redrive_to: str = ""
    """These are those of `rows.TopicRow`."""
    retained_count: int = 0
    retained_bytes: int = 0
    """Both of all levels of all partitions."""
    held_count: HeldCount = field(kw_only=True)
    """Messages that its consumers have in hand."""

    @property
    def has_unerased(self) -> bool:
        """Whether the store holds what is trimmed."""
        return any(level.erased_to < level.trimmed_base for partition in self.partitions for level in partition.levels)

    @property
    def may_have_trimmed_in_hand(self) -> bool:
        """Whether consumers may hold what is trimmed: they hold something, and something is trimmed."""
        return self.held_count.value > 0 and any(
            level.trimmed_count for partition in self.partitions for level in partition.levels
        )

    def row(self) -> TopicRow:
        return TopicRow(
            self.number,
            self.created_ms,
            self.config,
            self.version,
            self.is_dead_letters,
            self.redrive_left,
            self.redrive_to,
        )

    def configure(self, config: TopicConfig, version: int) -> None:
        """Take settings that have at least the present partitions and levels."""
        self.config, self.version = config, version
        for partition in self.partitions:
            partition.grow(self.number, len(config.levels))
        for number in range(len(self.partitions), config.partitions):
            partition = PartitionState(number, [])
            partition.grow(self.number, len(config.levels))
            self.partitions.append(partition)


@dataclass(slots=True)
class Deletion:
    """A topic or consumer that is unlinked and not wholly trimmed; the fields are those of `rows.DeletionRow`."""

    topic: int
    next_key: bytes
    consumer: int = 0


@dataclass(slots=True)
class Delays:
    """What waits for its time, of all topics."""

    count: int = 0
    """Messages, with those of deleted topics whose time has not come."""
    next_ms: int | None = None
    """When the next are due; None when none wait."""

    def added(self, count: int, due_ms: int) -> None:
        self.count += count
        self.next_ms = due_ms if self.next_ms is None else min(self.next_ms, due_ms)

    def removed(self, count: int) -> None:
        """Some wait no more. What is next may be later than `next_ms` now: then a Ripen finds nothing, and sees it."""
        self.count -= count
        if not self.count:
            self.next_ms = None


@dataclass(slots=True)
class State:
    """Everything that commands change, but the messages."""

    cluster: ClusterRow = field(default_factory=lambda: ClusterRow("", {}, 0))
    origins: dict[str, OriginState] = field(default_factory=dict)
    topics: Named[TopicState] = field(default_factory=Named)
    once: OnceTable = field(default_factory=OnceTable)
    deletions: dict[int, Deletion] = field(default_factory=dict)
    """deletion number -> what is to be trimmed, oldest first."""
    held_count: HeldCount = field(default_factory=HeldCount)
    """Messages that all consumers have in hand."""
    lost_count: LostCount = field(default_factory=LostCount)
    delays: Delays = field(default_factory=Delays)
    trimmable: dict[str, None] = field(default_factory=dict)
    """Topics of which something may be to be trimmed or erased, at once or in time."""

    def watch(self, topic: TopicState) -> None:
        """Know whether something of the topic may be to be trimmed, after it or its settings have changed."""
        if topic.config.retention != Retention() or topic.has_unerased or topic.may_have_trimmed_in_hand:
            self.trimmable[topic.name] = None
        else:
            self.trimmable.pop(topic.name, None)


def new_topic(name: str, number: int, created_ms: int, config: TopicConfig, held_count: HeldCount) -> TopicState:
    """A topic without messages; what its consumers will hold is a part of `held_count`."""
    topic = TopicState(
        name, number, created_ms, config, partitions=[], version=number, held_count=HeldCount(held_count)
    )
    topic.configure(config, number)
    return topic


def read_state(reader: Reader) -> State:
    """The state as the store holds it. Raises: CorruptionError."""
    state = State(once=read_once_table(reader))
    cluster = reader.get(keys.CLUSTER)
    if cluster is not None:
        state.cluster = decode_row(cluster, ClusterRow)
    for key, value in reader.scan(keys.ORIGIN, keys.prefix_end(keys.ORIGIN)):
        origin = decode_row(value, OriginRow)
        state.origins[key[1:].decode()] = OriginState(origin.epoch, origin.last_sequence, origin.nonce)
    topics: dict[int, TopicState] = {}
    for key, value in reader.scan(keys.TOPIC, keys.prefix_end(keys.TOPIC)):
        row = decode_row(value, TopicRow)
        topic = new_topic(key[1:].decode(), row.number, row.created_ms, row.config, state.held_count)
        topic.version = row.version or row.number
        topic.is_dead_letters = row.is_dead_letters
        topic.redrive_left, topic.redrive_to = row.redrive_left, row.redrive_to
        state.topics[topic.name] = topics[topic.number] = topic
    for key, value in reader.scan(keys.DELETION, keys.prefix_end(keys.DELETION)):
        deletion = decode_row(value, DeletionRow)
        state.deletions[keys.read_deletion_key(key)] = Deletion(deletion.topic, deletion.next_key, deletion.consumer)
    deleted = {deletion.topic for deletion in state.deletions.values() if not deletion.consumer}
    _read_partitions(reader, topics, deleted)
    for key, value in _scan_known(reader, keys.ADDITION, topics, deleted):
        number, partition = keys.read_partition_key(key)
        topics[number].additions[partition] = decode_row(value, AdditionRow).ends
    _read_consumers(reader, topics, state)
    for topic in state.topics.values():
        state.watch(topic)
    for key in reader.scan_keys(keys.DUE, keys.prefix_end(keys.DUE)):
        waiting = keys.read_due_key(key)
        state.delays.added(waiting.record_count, waiting.due_ms)
        if waiting.topic in topics:
            topics[waiting.topic].delayed_count += waiting.record_count
    return state


def _scan_known(
    reader: Reader, prefix: bytes, topics: dict[int, TopicState], deleted: set[int]
) -> Iterator[tuple[bytes, bytes]]:
    """What stands below a prefix of `keys.OF_TOPICS`, without the rest of deleted topics. Raises: CorruptionError."""
    for key, value in reader.scan(prefix, keys.prefix_end(prefix)):
        number = keys.read_topic_number(key)
        if number in topics:
            yield key, value
        elif number not in deleted:
            raise CorruptionError(f"key {key.hex()} belongs to a topic that is neither there nor deleted")


def _read_partitions(reader: Reader, topics: dict[int, TopicState], deleted: set[int]) -> None:
    for key, value in _scan_known(reader, keys.PARTITION, topics, deleted):
        number, partition_number = keys.read_partition_key(key)
        row = decode_row(value, PartitionRow)
        partition = topics[number].partitions[partition_number]
        partition.next_offset = row.next_offset
        for level, counts in zip(partition.levels, row.levels, strict=False):
            level.appended_count, level.appended_bytes = counts.appended_count, counts.appended_bytes
            level.trimmed_count, level.trimmed_bytes = counts.trimmed_count, counts.trimmed_bytes
            level.trimmed_to, level.trimmed_base = counts.trimmed_to, counts.trimmed_base
            level.first_offset, level.first_ms = counts.first_offset, counts.first_ms
            level.erased_to = counts.erased_to
            level.tail_from = row.next_offset
            topics[number].retained_count += level.retained_count
            topics[number].retained_bytes += level.retained_bytes


def _read_consumers(reader: Reader, topics: dict[int, TopicState], state: State) -> None:
    consumers: dict[tuple[int, int], ConsumerState] = {}
    deleted = {deletion.topic for deletion in state.deletions.values() if not deletion.consumer}
    unlinked = {(deletion.topic, deletion.consumer) for deletion in state.deletions.values()}
    for key, value in _scan_known(reader, keys.CONSUMER, topics, deleted):
        topic_number, name = keys.read_consumer_key(key)
        row = decode_row(value, ConsumerRow)
        topic = topics[topic_number]
        consumer = ConsumerState(
            name,
            row.number,
            row.created_ms,
            row.last_partition,
            holdings=Holdings(topic.held_count),
            lost_count=state.lost_count,
        )
        consumer.served, consumer.turns = list(row.served), list(row.turns)
        consumer.config, consumer.is_paused, consumer.used_ms = row.config, row.is_paused, row.used_ms or row.created_ms
        consumer.delivery_number, consumer.stream = row.delivery_number, row.stream
        topic.consumers[name] = consumers[topic_number, row.number] = consumer
    for key, value in _scan_known(reader, keys.CURSOR, topics, deleted):
        topic_number, consumer_number, partition = keys.read_cursor_key(key)
        if (topic_number, consumer_number) in unlinked:
            continue
        positions = decode_row(value, CursorRow).levels
        consumers[topic_number, consumer_number].cursors[partition] = [
            Cursor(p.batch_offset, p.next_offset, p.delivered_count, p.lost_count) for p in positions
        ]
    for key, value in _scan_known(reader, keys.ATTEMPT, topics, deleted):
        topic_number, consumer_number, number = keys.read_attempt_key(key)
        if (topic_number, consumer_number) in unlinked:
            continue
        attempt = decode_row(value, AttemptRow)
        consumers[topic_number, consumer_number].attempts[attempt.attempt] = Attempt(number, attempt)
    for key, value in _scan_known(reader, keys.LEASE, topics, deleted):
        topic_number, consumer_number, partition, offset = keys.read_lease_key(key)
        if (topic_number, consumer_number) not in unlinked:
            consumers[topic_number, consumer_number].holdings.put(partition, offset, decode_row(value, LeaseRow))
