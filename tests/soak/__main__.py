"""A mixed load of all features on three nodes that are killed one after the other: `python -m tests.soak`."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from chaos.resources import write_samples
from tests.soak.report import page_of, table_of, write_svgs
from tests.soak.run import Plan, run

PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
PICTURES = PAGE.with_suffix("")
console = Console()


def main(
    seconds: Annotated[float, typer.Option(help="How long the load lasts.")] = 600.0,
    kill_every: Annotated[float, typer.Option(help="Seconds between two kills.")] = 20.0,
    seed: Annotated[int | None, typer.Option(help="Who is killed, what is sent; drawn when it is not given.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this kind of clients; may be repeated.")] = None,
    target: Annotated[Path, typer.Option(help="Where figures and pictures go.")] = Path("soak-run"),
    write: Annotated[bool, typer.Option(help="Write docs/soak.md and its pictures too.")] = False,
) -> None:
    """Run the load, and say what was found; exits with 1 when a promise or a bound was broken."""
    drawn = random.SystemRandom().getrandbits(32) if seed is None else seed
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="falconq-soak-") as directory:
        plan = Plan(seconds, kill_every, drawn, only or ())
        report = asyncio.run(run(Path(directory) / "data", plan, console))
    write_samples(target / "resources.csv", report.samples)
    write_svgs(target, report)
    (target / "report.md").write_text(table_of(report))
    if write:
        PICTURES.mkdir(exist_ok=True)
        for old in PICTURES.glob("*.svg"):
            old.unlink()
        write_svgs(PICTURES, report)
        PAGE.write_text(page_of(PAGE.read_text(), report))
    console.print(table_of(report), markup=False, highlight=False)
    raise typer.Exit(0 if report.is_good else 1)


if __name__ == "__main__":
    typer.run(main)
