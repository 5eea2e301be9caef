"""The guards on log frames as pure functions (RAFT.md S1, S2, S11, S12, L1)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.raft.frames import Append, AppendReply
from falconq_cluster.raft.guards import (
    StrippedAppend,
    VoteTally,
    clamp_commit,
    conflict_next_index,
    is_reply_current,
    strip_matching,
)


@dataclass
class ListLog:
    """A log as a list of (index, term) behind a first index."""

    pairs: list[tuple[int, int]]

    @property
    def first_index(self) -> int:
        return self.pairs[0][0]

    @property
    def last_index(self) -> int:
        return self.pairs[-1][0]

    @property
    def last_term(self) -> int:
        return self.pairs[-1][1]

    @property
    def synced_index(self) -> int:
        return self.last_index

    def term_at(self, index: int) -> int | None:
        position = index - self.first_index
        return self.pairs[position][1] if 0 <= position < len(self.pairs) else None

    def take(self, stripped: StrippedAppend) -> None:
        """What PySyncObj does with it: everything behind `previous_index` goes, whether it matches or not."""
        assert self.term_at(stripped.previous_index) == stripped.previous_term
        self.pairs = [pair for pair in self.pairs if pair[0] <= stripped.previous_index]
        self.pairs += [(index, term) for _, index, term in stripped.entries]


def log_of(*terms: int, first: int = 1) -> ListLog:
    return ListLog(list(enumerate(terms, first)))


def frame_of(log: ListLog, previous: int, last: int, *, term: int = 9, commit: int = 0) -> Append:
    entries = [(b"", index, at) for index, at in log.pairs if previous < index <= last]
    return Append(term, 0, previous, log.term_at(previous) or 0, commit, entries)


def test_a_frame_that_is_held_already_becomes_a_heartbeat_at_the_logs_own_end():
    stripped = strip_matching(frame_of(log_of(1, 1, 1), 1, 2), log_of(1, 1, 1, 1))
    assert stripped == StrippedAppend(4, 1, [], 2, joins=True)


def test_only_entries_from_the_first_conflict_on_are_left():
    stripped = strip_matching(frame_of(log_of(1, 1, 3, 3), 1, 4), log_of(1, 1, 2, 2, 2))
    assert (stripped.previous_index, stripped.previous_term) == (2, 1)
    assert [index for _, index, _ in stripped.entries] == [3, 4]
    assert stripped.verified_index == 4


def test_a_frame_behind_a_gap_or_another_term_does_not_join():
    log = log_of(1, 1)
    assert not strip_matching(frame_of(log_of(1, 1, 1, 1, 1), 4, 5), log).joins
    assert not strip_matching(frame_of(log_of(1, 2, 2), 2, 3), log).joins


def test_entries_before_the_logs_first_one_are_committed_and_skipped():
    log = log_of(2, 2, first=10)
    stripped = strip_matching(frame_of(log_of(1, 1, 1, 2, 2, 3, first=7), 7, 12), log)
    assert stripped == StrippedAppend(11, 2, [(b"", 12, 3)], 12, joins=True)
    assert strip_matching(frame_of(log_of(1, 1, 1, first=7), 7, 9), log).verified_index == 10


@st.composite
def two_logs(draw: st.DrawFn) -> tuple[ListLog, ListLog, int]:
    """(the leader's log, the follower's, index of the last entry that they share), as log matching allows."""
    common = sorted(draw(st.lists(st.integers(1, 3), min_size=1, max_size=6)))
    # Behind the fork no index has the same term in both logs, or all before it would be equal too.
    mine = sorted(draw(st.lists(st.sampled_from((4, 6, 8)), max_size=5)))
    theirs = sorted(draw(st.lists(st.sampled_from((5, 7, 9)), max_size=5)))
    leader, follower = log_of(*common, *theirs), log_of(*common, *mine)
    cut = draw(st.integers(0, len(common) - 1))
    return leader, ListLog(follower.pairs[cut:]), len(common)


@given(two_logs(), st.data())
def test_no_frame_shortens_what_matches_and_all_up_to_the_verified_index_is_the_leaders(
    logs: tuple[ListLog, ListLog, int], data: st.DataObject
):
    leader, log, common = logs
    previous = data.draw(st.integers(1, leader.last_index))
    frame = frame_of(leader, previous, data.draw(st.integers(previous, leader.last_index)))
    before = list(log.pairs)
    stripped = strip_matching(frame, log)
    if not stripped.joins:
        next_index = conflict_next_index(frame, log, min(common, log.first_index))
        assert min(common, log.first_index) < next_index <= frame.previous_index
        return
    log.take(stripped)
    assert log.pairs[: len(before)][: common - log.first_index + 1] == before[: common - log.first_index + 1]
    if frame.previous_index + len(frame.entries) <= common:
        assert log.pairs == before
    for index, term in log.pairs:
        if index <= stripped.verified_index:
            assert leader.term_at(index) == term


@given(two_logs())
def test_following_the_conflicts_back_the_logs_become_equal_in_at_most_one_frame_a_term(
    logs: tuple[ListLog, ListLog, int],
):
    leader, log, common = logs
    next_index = leader.last_index + 1
    for _ in range(len({term for _, term in log.pairs}) + 2):
        frame = frame_of(leader, next_index - 1, leader.last_index)
        stripped = strip_matching(frame, log)
        if stripped.joins:
            log.take(stripped)
            break
        next_index = conflict_next_index(frame, log, min(common, log.first_index))
    assert stripped.joins
    assert stripped.verified_index == leader.last_index
    assert all(leader.term_at(index) == term for index, term in log.pairs if index <= leader.last_index)


@pytest.mark.parametrize(("commit", "verified", "synced"), [(3, 9, 9), (9, 3, 9), (9, 9, 3)])
def test_the_commit_index_is_bounded_by_the_leader_by_what_is_verified_and_by_what_is_synced(
    commit: int, verified: int, synced: int
):
    assert clamp_commit(leader_commit=commit, verified_index=verified, synced_index=synced) == 3


def test_an_answer_counts_only_in_its_term_within_the_log_and_a_rewind_only_once():
    reply = AppendReply(5, 2, 8, reset=False, success=True, applied_index=0, applied_hash=b"")
    assert is_reply_current(reply, term=5, epoch=2, last_index=7)
    assert is_reply_current(reply, term=5, epoch=3, last_index=7)  # what is held stays held
    assert not is_reply_current(reply, term=6, epoch=2, last_index=7)
    assert not is_reply_current(reply, term=5, epoch=2, last_index=6)
    rewind = AppendReply(5, 2, 4, reset=True, success=False, applied_index=0, applied_hash=b"")
    assert is_reply_current(rewind, term=5, epoch=2, last_index=7)
    assert not is_reply_current(rewind, term=5, epoch=3, last_index=7)
    assert not is_reply_current(AppendReply(5, 2, 0, True, False, 0, b""), term=5, epoch=2, last_index=7)


def test_each_voter_counts_once_a_term_also_when_votes_of_older_terms_come_between():
    tally = VoteTally()
    assert tally.is_new(voter="n2", term=5)
    assert not tally.is_new(voter="n2", term=5)
    assert not tally.is_new(voter="n3", term=4)
    assert not tally.is_new(voter="n2", term=5)
    assert tally.is_new(voter="n3", term=5)
    assert tally.is_new(voter="n2", term=6)
