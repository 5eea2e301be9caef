"""The experiments know a cluster only by its processes and its HTTP interface."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "chaos").rglob("*.py"))
LIBRARIES = {"aiohttp", "msgspec", "plyvel", "rich", "typer", "yaml"}
PURE = {"chaos.history", "chaos.judge", "chaos.judging"}
PURE_MAY_IMPORT = {
    "__future__", "array", "bisect", "collections", "dataclasses", "gc", "itertools", "msgspec", "pathlib", "typing",
}  # fmt: skip
LINES_MAX, FUNCTION_LINES_MAX = 400, 60


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_short_says_its_rules_and_imports_nothing_of_the_product(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    imported = imports_of(path)
    tops = {module.split(".")[0] for module in imported} - {"chaos"}
    assert tops <= LIBRARIES | sys.stdlib_module_names
    if any(name == part or name.startswith(f"{part}.") for part in PURE):
        assert tops <= PURE_MAY_IMPORT
        assert {module for module in imported if module.startswith("chaos")} <= {
            module for module in imported if any(module.startswith(part) for part in PURE)
        }
    assert path.read_text().count("\n") <= LINES_MAX
    tree = ast.parse(path.read_text())
    text = ast.get_docstring(tree) or ""
    if path.stem not in ("__init__", "__main__"):
        assert all(part in text for part in ("What lives here:", "Rules", "Must not know:"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name
