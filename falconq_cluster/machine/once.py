"""Which appends were made that are to happen once.

What lives here: the dedupe table of all topics in memory, in the order in which rows are over, and reading it from a
store.
Rules: a row is found by its topic's number, so a new topic of an old name inherits none. A row knows by itself until
when it is kept; of those that end at one moment the older goes first. That order is the same whether a row was added
or read from a store.
Must not know: how long a row is to be kept, and what a repeat gets.
"""

from __future__ import annotations

from falconq_cluster.machine import keys
from falconq_cluster.machine.line import Line, Place
from falconq_cluster.machine.rows import OnceRow, decode_row
from falconq_cluster.storage.store import Reader

_PLACES_BYTES = 256
"""Of places, that count as one row more."""

Name = tuple[str, bool]
"""(idempotency key or producer's id, whether it is a producer's)."""


class _Topic:
    """The rows of one topic."""

    __slots__ = ("count", "line", "rows")

    def __init__(self) -> None:
        self.rows: dict[Name, OnceRow] = {}
        self.line: Line[Name] = Line()
        """The one that is over first stands first."""
        self.count = 0
        """What the rows count as."""


class OnceTable:
    """Rows by topic number and name."""

    def __init__(self) -> None:
        self._topics: dict[int, _Topic] = {}
        """By topic number; none without rows."""
        self._line: Line[int] = Line()
        """Topic numbers by the places of their first rows."""
        self._count = 0

    def __len__(self) -> int:
        """What all rows count as: 1 each, and more for one that is large."""
        return self._count

    def count(self, topic: int) -> int:
        """What the rows of one topic count as."""
        known = self._topics.get(topic)
        return 0 if known is None else known.count

    def get(self, topic: int, name: Name) -> OnceRow | None:
        known = self._topics.get(topic)
        return None if known is None else known.rows.get(name)

    def add(self, topic: int, name: Name, row: OnceRow) -> None:
        """Keep the row, in the place of an older one of the same name."""
        known = self._topics.get(topic)
        if known is None:
            known = self._topics[topic] = _Topic()
        older = known.rows.get(name)
        known.rows[name] = row
        known.line.put(name, _place(row))
        self._changed(topic, known, count_of(row) - (0 if older is None else count_of(older)))

    def drop(self, topic: int, name: Name) -> None:
        """Forget the row, if there is one."""
        known = self._topics.get(topic)
        row = None if known is None else known.rows.pop(name, None)
        if known is None or row is None:
            return
        known.line.drop(name)
        self._changed(topic, known, -count_of(row))

    def _changed(self, topic: int, known: _Topic, count: int) -> None:
        known.count += count
        self._count += count
        first = known.line.first()
        if first is None:
            del self._topics[topic]
            self._line.drop(topic)
        else:
            self._line.put(topic, first[0])

    def first(self) -> tuple[int, Name, OnceRow] | None:
        """(topic number, name, row) of the row of all topics that is over first."""
        first = self._line.first()
        return None if first is None else self.first_of(first[1])

    def first_of(self, topic: int) -> tuple[int, Name, OnceRow] | None:
        """The same of one topic."""
        known = self._topics.get(topic)
        first = None if known is None else known.line.first()
        if known is None or first is None:
            return None
        return topic, first[1], known.rows[first[1]]


def count_of(row: OnceRow) -> int:
    """What a row counts as, so that a bound of their number is one of their bytes."""
    return 1 + len(row.places) // _PLACES_BYTES


def _place(row: OnceRow) -> Place:
    return row.known_until_ms, row.number


def read_once_table(reader: Reader) -> OnceTable:
    """The table as the store holds it. Raises: CorruptionError."""
    table = OnceTable()
    for key, value in reader.scan(keys.ONCE, keys.prefix_end(keys.ONCE)):
        topic, name, is_producer = keys.read_once_key(key)
        table.add(topic, (name, is_producer), decode_row(value, OnceRow))
    return table
