"""Holds an answer against the OpenAPI document.

What lives here: `Described`, which finds what an answer has and the document does not.
Rules: schemas are closed here, unlike in the document: a field that it does not name is our mistake, while clients
must bear new ones.
Must not know: how the document is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from jsonschema_rs import Draft202012Validator

STANDARD_HEADERS = frozenset(("content-type", "content-length", "connection", "date", "allow"))
OF_EVERY_PATH = {404: "route_not_found", 405: "method_not_allowed"}


class Described:
    """The answers that a document allows."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document: dict[str, Any] = json.loads(json.dumps(document))
        for schema in self.document["components"]["schemas"].values():
            _close(schema)
        self._validators: dict[str, Draft202012Validator] = {}
        self._paths = [(_pattern(path), path) for path in sorted(self.document["paths"], key=lambda path: "{" in path)]
        self.seen: set[tuple[str, str, int]] = set()
        """(method, path of the document, status)."""

    def path_of(self, target: str) -> str | None:
        """The document's path for a request's target."""
        path = urlsplit(target).path
        return next((known for pattern, known in self._paths if pattern.fullmatch(path)), None)

    def mistakes(self, *, method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> list[str]:
        """What of the answer is not described, a sentence each."""
        path = self.path_of(target)
        operation = self.document["paths"].get(path, {}).get(method.lower())
        where = f"{method} {path or target} {status}"
        content_type = headers.get("Content-Type", "")
        problem = json.loads(body) if body and content_type == "application/problem+json" else {}
        if operation is None or problem.get("code") in OF_EVERY_PATH.values():
            wanted = OF_EVERY_PATH.get(status)
            return (
                [] if wanted is not None and problem.get("code", wanted) == wanted else [f"{where}: no such operation"]
            )
        self.seen.add((method, str(path), status))
        response = operation["responses"].get(str(status))
        if response is None:
            known = ", ".join(operation["responses"])
            code = problem.get("code", "the reply")
            return [f"{where}: the route declares {known}; add {code} to `replies` or `problems` of its Operation"]
        allowed = STANDARD_HEADERS | {name.lower() for name in response["headers"]}
        found = [
            f"{where}: header {name} is not declared; add it to the Reply's `headers`"
            for name in headers
            if name.lower() not in allowed
        ]
        return found if method == "HEAD" else found + self._body_mistakes(where, response, content_type, body)

    def _body_mistakes(self, where: str, response: dict[str, Any], content_type: str, body: bytes) -> list[str]:
        content = response.get("content", {})
        if not content and not body:
            return []
        if content_type not in content:
            return [f"{where}: {content_type} is not declared, but {', '.join(content) or 'nothing'}"]
        schema = content[content_type]["schema"]
        if "json" not in content_type or content_type == "application/x-ndjson":
            return []
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            self._validators[key] = Draft202012Validator(schema | {"components": self.document["components"]})
        value = json.loads(body)
        return [
            f"{where}: {'.'.join(['$', *map(str, error.instance_path)])}: {error.message[:400]}"
            for error in self._validators[key].iter_errors(value)
        ]


def _close(schema: Any) -> None:
    """Objects with named properties have no others."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("/".join("[^/]*" if part.startswith("{") else re.escape(part) for part in path.split("/")))
