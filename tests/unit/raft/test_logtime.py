"""The leader's clock as all nodes see it (PROTOCOL.md P11)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.raft.logtime import LogTime
from tests.unit.broker.loopback import START_MS, ManualClock


class TwoClocks(ManualClock):
    """The wall clock can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_offset_ms = START_MS

    def wall_ms(self) -> int:
        return self.wall_offset_ms + self.now_ms


@pytest.fixture
def clocks() -> TwoClocks:
    return TwoClocks()


def test_before_a_leader_was_heard_there_is_no_log_time(clocks: TwoClocks):
    log_time = LogTime(clocks)
    log_time.not_before(5000)
    assert (log_time.is_known, log_time.now_ms(), log_time.gap_ms()) == (False, 0, 0)


def test_a_follower_extrapolates_by_its_monotonic_clock_whatever_the_wall_does(clocks: TwoClocks):
    log_time = LogTime(clocks)
    log_time.heard(70_000)
    clocks.now_ms += 250
    clocks.wall_offset_ms -= 86_400_000
    assert log_time.now_ms() == 70_250


def test_a_new_leader_starts_at_the_last_stamp_or_the_extrapolation_whichever_is_later(clocks: TwoClocks):
    for stamp, expected in ((70_100, 70_250), (70_900, 70_900)):
        log_time = LogTime(clocks)
        log_time.heard(70_000)
        clocks.now_ms += 250
        log_time.begin_leading(last_stamp_ms=stamp, walls_ms=[START_MS])
        assert log_time.now_ms() == expected


@pytest.mark.parametrize(
    ("walls", "median"), [([9000], 9000), ([9000, 1], 1), ([9000, 8000, 1], 8000), ([10**15, 8000, 9000], 9000)]
)
def test_after_a_restart_of_all_it_steps_to_the_median_wall_clock_but_never_back(
    clocks: TwoClocks, walls: list[int], median: int
):
    log_time = LogTime(clocks)
    log_time.begin_leading(last_stamp_ms=500, walls_ms=walls)
    assert log_time.now_ms() == max(500, median)
    late = LogTime(clocks)
    late.begin_leading(last_stamp_ms=10**16, walls_ms=walls)
    assert late.now_ms() == 10**16


def test_an_entry_that_was_applied_is_never_above_the_reading(clocks: TwoClocks):
    log_time = LogTime(clocks)
    log_time.heard(70_000)
    log_time.not_before(71_000)
    assert log_time.now_ms() == 71_000
    log_time.not_before(70_500)
    assert log_time.now_ms() == 71_000


def test_the_leaders_reading_is_drawn_to_the_wall_by_at_most_a_twentieth(clocks: TwoClocks):
    log_time = LogTime(clocks)
    log_time.begin_leading(last_stamp_ms=0, walls_ms=[clocks.wall_ms() - 10_000])
    assert log_time.gap_ms() == 10_000
    start = log_time.lead_ms()
    for _ in range(100):
        clocks.now_ms += 50
        log_time.lead_ms()
    assert log_time.lead_ms() - start == 5000 + 100 * 2
    for _ in range(5000):
        clocks.now_ms += 50
        log_time.lead_ms()
    assert log_time.gap_ms() == 0


def test_readings_in_quick_succession_draw_too(clocks: TwoClocks):
    log_time = LogTime(clocks)
    log_time.begin_leading(last_stamp_ms=0, walls_ms=[clocks.wall_ms() - 10_000])
    for _ in range(10_000):
        clocks.now_ms += 1
        log_time.lead_ms()
    assert log_time.gap_ms() == 10_000 - 500


@given(
    st.lists(
        st.tuples(st.sampled_from(("pass", "wall", "lead", "read", "apply")), st.integers(0, 5000), st.booleans()),
        max_size=60,
    )
)
def test_the_leaders_reading_never_goes_back(moves: list[tuple[str, int, bool]]):
    clocks = TwoClocks()
    log_time = LogTime(clocks)
    log_time.begin_leading(last_stamp_ms=1_000_000, walls_ms=[2_000_000])
    last = log_time.lead_ms()
    for kind, amount, is_back in moves:
        if kind == "pass":
            clocks.now_ms += amount
        elif kind == "wall":
            clocks.wall_offset_ms += -1000 * amount if is_back else 1000 * amount
        elif kind == "apply":
            log_time.not_before(last)
        else:
            reading = log_time.lead_ms() if kind == "lead" else log_time.now_ms()
            assert reading >= last or kind == "read"
            last = max(last, reading) if kind == "lead" else last
