"""Reads the same YAML that Chaos Mesh takes, as faults with a begin and a length.

What lives here: the plan of one file: faults in the order in which they begin, each with what it selects.
Rules: times are the file's own; a Schedule is a fault at each of its times, a Workflow is laid out along one line, with
a mark where it waits until the cluster is ready. What cannot be performed is refused, never left out.
Must not know: processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ONE_SHOT_SECONDS = 15.0
"""A kill has no length: what follows it is watched for so long."""
SCHEDULED_COUNT = 2
KINDS = {
    "podChaos": "PodChaos",
    "networkChaos": "NetworkChaos",
    "ioChaos": "IOChaos",
    "timeChaos": "TimeChaos",
    "stressChaos": "StressChaos",
}
OWN = "DiskChaos"
"""A kind that Chaos Mesh does not have: `chaos/disk/*.yaml`, see docs/chaos.md."""
DISK_ACTIONS = ("power-loss", "wipe", "full", "flip")
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"([0-9.]+)(ns|us|ms|s|m|h)")
ROLE = "falconq.io/role"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan; `seconds` is 0 for what is done at once."""

    kind: str
    spec: dict[str, Any]
    at: float
    seconds: float

    @property
    def mode(self) -> str:
        """Its class, as reports name it."""
        action = str(self.spec.get("action") or "+".join(self.spec.get("stressors", {})) or "offset")
        return f"{self.kind} {action}"


@dataclass(frozen=True, slots=True)
class Ready:
    """The next faults wait until the cluster is ready."""

    at: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """The plan of one file."""

    name: str
    path: Path
    steps: tuple[Fault | Ready, ...]
    seconds: float

    @property
    def disk_actions(self) -> set[str]:
        """What it does to disks, of our own kind."""
        return {step.spec["action"] for step in self.steps if isinstance(step, Fault) and step.kind == OWN}

    @property
    def kinds(self) -> set[str]:
        return {step.kind for step in self.steps if isinstance(step, Fault)}

    @property
    def changes_leader(self) -> bool:
        """The leader must have changed when it was performed."""
        return any(
            isinstance(step, Fault)
            and role_of(step.spec) == "leader"
            and step.spec.get("action") in {"pod-kill", "pod-failure", "partition", "wipe", "full"}
            for step in self.steps
        )


def duration(text: str) -> float:
    """Seconds of a Go duration. Raises: ValueError."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    parts = DURATION.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f"{text!r} is no duration, such as 1m30s")
    return sign * sum(float(number) * UNITS[unit] for number, unit in parts)


def role_of(spec: dict[str, Any]) -> str | None:
    """`leader`, `follower`, or None for any node."""
    labels = spec.get("selector", {}).get("labelSelectors", {})
    role = labels.get(ROLE)
    return str(role) if role is not None else None


def load(path: Path) -> Experiment:
    """The plan of a file. Raises: ValueError, with the file's name, for what nothing here performs."""
    document = yaml.safe_load(path.read_text())
    kind, spec = document["kind"], document["spec"]
    try:
        if kind == "Workflow":
            templates = {template["name"]: template for template in spec["templates"]}
            steps, seconds = _laid_out(templates, spec["entry"], 0.0)
        elif kind == "Schedule":
            steps, seconds = _scheduled(spec)
        elif kind == OWN:
            if spec["action"] not in DISK_ACTIONS:
                raise ValueError(f"nothing here performs the action {spec['action']!r} of a {OWN}")
            fault = _fault(kind, spec, 0.0, None)
            steps, seconds = [Ready(0.0), fault], max(fault.seconds, ONE_SHOT_SECONDS)
        elif kind in KINDS.values():
            fault = _fault(kind, spec, 0.0, None)
            steps, seconds = [fault], fault.seconds or ONE_SHOT_SECONDS
            if spec.get("action") == "mistake":  # its node is wiped in the end: two at once are another promise
                steps = [Ready(0.0), fault]
        else:
            raise ValueError(f"nothing here performs a {kind}")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return Experiment(path.stem, path, tuple(steps), seconds)


def _fault(kind: str, spec: dict[str, Any], at: float, deadline: str | None) -> Fault:
    length = spec.get("duration") or deadline
    is_at_once = spec.get("action") == "pod-kill"
    if not is_at_once and length is None:
        raise ValueError(f"a {kind} without duration never ends")
    return Fault(kind, spec, at, 0.0 if is_at_once or length is None else duration(length))


def _scheduled(spec: dict[str, Any]) -> tuple[list[Fault | Ready], float]:
    every = spec["schedule"].removeprefix("@every ")
    field = next(name for name, kind in KINDS.items() if kind == spec["type"])
    period = duration(every)
    steps: list[Fault | Ready] = [
        _fault(spec["type"], spec[field], number * period, None) for number in range(SCHEDULED_COUNT)
    ]
    return steps, period * SCHEDULED_COUNT


def _laid_out(templates: dict[str, Any], name: str, at: float) -> tuple[list[Fault | Ready], float]:
    """Steps of a template that begins then, and how long it takes."""
    template = templates[name]
    kind = template["templateType"]
    if kind == "StatusCheck":
        return [Ready(at)], 0.0
    if kind in {"Serial", "Parallel"}:
        steps: list[Fault | Ready] = []
        taken = 0.0
        for child in template["children"]:
            found, seconds = _laid_out(templates, child, at + taken if kind == "Serial" else at)
            steps += found
            taken = taken + seconds if kind == "Serial" else max(taken, seconds)
        return sorted(steps, key=lambda step: step.at), taken
    if kind == "Suspend":
        return [], duration(template["deadline"])
    field = kind[0].lower() + kind[1:] if kind != "IOChaos" else "ioChaos"
    if field not in KINDS:
        raise ValueError(f"nothing here performs a {kind}")
    fault = _fault(KINDS[field], template[field], at, template["deadline"])
    return [fault], duration(template["deadline"])


def paced(experiment: Experiment, seconds: float | None) -> Iterator[tuple[float, Fault | Ready]]:
    """Steps with their times when the whole is to take so long: squeezed into it, or repeated while it fits.

    Without a length, once and in the file's own times.
    """
    if seconds is None:
        yield from ((step.at, step) for step in experiment.steps)
        return
    factor = min(1.0, seconds * 0.8 / experiment.seconds)
    whole = experiment.seconds * factor * 1.25
    for turn in range(max(1, int(seconds // whole))):
        for step in experiment.steps:
            begin = turn * whole + step.at * factor
            if isinstance(step, Fault):
                yield begin, Fault(step.kind, step.spec, begin, step.seconds * factor)
            else:
                yield begin, Ready(begin)
