"""A mixed load of all features on three nodes that are killed one after the other: `python -m tests.soak`."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from chaos.resources import pictures, write_samples
from tests.soak.report import table_of, write_svgs
from tests.soak.run import run

console = Console()


def main(
    seconds: Annotated[float, typer.Option(help="How long the load lasts.")] = 600.0,
    kill_every: Annotated[float, typer.Option(help="Seconds between two kills.")] = 20.0,
    seed: Annotated[int | None, typer.Option(help="Who is killed, what is sent; drawn when it is not given.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this kind of clients; may be repeated.")] = None,
    target: Annotated[Path, typer.Option(help="Where figures and pictures go.")] = Path("soak-run"),
) -> None:
    """Run the load, and say what was found; exits with 1 when a promise was broken."""
    drawn = random.SystemRandom().getrandbits(32) if seed is None else seed
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="falconq-soak-") as directory:
        data = Path(directory) / "data"
        load = run(data, seconds=seconds, kill_every=kill_every, seed=drawn, only=only or (), console=console)
        report = asyncio.run(load)
    write_samples(target / "resources.csv", report.samples)
    write_svgs(target, report.samples)
    text = table_of(report)
    (target / "report.md").write_text(text)
    (target / "pictures.html").write_text(f"<!doctype html><title>Load</title>{pictures(report.samples)}")
    console.print(text, markup=False, highlight=False)
    raise typer.Exit(1 if report.broken else 0)


if __name__ == "__main__":
    typer.run(main)
