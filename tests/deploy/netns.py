"""A network of pods: one namespace each, on one bridge, with names.

What lives here: making and removing namespaces, addresses, and the hosts file that all of them see.
Rules: everything is named after this test run and removed by `close`; a pod's address may change while it is stopped,
and its name then leads to the new one.
Must not know: what runs in a namespace.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

NETNS_FILES = Path("/etc/netns")


def ip(*words: str, is_checked: bool = True) -> None:
    subprocess.run(["ip", *words], check=is_checked, capture_output=True)


def _free_subnet() -> str:
    """The first three numbers of a network that no interface here has."""
    taken = subprocess.run(["ip", "-o", "-4", "address"], check=True, capture_output=True, text=True).stdout
    free = [subnet for number in range(1, 250) if f" {(subnet := f'10.213.{number}')}." not in taken]
    return random.choice(free)


class PodNetwork:
    """10.213.x.0/24 behind a bridge, which has its first address."""

    def __init__(self) -> None:
        self._tag = f"fq{os.getpid() % 100_000}{random.randrange(100):02}"
        self._subnet = _free_subnet()
        self._next = 10
        self._namespaces: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        ip("link", "add", self._tag, "type", "bridge")
        ip("address", "add", f"{self._subnet}.1/24", "dev", self._tag)
        ip("link", "set", self._tag, "up")

    def add(self, pod: str, *, names: list[str]) -> str:
        """A namespace for the pod, which is found under these names; its address."""
        number = len(self._namespaces)
        namespace = self._namespaces[pod] = f"{self._tag}-{number}"
        self._names[pod] = " ".join(names)
        outside, inside = f"{self._tag}h{number}", f"{self._tag}p{number}"
        ip("netns", "add", namespace)
        (NETNS_FILES / namespace).mkdir(parents=True)
        ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        ip("link", "set", outside, "master", self._tag, "up")
        ip("link", "set", inside, "netns", namespace)
        ip("-n", namespace, "link", "set", inside, "name", "eth0")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "link", "set", "eth0", "up")
        return self.move(pod)

    def move(self, pod: str) -> str:
        """Gives the pod another address, and tells all."""
        address = self._addresses[pod] = f"{self._subnet}.{self._next}"
        self._next += 1
        namespace = self._namespaces[pod]
        ip("-n", namespace, "address", "flush", "dev", "eth0")
        ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        lines = ["127.0.0.1 localhost", *(f"{self._addresses[name]} {self._names[name]}" for name in self._names)]
        for name in self._namespaces.values():
            # In place: a running pod has this very file mounted.
            (NETNS_FILES / name / "hosts").write_text("\n".join(lines) + "\n")
        return address

    def enter(self, pod: str) -> list[str]:
        """What a command is prefixed with to run in the pod's network."""
        return [shutil.which("ip") or "ip", "netns", "exec", self._namespaces[pod]]

    def close(self) -> None:
        for namespace in self._namespaces.values():
            ip("netns", "delete", namespace, is_checked=False)
            shutil.rmtree(NETNS_FILES / namespace, ignore_errors=True)
        ip("link", "delete", self._tag, is_checked=False)
