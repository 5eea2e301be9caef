"""The trace that a message belongs to, as W3C Trace Context names it.

What lives here: reading the `traceparent` header.
Rules (https://www.w3.org/TR/trace-context-1/ section 3.2): a header that is not valid is as none, since whatever stands
between a client and a node may have made it, and a message is worth more than its trace. A later version may be longer.
Must not know: where it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from falconq_cluster.gateway.describing import Text

TRACEPARENT = Text(
    name="traceparent",
    text="The trace that the message belongs to, by W3C Trace Context; given back among its headers. One that is not "
    "valid is ignored.",
)

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[0-9a-zA-Z_.-]{0,100})?",
    re.ASCII,
)


def read_traceparent(values: Sequence[str]) -> str | None:
    """The header as it came; None without one, with several, and with one that is not valid."""
    match = _TRACEPARENT.fullmatch(values[0].strip()) if len(values) == 1 else None
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    return match[0]
