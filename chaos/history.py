"""What the clients of a run did and what they were told, as JSON lines.

What lives here: one event, a writer, and a reader that also takes a history whose last line was torn.
Rules: all times are nanoseconds of one monotonic clock. A client has one operation at a time: its `invoke` is ended by
the next `ok` (the answer), `fail` (surely without effect) or `unknown` of the same client; an operation that was never
ended is unknown. Lines stand in the order of their times.
Must not know: how an operation is sent, what a right answer is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, Self

import msgspec

Kind = Literal["invoke", "ok", "fail", "unknown", "info"]


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One line. Which fields are set depends on `f`, the operation; the table is in docs/chaos.md."""

    t: int
    e: Kind
    f: str
    p: int = -1
    """The client; -1 for what no client did."""
    node: str = ""
    topic: str = ""
    consumer: str = ""
    v: int = -1
    """The number that is the message of a publish: no two messages of a run have the same."""
    keyed: bool = False
    """The publish has an Idempotency-Key: it may be repeated, by the same client, under the same `v`."""
    level: int = -1
    partition: int = -1
    offset: int = -1
    index: int = -1
    """The log index that the answer shows."""
    minimum: int = -1
    """`FalconQ-Min-Index` of a read."""
    mode: str = ""
    """Of a read: `linearizable`, `session` or `local`; of a fault: its class."""
    attempt: int = -1
    lease_ms: int = -1
    rows: list[list[int]] | None = None
    """Deliveries `[partition, offset, v, level, delivery count, lease]`, stored messages `[offset, v, level]`, or ends
    of partitions `[partition, next offset]`."""
    acks: list[int] | None = None
    nacks: list[int] | None = None
    rejects: list[int] | None = None
    lost: list[int] | None = None
    """Leases that an ack was told are over."""
    detail: str = ""


class HistoryWriter:
    """Appends events to a file; `close` makes the file whole."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._encoder = msgspec.json.Encoder()

    def write(self, event: Event) -> None:
        self._file.write(self._encoder.encode(event) + b"\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_history(path: Path) -> Iterator[Event]:
    """The events of a file, one at a time; a torn last line is left out. Raises: msgspec.DecodeError."""
    with path.open("rb") as file:
        yield from decode_lines(file)


def decode_lines(lines: Iterable[bytes]) -> Iterator[Event]:
    decode = msgspec.json.Decoder(Event).decode
    for line in lines:
        if line.endswith(b"\n"):
            yield decode(line)
