"""Writes the alerts where others read them: as a resource for the Prometheus Operator, and in the operator's guide."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
RULE = ROOT / "k8s/components/monitoring/prometheusrule.yaml"
GUIDE = ROOT / "docs/operating.md"
BEGIN, END = "<!-- alerts: from deploy/prometheus/alerts.yaml -->\n", "<!-- end of alerts -->\n"
RULE_HEAD = """\
# Made by deploy/prometheus/copy_alerts.py from alerts.yaml: kustomize can't embed a file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: falconq
  labels:
    app.kubernetes.io/name: falconq
spec:
"""


def prometheus_rule(alerts: str) -> str:
    """The resource with these groups."""
    lines = [line for line in alerts.splitlines() if not line.startswith("#")]
    return RULE_HEAD + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def section(rule: dict[str, Any]) -> str:
    """What the guide says of one alert."""
    notes, waits = rule["annotations"], rule.get("for")
    when = f"`{rule['expr']}`" + (f", for {waits}" if waits else "")
    return (
        f"### {rule['alert']}\n\n{rule['labels']['severity'].capitalize()}: {when}.\n\n"
        f"{notes['description']}\n\n**Do:** {notes['runbook']}\n\n"
    )


def guide(text: str, alerts: str) -> str:
    """The guide with these alerts in the place of those it had."""
    rules = [rule for group in yaml.safe_load(alerts)["groups"] for rule in group["rules"]]
    before, _, rest = text.partition(BEGIN)
    sections = "".join(section(rule) for rule in rules)
    return f"{before}{BEGIN}\n{sections}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    source = ALERTS.read_text()
    RULE.write_text(prometheus_rule(source))
    GUIDE.write_text(guide(GUIDE.read_text(), source))
