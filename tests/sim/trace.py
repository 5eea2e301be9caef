"""What happened, in order: a hash over all of it and the last part in words.

What lives here: the event trace of one run.
Rules: the hash covers every event with its virtual time, so two runs with the same hash did the same; texts are made
only when a transcript is asked for, since most runs never show one.
Must not know: what the events mean.
"""

from __future__ import annotations

import hashlib
from collections import deque

KEPT_EVENTS = 4000
_SHOWN_CHARACTERS = 220

Detail = object


class Trace:
    """The running hash and the last events of a run."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=12)
        self._last: deque[tuple[int, str, str, Detail]] = deque(maxlen=KEPT_EVENTS)
        self.event_count = 0

    def add(self, now_us: int, who: str, what: str, detail: Detail = "", fingerprint: bytes = b"") -> None:
        """Note an event; `fingerprint` stands for a detail whose text would be costly."""
        self.event_count += 1
        self._last.append((now_us, who, what, detail))
        if fingerprint:
            self._hash.update(b"%d %s %s " % (now_us, who.encode(), what.encode()) + fingerprint)
        else:
            self._hash.update(f"{now_us} {who} {what} {detail}".encode())

    def digest(self) -> str:
        """The hash of everything so far."""
        return self._hash.hexdigest()

    def transcript(self, count: int = 200, *, without: tuple[str, ...] = ()) -> list[str]:
        """The last `count` events as lines, oldest first; `without` leaves out those whose `what` starts so."""
        kept = [event for event in self._last if not event[2].startswith(without)] if without else list(self._last)
        return [_line(*event) for event in kept[-count:]]


def _line(now_us: int, who: str, what: str, detail: Detail) -> str:
    text = str(detail)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}..."
    return f"{now_us / 1e6:12.6f}  {who:<8} {what:<18} {text}"
