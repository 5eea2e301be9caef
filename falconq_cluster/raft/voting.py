"""Elections: asking, granting, handing over.

What lives here: pre-vote, votes and transfers as frames, around the library's own election (PROTOCOL.md P6).
Rules: a vote is asked for only after enough pre-votes; nobody votes while it hears a live leader, unless that leader
hands over; votes of members that do not count are not counted, and each voter counts once a term (S12).
Must not know: entries, disks.
"""

from __future__ import annotations

from falconq_cluster.raft.core import Core
from falconq_cluster.raft.frames import PreVote, PreVoteReply, RequestVote, StaleTerm, TimeoutNow, Vote
from falconq_cluster.raft.guards import VoteTally
from falconq_cluster.raft.library import Message


class Voting:
    """One node's part in elections."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tally = VoteTally()
        self._campaigns_for_transfer = False

    # Asking.

    def consider(self, *, is_installing: bool) -> None:
        """Begin a pre-vote when the timeout has passed and nothing forbids it."""
        core = self._core
        if core.library.leads or not core.election.is_due():
            return
        if is_installing or core.election.is_disk_suspect or not core.membership.may_campaign():
            core.election.postpone()
            return
        term = core.library.term + 1
        round_number = core.election.ask(term=term)
        if self._granted(core.node_id, round_number, term):
            return
        core.send_to_others(PreVote(term, core.journal.last_index, core.journal.last_term, round_number))

    def pre_vote_reply_received(self, peer: str, frame: PreVoteReply) -> None:
        """A member would vote for this node, or knows a higher term."""
        core = self._core
        if not frame.granted:
            if frame.term > core.library.term and not core.library.leads:
                core.library.adopt_term(frame.term)
            return
        if core.library.leads or not core.membership.counts(peer):
            return
        if frame.term == core.library.term + 1:
            self._granted(peer, frame.round, frame.term)

    def _granted(self, voter: str, round_number: int, term: int) -> bool:
        core = self._core
        count = core.election.grant_received(voter=voter, round_number=round_number, term=term)
        if count < core.membership.grants_needed() or not core.membership.may_campaign():
            return False
        core.election.round_is_over()
        core.counters.campaigns += 1
        core.log("campaign_started", term=term, last_index=core.journal.last_index)
        core.library.campaign()
        core.request_step()
        return True

    def library_asks(self, peer: str, message: Message) -> None:
        """The library campaigns: its request leaves once its own vote is on disk."""
        self._core.promise(
            peer,
            RequestVote(
                message["term"], message["last_log_index"], message["last_log_term"], self._campaigns_for_transfer
            ),
        )

    def after_tick(self) -> None:
        """A campaign for a transfer has sent its requests."""
        self._campaigns_for_transfer = False

    def vote_received(self, peer: str, frame: Vote) -> None:
        """A member voted for this node."""
        core = self._core
        if core.membership.counts(peer) and self._tally.is_new(voter=peer, term=frame.term):
            core.library.deliver(peer, {"type": "response_vote", "term": frame.term})

    # Granting.

    def pre_vote_received(self, peer: str, frame: PreVote) -> None:
        """A member asks whether it would get this node's vote."""
        core = self._core
        granted = (
            frame.term > core.library.term
            and not self._hears_leader()
            and core.membership.may_vote_for(peer)
            and self._is_up_to_date(frame.last_index, frame.last_term)
        )
        term = frame.term if granted else core.library.term
        core.send(peer, PreVoteReply(term, frame.round, granted))

    def request_received(self, peer: str, frame: RequestVote) -> None:
        """A member asks for this node's vote."""
        core = self._core
        if not core.membership.may_vote_for(peer):
            return
        if not frame.is_transfer and self._hears_leader():
            return
        core.library.deliver(
            peer,
            {
                "type": "request_vote",
                "term": frame.term,
                "last_log_index": frame.last_index,
                "last_log_term": frame.last_term,
            },
        )

    def library_votes(self, peer: str, message: Message) -> None:
        """The library grants its vote: the answer leaves once the vote is on disk."""
        self._core.election.postpone()
        self._core.promise(peer, Vote(message["term"]))

    def _hears_leader(self) -> bool:
        return self._core.library.leads or self._core.election.hears_live_leader()

    def _is_up_to_date(self, last_index: int, last_term: int) -> bool:
        journal = self._core.journal
        return (last_term, last_index) >= (journal.last_term, journal.last_index)

    # Terms and transfers.

    def stale_term_received(self, peer: str, frame: StaleTerm) -> None:
        """A member is at a higher term: a leader takes it and steps down once, nobody else minds (P6)."""
        core = self._core
        if core.library.leads and frame.term > core.library.term and core.membership.counts(peer):
            core.counters.stale_terms += 1
            core.log("higher_term_adopted", peer=peer, term=frame.term)
            core.library.adopt_term(frame.term)
            core.election.postpone()
            core.election.leader_lost()

    def timeout_now_received(self, peer: str, frame: TimeoutNow) -> None:
        """The leader hands over to this node."""
        core = self._core
        if core.election.is_disk_suspect or not core.membership.may_campaign():
            return
        if frame.term == core.library.term and core.library.leader == peer:
            self._campaigns_for_transfer = True
            core.library.campaign()
            core.request_step()

    def send_timeout_now(self, peer: str) -> None:
        """Hand over to a follower that holds everything."""
        self._core.send(peer, TimeoutNow(self._core.library.term))
