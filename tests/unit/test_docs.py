"""What can be set, counted, refused or asked is documented, and the documents name nothing else."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import msgspec
from annotated_types import Le
from prometheus_client import CollectorRegistry

from falconq_cluster.config import Settings
from falconq_cluster.errors import ERROR_CODES
from falconq_cluster.gateway.fields import ProducerBody, PublishBody
from falconq_cluster.gateway.settings import SETTINGS
from falconq_cluster.machine.capacity import CEILINGS
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.telemetry import Metrics
from tests.unit.gateway.rig import running_gateway

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CELLS = re.compile(r"(?<!\\)\|")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def rows_of(document: str) -> dict[str, list[str]]:
    """First cell, without its ticks, -> the other cells of each table row."""
    rows = {}
    for line in (DOCS / document).read_text().splitlines():
        cells = [cell.strip() for cell in CELLS.split(line)[1:-1]]
        if len(cells) > 1 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def shown_default(value: object) -> str:
    if value is None or str(value) in ("", "{}"):
        return "(unset)"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_setting_is_documented_with_its_default_and_its_meaning() -> None:
    rows = rows_of("configuration.md")
    assert list(rows) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if name == "cluster_secret":
            default = default.get_secret_value()
        assert rows[name] == [f"`FALCONQ_{name.upper()}`", shown_default(default), field.description]


def test_every_fixed_limit_is_documented_with_its_value_and_every_other_is_a_setting_with_the_same_default() -> None:
    limits = asdict(MachineLimits())
    for name, ceiling in msgspec.structs.asdict(CEILINGS).items():
        field = Settings.model_fields[name]
        (most,) = [bound.le for bound in field.metadata if isinstance(bound, Le)]
        assert (field.default, most) == (limits.pop(name), ceiling)
    text = (DOCS / "configuration.md").read_text()
    assert dict(re.findall(r"^- `(\w+)` = (\d+): ", text, re.MULTILINE)) == {k: str(v) for k, v in limits.items()}


def test_every_metric_is_documented_with_its_type_and_meaning() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    wanted = {
        metric.name + ("_total" if metric.type == "counter" else ""): [metric.type, metric.documentation]
        for metric in registry.collect()
    }
    assert rows_of("metrics.md") == wanted


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = rows_of("errors.md")
    assert rows.keys() == ERROR_CODES.keys()
    for code in ERROR_CODES.values():
        assert rows[code.code][:2] == [str(code.status), "yes" if code.is_retryable else "no"], code.code


async def test_every_route_is_documented_with_its_methods() -> None:
    async with running_gateway() as rig:
        wanted = {route.pattern: ", ".join(route.methods) for route in rig.gateway.router.routes}
    rows = rows_of("http.md")
    assert {name: cells[0] for name, cells in rows.items() if name.startswith("/")} == wanted


async def test_every_field_parameter_and_header_is_documented() -> None:
    text = (DOCS / "http.md").read_text()
    async with running_gateway() as rig:
        operations = [route.operation(method) for route in rig.gateway.router.routes for method in route.methods]
    parameters = [each.name for operation in operations for each in (*operation.parameters, *operation.headers)]
    for name in ProducerBody.__struct_encode_fields__:
        assert f'"{name}"' in text, name
    for name in (
        *PublishBody.__struct_encode_fields__,
        *parameters,
        *SETTINGS,
    ):
        assert f"`{name}`" in text, name


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]:
        for target in LINK.findall(document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


async def test_the_five_curl_commands_of_the_readme_are_answered_in_their_order() -> None:
    text = (ROOT / "README.md").read_text()
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("curl ")]
    assert len(commands) == 5
    async with running_gateway() as rig:
        for words in commands:
            url = next(word for word in words if word.startswith("http://localhost:8081/"))
            body = words[words.index("-d") + 1] if "-d" in words else None
            headers = dict([words[words.index("-H") + 1].split(": ")]) if "-H" in words else {}
            method = words[words.index("-X") + 1] if "-X" in words else "GET"
            path = url.removeprefix("http://localhost:8081")
            async with rig.session.request(method, rig.url + path, data=body, headers=headers) as response:
                assert response.status == 200, words


def test_the_readme_fits_one_screen_and_names_both_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 75
    assert "    make run" in text
    assert "    make test" in text
