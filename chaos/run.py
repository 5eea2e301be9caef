"""One run: a cluster, its clients, the faults of some files one after the other, and the verdict.

What lives here: the order of a run, from the namespaces to the judge.
Rules: whatever happens, the place is left as it was found. The judge sees the history only after the cluster is whole
again; a cluster that does not become whole in a given time is an anomaly, and what it stores is judged all the same.
Must not know: what a fault does, what an anomaly is.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from chaos.experiment import Experiment, Fault, load, paced
from chaos.faults import End, Performer
from chaos.history import HistoryWriter, read_history
from chaos.judge import Verdict, judge_history
from chaos.judging.coverage import Wants
from chaos.judging.model import fold
from chaos.leasing import Queue
from chaos.place import Place
from chaos.pods import RAFT, Pod, build_shim
from chaos.report import write_report
from chaos.resources import Sample, pictures, watch, write_samples
from chaos.stores import digests
from chaos.workloads import Clients

NODES = ("n1", "n2", "n3")
START_SECONDS = 60.0
BROKEN_SECONDS = 30.0
"""So long clients are waited for when the cluster is not whole."""
WATCH_SECONDS = 0.1
ACKNOWLEDGED_MIN_PER_SECOND = 10
DIGEST_TRIES = 100
"""Entries that nobody asked for, such as ticks that forget old keys, go on: some nodes are often one behind."""
LOAD_OF_TURN = 100
"""Acknowledgements after each turn of an experiment that is performed a number of times; a repeat has its own."""


class Run:
    """A run in a place that is made already."""

    def __init__(self, place: Place, target: Path, seed: int, console: Console, patience: float) -> None:
        self.patience = patience
        self.place = place
        self.target = target
        self.seed = seed
        self.console = console

    async def until(self, what: str, probe: Callable[[], Awaitable[bool]], *, at_least: float = 0.0) -> None:
        """Wait until it is so. Raises: TimeoutError."""
        patience = max(self.patience, at_least)
        end = time.monotonic() + patience
        while not await probe():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {patience:.0f} s until {what}")
            await asyncio.sleep(WATCH_SECONDS)

    async def perform(self, experiments: Sequence[Experiment], seconds: float, times: int | None) -> Verdict:
        """All of them, each for so long, or so many times."""
        with HistoryWriter(self.target / "history.jsonl") as writer:
            pods = self._pods(experiments)
            clients = Clients({name: pod.url for name, pod in pods.items()}, writer, self.seed)
            queue = Queue(clients, self.seed)
            performer = Performer(self.place, pods, self.seed)
            supervisors = [asyncio.create_task(pod.supervise()) for pod in pods.values()]
            watchers: list[asyncio.Task[None]] = []
            samples: list[Sample] = []
            try:
                clients.open()
                await self.until("the cluster is ready", clients.are_ready, at_least=START_SECONDS)
                watchers.append(asyncio.create_task(self._watch(clients, performer)))
                watchers.append(asyncio.create_task(watch(list(pods.values()), samples)))
                await self.until("a leader is known", performer.knows_leader)
                clients.start(publishers=6, keyed=4, batches=2, consumers=2, readers=2)
                queue.start(publishers=2, workers=3)
                try:
                    for experiment in experiments:
                        await self._experiment(experiment, seconds, times, clients, performer)
                    await clients.finish()
                    await self.until("the cluster is whole again", clients.are_ready)
                    await clients.drain()
                    await queue.work_off()
                    await self.until("the nodes have applied the same", clients.have_converged)
                    await clients.store(NODES)
                except TimeoutError as error:
                    await self._end_broken(error, clients)
                clients.note("info", "dropped", index=performer.disks.dropped_bytes)
            finally:
                for task in (*supervisors, *watchers):
                    task.cancel()
                await asyncio.gather(*supervisors, *watchers, return_exceptions=True)
                performer.close()
                await clients.close()
                for pod in pods.values():
                    pod.kill()
                    if pod.log.exists():
                        shutil.copy(pod.log, self.target)
        history = fold(read_history(self.target / "history.jsonl"))
        verdict = judge_history(history, _wants(experiments, seconds, times))
        files = " ".join(str(experiment.path) for experiment in experiments)
        length = f"--seconds {seconds:g}" if times is None else f"--times {times}"
        again = f"python -m chaos run {files} {length} --seed {self.seed}"
        write_samples(self.target / "resources.csv", samples)
        write_report(self.target, history, verdict, repeat=again, pictures=pictures(samples))
        return verdict

    async def _end_broken(self, error: TimeoutError, clients: Clients) -> None:
        """The cluster is not whole: write down why, and what the nodes that are ready store."""
        self.console.print(str(error))
        clients.note("info", "not whole", detail=str(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(clients.finish(), BROKEN_SECONDS)
        ready = [node for node in NODES if await clients.is_ready(node)]
        with suppress(TimeoutError):
            await asyncio.wait_for(clients.store(ready), BROKEN_SECONDS)

    def _pods(self, experiments: Sequence[Experiment]) -> dict[str, Pod]:
        kinds = set().union(*(experiment.kinds for experiment in experiments))
        actions = set().union(*(experiment.disk_actions for experiment in experiments))
        preload = [build_shim(self.place.directory, "disk")] if "IOChaos" in kinds else []
        if "power-loss" in actions:
            preload.append(build_shim(self.place.directory, "platter"))
        if "TimeChaos" in kinds:
            preload.append(build_shim(self.place.directory, "clock"))
        peers = ",".join(f"{name}={self.place.addresses[name]}:{RAFT}" for name in NODES)
        settings = {"FALCONQ_REQUEST_TIMEOUT_MS": "4000"}
        pods = {name: Pod(name, self.place, peers, preload, settings) for name in NODES}
        if "full" in actions:
            for pod in pods.values():
                self.place.mount_small_disk(pod.disk)
        return pods

    async def _watch(self, clients: Clients, performer: Performer) -> None:
        """Who leads, by the highest term that a node knows."""
        while True:
            views = await asyncio.gather(*(clients.view(node) for node in NODES))
            known = [(view["term"], view["leader"]) for view in views if view is not None and view["leader"]]
            if known:
                leader = str(max(known)[1])
                if leader != performer.leader:
                    performer.leader = leader
                    clients.note("info", "leader", node=leader)
            await asyncio.sleep(WATCH_SECONDS)

    async def _experiment(
        self, experiment: Experiment, seconds: float, times: int | None, clients: Clients, performer: Performer
    ) -> None:
        begin = time.monotonic()
        acknowledged = len(clients.acknowledged)
        for turn in range(times or 1):
            await self._turn(experiment, turn, None if times else seconds, clients, performer)
            enough = partial(clients.have_more_than, len(clients.acknowledged) + LOAD_OF_TURN)
            await self.until("publishes are acknowledged again", enough)
        done = len(clients.acknowledged) - acknowledged
        moments = [begin, *clients.acknowledged[acknowledged:], time.monotonic()]
        gap = max(after - before for before, after in pairwise(moments))
        self.console.print(
            f"{experiment.name}: {time.monotonic() - begin:.1f} s, {done} acknowledged, "
            f"at most {gap:.2f} s without an acknowledgement"
        )
        async with clients.paused():
            await self._compare_stores(experiment.name, clients, performer)

    async def _compare_stores(self, name: str, clients: Clients, performer: Performer) -> None:
        """Write down a digest of each node's store, all at one applied index."""
        for _ in range(DIGEST_TRIES):
            await self.until("the nodes have applied the same", clients.have_converged)
            found = await asyncio.to_thread(digests, performer.pods)
            if found is not None:
                break
        else:
            raise TimeoutError(f"the nodes had not applied one index in any of {DIGEST_TRIES} moments after {name}")
        for node, digest in found.items():
            clients.note("info", "store", node=node, topic=name, detail=digest)

    async def _turn(
        self, experiment: Experiment, turn: int, seconds: float | None, clients: Clients, performer: Performer
    ) -> None:
        begin = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        for number, (at, step) in enumerate(paced(experiment, seconds)):
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            if isinstance(step, Fault):
                name = f"{experiment.name} {turn}.{number}"
                tasks.append(asyncio.create_task(self._fault(name, step, clients, performer)))
            else:
                await asyncio.gather(*tasks)
                await self.until("the cluster is ready", clients.are_ready)
        await asyncio.gather(*tasks)
        await asyncio.sleep(max(0.0, begin + (seconds or 0.0) - time.monotonic()))
        await self.until(f"the cluster is whole after {experiment.name}", clients.are_ready)

    async def _fault(self, name: str, fault: Fault, clients: Clients, performer: Performer) -> None:
        clients.note("info", "fault begins", detail=name, mode=fault.mode)
        end: End | None = None
        try:
            names, end = await asyncio.to_thread(performer.begin, fault)
            self.console.print(f"  {fault.mode} on {', '.join(names)} for {fault.seconds:.1f} s")
            await asyncio.sleep(fault.seconds or 1.0)
        finally:
            if end is not None:
                await asyncio.to_thread(end)
            clients.note("info", "fault ends", detail=name)


def _wants(experiments: Sequence[Experiment], seconds: float, times: int | None) -> Wants:
    each = int(seconds * ACKNOWLEDGED_MIN_PER_SECOND) if times is None else times * LOAD_OF_TURN // 2
    turns = times or 1
    return Wants(
        acknowledged_min=each * len(experiments),
        leader_changes_min=sum(experiment.changes_leader for experiment in experiments),
        faults_min=turns * len(experiments),
        digests_min=len(experiments),
        dropped_min=int(any("power-loss" in experiment.disk_actions for experiment in experiments)),
    )


def run(
    files: Sequence[Path],
    *,
    seconds: float,
    times: int | None,
    patience: float,
    seed: int | None,
    target: Path,
    console: Console,
) -> Verdict:
    """Perform the files, keep the history in the target, and judge it. Needs root."""
    experiments = [load(path) for path in files]
    target.mkdir(parents=True, exist_ok=True)
    drawn = random.SystemRandom().getrandbits(32) if seed is None else seed
    place = Place(list(NODES))
    try:
        place.enter()
        verdict = asyncio.run(Run(place, target, drawn, console, patience).perform(experiments, seconds, times))
    finally:
        place.close()
    lines = [*verdict.describe(), f"seed {drawn}"]
    (target / "verdict.txt").write_text("\n".join(lines) + "\n")
    for line in lines:
        console.print(line, markup=False, highlight=False)
    return verdict
