"""Single messages on real nodes: where they stand, their changes and cancellations, and the guide's commands.

What lives here: the guide's commands.
Rules: the guide's commands are read from docs/messages.md and run word for word but for their ports.
Must not know: how a message is found or changed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

from tests.cluster.harness import Cluster
from tests.cluster.test_leases import with_ports

GUIDE = Path(__file__).parents[2] / "docs" / "messages.md"


async def test_the_commands_of_the_guide_do_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith(("    curl -s ", "    ID="))]
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-ec", with_ports("\necho\n".join(lines), cluster)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    published, shown, changed, cancelled, gone = [json.loads(line) for line in done.stdout.splitlines() if line]
    assert (shown["id"], shown["message"], shown["offset"]) == (published["id"], "tomorrow", None)
    assert (shown["state"], shown["priority"], shown["dueAt"]) == ("delayed", "low", published["dueAt"])
    assert (changed["state"], changed["priority"]) == ("delayed", "high")
    assert changed["dueAt"] < published["dueAt"]
    assert cancelled == {"status": "message cancelled", "topic": "parcels", "id": published["id"]}
    assert gone["code"] == "message_not_found"
