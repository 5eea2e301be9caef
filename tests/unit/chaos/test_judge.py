"""Each anomaly is found in the smallest history that has it, and none in histories without."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from chaos.history import Event, HistoryWriter, read_history
from chaos.judge import judge
from tests.unit.chaos.histories import Made

BAD: dict[str, Made] = {
    "lost_prefix": Made().publish(1, 0).publish(2, 1).store(2, first=1),
    "lost_middle": Made().publish(1, 0).publish(2, 1).publish(3, 2).store(1, node="n1").store(3, node="n1", first=2),
    "lost_tail": Made().publish(1, 0).publish(2, 1).store(1),
    "lost_on_one_node": Made().publish(1, 0).publish(2, 1).store(1, 2, node="n1").store(1, node="n2"),
    "phantom": Made().publish(1, 0).store(1, 7),
    "duplicate": Made().publish(1, 0, keyed=True).store(1, 1),
    "appended_twice": Made().publish(1, None).store(1, 1),
    "offset_with_two_values": Made().publish(1, 0).publish(2, 0),
    "gap": Made().publish(1, 0).publish(2, 2).store(1, node="n1").store(2, node="n1", first=2),
    "order_of_producer": Made().publish(1, 1).publish(2, 0).store(2, 1),
    "order_in_real_time": Made().publish(1, 1).publish(2, 0, p=2).store(2, 1),
    "failure_took_effect": Made().refuse(1).store(1),
    "redelivered_after_ack": (
        Made().publish(1, 0).pull([[0, 0, 1, 0, 1, 50]]).release(acks=[50]).pull([[0, 0, 1, 0, 2, 51]])
    ),
    "leased_twice": Made().publish(1, 0).pull([[0, 0, 1, 0, 1, 50]]).pull([[0, 0, 1, 0, 2, 51]], p=8),
    "priority_inverted": (
        Made().publish(1, 0).publish(2, 1, level=1).consume([[0, 0, 1, 0, 1]]).consume([[0, 1, 2, 1, 1]])
    ),
    "stale_linearizable_read": Made().publish(1, 0).read(0, "linearizable"),
    "session_went_back": Made().read(4, "session", index=9).read(3, "session", index=9, minimum=9),
    "dead_letter_not_once": (
        Made()
        .add("info", "topic", topic="t", mode="strict", detail="dead")
        .publish(1, 0)
        .pull([[0, 0, 1, 0, 1, 50]])
        .release(rejects=[50])
        .store(1)
        .store(topic="dead")
    ),
    "not_whole": Made().add("info", "not whole", detail="waited"),
    "stores_differ": Made().add("info", "store", node="n1", detail="a").add("info", "store", node="n2", detail="b"),
    "undelivered": Made().publish(1, 0).consume([]).add("info", "drained", topic="t", consumer="c"),
    "attempt_with_two_answers": Made().publish(1, 0).consume([[0, 0, 1, 0, 1]], attempt=3).consume([], attempt=3),
    "wrong_level": Made().publish(1, 0, level=1).store(1),
    "deleted_came_back": (
        Made()
        .publish(1, 0)
        .add("invoke", "delete", p=1, topic="t")
        .add("ok", "delete", p=1)
        .add("invoke", "read", p=1, topic="t", mode="local")
        .add("ok", "read", p=1, rows=[[0, 0, 1]])
    ),
}


@pytest.mark.parametrize("code", BAD)
def test_the_smallest_history_with_an_anomaly_is_invalid_by_its_name(code: str) -> None:
    verdict = BAD[code].verdict()
    assert code in verdict.counts, verdict
    assert verdict.kind == "invalid"
    shown = next(anomaly for anomaly in verdict.anomalies if anomaly.code == code)
    assert len(shown.history) <= 3


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("offset_with_two_values", Made().publish(1, 0).publish(2, 1).store(1, 2, node="n1").store(1, 3, node="n2")),
        ("offset_with_two_values", Made().publish(1, 0).publish(2, 1).consume([[0, 0, 2, 0, 1]]).store(1, 2)),
        ("offset_with_two_values", Made().publish(1, 0).publish(2, 0).store(1, 2)),
        ("lost_prefix", Made().publish(1, 0).publish(2, 1).publish(3, 2).store(3, first=2)),
        ("lost_tail", Made().publish(1, 0).store()),
        ("duplicate", Made().publish(1, 0, keyed=True).publish(1, 1, keyed=True).store(1)),
        ("failure_took_effect", Made().refuse(1).consume([[0, 0, 1, 0, 1]])),
        ("phantom", Made().consume([[0, 0, 1, 0, 1]])),
        ("redelivered_after_ack", Made().publish(1, 0).consume([[0, 0, 1, 0, 1]]).consume([[0, 0, 1, 0, 1]])),
        (
            "priority_inverted",
            Made().publish(1, 0).publish(2, 1, level=1).pull([[0, 0, 1, 0, 1, 5]]).pull([[0, 1, 2, 1, 1, 6]]),
        ),
        ("stale_linearizable_read", Made().publish(1, None).read(1, "linearizable").read(0, "linearizable")),
        ("session_went_back", Made().read(4, "session", index=8, minimum=9)),
        ("stores_differ", Made().publish(1, 0).store(1, node="n1").store(1, node="n2", level=1)),
        (
            "dead_letter_not_once",
            Made()
            .add("info", "topic", topic="t", mode="strict", detail="dead")
            .publish(1, 0)
            .pull([[0, 0, 1, 0, 1, 50]])
            .release(rejects=[50])
            .store(1)
            .store(1, 1, topic="dead"),
        ),
    ],
)  # fmt: skip
def test_other_ways_to_the_same_anomaly_are_found(code: str, made: Made) -> None:
    assert code in made.codes()


@pytest.mark.parametrize(
    "made",
    [
        Made().publish(1, None).publish(2, 0).store(2),
        Made().publish(1, None).publish(2, 1).store(1, 2),
        Made().refuse(1).publish(1, 0, keyed=True).store(1),
        Made().publish(1, 0).pull([[0, 0, 1, 0, 1, 50]]).wait(1100).pull([[0, 0, 1, 0, 2, 51]]),
        Made().publish(1, 0).pull([[0, 0, 1, 0, 1, 50]]).release(nacks=[50]).pull([[0, 0, 1, 0, 2, 51]]),
        Made().publish(1, 0).pull([[0, 0, 1, 0, 1, 50]]).wait(1100).release(acks=[50], lost=[50]).pull(
            [[0, 0, 1, 0, 2, 51]]
        ),
        Made().publish(1, 0).consume([[0, 0, 1, 0, 1]], attempt=4).consume([[0, 0, 1, 0, 1]], attempt=4),
        Made().publish(1, 0).consume([[0, 0, 1, 0, 1]]).publish(2, 1, level=1).consume([[0, 1, 2, 1, 1]]),
        Made()
        .publish(1, 0)
        .add("invoke", "consume", p=9, topic="t", consumer="c", attempt=4)
        .add("unknown", "consume", p=9)
        .publish(2, 1, level=1)
        .consume([[0, 0, 1, 0, 1]], attempt=4)
        .consume([[0, 1, 2, 1, 1]], attempt=5),
        Made().read(4, "session", index=9).read(3, "session", index=8, minimum=1),
        Made().publish(1, 0).read(1, "linearizable").publish(2, 1).read(2, "linearizable"),
    ],
)  # fmt: skip
def test_what_is_allowed_is_no_anomaly(made: Made) -> None:
    assert made.verdict().counts == {}


def test_a_run_that_tried_too_little_is_void_and_says_why() -> None:
    made = Made().publish(1, 0).store(1)
    assert made.verdict().kind == "valid"
    for want in ("acknowledged_min", "leader_changes_min", "faults_min", "digests_min", "dropped_min"):
        verdict = made.verdict(**{want: 2})
        assert (verdict.kind, len(verdict.reasons)) == ("void", 1)
    beside = Made().add("info", "fault begins", detail="a", mode="pod-kill").add("info", "fault ends", detail="a")
    beside.publish(1, 0).store(1)
    assert beside.verdict(overlap_min=1).kind == "void"
    within = Made().add("info", "fault begins", detail="a", mode="pod-kill").publish(1, 0).store(1)
    assert within.verdict(overlap_min=1).kind == "valid"
    assert Made().publish(1, 0).verdict().reasons == ("nobody looked at what is stored after the run",)


def test_an_anomaly_is_invalid_even_in_a_void_run() -> None:
    assert Made().publish(1, 0).store().verdict(acknowledged_min=100).kind == "invalid"


def test_an_end_without_a_begin_is_no_history() -> None:
    with pytest.raises(ValueError, match="did not begin"):
        judge([Event(1, "ok", "publish", p=1)])


def test_a_history_that_was_written_is_read_back_without_its_torn_end(tmp_path: Path) -> None:
    made = Made().publish(1, 0).consume([[0, 0, 1, 0, 1]]).store(1)
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        for event in made.events:
            writer.write(event)
    assert list(read_history(path)) == made.events
    path.write_bytes(path.read_bytes()[:-4])
    assert list(read_history(path)) == made.events[:-1]


OUTCOMES = some.lists(some.tuples(some.sampled_from(["ok", "unknown, done", "unknown", "fail"]), some.integers(0, 1)))


@given(OUTCOMES, some.integers(1, 4))
def test_a_right_log_with_any_outcomes_and_consumers_is_valid(outcomes: list[tuple[str, int]], batch: int) -> None:
    made = Made()
    log: list[tuple[int, int]] = []
    for v, (outcome, level) in enumerate(outcomes):
        if outcome == "ok":
            made.publish(v, len(log), p=v % 3, level=level)
        elif outcome == "fail":
            made.refuse(v)
        else:
            made.publish(v, None, p=v % 3, level=level)
        if outcome in {"ok", "unknown, done"}:
            log.append((v, level))
    order = sorted(range(len(log)), key=lambda place: (-log[place][1], place))
    for first in range(0, len(order), batch):
        made.consume([[0, place, log[place][0], log[place][1], 1] for place in order[first : first + batch]])
    made.add("info", "drained", topic="t", consumer="c")
    rows = [[place, v, level] for place, (v, level) in enumerate(log)]
    for node in ("n1", "n2", "n3"):
        made.add("info", "stored", node=node, topic="t", partition=0, rows=rows)
    assert made.verdict().counts == {}


@given(some.integers(2, 12), some.data())
def test_a_right_log_with_one_message_taken_out_is_invalid(count: int, data: some.DataObject) -> None:
    made = Made()
    for v in range(count):
        made.publish(v, v)
    missing = data.draw(some.integers(0, count - 1))
    rows = [[v, v, 0] for v in range(count) if v != missing]
    made.add("info", "stored", node="n1", topic="t", partition=0, rows=rows)
    wanted = "lost_prefix" if missing == 0 else "lost_tail" if missing == count - 1 else "lost_middle"
    assert wanted in made.codes()
