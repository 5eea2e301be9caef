"""The messages of a batch's body, as they came.

What lives here: how a JSON array and NDJSON are split.
Rules: a turn of the loop reads one piece of the body, unless a single message is larger. What is no array of values
is refused by the same words, whatever its size. No more messages are split off than a batch may have, and one.
Must not know: aiohttp, what a message is.
"""

from __future__ import annotations

import asyncio
import re

import msgspec

from falconq_cluster.errors import FalconQError

PIECE_BYTES = 131_072
"""Read in one turn: it takes 1 ms of small values, and far less of what people send."""

_BETWEEN_OBJECTS = re.compile(rb"\}[ \t\r\n]*(,)")
_COMMA = re.compile(rb"(,)")
_BYTE = re.compile(r"\(byte (\d+)\)")
_FOLLOWING = b"[0,"
"""A piece that is not the first becomes an array with this. A comma at the end of the whole is still found then."""

_array_decoder: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


async def split_array(body: bytes, count_max: int) -> list[bytes]:
    """The elements of a JSON array, the first `count_max + 1` of more. Raises: bad_request.

    A piece ends where one element seems to end and another one to follow. It does so if the piece is an array when it
    is closed there: what comes before a place alone decides whether the place is in a string or in another value. Else
    the place was in a message, and a larger piece is tried.
    """
    parts: list[bytes] = []
    start, size, opening = 0, PIECE_BYTES, b""
    while len(parts) <= count_max:
        cut = _cut(body, start + size, start + 2 * size)
        if cut is None and start + 2 * size < len(body):
            size *= 2
            continue
        try:
            read = _array_decoder.decode(b"".join((opening, body[start:cut], b"" if cut is None else b"]")))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            is_cut_wrong = isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
            if cut is None or not is_cut_wrong:
                raise _no_array(error, start - len(opening)) from error
            size *= 2
        else:
            if cut is not None and not read:
                size *= 2  # A comma before the first element: the whole is refused for it.
                continue
            parts += [bytes(part) for part in read[1 if opening else 0 : count_max + 2]]
            if cut is None:
                break
            start, size, opening = cut + 1, PIECE_BYTES, _FOLLOWING
        await asyncio.sleep(0)
    return parts[: count_max + 1]


async def split_lines(body: bytes, count_max: int) -> list[bytes]:
    """The lines that are not blank, the first `count_max + 1` of more."""
    parts: list[bytes] = []
    start = 0
    while start < len(body) and len(parts) <= count_max:
        end = body.find(b"\n", start + PIECE_BYTES)
        end = len(body) if end < 0 else end
        parts += [line for line in body[start:end].split(b"\n") if line.strip()]
        start = end + 1
        if start < len(body):
            await asyncio.sleep(0)
    return parts[: count_max + 1]


def _cut(body: bytes, start: int, stop: int) -> int | None:
    """A comma that seems to stand between two elements, best between two objects."""
    found = _BETWEEN_OBJECTS.search(body, start, stop) or _COMMA.search(body, start, stop)
    return None if found is None else found.start(1)


def _no_array(error: Exception, offset: int) -> FalconQError:
    text = _BYTE.sub(lambda found: f"(byte {int(found[1]) + offset})", str(error).removeprefix("JSON is malformed: "))
    message = f'the body is not a JSON array of messages: {text[:200]}; send [{{"message": …}}, …] or NDJSON'
    return FalconQError("bad_request", message)
