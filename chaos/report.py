"""One page about a run, and one that lists all runs.

What lives here: a timeline of acknowledgements, faults and changes of leader, how long nothing was acknowledged within
each fault, the verdict, and the command that repeats the run.
Rules: one HTML file with its picture inside; nothing is fetched from anywhere.
Must not know: how a fault is performed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from chaos.judge import Verdict
from chaos.judging.model import NANOSECONDS, Fault, History

WIDTH, HEIGHT, LEFT, BAND = 1100, 220, 60, 26
BUCKETS = 220
RECOVERY_NS = 5 * NANOSECONDS
"""What a fault did goes on after its end: so long it is looked for."""
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;color:#1d2430}table{border-collapse:"
    "collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #dde;text-align:left}pre{background:#f4f5f8;padding:"
    "1rem;overflow:auto}.valid{color:#12722f}.invalid{color:#b3141f}.void{color:#8a5a00}"
)


def unavailability(history: History, fault: Fault, ends: Sequence[int]) -> float:
    """Seconds: the longest time without an acknowledgement from the fault's begin until a while after its end.

    `ends` are the moments of all acknowledgements, sorted.
    """
    last = min(fault.end + RECOVERY_NS, history.end)
    moments = ends[bisect_right(ends, fault.start) : bisect_left(ends, last)]
    return max(after - before for before, after in pairwise([fault.start, *moments, last])) / NANOSECONDS


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent do not exceed; `values` are sorted and not empty."""
    return values[-(-len(values) * percent // 100) - 1]


def by_class(history: History) -> Iterator[tuple[str, int, float, float]]:
    """Each class of faults: how many, and p50 and p99 of their unavailability."""
    found: dict[str, list[float]] = {}
    ends = sorted(publish.end for publish in history.publishes.values() if publish.end is not None)
    for fault in history.faults:
        found.setdefault(fault.mode, []).append(unavailability(history, fault, ends))
    for mode, values in sorted(found.items()):
        values.sort()
        yield mode, len(values), percentile(values, 50), percentile(values, 99)


def timeline(history: History) -> str:
    """The picture, as SVG."""
    length = max(1, history.end - history.start)
    taken: list[list[float]] = [[] for _ in range(BUCKETS)]
    for publish in history.publishes.values():
        if publish.end is not None:
            place = min(BUCKETS - 1, (publish.end - history.start) * BUCKETS // length)
            taken[place].append((publish.end - publish.start) / NANOSECONDS * 1000)
    for values in taken:
        values.sort()
    counts = [float(len(values)) for values in taken]
    half, most = ([percentile(values, percent) if values else 0.0 for values in taken] for percent in (50, 99))

    def across(moment: int) -> float:
        return LEFT + (moment - history.start) / length * (WIDTH - LEFT)

    size = f'viewBox="0 0 {WIDTH} {HEIGHT + BAND * 2}" font-family="system-ui,sans-serif" font-size="11"'
    parts = [f'<svg {size} role="img" aria-label="Timeline of the run">']
    for fault in history.faults:
        left, right = across(fault.start), across(fault.end)
        name = escape(fault.name)
        parts.append(
            f'<rect x="{left:.1f}" y="0" width="{max(1.5, right - left):.1f}" height="{HEIGHT}" fill="#e4572e" '
            f'fill-opacity=".16"><title>{name}: {escape(fault.mode)}</title></rect>'
        )
    for values, top, colour in (
        (counts, max(1.0, *counts), "#2b59c3"),
        (half, max(1.0, *most), "#7b8794"),
        (most, max(1.0, *most), "#8a5a00"),
    ):
        points = " ".join(
            f"{LEFT + (place + 0.5) / BUCKETS * (WIDTH - LEFT):.1f},{HEIGHT - value / top * (HEIGHT - 20):.1f}"
            for place, value in enumerate(values)
        )
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.4" points="{points}"/>')
    seconds = length / NANOSECONDS
    rate = max(counts) / (seconds / BUCKETS)
    parts.append(f'<text x="0" y="12" fill="#2b59c3">{rate:.0f}/s</text>')
    parts.append(f'<text x="0" y="28" fill="#8a5a00">{max(most):.0f} ms</text>')
    for moment, node in history.leaders:
        x = across(moment)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT}" y2="{HEIGHT + 8}" stroke="#12722f"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 20}" fill="#12722f">{escape(node)}</text>')
    for tenth in range(11):
        x = LEFT + tenth / 10 * (WIDTH - LEFT - 30)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + BAND + 18}" fill="#555">{seconds * tenth / 10:.0f} s</text>')
    return "".join(parts) + "</svg>"


def write_report(target: Path, history: History, verdict: Verdict, *, repeat: str, pictures: str = "") -> None:
    """`report.html` in the run's directory, and `index.html` beside all runs; `pictures` is HTML about the nodes."""
    rows = "".join(
        f"<tr><td>{escape(mode)}</td><td>{count}</td><td>{median:.2f} s</td><td>{high:.2f} s</td></tr>"
        for mode, count, median, high in by_class(history)
    )
    ends = sorted(publish.end for publish in history.publishes.values() if publish.end is not None)
    faults = "".join(
        f"<tr><td>{escape(fault.name)}</td><td>{escape(fault.mode)}</td><td>{history.moment(fault.start)}</td>"
        f"<td>{(fault.end - fault.start) / NANOSECONDS:.1f} s</td>"
        f"<td>{unavailability(history, fault, ends):.2f} s</td></tr>"
        for fault in history.faults
    )
    lines = "\n".join(verdict.describe())
    (target / "report.html").write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(target.name)}: {verdict.kind}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style><h1>{escape(target.name)}: '
        f'<span class="{verdict.kind}">{verdict.kind}</span></h1><p>Blue: acknowledgements. '
        f"Grey and brown: p50 and p99 of how long they took. "
        f"Red: faults. Green: who leads. Silence: no acknowledgement.</p>{timeline(history)}<h2>Longest silence</h2>"
        f"<table><tr><th>class</th><th>faults</th><th>p50</th><th>p99</th></tr>{rows}</table>"
        f"<details><summary>Each fault</summary><table><tr><th>fault</th><th>class</th><th>begin</th><th>length</th>"
        f"<th>longest silence</th></tr>{faults}</table></details>{pictures}<h2>Verdict</h2>"
        f"<pre>{escape(lines)}</pre><h2>Again</h2><pre>{escape(repeat)}</pre></html>\n"
    )
    (target / "verdict").write_text(verdict.kind)
    found = sorted(path.parent for path in target.parent.glob("*/report.html"))
    items = "".join(
        f'<li><a href="{escape(path.name)}/report.html">{escape(path.name)}</a>: '
        f'<span class="{kind}">{kind}</span></li>'
        for path in found
        for kind in [(path / "verdict").read_text()]
    )
    (target.parent / "index.html").write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Runs</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style><h1>Runs</h1><ul>{items}</ul></html>\n"
    )
