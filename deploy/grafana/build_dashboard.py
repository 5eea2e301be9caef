"""Writes the overview dashboard: one source of what it shows, and JSON as Grafana 11 reads it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

TARGET = Path(__file__).parent / "dashboards/overview.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
JOB = 'job="$job"'


@dataclass(frozen=True)
class Panel:
    """One picture: what it shows, and how its numbers are read."""

    title: str
    expressions: dict[str, str]
    """Legend -> expression."""
    unit: str = "short"
    description: str = ""
    is_number: bool = False
    """The present value instead of a curve."""


def rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{JOB}{more}}}[$__rate_interval]))"


def total(metric: str) -> str:
    return f"sum(rate({metric}{{{JOB}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str, more: str = "") -> str:
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'{by}le', more)})"


PUBLISHING = ',route=~".*publish|.*messages.*"'
ROWS: dict[str, list[Panel]] = {
    "Cluster": [
        Panel(
            "Leaders",
            {"leaders": f"sum(falconq_raft_is_leader{{{JOB}}})"},
            description="One. For a moment there may be none, or an old one that has not noticed.",
            is_number=True,
        ),
        Panel("Ready nodes", {"ready": f"sum(falconq_node_is_ready{{{JOB}}})"}, is_number=True),
        Panel("Members", {"members": f"max(falconq_raft_configured_members{{{JOB}}})"}, is_number=True),
        Panel(
            "Leader changes within an hour",
            {
                "terms": f"max(max_over_time(falconq_raft_current_term{{{JOB}}}[1h]))"
                f" - min(min_over_time(falconq_raft_current_term{{{JOB}}}[1h]))"
            },
            is_number=True,
        ),
        Panel("Who leads", {"{{instance}}": f"falconq_raft_is_leader{{{JOB}}}"}),
        Panel(
            "Entries behind",
            {
                "{{instance}}": f"max by (instance) (scalar(max(falconq_raft_commit_index{{{JOB}}}))"
                f" - falconq_raft_applied_index{{{JOB}}})"
            },
        ),
    ],
    "Messages": [
        Panel("Published, by level", {"level {{level}}": rate("falconq_published_messages_total", "level")}, "ops"),
        Panel("Delivered, by level", {"level {{level}}": rate("falconq_delivered_messages_total", "level")}, "ops"),
    ],
    "Consumers": [
        Panel(
            "Messages left",
            {
                "{{topic}} {{consumer}} level {{level}}": "max by (topic, consumer, level)"
                f" (falconq_consumer_lag_messages{{{JOB}}})"
            },
        ),
        Panel(
            "How long the oldest of them waits",
            {
                "{{topic}} {{consumer}} level {{level}}": "max by (topic, consumer, level)"
                f" (falconq_consumer_oldest_age_seconds{{{JOB}}})"
            },
            "s",
        ),
    ],
    "Requests": [
        Panel("By status", {"{{status}}": rate("falconq_http_requests_total", "status")}, "reqps"),
        Panel(
            "How long a publish takes",
            {
                "half": quantile(0.5, "falconq_http_latency_seconds", "", PUBLISHING),
                "99 %": quantile(0.99, "falconq_http_latency_seconds", "", PUBLISHING),
            },
            "s",
        ),
        Panel(
            "Not answered as asked",
            {
                "unknown outcome": total("falconq_broker_unknown_outcomes_total"),
                "refused, too many wait": total("falconq_broker_refused_operations_total"),
                "expired before they were sent": total("falconq_broker_expired_operations_total"),
            },
            "ops",
        ),
        Panel("Waiting", {"{{instance}}": f"falconq_broker_waiting_operations{{{JOB}}}"}),
    ],
    "Disks": [
        Panel(
            "How long a sync takes, 99 %",
            {"{{instance}}": quantile(0.99, "falconq_journal_sync_seconds", "instance, ")},
            "s",
            "Every publish waits for one on a majority. From 0.8 s on a leader steps down.",
        ),
        Panel("Syncs", {"{{instance}}": rate("falconq_journal_syncs_total", "instance")}, "ops"),
        Panel(
            "Free",
            {"{{instance}}": f"falconq_disk_free_bytes{{{JOB}}} / falconq_disk_size_bytes{{{JOB}}}"},
            "percentunit",
        ),
        Panel(
            "Size of journal and store",
            {"{{instance}}": f"falconq_journal_size_bytes{{{JOB}}} + falconq_store_size_bytes{{{JOB}}}"},
            "bytes",
        ),
        Panel("Log time minus the node's clock", {"{{instance}}": f"falconq_raft_log_time_skew_seconds{{{JOB}}}"}, "s"),
    ],
}


def _target(legend: str, expression: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(SOURCE)


def _built(panel: Panel) -> stat.Panel | timeseries.Panel:
    curves = timeseries.Panel().span(12).height(8).fill_opacity(10)
    built = stat.Panel().span(6).height(4) if panel.is_number else curves
    built = built.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    for legend, expression in panel.expressions.items():
        built = built.with_target(_target(legend, expression))
    return built


def overview(rows: Iterable[tuple[str, list[Panel]]] = tuple(ROWS.items())) -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("FalconQ Cluster")
        .uid("falconq-overview")
        .tags(["falconq"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .label("Cluster")
            .datasource(SOURCE)
            .query("label_values(falconq_raft_current_term, job)")
            .refresh(VariableRefresh.ON_DASHBOARD_LOAD)
        )
    )
    for title, panels in rows:
        board = board.with_row(dashboard.Row(title))
        for panel in panels:
            board = board.with_panel(_built(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


if __name__ == "__main__":
    TARGET.write_text(overview())
