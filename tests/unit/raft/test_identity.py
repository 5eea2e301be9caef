"""Which disk this is (PROTOCOL.md P4)."""

from __future__ import annotations

from random import Random

import pytest

from falconq_cluster.errors import ConfigurationError, CorruptionError
from falconq_cluster.raft.identity import load_or_create_identity, read_identity
from tests.unit.raft.memory_files import MemoryFileSystem


def load(files: MemoryFileSystem, node: str = "n1", *, seed: int = 1) -> str:
    return load_or_create_identity(files, "/data", node_id=node, chance=Random(seed)).disk_id


def test_the_disk_id_is_made_once_and_survives_a_power_loss():
    files = MemoryFileSystem()
    made = load(files)
    files.power_loss(Random(3))
    assert load(files, seed=2) == made


def test_an_empty_directory_is_another_disk():
    assert read_identity(MemoryFileSystem(), "/data") is None
    assert load(MemoryFileSystem(), seed=1) != load(MemoryFileSystem(), seed=2)


def test_another_nodes_directory_is_refused_with_both_ways_out():
    files = MemoryFileSystem()
    load(files)
    with pytest.raises(ConfigurationError, match=r"belongs to node 'n1'.*--node-id n1.*--data-dir"):
        load(files, "n2")


def test_a_file_with_any_byte_changed_or_missing_is_refused():
    files = MemoryFileSystem()
    load(files)
    whole = files.read_file("/data/identity")
    assert whole is not None
    for position in range(len(whole.rstrip())):
        for damaged in (whole[:position], whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]):
            files.replace_file("/data/identity", damaged)
            with pytest.raises(CorruptionError, match="/data/identity is damaged"):
                read_identity(files, "/data")


def test_a_crash_while_it_is_made_leaves_none_or_the_whole():
    files = MemoryFileSystem()
    count = 0

    def fail(operation: str, path: str) -> None:
        nonlocal count
        count += 1
        if count == stop_at:
            raise OSError(5, "power loss", path)

    for stop_at in range(1, 5):
        count = 0
        files = MemoryFileSystem()
        files.fault = fail
        try:
            made = load(files)
        except OSError:
            made = ""
        files.fault = None
        files.power_loss(Random(stop_at))
        found = read_identity(files, "/data")
        assert found is None or not made or found.disk_id == made
