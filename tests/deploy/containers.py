"""The image, built here, and containers of it on a network of their own.

What lives here: podman with storage and networks under one directory, a base image without a registry, and one
container as a node that clients reach.
Rules: nothing is shared with what else podman has on this machine, and `close` removes all of it. The Dockerfile is
built as it stands; only what its FROM names is made here, from Debian's packages.
Must not know: what a node answers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deploy.tools import ROOT, run, running, tool

BASE = "docker.io/library/python:3.11-slim-bookworm"
IMAGE = "localhost/falconq-cluster:test"
PACKAGES = "python3,python3-venv,python3-pip,python-is-python3,ca-certificates"
QUICK = "--dpkgopt=force-unsafe-io"
"""Nothing of it need survive a power loss."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=16384:16384"]
"""
NEEDED = ("podman", "runc", "mmdebstrap", "iptables")
HARDENED = (
    *("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--memory", "512m", "--cpus", "1", "--pids-limit", "100"),
)


class Podman:
    """One podman, apart from all others."""

    def __init__(self, directory: Path) -> None:
        for name in NEEDED:
            tool(name)
        self.directory = directory
        self.network = f"fq{os.getpid()}{random.randrange(1000):03}"
        directory.mkdir(parents=True)
        (directory / "containers.conf").write_text(CONF)
        self._words = [
            *(tool("podman"), "--root", str(directory / "storage"), "--runroot", str(directory / "run")),
            *("--network-config-dir", str(directory / "networks"), "--runtime", "runc"),
        ]
        self._environment = {**os.environ, "CONTAINERS_CONF": str(directory / "containers.conf")}

    def __call__(self, *words: str, timeout: float = 120.0) -> str:
        """What it prints; asserts that it exits 0."""
        done = self.attempt(*words, timeout=timeout)
        assert done.returncode == 0, f"podman {' '.join(words)} exited with {done.returncode}:\n{done.stderr}"
        return done.stdout.strip()

    def attempt(self, *words: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._words, *words],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def serving(self, socket: Path) -> AbstractContextManager[None]:
        """Within it a process answers on the socket as docker does."""
        words = [*self._words, "system", "service", "--time", "0", f"unix://{socket}"]
        return running(words, env=self._environment)

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self("inspect", name))
        return dict(found)

    def make_base(self) -> None:
        """What the Dockerfile's FROM names, since no registry need be reachable: Debian with its Python."""
        root = self.directory / "root.tar"
        run(tool("mmdebstrap"), "--quiet", "--variant=minbase", QUICK, f"--include={PACKAGES}", "bookworm", root)
        # Debian's mark that pip must leave its packages alone; the official image has none.
        run("tar", "--delete", "-f", root, "./usr/lib/python3.11/EXTERNALLY-MANAGED")
        self("import", str(root), BASE)
        root.unlink()

    def build(self) -> None:
        self(
            *("build", "--format", "docker", "--pull-never", "--network=host"),
            *(("-v", f"{CERTIFICATES}:{CERTIFICATES}:ro") if Path(CERTIFICATES).exists() else ()),
            *("-f", "deploy/docker/Dockerfile", "-t", IMAGE, "."),
            timeout=300,
        )

    def close(self) -> None:
        """Remove containers, networks and storage."""
        with ExitStack() as steps:  # In reverse, and each also when one before it took too long.
            steps.callback(shutil.rmtree, self.directory, ignore_errors=True)
            steps.callback(self.attempt, "rmi", "--all", "--force")
            steps.callback(self.attempt, "network", "rm", "--force", self.network)
            steps.callback(self.attempt, "rm", "--all", "--force", "--time", "0")


@dataclass(slots=True)
class Container:
    """One node in a container."""

    podman: Podman
    name: str
    environment: dict[str, str] = field(default_factory=dict)
    address: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.address}:8080"

    def run(self, *words: str) -> None:
        """Start it as a hardened container, on the network under its name."""
        settings = [word for item in self.environment.items() for word in ("--env", "=".join(item))]
        place = ("--name", self.name, "--hostname", self.name, "--volume", f"{self.name}:/var/lib/falconq")
        self.podman("run", "--detach", *place, *HARDENED, *words, *settings, IMAGE)

    def join(self, network: str) -> tuple[str, ...]:
        return ("--network", network, "--network-alias", self.name)

    def find(self) -> None:
        """Look up the present address."""
        networks = self.podman.inspect(self.name)["NetworkSettings"]["Networks"]
        self.address = networks[self.podman.network]["IPAddress"] if self.podman.network in networks else ""

    def leave_network(self) -> None:
        self.podman("network", "disconnect", "--force", self.podman.network, self.name)

    def rejoin_network(self) -> None:
        """With an address that nobody had before; it is running or stopped."""
        number = 100 + random.randrange(100)
        old = self.address.rpartition(".")
        address = f"{old[0]}.{number if str(number) != old[2] else number + 1}"
        self.podman("network", "connect", "--ip", address, "--alias", self.name, self.podman.network, self.name)
        self.address = address

    def start(self) -> None:
        self.podman("start", self.name)
        self.find()

    def stop(self, grace_seconds: int) -> tuple[int, float]:
        """SIGTERM, and SIGKILL after the grace period; exit code, and how long it took."""
        started = time.monotonic()
        self.podman("stop", "--time", str(grace_seconds), self.name)
        return self.exit_code, time.monotonic() - started

    @property
    def exit_code(self) -> int:
        return int(self.podman.inspect(self.name)["State"]["ExitCode"])

    @property
    def log(self) -> str:
        done = self.podman.attempt("logs", self.name)
        return done.stdout + done.stderr


def cluster_of(podman: Podman, *names: str) -> list[Container]:
    """Nodes that know each other by name; not started."""
    peers = ",".join(f"{name}={name}:7000" for name in names)
    shared = {
        "FALCONQ_PEERS": peers,
        "FALCONQ_RAFT_ADDRESS": "0.0.0.0:7000",
        "FALCONQ_INSECURE": "true",
        "FALCONQ_CLUSTER_SECRET": "made-for-this-test",
    }
    return [Container(podman, name, {**shared, "FALCONQ_NODE_ID": name}) for name in names]
