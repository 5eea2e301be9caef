"""Where the `falconq` command begins.

What lives here: what must be so before the other modules are read, which takes half a second.
Rules: SIGTERM ends a node that has not begun yet at once, with exit code 0. As process 1 of a container it would be
ignored without a handler, and the container killed after the whole grace period. A launcher may block the signal until
then (deploy/docker/falconq), so that none is lost while the interpreter starts.
Must not know: commands.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:2] == ["serve"]:
        # No data is open; once there is some, the running node has a handler of its own.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    from falconq_cluster.cli import app  # noqa: PLC0415 (see above)

    app()
