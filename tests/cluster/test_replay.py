"""Replay on real nodes: the guide's commands, word for word but for their ports."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.cluster.harness import Cluster

GUIDE = Path(__file__).parents[2] / "docs" / "replay.md"


async def test_the_commands_of_the_guide_show_what_it_says(cluster: Cluster) -> None:
    nodes = list(cluster.nodes.values())
    lines = [line.strip() for line in GUIDE.read_text().splitlines() if line.strip().startswith("curl ")]
    index = ""

    def run(line: str) -> tuple[int, dict[str, str], str]:
        for number, node in enumerate(nodes):
            line = line.replace(f"localhost:808{number + 1}", node.url.removeprefix("http://"))
        command = ["bash", "-c", f"{line.replace('$INDEX', index)} --silent --show-error"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
        first, *headers = head.split("\n")
        return int(first.split()[1]), dict(header.split(": ", 1) for header in headers), body

    answers: list[tuple[int, dict[str, str], str]] = []
    for line in lines:
        answers.append(await asyncio.to_thread(run, line))
        index = answers[-1][1]["FalconQ-Index"]
        if len(answers) == 2:
            await cluster.converge()
    stored, first, last, since, as_lines, purged, gone = answers
    assert [status for status, _, _ in answers] == [200, 200, 200, 200, 200, 200, 410]

    def texts(body: str) -> list[Any]:
        return [message["message"] for message in json.loads(body)["messages"]]

    assert len(json.loads(stored[2])["results"]) == 3
    assert texts(first[2]) == ["a", "b"]
    link = first[1]["Link"]
    assert link.startswith("</v1/topics/sales/messages?from=offset:2&limit=2>")
    assert link.removeprefix("<").partition(">")[0] in lines[2]
    assert (texts(last[2]), json.loads(last[2])["nextOffset"], "Link" in last[1]) == (["c"], 3, False)
    assert texts(since[2]) == ["a"]
    assert [json.loads(line)["message"] for line in as_lines[2].splitlines()] == ["a", "b", "c"]
    assert json.loads(purged[2])["count"] == 3
    problem = json.loads(gone[2])
    assert (problem["code"], problem["details"]["firstOffset"]) == ("offset_gone", 3)
