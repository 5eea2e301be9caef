"""Bodies that are no JSON of ours, as messages.

What lives here: how raw bytes become a message, how text names a level, and the headers that say when it may be given.
Rules: a message is always JSON. Text and forms in UTF-8 are strings, all else is a string in base64, and the message's
headers say which by `contentType` and `encoding`.
Must not know: aiohttp, the broker.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import msgspec

from falconq_cluster.gateway.describing import Number
from falconq_cluster.gateway.fields import media_type, refuse
from falconq_cluster.gateway.query import read_number
from falconq_cluster.gateway.routing import Call
from falconq_cluster.machine.delaying import DELAY_MS_MAX

PRIORITY_DIGITS_MAX = 5
"""As many as the largest number of a level in a JSON body has."""
FORM = "application/x-www-form-urlencoded"
"""What `curl -d` says of any body that it is not told the type of."""

DELAY = Number(name="FalconQ-Delay-Ms", text="Of a raw body or an event: its `delayMs`.", least=0, most=DELAY_MS_MAX)
TTL = Number(name="FalconQ-Ttl-Ms", text="Of a raw body or an event: its `ttlMs`.", least=1, most=DELAY_MS_MAX)

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a message may be given, as headers beside its body say; None where there is no such header."""

    delay_ms: int | None = None
    ttl_ms: int | None = None


def read_timing(call: Call) -> Timing:
    """What the request's headers say. Raises: bad_request."""
    delay, ttl = single_header(call, DELAY.name), single_header(call, TTL.name)
    return Timing(
        delay_ms=None if delay is None else read_number(delay, DELAY),
        ttl_ms=None if ttl is None else read_number(ttl, TTL),
    )


def single_header(call: Call, name: str) -> str | None:
    """The header's value, None without one. Raises: bad_request when it is there more than once."""
    values = call.headers(name)
    if len(values) > 1:
        raise refuse(name, f"header '{name}' is there more than once; give it one value")
    return values[0] if values else None


def raw_message(body: bytes, content_type: str) -> tuple[bytes, dict[str, str]]:
    """(message as JSON, headers that say how)."""
    headers = {"contentType": content_type}
    name = media_type(content_type)
    if name.startswith("text/") or name == FORM:
        try:
            return _encoder.encode(body.decode()), headers
        except UnicodeDecodeError:
            pass  # In another charset, or no text: base64 keeps it.
    return _encoder.encode(b64encode(body).decode()), headers | {"encoding": "base64"}


def level_of_text(value: str | None) -> str | int | None:
    """A number, or else a level's name."""
    if value is not None and value.isascii() and value.isdigit() and len(value) <= PRIORITY_DIGITS_MAX:
        return int(value)
    return value
