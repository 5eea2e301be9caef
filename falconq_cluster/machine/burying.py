"""Burying: messages that failed too often, or were rejected, go to the dead letters.

What lives here: the move to the dead-letter topic, and that topic itself.
Rules (PROTOCOL.md P12, P15): the message leaves its consumer's hand and is appended to the dead letters by the same
entry, so it moves exactly once, and a key says so while its batch is kept; it keeps message, key, level and headers,
and headers say where it came from and why. What does not fit into the entry stays in hand, dead, is given to nobody,
and is buried by a later one. The dead-letter topic is made with the levels of the first topic that needs it, takes more
than any limit of topics, and has no dead letters of its own. Its consumer `_redrive` stands before what was not moved
back yet.
Must not know: how a message died, who proposes.
"""

from __future__ import annotations

from msgspec.structs import replace

from falconq_cluster.machine import keys
from falconq_cluster.machine.consumers import create_consumer, drop_if_trimmed, drop_in_hand, put_in_hand
from falconq_cluster.machine.events import Buried, TopicChanged
from falconq_cluster.machine.holdings import Held
from falconq_cluster.machine.moving import Mover, read_headers, write_headers
from falconq_cluster.machine.records import Record, pack_record
from falconq_cluster.machine.settings import TopicConfig, dead_letter_topic
from falconq_cluster.machine.state import ConsumerState, TopicState
from falconq_cluster.machine.subscriptions import ConsumerConfig
from falconq_cluster.machine.topics import create_topic
from falconq_cluster.machine.turn import Turn

REDRIVER = "_redrive"
"""The consumer of the dead letters whose place is that of the redrive. It never expires."""
REASON_CHARS_MAX = 1024
TOO_OFTEN = "maxDeliveries"
"""The reason of what was given `maxDeliveries` times in vain."""

PREFIX = "falconq-dead-"
REASON, ID, DELIVERIES, CONSUMER = PREFIX + "reason", PREFIX + "id", PREFIX + "deliveries", PREFIX + "consumer"
TOPIC, PARTITION, OFFSET = PREFIX + "topic", PREFIX + "partition", PREFIX + "offset"


class Burial:
    """Buries what one operation buries of one consumer; `close` when it has."""

    def __init__(self, turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
        self._turn, self._topic, self._consumer = turn, topic, consumer
        self._mover = Mover(turn)
        self._grave: TopicState | None = None
        self._count = 0

    def take(self, held: Held, *, is_first_free: bool = False) -> bool:
        """Bury what is in hand and dead, unless the entry has no room for it: then nothing is changed."""
        level = self._topic.partitions[held.partition].levels[held.row.level]
        if not self._mover.has_room_for(level, held.row.batch_offset, held.offset, is_first_free=is_first_free):
            return False
        stored = self._mover.read(level, held.row.batch_offset, held.offset)
        if self._grave is None:
            self._grave = _grave_of(self._turn, self._topic)
        grave_level = min(held.row.level, len(self._grave.config.levels) - 1)
        record = self._marked(held, stored.record, stored.id)
        self._mover.add(self._grave, held.partition % len(self._grave.partitions), grave_level, record)
        drop_in_hand(self._turn, self._topic, self._consumer, held)
        self._turn.changes.append((keys.buried_key(level.prefix, held.offset, self._consumer.number), b""))
        self._count += 1
        return True

    def close(self) -> None:
        """Append what was taken to the dead letters."""
        self._mover.close()
        if self._count:
            self._turn.events.append(Buried(self._topic.name, self._consumer.name, self._count))

    def _marked(self, held: Held, record: Record, message_id: str) -> bytes:
        row = held.row
        # A lease that ended by time is a delivery that failed, and is not counted in the row.
        deliveries = row.failed_count + (1 if row.nonce else 0)
        headers = without_marks(read_headers(record.headers)) | {
            REASON: row.reason or TOO_OFTEN,
            TOPIC: self._topic.name,
            PARTITION: str(held.partition),
            OFFSET: str(held.offset),
            ID: message_id,
            CONSUMER: self._consumer.name,
            DELIVERIES: str(deliveries),
        }
        return pack_record(record.message, record.key, write_headers(headers))


def bury_dead(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    """Bury what of the consumer is dead, as much as the entry has room for; at least one, if nothing was moved yet."""
    burial = Burial(turn, topic, consumer)
    if topic.is_dead_letters:
        # It became the dead letters of another topic meanwhile, and has none of its own.
        _revive(turn, topic, consumer)
    while not topic.is_dead_letters and (held := consumer.holdings.first_dead()) is not None:
        if not turn.move_count_left:
            break
        if drop_if_trimmed(turn, topic, consumer, held):
            turn.move_count_left -= 1
        elif not burial.take(held, is_first_free=True):
            break
    burial.close()


def _revive(turn: Turn, topic: TopicState, consumer: ConsumerState) -> None:
    while turn.move_count_left and (held := consumer.holdings.first_dead()) is not None:
        turn.move_count_left -= 1
        row = replace(held.row, nonce=b"", until_ms=turn.log_time_ms, is_last=False, reason="")
        put_in_hand(turn, topic, consumer, (held.partition, held.offset), row)


def without_marks(headers: dict[str, str]) -> dict[str, str]:
    """The headers without those that a burial adds."""
    return {name: value for name, value in headers.items() if not name.startswith(PREFIX)}


def redriver_of(turn: Turn, grave: TopicState) -> ConsumerState:
    """The consumer of dead letters whose place is that of the redrive, made where it is missing."""
    consumer = grave.consumers.get(REDRIVER)
    if consumer is None:
        consumer = create_consumer(turn, grave, REDRIVER)
        consumer.config = ConsumerConfig(expire_after_ms=0)
    return consumer


def _grave_of(turn: Turn, topic: TopicState) -> TopicState:
    """The topic's dead letters: made, and given the levels that the topic gained, where that is missing."""
    name = dead_letter_topic(topic.name, topic.config)
    grave = turn.state.topics.get(name)
    if grave is None:
        grave = create_topic(turn, name, TopicConfig(levels=topic.config.levels))
    levels = topic.config.levels
    mine = grave.config.levels
    is_short = len(mine) < len(levels) and levels[: len(mine)] == mine
    if not grave.is_dead_letters or is_short:
        grave.is_dead_letters = True
        if is_short:
            grave.configure(replace(grave.config, levels=levels), turn.next_number())
        turn.put(keys.topic_key(name), grave.row())
        turn.events.append(TopicChanged(name))
    redriver_of(turn, grave)
    return grave
