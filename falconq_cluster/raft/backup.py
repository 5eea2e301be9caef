"""A whole store as a file, and such a file as the start of a cluster.

What lives here: the format of a backup, writing one from a frozen store, checking one, and restoring one.
Rules: a backup is `MAGIC`, then frames: length (u32) and CRC-32 (u32), little-endian, before a MessagePack array whose
first element is its kind. The first frame is a Head, the last one an End, between them stand all pairs in key order. A
file without its End, or whose digest differs, is refused before anything is written. A restore goes into an empty
directory (PROTOCOL.md P5): the members are left out, so that the node forms a new cluster, whose id is the digest; a
directory in which it was not finished refuses to start. A new format takes a new magic; the old one stays readable.
Must not know: HTTP, prompts, how a running node works.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from hashlib import blake2b
from typing import Protocol

import msgspec

from falconq_cluster.errors import ConfigurationError, CorruptionError
from falconq_cluster.machine import keys
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.machine.machine import read_meta
from falconq_cluster.raft.identity import FILE_NAME
from falconq_cluster.raft.offline import FLOOR_FILE, RESTORE_FILE
from falconq_cluster.raft.replica import Replica
from falconq_cluster.raft.snapshots import KEY_SPACE_END, add_to_digest
from falconq_cluster.storage.files import FileSystem
from falconq_cluster.storage.store import Change, Store, StoreSnapshot

MAGIC = b"falconq backup 1\n"
UNFINISHED_FILE = "restoring"
"""Is there while a restore goes on: what is in the directory is not whole."""
FRAME_BYTES = 64 * 1024
"""Pairs of one frame, so that whoever writes it takes a millisecond or two."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""More than a frame with the largest record batch has: a longer one is damage."""
DIGEST_BYTES = 16

_FRAME = struct.Struct("<II")


class Head(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What the backup is of."""

    cluster_id: str
    node: str
    """That wrote it."""
    index: int
    term: int
    """Of the last entry that it holds."""
    log_time_ms: int


class Pairs(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A part of the store."""

    pairs: list[tuple[bytes, bytes]]


class End(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Nothing is missing."""

    pairs_count: int
    digest: bytes
    """blake2b-128 over the head and all pairs."""


class Checked(msgspec.Struct, frozen=True):
    """A backup that is whole."""

    head: Head
    pairs_count: int
    digest: bytes


class Source(Protocol):
    """A file that is open for reading."""

    def read(self, size: int, /) -> bytes: ...


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Head | Pairs | End] = msgspec.msgpack.Decoder(Head | Pairs | End)


def write_backup(snapshot: StoreSnapshot, *, node: str, cluster_id: str) -> Generator[bytes]:
    """The backup of a frozen store, in parts that take a millisecond or two each; it lets the store go in the end."""
    parts = _parts(snapshot, node=node, cluster_id=cluster_id)
    next(parts)  # From now on it closes what it was given, also when nobody reads it.
    return parts


def _parts(snapshot: StoreSnapshot, *, node: str, cluster_id: str) -> Generator[bytes]:
    try:
        yield b""
        yield from _backup(snapshot, node=node, cluster_id=cluster_id)
    finally:
        snapshot.close()


def _backup(snapshot: StoreSnapshot, *, node: str, cluster_id: str) -> Iterator[bytes]:
    meta = read_meta(snapshot)
    head = Head(cluster_id, node, meta.applied_index, meta.applied_term, meta.log_time_ms)
    digest = _digest_of(head)
    yield MAGIC + _framed(head)
    pairs: list[tuple[bytes, bytes]] = []
    count = size = 0
    for key, value in snapshot.scan(b"", KEY_SPACE_END):
        pairs.append((key, value))
        add_to_digest(digest, key, value)
        count += 1
        size += len(key) + len(value)
        if size >= FRAME_BYTES:
            yield _framed(Pairs(pairs))
            pairs, size = [], 0
    yield _framed(Pairs(pairs)) + _framed(End(count, digest.digest()))


def check_backup(source: Source) -> Checked:
    """What the backup is of, once all of it was read. Raises: CorruptionError when it is not whole."""
    for frame in _frames(source):
        if isinstance(frame, Checked):
            return frame
    raise CorruptionError("the backup has no end")


def restore(
    files: FileSystem, data_dir: str, open_store: Callable[[str], Store], open_source: Callable[[], Source]
) -> Checked:
    """Makes a checked backup the data of a node that never ran; the start forms a cluster with it.

    Raises: CorruptionError when the backup is not whole, ConfigurationError when there is data already.
    """
    checked = check_backup(open_source())
    if files.exists(f"{data_dir}/{FILE_NAME}"):
        message = (
            f"{data_dir} holds a node's data already; a backup is restored into an empty directory: stop all nodes, "
            f"move their data away, and try again"
        )
        raise ConfigurationError(message)
    files.make_directory(data_dir)
    files.replace_file(f"{data_dir}/{UNFINISHED_FILE}", b"")
    files.remove_tree(f"{data_dir}/store")
    replica = Replica(files=files, directory=f"{data_dir}/store", open_store=open_store, limits=MachineLimits())
    try:
        _, store = replica.incoming_store()
        for frame in _frames(open_source()):
            if isinstance(frame, Pairs):
                changes: list[Change] = [pair for pair in frame.pairs if pair[0] != keys.CLUSTER]
                store.write(changes)
        store.flush()
        replica.switch_job()()
        replica.switched(store)()
    finally:
        replica.close()
    files.replace_file(f"{data_dir}/{FLOOR_FILE}", str(checked.head.index).encode())
    files.replace_file(f"{data_dir}/{RESTORE_FILE}", checked.digest.hex().encode())
    files.remove_file(f"{data_dir}/{UNFINISHED_FILE}")
    files.sync_directory(data_dir)
    return checked


def refuse_unfinished(files: FileSystem, data_dir: str) -> None:
    """Raises: ConfigurationError when a restore into the directory was not finished."""
    if files.exists(f"{data_dir}/{UNFINISHED_FILE}"):
        message = (
            f"a restore into {data_dir} was not finished: run 'falconq node restore' again, or empty the directory so "
            f"that the node gets all from the others"
        )
        raise ConfigurationError(message)


def _digest_of(head: Head) -> blake2b:
    return blake2b(_encoder.encode(head), digest_size=DIGEST_BYTES)


def _framed(frame: Head | Pairs | End) -> bytes:
    data = _encoder.encode(frame)
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


def _frames(source: Source) -> Iterator[Pairs | Checked]:
    """All pairs, and in the end what was checked. Raises: CorruptionError."""
    if source.read(len(MAGIC)) != MAGIC:
        raise CorruptionError(f"this is no backup: it does not begin with {MAGIC.decode()!r}")
    position = len(MAGIC)
    head: Head | None = None
    digest, count = blake2b(digest_size=DIGEST_BYTES), 0
    while True:
        frame, size = _read_frame(source, position)
        position += size
        if isinstance(frame, Head) and head is None:
            head, digest = frame, _digest_of(frame)
        elif isinstance(frame, Pairs) and head is not None:
            for key, value in frame.pairs:
                add_to_digest(digest, key, value)
            count += len(frame.pairs)
            yield frame
        elif isinstance(frame, End) and head is not None:
            if (frame.pairs_count, frame.digest) != (count, digest.digest()):
                raise CorruptionError("the backup is not what its end says: parts are missing or changed")
            yield Checked(head, count, frame.digest)
            return
        else:
            raise CorruptionError(f"the backup has a part at byte {position - size} that does not belong there")


def _read_frame(source: Source, position: int) -> tuple[Head | Pairs | End, int]:
    """(the frame at this byte, its size). Raises: CorruptionError."""
    lengths = source.read(_FRAME.size)
    length, checksum = _FRAME.unpack(lengths) if len(lengths) == _FRAME.size else (0, 0)
    data = source.read(length) if 0 < length <= FRAME_BYTES_MAX else b""
    if not data or len(data) < length:
        raise CorruptionError(f"the backup breaks off at byte {position}: it was not written to its end")
    if zlib.crc32(data) != checksum:
        raise CorruptionError(f"the backup is damaged at byte {position}")
    try:
        return _decoder.decode(data), _FRAME.size + length
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"the backup is damaged at byte {position}: {error}") from error
