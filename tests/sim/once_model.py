"""What an append that is to happen once may be answered with, found out once more and by itself.

What lives here: a model of the promise, fed with each applied entry.
Rules: within the window that its topic had at the append, a key is appended once and every repeat gets the first
result; a producer's sequences are appended in order, each once. Only what is new is appended, only what is known is a
repeat, only a gap is a gap.
Must not know: how the machine remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from falconq_cluster.machine.commands import (
    AnyOperation,
    Appended,
    AppendOnce,
    DeleteTopic,
    Done,
    Duplicate,
    Refused,
    Result,
    TopicSet,
)
from falconq_cluster.machine.machine import Applied
from falconq_cluster.machine.settings import DEDUPE_WINDOW_MS
from tests.sim.disk import TOKEN
from tests.sim.world import Violation


@dataclass(slots=True)
class _Known:
    until_ms: int
    sequence: int
    index: int
    result: Appended


class OnceModel:
    """All keys and producers of all topics, for ever."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, bool], _Known] = {}
        self._windows: dict[str, int] = {}
        """topic -> its window, if somebody has set it."""
        self._until_ms: dict[tuple[bytes, int], int] = {}
        """(token, log time of an append) -> until when a repeat was to be known."""

    def may_be_again(self, token: bytes, first_ms: int, again_ms: int) -> bool:
        """Whether a message may be stored a second time: it has a key, and the window was over."""
        until_ms = self._until_ms.get((token, first_ms))
        return until_ms is not None and again_ms >= until_ms

    def applied(self, applied: Applied, operations: Sequence[AnyOperation]) -> None:
        """Judge each result of the entry. Raises: Violation."""
        for operation, result in zip(operations, applied.results, strict=True):
            if isinstance(operation, AppendOnce):
                self._judge(operation, result, applied)
            elif isinstance(result, TopicSet):
                self._windows[result.topic] = result.config.dedupe_window_ms
            elif isinstance(operation, DeleteTopic) and isinstance(result, Done):
                self._windows.pop(operation.topic, None)
                self._known = {name: known for name, known in self._known.items() if name[0] != operation.topic}

    def _judge(self, operation: AppendOnce, result: Result, applied: Applied) -> None:
        topic, once = operation.topic, operation.once
        name = (topic, once.name, once.sequence > 0)
        known = self._known.get(name)
        if known is not None and applied.stamp_ms >= known.until_ms:
            known = None
        last = 0 if known is None else known.sequence
        is_new = known is None if not once.sequence else once.sequence == last + 1
        match result:
            case Appended():
                is_right = is_new
                until_ms = applied.stamp_ms + self._windows.get(topic, DEDUPE_WINDOW_MS)
                if known is not None:
                    until_ms = max(until_ms, known.until_ms)
                self._known[name] = _Known(until_ms, once.sequence, applied.index, result)
                for token in TOKEN.findall(operation.records):
                    self._until_ms[token, applied.stamp_ms] = until_ms
            case Duplicate(first=None):
                is_right = 0 < once.sequence < last
            case Duplicate():
                first = None if known is None else (known.result, known.index)
                is_right = once.sequence == last and first == (result.first, result.first_index)
            case Refused(code="sequence_gap"):
                is_right = once.sequence > last + 1
            case _:
                # Expired, and whatever else is judged first.
                is_right = isinstance(result, Refused) and result.code not in ("key_reused", "dedupe_full")
        if not is_right:
            raise Violation(f"entry {applied.index} answers {once} of {topic} with {result}, known is {known}")
