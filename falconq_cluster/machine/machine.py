"""The machine: log entries in, changes, results and events out.

What lives here: applying an entry, and what is not about one topic: origins, the cluster's members, log time.
Rules: the same entries give the same bytes on every node. `apply` writes nothing: the caller writes an entry's changes
in one batch, which also holds the applied index, before the next `apply`. Refusals are results; an exception is a bug,
and the process must stop. Log time never goes back. Order of dicts in memory never decides anything.
Must not know: clocks, chance, the disk, the log, who waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from falconq_cluster.machine import keys
from falconq_cluster.machine.amending import cancel_message, change_message
from falconq_cluster.machine.amends import CancelMessage, ChangeMessage
from falconq_cluster.machine.appending import append, append_many
from falconq_cluster.machine.appends import AppendMany, Ripen
from falconq_cluster.machine.capacity import Within, limits_within
from falconq_cluster.machine.commands import (
    AnyOperation,
    Append,
    Command,
    DeleteTopic,
    Done,
    Form,
    Header,
    LeasePull,
    OpenOrigin,
    Pull,
    Result,
    SetDisk,
    Settle,
    SetTopic,
    Trim,
    decode_command,
    decode_entry,
)
from falconq_cluster.machine.deduping import DROPPED_PER_COMMAND_MAX, drop_over
from falconq_cluster.machine.events import Event, MembersChanged, OriginOpened
from falconq_cluster.machine.keeping import Purge, TrimLevels
from falconq_cluster.machine.leasing import lease_pull, settle
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.managing import manage_consumer
from falconq_cluster.machine.pulling import pull
from falconq_cluster.machine.reaping import reap
from falconq_cluster.machine.redriving import redrive
from falconq_cluster.machine.retention import purge, trim_levels
from falconq_cluster.machine.ripening import ripen
from falconq_cluster.machine.rows import ClusterRow, MetaRow, OriginRow, decode_row, encode_row
from falconq_cluster.machine.state import OriginState, State, read_state
from falconq_cluster.machine.streaming import open_stream
from falconq_cluster.machine.subscriptions import (
    DeleteConsumer,
    OpenStream,
    PauseConsumer,
    Reap,
    Redrive,
    Seek,
    SetConsumer,
)
from falconq_cluster.machine.topics import delete_topic, set_topic
from falconq_cluster.machine.trimming import trim
from falconq_cluster.machine.turn import DIGEST_BYTES, Turn
from falconq_cluster.storage.store import Change, Reader

NO_OP = b"\x01"
"""The entry with which PySyncObj opens a leader's term."""

DEFAULT_LIMITS = MachineLimits()


@dataclass(frozen=True, slots=True)
class Applied:
    """What one entry did."""

    index: int
    term: int
    stamp_ms: int
    """Log time of the entry; 0 for a no-op, which has none."""
    header: Header | None
    """None for a no-op."""
    is_repeat: bool
    """The sequence is not the origin's next, or the epoch not its present one: nothing was changed (P9)."""
    results: list[Result]
    """One per operation; empty when is_repeat."""
    events: list[Event]
    changes: list[Change]
    """To be written in one batch; the last one is the meta row."""


def read_meta(reader: Reader) -> MetaRow:
    """How far a store has come; all zero for an empty one. Raises: CorruptionError."""
    value = reader.get(keys.META)
    return MetaRow(0, 0, 0, bytes(DIGEST_BYTES)) if value is None else decode_row(value, MetaRow)


class Machine:
    """The state at one index."""

    def __init__(self, reader: Reader, limits: MachineLimits, state: State, meta: MetaRow) -> None:
        self._reader = reader
        self._limits = limits
        self._state = state
        self._meta = meta

    @classmethod
    def load(cls, reader: Reader, limits: MachineLimits = DEFAULT_LIMITS) -> Machine:
        """The machine as the store left it; `reader` shows each entry's changes before the next `apply`.

        Raises: CorruptionError.
        """
        return cls(reader, limits, read_state(reader), read_meta(reader))

    @property
    def applied_index(self) -> int:
        return self._meta.applied_index

    @property
    def applied_term(self) -> int:
        """Term of the entry at the applied index."""
        return self._meta.applied_term

    @property
    def log_time_ms(self) -> int:
        """The highest stamp so far (P11)."""
        return self._meta.log_time_ms

    @property
    def digest(self) -> bytes:
        """Rolling hash of all that was written, 16 bytes (P18)."""
        return self._meta.digest

    @property
    def cluster_id(self) -> str:
        """Empty while the cluster is forming (P5)."""
        return self._state.cluster.cluster_id

    @property
    def members(self) -> dict[str, str]:
        """Disk ids of the members by name, "" for a vacancy; empty while forming."""
        return self._state.cluster.members

    @property
    def record_index(self) -> int:
        """Log index of the entry that last changed `members`; 0 while forming."""
        return self._state.cluster.record_index

    @property
    def limits(self) -> MachineLimits:
        return self._limits

    @property
    def state(self) -> State:
        """For reading only; holds until the next `apply`."""
        return self._state

    def origin(self, node: str) -> OriginState | None:
        """How far the node's commands are applied; None before its first epoch."""
        return self._state.origins.get(node)

    def apply(self, index: int, term: int, entry: bytes) -> Applied:
        """Take the next entry of the log. Raises: CommandError (not readable), ValueError (not the next index)."""
        if index != self.applied_index + 1:
            message = f"entry {index} can't be applied after {self.applied_index}"
            raise ValueError(message)
        if entry == NO_OP:
            turn = Turn(self._state, self._reader, self._limits, index, self.log_time_ms)
            return self._finish(turn, term, 0, None, [])
        stamp_ms, data = decode_entry(entry)
        command = decode_command(data)
        turn = Turn(self._state, self._reader, self._limits, index, max(stamp_ms, self.log_time_ms))
        header = Header(command.origin, command.epoch, command.sequence)
        if not self._is_next(turn, command):
            return self._finish(turn, term, turn.log_time_ms, header, None)
        results = [_apply_operation(turn, operation) for operation in command.operations]
        drop_over(turn, DROPPED_PER_COMMAND_MAX)
        return self._finish(turn, term, turn.log_time_ms, header, results)

    def _is_next(self, turn: Turn, command: Command) -> bool:
        if not command.origin:
            return True
        origin = self._state.origins.get(command.origin)
        if origin is None or origin.epoch != command.epoch or origin.last_sequence + 1 != command.sequence:
            return False
        origin.last_sequence = command.sequence
        turn.put(keys.origin_key(command.origin), _origin_row(origin))
        return True

    def _finish(
        self, turn: Turn, term: int, stamp_ms: int, header: Header | None, results: list[Result] | None
    ) -> Applied:
        turn.finish()
        self._meta = MetaRow(turn.index, term, turn.log_time_ms, turn.digest(self.digest))
        turn.changes.append((keys.META, encode_row(self._meta)))
        return Applied(
            index=turn.index,
            term=term,
            stamp_ms=stamp_ms,
            header=header,
            is_repeat=results is None,
            results=results or [],
            events=turn.events,
            changes=turn.changes,
        )


def _apply_operation(turn: Turn, operation: AnyOperation) -> Result:
    match operation:
        case Append():
            return append(turn, operation)
        case AppendMany():
            return append_many(turn, operation)
        case ChangeMessage():
            return change_message(turn, operation)
        case CancelMessage():
            return cancel_message(turn, operation)
        case Pull():
            return pull(turn, operation)
        case OpenOrigin():
            _open_origin(turn, operation)
        case Form():
            if not turn.state.cluster.cluster_id and operation.cluster_id:
                _change_members(turn, operation.cluster_id, dict(operation.members))
        case SetDisk():
            members = turn.state.cluster.members
            if operation.node in members and members[operation.node] != operation.disk_id:
                _change_members(turn, turn.state.cluster.cluster_id, {**members, operation.node: operation.disk_id})
        case SetTopic():
            return set_topic(turn, operation)
        case DeleteTopic():
            return delete_topic(turn, operation)
        case LeasePull():
            return lease_pull(turn, operation)
        case OpenStream():
            return open_stream(turn, operation)
        case Settle():
            return settle(turn, operation)
        case SetConsumer() | DeleteConsumer() | Seek() | PauseConsumer():
            return manage_consumer(turn, operation)
        case Redrive():
            return redrive(turn, operation)
        case Reap():
            reap(turn, operation)
        case Ripen():
            ripen(turn)
        case Within():
            turn.limits = limits_within(turn.limits, operation.capacity)
        case Trim():
            trim(turn)
        case TrimLevels():
            trim_levels(turn, operation)
        case Purge():
            return purge(turn, operation)
        case _:
            # A Tick has done its work by its stamp.
            pass
    return Done()


def _open_origin(turn: Turn, operation: OpenOrigin) -> None:
    origin = turn.state.origins.get(operation.node)
    if origin is not None and origin.nonce == operation.nonce:
        return
    origin = OriginState(epoch=turn.index, last_sequence=0, nonce=operation.nonce)
    turn.state.origins[operation.node] = origin
    turn.put(keys.origin_key(operation.node), _origin_row(origin))
    turn.events.append(OriginOpened(operation.node, origin.nonce, origin.epoch))


def _origin_row(origin: OriginState) -> OriginRow:
    return OriginRow(origin.epoch, origin.last_sequence, origin.nonce)


def _change_members(turn: Turn, cluster_id: str, members: dict[str, str]) -> None:
    turn.state.cluster = ClusterRow(cluster_id, members, turn.index)
    turn.put(keys.CLUSTER, turn.state.cluster)
    turn.events.append(MembersChanged())
