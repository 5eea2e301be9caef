"""What clients were told, to be held against what the nodes store.

What lives here: the outcome of every publish, and the check of what can be read back.
Rules: every acknowledged message is stored once, at its offset, with its priority; every refused one is absent; one of
unknown outcome is there at most once; nothing else is there; offsets are dense.
Must not know: how the messages were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One publish."""

    topic: str
    payload: str
    kind: str
    node: str
    partition: int = -1
    offset: int = -1
    priority: str = ""


@dataclass(slots=True)
class Ledger:
    """All publishes of a test, by payload; payloads are never used twice."""

    entries: dict[str, Entry] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    def new_payload(self, author: str) -> str:
        return f"{author}-{next(self._numbers)}"

    def note(self, topic: str, payload: str, *, kind: str, node: str, answer: dict[str, Any]) -> None:
        """Write down what the client was told about the payload."""
        assert payload not in self.entries
        if kind == "acknowledged":
            place = (int(answer["partitionID"]), int(answer["offset"]), str(answer["priority"]))
            self.entries[payload] = Entry(topic, payload, kind, node, *place)
        else:
            self.entries[payload] = Entry(topic, payload, kind, node)

    @property
    def size(self) -> int:
        return len(self.entries)

    def acknowledged(self, topic: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.kind == "acknowledged" and entry.topic == topic]

    def check(self, topic: str, messages: Sequence[dict[str, Any]], *, reader: str) -> None:
        """Holds all messages of one partition of the topic, in offset order, against the ledger."""
        offsets = [message["offset"] for message in messages]
        assert offsets == list(range(len(messages))), f"offsets on {reader} are not dense: {_odd(offsets)}"
        stored: dict[str, dict[str, Any]] = {}
        for message in messages:
            twice = stored.get(message["message"])
            assert twice is None, f"{reader} has {message['message']} twice: {twice} and {message}"
            stored[message["message"]] = message
        mine = [entry for entry in self.entries.values() if entry.topic == topic]
        lost = [entry for entry in mine if entry.kind == "acknowledged" and entry.payload not in stored]
        assert not lost, f"{len(lost)} acknowledged messages are not on {reader}: {lost[:SHOWN_MAX]}"
        untrue = [entry for entry in mine if entry.kind == "refused" and entry.payload in stored]
        assert not untrue, f"{len(untrue)} refused messages are on {reader}: {untrue[:SHOWN_MAX]}"
        for entry in mine:
            if entry.kind == "acknowledged":
                message = stored[entry.payload]
                assert (message["offset"], message["priority"]) == (entry.offset, entry.priority), (entry, message)
        phantoms = [payload for payload in stored if payload not in self.entries]
        assert not phantoms, f"{len(phantoms)} messages on {reader} were published by nobody: {phantoms[:SHOWN_MAX]}"


def _odd(offsets: list[int]) -> list[tuple[int, int]]:
    return [(place, offset) for place, offset in enumerate(offsets) if place != offset][:SHOWN_MAX]
