"""Three nodes bear whatever the OpenAPI document allows and forbids, also while the leader dies."""

from __future__ import annotations

import json

from falconq_cluster.raft.backup import MAGIC, End, Head, Pairs, _framed
from tests.fuzz.fuzzer import held_by, messages_of
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
    assert kill_count > 0
    assert findings.compared_count > 50
    silent = findings.never_succeeded()
    assert not silent, f"no request succeeded of {silent}: tests/fuzz/pools.py has no values for them"


def test_messages_of_a_stream_are_known_by_their_id_whoever_holds_their_lease():
    def event(lease: str) -> str:
        data = {"id": "5.0", "message": 1, "lease": {"id": lease}, "deliveryCount": len(lease)}
        return f"id: 1\nevent: message\ndata: {json.dumps(data)}\n\n"

    streams = [f"retry: 1000\n\n{event(lease)}: heartbeat\n\nid: 2\neve".encode() for lease in ("a", "bc")]
    assert [messages_of(stream) for stream in streams] == [{"5.0": {"id": "5.0", "message": 1}}] * 2


def test_backups_of_two_nodes_are_alike_but_for_who_wrote_them():
    def backup(node: str, value: bytes) -> bytes:
        frames: list[Head | Pairs | End] = [Head("c", node, 7, 1, 9), Pairs([(b"k", value)]), End(1, node.encode())]
        return MAGIC + b"".join(_framed(frame) for frame in frames)

    assert held_by(backup("n1", b"1")) == held_by(backup("another", b"1"))
    assert held_by(backup("n1", b"1")) != held_by(backup("n1", b"2"))
