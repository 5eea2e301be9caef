"""What the rest of the node sees of consensus.

What lives here: `RaftView` for the broker, and the status and readiness that people and probes read.
Rules: ready means that the node is formed, on record, knows a leader and has caught up; each reason against it says
what to do. Nothing here changes anything but who leads (a transfer).
Must not know: HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.raft.confirming import Told
from falconq_cluster.raft.driver import RaftDriver
from falconq_cluster.raft.frames import Frame

LAG_ENTRIES_MAX = 2000
"""A node further behind than this is catching up, not serving."""


class NodeView:
    """Reads a driver; implements `RaftView`."""

    def __init__(self, driver: RaftDriver) -> None:
        self._driver = driver
        self._core = driver.core
        self._catch_up_index: int | None = None
        self.is_draining = False
        """Whether the node asks for no more clients; it still serves those that it has."""
        self.is_stopping = False

    # RaftView.

    @property
    def node_id(self) -> str:
        return self._core.node_id

    @property
    def is_leader(self) -> bool:
        return self._driver.leading.may_take_commands and not self._driver.is_stopped

    @property
    def leads(self) -> bool:
        """Whether this node is the elected leader, able to take commands or not yet."""
        return self._core.library.leads and not self._driver.is_stopped

    @property
    def leader(self) -> str | None:
        return None if self._driver.is_stopped else self._driver.live_leader

    @property
    def term(self) -> int:
        return self._core.library.term

    @property
    def applied_index(self) -> int:
        return self._core.replica.machine.applied_index

    @property
    def commit_index(self) -> int:
        return self._core.library.commit_index

    @property
    def is_serving(self) -> bool:
        return (
            not self.is_stopping
            and not self._driver.is_stopped
            and self._core.membership.self_counts()
            and self.is_caught_up
        )

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was committed when a leader was first heard, and nearly all since, is applied here."""
        core = self._core
        known = self._driver.replication.known_commit_index
        if not core.replica.machine.cluster_id or self._driver.installing.is_installing:
            return False
        if self._catch_up_index is None:
            if not core.library.leads and not self._driver.replication.has_heard_commit:
                return False
            self._catch_up_index = max(known, core.library.no_op_index)
        return self.applied_index >= self._catch_up_index and known - self.applied_index <= LAG_ENTRIES_MAX

    def log_time_ms(self) -> int:
        core = self._core
        reading = core.log_time.lead_ms() if core.library.leads else core.log_time.now_ms()
        return max(reading, core.replica.machine.log_time_ms) if reading else 0

    def request_step(self) -> None:
        self._driver.request_step()

    def ask_read_index(self, told: Told) -> None:
        self._driver.ask_read_index(told)

    def send(self, peer: str, frame: Frame) -> None:
        self._core.send(peer, frame)

    @property
    def is_record_durable(self) -> bool:
        """Whether what this node knows of the members survives a power loss.

        Until then it is not ready: a member whose disk was replaced would forget that it counts again, and if another
        disk went meanwhile, nobody could tell (P4).
        """
        replica = self._core.replica
        return replica.machine.record_index <= replica.flushed_index

    # Probes and people.

    def readiness(self) -> list[str]:
        """Why this node is not ready, each reason with what to do; empty when it is."""
        if self._driver.is_stopped or self.is_stopping or self.is_draining:
            return ["the node is stopping"]
        reasons = self._core.membership.explain()
        if not reasons and self.leader is None:
            reasons.append("no leader is known: an election is under way, or too few members are connected")
        if not reasons and self._driver.installing.is_installing:
            reasons.append("a snapshot is being installed")
        if not reasons and not self.is_record_durable:
            reasons.append("the record of the members is being written to disk")
        if not reasons and not self.is_caught_up:
            reasons.append("the node is catching up with the leader's log")
        return reasons

    def state(self) -> str:
        """One word: leader, candidate, follower, learner, forming or stopped."""
        core = self._core
        if self._driver.is_stopped:
            return "stopped"
        if core.library.leads:
            return "leader"
        if not core.membership.self_counts():
            return "learner"
        if core.membership.is_forming:
            return "forming"
        return "candidate" if core.library.is_candidate else "follower"

    def state_of(self, member: str) -> str:
        """What another member is as far as this node knows: leader, follower, learner, forming or unreachable."""
        core = self._core
        if not core.network.is_connected(member):
            return "unreachable"
        if self.leader == member:
            return "leader"
        if not core.membership.record().cluster_id:
            return "forming"
        return "follower" if core.membership.counts(member) else "learner"

    def lag_ms(self, member: str) -> int | None:
        """How long the member has not held all that this leader has committed; None when this node does not lead."""
        if not self._core.library.leads:
            return None
        return 0 if member == self.node_id else self._driver.replication.behind_ms(member)

    def is_connected(self, peer: str) -> bool:
        """Whether a connection to the member is up."""
        return peer == self.node_id or self._core.network.is_connected(peer)

    def http_address(self, member: str) -> str:
        """Where the member serves clients, "" when it was never heard."""
        return self._core.membership.http_address_of(member)

    @property
    def members(self) -> tuple[str, ...]:
        """All member ids, sorted."""
        return self._core.membership.members

    def match_index(self, peer: str) -> int | None:
        """The last index that the member is known to hold; None unless this node leads or it is this node."""
        if peer == self.node_id:
            return self._core.journal.synced_index
        return self._driver.replication.lag_of(peer) if self._core.library.leads else None

    def transfer_leadership(self, done: Callable[[bool], None]) -> None:
        """Hand over to a follower that holds the whole log, taking no commands meanwhile; `done(moved)` in the end."""
        self._driver.handover.begin(done)

    def move_leadership(self, to: str, done: Callable[[bool], None]) -> None:
        """Let this member lead, whoever leads now; `done(leads)` when it does, or when it did not in time."""
        self._driver.handover.move(to, done)
