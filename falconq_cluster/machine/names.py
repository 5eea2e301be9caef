"""Which names the machine accepts, and how what has one is found.

What lives here: the pattern of topics and consumers, as the HTTP contract publishes it, and their tables.
Rules: names become parts of keys, so every name that reaches a key was checked here first. A page of a table costs no
look at the rest of it.
Must not know: what is named.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from typing import TypeVar

T = TypeVar("T")

NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"

_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


class Named(dict[str, T]):
    """Things by name, that are also known in the order of their names; only set and deleted one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.sorted_names: list[str] = []
        """For reading only."""

    def __setitem__(self, name: str, thing: T) -> None:
        if name not in self:
            insort(self.sorted_names, name)
        super().__setitem__(name, thing)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        del self.sorted_names[bisect_left(self.sorted_names, name)]

    def after(self, name: str, limit: int) -> list[str]:
        """The first names behind this one."""
        first = bisect_right(self.sorted_names, name)
        return self.sorted_names[first : first + limit]
