"""A line: the first thing is the one with the lowest place, whatever entered, moved and left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.machine.line import Line

STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "drop"]), st.integers(0, 12), st.integers(0, 5)))


@given(steps=STEPS)
def test_the_first_is_the_lowest_whatever_came_and_went(steps: list[tuple[str, int, int]]) -> None:
    line: Line[int] = Line()
    model: dict[int, tuple[int, int]] = {}
    for number, (kind, thing, time) in enumerate(steps):
        if kind == "put":
            model[thing] = (time, number)
            line.put(thing, (time, number))
        else:
            model.pop(thing, None)
            line.drop(thing)
        assert len(line) == len(model)
        assert line.first() == min(((place, thing) for thing, place in model.items()), default=None)
    while model:
        first = line.first()
        assert first is not None
        assert model.pop(first[1]) == first[0] == min([first[0], *model.values()])
        line.drop(first[1])
    assert line.first() is None
