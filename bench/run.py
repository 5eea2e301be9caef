"""Measures a cluster of three real nodes on this machine.

What lives here: the figures of docs/performance.md, made by `make bench` (`python -m bench.run --write`).
Rules: each figure is the median of three runs; client, nodes and disk share the machine, and the table says which;
syncs and messages per command come from the nodes' own metrics; an error in a run fails it.
Must not know: how any of it could be faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.clients import Http
from tests.cluster.harness import Cluster
from tests.cluster.processes import Node

RUNS = 3
CONNECTIONS = 64
MESSAGE_BYTES = 256
BATCH = 100
STEADY_PER_SECOND = 50
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: made by `make bench` -->", "<!-- end of figures -->"
SCRIPTS = Path(__file__).parent
ENOUGH = 0.98
"""Share of full batches: a consumer's last one may be short, as may those at the end of the run."""

Figures = dict[str, float]


@dataclass(slots=True)
class Bench:
    """One cluster under measurement."""

    http: Http
    cluster: Cluster
    seconds: float
    rows: dict[str, list[Figures]] = field(default_factory=dict)

    async def publish(self, node: Node, leader: Node) -> Figures:
        """64 connections, one message a request."""
        names = ("falconq_journal_syncs_total", "falconq_broker_commands_total", "falconq_published_messages_total")
        before = [await self.cluster.metric(leader if "syncs" in name else node, name) for name in names]
        url = f"{node.url}/topic/bench/publish"
        result = await wrk(
            url, self.seconds, connections=CONNECTIONS, script="publish.lua", arguments=[str(MESSAGE_BYTES)]
        )
        after = [await self.cluster.metric(leader if "syncs" in name else node, name) for name in names]
        syncs, commands, published = (new - old for new, old in zip(after, before, strict=True))
        return {
            "rate": result["requests"] / result["seconds"],
            "p50": result["p50_ms"],
            "p99": result["p99_ms"],
            "syncs": syncs / result["seconds"],
            "per_command": published / commands,
        }

    async def consume(self, node: Node, run: int) -> Figures:
        """Four connections, two to a consumer, 100 messages a request."""
        delivered_name, stored = "falconq_delivered_messages_total", await self.stored(node)
        before = await self.cluster.metric(node, delivered_name)
        arguments = [f"{node.name}-{run}", str(stored // BATCH), str(BATCH)]
        url = f"{node.url}/topic/bench/consume"
        result = await wrk(url, self.seconds, connections=4, script="consume.lua", arguments=arguments)
        delivered = await self.cluster.metric(node, delivered_name) - before
        if delivered < ENOUGH * BATCH * result["requests"]:
            raise SystemExit(f"{result['requests']} requests of {BATCH} gave only {delivered:.0f} messages")
        return {"rate": delivered / result["seconds"], "p50": result["p50_ms"], "p99": result["p99_ms"]}

    async def stored(self, node: Node) -> int:
        """Messages in the topic as the node shows them."""
        answer = await self.http.get(node, "/topics/bench/partitions")
        return int(answer.body["partitions"][0]["nextOffset"])

    async def steady(self, node: Node) -> Figures:
        """50 publishes a second, whatever the answers do; latency counts from the moment when each was due."""
        took_ms: list[float] = []
        begun = time.monotonic()

        async def one(due: float) -> None:
            outcome = await self.http.publish(node, "steady", "x" * MESSAGE_BYTES)
            if outcome.kind != "acknowledged":
                raise SystemExit(f"a publish failed: {outcome}")
            took_ms.append(1000 * (time.monotonic() - due))

        async with asyncio.TaskGroup() as group:
            for number in range(int(self.seconds * STEADY_PER_SECOND)):
                due = begun + number / STEADY_PER_SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(one(due))
        cuts = statistics.quantiles(took_ms, n=100)
        return {"rate": len(took_ms) / (time.monotonic() - begun), "p50": statistics.median(took_ms), "p99": cuts[98]}

    def note(self, name: str, figures: Figures) -> None:
        self.rows.setdefault(name, []).append(figures)
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures.items()), flush=True)

    def medians(self) -> dict[str, Figures]:
        return {
            name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for name, runs in self.rows.items()
        }


async def wrk(url: str, seconds: float, *, connections: int, script: str, arguments: list[str]) -> dict[str, float]:
    """One run of wrk; its last line of JSON."""
    command = ["wrk", "-t", "2", "-c", str(connections), "-d", f"{seconds:.0f}s", "--timeout", "10s", "--latency"]
    command += ["-s", str(SCRIPTS / script), url, "--", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    line = next(line for line in output.decode().splitlines() if line.startswith("{"))
    result: dict[str, float] = json.loads(line)
    if process.returncode or result["errors"]:
        raise SystemExit(f"{' '.join(command)} failed: {output.decode()}")
    return result


async def run(seconds: float) -> dict[str, Figures]:
    with tempfile.TemporaryDirectory(prefix="falconq-bench-") as directory:
        async with Http() as http:
            cluster = Cluster(Path(directory) / "cluster", http)
            try:
                cluster.start()
                await cluster.wait_ready()
                bench = Bench(http, cluster, seconds)
                for number in range(RUNS):
                    leader = await cluster.leader()
                    follower = (await cluster.followers())[0]
                    nodes = {"leader": leader, "follower": follower}
                    for name, node in nodes.items():
                        bench.note(f"publish to the {name}", await bench.publish(node, leader))
                    for name, node in nodes.items():
                        bench.note(f"consume from the {name}", await bench.consume(node, number))
                    for name, node in nodes.items():
                        bench.note(f"steady to the {name}", await bench.steady(node))
                return bench.medians()
            finally:
                cluster.close()


def table(figures: dict[str, Figures], *, load: float) -> str:
    """The figures as Markdown; `load` is what else the machine had to do before."""
    what = {
        "publish": f"{CONNECTIONS} connections, {MESSAGE_BYTES}-byte messages, one a request",
        "consume": f"4 connections, two to a consumer, {BATCH} messages a request",
        "steady": f"{STEADY_PER_SECOND} publishes a second",
    }
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d', time.gmtime())}"
    lines = [
        f"{machine}, load average {load:.1f} before; medians of {RUNS} runs.",
        "",
        "| what | how | messages/s | p50 ms | p99 ms | syncs/s (leader) | messages per command |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in figures.items():
        syncs = f"{row['syncs']:.0f}" if "syncs" in row else ""
        per_command = f"{row['per_command']:.1f}" if "per_command" in row else ""
        cells = [name, what[name.split()[0]], f"{row['rate']:.0f}", f"{row['p50']:.1f}", f"{row['p99']:.1f}"]
        lines.append(f"| {' | '.join([*cells, syncs, per_command])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a cluster of three nodes on this machine.")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each run")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    figures = table(asyncio.run(run(options.seconds)), load=load)
    sys.stdout.write(f"\n{figures}\n")
    if options.write:
        text = DOCUMENT.read_text()
        head, _, rest = text.partition(BEGIN)
        DOCUMENT.write_text(f"{head}{BEGIN}\n{figures}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
