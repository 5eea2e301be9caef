"""Nodes as child processes of this one.

What lives here: starting, watching and stopping the nodes of a local cluster.
Rules: a node is a `falconq serve` like any other, told everything by flags and nothing by this process's environment.
Nodes are signalled by their own pid only. Their data stays when they stop.
Must not know: terminals, what clients do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from falconq_cluster.config import ENVIRONMENT_PREFIX
from falconq_cluster.dev.http import call

HTTP_PORT_BASE = 8081
RAFT_PORT_BASE = 7001
READY_SECONDS = 30.0
STOP_SECONDS = 15.0
"""A stopping node hands leadership over (2 s) and drains (5 s)."""
POLL_SECONDS = 0.05
LOG_TAIL_LINES = 10
OK = 200


@dataclass(slots=True)
class LocalNode:
    """One node of the cluster."""

    name: str
    http_port: int
    raft_port: int
    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log_file(self) -> Path:
        return self.directory.parent / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self.process is None else self.process.poll()

    def is_ready(self) -> bool:
        return call("GET", self.http_port, "/readyz").status == OK

    def log_tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])


class LocalCluster:
    """Nodes n1, n2, … on consecutive ports."""

    def __init__(self, *, count: int, data_dir: Path, http_port: int, raft_port: int) -> None:
        self.nodes = [
            LocalNode(f"n{number + 1}", http_port + number, raft_port + number, data_dir / f"n{number + 1}")
            for number in range(count)
        ]

    def start(self) -> None:
        """Starts all nodes; they are not ready yet."""
        peers = ",".join(f"{node.name}=127.0.0.1:{node.raft_port}" for node in self.nodes)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        for node in self.nodes:
            node.directory.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "falconq_cluster", "serve", "--node-id", node.name]
            command += ["--data-dir", str(node.directory), "--http-address", f"127.0.0.1:{node.http_port}"]
            command += ["--raft-address", f"127.0.0.1:{node.raft_port}", "--peers", peers]
            with node.log_file.open("ab") as log:
                # A session of its own: Ctrl-C in the terminal reaches this process alone, which then stops the nodes.
                node.process = subprocess.Popen(  # noqa: S603 (our own program)
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
                )

    def wait_ready(self) -> LocalNode | None:
        """Waits until all are ready; returns the first node that ended, or that is not ready in time."""
        deadline = time.monotonic() + READY_SECONDS
        for node in self.nodes:
            while not node.is_ready():
                ended = next((other for other in self.nodes if other.exit_code is not None), None)
                if ended is not None or time.monotonic() > deadline:
                    return ended or node
                time.sleep(POLL_SECONDS)
        return None

    def leader(self) -> str | None:
        """Who leads as the first node that answers knows."""
        for node in self.nodes:
            reply = call("GET", node.http_port, "/v1/cluster")
            if reply.status == OK:
                leader = reply.body.get("leader")
                return leader if isinstance(leader, str) else None
        return None

    def stop(self) -> list[LocalNode]:
        """SIGTERM to all, then waits; returns those that had to be killed."""
        running = [node for node in self.nodes if node.process is not None and node.process.poll() is None]
        for node in running:
            assert node.process is not None
            node.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        killed = []
        for node in running:
            assert node.process is not None
            try:
                node.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()
                killed.append(node)
        return killed
