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
from falconq_cluster.raft.confirming import Told
from falconq_cluster.raft.core import Core
from falconq_cluster.raft.election import Election
from falconq_cluster.raft.frames import Append, AppendReply, SnapshotOffer, StaleTerm
from falconq_cluster.raft.installing import Installing
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.journal_recovery import recover
from falconq_cluster.raft.journal_writer import _Output
from falconq_cluster.raft.leading import Leading
from falconq_cluster.raft.library import RaftLibrary
from falconq_cluster.raft.logtime import LogTime
from falconq_cluster.raft.membership import Membership
from falconq_cluster.raft.replica import Replica
from falconq_cluster.raft.replication import Replication
from falconq_cluster.raft.view import NodeView
from falconq_cluster.raft.voting import Voting
from tests.sim import keep_holes, machine_holes, order_holes
from tests.sim.disk import SimFileSystem
from tests.sim.machine_holes import Patches


@dataclass(frozen=True, slots=True)
class Ablation:
    """One hole."""

    what: str
    """What is taken away."""
    patches: Callable[[], Patches]
    seeds_max: int
    """It is caught within so many seeds of three nodes; 0 when a story catches it."""
    story: str = ""
    """The story that fails while the hole is open."""


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


# The disk.


def _never_syncs() -> Patches:
    return [(_Output, "sync", lambda self: None)]


def _promises_at_once() -> Patches:
    return [(Core, "promise", Core.send)]


def _forgets_its_vote() -> Patches:
    """With L2: a pre-vote lets few candidates meet in one term."""
    opened_by = Journal.__init__

    def opened(self: Journal, *args: Any) -> None:
        opened_by(self, *args)
        self._vote = ""

    return [(Journal, "__init__", opened), *_no_pre_vote()]


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
        if names["journal"].synced_index:
            self.commit_index = names["journal"].synced_index

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


# Members.


def _counts_any_disk() -> Patches:
    return [
        (Membership, "counts", lambda self, peer: bool(self.disk_of(peer))),
        (Membership, "self_counts", lambda self: True),
        (Membership, "may_campaign", lambda self: True),
        (Membership, "may_vote_for", lambda self, peer: True),
        (Membership, "grants_needed", lambda self: len(self.members) // 2 + 1),
    ]


def _counts_a_learners_answers() -> Patches:
    return [(Membership, "counts", lambda self, peer: bool(self.disk_of(peer)))]


def _forms_with_a_majority() -> Patches:
    return [
        (Membership, "heard_all_forming", lambda self: True),
        (Membership, "grants_needed", lambda self: len(self.members) // 2 + 1),
        (Membership, "disks_to_form_with", lambda self: {
            name: self.disk_id if name == self.node_id else self.disk_of(name) or "away" for name in self.members
        }),
    ]  # fmt: skip


# Elections and time.


def _no_pre_vote() -> Patches:
    return [
        (Election, "hears_live_leader", lambda self: False),
        (Membership, "grants_needed", lambda self: 1 if self.record().cluster_id else len(self.members)),
    ]


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
    def reading(self: NodeView) -> int:
        log_time = self._core.log_time
        return log_time.lead_ms() if self._core.library.leads else log_time.now_ms()

    return [(LogTime, "not_before", lambda self, stamp_ms: None), (NodeView, "log_time_ms", reading)]


def _reads_unconfirmed() -> Patches:
    def opened(self: Leading, told: Told) -> None:
        told(self._core.library.commit_index if self._core.library.leads else None)

    return [(Leading, "ask_read_index", opened)]


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
        "a commit index counts for a tail that was not compared, also with an offer", _believes_its_tail, 100
    ),
    "S2": Ablation("entries that the log holds are sent again (L1) and truncated", _truncates_what_matches, 20),
    "S3": Ablation("the journal is written and never synced", _never_syncs, 5),
    "S3-promise": Ablation("answers and votes leave before the sync that covers them", _promises_at_once, 10),
    "S3-recovery": Ablation("what a crash left in the page cache counts as synced", _trusts_the_page_cache, 100),
    "S3-names": Ablation(
        "directories are made and their names not synced",
        _leaves_names_unsynced,
        0,
        "all_lose_power_with_nothing_flushed",
    ),
    "S8": Ablation("after a start the whole log counts as committed", _commits_the_whole_log_at_start, 100),
    "S9": Ablation(
        "a restart forgets the vote of the term", _forgets_its_vote, 0, "a_restarted_voter_remembers_its_vote"
    ),
    "S17": Ablation("a command that comes again is appended and takes effect again (P9)", _applies_repeats, 10),
    "S18": Ablation(
        "a leader answers reads without asking a quorum (P17)",
        _reads_unconfirmed,
        0,
        "a_deposed_leader_serves_no_reads",
    ),
    "S20": Ablation("a wiped disk votes and acknowledges at once (P4)", _counts_any_disk, 100),
    "S22": Ablation(
        "a late snapshot is installed all the same (P8)",
        _installs_late,
        0,
        "a_snapshot_of_a_leader_that_was_replaced",
    ),
    "P1": Ablation("the journal is cut and the store was not flushed", _cuts_before_the_flush, 5),
    "P4": Ablation(
        "acknowledgements of a disk that is not on record count",
        _counts_a_learners_answers,
        0,
        "a_wiped_voter_counts_only_after_it_is_on_record",
    ),
    "P5": Ablation(
        "a majority of empty disks forms a cluster", _forms_with_a_majority, 0, "two_empty_disks_and_one_with_data"
    ),
    "P6": Ablation(
        "a leader ignores a member that is at a higher term",
        _ignores_higher_terms,
        0,
        "a_candidate_whose_term_nobody_else_saw",
    ),
    "P7": Ablation("a disk that stalled once is suspect for ever", _suspects_for_ever, 0, "all_disks_hang_once"),
    "once": Ablation("a repeat of an append is not known as one", machine_holes.knows_no_repeats, 20),
    "lease-nonce": Ablation(
        "whoever names a message settles it, under whichever lease it is", machine_holes.settles_any_lease, 20
    ),
    "lease-time": Ablation("a node ends leases by its own clock", machine_holes.ends_leases_by_its_own_clock, 20),
    "dead-letters": Ablation("what is buried stays in hand", machine_holes.keeps_what_it_buries, 20),
    "weighted": Ablation("a topic with weights is served strictly", machine_holes.gives_weighted_topics_strictly, 20),
    "aged": Ablation("what waited too long does not go first", machine_holes.forgets_what_is_overdue, 20),
    "P14": Ablation("a delayed message enters no level when it is due", machine_holes.loses_what_is_due, 20),
    "ttl": Ablation("what is expired is given", keep_holes.gives_what_is_expired, 40),
    "ttl-hand": Ablation("what expired in hand is given again", keep_holes.gives_again_what_is_expired, 40),
    "acked": Ablation(
        "what one consumer has not settled counts as settled by all", keep_holes.asks_all_consumers_but_one, 40
    ),
    "drop-lowest": Ablation("what is most urgent gives way first", keep_holes.drops_the_most_urgent, 40),
    "topic-full": Ablation("a full topic refuses nothing", keep_holes.takes_in_what_is_too_much, 40),
    "P13": Ablation(
        "what a remembered attempt names is erased with the rest", keep_holes.erases_what_an_attempt_names, 40
    ),
    "P15": Ablation("what is trimmed stays in hand", keep_holes.leaves_leases_of_what_is_trimmed, 40),
    "erase": Ablation("what is erased stays in the store", keep_holes.leaves_keys_of_what_is_erased, 40),
    "cancel": Ablation("what is cancelled is left where it is", keep_holes.leaves_what_it_cancels, 40),
    "change": Ablation("what is changed is left as it was, too", keep_holes.leaves_what_it_changes, 40),
    "expected": Ablation("an expected last offset is not compared", keep_holes.expects_nothing, 40),
    "P16": Ablation("a barrier of an addition is not held", order_holes.holds_no_barrier, 100),
    "lane": Ablation("a lane lets a second lease of its key through", order_holes.gives_a_lane_twice, 20),
    "lane-nack": Ablation("a nack does not hold up its key", order_holes.frees_a_lane_by_a_nack, 20),
    "pause": Ablation("a paused consumer is given messages", order_holes.gives_to_the_paused, 60),
    "seek": Ablation("a seek keeps the leases", order_holes.seeks_with_its_leases, 60),
    "expiry": Ablation("a consumer expires after half of its time", order_holes.expires_early, 60),
    "P20": Ablation("a stream that goes on acknowledges one too many", order_holes.acknowledges_one_too_many, 60),
    "P20-alone": Ablation("a stream that was replaced goes on", order_holes.goes_on_when_replaced, 60),
    "P20-numbers": Ablation("numbers of deliveries begin anew after a seek", order_holes.counts_anew_after_a_seek, 60),
    "P11": Ablation(
        "a leader's log time may be behind stamps in its own log",
        _leaves_log_time_behind,
        0,
        "clocks_go_back_while_all_are_down",
    ),
}


UNREACHED: dict[str, str] = {
    "S4": "the journal rewrites nothing in place; tests/unit/raft/test_journal_crash.py stops it at every step",
    "S5": "a store beyond its journal makes a node older, not wrong; tests/unit/raft/test_holes.py names its test",
    "S6": "the library's compaction is gone, the store is the snapshot; P1 is the rule that took its place",
    "S7": "there is no dump; a damaged journal or pointer refuses to start, and the bit_flip fault meets that",
    "S10": "the disks' faults (full_disk, failing_sync, bit_flip, torn groups) run against the journal in every sweep",
    "S11": "links are in order: an answer of an earlier term would have to outlive two elections; test_guards.py",
    "S12": "links repeat nothing, so no vote comes twice; tests/unit/raft/test_guards.py",
    "S13": "the simulated handshake knows its members; tests/unit/raft/test_handshake.py, test_transport_strangers.py",
    "S14": "the real machine never raises; tests/unit/raft/test_holes.py names its test",
    "S15": "as S14; a second apply of an index is refused by the machine and ends the run",
    "S16": "one opaque command; golden bytes in tests/unit/machine",
    "L1": "costs frames, not safety; it is open together with S2",
    "L2": "costs elections, not safety; it is open together with S9",
    "L3": "costs frames; tests/unit/raft/test_holes.py names its test",
    "L4": "commands stay below the size that it needs; tests/unit/raft/test_holes.py names its test",
    "P2": "no step runs while a sync runs, so the clamps are a second line; tests/unit/raft/test_driver.py",
    "P3": "as S10; a damaged or torn group is what tests/unit/raft/test_journal_damage.py is about",
    "P9": "open as S17; the origin's side is held by tests/unit/broker/test_outbox.py and test_histories.py",
    "P10": "a client that was told 504 expects either; tests/cluster/test_partitions.py looks",
    "P12": "costs time, not safety; bounds of each command are held by the tests of its module in tests/unit/machine",
    "P17": "open as S18",
    "P18": "replicas of one deterministic machine never differ; tests/unit/raft/test_divergence.py makes them",
    "P19": "costs entries, not safety; tests/unit/broker/test_pulls.py counts them",
    "P8": "a node that pulls gets no entries, so there is no tail but under S22; tests/unit/raft/test_installing.py",
}
"""hole or rule -> why no seed or story can fall into it alone, and what holds it instead."""


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
