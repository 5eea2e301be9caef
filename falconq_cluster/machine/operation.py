"""What all operations have in common.

What lives here: their base.
Rules: those of machine/commands.py, which lists all operations.
Must not know: any operation.
"""

from __future__ import annotations

import msgspec


class Operation(msgspec.Struct, frozen=True, array_like=True, gc=False, tag_field="kind"):
    """The base of all operations."""
