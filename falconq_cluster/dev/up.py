"""`falconq dev up`: a cluster in the foreground, with words about what to try.

What lives here: what people see, the demo, the wait for Ctrl-C.
Rules: whatever happens, the nodes are stopped before this returns. The demo uses a topic of its own.
Must not know: how nodes are started and stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from falconq_cluster.dev.cluster import OK, POLL_SECONDS, LocalCluster, LocalNode
from falconq_cluster.dev.http import call

DEMO_TOPIC = "demo"
DEMO_MESSAGES = (("water the plants", "low"), ("order paper", "low"), ("the house is on fire", "high"))


class _Stopped(Exception):
    """A signal asked to stop."""


def up(cluster: LocalCluster, console: Console, *, demo: bool) -> int:
    """Runs the cluster until Ctrl-C or SIGTERM; returns the exit code."""
    code = 0
    with _stop_signals():
        try:
            code = _run(cluster, console, demo=demo)
        except _Stopped:
            console.print("\nStopping …")
        finally:
            _ignore_signals()
            for node in cluster.stop():
                console.print(f"[yellow]{node.name} did not stop in time and was killed[/]")
                code = 1
    console.print("All nodes have stopped; their data stays.")
    return code


def _run(cluster: LocalCluster, console: Console, *, demo: bool) -> int:
    with console.status(f"Starting {len(cluster.nodes)} nodes …"):
        cluster.start()
        failed = cluster.wait_ready()
    if failed is not None:
        console.print(f"[red]{failed.name} is not ready[/] (exit code {failed.exit_code}). Its log ends with:")
        console.print(escape(failed.log_tail()), highlight=False, soft_wrap=True)
        return 1
    _show_nodes(cluster, console)
    if demo and not _show_demo(cluster, console):
        return 1
    _show_next(cluster, console)
    return _watch(cluster, console)


def _show_nodes(cluster: LocalCluster, console: Console) -> None:
    leader = cluster.leader()
    table = Table(title="FalconQ Cluster", title_justify="left")
    for column in ("node", "role", "HTTP", "Raft", "pid"):
        table.add_column(column, no_wrap=True)
    for node in cluster.nodes:
        role = "leader" if node.name == leader else "follower"
        http, raft = f"http://127.0.0.1:{node.http_port}", f"127.0.0.1:{node.raft_port}"
        table.add_row(node.name, role, http, raft, str(node.pid))
    console.print(table)
    console.print(f"Data and logs: {cluster.nodes[0].directory.parent}", highlight=False, soft_wrap=True)


def _show_demo(cluster: LocalCluster, console: Console) -> bool:
    """Publishes through every node, consumes through the last one; whether all of it worked."""
    console.print(f"\n[bold]Demo[/]: publish to topic '{DEMO_TOPIC}', each message through another node")
    for number, (text, priority) in enumerate(DEMO_MESSAGES):
        node = cluster.nodes[number % len(cluster.nodes)]
        body: dict[str, object] = {"message": text, "priority": priority}
        reply = call("POST", node.http_port, f"/topic/{DEMO_TOPIC}/publish", body)
        if reply.status != OK:
            return _report_failure(console, node, reply.body)
        console.print(f"  {node.name} → offset {reply.body['offset']}, {priority}: {text}")
    node = cluster.nodes[-1]
    console.print(f"Consume through {node.name}: urgent ones first")
    query = f"consumerID={DEMO_TOPIC}&batch={len(DEMO_MESSAGES)}"
    reply = call("GET", node.http_port, f"/topic/{DEMO_TOPIC}/consume?{query}")
    if reply.status != OK:
        return _report_failure(console, node, reply.body)
    for message in reply.body["messages"]:
        console.print(f"  {node.name} ← offset {message['offset']}, {message['priority']}: {message['message']}")
    return True


def _report_failure(console: Console, node: LocalNode, problem: dict[str, object]) -> bool:
    console.print(f"[red]{node.name} refused:[/] {escape(str(problem.get('detail', 'no answer')))}")
    return False


def _show_next(cluster: LocalCluster, console: Console) -> None:
    first, last = cluster.nodes[0].http_port, cluster.nodes[-1].http_port
    header = "-H 'Content-Type: application/json'"
    body = """-d '{"message": "hello", "priority": "high"}'"""
    lines = [
        f"curl -X POST http://127.0.0.1:{first}/topic/orders/publish {header} {body}",
        f"curl 'http://127.0.0.1:{last}/topic/orders/consume?consumerID=me&batch=10'",
        f"curl http://127.0.0.1:{first}/v1/cluster",
    ]
    console.print("\n[bold]Try next[/], on any of the nodes:")
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    leader = next((node for node in cluster.nodes if node.name == cluster.leader()), None)
    if leader is not None and len(cluster.nodes) > 2:  # noqa: PLR2004 (a majority must be left)
        console.print(f"  kill -9 {leader.pid}   # the leader; the others go on", highlight=False)
    console.print("\nCtrl-C stops all nodes.")


def _watch(cluster: LocalCluster, console: Console) -> int:
    """Says which node ended; returns when none is left."""
    running = list(cluster.nodes)
    while running:
        for node in [node for node in running if node.exit_code is not None]:
            running.remove(node)
            console.print(f"[yellow]{node.name} ended with code {node.exit_code}[/]; its log: {node.log_file}")
        time.sleep(POLL_SECONDS)
    return 1


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Turns the signals that end a foreground program into an exception, and back afterwards."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Stopped

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """A second Ctrl-C must not leave nodes behind; stopping is bounded anyway."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
