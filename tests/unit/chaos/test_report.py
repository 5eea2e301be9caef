"""A report is one file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from chaos.history import HistoryWriter
from chaos.judge import judge_history
from chaos.judging.coverage import Wants
from chaos.judging.model import fold
from chaos.report import by_class, write_report
from chaos.summary import summary
from tests.unit.chaos.histories import Made


def test_a_report_shows_faults_verdict_and_how_to_repeat_and_the_index_lists_it(tmp_path: Path) -> None:
    made = Made().publish(1, 0).add("info", "leader", node="n2")
    made.add("info", "fault begins", detail="kill <1>", mode="PodChaos pod-kill").wait(2000).publish(2, 1)
    made.add("info", "fault ends", detail="kill <1>").wait(10_000).publish(3, 2).store(1, 2)
    history = fold(made.events)
    mode, count, median, high = next(by_class(history))
    assert (mode, count) == ("PodChaos pod-kill", 1)
    assert 2 < median <= high < 6
    (tmp_path / "two").mkdir()
    with HistoryWriter(tmp_path / "two" / "history.jsonl") as writer:
        for event in made.events:
            writer.write(event)
    (tmp_path / "two" / "verdict").write_text("valid")
    lines = list(summary([tmp_path / "two"]))
    assert "| two | valid | 3 | 0 | 1 | 0 |" in lines
    assert "Together 3 acknowledged publishes, 1 of them while a fault was on." in lines
    assert any(line.startswith("| PodChaos pod-kill | 1 | 1 | ") for line in lines)
    target = tmp_path / "one"
    target.mkdir()
    write_report(target, history, judge_history(history, Wants()), repeat="python -m chaos run a.yaml --seed 7")
    page = (target / "report.html").read_text()
    for part in ("kill &lt;1&gt;", "lost_tail", "invalid", "--seed 7", ">n2<"):
        assert part in page
    for part in ("http", "<script", "src="):
        assert part not in page
    assert 'href="one/report.html"' in (tmp_path / "index.html").read_text()
