"""Which names the machine accepts.

What lives here: the pattern of topics and consumers, as the HTTP contract publishes it.
Rules: names become parts of keys, so every name that reaches a key was checked here first.
Must not know: what is named.
"""

from __future__ import annotations

import re

NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"

_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None
