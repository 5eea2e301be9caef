"""PySyncObj is the release that the shell was made for: its private names, their meaning, and what is taken away."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import tomllib
from pathlib import Path

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf

from falconq_cluster.errors import StopProcess
from falconq_cluster.machine import machine
from falconq_cluster.raft import library
from falconq_cluster.raft.library import PRIVATE_NAMES, Member, _Outlet, _replaced_parts
from tests.unit.raft.cluster_helpers import BASE, Bench, entries

ROOT = Path(__file__).parents[3]
SIGNATURES = {
    "_SyncObj__applyLogEntries": [],
    "_SyncObj__onMessageReceived": ["node", "message"],
    "_SyncObj__onNodeConnected": ["node"],
    "_SyncObj__onNodeDisconnected": ["node"],
    "_SyncObj__sendAppendEntries": [],
    "_SyncObj__setCurrentTerm": ["term", "votedForNodeId"],
    "_SyncObj__setState": ["newState"],
    "_SyncObj__tryLogCompaction": [],
}


@pytest.fixture
def plain(bench: Bench) -> SyncObj:
    """The library's own class, as it makes itself."""
    with _replaced_parts(bench.node.journal):
        return SyncObj(
            Member("n1"), [Member("n2"), Member("n3")], SyncObjConf(autoTick=False), transport=_Outlet(lambda *_: None)
        )


def test_the_release_is_the_one_that_the_shell_was_made_for():
    assert importlib.metadata.version("pysyncobj") == "0.3.17"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "pysyncobj==0.3.17" in project["dependencies"]


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_every_private_name_is_there(plain: SyncObj, name: str):
    assert hasattr(SyncObj, name) or name in vars(plain)


def test_the_list_is_what_the_code_uses():
    used = set()
    for path in (ROOT / "falconq_cluster").rglob("*.py"):
        code = re.sub(r"PRIVATE_NAMES = \(.*?\n\)", "", path.read_text(), flags=re.DOTALL)
        used |= set(re.findall(r"_SyncObj__\w+", code))
    assert used == set(PRIVATE_NAMES)


@pytest.mark.parametrize(("name", "arguments"), SIGNATURES.items())
def test_private_methods_take_what_they_are_given(name: str, arguments: list[str]):
    assert list(inspect.signature(getattr(SyncObj, name)).parameters)[1:] == arguments


def test_states_and_the_no_op_are_the_librarys():
    states = pysyncobj.syncobj._RAFT_STATE
    assert (states.FOLLOWER, states.CANDIDATE, states.LEADER) == (
        library.FOLLOWER, library.CANDIDATE, library.LEADER,
    )  # fmt: skip
    no_op = bytes([pysyncobj.syncobj._COMMAND_TYPE.NO_OP])
    assert no_op == library.NO_OP == machine.NO_OP


def test_private_fields_begin_with_the_meaning_that_they_have(plain: SyncObj):
    fields = vars(plain)
    assert fields["_SyncObj__raftState"] == library.FOLLOWER
    assert fields["_SyncObj__raftLeader"] is None
    assert fields["_SyncObj__raftLog"][-1][1] == BASE[0]
    assert fields["_SyncObj__connectedNodes"] == set()
    for name in ("lastResponseTime", "raftMatchIndex", "raftNextIndex"):
        assert fields[f"_SyncObj__{name}"] == {}


def test_a_new_leader_sets_the_fields_that_the_shell_reads(bench: Bench):
    term = bench.become_leader()
    assert bench.library.no_op_index == bench.last_index
    assert bench.library.voted_for == "n1"
    assert (bench.library.next_index("n2"), bench.library.match_index("n2")) == (bench.last_index + 1, 0)
    assert bench.library.leader == "n1"
    assert bench.node.journal.getCurrentTerm() == term
    bench.ack("n2", bench.last_index)
    assert bench.library.match_index("n2") == bench.last_index


def test_the_librarys_factories_are_its_own_again_after_a_construction_that_fails(bench: Bench):
    def fail() -> None:
        with _replaced_parts(bench.node.journal):
            assert pysyncobj.syncobj.createJournal("any") is bench.node.journal
            raise ZeroDivisionError

    before = pysyncobj.syncobj.createJournal, pysyncobj.syncobj.createPoller
    with pytest.raises(ZeroDivisionError):
        fail()
    assert (pysyncobj.syncobj.createJournal, pysyncobj.syncobj.createPoller) == before


def test_members_hash_alike_in_every_process():
    assert hash(Member("n1")) == 3950597356
    assert Member("n1") == Member("n1")


# What is taken away.


def test_the_library_is_told_not_to_do_what_the_shell_does(bench: Bench):
    conf = bench.library._getConf()
    assert not conf.autoTick
    assert not conf.dynamicMembershipChange
    assert conf.journalFile is None
    assert conf.fullDumpFile is None
    assert not conf.commandsWaitLeader
    assert conf.appendEntriesBatchSizeBytes == 16 << 20
    assert conf.leaderFallbackTimeout == pytest.approx(1.0)


def test_there_are_no_replicated_methods_whose_numbers_or_versions_could_differ(bench: Bench):
    assert bench.library._idToMethod == {}
    assert bench.library._methodToID == {}


def test_the_librarys_own_timer_never_campaigns(bench: Bench):
    bench.clock.now_ms += 10_000_000_000
    for _ in range(3):
        bench.library.tick()
    assert not bench.library.is_candidate
    assert bench.library.term == 1


def test_the_library_applies_compacts_and_dumps_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object, **_named: object) -> None:
        raise AssertionError

    for name in ("__doApplyCommand", "__loadDumpFile", "__deleteEntriesTo"):
        monkeypatch.setattr(SyncObj, f"_SyncObj{name}", fail)
    bench.append(entries(3, 40, 2), term=2, commit=40)
    bench.advance(2000)
    bench.lead()
    assert bench.applied_index == bench.last_index
    assert not bench.fatal


def test_a_message_that_the_shell_does_not_know_stops_the_process(bench: Bench):
    with pytest.raises(StopProcess, match="'apply_command'"):
        bench.driver._library_sends("n2", {"type": "apply_command"})
