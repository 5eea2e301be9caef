"""The wall clock of a process is off by what the control file says, at once; its other clocks are right."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.pods import CLOCK_PLACE, build_shim

SHOW = """
import datetime, sys, time
for _ in sys.stdin:
    print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)
"""


def test_only_the_wall_clock_is_off_and_at_once(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        assert "FALCONQ_REQUIRE_ALL" not in os.environ, "gcc is required: apt-get install gcc libc6-dev"
        pytest.skip("gcc is not installed")
    control = tmp_path / "control"
    control.write_bytes(bytes(64))
    environment = os.environ | {"LD_PRELOAD": str(build_shim(tmp_path, "clock")), "DISK_SHIM_CONTROL": str(control)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SHOW], stdin=pipe, stdout=pipe, env=environment, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for seconds in (0, 3600, -3600, 0):
            with control.open("r+b") as file:
                file.seek(CLOCK_PLACE)
                file.write(struct.pack("<q", seconds * 10**9))
            begin = time.monotonic()
            process.stdin.write("\n")
            process.stdin.flush()
            wall, today, monotonic = (float(word) for word in process.stdout.readline().split())
            for shown in (wall, today):
                assert seconds - 60 < shown - time.time() < seconds + 60
            assert begin <= monotonic <= time.monotonic()
