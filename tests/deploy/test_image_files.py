"""The image is made of what pyproject.toml allows, and of nothing unchecked."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from falconq_cluster import __version__
from tests.deploy.tools import ROOT, only, render, run, tool

DOCKER = ROOT / "deploy/docker"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\$", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    """Name -> version; asserts that each line pins, and each pin has a hash."""
    text = path.read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if not entry.startswith("#")]
    for entry in entries:
        assert PIN.match(entry), entry
        assert "--hash=sha256:" in entry, entry
    return {canonicalize_name(name): version for name, version in PIN.findall(text)}


def project() -> dict[str, list[str]]:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {"run": data["project"]["dependencies"], "build": data["build-system"]["requires"]}


@pytest.mark.parametrize(("file", "part"), [("requirements.txt", "run"), ("requirements-build.txt", "build")])
def test_what_is_pinned_fits_pyproject(file: str, part: str) -> None:
    pinned = pins(DOCKER / file)
    for text in project()[part]:
        wanted = Requirement(text)
        version = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{file} has {wanted.name} {version}; pyproject wants {text}"


def test_hadolint_finds_nothing() -> None:
    run(tool("hadolint"), DOCKER / "Dockerfile")


def test_the_image_and_the_manifests_name_this_version() -> None:
    assert f"ARG VERSION={__version__}\n" in (DOCKER / "Dockerfile").read_text()
    (container,) = only(render("k8s"), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"falconq-cluster:{__version__}"
