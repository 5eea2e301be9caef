"""A node that started with this on its path does not recognise a repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falconq_cluster.machine.once import OnceTable

if TYPE_CHECKING:
    from falconq_cluster.machine.once import Name
    from falconq_cluster.machine.rows import OnceRow


def forgetful(table: OnceTable, topic: int, name: Name) -> OnceRow | None:
    return None


OnceTable.get = forgetful  # type: ignore[method-assign, assignment]
