"""What a run of the load did, in figures and pictures.

What lives here: the table of a run, and its pictures as files of their own.
Rules: figures of the last third stand beside those of the first, since what grows without bound shows there.
Must not know: clients.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.resources import MIB, Sample, highest, pictures
from tests.soak.run import Report

VALUES: dict[str, tuple[Callable[[Sample], int], int]] = {
    "memory of a node, MiB": (lambda sample: sample.resident_bytes, MIB),
    "files of a node, MiB": (lambda sample: sample.file_bytes, MIB),
    "files of a node": (lambda sample: sample.file_count, 1),
    "open descriptors of a node": (lambda sample: sample.descriptor_count, 1),
}


def table_of(report: Report) -> str:
    """The run as Markdown."""
    answers, broken = sum(report.done.values()), sum(report.broken.values())
    lines = [
        f"{report.seconds:.0f} s, {report.kills} kills, seed {report.seed}: {answers:,} answers, {broken} breaches",
        "",
        "| most | first third | last third |",
        "|---|---|---|",
    ]
    for name, (value, unit) in VALUES.items():
        first = highest(report.samples, value, after=0.0, until=1 / 3) / unit
        last = highest(report.samples, value, after=2 / 3, until=1.0) / unit
        lines.append(f"| {name} | {first:.0f} | {last:.0f} |")
    lines += ["", "| answered | times |", "|---|---|"]
    lines += [f"| {what} | {count:,} |" for what, count in sorted(report.done.items())]
    lines += [f"BROKEN {count} times: {promise}" for promise, count in sorted(report.broken.items())]
    lines += [f"  {example}" for example in report.examples]
    return "\n".join(lines) + "\n"


def write_svgs(target: Path, samples: Sequence[Sample]) -> None:
    """`memory.svg` and `files.svg`."""
    found = re.findall(r"<svg.*?</svg>", pictures(samples), re.DOTALL)
    for name, picture in zip(("memory", "files"), found, strict=False):
        made = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        (target / f"{name}.svg").write_text(made + "\n")
