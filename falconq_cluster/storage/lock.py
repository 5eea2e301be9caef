"""A data directory belongs to one process at a time.

What lives here: the lock on a data directory.
Rules: the kernel releases it when the process ends, however it ends, so a stale lock cannot exist.
Must not know: what is in the directory.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from falconq_cluster.errors import ConfigurationError

FILE_NAME = "lock"


class DirectoryLock:
    """Holds the directory, which must exist, from enter to exit. Raises: ConfigurationError when it is taken."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        file = (self._directory / FILE_NAME).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ConfigurationError(
                f"{self._directory} is in use by another process: stop it, or name another --data-dir"
            ) from error
        self._file = file

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
