# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""phase_info at 1, 5 and 10 million resources, beside counting the same exactly.

HFJ_RESOURCE and HFJ_SPIDX_DATE (one row a resource) have their true sizes with all of their indexes; the other tables have the rows of every
hundredth resource. The sizes are asked in turn, so that each sees the same machine. Sequential scans and rows read are PostgreSQL's own counts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _result import publish
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import phase_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_hapi import FILL, SCHEMA, HapiTables

MILLION = int(os.environ.get("BENCH_MILLION", "1000000"))
SIZES = {"1m": 1 * MILLION, "5m": 5 * MILLION, "10m": 10 * MILLION}
ROUNDS = 5
TRUE = ("hfj_resource", "hfj_spidx_date")
RATIO = 100
AUDIT = Path(__file__).resolve().parents[2] / "overlay/src/main/resources/db/migration/audit/V2__audit_schema.sql"
EVENTS = """INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)
SELECT now() - n * interval '20 seconds', 'OPERATION', 'ACCEPTED', 'vendor-' || n % 40, 'POST', '/', 201, 5, 'a' FROM generate_series(1, 100000) n;
ANALYZE;"""
ROWS_AND_BYTES = """SELECT json_object_agg(relname, json_build_array(reltuples::bigint, pg_total_relation_size(oid)))
FROM pg_class WHERE relname = ANY ('{%s}')"""
COUNTS = "SELECT sum(seq_scan), sum(seq_tup_read), sum(coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables WHERE relname LIKE 'hfj\\_%'"
ENTRIES = "SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE relname LIKE 'hfj\\_%'"


def fill_text() -> str:
    """The fill of the tests. The two large tables come from every resource, the others from every hundredth."""
    parts = FILL.read_text().split(";\n")
    found = []
    for part in parts:
        whole = "setval" in part or any(f"INSERT INTO {name} " in part for name in TRUE)
        found.append(part if whole else part.replace("FROM hfj_resource", "FROM few"))
    # Behind the first INSERT, which makes the resources.
    place = next(number for number, part in enumerate(found) if "INSERT INTO hfj_resource " in part) + 1
    found.insert(place, f"CREATE TEMP TABLE few AS SELECT * FROM hfj_resource WHERE res_id % {RATIO} = 1; CREATE INDEX ON few (res_id); ANALYZE few")
    return ";\n".join(found).replace("JOIN hfj_resource t", "JOIN few t")


def make(site: HapiTables, name: str, count: int) -> None:
    """A database of its own: indexes of the large tables come after their rows, as pg_restore does it."""
    site.script(f"CREATE DATABASE size_{name}", "postgres")
    database = f"size_{name}"
    site.script(SCHEMA.read_text(), database)
    tables = ", ".join(f"'{table}'::regclass" for table in TRUE)
    plain = ("SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indrelid IN (%s)"
             " AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)" % tables)  # fmt: skip
    indexes = site.script(plain, database).splitlines()
    names = site.script(plain.replace("pg_get_indexdef(i.indexrelid)", "i.indexrelid::regclass"), database).splitlines()
    site.script("DROP INDEX " + ", ".join(names), database)
    # Rows are made that fit each other, so the foreign keys need not ask for each.
    site.script("\\set count %d\nSET session_replication_role = replica;\n%s" % (count, fill_text()), database)
    site.script(";\n".join(indexes), database)
    site.script("VACUUM (ANALYZE)", database)


def ask(site: HapiTables, database: str) -> tuple[dict[str, Any], float]:
    """Run the module as Ansible does; returns its result and the seconds that it took."""
    login = {"service": "postgres", "login_user": "postgres", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
    args = {"project_dir": str(site.dir), "fhir": {**login, "database": database}, "audit": {**login, "database": "auditdb"}}
    said = io.StringIO()
    begin = time.monotonic()
    with patch_module_args(args), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        phase_info.main()
    seconds = time.monotonic() - begin
    result: dict[str, Any] = json.loads(said.getvalue())
    if result.get("failed"):
        raise SystemExit(result["msg"])
    return result, seconds


def read(site: HapiTables, database: str) -> dict[str, int]:
    """What PostgreSQL has counted; a session hands its counts over when it ends."""
    time.sleep(1.5)
    scans, rows, fetched = (int(value) for value in site.script(COUNTS, database).split("|"))
    return {"seq_scans": scans, "seq_rows": rows, "rows_by_index": fetched, "index_entries": int(site.script(ENTRIES, database))}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in SIZES}
    reads: dict[str, dict[str, int]] = {}
    counts: dict[str, dict[str, float]] = {}
    told: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        site = HapiTables(Path(folder) / "site", "assess")
        try:
            site.start(pooler="", max_connections=60, postgres_args="-c shared_buffers=512MB -c max_wal_size=16GB -c maintenance_work_mem=1GB"
                       " -c max_parallel_maintenance_workers=0 -c max_parallel_workers_per_gather=0 -c autovacuum=off -c full_page_writes=off"
                       " -c wal_level=minimal -c max_wal_senders=0")
            site.script("CREATE DATABASE auditdb", "postgres")
            site.script(AUDIT.read_text() + EVENTS, "auditdb")
            for name, count in SIZES.items():
                begin = time.monotonic()
                make(site, name, count)
                sizes[name] = json.loads(site.script(ROWS_AND_BYTES % ",".join(TRUE), f"size_{name}"))
                print(f"{name}: made in {time.monotonic() - begin:.0f} s: {sizes[name]}", file=sys.stderr, flush=True)
            for number in range(ROUNDS + 1):
                for name in SIZES:
                    if number:
                        seconds[name].append(ask(site, f"size_{name}")[1])
                        continue
                    # The first round only warms up, and is where rows are counted.
                    before = read(site, f"size_{name}")
                    result = ask(site, f"size_{name}")[0]
                    after = read(site, f"size_{name}")
                    reads[name] = {key: after[key] - before[key] for key in before}
                    told[name] = {key: result["metrics"][key]["value"] for key in ("resources", "resources_per_day")}
                    told[name]["unread"] = result["unread"]
            for name in SIZES:
                begin = time.monotonic()
                counts[name] = {table: int(site.script(f"SELECT count(*) FROM {table}", f"size_{name}")) for table in TRUE}
                counts[name]["seconds"] = time.monotonic() - begin
        finally:
            site.remove()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    worst = max(abs(told[name]["resources"] / counts[name]["hfj_resource"] - 1) for name in SIZES)
    publish("assess", {
        "ratio_10m_1m": median["10m"] / median["1m"], "seq_scans": reads["10m"]["seq_scans"],
        "count_seconds_10m": counts["10m"]["seconds"], "seconds_10m": median["10m"],
    }, {
        "seconds": seconds, "reads": reads, "counted": counts, "told": told, "sizes": sizes, "estimate_off_percent": 100 * worst,
        "others": f"the rows of every {RATIO}th resource",
    })


if __name__ == "__main__":
    main()
