"""What the raft shell needs from the outside, so that a process and a simulation can both give it.

What lives here: the protocols of the disk worker and of the peer network.
Rules: all callbacks run on the one loop thread; `send` never blocks and never raises for a lost peer.
Must not know: sockets, threads, PySyncObj.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from falconq_cluster.machine.machine import Applied
from falconq_cluster.raft.confirming import Told
from falconq_cluster.raft.frames import Frame, Hello


class DiskWorker(Protocol):
    """Runs blocking disk work off the loop, one job at a time, in order."""

    def submit(self, steps: Sequence[Callable[[], None]], done: Callable[[BaseException | None], None]) -> None:
        """Run the steps in order in the worker, then `done(error)` on the loop; the first error ends the job."""


class PeerEvents(Protocol):
    """What the network tells the node; implemented by the raft driver."""

    def peer_connected(self, peer: str, hello: Hello) -> None:
        """An authenticated connection to `peer` is up; it replaces any earlier one (whose frames no longer come)."""

    def peer_disconnected(self, peer: str) -> None:
        """The connection to `peer` is gone; frames in flight on it may be lost."""

    def frame_received(self, peer: str, frame: Frame) -> None:
        """`peer` sent `frame` over its present connection; frames of one connection come in order."""


class Network(Protocol):
    """Connections to the other members: one per peer, and a second one for bulk (snapshot) frames."""

    def send(self, peer: str, frame: Frame) -> None:
        """Queue the frame to the peer; dropped when there is no connection."""

    def send_bulk(self, peer: str, frame: Frame) -> None:
        """Queue the frame on the peer's second connection, opened when needed; dropped when there is none."""

    def is_connected(self, peer: str) -> bool:
        """Whether a connection to the peer is up."""


class RaftView(Protocol):
    """What the broker sees of consensus; implemented by the raft driver."""

    @property
    def node_id(self) -> str:
        """This member's name."""

    @property
    def is_leader(self) -> bool:
        """Whether this node leads and has applied the no-op of its term, so that it may take commands."""

    @property
    def leader(self) -> str | None:
        """Who leads as far as this node knows."""

    @property
    def term(self) -> int: ...

    @property
    def applied_index(self) -> int: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def is_serving(self) -> bool:
        """Formed, on record, caught up and not stopping: may take writes (P9)."""

    def log_time_ms(self) -> int:
        """Log time now: the leader's clock, or a follower's extrapolation; 0 when never heard (P11)."""

    def request_step(self) -> None:
        """Something waits in `Upcalls.collect`: run a step soon."""

    def ask_read_index(self, told: Told) -> None:
        """Leader: `told` gets this moment's commit index once a quorum has confirmed that this node still leads (P17).

        None when it does not lead, or stops to. `told` may be called at once.
        """

    def send(self, peer: str, frame: Frame) -> None:
        """Send a broker frame to a peer; dropped when not connected."""


class Upcalls(Protocol):
    """What consensus asks of and tells the broker; all on the loop thread, none may raise."""

    def collect(self, bytes_max: int) -> Sequence[bytes]:
        """Leader only, once a step: the encoded commands to append now, in order, of at most about `bytes_max`."""

    def applied(self, applied: Applied) -> None:
        """An entry took effect on this node, in log order; the store already shows it and nothing later (P13)."""

    def leadership_changed(self) -> None:
        """Leader, term or the connection to the leader changed; read `RaftView`."""

    def broker_frame(self, peer: str, frame: Frame) -> None:
        """A Forward, Expected, Propose, or a question for an index or its answer, came from `peer`."""

    def snapshot_installed(self) -> None:
        """State jumped to a later index; what was outstanding may or may not have been applied."""
