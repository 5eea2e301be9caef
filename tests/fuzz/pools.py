"""Values that make requests meet.

What lives here: names and numbers that requests of the fuzzer take more often than others.
Rules: a pool stands beside the schema, not in its place. What answers named (ids, versions) is asked for again.
Must not know: what a value is for.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

MADE_TOPICS = ("orders", "jobs")
CONSUMERS = ("billing", "audit")
LEARNED_MAX = 12
"""The latest ones: older ones are of topics that are gone."""
MIN_INDEX_MAX = 20
"""So low that the wait for it ends at once."""
FIXED: Mapping[str, Sequence[object]] = {
    "topic": (*MADE_TOPICS, "orders.dead", "missing"),
    "consumer": CONSUMERS,
    "consumerID": CONSUMERS,
    "priority": ("low", "high", 0, 1, None),
    "partitionID": (0, 1, None),
    "partitionKey": ("a", "b", None),
    "batch": (1, 100),
    "waitMs": (0, 20),
    "offset": (0, 3),
    "to": ("n1", "n2", "n3", "earliest", "latest"),
}
LEARNED = ("id", "version", "If-Match")
WHOLLY = ("topic", "consumer", "waitMs")
"""A name that nobody made finds nothing, and one is in the pool; a long wait takes long."""
LEASE_LISTS = ("ack",)
"""Fields that hold ids of leases and nothing else."""


class Pools:
    """Values by the name of the parameter or field that takes them."""

    def __init__(self) -> None:
        self._learned: dict[str, deque[object]] = {name: deque(maxlen=LEARNED_MAX) for name in LEARNED}
        self._leases: deque[object] = deque(maxlen=LEARNED_MAX)
        self._messages: deque[tuple[str, str]] = deque(maxlen=LEARNED_MAX)

    @property
    def messages(self) -> list[tuple[str, str]]:
        """(topic, id) of messages: both together, or nothing is found."""
        return list(self._messages)

    def learn(self, body: Any, headers: Mapping[str, Sequence[str]]) -> None:
        """Takes note of what an answer names."""
        for tag in headers.get("etag", ()):
            self._learned["If-Match"].append(tag)
        self._walk(body)

    def _walk(self, value: Any) -> None:
        if isinstance(value, dict):
            lease = value.get("lease")
            if isinstance(lease, dict) and isinstance(lease.get("id"), str):
                self._leases.append(lease["id"])
            if isinstance(value.get("topic"), str) and isinstance(value.get("id"), str):
                self._messages.append((value["topic"], value["id"]))
            for name, part in value.items():
                if name in self._learned and isinstance(part, str):
                    self._learned[name].append(part)
                else:
                    self._walk(part)
        elif isinstance(value, list):
            for part in value:
                self._walk(part)

    def put_into(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document, with the pools beside its schemas of requests."""
        pooled = copy.deepcopy(document)
        for methods in pooled["paths"].values():
            for operation in methods.values():
                for parameter in operation["parameters"]:
                    name = parameter["name"]
                    parameter["schema"] = self._beside(name, parameter["schema"])
                    if name == "FalconQ-Min-Index":
                        parameter["schema"]["maximum"] = MIN_INDEX_MAX
        for schema in pooled["components"]["schemas"].values():
            self._put_into_fields(schema)
        return pooled

    def _put_into_fields(self, schema: Any) -> None:
        if isinstance(schema, dict):
            for part in schema.values():
                self._put_into_fields(part)
            if schema.get("additionalProperties") is False:  # Of a request: answers may grow.
                fields = schema.get("properties", {})
                schema["properties"] = {name: self._beside(name, part) for name, part in fields.items()}
        elif isinstance(schema, list):
            for part in schema:
                self._put_into_fields(part)

    def _beside(self, name: str, schema: dict[str, Any]) -> dict[str, Any]:
        if name in LEASE_LISTS and self._leases:
            known = {"type": "array", "items": {"enum": list(self._leases)}, "maxItems": 3}
            return {"anyOf": [known, schema]}
        values = list(dict.fromkeys([*FIXED.get(name, ()), *self._learned.get(name, ())]))
        if not values:
            return schema
        if name in WHOLLY:
            return {"enum": values}
        return {"anyOf": [{"enum": values}, schema]}
