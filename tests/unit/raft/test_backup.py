"""A backup holds a whole store or is refused, and a restored one is the start of a cluster or of nothing."""

from __future__ import annotations

import io
from random import Random

import pytest

from falconq_cluster.errors import ConfigurationError, CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.raft.backup import FRAME_BYTES, check_backup, refuse_unfinished, restore, write_backup
from falconq_cluster.raft.identity import FILE_NAME
from falconq_cluster.raft.offline import FLOOR_FILE, RESTORE_FILE
from falconq_cluster.raft.snapshots import KEY_SPACE_END
from tests.unit.raft.cluster_helpers import CLUSTER, DATA_DIR, Bench, entries
from tests.unit.raft.hand_parts import Files

NEW = "/restored"


class Interrupted(Exception):
    """The process ended here."""


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """Has applied entries 3..9."""
    bench.append(entries(3, 9, 2), term=2, commit=9)
    return bench


def backup_of(bench: Bench) -> bytes:
    return b"".join(write_backup(bench.node.store.snapshot(), node="n1", cluster_id=CLUSTER))


def restored(backup: bytes, files: Files) -> None:
    restore(files, NEW, files.open_store, lambda: io.BytesIO(backup))


def test_a_backup_says_what_it_is_of(bench: Bench):
    checked = check_backup(io.BytesIO(backup_of(bench)))
    assert (checked.head.cluster_id, checked.head.node) == (CLUSTER, "n1")
    assert (checked.head.index, checked.head.term) == (9, 2)
    assert checked.pairs_count == len(list(bench.node.store.scan(b"", KEY_SPACE_END)))


def test_a_store_of_many_frames_comes_back_pair_for_pair_but_for_its_members(bench: Bench):
    bench.node.store.write([(b"\x20%06d" % number, bytes(1000)) for number in range(3 * FRAME_BYTES // 1000)])
    backup, files = backup_of(bench), Files()
    restored(backup, files)
    pairs = list(files.open_store(f"{NEW}/store/1").scan(b"", KEY_SPACE_END))
    assert pairs == [pair for pair in bench.node.store.scan(b"", KEY_SPACE_END) if pair[0] != keys.CLUSTER]
    assert files.read_file(f"{NEW}/store/CURRENT") == b"1"
    assert files.read_file(f"{NEW}/{FLOOR_FILE}") == b"9"
    assert files.read_file(f"{NEW}/{RESTORE_FILE}") == check_backup(io.BytesIO(backup)).digest.hex().encode()
    refuse_unfinished(files, NEW)


def test_the_same_state_has_the_same_digest_so_that_members_restored_from_one_file_form_together(bench: Bench):
    first, second = (check_backup(io.BytesIO(backup_of(bench))) for _ in range(2))
    assert first.digest == second.digest
    bench.append(entries(10, 10, 2), term=2, previous=(9, 2), commit=10)
    assert check_backup(io.BytesIO(backup_of(bench))).digest != first.digest


def test_a_backup_that_breaks_off_anywhere_is_refused_and_nothing_is_written(bench: Bench):
    backup, files = backup_of(bench), Files()
    for size in range(len(backup)):
        with pytest.raises(CorruptionError, match=r"breaks off at byte|no backup"):
            restored(backup[:size], files)
    assert not files.exists(NEW)


def test_a_backup_with_any_changed_byte_is_refused_with_its_place(bench: Bench):
    backup, files = backup_of(bench), Files()
    for place in range(len(backup)):
        changed = bytearray(backup)
        changed[place] ^= 0x10
        with pytest.raises(CorruptionError, match=r"at byte|no backup"):
            restored(bytes(changed), files)
    assert not files.exists(NEW)


def test_a_backup_without_one_of_its_frames_is_refused(bench: Bench):
    bench.node.store.write([(b"\x20%06d" % number, bytes(1000)) for number in range(3 * FRAME_BYTES // 1000)])
    parts = list(write_backup(bench.node.store.snapshot(), node="n1", cluster_id=CLUSTER))
    assert len(parts) > 3
    with pytest.raises(CorruptionError, match="parts are missing or changed"):
        check_backup(io.BytesIO(b"".join(parts[:1] + parts[2:])))
    with pytest.raises(CorruptionError, match="does not belong there"):
        check_backup(io.BytesIO(parts[0] + b"".join(parts).removeprefix(b"falconq backup 1\n")))


def test_a_directory_that_holds_a_node_is_left_as_it_is(bench: Bench):
    before = list(bench.node.store.scan(b"", KEY_SPACE_END))
    with pytest.raises(ConfigurationError, match="holds a node's data already"):
        restore(bench.files, DATA_DIR, bench.files.open_store, lambda: io.BytesIO(backup_of(bench)))
    assert list(bench.node.store.scan(b"", KEY_SPACE_END)) == before
    assert not bench.files.exists(f"{DATA_DIR}/{RESTORE_FILE}")


@pytest.mark.parametrize("seed", range(3))
def test_a_restore_that_loses_power_at_any_step_refuses_to_start_or_never_began_or_is_whole(bench: Bench, seed: int):
    backup, step, is_over = backup_of(bench), 0, False
    while not is_over:
        step += 1
        files, calls = Files(), 0

        def fault(_operation: str, _path: str, last: int = step) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise Interrupted

        files.fault = fault
        try:
            restored(backup, files)
            is_over = True
        except Interrupted:
            pass
        files.fault = None
        files.power_loss(Random(seed * 1000 + step))
        try:
            refuse_unfinished(files, NEW)
        except ConfigurationError:
            restored(backup, files)
        if files.exists(f"{NEW}/{RESTORE_FILE}"):
            pairs = list(files.open_store(f"{NEW}/store/1").scan(b"", KEY_SPACE_END))
            assert pairs == [pair for pair in bench.node.store.scan(b"", KEY_SPACE_END) if pair[0] != keys.CLUSTER]
            assert files.read_file(f"{NEW}/store/CURRENT") == b"1"
        else:
            assert not files.exists(f"{NEW}/store/CURRENT")
        assert not files.exists(f"{NEW}/{FILE_NAME}")
    assert step > 5


def test_a_start_in_a_directory_whose_restore_was_not_finished_is_refused(bench: Bench):
    bench.files.replace_file(f"{DATA_DIR}/restoring", b"")
    with pytest.raises(ConfigurationError, match="was not finished: run 'falconq node restore' again"):
        bench.restart()


def test_the_frozen_store_is_let_go_when_nobody_reads_the_backup(bench: Bench):
    snapshot = bench.node.store.snapshot()
    write_backup(snapshot, node="n1", cluster_id=CLUSTER).close()
    assert not list(snapshot.scan(b"", KEY_SPACE_END))
