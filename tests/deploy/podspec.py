"""What a rendered StatefulSet says about one of its pods.

What lives here: the command, the environment and the ports, as a kubelet reads them.
Rules: references are resolved as Kubernetes does it; one that leads nowhere raises what the pod's events would say.
Must not know: processes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tests.deploy.tools import only

VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
Resources = list[dict[str, Any]]


class ConfigError(Exception):
    """CreateContainerConfigError: the container can't be started, and why."""


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP probe with its defaults filled in."""

    path: str
    port: int
    period_seconds: float
    timeout_seconds: float
    failure_threshold: int
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One pod, resolved."""

    name: str
    command: list[str]
    environment: dict[str, str]
    ports: dict[str, int]
    mount: str
    grace_seconds: float
    pre_stop_seconds: float
    probes: dict[str, Probe]
    """By startup, liveness, readiness."""


def pod_spec(resources: Resources, name: str, *, secrets: dict[str, dict[str, str]], address: str) -> PodSpec:
    """The pod of this name. Raises: ConfigError."""
    stateful = only(resources, "StatefulSet")
    pod = stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    fields = {"metadata.name": name, "metadata.namespace": stateful["metadata"]["namespace"], "status.podIP": address}
    ports = {port["name"]: int(port["containerPort"]) for port in container["ports"]}
    grace = float(pod["terminationGracePeriodSeconds"])
    return PodSpec(
        name=name,
        command=[*container["command"], *container["args"]],
        environment=_environment(container, resources, fields, secrets),
        ports=ports,
        mount=mount["mountPath"],
        grace_seconds=grace,
        pre_stop_seconds=float(container["lifecycle"]["preStop"]["sleep"]["seconds"]),
        probes={kind: _probe(container[f"{kind}Probe"], ports, grace) for kind in ("startup", "liveness", "readiness")},
    )


def _probe(probe: dict[str, Any], ports: dict[str, int], grace: float) -> Probe:
    port = probe["httpGet"]["port"]
    return Probe(
        path=probe["httpGet"]["path"],
        port=ports[port] if isinstance(port, str) else port,
        period_seconds=probe.get("periodSeconds", 10),
        timeout_seconds=probe.get("timeoutSeconds", 1),
        failure_threshold=probe.get("failureThreshold", 3),
        grace_seconds=probe.get("terminationGracePeriodSeconds", grace),
    )


def _environment(
    container: dict[str, Any], resources: Resources, fields: dict[str, str], secrets: dict[str, dict[str, str]]
) -> dict[str, str]:
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environment |= only(resources, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            value = fields[source["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            if reference["name"] not in secrets:
                raise ConfigError(f'secret "{reference["name"]}" not found')
            value = secrets[reference["name"]][reference["key"]]
        else:
            value = VARIABLE.sub(lambda found: environment.get(found[1], found[0]), variable["value"])
        environment[variable["name"]] = value
    return environment
