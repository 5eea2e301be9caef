"""Stories: short hand-written transcripts that a simulated cluster plays, with what must come of them.

What lives here: the few commands that a story is written in, and the stage that plays them.
Rules: a story is one command a line, comments begin with #; time passes only in `wait` and `expect`; the invariants
hold all the while, and at the end everything is healed, converges, and the log is replayed as after any run.
`leader` names whoever leads at that moment, a name given by `call` stays with its node.
Must not know: how nodes do it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.sim.clients import OPEN, Asked
from tests.sim.cluster import Host
from tests.sim.disk_speed import DiskSpeed
from tests.sim.nodes import RunningNode, controlled_library
from tests.sim.reads import OPEN as READ_OPEN
from tests.sim.reads import Read
from tests.sim.run import Run
from tests.sim.swarm import Profile
from tests.sim.world import US_PER_S, Violation

FOLDER = Path(__file__).parent / "stories"
QUIET = Profile(
    nodes=("n1", "n2", "n3"),
    chaos_ms=0,
    faults={},
    latency_us=500,
    jitter_us=300,
    slow_frames_share=0.0,
    bytes_per_s=10_000_000,
    disk=DiskSpeed(),
    publish_interval_ms=100,
    publishers=0,
    consumers=0,
    message_bytes_max=100,
    flush_entries=20,
    journal_keep_entries=0,
    segment_bytes=4096,
    snapshot_chunk_bytes=4000,
    is_wall_skewed=False,
)


class Stage:
    """Plays one story."""

    def __init__(self, seed: int = 1) -> None:
        self.run = Run(seed, 3, QUIET)
        self.world, self.cluster = self.run.world, self.run.cluster
        self._names: dict[str, str] = {}
        self._mark = 0
        self._read_mark = 0

    def play(self, text: str) -> None:
        """Raises: Violation, with the line of the story and the last events."""
        with controlled_library(self.world):
            for number, line in enumerate(text.splitlines(), start=1):
                words = line.partition("#")[0].split()
                if not words:
                    continue
                self.world.note("story", " ".join(words), "")
                try:
                    self._do(words)
                except Violation as violation:
                    transcript = "\n".join(self.world.trace.transcript(80))
                    raise Violation(f"{transcript}\nline {number}: {line.strip()}: {violation}") from violation

    def _do(self, words: list[str]) -> None:
        command: Callable[..., None] = getattr(self, f"_{words[0]}")
        command(*words[1:])

    def _host(self, name: str) -> Host:
        if name == "leader":
            host = self.run.leader()
            if host is None:
                raise Violation("nobody leads")
            return host
        return self.cluster.hosts[self._names.get(name, name)]

    def _hosts(self, names: tuple[str, ...]) -> list[Host]:
        if names == ("all",):
            return list(self.cluster.hosts.values())
        return [self._host(name) for name in names]

    def _pass(self, seconds: float, stop: Callable[[], bool] | None = None) -> bool:
        return self.world.run(self.world.now_us + int(seconds * US_PER_S), stop=stop)

    # What happens.

    def _start(self, *names: str) -> None:
        for host in self._hosts(names):
            self.cluster.start(host)

    def _wait(self, seconds: str) -> None:
        self._pass(float(seconds))

    def _call(self, name: str, new_name: str) -> None:
        self._names[new_name] = self._host(name).name

    def _call_followers(self, *new_names: str) -> None:
        """Give the two others names."""
        others = [name for name in self.cluster.hosts if name != self._host("leader").name]
        self._names.update(zip(new_names, others, strict=True))

    def _kill(self, *names: str) -> None:
        for host in self._hosts(names):
            self.cluster.crash(host, restart=False)

    def _unplug(self, *names: str) -> None:
        for host in self._hosts(names):
            self.cluster.crash(host, is_power_loss=True, restart=False)

    def _wipe(self, name: str) -> None:
        host = self._host(name)
        self.cluster.crash(host, restart=False)
        host.disk.wipe()
        host.is_lossy = True

    def _pause(self, name: str, seconds: str) -> None:
        self.cluster.pause(self._host(name), int(float(seconds) * US_PER_S))

    def _hand_over(self, name: str) -> None:
        """The leader lets a follower with the whole log lead, and lives on."""
        host = self._host(name)
        node = host.node
        assert isinstance(node, RunningNode)
        self.cluster.run_as(host, lambda: node.node.raft.transfer_leadership(lambda _moved: None))

    def _hang(self, name: str, seconds: str) -> None:
        self._host(name).speed.hung_until_us = self.world.now_us + int(float(seconds) * US_PER_S)

    def _fill(self, name: str) -> None:
        host = self._host(name)
        host.disk.bytes_max = host.disk.used_bytes
        host.disk_trouble_until_us = self.world.now_us + 60 * US_PER_S

    def _empty(self, name: str) -> None:
        self._host(name).disk.bytes_max = 1 << 40

    def _jump(self, name: str, seconds: str) -> None:
        host = self._host(name)
        host.wall_offset_us += int(seconds) * US_PER_S
        if host.process is not None:
            host.process.clock.wall_offset_us = host.wall_offset_us

    def _block(self, source: str, target: str) -> None:
        self.cluster.network.block(self._host(source).name, self._host(target).name)

    def _isolate(self, name: str) -> None:
        host = self._host(name)
        for other in self.cluster.hosts:
            if other != host.name:
                self.cluster.network.block(host.name, other)
                self.cluster.network.block(other, host.name)

    def _join(self, name: str) -> None:
        host = self._host(name)
        for other in self.cluster.hosts:
            if other != host.name:
                self.cluster.network.unblock(host.name, other)
                self.cluster.network.unblock(other, host.name)

    def _publish(self, count: str, via: str, deadline_s: str = "5") -> None:
        for _ in range(int(count)):
            self.run.clients.publish(self._host(via), _ignore, deadline_ms=int(float(deadline_s) * 1000))

    def _read(self, count: str, via: str, deadline_s: str = "5") -> None:
        """Linearizable reads."""
        for _ in range(int(count)):
            self.run.reads.read(self._host(via), int(float(deadline_s) * 1000), _ignore)

    # What must come of it.

    def _expect(self, what: str, *words: str) -> None:
        check: Callable[..., None] = getattr(self, f"_expect_{what}")
        check(*words)

    def _expect_leader(self, seconds: str, *not_names: str) -> None:
        barred = {self._host(name).name for name in not_names}

        def is_true() -> bool:
            leader = self.run.leader()
            node = None if leader is None else leader.node
            return (
                isinstance(node, RunningNode) and node.node.raft.is_leader and node.node.settings.node_id not in barred
            )

        if not is_true() and not self._pass(float(seconds), is_true):
            raise Violation(self.run.states())

    def _expect_elected(self, seconds: str) -> None:
        """Stops in the moment in which somebody leads, before what that node then sends can arrive anywhere."""
        if not self._pass(float(seconds), lambda: self.run.leader() is not None):
            raise Violation(self.run.states())

    def _expect_candidate(self, seconds: str, new_name: str) -> None:
        """Stops in the moment in which somebody asks for votes, and gives that node a name."""

        def candidates() -> list[str]:
            nodes = {host.name: host.node for host in self.cluster.live_hosts()}
            return [name for name, node in nodes.items() if isinstance(node, RunningNode) and node.is_candidate]

        if not self._pass(float(seconds), lambda: bool(candidates())):
            raise Violation(self.run.states())
        self._names[new_name] = candidates()[0]

    def _expect_nobody_leads(self, seconds: str) -> None:
        if self._pass(float(seconds), lambda: self.run.leader() is not None):
            raise Violation(self.run.states())

    def _expect_still(self, name: str) -> None:
        if self._host("leader").name != self._host(name).name:
            raise Violation(self.run.states())

    def _expect_state(self, name: str, state: str, seconds: str) -> None:
        def is_true() -> bool:
            node = self._host(name).node
            return isinstance(node, RunningNode) and node.node.raft.state() == state

        if not is_true() and not self._pass(float(seconds), is_true):
            raise Violation(self.run.states())

    def _expect_serving(self, seconds: str) -> None:
        """Every node that runs takes writes."""

        def is_true() -> bool:
            nodes = [host.node for host in self.cluster.live_hosts()]
            return all(isinstance(node, RunningNode) and node.is_serving for node in nodes)

        if not is_true() and not self._pass(float(seconds), is_true):
            raise Violation(self.run.states())

    def _expect_answers(self, *states: str) -> None:
        """All that was asked since the last such line is answered in one of these ways."""
        asked = self.run.clients.ledger.asked[self._mark :]
        self._mark += len(asked)
        self._pass(10, lambda: all(one.state != OPEN for one in asked))
        found = {one.state for one in asked}
        if not found or not found <= set(states):
            raise Violation(f"{len(asked)} answers: {', '.join(sorted(found))}; {self.run.states()}")

    def _expect_reads(self, *states: str) -> None:
        """All that was read since the last such line is shown, refused, or met with silence, as these words say."""
        reads = self.run.reads.made[self._read_mark :]
        self._read_mark += len(reads)
        self._pass(10, lambda: all(read.state != READ_OPEN for read in reads))
        found = {read.state for read in reads}
        if not found or not found <= set(states):
            raise Violation(f"{len(reads)} reads: {', '.join(sorted(found))}; {self.run.states()}")

    def _expect_convergence(self) -> None:
        """All heals; then what must be true after any run."""
        self.run.finish()


def stories() -> dict[str, str]:
    """name -> text of each story."""
    return {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.txt"))}


def _ignore(asked: Asked | Read) -> None:
    """It is remembered with the others."""
