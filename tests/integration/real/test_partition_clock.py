# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""audit_partition on a real PostgreSQL whose clock is moved (libfaketime), with server, client and host in different zones.

The unit tests have every date; here the server itself says whether each month is there, and whether it reads dates as the planner does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import Month, Settings, function_text, judge_function, zone_of
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition, audit_partition_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import ENV, INIT, POSTGRES, Databases, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[3]
SCHEMA = (ROOT / "overlay/src/main/resources/db/migration/audit/V2__audit_schema.sql").read_text()
TABLES = ("audit_events", "fhir_rejected_submissions")

FAKETIME = "bd-fhir-test/postgres-faketime:1"
DOCKERFILE = """ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends libfaketime && rm -rf /var/lib/apt/lists/* \\
 && ln -s "$(find /usr/lib -name libfaketime.so.1)" /usr/lib/libfaketime.so.1
"""
# Without the file the clock is right. It is read anew each time, and timers of the server are not moved with it.
# Not as root first: what the library shares between processes belongs to the user who made it.
OVERRIDE = """services:
  postgres:
    user: postgres
    environment:
      LD_PRELOAD: /usr/lib/libfaketime.so.1
      FAKETIME_TIMESTAMP_FILE: /clock/offset
      FAKETIME_NO_CACHE: "1"
      DONT_FAKE_MONOTONIC: "1"
    volumes: ["./clock:/clock:ro"]
"""
# The 36 months that a site has, as its own migration would have made them with a session in this zone.
MONTHS = """
SET timezone = '%(zone)s';
DO $$
DECLARE
    parent text;
    part   regclass;
    month  date;
BEGIN
    FOREACH parent IN ARRAY ARRAY['audit_events', 'fhir_rejected_submissions'] LOOP
        FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = ('audit.' || parent)::regclass LOOP
            EXECUTE format('DROP TABLE %%s', part);
        END LOOP;
        FOR n IN 0..35 LOOP
            month := (date '2025-01-01' + make_interval(months => n))::date;
            EXECUTE format('CREATE TABLE audit.%%I PARTITION OF audit.%%I FOR VALUES FROM (%%L) TO (%%L)',
                parent || to_char(month, '_YYYY_MM'), parent, month, (month + interval '1 month')::date);
            EXECUTE format('GRANT INSERT ON audit.%%I TO audit_writer_login', parent || to_char(month, '_YYYY_MM'));
        END LOOP;
    END LOOP;
END
$$;
"""
# Name, whether it is the month that the name says, and whether it begins where the one before ends.
PARTITIONS = """
SET timezone = '%(zone)s';
WITH bound AS (
    SELECT c.relname AS name, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''(.*)''\\) TO'))[1]::timestamptz AS lower,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''(.*)''\\)'))[1]::timestamptz AS upper
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit.%(table)s'::regclass
)
SELECT name, name = '%(table)s' || to_char(lower, '_YYYY_MM') AND lower = date_trunc('month', lower) AND upper = lower + interval '1 month',
       coalesce(lower = lag(upper) OVER (ORDER BY lower), true), extract(epoch FROM upper)::bigint
  FROM bound ORDER BY lower;
"""
# As HAPI does it, at the first and at the last moment of each month from this one to six ahead, and now.
ROWS = """
SET timezone = '%(zone)s';
BEGIN;
SET LOCAL ROLE audit_writer_login;
INSERT INTO audit.audit_events (event_time, event_type, outcome, method, path, status, duration_ms, replica)
SELECT moment, 'OPERATION', 'ACCEPTED', 'POST', '/fhir/Patient', 201, 5, 'hapi-1'
  FROM generate_series(date_trunc('month', now()), date_trunc('month', now()) + interval '6 months', '1 month') AS month,
       LATERAL (VALUES (month), (month + interval '1 month' - interval '1 microsecond')) AS edge (moment)
UNION ALL SELECT now(), 'OPERATION', 'ACCEPTED', 'POST', '/fhir/Patient', 201, 5, 'hapi-1';
RESET ROLE;
SELECT count(*), count(*) FILTER (WHERE tableoid::regclass::text = 'audit.audit_events' || to_char(event_time, '_YYYY_MM')) FROM audit.audit_events;
ROLLBACK;
"""


class Site(Databases):
    """A server with a clock of its own."""

    def up(self) -> None:
        if not docker("images", "-q", FAKETIME).strip():
            docker("build", "-q", "-t", FAKETIME, "--build-arg", "BASE_IMAGE=" + image("postgres"), "-", stdin=DOCKERFILE)
        values = {"postgres": FAKETIME, "postgres_args": ', "-c", "max_locks_per_transaction=1024", "-c", "autovacuum=off"', "max_connections": 20}
        self.write("docker-compose.yml", f"name: {self.name}\nservices:" + POSTGRES % values + "volumes:\n  data:\n", 0o644)
        self.write("docker-compose.override.yml", OVERRIDE, 0o644)
        self.write(".env", ENV)
        self.write("init.sh", INIT, 0o755)
        (self.dir / "clock").mkdir(mode=0o755)
        self.compose("up", "-d", "-t", "0")
        self.wait()

    def set_clock(self, moment: datetime) -> None:
        offset = round(moment.timestamp() - time.time())
        new = self.write("clock/new", "%+d\n" % offset, 0o644)
        new.rename(self.dir / "clock/offset")
        told = float(self.sql("SELECT extract(epoch FROM clock_timestamp())"))
        assert abs(told - moment.timestamp()) < 30

    def script(self, text: str) -> str:
        psql = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "fhirdb")
        return docker("exec", "-i", "-u", "postgres", self.container("postgres"), *psql, stdin=text).strip()

    def args(self, **more: Any) -> dict[str, Any]:
        found = {
            "project_dir": str(self.dir),
            "service": "postgres",
            "database": "fhirdb",
            "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
        }
        return {**found, **more}

    def partitions(self, table: str, zone: str) -> list[list[str]]:
        return [line.split("|") for line in self.script(PARTITIONS % {"table": table, "zone": zone}).splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("clock") / "site", "clk")
    try:
        site.up()
        yield site
    finally:
        site.remove()


@pytest.fixture
def zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Put the host and its client into zones."""

    def put(host: str, client: str) -> None:
        monkeypatch.setenv("TZ", host)
        monkeypatch.setenv("PGTZ", client)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("now", "zone", "server", "client", "host"),
    [
        ("2026-11-25 00:00:00", "UTC", "Asia/Dhaka", "Europe/Madrid", "America/Sao_Paulo"),
        # December in Dhaka, November elsewhere.
        ("2026-11-30 18:30:00", "Asia/Dhaka", "UTC", "America/Sao_Paulo", "Europe/Madrid"),
        ("2027-01-31 23:30:00", "UTC", "America/Sao_Paulo", "Asia/Dhaka", "Asia/Dhaka"),
        # March in Madrid.
        ("2027-02-28 23:30:00", "Europe/Madrid", "UTC", "Asia/Dhaka", "America/Sao_Paulo"),
        # Its clocks are put on, and back.
        ("2027-03-28 01:00:30", "Europe/Madrid", "America/Sao_Paulo", "UTC", "Asia/Dhaka"),
        ("2027-10-31 00:59:30", "Europe/Madrid", "Asia/Dhaka", "Europe/Madrid", "UTC"),
        ("2027-12-20 00:00:00", "UTC", "Asia/Dhaka", "UTC", "Asia/Dhaka"),
        # December in São Paulo, January elsewhere.
        ("2028-01-01 02:30:00", "America/Sao_Paulo", "Asia/Dhaka", "Europe/Madrid", "UTC"),
        ("2028-02-29 23:59:00", "Asia/Dhaka", "Europe/Madrid", "America/Sao_Paulo", "UTC"),
        ("2030-02-05 12:00:00", "America/Sao_Paulo", "UTC", "Asia/Dhaka", "Europe/Madrid"),
    ],
)
def test_every_month_is_there(
    made: Site, run: Run, zones: Callable[[str, str], None], now: str, zone: str, server: str, client: str, host: str
) -> None:
    made.set_clock(utc(now))
    made.script(f"ALTER DATABASE fhirdb SET timezone = '{server}'; DROP SCHEMA IF EXISTS audit CASCADE;" + SCHEMA + MONTHS % {"zone": zone})
    # A hole in the middle as well.
    made.script("DROP TABLE audit.audit_events_2026_06")
    zones(host, client)

    seen = run(audit_partition_info, **made.args(time_zone=zone))
    assert seen["rc"] == 0, seen["msg"]
    late = utc(now) > utc("2027-05-20 00:00:00")
    assert ("horizon_short" in {item["id"] for item in seen["findings"]}) is late
    end = int(made.partitions(TABLES[0], zone)[-1][3])
    assert seen["days_left"] == pytest.approx(max((end - utc(now).timestamp()) / 86400, 0), abs=0.01)

    predicted = run(audit_partition, True, **made.args(time_zone=zone))
    done = run(audit_partition, **made.args(time_zone=zone))
    assert done["rc"] == 0, done["msg"]
    assert done["plan"] == predicted["plan"] != []
    assert {item["action"] for item in done["plan"]} == {"create"}
    again = run(audit_partition, **made.args(time_zone=zone))
    assert (again["rc"], again["changed"], again["plan"]) == (0, False, [])

    local = Month.of(utc(now), zone_of(zone))
    for table in TABLES:
        rows = made.partitions(table, zone)
        assert [row for row in rows if row[1:3] != ["t", "t"]] == []
        assert rows[0][0] == f"{table}_2025_01"
        last = max(local.plus(6), Month(2027, 12))
        assert rows[-1][0] == f"{table}_{last.year}_{last.month:02d}"
    # 15 rows, each in the partition of its month.
    assert made.script(ROWS % {"zone": zone}) == "15|15"
    after = run(audit_partition_info, **made.args(time_zone=zone))
    assert [item for item in after["findings"] if item["severity"] == "error"] == []


def test_the_function_that_is_put_there(made: Site) -> None:
    """It creates the months of its own zone, whatever its caller's is, and is found right."""
    made.set_clock(utc("2028-02-29 23:30:00"))
    made.script("DROP SCHEMA IF EXISTS audit CASCADE;" + SCHEMA + MONTHS % {"zone": "Asia/Dhaka"})
    made.script(function_text("audit", TABLES, "Asia/Dhaka", 2))
    assert made.script("SET timezone = 'America/Sao_Paulo'; SET datestyle = 'German'; SELECT audit.create_next_month_partitions()") == ""
    made.script("SET ROLE audit_maintainer_login; SELECT audit.create_next_month_partitions()")
    for table in TABLES:
        rows = made.partitions(table, "Asia/Dhaka")
        assert [row[0] for row in rows[-3:]] == [f"{table}_2028_{number:02d}" for number in (3, 4, 5)]
        assert {row[1] for row in rows} == {"t"}
    definition = made.script("SELECT pg_get_functiondef('audit.create_next_month_partitions'::regproc)") + "\n"
    assert judge_function(definition, "postgres", True, Settings(time_zone="Asia/Dhaka")) == []


def test_the_site_s_own_function_is_right(made: Site) -> None:
    made.script("DROP SCHEMA IF EXISTS audit CASCADE;" + SCHEMA)
    definition = made.script("SELECT pg_get_functiondef('audit.create_next_month_partitions'::regproc)") + "\n"
    assert judge_function(definition, "postgres", True, Settings()) == []


@pytest.mark.parametrize(
    "zone",
    ["UTC", "Asia/Dhaka", "Europe/Madrid", "America/Sao_Paulo", "Asia/Amman", "America/Asuncion", "America/St_Johns", "Pacific/Apia", "Africa/Cairo"],
)
def test_the_server_reads_months_as_the_planner_does(made: Site, zone: str) -> None:
    """Also where clocks are put on or back over a month's first midnight. (1970 to 2025: what was decided since depends on the version.)"""
    text = made.script(
        f"SET timezone = '{zone}'; SELECT to_char(month, 'YYYY-MM'), extract(epoch FROM month::timestamp::timestamptz)::bigint"
        " FROM generate_series(timestamp '1970-01-01', timestamp '2025-12-01', interval '1 month') AS month"
    )
    told = dict(line.split("|") for line in text.splitlines())
    assert len(told) == 56 * 12
    mine = {str(item): str(round(item.start(zone_of(zone)).timestamp())) for item in (Month(1970, 1).plus(number) for number in range(56 * 12))}
    assert mine == told
