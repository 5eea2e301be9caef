"""What is said and looked at every few milliseconds, whatever the disk does.

What lives here: keepalives, each member's word about itself, and the watch over the own disk (PROTOCOL.md P5 to P7).
Rules: heartbeats never wait for a step or a sync; a leader whose sync stalls steps down at once, and a suspect disk
is tried again although nothing has to be written.
Must not know: entries, votes.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.raft.core import Core
from falconq_cluster.raft.frames import Keepalive, KeepaliveReply, StaleTerm, Status
from falconq_cluster.raft.leading import Leading
from falconq_cluster.raft.membership import FORMING_STATUS_MS

DISK_PROBE_MS = 500


class Heartbeats:
    """The regular duties of one node."""

    def __init__(self, core: Core, leading: Leading, *, stepped_down: Callable[[], None]) -> None:
        self._core = core
        self._leading = leading
        self._stepped_down = stepped_down
        self._last_status: Status | None = None
        self._last_status_ms = 0
        self._probed_ms = 0

    def beat(self, *, is_syncing: bool) -> None:
        """Once every heartbeat_ms."""
        core = self._core
        if core.election.is_disk_stalled() and core.library.leads:
            core.log("leader_stepped_down", reason="its disk stalls", term=core.library.term)
            core.counters.step_downs += 1
            core.library.step_down()
            self._stepped_down()
        self._leading.beat()
        self._send_status()
        if not is_syncing:
            self._probe_disk()

    def _probe_disk(self) -> None:
        core = self._core
        now = core.clock.monotonic_ms()
        if core.election.is_disk_suspect and now - self._probed_ms >= DISK_PROBE_MS:
            self._probed_ms = now
            core.journal.touch()

    def _send_status(self) -> None:
        core = self._core
        status = core.membership.status(0)
        now = core.clock.monotonic_ms()
        is_repeat = status.forming and now - self._last_status_ms >= FORMING_STATUS_MS
        if status != self._last_status or is_repeat:
            self._last_status, self._last_status_ms = status, now
            core.send_to_others(core.membership.status(core.clock.wall_ms()))

    def status_received(self, peer: str, frame: Status) -> None:
        """A member's word about itself."""
        self._core.membership.heard_status(peer, frame)
        self._core.request_step()

    def keepalive_received(self, peer: str, frame: Keepalive) -> None:
        """A leader lives; answered at once, whatever the own disk does (P7)."""
        core = self._core
        library = core.library
        if frame.term < library.term:
            core.send(peer, StaleTerm(library.term))
            return
        if frame.term == library.term and library.leader is None and not library.leads:
            library.follow(peer)
        if frame.term == library.term and library.leader == peer:
            core.election.leader_heard()
            core.log_time.heard(frame.log_time_ms)
        core.send(peer, KeepaliveReply(frame.term, frame.round))
