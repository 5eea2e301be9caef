"""The commands: `python -m chaos run FILES`, `python -m chaos judge HISTORY`, `python -m chaos clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from chaos.history import read_history
from chaos.judge import judge as judge_events
from chaos.place import clean_all
from chaos.run import run as run_files
from chaos.summary import summary as summary_of

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
console = Console()


@app.command()
def run(
    files: Annotated[list[Path], typer.Argument(help="Experiments, performed one after the other on one cluster.")],
    seconds: Annotated[float, typer.Option(help="For each of them.")] = 30.0,
    times: Annotated[int | None, typer.Option(help="Perform each so many times, and not for so long.")] = None,
    patience: Annotated[float, typer.Option(help="Seconds in which the cluster must be whole after faults.")] = 120.0,
    seed: Annotated[int | None, typer.Option(help="Who is hit, what is sent; drawn when it is not given.")] = None,
    target: Annotated[Path, typer.Option(help="Where the history and the report go.")] = Path("chaos-run/last"),
) -> None:
    """Perform experiments on a local cluster, and judge what its clients saw."""
    verdict = run_files(
        files, seconds=seconds, times=times, patience=patience, seed=seed, target=target, console=console
    )
    raise typer.Exit(0 if verdict.kind == "valid" else 1)


@app.command()
def judge(history: Path) -> None:
    """Judge a history again."""
    verdict = judge_events(read_history(history))
    for line in verdict.describe():
        console.print(line, markup=False, highlight=False)
    raise typer.Exit(0 if verdict.kind == "valid" else 1)


@app.command()
def summary(runs: Annotated[list[Path], typer.Argument(help="Directories of runs.")]) -> None:
    """What runs showed together, as Markdown."""
    for line in summary_of(runs):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def clean() -> None:
    """Remove what runs left that were ended together with their guardian."""
    clean_all()


if __name__ == "__main__":
    app()
