"""Which appends were made that are to happen once.

What lives here: the dedupe table of all topics in memory, ordered by age, and reading it from a store.
Rules: a row is found by its topic's number, so a new topic of an old name inherits none. Rows get older in the order of
their numbers, in each topic and over all of them, since log time never goes back.
Must not know: how long a row is kept, and what a repeat gets.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.rows import OnceRow, decode_row
from falconq_cluster.storage.store import Reader

_PLACES_BYTES = 256
"""Of places, that count as one row more."""

Name = tuple[str, bool]
"""(idempotency key or producer's id, whether it is a producer's)."""


class OnceTable:
    """Rows by topic number and name."""

    def __init__(self) -> None:
        self._topics: dict[int, dict[Name, OnceRow]] = {}
        """topic number -> name -> row, oldest first; no topic without rows."""
        self._order: dict[int, tuple[int, Name]] = {}
        """number of the row -> (topic number, name), oldest first."""
        self._counts: dict[int, int] = {}
        """topic number -> what its rows count as."""
        self._count = 0

    def __len__(self) -> int:
        """What all rows count as: 1 each, and more for one that is large."""
        return self._count

    def count(self, topic: int) -> int:
        """What the rows of one topic count as."""
        return self._counts.get(topic, 0)

    def get(self, topic: int, name: Name) -> OnceRow | None:
        return self._topics.get(topic, {}).get(name)

    def add(self, topic: int, name: Name, row: OnceRow) -> None:
        """Keep the row as the youngest one, in the place of an older one of the same name."""
        self.drop(topic, name)
        self._topics.setdefault(topic, {})[name] = row
        self._order[row.number] = topic, name
        self._weigh(topic, count_of(row))

    def drop(self, topic: int, name: Name) -> None:
        """Forget the row, if there is one."""
        rows = self._topics.get(topic, {})
        row = rows.pop(name, None)
        if row is None:
            return
        del self._order[row.number]
        self._weigh(topic, -count_of(row))
        if not rows:
            del self._topics[topic], self._counts[topic]

    def _weigh(self, topic: int, count: int) -> None:
        self._counts[topic] = self._counts.get(topic, 0) + count
        self._count += count

    def oldest(self) -> tuple[int, Name, OnceRow] | None:
        """(topic number, name, row) of the oldest row of all topics."""
        for topic, name in self._order.values():
            return topic, name, self._topics[topic][name]
        return None

    def oldest_of(self, topic: int) -> tuple[int, Name, OnceRow] | None:
        """The same of one topic."""
        for name, row in self._topics.get(topic, {}).items():
            return topic, name, row
        return None


def count_of(row: OnceRow) -> int:
    """What a row counts as, so that a bound of their number is one of their bytes."""
    return 1 + len(row.places) // _PLACES_BYTES


def read_once_table(reader: Reader) -> OnceTable:
    """The table as the store holds it. Raises: CorruptionError."""
    found: list[tuple[int, int, Name, OnceRow]] = []
    for key, value in reader.scan(keys.ONCE, keys.prefix_end(keys.ONCE)):
        topic, name, is_producer = keys.read_once_key(key)
        row = decode_row(value, OnceRow)
        found.append((row.number, topic, (name, is_producer), row))
    table = OnceTable()
    for _, topic, once, row in sorted(found, key=lambda entry: entry[0]):
        table.add(topic, once, row)
    return table
