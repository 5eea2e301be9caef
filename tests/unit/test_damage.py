"""A node whose store is damaged ends once, says why, and does not start again with the same data."""

from __future__ import annotations

from pathlib import Path

import pytest

from falconq_cluster.damage import DAMAGE_FILE, EXIT_DISK, DamageGuard
from falconq_cluster.errors import CorruptionError, StopProcess
from falconq_cluster.storage.files import RealFileSystem

DAMAGE = CorruptionError("/data/store/0: a table is damaged")


def guard_of(path: Path) -> tuple[DamageGuard, list[StopProcess]]:
    ends: list[StopProcess] = []
    return DamageGuard(RealFileSystem(), str(path), ends.append), ends


def test_damage_that_is_met_while_serving_ends_the_process_and_refuses_the_next_start(tmp_path: Path) -> None:
    guard, ends = guard_of(tmp_path)
    guard.check()
    guard.is_serving = True
    guard.met(DAMAGE)
    assert [(end.reason, end.exit_code) for end in ends] == [(str(DAMAGE), EXIT_DISK)]
    again, _ = guard_of(tmp_path)
    with pytest.raises(CorruptionError, match=f"{DAMAGE}.*{tmp_path}/{DAMAGE_FILE}"):
        again.check()
    (tmp_path / DAMAGE_FILE).unlink()
    again.check()


def test_damage_that_a_start_meets_is_left_to_the_start(tmp_path: Path) -> None:
    guard, ends = guard_of(tmp_path)
    guard.met(DAMAGE)
    assert ends == []
    guard.check()


def test_a_disk_that_takes_no_note_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    guard, ends = guard_of(tmp_path / "gone")
    guard.is_serving = True
    guard.met(CorruptionError("a table is damaged"))
    (end,) = ends
    assert end.reason.startswith("a table is damaged; this could not be noted in ")
