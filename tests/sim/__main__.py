"""Runs many seeds and shows what they did: `python -m tests.sim --seeds 1-200 [--nodes 5] [--jobs 2]`.

What lives here: the command line, the progress and the table.
Rules: a failing seed prints the command that replays it, and its transcript; the exit code is 1 when one failed.
Must not know: what a run does.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.sim.ablations import ABLATIONS, reopened
from tests.sim.run import Report, run_seed

console = Console()
TRANSCRIPT_LINES = 60
SHOWN_FAILURES = 5


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _task(task: tuple[int, int, str]) -> Report:
    seed, node_count, hole = task
    with reopened(hole):
        return run_seed(seed, node_count)


def run_many(seeds: Iterable[int], *, node_count: int, jobs: int, hole: str = "") -> Iterator[Report]:
    """Reports as they come, in no order when there are several jobs."""
    tasks = [(seed, node_count, hole) for seed in seeds]
    if jobs == 1:
        yield from map(_task, tasks)
        return
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=200) as pool:
        yield from pool.imap_unordered(_task, tasks)


def main(
    seeds: Annotated[str, typer.Option(help="One seed, or FIRST-LAST.")] = "1-200",
    nodes: Annotated[int, typer.Option(help="Members of the cluster.")] = 3,
    jobs: Annotated[int, typer.Option(help="Processes that run seeds.")] = 2,
    seconds: Annotated[float, typer.Option(help="Stop after so many seconds; 0 runs all seeds.")] = 0,
    hole: Annotated[str, typer.Option(help="Open a hole on purpose: " + ", ".join(ABLATIONS))] = "",
    lines: Annotated[int, typer.Option(help="Lines of transcript of a failing seed.")] = TRANSCRIPT_LINES,
    trace: Annotated[bool, typer.Option(help="Print each seed's hash.")] = False,
) -> None:
    """Runs seeds of the simulated cluster."""
    started = time.monotonic()
    total: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    failures: list[Report] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("seeds", total=len(_seeds(seeds)))
        for report in run_many(_seeds(seeds), node_count=nodes, jobs=jobs, hole=hole):
            _add(total, faults, report)
            if report.violation:
                failures.append(report)
                _show_failure(report, hole, lines if len(failures) <= SHOWN_FAILURES else 0)
            if trace:
                console.print(f"seed {report.seed} nodes {report.node_count} trace {report.digest}")
            progress.update(task, advance=1, description=_describe(total, failures))
            if seconds and time.monotonic() - started > seconds:
                break
    _show_table(total, faults, failures, time.monotonic() - started)
    sys.exit(1 if failures else 0)


def _add(total: Counter[str], faults: Counter[str], report: Report) -> None:
    for name in (
        "acknowledged", "refused", "unknown", "reads", "leases", "trimmed", "committed", "elections", "crashes",
        "power_losses", "disk_stops", "wipes", "refusals_to_start", "event_count", "frame_count",
    ):  # fmt: skip
        total[name] += getattr(report, name)
    total["seeds"] += 1
    total["virtual_s"] += round(report.virtual_s)
    faults.update(report.faults)


def _describe(total: Counter[str], failures: list[Report]) -> str:
    return (
        f"{total['acknowledged']} acknowledged, {total['elections']} elections, {total['crashes']} crashes, "
        f"{len(failures)} failed"
    )


def _show_failure(report: Report, hole: str, lines: int) -> None:
    for line in report.transcript[len(report.transcript) - lines :] if lines else ():
        console.print(escape(line), style="dim", overflow="ellipsis", no_wrap=True)
    console.print(f"seed {report.seed} ({report.node_count} nodes): {escape(report.violation)}", style="bold red")
    option = f" --hole {hole}" if hole else ""
    console.print(
        f"replay: python -m tests.sim --seeds {report.seed} --nodes {report.node_count} --jobs 1 --lines 400{option}"
    )


def _show_table(total: Counter[str], faults: Counter[str], failures: list[Report], seconds: float) -> None:
    liveness = sum(1 for report in failures if report.is_liveness)
    table = Table(title="the simulated cluster", show_header=False)
    rows = {name.replace("_", " "): f"{count:,}" for name, count in total.items()}
    rows["faults"] = ", ".join(f"{name} {count:,}" for name, count in sorted(faults.items()))
    rows["virtual seconds per second"] = f"{total['virtual_s'] / max(seconds, 0.001):.0f}"
    rows["safety violations"] = str(len(failures) - liveness)
    rows["not converged"] = str(liveness)
    rows["failing seeds"] = ", ".join(str(report.seed) for report in sorted(failures, key=lambda r: r.seed)) or "none"
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
