# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The partition check over 36, 1,000 and 10,000 months, beside the roadmap's shell check of the same 36 months.

Both include their login: ours opens one session, reads and judges the whole table and plans what is missing; the shell check asks for
one name, so that it runs once for each month.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from _result import ROOT, publish
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _partition_catalog as catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import Settings
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import Login, Session, connect
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import SUPERUSER_PASSWORD, Databases
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

SIZES = (36, 1000, 10000)
ROUNDS = 5
SCHEMA = ROOT / "overlay/src/main/resources/db/migration/audit/V2__audit_schema.sql"
# The table of the lab with other months: the last one is always December 2027, as there.
MONTHS = """
DO $$ DECLARE part regclass; BEGIN
  FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'audit.audit_events'::regclass LOOP EXECUTE format('DROP TABLE %%s', part); END LOOP;
END $$;
GRANT INSERT ON audit.audit_events TO audit_writer_login;
CREATE PROCEDURE public.fill(months int) LANGUAGE plpgsql AS $$
DECLARE month timestamp;
BEGIN
  FOR n IN 0..months - 1 LOOP
    month := timestamp '2027-12-01' - make_interval(months => months - 1 - n);
    EXECUTE format('CREATE TABLE audit.%%I (LIKE audit.audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)',
      to_char(month, '"audit_events_"YYYY_MM'));
    EXECUTE format('GRANT INSERT ON audit.%%I TO audit_writer_login', to_char(month, '"audit_events_"YYYY_MM'));
    EXECUTE format('ALTER TABLE audit.audit_events ATTACH PARTITION audit.%%I FOR VALUES FROM (%%L) TO (%%L)',
      to_char(month, '"audit_events_"YYYY_MM'), month || '+00', month + interval '1 month' || '+00');
    IF n %% 100 = 99 THEN COMMIT; END IF;
  END LOOP;
END $$;
CALL public.fill(%d);
VACUUM ANALYZE;
"""
# As the roadmap has it, with the month as an argument instead of date(1)'s "+1 month".
SHELL_CHECK = """#!/bin/bash
NEXT_MONTH=$2
PARTITION="audit_events_${NEXT_MONTH}"
RESULT=$(docker exec $1 psql -U postgres -d n36 -tAc "
SELECT COUNT(*) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'audit' AND c.relname = '${PARTITION}';")
if [ "$RESULT" -eq "0" ]; then
echo "ALERT: Missing audit partition for next month: ${PARTITION}"
exit 1
fi
echo "OK: Partition ${PARTITION} exists"
exit 0
"""


class Counted:
    """A session that counts what it is asked."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.queries = 0

    def rows(self, *args: Any) -> list[dict[str, Any]]:
        self.queries += 1
        return self.session.rows(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def check(login: Login, now: datetime) -> tuple[float, int, catalog.TableReport]:
    """Return milliseconds from nothing to the verdict, the queries that the table took, and the verdict."""
    begin = time.monotonic()
    with connect(login) as session:
        server = catalog.read_server(session)
        counted = Counted(session)
        report = catalog.look(counted, server, "audit", "audit_events", Settings(), now)  # type: ignore[arg-type]
    return (time.monotonic() - begin) * 1000, counted.queries, report


def shell_check(script: Path, container: str, months: list[str]) -> float:
    begin = time.monotonic()
    for month in months:
        done = subprocess.run(["bash", str(script), container, month], capture_output=True, text=True, check=False)
        if done.returncode or not done.stdout.startswith("OK"):
            raise SystemExit(f"the shell check of {month} says {done.stdout}{done.stderr}")
    return (time.monotonic() - begin) * 1000


def main() -> None:
    now = datetime(2026, 11, 26, tzinfo=timezone.utc)
    with tempfile.TemporaryDirectory() as folder:
        site = Databases(Path(folder) / "site", "cov")
        try:
            site.start(pooler="", postgres_args="-c shared_buffers=256MB -c max_locks_per_transaction=2048 -c autovacuum=off")
            container = site.container("postgres")
            times: dict[int, list[float]] = {}
            asked: set[int] = set()
            red: dict[int, list[str]] = {}
            made: dict[int, float] = {}
            for size in SIZES:
                begin = time.monotonic()
                argv = ("exec", "-i", "-u", "postgres", container, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d")
                docker(*argv, "postgres", "-c", f"CREATE DATABASE n{size}")
                docker(*argv, f"n{size}", stdin=SCHEMA.read_text() + MONTHS % size)
                made[size] = round(time.monotonic() - begin, 1)
                print(f"{size} partitions made in {made[size]:.0f} s", file=sys.stderr)
            logins = {size: Login(site.address("postgres"), 5432, "postgres", SUPERUSER_PASSWORD, f"n{size}") for size in SIZES}
            script = Path(folder) / "check_audit_partitions.sh"
            script.write_text(SHELL_CHECK)
            months = [f"{2025 + number // 12}_{number % 12 + 1:02d}" for number in range(36)]
            shell = []
            for _round in range(ROUNDS):
                # In turn, so that all see the same machine.
                for size, login in logins.items():
                    milliseconds, queries, report = check(login, now)
                    times.setdefault(size, []).append(milliseconds)
                    asked.add(queries)
                    assert report.parent is not None
                    assert len(report.parent.partitions) == size, report
                    assert (report.findings, report.plan) == ([], []), report.findings
                shell.append(shell_check(script, container, months))
            # A check that is quick because it sees nothing would be no check.
            for size in SIZES:
                docker(*argv, f"n{size}", "-c", "DROP TABLE audit.audit_events_2027_03")
                red[size] = [item["id"] for item in check(logins[size], now)[2].findings]
                assert red[size] == ["coverage_gap"], red
        finally:
            site.remove()
    assert len(asked) == 1, asked
    # What others do on the machine only ever adds to it.
    best = {size: min(times[size]) for size in SIZES}
    publish("coverage", {
        **{f"ms_{size}": best[size] for size in SIZES}, "queries_per_table": asked.pop(), "shell_ms_36": min(shell),
    }, {
        "times": {str(size): times[size] for size in SIZES}, "shell_times": shell, "seconds_to_make": {str(size): made[size] for size in SIZES},
        "median": {str(size): statistics.median(times[size]) for size in SIZES}, "shell_median": statistics.median(shell),
        "growth_1000_to_10000": best[10000] / best[1000], "finding_of_a_missing_month": {str(size): red[size] for size in SIZES},
    })


if __name__ == "__main__":
    main()
