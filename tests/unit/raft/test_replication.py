"""Entries from a leader to its followers: RAFT.md S1, S2, S11, L1, L3 and PROTOCOL.md P2, on both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from falconq_cluster.raft import guards
from falconq_cluster.raft import frames as f
from falconq_cluster.raft.guards import LogView, StrippedAppend
from falconq_cluster.raft.journal import Journal
from falconq_cluster.raft.library import RaftLibrary
from tests.unit.raft.cluster_helpers import Bench, entries


def test_smoke(bench: Bench):
    bench.append(entries(3, 5, 2), term=2)
    assert bench.terms == [2, 2, 2]
    assert [r.next_index for r in bench.take(f.AppendReply)] == [6]

def test_smoke2(bench):
    t = bench.lead()
    bench.broker.publish("x")
    bench.driver.request_step()
    bench.settle()
    print(t, bench.network.sent)
    bench.ack("n2", bench.last_index)
    print(bench.applied_index, bench.last_index)
