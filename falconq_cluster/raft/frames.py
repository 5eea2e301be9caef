"""Every message between two members, as data.

What lives here: the frames, and their encoding (msgpack arrays whose first element is the frame's tag).
Rules: a tag and the order of fields are never reused or changed; new fields go to the end with a default. A frame
that cannot be decoded closes the connection: `FrameError`.
Must not know: sockets, PySyncObj.
"""

from __future__ import annotations

import msgspec

PROTOCOL_VERSION = 1


class FrameError(ValueError):
    """The bytes are not a frame of this protocol; says what is wrong."""


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="kind"):
    """The base of all frames."""


class Hello(Frame, frozen=True, tag=1):
    """Who is at the other end of a connection, sent once the secret is proven."""

    node: str
    cluster_id: str
    """Empty while the sender has not applied `formed`."""
    disk_id: str
    forming: bool
    restore_id: str
    """Empty, or the id of the recovered or restored data that the sender brings into forming."""
    members: dict[str, str]
    """member -> disk id on record as the sender has applied it ("" for a vacancy); member -> "" while forming."""
    record_index: int
    """Log index of the entry that last changed `members`; 0 while forming."""
    wall_ms: int
    version: int = PROTOCOL_VERSION
    http_address: str = ""
    """Where the sender serves clients, for /v1/cluster."""


class Append(Frame, frozen=True, tag=2):
    """Log entries after (`previous_index`, `previous_term`), or a heartbeat when there are none."""

    term: int
    epoch: int
    """Counts the leader's resets for this peer; echoed, so that a reset is not done twice (RAFT.md L1)."""
    previous_index: int
    previous_term: int
    commit_index: int
    entries: list[tuple[bytes, int, int]]
    """(command, index, term), contiguous."""


class AppendReply(Frame, frozen=True, tag=3):
    """What a follower holds, synced, after an Append."""

    term: int
    epoch: int
    next_index: int
    reset: bool
    success: bool
    applied_index: int
    applied_hash: bytes
    """Rolling hash of what the sender's machine wrote up to `applied_index` (PROTOCOL.md P18)."""


class RequestVote(Frame, frozen=True, tag=4):
    term: int
    last_index: int
    last_term: int
    is_transfer: bool


class Vote(Frame, frozen=True, tag=5):
    term: int


class PreVote(Frame, frozen=True, tag=6):
    """Would you vote for me at `term`? Changes nothing at the receiver."""

    term: int
    last_index: int
    last_term: int
    round: int


class PreVoteReply(Frame, frozen=True, tag=7):
    term: int
    round: int
    granted: bool


class Keepalive(Frame, frozen=True, tag=8):
    """The leader lives; promises nothing about the log."""

    term: int
    round: int
    log_time_ms: int


class KeepaliveReply(Frame, frozen=True, tag=9):
    term: int
    round: int


class StaleTerm(Frame, frozen=True, tag=10):
    """The receiver of an Append or Keepalive is at a higher term (PROTOCOL.md P6)."""

    term: int


class TimeoutNow(Frame, frozen=True, tag=11):
    """Campaign at once: the leader hands over."""

    term: int


class Status(Frame, frozen=True, tag=12):
    """A Hello's changing part, sent again whenever it changes."""

    cluster_id: str
    forming: bool
    restore_id: str
    members: dict[str, str]
    record_index: int
    wall_ms: int
    heard_all: bool
    """Sender has heard every configured member while all were forming (PROTOCOL.md P5)."""


class Forward(Frame, frozen=True, tag=13):
    """A command of the sender for the leader's log (PROTOCOL.md P9)."""

    epoch: int
    sequence: int
    command: bytes


class Expected(Frame, frozen=True, tag=14):
    """The leader needs `sequence` next from this origin; it dropped what came instead."""

    term: int
    epoch: int
    sequence: int


class Propose(Frame, frozen=True, tag=15):
    """A command without a sequence (an origin's opening); repeated until it is applied."""

    command: bytes


class FreshIndexQuery(Frame, frozen=True, tag=16):
    """Asks which index the leader has committed by now."""

    round: int


class FreshIndex(Frame, frozen=True, tag=17):
    round: int
    term: int
    index: int


class SnapshotOffer(Frame, frozen=True, tag=18):
    """The leader's log no longer reaches back to you: pull a snapshot."""

    term: int
    index: int
    """At least this index will be in the snapshot."""


class SnapshotFetch(Frame, frozen=True, tag=19):
    """Bulk: give me chunk `number` of transfer `transfer_id`; number 0 starts it."""

    transfer_id: int
    number: int


class SnapshotChunk(Frame, frozen=True, tag=20):
    """Bulk: consecutive pairs of the store; the last chunk is empty and carries the totals."""

    transfer_id: int
    number: int
    index: int
    term: int
    """(index, term) that the snapshot has applied."""
    pairs: list[tuple[bytes, bytes]]
    is_last: bool
    digest: bytes
    """blake2b-128 over all pairs so far."""


class SnapshotFailed(Frame, frozen=True, tag=21):
    """Bulk: the transfer is over without success; start again."""

    transfer_id: int
    reason: str


class SnapshotInstalled(Frame, frozen=True, tag=22):
    term: int
    index: int


class HashQuery(Frame, frozen=True, tag=23):
    """Asks what the rolling hash was at `index`."""

    index: int


class HashReply(Frame, frozen=True, tag=24):
    index: int
    digest: bytes
    """Empty when the sender no longer knows."""


class Diverged(Frame, frozen=True, tag=25):
    """The leader and a majority wrote something else than you up to `index`: stop."""

    index: int


class ReadIndexQuery(Frame, frozen=True, tag=26):
    """Asks for the commit index, once a quorum has confirmed that the receiver leads (PROTOCOL.md P17)."""

    round: int
    """Begins at chance in each process, so that no answer to an earlier process fits."""


class ReadIndex(Frame, frozen=True, tag=27):
    round: int
    index: int


class TransferWanted(Frame, frozen=True, tag=28):
    """Asks the leader to let another member lead."""

    to: str


AnyFrame = (
    Hello | Append | AppendReply | RequestVote | Vote | PreVote | PreVoteReply | Keepalive | KeepaliveReply | StaleTerm
    | TimeoutNow | Status | Forward | Expected | Propose | FreshIndexQuery | FreshIndex | SnapshotOffer | SnapshotFetch
    | SnapshotChunk | SnapshotFailed | SnapshotInstalled | HashQuery | HashReply | Diverged
    | ReadIndexQuery | ReadIndex | TransferWanted
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyFrame] = msgspec.msgpack.Decoder(AnyFrame)


def encode_frame(frame: Frame) -> bytes:
    """The frame's bytes, without a length prefix."""
    return _encoder.encode(frame)


def decode_frame(data: bytes | memoryview) -> AnyFrame:
    """The frame in `data`. Raises: FrameError."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"not a frame of protocol version {PROTOCOL_VERSION}: {error}"
        raise FrameError(message) from error
