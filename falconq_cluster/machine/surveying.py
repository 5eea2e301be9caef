"""Surveying: what of a topic may go because of its consumers, found before the command that lets it go.

What lives here: the look at all consumers of one topic, in steps.
Rules (PROTOCOL.md P12, P13, P15): a command can't look at thousands of consumers in thousands of levels, so whoever
proposes it does, a bounded number at a time, while the state goes on. What is found stays true meanwhile: a consumer
never comes to need what it has settled, since one that is moved gets another number; and an attempt that is made later
names nothing that was trimmed before. Only a consumer that is newer than the look was not seen: the command judges it.
Reads only; a survey that is given up, or made twice, decides nothing.
Must not know: who proposes, and when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from falconq_cluster.machine import keeping
from falconq_cluster.machine.keeping import TrimLevels
from falconq_cluster.machine.levels import LevelState
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import Machine
from falconq_cluster.machine.retention import is_over
from falconq_cluster.machine.state import ConsumerState, TopicState

_LEVELS_PER_LOOK = 8
"""Looking at a level takes less time than looking at where a consumer stands in one."""
_Place = tuple[int, int]


class Survey:
    """A look at one topic; `look` until it is done."""

    def __init__(self, topic: TopicState, index: int, now_ms: int, limits: MachineLimits) -> None:
        """`index` is the applied one."""
        self.topic = topic
        self.is_over = False
        """Whether the topic is over its age or size."""
        self.is_done = False
        self._index, self._now_ms, self._limits = index, now_ms, limits
        self._erasable: dict[_Place, int] = {}
        self._acked: dict[int, dict[int, int]] = {}
        """partition -> level -> lowest offset that a consumer needs; without the levels of which nothing may go."""
        self._held: list[tuple[str, int, int]] = []
        self._steps = self._run()

    def look(self, looks: int) -> int:
        """Goes on for about so many looks; returns how many are left, at most 0 if there is more to see."""
        for cost in self._steps:
            looks -= cost
            if looks <= 0:
                return looks
        self.is_done = True
        return looks

    @property
    def found(self) -> keeping.Survey:
        """What one command may do of it."""
        limits = self._limits
        acked = [(partition, n, offset) for partition, of in self._acked.items() for n, offset in of.items()]
        erasable = [(*place, base) for place, base in self._erasable.items() if self._level(place).erased_to < base]
        return keeping.Survey(
            self.topic.name,
            self.topic.number,
            self._index,
            acked[: limits.trim_batches_max],
            erasable[: limits.trim_keys_max // 2],
            self._held[: limits.trim_keys_max // 2],
        )

    def _run(self) -> Iterator[int]:
        """Yields the cost of each step."""
        topic = self.topic
        consumers = list(topic.consumers.values())
        self.is_over = is_over(topic, self._now_ms)
        has_trimmed = False
        for partition in topic.partitions:
            acked: dict[int, int] = {}
            for number, level in enumerate(partition.levels):
                has_trimmed = has_trimmed or level.trimmed_count > 0
                if level.erased_to < level.trimmed_base:
                    self._erasable[partition.number, number] = level.trimmed_base
                if topic.config.retention.acked and consumers and level.retained_count:
                    acked[number] = partition.next_offset
            if acked:
                self._acked[partition.number] = acked
        yield 1 + (len(topic.partitions) * len(topic.config.levels) + len(consumers)) // _LEVELS_PER_LOOK
        for consumer in consumers if has_trimmed or self._acked else ():
            yield 1
            if self._erasable:
                yield from self._see_attempts(consumer)
            if has_trimmed and len(consumer.holdings):
                yield self._see_hand(consumer)
            yield from self._see_cursors(consumer)

    def _see_attempts(self, consumer: ConsumerState) -> Iterator[int]:
        for attempt in list(consumer.attempts.values()):
            if self._now_ms - attempt.row.made_ms < self._limits.attempt_ms:
                for place, base in attempt.lowest.items():
                    if place in self._erasable:
                        self._erasable[place] = min(base, self._erasable[place])
                yield 1 + len(attempt.lowest)

    def _see_hand(self, consumer: ConsumerState) -> int:
        looks = 0
        for held in consumer.holdings.lowest_of_levels():
            looks += 1
            place = held.partition, held.row.level
            if self._level(place).is_trimmed(held.offset):
                self._held.append((consumer.name, *place))
        return looks

    def _see_cursors(self, consumer: ConsumerState) -> Iterator[int]:
        for partition, acked in list(self._acked.items()):
            # Only read: what was never looked at is absent, and stands where nothing may go.
            cursors = consumer.cursors.get(partition, [])
            levels = self.topic.partitions[partition].levels
            yield 1 + len(acked) // 2
            for number, known in list(acked.items()):
                offset = cursors[number].next_offset if number < len(cursors) else 0
                held = consumer.holdings.lowest(partition, number)
                offset = min(known, offset if held is None else min(offset, held.offset))
                if offset > levels[number].first_offset:
                    acked[number] = offset
                else:
                    del acked[number]
            if not acked:
                del self._acked[partition]

    def _level(self, place: _Place) -> LevelState:
        return self.topic.partitions[place[0]].levels[place[1]]


def trim_now(machine: Machine, names: Iterable[str], now_ms: int) -> TrimLevels:
    """The command for these topics, looked at in one go: for tools and tests, which have the time."""
    found, over = [], []
    for topic in (machine.state.topics[name] for name in names if name in machine.state.topics):
        survey = Survey(topic, machine.applied_index, now_ms, machine.limits)
        survey.look(1 << 60)
        found.append(survey.found)
        if survey.is_over:
            over.append(topic.name)
    return TrimLevels(over, tuple(survey for survey in found if survey.place_count))


def is_due(machine: Machine, name: str, now_ms: int) -> bool:
    """Whether there is something to trim or erase."""
    command = trim_now(machine, [name], now_ms)
    return bool(command.topics or command.surveys)
