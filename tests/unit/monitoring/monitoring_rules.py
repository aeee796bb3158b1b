# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules as a site has them, and the tools that judge them."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles/monitoring"
TEMPLATES = sorted((ROLE / "templates/rules").glob("*.yml.j2"))
DASHBOARDS = ROLE / "files/dashboards"
SCRAPES = Path(__file__).resolve().parent / "scrapes"

# A regional deployment, with the role's own thresholds.
SITE: dict[str, Any] = {
    "deployment": "bd-fhir-national",
    "jobs": dict.fromkeys(("hapi", "postgres", "pgbouncer", "node", "prometheus", "alertmanager"), True),
    "replicas": 3,
    "command_job": True,
    "hapi_partitions_job": True,
    "audit_schema": "audit",
    "hikari_max": {"fhir": 5, "audit": 2},
    "hikari_pools": {"fhir": "fhir", "audit": "audit"},
    "sides": ["fhir", "audit"],
    "standbys": ["fhir-replica"],
    "standbys_of": {"fhir": ["fhir-replica"]},
    "poolers": ["fhir", "audit"],
    "pool_size": {"fhir": 20, "audit": 20},
    "max_connections": {"fhir": 40, "audit": 40},
    "reserved_connections": {"fhir": 3, "audit": 3},
    "usable_connections": {"fhir": 37, "audit": 37},
    "connections_percent": 80,
    "dead_minimum": 10000,
    "dead_percent": 10,
    "disk_percent": 85,
    "error_percent": 5,
    "gc_percent": 10,
    "heap_percent": 85,
    "idle_in_transaction_seconds": 300,
    "index_unused_days": 30,
    "job_hours": 26,
    "lag_bytes": 268435456,
    "lag_seconds": 30,
    "latency_seconds": 2,
    "partition_days": 45,
    "partition_max_bytes": 10737418240,
    "partition_warning_days": 90,
    "pool_percent": 90,
    "rejection_minimum": 20,
    "rejection_percent": 10,
    "restart_minutes": 15,
    "scrape_minutes": 2,
    "slot_percent": 80,
    "table_seq_scan_rows": 1000000,
    # 0 in the role, which leaves an alert out.
    "assess_hours": 192,
}


def site(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SITE), **changes}


def render(template: Path, rules: dict[str, Any]) -> str:
    """As Ansible's template module does: its options stand in the first line; what is not defined is an error."""
    first, text = template.read_text().split("\n", 1)
    assert first.startswith("#jinja2:"), template
    options = {name.strip(): yaml.safe_load(value) for name, value in (part.split(":", 1) for part in first[len("#jinja2:") :].split(","))}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False, **options)
    return environment.from_string(text).render(_monitoring_rules=rules)


def write_rules(folder: Path, rules: dict[str, Any]) -> list[Path]:
    found = []
    for template in TEMPLATES:
        found.append(folder / template.name.removesuffix(".j2"))
        found[-1].write_text(render(template, rules))
    return found


def rules_of(rules: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every rule of every file."""
    for template in TEMPLATES:
        for group in yaml.safe_load(render(template, rules))["groups"]:
            yield from group["rules"]


def alerts_of(rules: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules_of(rules) if "alert" in rule}


def promtool(*argv: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the real one. That it is missing is a failure: a rule that was not tried is not known to be good."""
    found = shutil.which("promtool")
    assert found, "promtool is missing: apt-get install prometheus, or 'tools/run python tests/lab/lab.py packages'"
    return subprocess.run([found, *map(str, argv)], cwd=cwd, capture_output=True, text=True, check=False)
