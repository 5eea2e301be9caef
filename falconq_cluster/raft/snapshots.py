"""A whole store, from one node to another, in chunks over the bulk connection.

What lives here: serving chunks of a frozen store, and pulling them into a fresh one (PROTOCOL.md P8).
Rules: the puller asks for one chunk at a time, so neither side buffers more; a chunk that does not fit the running
digest ends the pull; nothing of the present store changes before the whole is verified. One pull at a time; a served
transfer that nobody asks for is closed.
Must not know: the library, the journal; what happens to a finished pull is the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from falconq_cluster.raft.frames import Frame, SnapshotChunk, SnapshotFailed, SnapshotFetch
from falconq_cluster.storage.store import Store, StoreSnapshot

KEY_SPACE_END = b"\xff" * 64
IDLE_MS = 10_000
"""A transfer without a request or chunk for this long is over."""


@dataclass(slots=True)
class _Serving:
    transfer_id: int
    snapshot: StoreSnapshot
    pairs: Iterator[tuple[bytes, bytes]]
    index: int
    term: int
    last_used_ms: int
    next_number: int = 0
    last_chunk: SnapshotChunk | None = None
    digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))


class SnapshotServer:
    """Serves frozen stores to pullers, one transfer a peer."""

    def __init__(
        self,
        *,
        freeze: Callable[[], tuple[StoreSnapshot, int, int]],
        send_bulk: Callable[[str, Frame], None],
        now_ms: Callable[[], int],
        chunk_bytes: int,
    ) -> None:
        self._freeze = freeze
        self._send_bulk = send_bulk
        self._now_ms = now_ms
        self._chunk_bytes = chunk_bytes
        self._serving: dict[str, _Serving] = {}
        self._pins: dict[str, tuple[int, int]] = {}

    def pinned_index(self) -> int | None:
        """The lowest index that a transfer brings: the journal must be kept from there.

        A transfer pins it for IDLE_MS beyond its last request too: until the puller has installed the snapshot and
        taken the first entries behind it, or it would need the next snapshot at once, for ever.
        """
        now = self._now_ms()
        self._pins = {peer: pin for peer, pin in self._pins.items() if now - pin[1] <= IDLE_MS}
        return min((index for index, _ in self._pins.values()), default=None)

    def fetch_received(self, peer: str, frame: SnapshotFetch) -> None:
        """Answer with the chunk asked for; chunk 0 of an unknown transfer starts it."""
        serving = self._serving.get(peer)
        if serving is None or serving.transfer_id != frame.transfer_id:
            if frame.number != 0:
                self._send_bulk(peer, SnapshotFailed(frame.transfer_id, "the transfer is not known here any more"))
                return
            serving = self._start(peer, frame.transfer_id)
        serving.last_used_ms = self._now_ms()
        self._pins[peer] = (serving.index, serving.last_used_ms)
        if frame.number == serving.next_number:
            serving.last_chunk = self._next_chunk(serving)
        if serving.last_chunk is not None and serving.last_chunk.number == frame.number:
            self._send_bulk(peer, serving.last_chunk)
            if serving.last_chunk.is_last:
                self._close(peer)

    def peer_lost(self, peer: str) -> None:
        """The peer is gone, and its transfer with it."""
        self._close(peer)

    def close_idle(self) -> None:
        """Close transfers that nobody asked for lately."""
        now = self._now_ms()
        for peer in [peer for peer, serving in self._serving.items() if now - serving.last_used_ms > IDLE_MS]:
            self._close(peer)

    def close(self) -> None:
        """Close all transfers."""
        for peer in list(self._serving):
            self._close(peer)

    def _start(self, peer: str, transfer_id: int) -> _Serving:
        self._close(peer)
        snapshot, index, term = self._freeze()
        pairs = snapshot.scan(b"", KEY_SPACE_END)
        serving = _Serving(transfer_id, snapshot, pairs, index, term, self._now_ms())
        self._serving[peer] = serving
        return serving

    def _next_chunk(self, serving: _Serving) -> SnapshotChunk:
        pairs: list[tuple[bytes, bytes]] = []
        size = 0
        is_last = True
        for key, value in serving.pairs:
            pairs.append((key, value))
            add_to_digest(serving.digest, key, value)
            size += len(key) + len(value)
            if size >= self._chunk_bytes:
                is_last = False
                break
        number = serving.next_number
        serving.next_number += 1
        return SnapshotChunk(
            serving.transfer_id, number, serving.index, serving.term, pairs, is_last, serving.digest.digest()
        )

    def _close(self, peer: str) -> None:
        serving = self._serving.pop(peer, None)
        if serving is not None:
            serving.snapshot.close()


def add_to_digest(digest: hashlib.blake2b, key: bytes, value: bytes) -> None:
    """Add one pair, its parts told apart by their lengths."""
    digest.update(len(key).to_bytes(4, "little") + key + len(value).to_bytes(4, "little") + value)


@dataclass(slots=True)
class Pull:
    """One snapshot on its way in."""

    source: str
    term: int
    """The term in which the leader offered it; only in this term, under this leader, may it be installed (S22)."""
    transfer_id: int
    path: str
    store: Store
    last_chunk_ms: int
    next_number: int = 0
    index: int = 0
    last_term: int = 0
    pairs_count: int = 0
    digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    is_whole: bool = False


class SnapshotPuller:
    """Pulls one snapshot at a time into a fresh store."""

    def __init__(
        self,
        *,
        incoming_store: Callable[[], tuple[str, Store]],
        send_bulk: Callable[[str, Frame], None],
        now_ms: Callable[[], int],
        whole: Callable[[Pull], None],
    ) -> None:
        self._incoming_store = incoming_store
        self._send_bulk = send_bulk
        self._now_ms = now_ms
        self._whole = whole
        self._transfer_id = 0
        self.pull: Pull | None = None

    def start(self, *, source: str, term: int) -> None:
        """Pull from the source unless the same pull is running; another one is given up."""
        running = self.pull
        if running is not None and (running.source, running.term) == (source, term):
            return
        self.give_up()
        self._transfer_id += 1
        path, store = self._incoming_store()
        self.pull = Pull(source, term, self._transfer_id, path, store, self._now_ms())
        self._ask(self.pull)

    def chunk_received(self, peer: str, chunk: SnapshotChunk) -> str | None:
        """Take a chunk in and ask for the next; returns why the pull was given up, if it was."""
        pull = self.pull
        if pull is None or pull.source != peer or pull.transfer_id != chunk.transfer_id:
            return None
        if pull.is_whole or chunk.number != pull.next_number:
            return None
        for key, value in chunk.pairs:
            add_to_digest(pull.digest, key, value)
        if pull.digest.digest() != chunk.digest:
            self.give_up()
            return f"chunk {chunk.number} from {peer} does not fit its digest"
        pull.store.write(chunk.pairs)
        pull.index, pull.last_term = chunk.index, chunk.term
        pull.pairs_count += len(chunk.pairs)
        pull.next_number += 1
        pull.last_chunk_ms = self._now_ms()
        if chunk.is_last:
            pull.is_whole = True
            self._whole(pull)
        else:
            self._ask(pull)
        return None

    def failed(self, peer: str, frame: SnapshotFailed) -> None:
        """The source gave up."""
        pull = self.pull
        if pull is not None and (pull.source, pull.transfer_id) == (peer, frame.transfer_id) and not pull.is_whole:
            self.give_up()

    def check_idle(self) -> None:
        """Ask again, and in the end give up, when no chunk comes."""
        pull = self.pull
        if pull is None or pull.is_whole:
            return
        if self._now_ms() - pull.last_chunk_ms > IDLE_MS:
            self.give_up()

    def give_up(self) -> None:
        """Close the unfinished store; its directory is removed by the next pull or start."""
        pull = self.pull
        self.pull = None
        if pull is not None:
            pull.store.close()

    def _ask(self, pull: Pull) -> None:
        self._send_bulk(pull.source, SnapshotFetch(pull.transfer_id, pull.next_number))
