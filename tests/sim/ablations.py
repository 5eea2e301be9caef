"""Holes that are opened again on purpose, to see whether the simulation falls into them.

What lives here: one switch for each hole of RAFT.md and rule of PROTOCOL.md that a simulated run can reach, and for
the others why it can't.
Rules: a switch replaces a guard, in tests only and only while its context lasts; the product knows of none. Within
its number of seeds each must be caught: by an invariant, by a node that stops itself, or by a cluster that does not
come back after healing.
Must not know: seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from falconq_cluster.broker.intake import Intake
from falconq_cluster.machine.machine import Machine
from falconq_cluster.raft import guards
from falconq_cluster.raft import journal as journal_module
from falconq_cluster.raft.core import Core
from falconq_cluster.raft.election import Election
from falconq_cluster.raft.frames import Append, AppendReply, SnapshotOffer, StaleTerm
from falconq_cluster.raft.installing import Installing
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.journal_recovery import recover
from falconq_cluster.raft.journal_writer import _Output
from falconq_cluster.raft.library import RaftLibrary
from falconq_cluster.raft.logtime import LogTime
from falconq_cluster.raft.membership import Membership
from falconq_cluster.raft.replica import Replica
from falconq_cluster.raft.replication import Replication
from falconq_cluster.raft.snapshots import Pull
from falconq_cluster.raft.voting import Voting
from tests.sim.disk import SimFileSystem

Patches = list[tuple[Any, str, Any]]
"""(owner, attribute, what stands there while the hole is open)."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """One hole."""

    what: str
    """What is taken away."""
    patches: Callable[[], Patches]
    seeds_max: int
    """It is caught within so many seeds of three nodes."""


# Guards of the log.


def _believes_its_tail() -> Patches:
    strip, offered = guards.strip_matching, Installing._offered

    def opened(frame: Append, log: guards.LogView) -> guards.StrippedAppend:
        stripped = strip(frame, log)
        verified_index = max(stripped.verified_index, log.last_index)
        return replace(stripped, verified_index=verified_index) if stripped.joins else stripped

    def with_commit(self: Installing, peer: str, frame: SnapshotOffer) -> None:
        offered(self, peer, frame)
        library, journal = self._core.library, self._core.journal
        library.commit_index = max(library.commit_index, min(frame.index, journal.synced_index))

    return [(guards, "strip_matching", opened), (Installing, "_offered", with_commit)]


def _truncates_what_matches() -> Patches:
    """With L1: only a leader that rewinds sends entries again."""
    strip, received = guards.strip_matching, Replication.reply_received

    def opened(frame: Append, log: guards.LogView) -> guards.StrippedAppend:
        stripped = strip(frame, log)
        if not stripped.joins or log.term_at(frame.previous_index) != frame.previous_term:
            return stripped
        return replace(
            stripped,
            previous_index=frame.previous_index,
            previous_term=frame.previous_term,
            entries=list(frame.entries),
        )

    def rewind(self: Replication, peer: str, frame: AppendReply) -> None:
        received(self, peer, frame)
        if self._core.library.leads and frame.success:
            self._core.library.set_next_index(peer, frame.next_index)

    return [(guards, "strip_matching", opened), (Replication, "reply_received", rewind)]


def _counts_stale_answers() -> Patches:
    def opened(reply: AppendReply, *, term: int, epoch: int, last_index: int) -> bool:
        return 1 <= reply.next_index <= last_index + 1

    return [(guards, "is_reply_current", opened)]


# The disk.


def _never_syncs() -> Patches:
    return [(_Output, "sync", lambda self: None)]


def _promises_at_once() -> Patches:
    return [(Core, "promise", Core.send)]


def _forgets_its_vote() -> Patches:
    opened_by = Journal.__init__

    def opened(self: Journal, *args: Any) -> None:
        opened_by(self, *args)
        self._vote = ""

    return [(Journal, "__init__", opened)]


def _trusts_the_page_cache() -> Patches:
    def opened(files: SimFileSystem, *args: Any, **names: Any) -> Any:
        return recover(_Unsynced(files), *args, **names)

    return [(journal_module, "recover", opened)]


class _Unsynced:
    """A file system, or one of its files, whose `sync` does nothing."""

    def __init__(self, real: object) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def open_file(self, path: str, *, create: bool = False) -> _Unsynced:
        assert isinstance(self._real, SimFileSystem)
        return _Unsynced(self._real.open_file(path, create=create))

    def sync(self) -> None:
        """Nothing."""


def _cuts_before_the_flush() -> Patches:
    return [(Replica, "flush_job", lambda self: (self.machine.applied_index, lambda: None))]


def _commits_the_whole_log_at_start() -> Patches:
    opened_by = RaftLibrary.__init__

    def opened(self: RaftLibrary, **names: Any) -> None:
        opened_by(self, **names)
        self.commit_index = max(1, names["journal"].last_index)

    return [(RaftLibrary, "__init__", opened)]


def _leaves_names_unsynced() -> Patches:
    make = SimFileSystem.make_directory

    def opened(self: SimFileSystem, path: str) -> None:
        with patch.object(self.disk, "sync_directory", lambda directory: None):
            make(self, path)

    return [(SimFileSystem, "make_directory", opened)]


# Snapshots.


def _installs_late() -> Patches:
    return [(Installing, "may_install", lambda self, pull: not self._core.library.leads)]


def _drops_the_tail() -> Patches:
    switched = Installing._switched

    def opened(self: Installing, pull: Pull) -> None:
        journal = self._core.journal
        with patch.object(journal, "cut_front", lambda index: journal.restart_at(index, pull.last_term)):
            switched(self, pull)

    return [(Installing, "_switched", opened)]


# Members.


def _counts_any_disk() -> Patches:
    return [
        (Membership, "counts", lambda self, peer: bool(self.disk_of(peer))),
        (Membership, "self_counts", lambda self: True),
        (Membership, "may_campaign", lambda self: True),
        (Membership, "may_vote_for", lambda self, peer: True),
        (Membership, "grants_needed", lambda self: len(self.members) // 2 + 1),
    ]


def _records_disks_too_early() -> Patches:
    return [(Replication, "caught_up_learners", lambda self: self._core.membership.learners())]


def _forms_with_a_majority() -> Patches:
    return [
        (Membership, "heard_all_forming", lambda self: True),
        (Membership, "grants_needed", lambda self: len(self.members) // 2 + 1),
        (Membership, "disks_to_form_with", lambda self: {
            name: self.disk_id if name == self.node_id else self.disk_of(name) or "away" for name in self.members
        }),
    ]  # fmt: skip


# Elections and time.


def _ignores_higher_terms() -> Patches:
    def opened(self: Voting, peer: str, frame: StaleTerm) -> None:
        return

    return [(Voting, "stale_term_received", opened)]


def _suspects_for_ever() -> Patches:
    finished = Election.sync_finished

    def opened(self: Election) -> int:
        was_suspect = self.is_disk_suspect
        took_ms = finished(self)
        self.is_disk_suspect = self.is_disk_suspect or was_suspect
        return took_ms

    return [(Election, "sync_finished", opened)]


def _leaves_log_time_behind() -> Patches:
    return [(LogTime, "not_before", lambda self, stamp_ms: None)]


# Commands.


def _applies_repeats() -> Patches:
    is_next = Machine._is_next

    def opened(self: Machine, turn: Any, command: Any) -> bool:
        origin = self._state.origins.get(command.origin)
        if origin is not None and origin.epoch == command.epoch and command.sequence <= origin.last_sequence:
            return True
        return is_next(self, turn, command)

    def accept(self: Intake, origin: str, epoch: int, sequence: int, command: bytes) -> None:
        if self._origin(origin, epoch) is not None:
            self._queue.append(command)

    return [(Machine, "_is_next", opened), (Intake, "offer", accept)]


ABLATIONS: dict[str, Ablation] = {
    "S1": Ablation(
        "a commit index counts for a tail that was not compared, also with an offer", _believes_its_tail, 400
    ),
    "S2": Ablation("entries that the log holds are sent again (L1) and truncated", _truncates_what_matches, 60),
    "S3": Ablation("the journal is written and never synced", _never_syncs, 10),
    "S3-promise": Ablation("answers and votes leave before the sync that covers them", _promises_at_once, 10),
    "S3-recovery": Ablation("what a crash left in the page cache counts as synced", _trusts_the_page_cache, 200),
    "S3-names": Ablation("directories are made and their names not synced", _leaves_names_unsynced, 60),
    "S8": Ablation("after a start the whole log counts as committed", _commits_the_whole_log_at_start, 30),
    "S9": Ablation("a restart forgets the vote of the term", _forgets_its_vote, 400),
    "S11": Ablation("answers of an earlier term count", _counts_stale_answers, 200),
    "S17": Ablation("a command that comes again is appended and takes effect again (P9)", _applies_repeats, 60),
    "S20": Ablation("a wiped disk votes and acknowledges at once (P4)", _counts_any_disk, 60),
    "S22": Ablation("a late snapshot is installed all the same (P8)", _installs_late, 400),
    "P1": Ablation("the journal is cut and the store was not flushed", _cuts_before_the_flush, 30),
    "P4": Ablation("a disk goes on record before it holds what is committed", _records_disks_too_early, 400),
    "P5": Ablation("a majority of empty disks forms a cluster", _forms_with_a_majority, 60),
    "P6": Ablation("a leader ignores a member that is at a higher term", _ignores_higher_terms, 200),
    "P7": Ablation("a disk that stalled once is suspect for ever", _suspects_for_ever, 60),
    "P8": Ablation("a snapshot that the journal holds drops the tail behind it", _drops_the_tail, 400),
    "P11": Ablation("a leader's log time may be behind stamps in its own log", _leaves_log_time_behind, 200),
}


@contextmanager
def reopened(name: str) -> Iterator[None]:
    """The hole is open while this lasts; an empty name opens none."""
    if not name:
        yield
        return
    with ExitStack() as stack:
        for owner, attribute, opened in ABLATIONS[name].patches():
            stack.enter_context(patch.object(owner, attribute, opened))
        yield
