"""What a run of the load did, in figures and pictures.

What lives here: the tables of a run, its pictures as files of their own, and its part of docs/soak.md.
Rules: figures of the last third stand beside those of the first, since what grows without bound shows there. Of the
page, only what is below its last heading is written.
Must not know: clients.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

from chaos.resources import MIB, Sample, picture
from tests.soak.bounds import written_bytes
from tests.soak.run import Report

ROOT = Path(__file__).parents[2]
HEADING = "## The last run"
PICTURES: dict[str, tuple[str, Callable[[Sample], float]]] = {
    "memory": ("Memory of each node, MiB", lambda sample: sample.resident_bytes / MIB),
    "store": ("Store of each node, MiB", lambda sample: sample.store_bytes / MIB),
    "journal": ("Journal of each node, MiB", lambda sample: sample.journal_bytes / MIB),
    "snapshots": ("Snapshots of each node, MiB", lambda sample: sample.snapshot_bytes / MIB),
}


def table_of(report: Report) -> str:
    """The run as Markdown."""
    plan, kept = report.plan, max((each.size_bytes for each in report.kept), default=0)
    answers, broken = sum(report.done.values()), sum(report.broken.values())
    verdict = "**no promise broken**, stores equal" if not broken else f"**{broken} breaches**"
    kills = ", ".join(f"{what}: {count}" for what, count in sorted(report.kills.items()))
    written = written_bytes(report.samples)
    lines = [
        f"{plan.seconds:.0f} s, seed {plan.seed}: {answers:,} answers, {verdict}. Troubles: {kills}.",
        "",
        f"A journal took in {written / MIB:.0f} MiB and more, topics kept {kept / MIB:.1f} MiB at most. In MiB:",
        "",
        "| | most in the first third | in the last third | bound | which is |",
        "|---|---:|---:|---:|---|",
    ]
    for bound in report.bounds:
        sizes = (bound.first_bytes, bound.last_bytes, bound.bound_bytes)
        figures = " | ".join(f"{size / MIB:.1f}" for size in sizes)
        lines.append(f"| {bound.what} | {figures} | {bound.why} |")
        if not bound.is_kept:
            lines.append(f"| **{bound.what} beyond its bound** | {bound.most_bytes / MIB:.1f} | | | |")
    lines += ["", "| answered | times | | answered | times |", "|---|---:|---|---|---:|"]
    rows = [f"{what} | {count:,}" for what, count in sorted(report.done.items())]
    half = (len(rows) + 1) // 2
    lines += [f"| {one} | | {two} |" for one, two in zip_longest(rows[:half], rows[half:], fillvalue=" | ")]
    lines += ["", *(f"BROKEN {count} times: {promise}" for promise, count in sorted(report.broken.items()))]
    lines += [f"  {example}" for example in report.examples]
    return "\n".join(lines).rstrip() + "\n"


def page_of(page: str, report: Report) -> str:
    """The page with this run as the last one."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    shown = "\n\n".join(f"![{title}](soak/{name}.svg)" for name, (title, _) in PICTURES.items())
    head = page[: page.index(HEADING)]
    return f"{head}{HEADING}\n\nAt commit {done.stdout.decode().strip()}. {table_of(report)}\n{shown}\n"


def write_svgs(target: Path, report: Report) -> None:
    """One picture a file."""
    for name, (_, value) in PICTURES.items():
        drawn = picture(report.samples, value) if report.samples else "<svg ></svg>"
        made = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        (target / f"{name}.svg").write_text(made + "\n")
