"""Which disk this is.

What lives here: the data directory's random disk id (PROTOCOL.md P4), and the lock against a second process.
Rules: the id is written once, durably, before anything else in the directory; a damaged file refuses to start.
Must not know: members, terms.
"""

from __future__ import annotations

import random
import zlib

import msgspec

from falconq_cluster.errors import ConfigurationError, CorruptionError
from falconq_cluster.storage.files import FileSystem

FILE_NAME = "identity"
_FORMAT = 1


class Identity(msgspec.Struct, frozen=True):
    """Who this data directory belongs to."""

    node_id: str
    disk_id: str
    format: int = _FORMAT


def load_or_create_identity(files: FileSystem, data_dir: str, *, node_id: str, chance: random.Random) -> Identity:
    """The directory's identity, made at the first start.

    Raises: ConfigurationError when it belongs to another node, CorruptionError when its file is damaged.
    """
    files.make_directory(data_dir)
    identity = read_identity(files, data_dir)
    if identity is None:
        identity = Identity(node_id, f"{chance.getrandbits(128):032x}")
        body = msgspec.json.encode(identity)
        files.replace_file(f"{data_dir}/{FILE_NAME}", body + b"\n%08x\n" % zlib.crc32(body))
    if identity.node_id != node_id:
        message = (
            f"{data_dir} belongs to node {identity.node_id!r}, but this node is {node_id!r}: "
            f"start it with --node-id {identity.node_id} or give it another --data-dir"
        )
        raise ConfigurationError(message)
    return identity


def read_identity(files: FileSystem, data_dir: str) -> Identity | None:
    """The directory's identity, None before the first start. Raises: CorruptionError."""
    path = f"{data_dir}/{FILE_NAME}"
    data = files.read_file(path)
    if data is None:
        return None
    body, _, checksum = data.rstrip(b"\n").rpartition(b"\n")
    if checksum != b"%08x" % zlib.crc32(body):
        message = f"{path} is damaged at byte 0: restore the data directory, or wipe it so that the node starts anew"
        raise CorruptionError(message)
    return msgspec.json.decode(body, type=Identity)
