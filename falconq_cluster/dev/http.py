"""The smallest HTTP client that a local cluster's demo needs.

What lives here: one request with JSON in and out.
Rules: every request has a timeout; a node that can't be reached is a value, not an exception.
Must not know: what the routes mean.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

TIMEOUT_SECONDS = 15.0
UNREACHABLE = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; status UNREACHABLE when nothing did."""

    status: int
    body: dict[str, Any]


def call(method: str, port: int, path: str, body: dict[str, object] | None = None) -> Reply:
    """One request to a node of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        return Reply(response.status, json.loads(response.read()))
    except (OSError, http.client.HTTPException, ValueError):
        return Reply(UNREACHABLE, {})
    finally:
        connection.close()
