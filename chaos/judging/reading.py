"""What reads showed, against what was answered before they began.

What lives here: stale linearizable reads, sessions that go back, and messages of a deleted topic that came back.
Rules: a linearizable read shows all that was acknowledged, and all that an earlier linearizable read showed, before it
began. A session read shows at least its `FalconQ-Min-Index`, and never less than the session's last read.
Must not know: how a node confirms that it leads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.judging.model import Anomaly, History, Read

Seen = tuple[int, int, str]
"""When it was answered, the end of the partition then at least, and who says so."""


def judge_read(history: History) -> Iterator[Anomaly]:
    """All anomalies of reads."""
    yield from _stale(history)
    yield from _sessions(history)
    yield from _came_back(history)


def _ends(read: Read) -> list[list[int]]:
    return [row for row in read.rows if len(row) == 2]  # noqa: PLR2004


def _tell(history: History, read: Read, row: list[int] | None = None) -> str:
    what = "" if row is None else f", partition {row[0]} ends at {row[1]}"
    return (
        f"{history.moment(read.start)} client {read.p} reads {read.topic} ({read.mode}, minimum {read.minimum}) on "
        f"{read.node}; {history.moment(read.end)}, index {read.index}{what}"
    )


def _stale(history: History) -> Iterator[Anomaly]:
    reads = sorted((read for read in history.reads if read.mode == "linearizable"), key=lambda read: read.start)
    if not reads:
        return
    deleted = {removal.topic for removal in history.removals}
    shown: list[tuple[int, str, int, int, str]] = [
        (publish.end, publish.topic, publish.partition, publish.offset + 1, history.tell(publish))
        for publish in history.publishes.values()
        if publish.end is not None and publish.topic not in deleted
    ]
    shown += [
        (read.end, read.topic, row[0], row[1], _tell(history, read, row)) for read in reads for row in _ends(read)
    ]
    shown.sort()
    known: dict[tuple[str, int], tuple[int, str]] = {}
    place = 0
    for read in reads:
        while place < len(shown) and shown[place][0] < read.start:
            _, topic, partition, end, line = shown[place]
            if end > known.get((topic, partition), (0, ""))[0]:
                known[topic, partition] = (end, line)
            place += 1
        for row in _ends(read):
            end, line = known.get((read.topic, row[0]), (0, ""))
            if row[1] < end:
                summary = f"{read.topic}/{row[0]}: a linearizable read shows {row[1]}, {end} was known before it"
                yield Anomaly("stale_linearizable_read", summary, (line, _tell(history, read, row)))


def _sessions(history: History) -> Iterator[Anomaly]:
    last: dict[tuple[int, str, int], tuple[Read, list[int]]] = {}
    for read in history.reads:
        if read.mode != "session":
            continue
        if read.index < read.minimum:
            summary = f"a read asked for index {read.minimum} and was answered at {read.index}"
            yield Anomaly("session_went_back", summary, (_tell(history, read),))
        for row in _ends(read):
            session = (read.p, read.topic, row[0])
            earlier = last.get(session)
            if earlier is not None and read.minimum >= earlier[0].index and row[1] < earlier[1][1]:
                lines = (_tell(history, *earlier), _tell(history, read, row))
                yield Anomaly("session_went_back", f"client {read.p} saw {earlier[1][1]}, then {row[1]}", lines)
            last[session] = (read, row)


def _came_back(history: History) -> Iterator[Anomaly]:
    """A read after a deletion that was answered shows nothing that was published before it."""
    removals = defaultdict(list)
    for removal in history.removals:
        if removal.end is not None:
            removals[removal.topic].append(removal)
    for read in history.reads:
        for row in read.rows:
            publish = history.publishes.get(row[2]) if len(row) > 2 and read.topic in removals else None  # noqa: PLR2004
            if publish is None or publish.end is None:
                continue
            for removal in removals[read.topic]:
                if publish.end < removal.start and removal.end is not None and removal.end < read.start:
                    lines = (history.tell(publish), _tell(history, read))
                    yield Anomaly("deleted_came_back", f"{publish.v} of a deleted topic is there again", lines)
