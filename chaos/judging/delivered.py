"""What consumers were given, against what was published and what they gave back.

What lives here: redelivery after a committed ack, a lease held twice, priority inversion, messages that were never
delivered, and dead letters.
Rules: only what is certain from outside is an anomaly: an effect lies somewhere between an invoke and its answer, and a
lease is only sure for nine tenths of its time, because the cluster's clock is drawn to the wall clock by up to 5 %.
Must not know: how a node schedules.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from chaos.judging.model import NEVER, Anomaly, History, Taking

LEASE_SURE_TENTHS = 9
MILLISECOND = 1_000_000

Row = list[int]
Group = tuple[str, str]
"""(topic, consumer)"""
Given = tuple[Taking, Row]


def judge_delivered(history: History) -> Iterator[Anomaly]:
    """All anomalies of deliveries."""
    groups: dict[Group, list[Taking]] = defaultdict(list)
    for taking in history.takings:
        groups[taking.topic, taking.consumer].append(taking)
    for group, takings in sorted(groups.items()):
        takings.sort(key=lambda taking: taking.start)
        _begin_with_the_attempt(takings)
        given = _given(takings)
        yield from _contents(history, group[0], given)
        yield from _attempts(history, takings)
        yield from _redelivered(history, group, given)
        yield from _leased_twice(history, group, given)
        if history.policies.get(group[0], "strict") == "strict":
            yield from _inverted(history, takings, given)
    yield from _undelivered(history, groups)
    yield from _dead_letters(history)


def _begin_with_the_attempt(takings: list[Taking]) -> None:
    """A repeated attempt gets what its first try was given: it may have taken effect from then on."""
    first: dict[int, int] = {}
    for taking in takings:
        if taking.attempt >= 0:
            taking.start = first.setdefault(taking.attempt, taking.start)


def _given(takings: list[Taking]) -> dict[tuple[int, int], list[Given]]:
    """(partition, offset) -> its deliveries; of takings with one attempt, the first answered one counts."""
    given: dict[tuple[int, int], list[Given]] = defaultdict(list)
    seen: set[int] = set()
    for taking in takings:
        if taking.rows is None or taking.attempt in seen:
            continue
        if taking.attempt >= 0:
            seen.add(taking.attempt)
        for row in taking.rows:
            given[row[0], row[1]].append((taking, row))
    return given


def _contents(history: History, topic: str, given: dict[tuple[int, int], list[Given]]) -> Iterator[Anomaly]:
    stored = {
        partition: dict(zip(longest.offsets, longest.values, strict=True))
        for (name, partition), nodes in history.stored.items()
        if name == topic
        for longest in [max(nodes.values(), key=lambda one: len(one.offsets))]
    }
    for (partition, offset), deliveries in given.items():
        for taking, row in deliveries:
            value = row[2]
            line = history.tell_taking(taking, row)
            publish = history.publishes.get(value)
            kept = stored.get(partition, {}).get(offset, value)
            if publish is None:
                yield Anomaly("phantom", f"{taking.topic}: nobody published {value}, which was delivered", (line,))
            elif publish.failed:
                summary = f"{value} was refused and was delivered"
                yield Anomaly("failure_took_effect", summary, (history.tell(publish), line))
            elif kept != value or deliveries[0][1][2] != value:
                summary = f"{taking.topic}/{partition}: offset {offset} was delivered as {value} and is {kept}"
                yield Anomaly("offset_with_two_values", summary, (history.tell(publish), line))


def _attempts(history: History, takings: list[Taking]) -> Iterator[Anomaly]:
    first: dict[int, Taking] = {}
    for taking in takings:
        if taking.attempt < 0 or taking.rows is None:
            continue
        earlier = first.setdefault(taking.attempt, taking)
        if earlier.rows != taking.rows:
            lines = (history.tell_taking(earlier), history.tell_taking(taking))
            yield Anomaly("attempt_with_two_answers", f"attempt {taking.attempt} got two different batches", lines)


def _redelivered(history: History, group: Group, given: dict[tuple[int, int], list[Given]]) -> Iterator[Anomaly]:
    """Nothing is delivered again after an answered ack; what moved a cursor is delivered once."""
    released: dict[int, tuple[int, str]] = {}
    for release in history.releases:
        if (release.topic, release.consumer) != group or release.end is None:
            continue
        for lease in (*release.acks, *release.rejects):
            if lease not in release.lost:
                line = f"{history.moment(release.start)} client {release.p} acks lease {lease}; "
                released[lease] = (release.end, line + history.moment(release.end))
    for deliveries in given.values():
        ended, line, first = NEVER, "", deliveries[0]
        for taking, row in deliveries:
            if taking.lease_ms < 0:
                if (taking, row) is not first and taking is not first[0]:
                    lines = (history.tell_taking(*first), history.tell_taking(taking, row))
                    yield Anomaly("redelivered_after_ack", f"{row[2]} was delivered again to {group[1]}", lines)
                continue
            if taking.start > ended:
                acked = (history.tell_taking(*first), line, history.tell_taking(taking, row))
                yield Anomaly("redelivered_after_ack", f"{row[2]} was acked and delivered again to {group[1]}", acked)
            ending = released.get(row[5])
            if ending is not None and ending[0] < ended:
                ended, line = ending
                first = (taking, row)


def _leased_twice(history: History, group: Group, given: dict[tuple[int, int], list[Given]]) -> Iterator[Anomaly]:
    """A later delivery is not answered before the earlier lease can be over."""
    freed: dict[int, int] = {}
    for release in history.releases:
        if (release.topic, release.consumer) == group and not release.failed:
            for lease in (*release.acks, *release.nacks, *release.rejects):
                freed[lease] = min(freed.get(lease, NEVER), release.start)
    for deliveries in given.values():
        leased = sorted((one for one in deliveries if one[0].lease_ms >= 0), key=lambda one: one[1][4])
        for (earlier, row), (later, other) in pairwise(leased):
            sure = earlier.start + earlier.lease_ms * MILLISECOND * LEASE_SURE_TENTHS // 10
            sure = min(sure, freed.get(row[5], NEVER))
            if later.end is not None and later.end < sure:
                lines = (history.tell_taking(earlier, row), history.tell_taking(later, other))
                summary = f"{row[2]} was leased to client {earlier.p} until {history.moment(sure)} and to {later.p}"
                yield Anomaly("leased_twice", summary, lines)


def _inverted(history: History, takings: list[Taking], given: dict[tuple[int, int], list[Given]]) -> Iterator[Anomaly]:
    """Strict: nothing is delivered while something more urgent waits that was there for sure."""
    waiting: list[tuple[int, int, int, Given]] = []
    for deliveries in given.values():
        taking, row = deliveries[0]
        publish = history.publishes.get(row[2])
        if publish is not None and publish.end is not None and row[4] <= 1:
            waiting.append((publish.end, row[3], taking.start, (taking, row)))
    waiting.sort(key=lambda one: one[0])
    urgent: dict[int, tuple[list[int], list[int], list[Given]]] = {}
    for level in {one[1] for one in waiting}:
        ends: list[int] = []
        latest: list[int] = []
        whose: list[Given] = []
        for end, its_level, start, one in waiting:
            if its_level == level:
                ends.append(end)
                is_later = not latest or start > latest[-1]
                latest.append(start if is_later else latest[-1])
                whose.append(one if is_later else whose[-1])
        urgent[level] = (ends, latest, whose)
    answered = {id(one[0]) for deliveries in given.values() for one in deliveries}
    for taking in takings:
        if not taking.rows or taking.end is None or id(taking) not in answered:
            continue
        least = min(taking.rows, key=lambda row: row[3])
        for level, (ends, latest, whose) in urgent.items():
            place = bisect_left(ends, taking.start) - 1
            if level > least[3] and place >= 0 and latest[place] > taking.end:
                other, row = whose[place]
                lines = (
                    history.tell(history.publishes[row[2]]),
                    history.tell_taking(taking, least),
                    history.tell_taking(other, row),
                )
                summary = f"level {least[3]} was delivered while {row[2]} of level {level} waited"
                yield Anomaly("priority_inverted", summary, lines)


def _undelivered(history: History, groups: dict[Group, list[Taking]]) -> Iterator[Anomaly]:
    """A consumer that was read to the end was given each acknowledged message."""
    for topic, consumer in sorted(history.drained):
        takings = groups.get((topic, consumer), [])
        if _has_open_end(takings):
            continue
        values = {row[2] for taking in takings for row in taking.rows or ()}
        for value, publish in history.publishes.items():
            if publish.topic == topic and publish.end is not None and value not in values:
                yield Anomaly("undelivered", f"{value} was never delivered to {consumer}", (history.tell(publish),))


def _has_open_end(takings: list[Taking]) -> bool:
    """A taking that moves the cursor has no answer: what it took is nobody's."""
    answered = {taking.attempt for taking in takings if taking.rows is not None}
    return any(
        taking.rows is None and taking.lease_ms < 0 and (taking.attempt < 0 or taking.attempt not in answered)
        for taking in takings
    )


def _dead_letters(history: History) -> Iterator[Anomaly]:
    """A rejected message is in the dead-letter topic once; an acked one is not there."""
    if not history.dead_letters:
        return
    of_lease = {row[5]: (taking, row) for taking in history.takings for row in taking.rows or () if len(row) > 5}  # noqa: PLR2004
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for (topic, _), nodes in history.stored.items():
        for value in max(nodes.values(), key=lambda stored: len(stored.values)).values:
            counts[topic, value] += 1
    for release in history.releases:
        target = history.dead_letters.get(release.topic)
        if target is None or release.end is None:
            continue
        for leases, wanted in ((release.rejects, 1), (release.acks, 0)):
            for lease in leases:
                given = of_lease.get(lease)
                if given is None or lease in release.lost:
                    continue
                count = counts[target, given[1][2]]
                if count != wanted:
                    summary = f"{given[1][2]} is {count} times in {target}, not {wanted} times"
                    yield Anomaly("dead_letter_not_once", summary, (history.tell_taking(*given),))
