"""A small network that delays, loses, damages, repeats and slows down packets between namespaces.

What lives here: a program of its own: one tun device in each namespace, and the packets between them.
Rules: only packets that a route leads into its device come here; all others take the kernel's bridge. It reads its
rules as JSON lines (`{"10.77.0.1>10.77.0.2": {"latency": s, "jitter": s, "loss": percent, ...}}`), and ends with its
input.
Must not know: nodes, TCP.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

DEVICE = "fqtun"
TUN_SET = 0x400454CA
TUN_NO_INFO = 0x1001
NEW_NETWORK = 0x40000000
HEADER_BYTES = 20
PACKET_BYTES_MAX = 65536


def open_device(namespace: str) -> int:
    """A tun device in the namespace, with its descriptor; the caller's namespace is that one afterwards."""
    descriptor = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    ctypes.CDLL(None).setns(descriptor, NEW_NETWORK)
    os.close(descriptor)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUN_SET, struct.pack("16sH22x", DEVICE.encode(), TUN_NO_INFO))
    return device


class Network:
    """Packets on their way."""

    def __init__(self, devices: dict[str, int]) -> None:
        self.devices = devices
        self.rules: dict[str, dict[str, Any]] = {}
        self._due: list[tuple[float, int, int, bytes]] = []
        self._numbers = count()
        self._free: dict[str, float] = {}
        self._chance = random.Random(1)  # noqa: S311

    def take(self, packet: bytes, now: float) -> None:
        """Decide what becomes of a packet."""
        if len(packet) < HEADER_BYTES or packet[0] >> 4 != 4:  # noqa: PLR2004
            return
        source = ".".join(map(str, packet[12:16]))
        target = ".".join(map(str, packet[16:20]))
        device = self.devices.get(target)
        if device is None:
            return
        link = f"{source}>{target}"
        rule = self.rules.get(link, {})
        chance = self._chance
        if chance.random() * 100 < rule.get("loss", 0):
            return
        if chance.random() * 100 < rule.get("corrupt", 0):
            damaged = bytearray(packet)
            damaged[chance.randrange(HEADER_BYTES, len(packet)) if len(packet) > HEADER_BYTES else 0] ^= (
                1 << chance.randrange(8)
            )
            packet = bytes(damaged)
        due = now + max(0.0, rule.get("latency", 0.0) + chance.uniform(-1, 1) * rule.get("jitter", 0.0))
        rate = rule.get("rate", 0)
        if rate:
            begin = max(now, self._free.get(link, 0.0))
            if (begin - now) * rate > rule["limit"]:
                return
            self._free[link] = due = begin + len(packet) / rate
        copies = 2 if chance.random() * 100 < rule.get("duplicate", 0) else 1
        for _ in range(copies):
            heapq.heappush(self._due, (due, next(self._numbers), device, packet))

    def send(self, now: float) -> float | None:
        """Hand over what is due; seconds until the next one."""
        while self._due and self._due[0][0] <= now:
            _, _, device, packet = heapq.heappop(self._due)
            try:
                os.write(device, packet)
            except OSError:  # a device whose queue is full loses packets, as any network does
                continue
        return max(0.0, self._due[0][0] - now) if self._due else None


def main() -> None:
    """Serve the devices that the arguments name, as NAMESPACE=ADDRESS."""
    devices = {}
    for word in sys.argv[1:]:
        namespace, _, address = word.partition("=")
        devices[address] = open_device(namespace)
    network = Network(devices)
    print("ready", flush=True)  # noqa: T201
    watched = [0, *devices.values()]
    while True:
        readable, _, _ = select.select(watched, [], [], network.send(time.monotonic()))
        if 0 in readable:
            line = sys.stdin.buffer.readline()
            if not line:
                return
            network.rules = json.loads(line)
        for device in readable:
            for _ in range(64) if device else ():
                try:
                    packet = os.read(device, PACKET_BYTES_MAX)
                except BlockingIOError:
                    break
                network.take(packet, time.monotonic())


if __name__ == "__main__":
    main()
