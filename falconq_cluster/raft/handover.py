"""Handing leadership over: to whoever can take it, or to the member that somebody asks for.

What lives here: the transfer of a leader, and the wish for one that any member passes on.
Rules (PROTOCOL.md P6): only a connected member that counts and holds the whole log is offered the leadership, and this
node takes no commands until it is gone or its time is over. An offer that is not taken changes nothing. Whether it was
taken is seen, not believed: a wish is fulfilled when the wished member leads.
Must not know: why leadership is to move, the library's messages.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.raft.core import Core
from falconq_cluster.raft.frames import Frame, TransferWanted
from falconq_cluster.raft.leading import Leading
from falconq_cluster.raft.voting import Voting

TRANSFER_MS = 1500
"""How long a leader waits for somebody to take over; as long as clients wait for an election at the worst."""
POLL_MS = 5

Told = Callable[[bool], None]


class Handover:
    """Moves leadership, from this node or through it."""

    def __init__(
        self,
        core: Core,
        leading: Leading,
        voting: Voting,
        live_leader: Callable[[], str | None],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._core = core
        self._leading = leading
        self._voting = voting
        self._live_leader = live_leader
        self._is_stopped = is_stopped

    def begin(self, done: Told, *, to: str | None = None) -> None:
        """Hand over to a follower that holds the whole log, taking no commands meanwhile; `done(moved)` in the end.

        With `to` only that member may take over; when it could not, nothing is held up for it.
        """
        core = self._core
        if not core.library.leads or not core.others or (to is not None and not self._may_take_over(to)):
            done(False)
            return
        deadline_ms = core.clock.monotonic_ms() + TRANSFER_MS
        self._leading.is_handing_over = True
        sent_to: list[str] = []

        def poll() -> None:
            if self._is_stopped() or not core.library.leads:
                done(not self._is_stopped())
                return
            if core.clock.monotonic_ms() >= deadline_ms:
                self._leading.is_handing_over = False
                done(False)
                return
            peer = self._leading.best_follower(to)
            if peer is not None and peer not in sent_to:
                sent_to.append(peer)
                core.log("leadership_offered", peer=peer, term=core.library.term)
                self._voting.send_timeout_now(peer)
            core.clock.call_later(POLL_MS, poll)

        poll()

    def move(self, to: str, done: Told) -> None:
        """Let `to` lead, whoever leads now; `done(leads)` as soon as it does, or when the time is over."""
        core = self._core
        deadline_ms = core.clock.monotonic_ms() + 2 * TRANSFER_MS
        asked: set[tuple[str, int]] = set()

        def poll() -> None:
            leader, term = self._live_leader(), core.library.term
            if leader == to or self._is_stopped() or core.clock.monotonic_ms() >= deadline_ms:
                done(leader == to and not self._is_stopped())
                return
            if leader is not None and (leader, term) not in asked:
                asked.add((leader, term))
                if leader == core.node_id:
                    self.begin(lambda _moved: None, to=to)
                else:
                    core.send(leader, TransferWanted(to))
            core.clock.call_later(POLL_MS, poll)

        poll()

    def wanted(self, peer: str, frame: Frame) -> None:
        """A member passes on that another one shall lead."""
        assert isinstance(frame, TransferWanted)  # by the handler table
        self._core.log("leadership_wanted", peer=peer, to=frame.to)
        if not self._leading.is_handing_over:
            self.begin(lambda _moved: None, to=frame.to)

    def _may_take_over(self, peer: str) -> bool:
        core = self._core
        return peer in core.others and core.membership.counts(peer) and core.network.is_connected(peer)
