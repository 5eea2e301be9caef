"""What a loss of power leaves: what was synced, and of the rest nothing, or some.

What lives here: the shim that writes down what a process does to its disk, and what is made of that.
Rules: the operations are those of a process of its own, on real files.
Must not know: nodes.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chaos.platter import Disk, lose_power, read_log
from chaos.pods import build_shim

SYNC_NAMES = """
    def sync(path):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
"""
JOURNAL = """
    fd = os.open(root + "/journal", os.O_RDWR | os.O_CREAT, 0o600)
    sync(root)
    os.pwrite(fd, b"a" * 1000, 0)
    os.fdatasync(fd)
"""


class Machine:
    """A directory whose processes run under the shim."""

    def __init__(self, directory: Path, shim: Path) -> None:
        self.root = directory / "disk"
        self.durable = directory / "durable"
        self.log = directory / "log"
        self.root.mkdir()
        self._shim = shim

    def run(self, *lines: str) -> None:
        code = f"import os\nroot = {str(self.root)!r}\n" + "\n".join(map(textwrap.dedent, (SYNC_NAMES, *lines)))
        extra = {"LD_PRELOAD": str(self._shim), "PLATTER_ROOT": str(self.root), "PLATTER_LOG": str(self.log)}
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | extra)

    def lose_power(self, chance: random.Random | None = None) -> None:
        lose_power(self.root, self.durable, self.log, chance)

    def files(self) -> dict[str, bytes]:
        paths = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if shutil.which("gcc") is None:
        assert "FALCONQ_REQUIRE_ALL" not in os.environ, "gcc is required: apt-get install gcc libc6-dev"
        pytest.skip("gcc is not installed")
    return Machine(tmp_path, build_shim(tmp_path, "platter"))


def test_what_was_written_after_the_last_sync_is_gone(machine: Machine) -> None:
    machine.run(JOURNAL, "os.pwrite(fd, b'b' * 1000, 500)")
    machine.lose_power()
    assert machine.files() == {"journal": b"a" * 1000}


def test_a_file_whose_name_was_not_synced_is_gone_with_all_its_synced_bytes(machine: Machine) -> None:
    machine.run("fd = os.open(root + '/journal', os.O_RDWR | os.O_CREAT)", "os.write(fd, b'a')", "os.fsync(fd)")
    machine.lose_power()
    assert machine.files() == {}


def test_a_directory_that_was_made_and_not_synced_is_gone_with_all_that_is_in_it(machine: Machine) -> None:
    machine.run(JOURNAL, "os.mkdir(root + '/store')", "os.close(os.open(root + '/store/1', os.O_CREAT))")
    machine.run("sync(root + '/store')")
    machine.lose_power()
    assert set(machine.files()) == {"journal"}


def test_a_rename_a_removal_and_a_cut_are_undone_until_they_are_synced(machine: Machine) -> None:
    machine.run(JOURNAL, "os.rename(root + '/journal', root + '/old')", "os.ftruncate(fd, 10)")
    machine.lose_power()
    assert machine.files() == {"journal": b"a" * 1000}
    machine.run("os.unlink(root + '/journal')")
    machine.lose_power()
    assert machine.files() == {"journal": b"a" * 1000}
    machine.run("os.rename(root + '/journal', root + '/old')", "sync(root)")
    machine.lose_power()
    assert machine.files() == {"old": b"a" * 1000}


def test_with_chance_any_sectors_of_what_was_not_synced_are_left_and_no_synced_byte_is_lost(machine: Machine) -> None:
    machine.run(JOURNAL, "os.pwrite(fd, b'b' * 8192, 1000)")
    kept = (machine.root, machine.durable, machine.log)
    seen = set()
    log = machine.log.read_bytes()
    for seed in range(20):
        shutil.rmtree(machine.durable, ignore_errors=True)
        machine.log.write_bytes(log)
        lose_power(*kept, random.Random(seed))
        left = machine.files()["journal"]
        assert left[:1000] == b"a" * 1000
        assert set(left[1000:]) <= set(b"b\0")
        seen.add(left)
    assert len(seen) > 10


def test_a_torn_end_of_the_log_counts_as_not_done(machine: Machine) -> None:
    machine.run(JOURNAL)
    machine.log.write_bytes(machine.log.read_bytes()[:-1])
    assert [record[0] for record in read_log(machine.log)][-1:] == [3]
    machine.lose_power()
    assert machine.files() == {"journal": b""}


def test_the_log_holds_all_that_a_store_and_a_file_do(machine: Machine) -> None:
    machine.run(
        JOURNAL,
        """
    import plyvel, shutil
    os.makedirs(root + "/a/b")
    for turn in range(3):
        store = plyvel.DB(root + "/a/store", create_if_missing=True, write_buffer_size=65536)
        for number in range(3000):
            store.put(b"%d" % (number * 7 % 1000), b"v" * 100)
        store.compact_range()
        store.close()
    os.close(fd)
    with open(root + "/a/text", "w") as file:
        file.write("text")
    os.replace(root + "/a/text", root + "/a/other")
    os.makedirs(root + "/gone/deep")
    open(root + "/gone/deep/file", "w").close()
    shutil.rmtree(root + "/gone")
    """,
    )
    disk = Disk(machine.root, machine.durable)
    disk.replay(read_log(machine.log))
    # The text log of LevelDB is written through the C library's own buffers; nothing reads it.
    written = {name: data for name, data in machine.files().items() if "/LOG" not in name}
    assert disk.seen() == written
    assert len([name for name in written if name.endswith(".ldb")]) > 0
