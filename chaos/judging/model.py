"""A history folded into operations.

What lives here: publishes, takings, releases and reads with both of their times, what each node stores at the end, and
an anomaly with the history that explains it.
Rules: `end` is None unless the operation was answered. Publishes of one value are one publish: it took effect at some
moment between its first invoke and its first ok, if it did. Folding takes one pass and keeps no event.
Must not know: what is right.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from chaos.history import Event

NANOSECONDS = 1_000_000_000
NEVER = 1 << 62


class Publish(msgspec.Struct, gc=False):
    """All tries to publish one value."""

    v: int
    p: int
    start: int
    end: int | None
    topic: str
    node: str
    keyed: bool
    level: int
    partition: int = -1
    offset: int = -1
    failed: bool = False
    """Every try that was ended failed for sure."""
    tries: int = 1
    other_offset: int = -1
    """Another offset that a repeat was answered with; -1 without one."""


class Taking(msgspec.Struct):
    """A consume or a pull; `rows` is None unless it was answered."""

    p: int
    start: int
    end: int | None
    topic: str
    consumer: str
    node: str
    attempt: int
    lease_ms: int
    rows: list[list[int]] | None = None


class Release(msgspec.Struct):
    """An ack request: which leases it ends, and which it was told are over."""

    p: int
    start: int
    end: int | None
    topic: str
    consumer: str
    acks: list[int]
    nacks: list[int]
    rejects: list[int]
    lost: list[int]
    failed: bool = False


class Read(msgspec.Struct):
    """A read that was answered."""

    p: int
    start: int
    end: int
    topic: str
    node: str
    mode: str
    minimum: int
    index: int
    rows: list[list[int]]


class Removal(msgspec.Struct):
    """A topic's deletion."""

    topic: str
    start: int
    end: int | None


class Stored(msgspec.Struct):
    """A partition on one node after the run, in the order in which the node shows it."""

    offsets: array[int]
    values: array[int]
    levels: array[int]


@dataclass(slots=True)
class Fault:
    """A fault, from its begin to its end; `end` is the end of the run when nothing ended it."""

    name: str
    mode: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A promise that did not hold."""

    code: str
    summary: str
    history: tuple[str, ...] = ()
    """The fewest operations that show it, in the order of their times."""


@dataclass(slots=True)
class History:
    """All that a judge looks at."""

    publishes: dict[int, Publish] = field(default_factory=dict)
    takings: list[Taking] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    stored: dict[tuple[str, int], dict[str, Stored]] = field(default_factory=dict)
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    """Moment -> node -> digest of its whole store, all at one applied index."""
    drained: set[tuple[str, str]] = field(default_factory=set)
    """(topic, consumer) pairs that were read to the end after the run."""
    policies: dict[str, str] = field(default_factory=dict)
    dead_letters: dict[str, str] = field(default_factory=dict)
    """Topic -> the topic of its dead letters."""
    not_whole: list[str] = field(default_factory=list)
    """Why the cluster was not whole in the end."""
    faults: list[Fault] = field(default_factory=list)
    leaders: list[tuple[int, str]] = field(default_factory=list)
    """Each change: when it was seen, and who leads."""
    dropped_bytes: int = 0
    """What losses of power took, of the bytes that were written and not synced."""
    operation_count: int = 0
    start: int = 0
    end: int = 0

    def moment(self, t: int | None) -> str:
        return "never answered" if t is None else f"{(t - self.start) / NANOSECONDS:.6f} s"

    def tell(self, publish: Publish) -> str:
        """One line about a publish."""
        if publish.failed:
            outcome = "refused"
        elif publish.end is None:
            outcome = "unknown"
        else:
            outcome = f"ok at {self.moment(publish.end)}: partition {publish.partition} offset {publish.offset}"
        tries = f", {publish.tries} tries" if publish.tries > 1 else ""
        return (
            f"{self.moment(publish.start)} client {publish.p} publishes {publish.v} (level {publish.level}) to "
            f"{publish.topic} on {publish.node}{tries}; {outcome}"
        )

    def tell_taking(self, taking: Taking, row: list[int] | None = None) -> str:
        """One line about a delivery."""
        what = "" if row is None else f", gets {row[2]} (partition {row[0]} offset {row[1]} level {row[3]})"
        attempt = f" attempt {taking.attempt}" if taking.attempt >= 0 else ""
        return (
            f"{self.moment(taking.start)} client {taking.p} takes from {taking.topic} as {taking.consumer}{attempt} on "
            f"{taking.node}; {self.moment(taking.end)}{what}"
        )


class _Folding:
    """Joins each end to its invoke."""

    def __init__(self) -> None:
        self.history = History()
        self._open: dict[int, Event] = {}
        self._faults: dict[str, Fault] = {}
        self._takers = {"consume": self._taking, "pull": self._taking, "ack": self._release}

    def add(self, event: Event) -> None:
        if event.e == "info":
            self._info(event)
        elif event.e == "invoke":
            unended = self._open.get(event.p)
            if unended is not None:
                self._end(unended, None)
            self._open[event.p] = event
            self.history.operation_count += 1
        else:
            invoke = self._open.pop(event.p, None)
            if invoke is None or invoke.f != event.f:
                raise ValueError(f"client {event.p} ends a {event.f} that it did not begin, at {event.t}")
            self._end(invoke, event)

    def close(self, last: int) -> History:
        for invoke in self._open.values():
            self._end(invoke, None)
        for fault in self._faults.values():
            fault.end = last
        self.history.end = last
        return self.history

    def _end(self, invoke: Event, end: Event | None) -> None:
        if invoke.f == "publish":
            self._publish(invoke, end)
        elif invoke.f == "read":
            if end is not None and end.e == "ok":
                place = (invoke.topic, invoke.node, invoke.mode, invoke.minimum, end.index, end.rows or [])
                self.history.reads.append(Read(invoke.p, invoke.t, end.t, *place))
        elif invoke.f == "delete":
            if end is None or end.e != "fail":
                done = end.t if end is not None and end.e == "ok" else None
                self.history.removals.append(Removal(invoke.topic, invoke.t, done))
        elif invoke.f in self._takers:
            self._takers[invoke.f](invoke, end)

    def _publish(self, invoke: Event, end: Event | None) -> None:
        known = self.history.publishes.get(invoke.v)
        is_ok = end is not None and end.e == "ok"
        has_failed = end is not None and end.e == "fail"
        if known is None:
            publish = Publish(invoke.v, invoke.p, invoke.t, None, invoke.topic, invoke.node, invoke.keyed, invoke.level)
            publish.failed = has_failed
            self.history.publishes[invoke.v] = publish
        else:
            publish = known
            publish.tries += 1
            publish.failed = publish.failed and has_failed
        if is_ok and end is not None:
            if publish.end is None:
                publish.end, publish.partition, publish.offset = end.t, end.partition, end.offset
            elif (end.partition, end.offset) != (publish.partition, publish.offset):
                publish.other_offset = end.offset

    def _taking(self, invoke: Event, end: Event | None) -> None:
        taking = Taking(
            invoke.p, invoke.t, None, invoke.topic, invoke.consumer, invoke.node, invoke.attempt, invoke.lease_ms
        )
        if end is not None and end.e == "fail":
            return
        if end is not None and end.e == "ok":
            taking.end, taking.rows = end.t, end.rows or []
        self.history.takings.append(taking)

    def _release(self, invoke: Event, end: Event | None) -> None:
        release = Release(invoke.p, invoke.t, None, invoke.topic, invoke.consumer, [], [], [], [])
        release.acks, release.nacks, release.rejects = invoke.acks or [], invoke.nacks or [], invoke.rejects or []
        if end is not None:
            release.failed = end.e == "fail"
            release.end = end.t if end.e == "ok" else None
            release.lost = end.lost or []
        self.history.releases.append(release)

    def _info(self, event: Event) -> None:
        history = self.history
        if event.f == "stored":
            nodes = history.stored.setdefault((event.topic, event.partition), {})
            stored = nodes.setdefault(event.node, Stored(array("q"), array("q"), array("h")))
            rows = event.rows or []
            stored.offsets.extend([row[0] for row in rows])
            stored.values.extend([row[1] for row in rows])
            stored.levels.extend([row[2] for row in rows])
        elif event.f == "fault begins":
            fault = Fault(event.detail, event.mode, event.t, event.t)
            self._faults[event.detail] = fault
            history.faults.append(fault)
        elif event.f == "fault ends":
            self._faults.pop(event.detail).end = event.t
        elif event.f == "leader":
            history.leaders.append((event.t, event.node))
        elif event.f == "store":
            history.digests.setdefault(event.topic, {})[event.node] = event.detail
        elif event.f == "not whole":
            history.not_whole.append(event.detail)
        elif event.f == "dropped":
            history.dropped_bytes += event.index
        elif event.f == "drained":
            history.drained.add((event.topic, event.consumer))
        elif event.f == "topic":
            history.policies[event.topic] = event.mode
            if event.detail:
                history.dead_letters[event.topic] = event.detail


def fold(events: Iterable[Event]) -> History:
    """The history. Raises: ValueError when an end has no begin."""
    folding = _Folding()
    first, last = -1, 0
    add = folding.add
    for event in events:
        if first < 0:
            first = event.t
        add(event)
        last = event.t
    folding.history.start = max(0, first)
    return folding.close(last)
