"""The code keeps the shape that was agreed: sizes, floors, names, and words that only belong on one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from falconq_cluster.telemetry import Metrics

ROOT = Path(__file__).parents[2]
PACKAGE = "falconq_cluster"
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

FLOORS: dict[str, int] = {
    # Floor of each part; imports go to the same or a lower floor. Anything new must be placed here.
    "__main__": 7,
    "app": 7,
    "cli": 7,
    "damage": 7,
    "dev": 7,
    "entry": 7,
    "maintenance": 7,
    "node": 7,
    "observing": 7,
    "reclaiming": 7,
    "status": 7,
    "gateway": 6,
    "broker": 5,
    "raft": 4,
    "machine": 3,
    "storage": 2,
    "codec": 1,
    "clock": 1,
    "config": 1,
    "errors": 1,
    "telemetry": 1,
}
ONLY_IN: dict[str, tuple[str, ...]] = {
    # Library -> the parts that may import it.
    "aiohttp": ("gateway",),
    "plyvel": ("storage/leveldb",),
    "pysyncobj": ("raft",),
    "prometheus_client": ("telemetry", "app"),
    "typer": ("cli",),
    "rich": ("cli", "dev"),
    "pydantic": ("config", "cli"),
    "pydantic_settings": ("config",),
    "uvloop": ("app",),
}
MACHINE_MAY_IMPORT = frozenset(
    [
        "__future__",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "math",  # For whole numbers: no float literal is allowed here, and no division.
        "operator",
        "re",
        "struct",
        "typing",
    ]
) | {"msgspec", PACKAGE}
NOT_IN_MACHINE = frozenset(("hash", "id", "open", "input", "eval", "exec"))
CALLBACK_FLOORS = ("machine", "storage", "broker", "raft")
MAY_AWAIT = ("broker/service", "raft/transport", "raft/disk_worker", "raft/handshake")
"""Below the gateway, only what faces the event loop knows asyncio: the simulation runs all the rest."""
CLOCK_READERS = ("clock", "dev", "observing")
"""`dev` waits for child processes, `observing` times a job on another thread; all else asks the Clock."""
ELSEWHERE = re.compile(r"/work/|/tmp/venv|/root/|/home/\w|\bTODO\b|\bFIXME\b|\bXXX\b")
METRIC_NAME = re.compile(r"falconq_[a-z]+(_[a-z]+)+")


def part_of(path: Path) -> str:
    """`broker/service` for falconq_cluster/broker/service.py."""
    return path.relative_to(ROOT / PACKAGE).with_suffix("").as_posix()


def floor_of(part: str) -> int:
    return FLOORS[part.split("/", 1)[0]]


def is_within(part: str, places: tuple[str, ...]) -> bool:
    return any(part == place or part.startswith((f"{place}/", f"{place}_")) for place in places)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == PACKAGE)


SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
MODULES = [path for path in SOURCES if path != ROOT / PACKAGE / "__init__.py"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
by_part = pytest.mark.parametrize("path", MODULES, ids=part_of)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= FILE_LINES_MAX, f"{path.name} has {lines} lines; find the second subject in it and move it out"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path.name}: {node.name} has {length} lines"


@by_part
def test_a_module_says_what_lives_in_it_what_stays_true_and_what_it_must_not_know(path: Path) -> None:
    text = ast.get_docstring(tree_of(path)) or ""
    assert text, f"{path} has no docstring"
    if path.stem in ("__init__", "__main__"):
        return
    wanted = ("What lives here:", "Rules", "Must not know:")
    places = [text.find(start) for start in wanted]
    assert -1 not in places, f"{path}: of {wanted}, not all are there"
    assert places == sorted(places)


@by_part
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(path)
    for name in imports_of(path):
        if name.startswith(f"{PACKAGE}."):
            other = name.removeprefix(f"{PACKAGE}.").replace(".", "/")
            if other == "__version__":
                continue
            assert floor_of(other) <= floor_of(part), f"{part} (floor {floor_of(part)}) imports {other}"


@by_part
def test_each_library_has_its_place(path: Path) -> None:
    part = part_of(path)
    for name in imports_of(path):
        places = ONLY_IN.get(name.split(".")[0])
        assert places is None or is_within(part, places), f"{part} imports {name}; only {places} may"


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path).startswith("machine/")], ids=part_of)
def test_the_machine_is_pure(path: Path) -> None:
    for name in imports_of(path):
        assert name.split(".")[0] in MACHINE_MAY_IMPORT, f"{path.name} imports {name}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in NOT_IN_MACHINE, f"{path.name}:{node.lineno} calls {node.func.id}"
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), f"{path.name}:{node.lineno}"


@by_part
def test_below_the_gateway_only_what_faces_the_loop_knows_asyncio(path: Path) -> None:
    part = part_of(path)
    if part.split("/", 1)[0] not in CALLBACK_FLOORS or is_within(part, MAY_AWAIT):
        return
    assert "asyncio" not in {name.split(".")[0] for name in imports_of(path)}


@by_part
def test_only_the_clock_reads_a_clock(path: Path) -> None:
    if not is_within(part_of(path), CLOCK_READERS):
        assert "time" not in {name.split(".")[0] for name in imports_of(path)}


@by_part
def test_no_module_keeps_state_that_changes(path: Path) -> None:
    for node in tree_of(path).body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        is_mutable = isinstance(value, ast.List | ast.Set | ast.ListComp | ast.SetComp)
        assert not is_mutable, f"{path.name}:{node.lineno} is a list or set; use a tuple or frozenset"
        assert not isinstance(node, ast.Global)


def test_metrics_are_named_by_one_pattern() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    for metric in registry.collect():
        assert METRIC_NAME.fullmatch(metric.name), metric.name


def test_nothing_tells_of_the_machine_it_was_written_on() -> None:
    for path in tracked_files():
        if path == Path(__file__) or path.suffix in (".png", ".svg"):
            continue
        found = ELSEWHERE.search(path.read_text(errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"
