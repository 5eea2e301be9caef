"""The experiments are what Chaos Mesh takes, and what the local performer takes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos.experiment import Fault, duration, load, paced

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "chaos" / "mesh").glob("*.yaml"))
OWN_FILES = sorted((ROOT / "chaos" / "disk").glob("*.yaml"))
SCHEMAS = ROOT.parent / "shared" / "schemas"
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from parts(part)
    elif isinstance(value, list):
        for part in value:
            yield from parts(part)


def test_the_custom_resources_are_valid_by_their_definitions() -> None:
    if not SCHEMAS.exists():
        pytest.skip("the definitions of Chaos Mesh are not beside the project")
    checker = [sys.executable, SCHEMAS / "crd_validate.py", SCHEMAS / "chaos-mesh", "--", *FILES]
    words = [str(word) for word in checker]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@by_file
def test_the_webhooks_rules_hold(path: Path) -> None:
    for part in parts(yaml.safe_load(path.read_text())):
        for name in ("duration", "deadline", "latency", "jitter", "timeOffset"):
            if name in part:
                duration(part[name])
        for name in ("loss", "corrupt", "duplicate", "correlation"):
            if isinstance(part.get(name), str):
                float(part[name])
        if part.get("direction") in {"from", "both"}:
            assert "target" in part
        if str(part.get("mode", "")).startswith("fixed"):
            assert re.fullmatch("[0-9]+", part["value"])
        if part.get("action") == "fault":
            assert part["errno"] != 0
        for stressor in part.get("stressors", {}).values():
            assert stressor["workers"] > 0


@pytest.mark.parametrize("path", FILES + OWN_FILES, ids=lambda path: path.stem)
def test_each_experiment_can_be_performed_in_the_time_that_is_given(path: Path) -> None:
    experiment = load(path)
    for seconds in (6.0, 120.0):
        steps = list(paced(experiment, seconds))
        faults = [step for _, step in steps if isinstance(step, Fault)]
        assert faults
        assert all(begin + (step.seconds if isinstance(step, Fault) else 0) <= seconds for begin, step in steps)


def test_what_nothing_performs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dns.yaml"
    path.write_text("kind: DNSChaos\nspec: {}\n")
    with pytest.raises(ValueError, match="nothing here performs a DNSChaos"):
        load(path)
    path.write_text("kind: DiskChaos\nspec: {action: melt, mode: all}\n")
    with pytest.raises(ValueError, match="nothing here performs the action 'melt'"):
        load(path)


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "1x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        duration(text)


def test_the_labeller_alone_has_a_token_and_may_only_patch_three_pods() -> None:
    documents = list(yaml.safe_load_all((ROOT / "chaos" / "mesh" / "labeller" / "labeller.yaml").read_text()))
    role = next(document for document in documents if document["kind"] == "Role")
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["pods"],
            "resourceNames": ["falconq-0", "falconq-1", "falconq-2"],
            "verbs": ["patch"],
        }
    ]
