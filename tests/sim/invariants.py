"""What must be true after every event (RAFT.md section 4).

What lives here: the checks that run while the cluster runs, incremental so that an event that changed nothing is free.
Rules: one leader a term; equal (index, term) means equal entries; what was committed once is committed for ever and
everywhere; a new leader holds what was committed before its term; nodes that applied the same index wrote the same;
an acknowledged operation is durable on a majority of the simulated disks at that moment, as the disks say, not the
nodes.
Must not know: how nodes come to be, what clients want.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from tests.sim.cluster import Host
from tests.sim.world import Violation, World


class LogProbe(Protocol):
    """What is read of a node's journal."""

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def synced_index(self) -> int: ...
    def term_at(self, index: int) -> int | None: ...
    def entries(self, first: int, last: int) -> list[tuple[bytes, int, int]]: ...


class NodeProbe(Protocol):
    """What is read of a node after each of its events."""

    @property
    def term(self) -> int: ...
    @property
    def leads(self) -> bool: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def applied_index(self) -> int: ...
    @property
    def flushed_index(self) -> int: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def journal(self) -> LogProbe: ...


class Committed:
    """The one sequence of committed entries."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.terms: list[int] = []
        self.committed_in: list[int] = []
        """The term in which each entry was first seen committed."""

    @property
    def last_index(self) -> int:
        return len(self.entries)

    def term_at(self, index: int) -> int:
        return self.terms[index - 1]


class Invariants:
    """Watches all nodes; raises Violation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last: dict[str, tuple[int, bool, int, int, int, int]] = {}
        self._leaders: dict[int, str] = {}
        self._entries: dict[tuple[int, int], int] = {}
        """(index, term) -> checksum of the entry."""
        self._held: dict[str, int] = {}
        """host -> up to here its log was seen to hold what is committed."""
        self._digests: dict[int, bytes] = {}
        self.committed = Committed()
        self.election_count = 0
        self.acknowledged_count = 0

    def started(self, host: Host) -> None:
        """A new process on the host: nothing is known of it."""
        self._last.pop(host.name, None)
        self._held.pop(host.name, None)

    def check(self, host: Host, probe: NodeProbe) -> None:
        """Compare a node with everything seen so far."""
        journal = probe.journal
        last_index = journal.last_index
        now = (
            probe.term,
            probe.leads,
            probe.commit_index,
            probe.applied_index,
            last_index,
            journal.term_at(last_index) or 0,
        )
        before = self._last.get(host.name)
        if now == before:
            return
        self._last[host.name] = now
        if before is None or now[4:] != before[4:]:
            self._check_log(host, journal)
        if now[1] and (before is None or now[:2] != before[:2]):
            self._check_leader(host, probe)
        if before is None or now[2] != before[2]:
            self._check_commit(host, probe, 0 if before is None else before[2])
        if before is None or now[3] != before[3]:
            self._check_applied(host, probe, 0 if before is None else before[3])
        self._check_held(host, journal)

    def _check_log(self, host: Host, journal: LogProbe) -> None:
        """Every entry that this log has is the one that others have at the same index and term."""
        index = journal.last_index
        seen = self._entries
        first_index = journal.first_index
        fresh = []
        while index >= first_index:
            term = journal.term_at(index)
            if term is None or ((index, term) in seen and index not in fresh):
                break
            fresh.append(index)
            index -= 1
        if not fresh:
            return
        for entry, at, term in journal.entries(fresh[-1], fresh[0]):
            checksum = zlib.crc32(entry)
            known = seen.setdefault((at, term), checksum)
            is_base = at == first_index  # A log that began at a snapshot knows the base entry by its term only.
            if known != checksum and not is_base:
                raise Violation(f"{host.name} has another entry {at} of term {term} than was seen before")

    def _check_held(self, host: Host, journal: LogProbe) -> None:
        """A log that once held committed entries is never shortened below them: their leader counts on it."""
        held, committed = self._held.get(host.name, 0), self.committed
        if journal.last_index < held:
            raise Violation(
                f"the log of {host.name} is cut to {journal.last_index}, it held {held}, which is committed"
            )
        while held < committed.last_index and journal.term_at(held + 1) in {None, committed.term_at(held + 1)}:
            if held >= journal.last_index:
                break
            held += 1
        self._held[host.name] = held

    def _check_leader(self, host: Host, probe: NodeProbe) -> None:
        term = probe.term
        known = self._leaders.get(term)
        if known is not None and known != host.name:
            raise Violation(f"term {term} has two leaders: {known} and {host.name}")
        if known is None:
            self.election_count += 1
        self._leaders[term] = host.name
        committed = self.committed
        journal = probe.journal
        index = committed.last_index
        while index >= max(1, journal.first_index) and committed.committed_in[index - 1] >= term:
            index -= 1
        if journal.last_index < index:
            raise Violation(
                f"{host.name} leads term {term} with a log up to {journal.last_index}, {index} is committed"
            )
        while index > journal.first_index:
            if journal.term_at(index) != committed.term_at(index):
                raise Violation(
                    f"{host.name} leads term {term} with entry {index} of term {journal.term_at(index)}, "
                    f"committed is the one of term {committed.term_at(index)}"
                )
            index -= 1

    def _check_commit(self, host: Host, probe: NodeProbe, before: int) -> None:
        committed, journal = self.committed, probe.journal
        commit_index = probe.commit_index
        if commit_index > journal.last_index:
            raise Violation(f"{host.name} calls {commit_index} committed, its log ends at {journal.last_index}")
        durable_index = max(journal.synced_index, probe.flushed_index)
        if commit_index > durable_index:
            raise Violation(f"{host.name} calls {commit_index} committed, it has synced {durable_index} (P2)")
        for index in range(max(before + 1, journal.first_index + 1), min(commit_index, committed.last_index) + 1):
            if journal.term_at(index) != committed.term_at(index):
                raise Violation(
                    f"{host.name} calls entry {index} of term {journal.term_at(index)} committed, "
                    f"it was committed with term {committed.term_at(index)}"
                )
        if commit_index <= committed.last_index:
            return
        if journal.first_index > committed.last_index + 1:
            raise Violation(f"{host.name} calls {commit_index} committed, nobody ever saw {committed.last_index + 1}")
        for entry, _, term in journal.entries(committed.last_index + 1, commit_index):
            committed.entries.append(entry)
            committed.terms.append(term)
            committed.committed_in.append(probe.term)

    def _check_applied(self, host: Host, probe: NodeProbe, before: int) -> None:
        applied_index = probe.applied_index
        if applied_index < before:
            raise Violation(f"{host.name} had applied {before} and goes back to {applied_index}")
        if applied_index > self.committed.last_index:
            raise Violation(f"{host.name} applied {applied_index}, committed is {self.committed.last_index}")
        digest = probe.digest
        known = self._digests.setdefault(applied_index, digest)
        if known != digest:
            raise Violation(f"{host.name} wrote something else than others up to entry {applied_index}")

    def acknowledged(self, hosts: dict[str, Host], token: bytes, index: int, asked: str) -> None:
        """A client got its answer: a majority of disks hold the operation, synced."""
        self.acknowledged_count += 1
        holders = [name for name, host in hosts.items() if token in host.disk.durable_tokens]
        if len(holders) <= len(hosts) // 2:
            raise Violation(
                f"{token.decode()} (entry {index}) is acknowledged by {asked}, "
                f"but durable only on {', '.join(holders) or 'no disk'} of {len(hosts)}"
            )
        if index > self.committed.last_index:
            raise Violation(f"{token.decode()} is acknowledged at {index}, committed is {self.committed.last_index}")
        if token not in self.committed.entries[index - 1]:
            raise Violation(f"{token.decode()} is acknowledged at entry {index}, which does not hold it")
