"""Changes of one message that is appended already, as operations and results.

What lives here: ChangeMessage and CancelMessage, and what the first one did.
Rules: those of machine/commands.py, which lists all operations and results.
Must not know: the log, the network, time.
"""

from __future__ import annotations

import msgspec

from falconq_cluster.machine.operation import Operation


class ChangeMessage(Operation, frozen=True, tag=42):
    """Give a message that nobody was handed another level or another time."""

    not_after_ms: int
    topic: str
    log_index: int
    number: int
    """Its id is "<log_index>.<number>"."""
    partition: int = -1
    offset: int = -1
    """Where the store of whoever proposes has it; -1 while it waits for its time."""
    level: int = -1
    """-1 leaves it."""
    due_ms: int = -1
    """Log time from which on it is given; -1 leaves it. What is over counts as now."""
    delay_ms: int = -1
    """The same, from the log time of the command on. Only one of both is given."""


class CancelMessage(Operation, frozen=True, tag=43):
    """Let nobody be given a message that nobody was handed."""

    not_after_ms: int
    topic: str
    log_index: int
    number: int
    partition: int = -1
    offset: int = -1
    """These are those of ChangeMessage."""


class MessageChanged(msgspec.Struct, frozen=True, tag=True):
    """The message is as the operation says."""

    topic: str
    partition: int
    level: int
    offset: int
    """-1 while it waits for its time."""
    due_ms: int
    """Log time at which it enters its level; 0 of what does not wait."""


AmendOperation = ChangeMessage | CancelMessage
