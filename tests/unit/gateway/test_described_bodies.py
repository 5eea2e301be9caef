"""What the document says of a body is what the reader of the body takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from falconq_cluster.errors import FalconQError
from falconq_cluster.gateway.cloudevents import EXAMPLE, STRUCTURED_SCHEMA, read_structured
from falconq_cluster.gateway.fields import PublishBody, read_producer, read_publish
from falconq_cluster.gateway.openapi import document
from falconq_cluster.gateway.settings import SETTINGS, SETTINGS_SCHEMA, read_settings
from tests.unit.gateway.rig import Rig

LONG = "x" * 200
MANY = [f"l{number}" for number in range(17)]
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 16, 17, 100, 256, 257, 1000, 1001, 50_000, 50_001, 2**16 - 1, 2**16),
    *(2**53 - 1, 2**53, 2**63, 1.5, "", "1", "a", "low", "-a", "a b", "ä", LONG, LONG + "x", "x" * 256, "x" * 257),
    *([], ["a"], ["a", "a"], [1], ["-a"], MANY[:16], MANY, {}, {"x": 1}, {"x": "y"}, {"": "y"}, {"x": None}),
    *({"x" * 128: "y"}, {"x" * 129: "y"}, {"x": "y" * 4096}, {"x": "y" * 4097}),
    *({str(number): "y" for number in range(64)}, {str(number): "y" for number in range(65)}),
    *({"policy": "strict"}, {"policy": "x"}, {"policy": "weighted"}, {"weights": {}}),
    *({"policy": "weighted", "weights": {"low": weight}} for weight in (0, 1, 1000, 1001, "1", None)),
    *({"policy": "aged", "maxWaitMs": {"low": wait}} for wait in (0, 1, 604_800_000, 604_800_001, "1")),
    *({"policy": "weighted", "more": 1}, {"minMs": 1, "maxMs": 2, "factor": 1}, {"factor": 0}, {"factor": 100.5}),
    *({"minMs": -1}, {"minMs": 0}, {"maxMs": 604_800_000}, {"maxMs": 604_800_001}, {"more": 1}),
    *({"ms": 999}, {"ms": 1000}, {"bytes": 1 << 20}, {"bytes": 1}, {"messages": 0}, {"messages": 1}, {"acked": 1}),
    *({"id": "p", "sequence": sequence} for sequence in (0, 1, 2**53 - 1, 2**53, "1", None)),
    *({"id": "-p", "sequence": 1}, {"id": "", "sequence": 1}, {"id": "p"}, {"id": "p", "sequence": 1, "more": 1}),
    *("reject", "drop-oldest", "drop-lowest", "never"),
]


def takes(read: Any, body: dict[str, Any]) -> bool:
    try:
        read(json.dumps(body).encode(), depth_max=64)
    except FalconQError:
        return False
    return True


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_described_as_it_is_judged(name: str) -> None:
    validator = Draft202012Validator(json.loads(json.dumps(SETTINGS_SCHEMA)))
    different = [value for value in VALUES if validator.is_valid({name: value}) != takes(read_settings, {name: value})]
    assert different == []


@pytest.mark.parametrize("name", PublishBody.__struct_encode_fields__)
def test_a_field_of_a_publish_is_described_as_it_is_judged(rig: Rig, name: str) -> None:
    def read(data: bytes, *, depth_max: int) -> None:
        read_producer(bytes(read_publish(data, depth_max=depth_max).producer))

    told = json.loads(json.dumps(document(rig.gateway.router.routes)))
    validator = Draft202012Validator({"$ref": "#/components/schemas/PublishBody", "components": told["components"]})
    bodies = [{"message": 1, name: value} for value in VALUES]
    assert [body for body in bodies if validator.is_valid(body) != takes(read, body)] == []
    assert not validator.is_valid({}) and not takes(read, {})  # noqa: PT018


@pytest.mark.parametrize(
    "name",
    [
        *("partitionkey", "falconqpriority", "falconqdelayms", "falconqttlms", "subject", "time", "datacontenttype"),
        *("dataschema", "myextension", "data", "data_base64", "Subject", "my_extension"),
    ],
)
def test_the_document_allows_every_event_that_is_taken(name: str) -> None:
    def read(data: bytes, *, depth_max: int) -> None:
        read_structured(data, "t", depth_max=depth_max, deadline_ms=0)

    validator = Draft202012Validator(json.loads(json.dumps(STRUCTURED_SCHEMA)))
    values = [*VALUES, "2026-01-31T12:00:00Z", "AAE=", 2**31 - 1, 2**31, -(2**31)]
    event = {known: value for known, value in EXAMPLE.items() if known != "data"}
    events = [event | {name: value} for value in values]
    taken = [event for event in events if takes(read, event)]
    assert [event for event in taken if not validator.is_valid(event)] == []
    assert bool(taken) is (name not in ("Subject", "my_extension"))
    if not taken:
        assert not any(validator.is_valid(event) for event in events)
