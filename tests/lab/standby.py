# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The standby of the pilot's HAPI database: what its servers say, and how HAPI's replicas read from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pilot_host import on_host, replicas

STANDBY = "postgres-fhir-replica"
PAIRS = Path(__file__).parent / "pairs.py"
SMALL = ("-e", "postgres_replica_memory=512m")


def psql(sql: str, service: str = "bd-postgres-fhir", check: bool = True) -> str:
    return on_host("docker", "exec", "-u", "postgres", service, "psql", "-XAtq", "-U", "postgres", "-d", "fhirdb", "-c", sql, check=check).strip()


def streams() -> bool:
    return psql(f"SELECT state FROM pg_stat_replication WHERE application_name = '{STANDBY}'") == "streaming"


def figures() -> dict[str, float]:
    """What the replicas have counted of their reads, all together."""
    found: dict[str, float] = {}
    for replica in replicas():
        text = on_host("curl", "-fsS", "-m", "20", f"http://{replica.address}:8080/actuator/prometheus")
        for name, labels, value in re.findall(r"^(fhir_read_\w+)(\{.*?\})? (\S+)$", text, re.MULTILINE):
            key = name + "".join(":" + item for item in re.findall(r'(?:route|reason)="(\w+)"', labels))
            found[key] = found.get(key, 0) + float(value)
    return found


def sent(before: dict[str, float], after: dict[str, float], what: str) -> float:
    return sum(after[key] - before.get(key, 0) for key in after if key.startswith("fhir_read_requests_total") and what in key.split(":"))


def back() -> bool:
    """Every replica sends reads to the standby."""
    return figures()["fhir_read_standby_up"] == len(replicas())


def pairs(count: int, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        on_host("python3", "-", str(count), str(seconds), *(item.address for item in replicas()), data=PAIRS.read_text(encoding="utf-8"))
    )
    return found


def primary_state() -> str:
    """Everything of the primary that a rollback has to give back."""
    settings = "SELECT name, setting, source FROM pg_settings WHERE source NOT IN ('client', 'session') ORDER BY name"
    files = "SELECT pg_read_file(current_setting('hba_file')), pg_read_file('postgresql.auto.conf')"
    slots = "SELECT slot_name FROM pg_replication_slots"
    globals_ = on_host("docker", "exec", "-u", "postgres", "bd-postgres-fhir", "pg_dumpall", "-U", "postgres", "--globals-only")
    # A random word of each dump, with which psql refuses what was put in between.
    globals_ = re.sub(r"(?m)^\\(un)?restrict .*$", "", globals_)
    return "\n".join([psql(settings), psql(files), psql(slots), globals_])
