"""One node as an operating system process.

What lives here: starting `falconq serve` with a node's arguments, signals by pid, its log and its data directory.
Rules: a process never outlives the tests (it gets SIGKILL when they die); ports lie below the range that the system
gives to clients, so that a restarted node finds its ports free; settings go in by the environment, none is inherited.
Must not know: what the answers of a node mean.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from falconq_cluster.raft.replica import POINTER

SECRET = "not-a-secret-outside-of-these-tests"
STOP_SECONDS = 20.0
LOG_TAIL_BYTES = 6000
PORTS = range(15_000, 32_000)


def free_ports(count: int, *, taken: Iterable[int] = ()) -> list[int]:
    """Ports that nobody listens on now and that the system gives to no client."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(PORTS)
        if port in found or port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


def node_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a node: ours without any setting, and then these."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FALCONQ_")}
    environment["FALCONQ_CLUSTER_SECRET"] = SECRET
    environment.update({f"FALCONQ_{name.upper()}": str(value) for name, value in settings.items()})
    return environment


@dataclass(slots=True)
class Node:
    """One member: where it listens, where its data is, and its process while it runs."""

    name: str
    directory: Path
    http_port: int
    raft_port: int
    peers: dict[str, int] = field(default_factory=dict)
    """Port on which this node reaches each member; empty: a node alone."""
    settings: dict[str, object] = field(default_factory=dict)
    wrapper: list[str] = field(default_factory=list)
    """A command that the node runs under, for example strace."""
    preload: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    is_paused: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def data(self) -> Path:
        return self.directory / self.name

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def hang_file(self) -> Path:
        """While it exists, every sync of this node hangs (with the shim preloaded)."""
        return self.directory / f"{self.name}.hang"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def store(self) -> Path:
        """The directory of the LevelDB that is in use."""
        pointer = self.data / "store" / POINTER
        return pointer.with_name(pointer.read_text() if pointer.exists() else "0")

    def command(self) -> list[str]:
        arguments = ["serve", "--node-id", self.name, "--data-dir", str(self.data)]
        arguments += ["--http-address", f"127.0.0.1:{self.http_port}"]
        if self.peers:
            arguments += ["--raft-address", f"127.0.0.1:{self.raft_port}"]
            arguments += ["--peers", ",".join(f"{name}=127.0.0.1:{port}" for name, port in self.peers.items())]
        return [*self.wrapper, sys.executable, "-m", "falconq_cluster", *arguments]

    def start(self, **environment: str) -> None:
        """Start the process; what it prints goes to the node's log."""
        assert not self.is_running, f"{self.name} runs already"
        full = node_environment(self.settings)
        if self.preload is not None:
            full |= {"LD_PRELOAD": str(self.preload), "SYNC_SHIM_HANG": str(self.hang_file)}
        full |= environment
        dies_with_us = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*dies_with_us, *self.command()], env=full, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.is_paused = False

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        self.is_paused = False

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(STOP_SECONDS)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.send(signal.SIGCONT)
        self.is_paused = False

    def wipe(self) -> None:
        """Lose the disk."""
        assert not self.is_running
        shutil.rmtree(self.data, ignore_errors=True)

    def log_tail(self) -> str:
        if not self.log.exists():
            return "(never started)"
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
