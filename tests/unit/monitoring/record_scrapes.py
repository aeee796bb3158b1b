# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Record scrapes/ anew: ``tools/run python tests/unit/monitoring/record_scrapes.py --pgbouncer-exporter FILE --postgres-exporter FILE``.

A primary and a standby with HAPI's tables and an audit database, the pooler, Debian's exporters with our queries, Prometheus and Alertmanager
themselves, and the textfiles of our own jobs are made here. HAPI's is read from the lab's host (``make lab-up``), which is not touched.
Debian has no pgbouncer_exporter of the Prometheus community, and no postgres_exporter from 0.20 on, which has renamed metrics (case 114): give
their binaries (``go build`` in their repositories).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _audit_job, _phase_report
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition_info, connection_budget_info, deployment_info, phase_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import STATS_PASSWORD, SUPERUSER_PASSWORD
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import IMAGE, docker
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import HapiTables

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SCRAPES = HERE / "scrapes"
QUERIES = ROOT / "roles/monitoring/files/postgres_queries.yml"
EXPORTERS = "bd-fhir-test/monitoring:1"
BUILD = """ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends prometheus prometheus-alertmanager \\
 prometheus-postgres-exporter prometheus-node-exporter curl && rm -rf /var/lib/apt/lists/*
"""
AUDIT = ROOT / "overlay/src/main/resources/db/migration/audit/V2__audit_schema.sql"
EVENTS = """INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)
  SELECT now() - n * interval '1 minute', 'OPERATION', CASE WHEN n % 3 = 0 THEN 'REJECTED' ELSE 'ACCEPTED' END, 'vendor-' || n % 2, 'POST', '/', 201,
    5, 'a'
  FROM generate_series(1, 600) n;
"""
# The metrics about rules and about notifying are there only when there are some.
PROMETHEUS = """alerting: {alertmanagers: [{static_configs: [{targets: ["localhost:9093"]}]}]}
rule_files: [/site/rules.yml]
"""
RULES = """groups: [{name: one, rules: [{record: one, expr: vector(1)}]}]
"""


class Recorder:
    def __init__(self, site: HapiTables) -> None:
        self.site = site
        self.started: list[str] = []

    def exporter(self, *argv: str, options: tuple[str, ...] = ()) -> str:
        """Start one on the site's network."""
        found = docker("run", "-d", "--network", f"{self.site.name}_default", *options, EXPORTERS, *argv).strip()
        self.started.append(found)
        return found

    def record(self, name: str, container: str, port: int, path: str = "/metrics", sure: str = "") -> None:
        """Ask until the page has what shows that it is complete."""
        end = time.monotonic() + 60
        text = ""
        while time.monotonic() < end:
            text = docker("exec", container, "curl", "-sf", f"http://localhost:{port}{path}", check=False)
            if text and sure in text:
                save(name, text)
                return
            time.sleep(1)
        raise SystemExit(f"{name}: no {sure or 'answer'} within 60 s:\n{docker('logs', container)}\n{text[-2000:]}")

    def remove(self) -> None:
        if self.started:
            docker("rm", "-f", "-v", *self.started)


def save(name: str, text: str) -> None:
    SCRAPES.mkdir(exist_ok=True)
    (SCRAPES / f"{name}.prom").write_text(text)
    print(f"{name}: {sum(not line.startswith('#') for line in text.splitlines())} samples")


def module(main: Any, args: dict[str, Any]) -> dict[str, Any]:
    said = io.StringIO()
    with patch_module_args(args), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    found: dict[str, Any] = json.loads(said.getvalue())
    if found.get("failed"):
        raise SystemExit(found["msg"])
    return found


def phase(site: HapiTables) -> str:
    """What assess leaves for node_exporter, with a history, and with a limit that was passed."""
    login = {"service": "postgres", "login_user": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
    common: dict[str, Any] = {"project_dir": str(site.dir)}
    sides = [{"name": "fhir", "database_service": "postgres", "database": "fhirdb", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}]
    args = {
        **common,
        "fhir": {**login, "database": "fhirdb"},
        "audit": {**login, "database": "auditdb"},
        "partitions": module(audit_partition_info.main, {**common, **login, "database": "auditdb", "rejection_days": 7}),
        "connections": module(connection_budget_info.main, {**common, "sides": sides, "replicas": 1, "hikari_sizes": {"fhir": 5}}),
        "deployment": module(deployment_info.main, common),
        "thresholds": {"resources": {"pilot_below": 1000, "regional_below": 2500}},
    }
    now = module(phase_info.main, args)["sample"]
    args["samples"] = [
        {
            **now,
            "at": (datetime.fromisoformat(now["at"].replace("Z", "+00:00")) - timedelta(days=days)).isoformat(),
            "resources": now["resources"] - 20 * days,
        }
        for days in range(60, 0, -2)
    ]
    return _phase_report.as_prometheus(module(phase_info.main, args), {})


def audit_job(site: HapiTables, folder: Path) -> str:
    """What the job for the audit partitions leaves."""
    path = folder / "bd_fhir_audit_partitions.prom"
    config = {
        "project_dir": str(site.dir),
        "service": "postgres",
        "database": "auditdb",
        "login_user": "postgres",
        "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
        "metrics": str(path),
        "state_dir": str(folder / "state"),
    }
    (folder / "audit.json").write_text(json.dumps(config))
    _audit_job.main(["--config", str(folder / "audit.json"), "run", "--scheduled", "--log", str(folder / "audit.log")])
    return path.read_text()


def hapi() -> str:
    """The actuator of a replica on the lab's host."""
    found = docker("exec", "fhir-pilot", "docker", "ps", "-q", "--filter", "label=com.docker.compose.service=hapi").split()
    if not found:
        raise SystemExit("no hapi runs on the lab's host fhir-pilot: make lab-up")
    return docker("exec", "fhir-pilot", "docker", "exec", found[0], "curl", "-sf", "http://localhost:8080/actuator/prometheus")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pgbouncer-exporter", type=Path, required=True)
    parser.add_argument("--postgres-exporter", type=Path, required=True)
    arguments = parser.parse_args()
    docker("build", "-q", "-t", EXPORTERS, "--build-arg", f"BASE_IMAGE={IMAGE}", "-", stdin=BUILD)
    save("hapi", hapi())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = HapiTables(folder / "site", "scrape")
        recorder = Recorder(site)
        try:
            site.start(standby=True, max_connections=40, replicas=1)
            site.template(2000)
            site.fresh()
            site.script("CREATE DATABASE auditdb", "postgres")
            site.script(AUDIT.read_text() + EVENTS, "auditdb")
            site.script("SELECT pg_create_physical_replication_slot('bd_fhir_replica', true)")
            site.script("VACUUM ANALYZE; CREATE INDEX unused ON hfj_resource (res_updated)")
            site.script("VACUUM ANALYZE", "auditdb")
            textfiles = folder / "textfiles"
            textfiles.mkdir(mode=0o755)
            folder.chmod(0o755)
            (textfiles / "bd_fhir_assess.prom").write_text(phase(site))
            (textfiles / "bd_fhir_audit_partitions.prom").write_text(audit_job(site, folder))
            for path in textfiles.iterdir():
                path.chmod(0o644)
            with site.clients(2):
                sides = (
                    ("fhir", "postgres", "fhirdb"),
                    ("audit", "postgres", "auditdb"),
                    ("fhir-replica", "standby", "fhirdb"),
                    ("fhir-new", "postgres", "fhirdb"),
                )
                newer = ("-v", f"{arguments.postgres_exporter.resolve()}:/exporter:ro")
                for side, service, database in sides:
                    new = side == "fhir-new"
                    container = recorder.exporter(
                        "/exporter" if new else "prometheus-postgres-exporter",
                        "--extend.query-path=/queries.yml",
                        options=(
                            *(newer if new else ()),
                            "-v",
                            f"{QUERIES}:/queries.yml:ro",
                            "-e",
                            f"DATA_SOURCE_URI={service}:5432/{database}?sslmode=disable",
                            "-e",
                            "DATA_SOURCE_USER=postgres",
                            "-e",
                            f"DATA_SOURCE_PASS={SUPERUSER_PASSWORD}",
                        ),
                    )
                    recorder.record(f"postgres-{side}", container, 9187, sure="bd_fhir_pg_server_")
                container = recorder.exporter(
                    "/exporter",
                    "--pgBouncer.connectionString=postgres://stats@pgbouncer:6432/pgbouncer?sslmode=disable",
                    options=("-v", f"{arguments.pgbouncer_exporter.resolve()}:/exporter:ro", "-e", f"PGPASSWORD={STATS_PASSWORD}"),
                )
                recorder.record("pgbouncer", container, 9127, sure="pgbouncer_pools_")
            container = recorder.exporter(
                "prometheus-node-exporter", "--collector.textfile.directory=/textfiles", options=("-v", f"{textfiles}:/textfiles:ro")
            )
            recorder.record("node", container, 9100, sure="bd_fhir_assess_timestamp_seconds")
            files = folder / "prometheus"
            files.mkdir(mode=0o755)
            (files / "prometheus.yml").write_text(PROMETHEUS)
            (files / "rules.yml").write_text(RULES)
            container = recorder.exporter(
                "prometheus", "--config.file=/site/prometheus.yml", "--storage.tsdb.path=/tmp/data", options=("-v", f"{files}:/site:ro")
            )
            recorder.record("prometheus", container, 9090, sure="prometheus_rule_evaluation_failures_total")
            container = recorder.exporter(
                "prometheus-alertmanager", "--config.file=/etc/prometheus/alertmanager.yml", "--storage.path=/tmp/data", "--cluster.listen-address="
            )
            recorder.record("alertmanager", container, 9093, sure="alertmanager_notifications_failed_total")
        finally:
            recorder.remove()
            site.remove()


if __name__ == "__main__":
    sys.exit(main())
