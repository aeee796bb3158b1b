# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dashboards of the role monitoring: ``tools/run python tools/dashboards.py`` writes them, ``--check`` says whether they are up to date.

One page each for the service, the databases and the audit side. A panel shows what its alerts judge, with the alert's threshold where that is
not the site's own.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).resolve().parents[1] / "roles/monitoring/files/dashboards"
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
LAST = common.ReduceDataOptions().calcs(["lastNotNull"])
# The job is told, so that a metric of the same name from elsewhere does not mix in.
HAPI = 'job="hapi", deployment=~"$deployment"'
POSTGRES = 'job="postgres", deployment=~"$deployment"'
POOLER = 'job="pgbouncer", deployment=~"$deployment"'
# Without the pooler's own console.
CLIENTS = f'{POOLER}, database!="pgbouncer"'
ANY = 'deployment=~"$deployment"'
DISKS = f'fstype!~"tmpfs|overlay|squashfs|ramfs|iso9660", {ANY}'


@dataclass(frozen=True)
class Panel:
    """One panel: its queries with their legends. limits: value -> colour from there on."""

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "line"
    limits: tuple[tuple[float, str], ...] = ()
    width: int = 8


ALERTS = Panel(
    "Alerts", "What fires now, by severity. None is only good news while Prometheus reaches everything.",
    {"{{alertname}} ({{severity}})": f'sum by (alertname, severity) (ALERTS{{alertstate="firing", alertname!="Watchdog", {ANY}}})'},
    kind="bars", width=12,
)  # fmt: skip

SERVICE: dict[str, tuple[Panel, ...]] = {
    "Now": (
        ALERTS,
        Panel(
            "Replicas that answer",
            "Each replica is asked at its own address, not through the balancer.",
            {"": f"sum(up{{{HAPI}}})"},
            kind="figure",
            width=4,
            limits=((0, "red"), (1, "green")),
        ),
        Panel(
            "Not reached",
            "Targets of Prometheus that do not answer: nothing is known of what they watch.",
            {"": f"count(up{{{ANY}}} == 0) or vector(0)"},
            kind="figure",
            width=4,
            limits=((0, "green"), (1, "red")),
        ),
        Panel(
            "Server errors",
            "Of all requests in the last five minutes.",
            {"": f"max(bd_fhir:error_percent{{{ANY}}}) or vector(0)"},
            "percent",
            "figure",
            width=4,
            limits=((0, "green"), (5, "red")),
        ),
    ),
    "Requests": (
        Panel(
            "Requests",
            "By replica, those to the actuator left out. One that gets none is not in the balancer.",
            {"{{instance}}": f"bd_fhir:requests_per_second{{{ANY}}}"},
            "reqps",
        ),
        Panel("Mean time", "By replica.", {"{{instance}}": f"bd_fhir:mean_seconds{{{ANY}}}"}, "s", limits=((0, "green"), (2, "orange"))),
        Panel(
            "Slowest request",
            "Of the last two minutes, by replica. More than 30 s is mostly the terminology server.",
            {"{{instance}}": f'max by (instance) (http_server_requests_seconds_max{{{HAPI}, uri!~"/actuator.*"}})'},
            "s",
            limits=((0, "green"), (30, "red")),
        ),
        Panel(
            "Answers by status",
            "4xx is what vendors send wrongly, 5xx is the server.",
            {"{{status}}": f'sum by (status) (rate(http_server_requests_seconds_count{{{HAPI}, uri!~"/actuator.*"}}[5m]))'},
            "reqps",
            width=12,
        ),
        Panel(
            "Server errors",
            "Share of 5xx, by replica.",
            {"{{instance}}": f"bd_fhir:error_percent{{{ANY}}}"},
            "percent",
            width=12,
            limits=((0, "green"), (5, "red")),
        ),
    ),
    "Connection pools of the replicas": (
        Panel(
            "In use",
            "By pool and replica; the dashed line is what the pool has.",
            {
                "{{pool}} {{instance}}": f"hikaricp_connections_active{{{HAPI}}}",
                "most {{pool}}": f"max by (pool) (hikaricp_connections_max{{{HAPI}}})",
            },
        ),
        Panel(
            "Waiting",
            "More than 0 for 30 seconds is an exhausted pool.",
            {"{{pool}} {{instance}}": f"hikaricp_connections_pending{{{HAPI}}}"},
            limits=((0, "green"), (1, "red")),
        ),
        Panel(
            "Given up",
            "Requests that got no connection in time, in five minutes.",
            {"{{pool}} {{instance}}": f"increase(hikaricp_connections_timeout_total{{{HAPI}}}[5m])"},
            limits=((0, "green"), (1, "red")),
        ),
    ),
    "Java": (
        Panel(
            "Heap",
            "Used of the most it may have, summed over its memory pools.",
            {"{{instance}}": f"bd_fhir:heap_percent{{{ANY}}}"},
            "percent",
            limits=((0, "green"), (85, "red")),
        ),
        Panel(
            "Garbage collection",
            "Share of time in pauses.",
            {"{{instance}}": f"bd_fhir:gc_percent{{{ANY}}}"},
            "percent",
            limits=((0, "green"), (10, "orange")),
        ),
        Panel("Running for", "A drop is a restart.", {"{{instance}}": f"process_uptime_seconds{{{HAPI}}}"}, "s"),
    ),
}

DATABASES: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Databases that answer", "To their exporters.", {"{{side}}": f"pg_up{{{POSTGRES}}}"}, kind="figure", limits=((0, "red"), (1, "green"))),
        Panel(
            "Poolers that answer", "To their exporters.", {"{{side}}": f"pgbouncer_up{{{POOLER}}}"}, kind="figure", limits=((0, "red"), (1, "green"))
        ),
        Panel("Size", "Of each database.", {"{{side}}": f"bd_fhir_pg_server_database_bytes{{{POSTGRES}}}"}, "bytes", "figure"),
    ),
    "Connections": (
        Panel(
            "Of the usable ones",
            "Connections in all states, of what is left beside the reserved ones. Active ones alone say nothing: idle ones hold slots.",
            {"{{side}}": f"bd_fhir:connections_percent{{{ANY}}}"},
            "percent",
            limits=((0, "green"), (80, "orange"), (95, "red")),
        ),
        Panel(
            "By role and state",
            "Who has them.",
            {"{{side}} {{role}} {{state}}": f"sum by (side, role, state) (bd_fhir_pg_sessions_count{{{POSTGRES}}})"},
        ),
        Panel(
            "Oldest transaction",
            "Idle in a transaction holds locks and keeps dead rows.",
            {"{{side}} {{role}} {{state}}": f"max by (side, role, state) (bd_fhir_pg_sessions_oldest_transaction_seconds{{{POSTGRES}}})"},
            "s",
            limits=((0, "green"), (300, "orange")),
        ),
    ),
    "Poolers": (
        Panel(
            "Pool in use",
            "Server connections that a client has, of the pool's size.",
            {"{{side}} {{database}}": f"bd_fhir:pool_percent{{{ANY}}}"},
            "percent",
            limits=((0, "green"), (90, "orange")),
        ),
        Panel(
            "Clients",
            "Active and waiting.",
            {
                "active {{side}} {{database}}": f"sum by (side, database) (pgbouncer_pools_client_active_connections{{{CLIENTS}}})",
                "waiting {{side}} {{database}}": f"sum by (side, database) (pgbouncer_pools_client_waiting_connections{{{CLIENTS}}})",
            },
        ),
        Panel(
            "Longest wait",
            "Of a client for a server connection.",
            {"{{side}} {{database}}": f"max by (side, database) (pgbouncer_pools_client_maxwait_seconds{{{CLIENTS}}})"},
            "s",
        ),
    ),
    "Replication": (
        Panel(
            "Standby hears its primary",
            "0 is a cut link, whatever the lag says.",
            {"{{side}}": f"bd_fhir_pg_standby_receiving{{{POSTGRES}}}"},
            kind="figure",
            limits=((0, "red"), (1, "green")),
            width=6,
        ),
        Panel(
            "Lag in seconds",
            "Age of what the standby shows; 0 while all that has come is replayed.",
            {"{{side}}": f"bd_fhir_pg_standby_lag_seconds{{{POSTGRES}}}"},
            "s",
            width=6,
            limits=((0, "green"), (30, "orange")),
        ),
        Panel(
            "Lag in bytes",
            "As the primary sees it.",
            {"{{standby}} {{address}}": f"bd_fhir_pg_replication_lag_bytes{{{POSTGRES}}}"},
            "bytes",
            width=6,
        ),
        Panel(
            "Log kept by slots",
            "A slot that nobody uses keeps it until the disk is full.",
            {"{{side}} {{slot}}": f"bd_fhir_pg_slot_retained_bytes{{{POSTGRES}}}"},
            "bytes",
            width=6,
        ),
    ),
    "Tables": (
        Panel(
            "Dead rows",
            "The ten largest shares, of tables that have more than autovacuum waits for.",
            {
                "{{side}} {{table}}": f"topk(10, bd_fhir:dead_percent{{{ANY}}} and"
                f" bd_fhir_pg_table_dead_rows{{{POSTGRES}}} > bd_fhir_pg_table_vacuum_at_dead_rows{{{POSTGRES}}})"
            },
            "percent",
            limits=((0, "green"), (10, "orange")),
        ),
        Panel(
            "Largest tables",
            "Heap only, when it was last vacuumed or analyzed.",
            {"{{side}} {{table}}": f"topk(10, bd_fhir_pg_table_heap_bytes{{{POSTGRES}}})"},
            "bytes",
            "bars",
        ),
        Panel(
            "Rows read end to end",
            "By sequential scans in an hour, of HAPI's tables.",
            {"{{side}} {{table}}": f'topk(10, increase(bd_fhir_pg_table_seq_rows{{{POSTGRES}, table=~"hfj_.*"}}[1h]))'},
        ),
        Panel(
            "Unused indexes",
            "Space of indexes without a scan since the statistics began. Unused is not bloated.",
            {"{{side}} {{index}}": f"topk(10, bd_fhir_pg_index_bytes{{{POSTGRES}}} and bd_fhir_pg_index_unused{{{POSTGRES}}} == 1)"},
            "bytes",
            "bars",
            width=12,
        ),
        Panel(
            "Disk",
            "Used, of each file system.",
            {
                "{{instance}} {{mountpoint}}": "max by (instance, mountpoint)"
                f" (100 * (1 - node_filesystem_avail_bytes{{{DISKS}}} / node_filesystem_size_bytes{{{DISKS}}}))"
            },
            "percent",
            width=12,
            limits=((0, "green"), (85, "red")),
        ),
    ),
}

AUDIT: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Days with partitions",
            "By table. Behind them, or in a gap before, every INSERT fails.",
            {"{{table}}": f'bd_fhir_audit_partition_days_left{{schema!="", {ANY}}}'},
            "d",
            "figure",
            ((0, "red"), (45, "orange"), (90, "green")),
        ),
        Panel(
            "Job was started",
            "By its scheduler, hours ago.",
            {"": f"(time() - max(bd_fhir_audit_partition_scheduler_timestamp_seconds{{{ANY}}})) / 3600"},
            "h",
            "figure",
            ((0, "green"), (26, "red")),
        ),
        Panel(
            "Job ended with",
            "0 well, 1 trouble, 2 it could not look.",
            {"": f"max(bd_fhir_audit_partition_exit_code{{{ANY}}})"},
            kind="figure",
            limits=((0, "green"), (1, "red")),
        ),
    ),
    "Partitions": (
        Panel(
            "Size of partitions",
            "The largest, with indexes and TOAST; from 10 GB on an archive is due.",
            {"{{partition}}": f'topk(15, bd_fhir_pg_partition_bytes{{{POSTGRES}, schema="audit"}})'},
            "bytes",
            "bars",
            ((0, "green"), (10 * 2**30, "orange")),
            12,
        ),
        Panel("Size of tables", "With all of their partitions.", {"{{table}}": f"bd_fhir_audit_partition_bytes{{{ANY}}}"}, "bytes", width=12),
        Panel(
            "Rows in the default partition",
            "Their months can't be made beside them.",
            {"{{table}}": f"bd_fhir_audit_partition_default_rows{{{ANY}}}"},
            limits=((0, "green"), (1, "orange")),
            width=12,
        ),
        Panel("Findings of the job", "By severity.", {"{{severity}}": f"bd_fhir_audit_partition_findings{{{ANY}}}"}, width=12),
    ),
    "Vendors": (
        Panel(
            "Rejected",
            "Share of a vendor's submissions of seven days, where there were enough, by the last run of assess.",
            {"{{vendor}}": f'topk(20, bd_fhir_rejected_percent{{enough="true", {ANY}}})'},
            "percent",
            "bars",
            ((0, "green"), (10, "orange"), (30, "red")),
            24,
        ),
    ),
    "Phases": (
        Panel(
            "Load of its limits",
            "What assess measured, of the limits of the phases.",
            {"{{metric}} to {{to}}": f"100 * bd_fhir_load{{{ANY}}} / on (metric, instance) group_right bd_fhir_load_limit{{{ANY}}}"},
            "percent",
            limits=((0, "green"), (80, "orange"), (100, "red")),
        ),
        Panel("Due", "What assess found to be due.", {"{{what}} ({{playbook}})": f"bd_fhir_due{{{ANY}}}"}, kind="bars"),
        Panel(
            "Assessed",
            "Days ago. What it could not read is not known to be well.",
            {
                "days ago": f"(time() - max(bd_fhir_assess_timestamp_seconds{{{ANY}}})) / 86400",
                "could not be read": f"max(bd_fhir_assess_unread{{{ANY}}})",
            },
            kind="figure",
        ),
    ),
}

PAGES = {
    "service": ("BD FHIR: the service", SERVICE),
    "databases": ("BD FHIR: the databases", DATABASES),
    "audit": ("BD FHIR: the audit side", AUDIT),
}


def thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None if number == 0 else value, color=color) for number, (value, color) in enumerate(panel.limits)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps or [models.Threshold(value=None, color="blue")])


def built(panel: Panel, number: int) -> stat.Panel | bargauge.Panel | timeseries.Panel:
    """A panel as the SDK has it."""
    made: stat.Panel | bargauge.Panel | timeseries.Panel
    if panel.kind == "figure":
        made = (
            stat.Panel().color_mode(common_models.BigValueColorMode.BACKGROUND).graph_mode(common_models.BigValueGraphMode.NONE).reduce_options(LAST)
        )
    elif panel.kind == "bars":
        made = (
            bargauge.Panel()
            .orientation(common_models.VizOrientation.HORIZONTAL)
            .display_mode(common_models.BarGaugeDisplayMode.BASIC)
            .reduce_options(LAST)
        )
    else:
        made = (
            timeseries.Panel()
            .fill_opacity(8)
            .line_width(1)
            .legend(
                common.VizLegendOptions()
                .display_mode(common_models.LegendDisplayMode.LIST)
                .placement(common_models.LegendPlacement.BOTTOM)
                .show_legend(True)
            )
        )
        if panel.unit == "percent":
            made = made.min(0)
    made = made.id(number).title(panel.title).description(panel.description).unit(panel.unit).datasource(DATASOURCE).thresholds(thresholds(panel))
    made = made.span(panel.width).height(7).no_value("nothing is known")
    for place, (legend, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend or "now").ref_id(chr(ord("A") + place)).datasource(DATASOURCE)
        target = target.format(PromQueryFormat.TIME_SERIES)
        made = made.with_target(target.instant() if panel.kind != "line" else target.range())
    return made


def page(name: str) -> str:
    """The JSON of one dashboard."""
    title, rows = PAGES[name]
    made = dashboard.Dashboard(title).uid(f"bd-fhir-{name}").tags(["bd-fhir"]).readonly().refresh("30s").time("now-6h", "now")
    made = made.tooltip(models.DashboardCursorSync.CROSSHAIR)
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    made = made.with_variable(
        dashboard.QueryVariable("deployment").label("Deployment").datasource(DATASOURCE).query("label_values(up, deployment)")
        .include_all(True).all_value(".*").refresh(models.VariableRefresh.ON_DASHBOARD_LOAD))  # fmt: skip
    for other, (label, _rows) in PAGES.items():
        if other != name:
            made = made.link(
                dashboard.DashboardLink(label.partition(": ")[2]).type(models.DashboardLinkType.LINK).url(f"/d/bd-fhir-{other}").keep_time(True)
            )
    number = 0
    for row, panels in rows.items():
        made = made.with_row(dashboard.Row(row))
        for item in panels:
            number += 1
            made = made.with_panel(built(item, number))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; say what is not up to date")
    arguments = parser.parse_args()
    stale = [name for name in PAGES if not (FOLDER / f"{name}.json").exists() or (FOLDER / f"{name}.json").read_text() != page(name)]
    if not arguments.check:
        for name in stale:
            (FOLDER / f"{name}.json").write_text(page(name))
    print(f"{'stale' if arguments.check else 'written'}: {', '.join(stale) or 'none'}", file=sys.stderr)
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
