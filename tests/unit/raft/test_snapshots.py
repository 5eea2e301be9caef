"""A whole store in chunks, from a frozen state into a fresh one (PROTOCOL.md P8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.raft.frames import Frame, SnapshotChunk, SnapshotFailed, SnapshotFetch
from falconq_cluster.raft.snapshots import IDLE_MS, KEY_SPACE_END, Pull, SnapshotPuller, SnapshotServer
from falconq_cluster.storage.memory import MemoryStore
from falconq_cluster.storage.store import Reader, StoreSnapshot


class Pair:
    """A server with a store, a puller without, and frames that the test carries."""

    def __init__(self, pairs: dict[bytes, bytes], *, chunk_bytes: int = 100) -> None:
        self.now_ms = 1000
        self.store = MemoryStore()
        self.store.write(list(pairs.items()))
        self.frozen_count = 0
        self.asked: list[Frame] = []
        self.answers: list[Frame] = []
        self.wholes: list[Pull] = []
        self.incoming_count = 0
        self.server = SnapshotServer(
            freeze=self._freeze,
            send_bulk=lambda peer, frame: self.answers.append(frame),
            now_ms=lambda: self.now_ms,
            chunk_bytes=chunk_bytes,
        )
        self.puller = SnapshotPuller(
            incoming_store=self._incoming,
            send_bulk=lambda peer, frame: self.asked.append(frame),
            now_ms=lambda: self.now_ms,
            whole=self.wholes.append,
        )

    def _freeze(self) -> tuple[StoreSnapshot, int, int]:
        self.frozen_count += 1
        return self.store.snapshot(), 70 + self.frozen_count, 4

    def _incoming(self) -> tuple[str, MemoryStore]:
        self.incoming_count += 1
        return f"/store/{self.incoming_count}", MemoryStore()

    def serve(self) -> None:
        """The requests that wait get their answers."""
        asked, self.asked = self.asked, []
        for frame in asked:
            assert isinstance(frame, SnapshotFetch)
            self.server.fetch_received("n2", frame)

    def take(self, change: Callable[[Frame], Frame] = lambda frame: frame) -> list[str | None]:
        """The puller takes the answers that wait; why it gave up, for each."""
        answers, self.answers = self.answers, []
        taken: list[str | None] = []
        for frame in answers:
            changed = change(frame)
            if isinstance(changed, SnapshotChunk):
                taken.append(self.puller.chunk_received("n1", changed))
            else:
                assert isinstance(changed, SnapshotFailed)
                self.puller.failed("n1", changed)
        return taken

    def transfer(self) -> None:
        self.puller.start(source="n1", term=4)
        while self.asked:
            self.serve()
            self.take()


def contents(store: Reader) -> dict[bytes, bytes]:
    return dict(store.scan(b"", KEY_SPACE_END))


SOME = {b"k%03d" % number: b"v" * number for number in range(40)}


@given(
    st.dictionaries(st.binary(min_size=1, max_size=8), st.binary(max_size=40), max_size=30),
    st.integers(1, 200),
)
def test_what_arrives_is_what_was_frozen(pairs: dict[bytes, bytes], chunk_bytes: int):
    pair = Pair(pairs, chunk_bytes=chunk_bytes)
    pair.transfer()
    (whole,) = pair.wholes
    assert contents(whole.store) == pairs
    assert (whole.index, whole.last_term, whole.pairs_count) == (71, 4, len(pairs))


def test_writes_during_the_transfer_are_not_in_it_and_one_chunk_is_asked_for_at_a_time():
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    while pair.asked:
        assert len(pair.asked) == 1
        pair.serve()
        pair.store.write([(b"k039", b"later"), (b"zz", b"later")])
        pair.take()
    assert contents(pair.wholes[0].store) == SOME
    assert pair.frozen_count == 1


def test_a_chunk_that_does_not_fit_the_digest_ends_the_pull_and_the_next_starts_anew():
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    pair.serve()
    pair.take()
    pair.serve()

    def damaged(frame: Frame) -> Frame:
        assert isinstance(frame, SnapshotChunk)
        key, value = frame.pairs[0]
        return SnapshotChunk(
            frame.transfer_id, frame.number, frame.index, frame.term, [(key, value + b"x"), *frame.pairs[1:]],
            frame.is_last, frame.digest,
        )  # fmt: skip

    assert "does not fit its digest" in (pair.take(damaged)[0] or "")
    assert pair.puller.pull is None
    pair.transfer()
    assert len(pair.wholes) == 1
    assert contents(pair.wholes[0].store) == SOME


def test_a_missing_or_repeated_chunk_is_never_taken_for_the_next():
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    pair.serve()
    first = pair.answers[0]
    pair.take()
    pair.answers = [first]
    pair.take()
    assert pair.puller.pull is not None
    assert pair.puller.pull.next_number == 1
    assert len(pair.asked) == 1


def test_chunks_of_another_source_or_transfer_are_ignored():
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    pair.serve()
    (chunk,) = pair.answers
    assert isinstance(chunk, SnapshotChunk)
    assert pair.puller.chunk_received("n3", chunk) is None
    assert pair.puller.pull is not None
    assert pair.puller.pull.next_number == 0
    pair.puller.start(source="n3", term=5)
    pair.take()
    assert pair.puller.pull is not None
    assert pair.puller.pull.next_number == 0


def test_a_chunk_that_was_lost_is_asked_for_again_and_is_the_same():
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    request = pair.asked[0]
    pair.serve()
    pair.asked = [request]
    pair.serve()
    assert pair.answers[0] == pair.answers[1]


def test_the_same_offer_again_changes_nothing_and_another_one_starts_anew():
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    pair.puller.start(source="n1", term=4)
    assert (pair.incoming_count, len(pair.asked)) == (1, 1)
    pair.puller.start(source="n1", term=5)
    assert (pair.incoming_count, len(pair.asked)) == (2, 2)


def test_a_transfer_that_is_not_known_any_more_fails_and_is_given_up():
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    pair.serve()
    pair.take()
    pair.server.peer_lost("n2")
    pair.serve()
    assert isinstance(pair.answers[0], SnapshotFailed)
    pair.take()
    assert pair.puller.pull is None


@pytest.mark.parametrize("is_served", [True, False])
def test_an_idle_transfer_is_given_up_on_both_sides(is_served: bool):
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    if is_served:
        pair.serve()
    pair.now_ms += IDLE_MS + 1
    pair.server.close_idle()
    pair.puller.check_idle()
    assert pair.puller.pull is None
    assert pair.server.pinned_index() is None


def test_the_index_of_a_transfer_is_pinned_until_a_while_after_its_last_request():
    pair = Pair(SOME)
    assert pair.server.pinned_index() is None
    pair.transfer()
    assert pair.server.pinned_index() == 71
    pair.now_ms += IDLE_MS
    assert pair.server.pinned_index() == 71
    pair.now_ms += 1
    assert pair.server.pinned_index() is None


@given(
    st.lists(
        st.builds(
            SnapshotChunk,
            st.sampled_from((1, 2, 9)),
            st.integers(0, 3),
            st.integers(0, 1 << 60),
            st.integers(0, 1 << 60),
            st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=3),
            st.booleans(),
            st.binary(max_size=20),
        ),
        max_size=12,
    )
)
def test_chunks_of_any_content_are_never_taken_for_a_whole_snapshot(chunks: list[SnapshotChunk]):
    pair = Pair(SOME)
    pair.puller.start(source="n1", term=4)
    for chunk in chunks:
        pair.puller.chunk_received("n1", chunk)
        if pair.puller.pull is None:
            pair.puller.start(source="n1", term=4)
    assert not pair.wholes
