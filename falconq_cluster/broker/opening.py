"""How an origin gets its epoch.

What lives here: the proposal of this node's opening, repeated until it is applied.
Rules (PROTOCOL.md P9): each start and each jump by a snapshot takes a new nonce; the epoch is the log index of the
entry that carries it. An opening under another nonce of this node is an earlier one that came late: it ended the
present epoch, so the node opens again.
Must not know: what is proposed under the epoch.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.broker.intake import Intake
from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.clock import Clock, Timer
from falconq_cluster.machine.commands import Command, CommandError, OpenOrigin, decode_command, encode_command
from falconq_cluster.machine.events import OriginOpened
from falconq_cluster.raft.frames import Propose
from falconq_cluster.raft.seams import RaftView

NONCE_BYTES = 16


class Opening:
    """Asks for an epoch and says when it has come."""

    def __init__(
        self,
        *,
        raft: RaftView,
        intake: Intake,
        clock: Clock,
        limits: BrokerLimits,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._raft = raft
        self._intake = intake
        self._clock = clock
        self._limits = limits
        self._random_bytes = random_bytes
        self._nonce = b""
        self._command = b""
        self._timer: Timer | None = None

    @property
    def is_open(self) -> bool:
        """Whether the latest opening is applied."""
        return bool(self._nonce) and not self._command

    def begin(self) -> None:
        """Ask for a new epoch."""
        self._nonce = self._random_bytes(NONCE_BYTES)
        self._command = encode_command(Command("", 0, 0, [OpenOrigin(self._raft.node_id, self._nonce)]))
        self._propose_and_repeat()

    def opened(self, event: OriginOpened) -> bool:
        """Whether the applied opening of this node is the latest one; if none is under way, another one begins."""
        if event.nonce == self._nonce:
            self._command = b""
            self.stop()
            return True
        if self.is_open:
            self.begin()
        return False

    def propose(self) -> None:
        """Propose the opening if it is not applied yet: there may be a leader now that does not have it."""
        if not self._command:
            return
        leader = self._raft.leader
        if self._raft.is_leader:
            self._intake.offer_opening(self._raft.node_id, self._command)
            self._raft.request_step()
        elif leader is not None and leader != self._raft.node_id:
            self._raft.send(leader, Propose(self._command))

    def stop(self) -> None:
        """Propose no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _propose_and_repeat(self) -> None:
        self.stop()
        self.propose()
        self._timer = self._clock.call_later(self._limits.open_retry_ms, self._propose_and_repeat)


def is_opening_of(node: str, data: bytes) -> bool:
    """Whether the command is the opening of this node and nothing else."""
    try:
        command = decode_command(data)
    except CommandError:
        return False
    return not command.origin and [type(o) for o in command.operations] == [OpenOrigin] and _node(command) == node


def _node(command: Command) -> str:
    operation = command.operations[0]
    return operation.node if isinstance(operation, OpenOrigin) else ""
