"""What is on a simulated disk: files, directories and stores, with what is durable and what is not.

What lives here: the tree's nodes and the functions that read and change them.
Rules: a node says both what a reader sees and what a power loss would leave.
Must not know: processes, faults, who writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

SECTOR_BYTES = 512


class FileNode:
    """A file: what would survive a power loss, what a reader sees, and the writes between the two."""

    __slots__ = ("content", "durable", "is_named", "last_synced", "pending", "tokens")

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []
        """(position, data) of a write, (size, None) of a truncation, in order."""
        self.last_synced: list[tuple[int, int]] = []
        """(start, stop) of what the latest sync wrote."""
        self.is_named = False
        """Whether a directory entry of it is durable: without one its bytes are lost."""
        self.tokens: set[bytes] = set()
        """Tokens in its durable bytes while it is not named."""


class StoreImage:
    """A key-value store on the disk: its visible state and how to undo what is not flushed."""

    __slots__ = ("data", "flushed_tokens", "keys", "undo")

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        """Sorted; the same as `data`'s."""
        self.undo: list[dict[bytes, bytes | None]] = []
        """Per batch since the last flush: key -> value before it."""
        self.flushed_tokens: list[set[bytes]] = []
        """Tokens in each batch of `undo`."""


@dataclass(slots=True)
class DirectoryNode:
    """A directory: names as seen, and as they would be after a power loss."""

    names: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    store: StoreImage | None = None
    """Set when a store was opened in this directory."""


Node = FileNode | DirectoryNode


def path_parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def put_name(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def write_bytes(content: bytearray, position: int, data: bytes | None) -> None:
    if data is None:
        del content[position:]
        content.extend(bytes(position - len(content)))
        return
    if position > len(content):
        content.extend(bytes(position - len(content)))
    content[position : position + len(data)] = data


def apply_sectors(node: FileNode, random: Random, keep: float) -> None:
    """Let each sector of each pending write reach the platter with probability `keep`."""
    for position, data in node.pending:
        if data is None:
            if random.random() < keep:
                write_bytes(node.durable, position, None)
            continue
        start = 0
        while start < len(data):
            stop = min(len(data), start + SECTOR_BYTES - (position + start) % SECTOR_BYTES)
            if random.random() < keep:
                write_bytes(node.durable, position + start, data[start:stop])
            start = stop


def shorten(image: StoreImage, random: Random) -> set[bytes]:
    """Take back a suffix of the batches that were not flushed; returns the tokens of those that stay."""
    keep_count = random.choice((0, len(image.undo), random.randrange(len(image.undo) + 1)))
    for before in reversed(image.undo[keep_count:]):
        for key, value in before.items():
            if value is None:
                image.data.pop(key, None)
            else:
                image.data[key] = value
    image.keys = sorted(image.data)
    kept = set().union(*image.flushed_tokens[:keep_count])
    image.undo.clear()
    image.flushed_tokens.clear()
    return kept


def used_bytes(node: Node) -> int:
    if isinstance(node, FileNode):
        return len(node.content)
    return sum(used_bytes(child) for child in node.names.values())


def directories_of(directory: DirectoryNode) -> list[DirectoryNode]:
    found = [directory]
    for node in directory.names.values():
        if isinstance(node, DirectoryNode):
            found.extend(directories_of(node))
    return found


def files_of(directory: DirectoryNode, path: str) -> list[tuple[str, FileNode]]:
    found = []
    for name, node in sorted(directory.names.items()):
        if isinstance(node, DirectoryNode):
            found.extend(files_of(node, f"{path}/{name}"))
        else:
            found.append((f"{path}/{name}", node))
    return found
