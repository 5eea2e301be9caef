"""Helpers of the journal's tests: opening, syncing, and a list that does the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

from falconq_cluster.raft.journal import Entry, Journal
from falconq_cluster.storage.files import FileSystem

DIRECTORY = "data/journal"
SEGMENT_BYTES = 8192


def open_journal(files: FileSystem, directory: str = DIRECTORY, *, cache_bytes: int = 1 << 20) -> Journal:
    return Journal.open(
        files, directory, node_id="node-1", disk_id="d1", segment_bytes=SEGMENT_BYTES, cache_bytes=cache_bytes
    )


def sync(journal: Journal) -> None:
    job = journal.begin_sync()
    for step in job.steps:
        step()
    journal.end_sync(job)


@dataclass
class State:
    """What a journal holds, as plain data."""

    entries: list[Entry] = field(default_factory=list)
    term: int = 0
    vote: str | None = None

    def copy(self) -> State:
        return deepcopy(self)


def state_of(journal: Journal) -> State:
    return State(list(journal[:]), journal.getCurrentTerm(), journal.getVotedForNodeId())
