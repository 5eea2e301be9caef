"""The network namespaces and control groups of one run, and their certain end.

What lives here: making and removing what a run has outside of its own process, and the guardian that removes it when
the run cannot.
Rules: a run's directory names all that it makes, before it is made. The guardian is another process in a session of its
own; it waits for the end of a pipe that only the run holds, so it also acts after `kill -9` of the run, and whoever
starts next removes what a lost guardian left. Processes are ended by pid, found in namespaces that the run made.
Must not know: nodes, faults.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PREFIX = "falconq-chaos-"
SUBNET = "10.77.0"
CLIENT = "client"
SWITCH = "switch"
CGROUP = Path("/sys/fs/cgroup/cpu")
NEW_NETWORK = 0x40000000
OWNER = "owner"
SMALL_DISK_BYTES = 512 << 20
NAMESPACES = Path("/run/netns")


def command(*words: str, is_checked: bool = True) -> str:
    """Run it. Raises: CalledProcessError with what it said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    if is_checked and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Place:
    """Namespaces of these nodes, of the clients, and of the switch between them."""

    def __init__(self, nodes: list[str]) -> None:
        clean_all()
        self.directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.run = self.directory.name.removeprefix(PREFIX)
        self.addresses = {name: f"{SUBNET}.{number + 1}" for number, name in enumerate([*nodes, CLIENT])}
        (self.directory / OWNER).write_text(str(os.getpid()))
        self._guard, self._pipe = _start_guardian(self.directory)
        self._make()

    def namespace(self, name: str) -> str:
        return f"fqc-{self.run}-{name}"

    def cgroup(self, name: str) -> Path | None:
        path = CGROUP / f"fqc-{self.run}-{name}"
        return path if path.is_dir() else None

    def inside(self, name: str, *words: str) -> str:
        """Run a command in a node's namespace."""
        return command("ip", "netns", "exec", self.namespace(name), *words)

    def mount_small_disk(self, directory: Path) -> None:
        """A file system of its own at this directory, so small that it can be filled."""
        image = directory.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(SMALL_DISK_BYTES)
        command("mkfs.ext4", "-q", "-m", "0", str(image))
        command("mount", "-o", "loop", str(image), str(directory))

    def enter(self) -> None:
        """From now on this thread, and each that it starts, is among the clients."""
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(NAMESPACES / self.namespace(CLIENT), os.O_RDONLY)
        try:
            if libc.setns(descriptor, NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Remove all of it; the guardian does, and this waits for it."""
        os.close(self._pipe)
        self._guard.wait(60)

    def _make(self) -> None:
        switch = self.namespace(SWITCH)
        command("ip", "netns", "add", switch)
        command("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        command("ip", "-n", switch, "link", "set", "br0", "up")
        for number, (name, address) in enumerate(self.addresses.items()):
            space = self.namespace(name)
            command("ip", "netns", "add", space)
            command(
                "ip", "-n", switch, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", space
            )  # fmt: skip
            command("ip", "-n", switch, "link", "set", f"v{number}", "master", "br0", "up")
            command("ip", "-n", space, "link", "set", "lo", "up")
            command("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            command("ip", "-n", space, "link", "set", "eth0", "up")
            loose = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done"
            self.inside(name, "sh", "-c", loose)
            try:
                (CGROUP / f"fqc-{self.run}-{name}").mkdir()
            except OSError:  # no control groups here: load is only beside the node, not in its group
                continue


def _start_guardian(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = os.pipe()
    guard = subprocess.Popen(
        [sys.executable, "-m", "chaos.place", str(directory)],
        stdin=ours,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
    )
    os.close(ours)
    os.set_inheritable(theirs, False)
    return guard, theirs


def clean(directory: Path) -> None:
    """Remove what the run of this directory made; harmless when it is gone already."""
    run = directory.name.removeprefix(PREFIX)
    listed = command("ip", "netns", "list", is_checked=False).split()
    names = [name for name in listed if name.startswith(f"fqc-{run}-")]
    for name in names:
        for pid in command("ip", "netns", "pids", name, is_checked=False).split():
            if not name.endswith(f"-{CLIENT}") or pid != (directory / OWNER).read_text():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
    for name in names:
        command("ip", "netns", "del", name, is_checked=False)
    for group in CGROUP.glob(f"fqc-{run}-*"):
        for pid in (group / "cgroup.procs").read_text().split():
            (CGROUP / "cgroup.procs").write_text(pid)
        group.rmdir()
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in mounted:
        if path.startswith(f"{directory}/"):
            command("umount", "--lazy", path, is_checked=False)
    shutil.rmtree(directory, ignore_errors=True)


def clean_all() -> None:
    """Remove what runs left whose process and guardian are gone."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = directory / OWNER
        pid = owner.read_text() if owner.exists() else ""
        if not pid or not Path(f"/proc/{pid}").exists():
            clean(directory)


def main() -> None:
    """The guardian: wait until the run is over or dead, then remove its traces."""
    sys.stdin.buffer.read()
    clean(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
