"""Judging custom resources by their definitions.

What lives here: a definition's schema as strict as the API server's, and what it says of a resource.
Rules: a field that the definition does not name is a mistake; a kind without a definition here is one too.
Must not know: what the resources are for.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

DEFINITIONS = Path(__file__).parent / "schemas"


def mistakes(resource: dict[str, Any]) -> list[str]:
    """Each with its place; empty when the API server would take the resource."""
    key = resource["apiVersion"], resource["kind"]
    if key not in schemas():
        return [f"there is no definition of {key}"]
    found = Draft202012Validator(schemas()[key]).iter_errors(resource)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


@cache
def schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """By apiVersion and kind."""
    found = {}
    for path in DEFINITIONS.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """As JSON Schema has it: closed where properties are named, and without the extensions of Kubernetes."""
    strict = {name: value for name, value in schema.items() if name not in ("format", "nullable")}
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("anyOf", None)
        strict["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(strict.get("type"), str):
        strict["type"] = [strict["type"], "null"]
    if "properties" in strict:
        strict["properties"] = {name: _strict(value) for name, value in strict["properties"].items()}
        if not strict.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if isinstance(strict.get(name), dict):
            strict[name] = _strict(strict[name])
    return strict
