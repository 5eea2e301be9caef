"""Performs the faults of a plan on local processes.

What lives here: for each kind of Chaos Mesh, how it begins and how it ends here; `chaos/disks.py` has our own kind.
Rules: who is hit is drawn when the fault begins, with the run's own seed. Each begin returns its end; an end works in
any state of the nodes.
Must not know: the plan, the clients.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.disks import Disks
from chaos.experiment import Fault, duration, role_of
from chaos.impair import DEVICE
from chaos.place import CLIENT, Place
from chaos.pods import Pod

METHODS = {"READ": 1, "WRITE": 2, "FSYNC": 4}
End = Callable[[], None]
# Both end with the fault: by its end, and else with the run (pdeathsig). The hour is only a second bound.
BUSY = "while True: pass"
HOLD = "import sys, time; kept = bytearray(b'x' * int(sys.argv[1])); time.sleep(3600)"
UNITS = {"kbps": 1000 / 8, "mbps": 1_000_000 / 8, "gbps": 1_000_000_000 / 8}


def nothing() -> None:
    """The end of what ends itself."""


class Performer:
    """Begins and ends faults."""

    def __init__(self, place: Place, pods: dict[str, Pod], seed: int) -> None:
        self._place = place
        self._pods = pods
        self._chance = random.Random(seed)  # noqa: S311
        self._switch: subprocess.Popen[str] | None = None
        self._rules: dict[str, dict[str, Any]] = {}
        self.leader: str | None = None
        self.disks = Disks(self._chance)
        self._begins: dict[str, Callable[[dict[str, Any], list[str]], End]] = {
            "PodChaos": self._pod,
            "NetworkChaos": self._network,
            "IOChaos": self._disk,
            "TimeChaos": self._time,
            "StressChaos": self._stress,
            "DiskChaos": lambda spec, names: self.disks.begin(spec["action"], [pods[name] for name in names]),
        }

    def begin(self, fault: Fault) -> tuple[list[str], End]:
        """Who is hit, and how it ends."""
        names = self._select(fault.spec)
        return names, self._begins[fault.kind](fault.spec, names)

    @property
    def pods(self) -> list[Pod]:
        return list(self._pods.values())

    async def knows_leader(self) -> bool:
        return self.leader is not None

    def close(self) -> None:
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait(10)

    def _select(self, spec: dict[str, Any]) -> list[str]:
        role = role_of(spec)
        names = [name for name in self._pods if role is None or (name == self.leader) == (role == "leader")]
        return names if spec["mode"] == "all" else [self._chance.choice(names)]

    def _pod(self, spec: dict[str, Any], names: list[str]) -> End:
        pods = [self._pods[name] for name in names]
        for pod in pods:
            pod.is_held = spec["action"] == "pod-failure"
            pod.kill()

        def end() -> None:
            for pod in pods:
                pod.is_held = False

        return end

    def _pairs(self, spec: dict[str, Any], names: list[str]) -> set[tuple[str, str]]:
        """(sender, receiver) of all packets that are hit."""
        if "target" in spec:
            others = [name for name in self._select(spec["target"]) if name not in names or len(names) > 1]
        else:
            others = [*self._pods, CLIENT]
        to = {(name, other) for name in names for other in others if name != other}
        back = {(other, name) for name, other in to}
        return {"to": to, "from": back, "both": to | back}[spec.get("direction", "to")]

    def _network(self, spec: dict[str, Any], names: list[str]) -> End:
        pairs = self._pairs(spec, names)
        if spec["action"] == "partition":
            cuts = [(sender, ["OUTPUT", "-d", self._place.addresses[other], "-j", "DROP"]) for sender, other in pairs]
            for name, rule in cuts:
                self._place.inside(name, "iptables", "-w", "-A", *rule)

            def heal() -> None:
                for name, rule in cuts:
                    self._place.inside(name, "iptables", "-w", "-D", *rule)

            return heal
        impaired = _rule(spec)
        self._start_switch()
        links = [(sender, f"{self._place.addresses[sender]}>{self._place.addresses[other]}") for sender, other in pairs]
        self._rules |= {link: impaired for _, link in links}
        self._tell()
        for name, link in links:
            source, _, target = link.partition(">")
            self._place.inside(name, "ip", "route", "replace", f"{target}/32", "dev", DEVICE, "src", source)

        def end() -> None:
            for name, link in links:
                self._place.inside(name, "ip", "route", "del", f"{link.partition('>')[2]}/32", "dev", DEVICE)
                self._rules.pop(link, None)
            self._tell()

        return end

    def _start_switch(self) -> None:
        if self._switch is not None:
            return
        words = [f"{self._place.namespace(name)}={address}" for name, address in self._place.addresses.items()]
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "chaos.impair", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self._switch.stdout is not None
        assert self._switch.stdout.readline() == "ready\n"
        for name in self._place.addresses:
            self._place.inside(name, "ip", "link", "set", DEVICE, "up")
            self._place.inside(name, "sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{DEVICE}/rp_filter")

    def _tell(self) -> None:
        assert self._switch is not None
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(self._rules) + "\n")
        self._switch.stdin.flush()

    def _disk(self, spec: dict[str, Any], names: list[str]) -> End:
        methods = sum(METHODS[method] for method in spec["methods"])
        percent = int(spec.get("percent", 100))
        delay_us = int(duration(spec["delay"]) * 1e6) if spec["action"] == "latency" else 0
        errno = int(spec["errno"]) if spec["action"] == "fault" else 0
        mistake = spec.get("mistake") or {}
        pods = [self._pods[name] for name in names]
        for pod in pods:
            pod.set_disk(
                methods, percent, delay_us, errno, mistake.get("maxOccurrences", 0), mistake.get("maxLength", 0)
            )

        def end() -> None:
            for pod in pods:
                pod.set_disk()
                if mistake:  # a disk that changed what it was given is replaced, as an operator would
                    pod.kill()
                    pod.wipe()

        return end

    def _time(self, spec: dict[str, Any], names: list[str]) -> End:
        pods = [self._pods[name] for name in names]
        for pod in pods:
            pod.set_clock(duration(spec["timeOffset"]))

        def end() -> None:
            for pod in pods:
                pod.set_clock(0)

        return end

    def _stress(self, spec: dict[str, Any], names: list[str]) -> End:
        started: list[subprocess.Popen[bytes]] = []
        stressors = spec["stressors"]
        for name in names:
            inside = ["ip", "netns", "exec", self._place.namespace(name), "setpriv", "--pdeathsig", "KILL"]
            words = [[sys.executable, "-c", BUSY]] * stressors.get("cpu", {}).get("workers", 0)
            memory = stressors.get("memory")
            if memory is not None:
                size = int(memory["size"].removesuffix("MB")) * 1_000_000
                words += [[sys.executable, "-c", HOLD, str(size)]] * memory["workers"]
            for word in words:
                started.append(subprocess.Popen([*inside, *word]))
                group = self._place.cgroup(name)
                if group is not None:
                    (group / "cgroup.procs").write_text(str(started[-1].pid))

        def end() -> None:
            for process in started:
                process.kill()
                process.wait(10)

        return end


def _rule(spec: dict[str, Any]) -> dict[str, Any]:
    """What the switch does to a packet."""
    rule: dict[str, Any] = {}
    if "delay" in spec:
        rule["latency"] = duration(spec["delay"]["latency"])
        rule["jitter"] = duration(spec["delay"].get("jitter", "0s"))
    for name in ("loss", "corrupt", "duplicate"):
        if name in spec:
            rule[name] = float(spec[name][name])
    if "bandwidth" in spec:
        rate = spec["bandwidth"]["rate"]
        rule["rate"] = float(rate[:-4]) * UNITS[rate[-4:]]
        rule["limit"] = spec["bandwidth"]["limit"]
    return rule
