"""Three nodes bear whatever the OpenAPI document allows and forbids, also while the leader dies."""

from __future__ import annotations

from tests.fuzz.passes import run_pass

SEED = 4
VALID, INVALID = 4, 2
"""Requests of each operation and round; `make fuzz` makes more."""


async def test_requests_made_from_the_document_are_answered_as_it_says_and_alike_on_all_nodes() -> None:
    findings, kill_count = await run_pass(seed=SEED, valid=VALID, invalid=INVALID)
    print(
        f"\n{findings.request_count} requests, {findings.compared_count} reads compared, "
        f"{findings.unanswered_count} to a node that was down"
    )
    assert not findings.mistakes, "\n".join(f"{what}\n    {request}" for what, request in findings.mistakes.items())
    assert kill_count == 1
    assert findings.compared_count > 50
    silent = findings.never_succeeded()
    assert not silent, f"no request succeeded of {silent}: tests/fuzz/pools.py has no values for them"
