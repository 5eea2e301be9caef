"""Measures how soon a long poll on one follower has what was published through another.

What lives here: a figure of docs/performance.md, made by `python -m bench.wake`.
Rules: three real nodes on this machine, one poll and one publish at a time; a poll waits before its message is sent.
The time counts from when the publish is sent to when the poll is answered, so it has both writes in it: that of the
message, and that of the cursor which the poll moves.
Must not know: how a poll is woken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster

SETTLE_S = 0.05
"""A poll that finds nothing asks the leader whether its view is fresh, and waits from then on."""


async def run(rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds from a publish being sent to the poll's answer, and to its own."""
    woken_ms, acknowledged_ms = [], []
    with tempfile.TemporaryDirectory(prefix="falconq-bench-") as directory:
        async with Http() as http:
            cluster = Cluster(Path(directory) / "cluster", http)
            try:
                cluster.start()
                await cluster.wait_ready()
                polled, publishing = await cluster.followers()
                await http.publish(publishing, "wake", "first")
                await http.get(polled, "/topic/wake/consume", consumerID="c", waitMs=5_000)
                for number in range(rounds):
                    poll = asyncio.create_task(http.get(polled, "/topic/wake/consume", consumerID="c", waitMs=15_000))
                    await asyncio.sleep(SETTLE_S)
                    if poll.done():
                        raise SystemExit(f"a poll did not wait: {poll.result()}")
                    sent = time.monotonic()
                    outcome = await http.publish(publishing, "wake", f"{number}")
                    acknowledged_ms.append(1000 * (time.monotonic() - sent))
                    answer = await poll
                    woken_ms.append(1000 * (time.monotonic() - sent))
                    if outcome.kind != "acknowledged" or answer.body["messages"][0]["message"] != f"{number}":
                        raise SystemExit(f"{outcome} and then {answer}")
            finally:
                cluster.close()
    return woken_ms, acknowledged_ms


def line(name: str, took_ms: list[float]) -> str:
    cuts = statistics.quantiles(took_ms, n=100)
    return f"| {name} | {statistics.median(took_ms):.1f} | {cuts[98]:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how soon a long poll has a message.")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    woken_ms, acknowledged_ms = asyncio.run(run(options.rounds))
    sys.stdout.write(f"{options.rounds} rounds, {os.cpu_count()} cores, load average {load:.1f} before\n\n")
    sys.stdout.write("| from the publish being sent to | p50 ms | p99 ms |\n|---|---:|---:|\n")
    sys.stdout.write(line("its own answer", acknowledged_ms) + "\n")
    sys.stdout.write(line("the answer of the poll on another follower", woken_ms) + "\n")


if __name__ == "__main__":
    main()
