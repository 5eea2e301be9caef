"""Each story of tests/sim/stories ends as it must."""

from __future__ import annotations

import pytest

from tests.sim.stories import Stage, stories

STORIES = stories()


@pytest.mark.parametrize("name", STORIES)
def test_the_story_ends_as_it_must(name: str) -> None:
    Stage().play(STORIES[name])
