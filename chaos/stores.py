"""Digests of the nodes' stores, all at one moment.

What lives here: freezing all nodes for some milliseconds, taking what their stores are then, and a digest of each.
Rules: LevelDB never changes a table that it wrote, so tables are linked, the rest is copied. A digest covers each key
and value, with what is only in LevelDB's own log. Nodes that have applied one index have equal stores byte for byte.
Must not know: what keys and values mean, but for where a store says how far it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import plyvel

from chaos.pods import Pod

TABLE = ".ldb"
COPY = "copy-of-store"
POINTER = "CURRENT"
"""Names the store that is open."""
META = b"\x01"
"""Key of the row that begins, behind a byte for its version, with the applied index."""


def digests(pods: Sequence[Pod]) -> dict[str, str] | None:
    """Node -> digest; None when they had not applied the same index. All nodes run."""
    processes = [pod.process for pod in pods if pod.process is not None]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        for process in processes:
            _wait_stopped(process)
        copies = {pod.name: _copied(pod) for pod in pods}
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
    databases = {}
    try:
        databases = {name: plyvel.DB(str(path)) for name, path in copies.items()}
        if len({_applied_index(database) for database in databases.values()}) > 1:
            return None
        return {name: _digest(database) for name, database in databases.items()}
    finally:
        for database in databases.values():
            database.close()
        for path in copies.values():
            shutil.rmtree(path)


def _wait_stopped(process: subprocess.Popen[bytes]) -> None:
    """Until none of its threads runs any more, or it has ended: a signal is sent before it takes effect."""
    if process.poll() is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _copied(pod: Pod) -> Path:
    target = pod.disk / COPY
    target.mkdir()
    stores = pod.data / "store"
    pointer = stores / POINTER
    # Others are snapshots that are not whole, or came too late.
    store = stores / (pointer.read_text() if pointer.exists() else "0")
    for path in store.iterdir():
        if path.suffix == TABLE:
            os.link(path, target / path.name)
        elif path.name != "LOCK":
            shutil.copy(path, target)
    return target


def _applied_index(database: Any) -> int:
    row = database.get(META)
    return int(msgspec.msgpack.decode(row[1:])[0])


def _digest(database: Any) -> str:
    state = hashlib.blake2b(digest_size=16)
    for key, value in database.iterator(verify_checksums=True):
        state.update(b"%d %d " % (len(key), len(value)) + key + value)
    return state.hexdigest()
