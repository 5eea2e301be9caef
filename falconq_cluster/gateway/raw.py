"""Bodies that are no JSON of ours, as messages.

What lives here: how raw bytes become a message, and how text names a level.
Rules: a message is always JSON. Text and forms in UTF-8 are strings, all else is a string in base64, and the message's
headers say which by `contentType` and `encoding`.
Must not know: aiohttp, routes.
"""

from __future__ import annotations

from base64 import b64encode

import msgspec

from falconq_cluster.gateway.fields import media_type

PRIORITY_DIGITS_MAX = 5
"""As many as the largest number of a level in a JSON body has."""
FORM = "application/x-www-form-urlencoded"
"""What `curl -d` says of any body that it is not told the type of."""

_encoder = msgspec.json.Encoder()


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
