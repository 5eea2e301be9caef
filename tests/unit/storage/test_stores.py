"""Both stores keep the contract of `Store`, and LevelDB keeps what PROTOCOL.md P1 builds on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import plyvel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconq_cluster.errors import CorruptionError
from falconq_cluster.storage.leveldb import LevelStore
from falconq_cluster.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from falconq_cluster.storage.store import Change, Store


@pytest.fixture(params=["memory", "leveldb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else LevelStore.open(str(tmp_path / "store"))
    yield opened
    opened.close()
    opened.close()


ALL = (b"", b"\xff" * 40)


def test_the_last_change_of_a_key_in_a_batch_wins(store: Store) -> None:
    store.write([(b"a", b"1"), (b"a", None), (b"a", b"2"), (b"b", b"1"), (b"b", None)])
    assert store.get(b"a") == b"2"
    assert store.get(b"b") is None


def test_a_scan_covers_the_half_open_range_in_both_directions(store: Store) -> None:
    store.write([(bytes([number]), b"%d" % number) for number in (5, 1, 3, 2, 4)])
    assert list(store.scan(b"\x02", b"\x05")) == [(b"\x02", b"2"), (b"\x03", b"3"), (b"\x04", b"4")]
    assert list(store.scan(b"\x02", b"\x05", reverse=True)) == [(b"\x04", b"4"), (b"\x03", b"3"), (b"\x02", b"2")]
    assert list(store.scan_keys(b"\x02", b"\x04", reverse=True)) == [b"\x03", b"\x02"]
    assert not list(store.scan_keys(b"\x04", b"\x04"))
    assert not list(store.scan(b"\x05", b"\x01"))


def test_a_scan_shows_the_state_at_its_call(store: Store) -> None:
    store.write([(b"%04d" % number, b"old") for number in range(2000)])
    pairs = store.scan(*ALL)
    first = next(pairs)
    store.write([(b"%04d" % number, b"new" if number % 2 else None) for number in range(2000)] + [(b"0000x", b"new")])
    assert [first, *pairs] == [(b"%04d" % number, b"old") for number in range(2000)]


def test_a_snapshot_shows_the_state_at_its_call_until_it_is_closed(store: Store) -> None:
    store.write([(b"a", b"1"), (b"b", b"1")])
    snapshot = store.snapshot()
    store.write([(b"a", None), (b"b", b"2"), (b"c", b"2")])
    assert snapshot.get(b"a") == snapshot.get(b"b") == b"1"
    assert snapshot.get(b"c") is None
    assert list(snapshot.scan(*ALL)) == [(b"a", b"1"), (b"b", b"1")]
    assert list(snapshot.scan_keys(*ALL, reverse=True)) == [b"b", b"a"]
    snapshot.close()
    assert list(store.scan(*ALL)) == [(b"b", b"2"), (b"c", b"2")]


def test_an_empty_range_takes_no_bytes(store: Store) -> None:
    store.write([(b"%04d" % number, os.urandom(1000)) for number in range(1000)])
    store.flush()
    assert store.approximate_bytes(b"0000", b"1") > 900_000
    assert store.approximate_bytes(b"5", b"6") == store.approximate_bytes(b"1", b"0") == 0


_KEYS = st.binary(min_size=1, max_size=2).map(lambda key: bytes(byte % 24 for byte in key))
_BATCHES = st.lists(st.lists(st.tuples(_KEYS, st.none() | st.binary(max_size=3)), max_size=30), max_size=30)


@settings(max_examples=100, deadline=None)
@given(_BATCHES, _KEYS, _KEYS)
def test_the_memory_store_agrees_with_a_sorted_dict(batches: list[list[Change]], start: bytes, stop: bytes) -> None:
    store, model = MemoryStore(), dict[bytes, bytes]()
    frozen = []
    for batch in batches:
        frozen.append((store.snapshot(), sorted(model.items())))
        store.write(batch)
        for key, value in batch:
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        expected = [(key, value) for key, value in sorted(model.items()) if start <= key < stop]
        assert list(store.scan(start, stop)) == expected
        assert list(store.scan(start, stop, reverse=True)) == expected[::-1]
        assert store.get(start) == model.get(start)
    for snapshot, content in frozen:
        assert list(snapshot.scan(*ALL)) == content


@settings(max_examples=100, deadline=None)
@given(_BATCHES, st.lists(st.tuples(_KEYS, _KEYS), max_size=10))
def test_both_stores_show_the_same(batches: list[list[Change]], ranges: list[tuple[bytes, bytes]]) -> None:
    with TemporaryDirectory() as directory:
        memory, level = MemoryStore(), LevelStore.open(directory)
        for batch in batches:
            memory.write(batch)
            level.write(batch)
        keys = [key for key, _ in memory.scan(*ALL)]
        for start, stop in [*ranges, *((key, key + b"\0") for key in keys)]:
            for reverse in (False, True):
                assert list(level.scan(start, stop, reverse=reverse)) == list(memory.scan(start, stop, reverse=reverse))
                found = list(level.scan_keys(start, stop, reverse=reverse))
                assert found == list(memory.scan_keys(start, stop, reverse=reverse))
        level.close()


def test_the_memory_store_stays_ordered_over_many_blocks() -> None:
    store = MemoryStore()
    numbers = [number * 7919 % 20_011 for number in range(20_000)]
    for at in range(0, len(numbers), 10):
        store.write([(b"%05d" % number, b"") for number in numbers[at : at + 10]])
        store.snapshot().close()
    store.write([(b"%05d" % number, None) for number in numbers[::2]])
    assert list(store.scan_keys(*ALL)) == [b"%05d" % number for number in sorted(numbers[1::2])]


def _run(command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)


_WRITE_AND_DIE_SCRIPT = """
import os, sys
from falconq_cluster.storage.leveldb import LevelStore
store = LevelStore.open(sys.argv[1], write_buffer_bytes=256 * 1024)
for number in range(3000):
    store.write([(b"%06d" % number, b"x" * 300), (b"last", b"%06d" % number)])
    if number == 1234:
        store.flush()
os._exit(0)
"""


def test_what_was_flushed_survives_the_loss_of_leveldbs_log_and_the_rest_is_a_prefix(tmp_path: Path) -> None:
    _run([sys.executable, "-c", _WRITE_AND_DIE_SCRIPT, str(tmp_path)])
    store = LevelStore.open(str(tmp_path))
    last = int(store.get(b"last") or b"-1")
    assert 1234 <= last < 2999
    assert list(store.scan_keys(b"0", b"1")) == [b"%06d" % number for number in range(last + 1)]
    store.close()


def test_a_closed_store_has_everything(tmp_path: Path) -> None:
    store = LevelStore.open(str(tmp_path))
    store.write([(b"a", b"1")])
    store.close()
    again = LevelStore.open(str(tmp_path))
    assert again.get(b"a") == b"1"
    again.close()


def test_leveldbs_own_log_is_gone_after_opening_an_unclean_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    plain = plyvel.DB(str(path), create_if_missing=True)
    plain.put(b"a", b"only in the log")
    shutil.copytree(path, tmp_path / "copy")
    plain.close()
    store = LevelStore.open(str(tmp_path / "copy"))
    assert store.get(b"a") is None
    store.close()


def test_a_flipped_bit_in_a_table_is_an_error_and_never_another_value(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = LevelStore.open(str(path))
    written = [(b"%04d" % number, bytes((number * 7 + place) % 251 for place in range(200))) for number in range(60)]
    store.write(written)
    store.close()
    (table,) = path.glob("*.ldb")
    whole = table.read_bytes()
    looks = (
        lambda store: [(key, store.get(key)) for key, _ in written],
        lambda store: [*store.scan(b"0", b"~")],
        lambda store: [*store.scan(b"0", b"~", reverse=True)][::-1],
        lambda store: [(key, dict(written)[key]) for key in store.scan_keys(b"0", b"~")],
    )
    refused_count = 0
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        for look in looks:
            table.write_bytes(damaged)
            refused_count += not _shows(path, look, written)
    assert refused_count > 120


def test_damage_that_is_met_is_told_to_whoever_opened_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = LevelStore.open(str(path))
    store.write([(b"%04d" % number, os.urandom(200)) for number in range(1_000)])
    store.close()
    (table,) = path.glob("*.ldb")
    data = bytearray(table.read_bytes())
    for place in range(0, len(data) // 2, 2_000):
        data[place] ^= 1
    table.write_bytes(data)
    told: list[CorruptionError] = []
    store = LevelStore.open(str(path), on_damage=told.append)
    snapshot = store.snapshot()
    looks: list[Callable[[], object]] = [
        lambda: store.get(b"0001"),
        lambda: [*store.scan(b"0", b"~")],
        lambda: snapshot.get(b"0001"),
    ]
    for count, look in enumerate(looks, start=1):
        with pytest.raises(CorruptionError, match=str(path)) as met:
            look()
        assert (len(told), told[-1]) == (count, met.value)
    snapshot.close()
    store._source.close()


def _shows(path: Path, look: Callable[[LevelStore], object], written: object) -> bool:
    """It opens and shows what was written; False when it says that it is damaged. It must not show anything else."""
    try:
        store = LevelStore.open(str(path))
    except CorruptionError:
        return False
    try:
        assert look(store) == written
    except CorruptionError:
        return False
    finally:
        store._source.close()
    return True


def test_a_flush_that_leveldb_cannot_do_raises(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = LevelStore.open(str(path))
    store.write([(b"a", b"1")])
    path.rename(tmp_path / "moved")
    path.write_bytes(b"in the way")
    with pytest.raises(OSError, match=r".+"):
        store.flush()
    path.unlink()
    (tmp_path / "moved").rename(path)
    store.flush()
    assert store.disk_bytes > 0
    assert store.level0_file_count >= 0
    store.close()


_FLUSH_SCRIPT = """
import sys
from falconq_cluster.storage.leveldb import LevelStore
store = LevelStore.open(sys.argv[1])
store.write([(b"key", b"value")])
print("flushing", file=sys.stderr, flush=True)
store.flush()
print("flushed", file=sys.stderr, flush=True)
"""


def test_flush_syncs_the_table_then_the_directory_and_the_manifest(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("FALCONQ_REQUIRE_ALL") == "1":
            pytest.fail("strace is required: apt-get install strace")
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = [strace, "-f", "-y", "-o", str(trace), "-e", "trace=fsync,fdatasync,write,unlink"]
    command += [sys.executable, "-c", _FLUSH_SCRIPT, str(tmp_path / "store")]
    _run(command)
    lines = trace.read_text().splitlines()
    begin = next(at for at, line in enumerate(lines) if '"flushing' in line)
    end = next(at for at, line in enumerate(lines) if '"flushed' in line)
    syncs = [line for line in lines[begin:end] if "sync(" in line]
    table = next(at for at, line in enumerate(syncs) if ".ldb>" in line)
    directory = next(at for at, line in enumerate(syncs) if f"{tmp_path / 'store'}>" in line)
    manifest = next(at for at, line in enumerate(syncs) if "MANIFEST-" in line)
    assert table < directory < manifest
    assert not [line for line in syncs if "= -1" in line]
