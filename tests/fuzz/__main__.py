"""`make fuzz`: the fuzzer for a given time, and a page that tells of it.

What lives here: the command line, and the text of docs/fuzz.md.
Rules: ends with 1 when something is wrong. The text is of one run and says what was run.
Must not know: how requests are made.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from tests.fuzz.fuzzer import Findings
from tests.fuzz.passes import run_pass

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fuzz.md"
VALID, INVALID = 10, 4
TEXT = """# Fuzzing the HTTP contract

[schemathesis](https://schemathesis.readthedocs.io) makes requests from `/v1/openapi.json`, such that fit it and such
that do not, each round in another order, and sends them to three nodes in turn. In one of three rounds one leader after
the other gets `kill -9` and comes back while requests go on, so every route meets it. Wrong would be:

- a 5xx that is not 503 or 504 with `retryable`, or a probe's 503;
- an answer with a status, code, header or field that the document does not have;
- a request that breaks the document and succeeds;
- two nodes that answer a read differently while both show the same `FalconQ-Index` (ages and ends of leases
  aside, which go on), that write backups of one index with different contents, or that give a message differently in a
  consumer's event stream;
- a node that runs and does not answer;
- an operation of which no request ever succeeded, since then nothing was tried;
- stores that are not equal byte for byte in the end.

A short pass is part of the tests (`tests/fuzz`). A long one:

    make fuzz SECONDS=600 SEED=1

The last one, at commit {commit} with seed {seed}: {seconds:.0f} s, {answered:,} answers, {unanswered:,} requests to a
node that was down, {compared:,} reads held against another node's answer, {kills} kills of the leader: **{mistakes}
mistakes**.

| operation | answers by status |
|---|---|
{table}
"""


def main() -> int:
    """Run it, and the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz a cluster of three nodes.")
    parser.add_argument("--seconds", type=float, default=600, help="no new round after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/fuzz.md")
    arguments = parser.parse_args()
    began = time.monotonic()
    findings, kills = asyncio.run(
        run_pass(seed=arguments.seed, valid=VALID, invalid=INVALID, seconds=arguments.seconds)
    )
    text = page(findings, kills, seed=arguments.seed, seconds=time.monotonic() - began)
    print(text)
    for what, request in findings.mistakes.items():
        print(f"WRONG: {what}\n    {request}", file=sys.stderr)
    for operation in findings.never_succeeded():
        print(f"WRONG: no request of {operation} succeeded", file=sys.stderr)
    if arguments.write:
        PAGE.write_text(text)
    return 1 if findings.mistakes or findings.never_succeeded() else 0


def page(findings: Findings, kills: int, *, seed: int, seconds: float) -> str:
    """The text of docs/fuzz.md."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    rows: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for (operation, status), count in findings.statuses.items():
        rows[operation][status] = count
    table = [
        f"| `{operation}` | {', '.join(f'{status}: {count}' for status, count in sorted(row.items()))} |"
        for operation, row in sorted(rows.items())
    ]
    return TEXT.format(
        commit=commit.stdout.decode().strip(),
        seed=seed,
        seconds=seconds,
        answered=findings.request_count,
        unanswered=findings.unanswered_count,
        compared=findings.compared_count,
        kills=kills,
        mistakes=len(findings.mistakes),
        table="\n".join(table),
    )


if __name__ == "__main__":
    sys.exit(main())
