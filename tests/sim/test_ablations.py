"""Each hole that is opened again is caught within its number of seeds, or by its story."""

from __future__ import annotations

import os

import pytest

from tests.sim.__main__ import run_many
from tests.sim.ablations import ABLATIONS, UNREACHED, reopened
from tests.sim.stories import Stage, stories
from tests.sim.world import Violation

FIRST_SEED = int(os.environ.get("FALCONQ_SIM_BASE", "5001"))
HOLES = [
    *(f"S{number}" for number in (*range(1, 19), 20, 22)),
    *(f"L{number}" for number in range(1, 5)),
    *(f"P{number}" for number in range(1, 21)),
]


@pytest.mark.parametrize("name", [name for name, ablation in ABLATIONS.items() if not ablation.story])
def test_an_open_hole_is_caught_within_its_number_of_seeds(name: str) -> None:
    seeds_max = ABLATIONS[name].seeds_max
    seeds = range(FIRST_SEED, FIRST_SEED + seeds_max)
    for runs, report in enumerate(run_many(seeds, node_count=3, jobs=2, hole=name), start=1):
        if report.violation:
            print(f"{name}: after {runs} runs, seed {report.seed}: {report.violation.splitlines()[0]}")
            return
    raise AssertionError(f"{name} is open and {seeds_max} seeds saw nothing: {ABLATIONS[name].what}")


@pytest.mark.parametrize("name", [name for name, ablation in ABLATIONS.items() if ablation.story])
def test_an_open_hole_fails_its_story(name: str) -> None:
    with reopened(name), pytest.raises(Violation):
        Stage().play(stories()[ABLATIONS[name].story])


def test_every_hole_and_rule_is_opened_or_says_why_not() -> None:
    known = {name.partition("-")[0] for name in ABLATIONS} | set(UNREACHED)
    assert known >= set(HOLES)
