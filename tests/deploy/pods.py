"""A kubelet and a StatefulSet controller, as far as pods of processes need them.

What lives here: starting pods from what was rendered, probing them, and restarting what ends or does not live.
Rules: command, environment, ports and probes are the rendered ones, nothing is added; each pod has a network and a
volume of its own. `close` ends every process by its pid.
Must not know: what a node answers beyond its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp

from tests.cluster.waiting import until
from tests.deploy.netns import PodNetwork
from tests.deploy.podspec import PodSpec, Probe, Resources, pod_spec
from tests.deploy.tools import ROOT, only

SECRETS = {"falconq-cluster-secret": {"secret": "made-for-this-test"}}
MOUNT = (
    'mount -t tmpfs none "${1%/*}" && mkdir "$1" && mount --bind "$0" "$1" && shift && '
    'exec setpriv --pdeathsig KILL "$@"'
)
OK = range(200, 400)
KILL_SECONDS = 10.0


class Pod:
    """One pod: its process, and what the probes say."""

    def __init__(self, spec: PodSpec, network: PodNetwork, directory: Path, address: str) -> None:
        self.spec = spec
        self.address = address
        self.is_ready = False
        self.was_unready_since_start = False
        self.restart_count = 0
        self.exit_codes: list[int] = []
        self.volume = directory / spec.name
        self.log = directory / f"{spec.name}.log"
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.volume.mkdir(exist_ok=True)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.spec.ports['http']}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Run the container, and the probes on it, until `delete` or `kill`."""
        self._run()
        self._supervisor = asyncio.create_task(self._supervise())

    def _run(self) -> None:
        spec = self.spec
        words = [*self._network.enter(spec.name), "sh", "-c", MOUNT, str(self.volume), spec.mount, *spec.command]
        programs = Path(self.volume.parent) / "bin"
        environment = {**spec.environment, "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def delete(self) -> int:
        """As `kubectl delete pod`: out of the endpoints, preStop, SIGTERM, and SIGKILL after the grace period."""
        self.is_ready = False
        await self._stop_probing()
        await asyncio.sleep(self.spec.pre_stop_seconds)
        return await self._end(self.spec.grace_seconds - self.spec.pre_stop_seconds)

    async def kill(self) -> None:
        """The machine is gone."""
        self.is_ready = False
        await self._stop_probing()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, KILL_SECONDS)

    async def _stop_probing(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None

    async def _end(self, grace_seconds: float) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self.process.wait, grace_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = await asyncio.to_thread(self.process.wait, KILL_SECONDS)
        self.exit_codes.append(code)
        return code

    async def _supervise(self) -> None:
        """One container after another, as restartPolicy Always wants it."""
        while True:
            self.is_ready = self.was_unready_since_start = False
            probing = asyncio.create_task(self._probe_all())
            try:
                while not probing.done() and self.process.poll() is None:
                    await asyncio.wait({probing}, timeout=0.1)
                if probing.done():
                    await self._end(probing.result().grace_seconds)
                else:
                    self.exit_codes.append(self.process.returncode)
            finally:
                probing.cancel()
            self.restart_count += 1
            self._run()

    async def _probe_all(self) -> Probe:
        """Returns the probe that failed too often."""
        async with aiohttp.ClientSession() as session:
            startup = self.spec.probes["startup"]
            failures = 0
            while not await self._passes(session, startup):
                failures += 1
                if failures >= startup.failure_threshold:
                    return startup
                await asyncio.sleep(startup.period_seconds)
            reading = asyncio.create_task(self._keep_readiness(session))
            try:
                liveness = self.spec.probes["liveness"]
                failures = 0
                while failures < liveness.failure_threshold:
                    await asyncio.sleep(liveness.period_seconds)
                    failures = 0 if await self._passes(session, liveness) else failures + 1
                return liveness
            finally:
                reading.cancel()

    async def _keep_readiness(self, session: aiohttp.ClientSession) -> None:
        readiness = self.spec.probes["readiness"]
        failures = 0
        while True:
            if await self._passes(session, readiness):
                failures = 0
                self.is_ready = True
            else:
                failures += 1
                self.was_unready_since_start = True
                self.is_ready = self.is_ready and failures < readiness.failure_threshold
            await asyncio.sleep(readiness.period_seconds)

    async def _passes(self, session: aiohttp.ClientSession, probe: Probe) -> bool:
        limit = aiohttp.ClientTimeout(total=probe.timeout_seconds)
        # A connection of its own for each probe, as a kubelet does it.
        head = {"Connection": "close"}
        try:
            async with session.get(
                f"http://{self.address}:{probe.port}{probe.path}", timeout=limit, headers=head
            ) as answer:
                return answer.status in OK
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


class Pods:
    """The pods of one rendered StatefulSet."""

    def __init__(self, directory: Path, resources: Resources) -> None:
        self.directory = directory
        self.resources = resources
        self.network = PodNetwork()
        self.pods: dict[str, Pod] = {}
        programs = directory / "bin"
        programs.mkdir(parents=True)
        (programs / "falconq").write_text(
            f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m falconq_cluster "$@"\n'
        )
        (programs / "falconq").chmod(0o755)

    def add(self, ordinal: int) -> Pod:
        """Start the pod of this ordinal; a known one gets a new address, as a rescheduled pod does."""
        name = f"falconq-{ordinal}"
        service = only(self.resources, "StatefulSet")["spec"]["serviceName"]
        is_known = name in self.pods
        address = self.network.move(name) if is_known else self.network.add(name, names=[f"{name}.{service}"])
        spec = pod_spec(self.resources, name, secrets=SECRETS, address=address)
        pod = self.pods[name] = Pod(spec, self.network, self.directory, address)
        pod.start()
        return pod

    def start(self) -> list[Pod]:
        """All replicas at once."""
        return [self.add(ordinal) for ordinal in range(only(self.resources, "StatefulSet")["spec"]["replicas"])]

    async def wait_ready(self, pods: list[Pod], *, timeout: float = 60.0) -> float:
        """Waits until the probes of all say so; how long that took."""
        started = time.monotonic()

        async def probe() -> bool:
            return all(pod.is_ready for pod in pods)

        await until(f"{[pod.spec.name for pod in pods]} are ready", probe, timeout=timeout)
        return time.monotonic() - started

    async def close(self) -> None:
        for pod in self.pods.values():
            await pod.kill()
        self.network.close()
