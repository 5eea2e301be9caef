"""What an append that is to happen once may be answered with, found out once more and by itself.

What lives here: a model of the promise, fed with each applied entry.
Rules: within the window, a key is appended once and every repeat gets the first result; a producer's sequences are
appended in order, each once. Only what is new is appended, only what is known is a repeat, only a gap is a gap.
Must not know: how the machine remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from falconq_cluster.machine.commands import AnyOperation, Appended, AppendOnce, Duplicate, Refused, Result
from falconq_cluster.machine.machine import DEFAULT_LIMITS, Applied
from falconq_cluster.machine.operation import Once
from tests.sim.disk import TOKEN
from tests.sim.world import Violation


@dataclass(slots=True)
class _Known:
    made_ms: int
    sequence: int
    index: int
    result: Appended


class OnceModel:
    """All keys and producers of all topics, for ever."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, bool], _Known] = {}
        self._tokens: set[bytes] = set()

    def may_be_again(self, token: bytes, first_ms: int, again_ms: int) -> bool:
        """Whether a message may be stored a second time: it has a key, and the window was over."""
        return token in self._tokens and again_ms - first_ms >= DEFAULT_LIMITS.dedupe_window_ms

    def applied(self, applied: Applied, operations: Sequence[AnyOperation]) -> None:
        """Judge each result of the entry. Raises: Violation."""
        for operation, result in zip(operations, applied.results, strict=True):
            if isinstance(operation, AppendOnce):
                self._tokens.update(TOKEN.findall(operation.records))
                self._judge(operation.topic, operation.once, result, applied)

    def _judge(self, topic: str, once: Once, result: Result, applied: Applied) -> None:
        name = (topic, once.name, once.sequence > 0)
        known = self._known.get(name)
        if known is not None and applied.stamp_ms - known.made_ms >= DEFAULT_LIMITS.dedupe_window_ms:
            known = None
        last = 0 if known is None else known.sequence
        is_new = known is None if not once.sequence else once.sequence == last + 1
        match result:
            case Appended():
                is_right = is_new
                self._known[name] = _Known(applied.stamp_ms, once.sequence, applied.index, result)
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
