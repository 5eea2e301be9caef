"""What the nodes store after a run, against what publishers were told.

What lives here: lost, lost on one node, phantom, duplicate, two values at one offset, gaps, order, and a definite
failure that took effect.
Rules: everything is one pass over arrays in offset order; what is equal on all nodes is looked at once. A topic that
was deleted in the run owes nothing but that nothing of it comes back.
Must not know: consumers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from chaos.judging.model import NEVER, Anomaly, History, Publish, Stored


def judge_stored(history: History) -> Iterator[Anomaly]:
    """All anomalies of what is stored."""
    yield from _digests(history)
    found: dict[int, tuple[str, int, int]] = {}
    longest: dict[tuple[str, int], Stored] = {}
    for (topic, partition), nodes in sorted(history.stored.items()):
        reference = max(nodes.values(), key=lambda stored: len(stored.offsets))
        longest[topic, partition] = reference
        yield from _differences(history, topic, partition, nodes, reference)
        yield from _gaps(topic, partition, reference)
        yield from _contents(history, topic, partition, reference, found)
        yield from _order(history, topic, partition, reference)
    yield from _acknowledged(history, found, longest)


def _digests(history: History) -> Iterator[Anomaly]:
    yield from (Anomaly("not_whole", detail) for detail in history.not_whole)
    for moment, digests in history.digests.items():
        if len(set(digests.values())) > 1:
            lines = tuple(f"{node}: {digest}" for node, digest in sorted(digests.items()))
            yield Anomaly("stores_differ", f"the nodes' stores differ at one applied index, after {moment}", lines)


def _differences(
    history: History, topic: str, partition: int, nodes: dict[str, Stored], reference: Stored
) -> Iterator[Anomaly]:
    whose = next(node for node, stored in nodes.items() if stored is reference)
    for node, stored in nodes.items():
        if stored.offsets == reference.offsets and stored.values == reference.values:
            if stored.levels != reference.levels:
                yield Anomaly("stores_differ", f"{topic}/{partition}: {node} and {whose} have messages on other levels")
            continue
        there = dict(zip(stored.offsets, stored.values, strict=True))
        for offset, value in zip(reference.offsets, reference.values, strict=True):
            other = there.get(offset)
            if other is None:
                publish = history.publishes.get(value)
                lines = (history.tell(publish),) if publish is not None else ()
                yield Anomaly(
                    "lost_on_one_node",
                    f"{topic}/{partition}: {whose} has {value} at offset {offset}, {node} has nothing there",
                    lines,
                )
            elif other != value:
                yield Anomaly(
                    "offset_with_two_values",
                    f"{topic}/{partition}: offset {offset} is {value} on {whose} and {other} on {node}",
                    _tell(history, value, other),
                )


def _gaps(topic: str, partition: int, stored: Stored) -> Iterator[Anomaly]:
    offsets = stored.offsets
    if not offsets or offsets == array("q", range(offsets[0], offsets[0] + len(offsets))):
        return
    for place in range(1, len(offsets)):
        before, after = offsets[place - 1], offsets[place]
        if after == before and stored.values[place] != stored.values[place - 1]:
            yield Anomaly("offset_with_two_values", f"{topic}/{partition}: offset {after} is there twice")
        elif after != before + 1:
            yield Anomaly("gap", f"{topic}/{partition}: offset {after} comes after {before}")


def _contents(
    history: History, topic: str, partition: int, stored: Stored, found: dict[int, tuple[str, int, int]]
) -> Iterator[Anomaly]:
    """Each stored value was published, to this topic, once, and was not refused."""
    publishes = history.publishes
    where = (topic, partition)
    levels = stored.levels
    for place, (offset, value) in enumerate(zip(stored.offsets, stored.values, strict=True)):
        publish = publishes.get(value)
        if publish is None or publish.topic != topic:
            if publish is None or history.dead_letters.get(publish.topic) != topic:
                lines = () if publish is None else (history.tell(publish),)
                yield Anomaly("phantom", f"{topic}/{partition}: nobody published {value}, at offset {offset}", lines)
            continue
        if publish.failed:
            yield Anomaly(
                "failure_took_effect",
                f"{topic}/{partition}: {value} was refused and is stored at offset {offset}",
                (history.tell(publish),),
            )
        earlier = found.setdefault(value, (*where, offset))
        if earlier != (topic, partition, offset):
            yield Anomaly(
                "duplicate" if publish.keyed else "appended_twice",
                f"{topic}/{partition}: {value} is stored at offset {offset} and at {earlier}",
                (history.tell(publish),),
            )
        elif publish.level not in (levels[place], -1):
            yield Anomaly(
                "wrong_level",
                f"{topic}/{partition}: {value} was published to level {publish.level} and is on {levels[place]}",
                (history.tell(publish),),
            )


def _order(history: History, topic: str, partition: int, stored: Stored) -> Iterator[Anomaly]:
    """No message stands before one that was answered before it was sent."""
    earliest: Publish | None = None
    earliest_end = NEVER
    of_producer: dict[int, Publish] = {}
    publishes = history.publishes
    for value in reversed(stored.values):
        publish = publishes.get(value)
        if publish is None or publish.topic != topic:
            continue
        start, end = publish.start, publish.end
        own = of_producer.get(publish.p)
        if own is not None and own.end is not None and own.end < start:
            yield _misplaced(history, "order_of_producer", topic, partition, publish, own)
        elif earliest is not None and earliest_end < start:
            yield _misplaced(history, "order_in_real_time", topic, partition, publish, earliest)
        if end is None:
            continue
        if end < earliest_end:
            earliest, earliest_end = publish, end
        if own is None or own.end is None or end < own.end:
            of_producer[publish.p] = publish


def _misplaced(history: History, code: str, topic: str, partition: int, publish: Publish, witness: Publish) -> Anomaly:
    return Anomaly(
        code,
        f"{topic}/{partition}: {publish.v} stands before {witness.v}, which was answered before {publish.v} was sent",
        (history.tell(witness), history.tell(publish)),
    )


def _acknowledged(
    history: History, found: dict[int, tuple[str, int, int]], longest: dict[tuple[str, int], Stored]
) -> Iterator[Anomaly]:
    """Each answered publish is where its answer says; nothing came back from a deleted topic."""
    removed: dict[str, int] = {}
    for removal in history.removals:
        removed[removal.topic] = min(removed.get(removal.topic, NEVER), removal.start)
    answered: dict[tuple[str, int], set[int]] = {}
    for value, publish in history.publishes.items():
        if publish.end is None:
            continue
        if publish.other_offset >= 0:
            yield Anomaly(
                "duplicate",
                f"{value} was answered with offset {publish.offset} and with {publish.other_offset}",
                (history.tell(publish),),
            )
        if removed and publish.topic in removed:
            continue
        place = found.get(value)
        if place is not None and place[1] == publish.partition and place[2] == publish.offset:
            continue
        where = (publish.topic, publish.partition)
        if where not in longest:
            if not longest:
                offsets = answered.setdefault(where, set())
                if publish.offset in offsets:
                    yield _two_values(history, publish, None)
                offsets.add(publish.offset)
                continue
            yield Anomaly("lost_tail", f"{value} is stored nowhere, nor its partition", (history.tell(publish),))
            continue
        stored = longest[where]
        holder = _value_at(stored, publish.offset)
        if place is not None or holder is not None:
            yield _two_values(history, publish, holder)
        if place is None:
            yield _lost(history, publish, stored)


def _two_values(history: History, publish: Publish, holder: int | None) -> Anomaly:
    return Anomaly(
        "offset_with_two_values",
        f"{publish.topic}/{publish.partition}: {publish.v} was answered with offset {publish.offset}, which "
        + ("was answered twice" if holder is None else f"holds {holder}"),
        _tell(history, publish.v, *(() if holder is None else (holder,))),
    )


def _lost(history: History, publish: Publish, stored: Stored) -> Anomaly:
    if not stored.offsets or publish.offset > stored.offsets[-1]:
        code = "lost_tail"
    else:
        code = "lost_prefix" if publish.offset < stored.offsets[0] else "lost_middle"
    summary = (
        f"{publish.topic}/{publish.partition}: {publish.v} was acknowledged at offset {publish.offset} and is gone"
    )
    return Anomaly(code, summary, (history.tell(publish),))


def _value_at(stored: Stored, offset: int) -> int | None:
    if not stored.offsets:
        return None
    place = offset - stored.offsets[0]
    if 0 <= place < len(stored.offsets) and stored.offsets[place] == offset:
        return stored.values[place]
    return None


def _tell(history: History, *values: int) -> tuple[str, ...]:
    publishes = [history.publishes[value] for value in values if value in history.publishes]
    return tuple(history.tell(publish) for publish in sorted(publishes, key=lambda publish: publish.start))
