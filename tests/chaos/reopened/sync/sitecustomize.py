"""A node that started with this on its path answers before its journal is synced: it never syncs what it appends."""

from __future__ import annotations

from typing import Any

from falconq_cluster.raft.journal_writer import JournalWriter

with_sync = JournalWriter.append


def forgetful(writer: JournalWriter, *arguments: Any, **named: Any) -> Any:
    steps, number, positions = with_sync(writer, *arguments, **named)
    return steps[:-1], number, positions


JournalWriter.append = forgetful  # type: ignore[method-assign, assignment]
