"""The thread that waits for the disk."""

from __future__ import annotations

import asyncio
import threading

import pytest

from falconq_cluster.errors import StopProcess
from falconq_cluster.raft.disk_worker import ThreadDiskWorker
from falconq_cluster.raft.seams import DiskWorker
from tests.unit.raft.transport_rig import on_both_loops, until


@on_both_loops
async def test_jobs_run_in_order_in_one_named_thread_and_report_on_the_loop():
    worker = ThreadDiskWorker(asyncio.get_running_loop())
    seam: DiskWorker = worker
    story: list[object] = []
    threads: set[str] = set()

    def step(name: str) -> None:
        story.append(name)
        threads.add(threading.current_thread().name)

    def done(error: BaseException | None) -> None:
        assert threading.current_thread() is threading.main_thread()
        story.append(error)

    for number in range(100):
        seam.submit([lambda n=number: step(f"{n} write"), lambda n=number: step(f"{n} sync")], done)  # type: ignore[misc]
    await until(lambda: story.count(None) == 100)
    assert [entry for entry in story if entry is not None] == [
        f"{number} {what}" for number in range(100) for what in ("write", "sync")
    ]
    assert threads == {"falconq-disk"}
    assert worker.stop()


@on_both_loops
async def test_the_first_error_ends_its_job_and_not_the_worker():
    worker = ThreadDiskWorker(asyncio.get_running_loop())
    story: list[object] = []

    def fail() -> None:
        raise StopProcess("the disk is gone", exit_code=74)

    worker.submit([lambda: story.append("first"), fail, lambda: story.append("never")], story.append)
    worker.submit([lambda: story.append("second")], story.append)
    await until(lambda: len(story) == 4)
    assert story[0] == "first"
    assert "never" not in story
    (error,) = [entry for entry in story if isinstance(entry, StopProcess)]
    assert error.exit_code == 74
    assert story[-1] is None
    assert worker.stop()


@on_both_loops
async def test_stop_runs_what_was_submitted_and_takes_nothing_more():
    worker = ThreadDiskWorker(asyncio.get_running_loop())
    story: list[str] = []
    for number in range(10):
        worker.submit([lambda n=number: story.append(f"{n}")], lambda _: None)  # type: ignore[misc]
    assert worker.stop()
    assert worker.stop()
    assert len(story) == 10
    with pytest.raises(RuntimeError, match="the disk worker is stopped"):
        worker.submit([], lambda _: None)


@on_both_loops
async def test_stop_says_when_the_disk_hangs():
    worker = ThreadDiskWorker(asyncio.get_running_loop())
    gate = threading.Event()
    worker.submit([lambda: assert_waited(gate)], lambda _: None)
    assert not worker.stop(timeout_ms=10)
    gate.set()
    assert worker.stop()


def test_a_job_that_ends_after_its_loop_was_closed_is_still_run():
    loop = asyncio.new_event_loop()
    worker = ThreadDiskWorker(loop)
    gate = threading.Event()
    story: list[str] = []
    worker.submit([lambda: assert_waited(gate), lambda: story.append("synced")], lambda _: story.append("told"))
    loop.close()
    gate.set()
    assert worker.stop()
    assert story == ["synced"]


def assert_waited(gate: threading.Event) -> None:
    assert gate.wait(10)
