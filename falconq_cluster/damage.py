"""What becomes of a node whose store is damaged.

What lives here: the end of a process that meets damage while it serves, and the refusal of the next start.
Rules: whoever meets the damage first, on any thread, ends the process, so that clients go to nodes that have the data
and a leader makes way. A note in the data directory keeps the node from starting again: it would serve until what is
damaged is read once more, and each end would leave requests with an unknown outcome. The note goes with the data.
Must not know: what a store is, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

from falconq_cluster.errors import CorruptionError, StopProcess
from falconq_cluster.storage.files import FileSystem

DAMAGE_FILE = "damaged"
EXIT_DISK = 74


class DamageGuard:
    """Watches over one data directory."""

    def __init__(self, files: FileSystem, data_dir: str, end: Callable[[StopProcess], None]) -> None:
        self._files = files
        self._file = f"{data_dir}/{DAMAGE_FILE}"
        self._end = end
        self.is_serving = False
        """Before, a start refuses by itself what it meets."""

    def check(self) -> None:
        """Raises: CorruptionError when the node met damage before and has the same data still."""
        note = self._files.read_file(self._file)
        if note is not None:
            raise CorruptionError(
                f"{note.decode(errors='replace').strip()} (this node met that before; see {self._file})"
            )

    def met(self, error: CorruptionError) -> None:
        """End the process, and say what is damaged."""
        if not self.is_serving:
            return
        try:
            self._files.replace_file(self._file, f"{error}\n".encode())
        except OSError as failed:
            error.add_note(f"this could not be noted in {self._file}: {failed}")
        self._end(StopProcess("; ".join([str(error), *getattr(error, "__notes__", [])]), EXIT_DISK))
