# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exporter's queries on a real server, with the rights of its role: what they tell is what the alerts of monitoring judge."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, Databases
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

QUERIES = yaml.safe_load((Path(__file__).parents[3] / "roles/monitoring/files/postgres_queries.yml").read_text())
# As the roadmap has it.
ROADMAP = """SELECT round(100.0 * count(*) / max_conn, 1)
FROM pg_stat_activity, (SELECT setting::int AS max_conn FROM pg_settings WHERE name = 'max_connections') mc
WHERE state = 'active' GROUP BY max_conn"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    made = Databases(tmp_path_factory.mktemp("queries") / "site", "queries")
    try:
        made.start(pooler="", max_connections=40, standby=True)
        made.sql(f"CREATE ROLE exporter LOGIN PASSWORD '{APP_PASSWORD}' IN ROLE pg_monitor")
        yield made
    finally:
        made.remove()


@pytest.fixture
def exporter(site: Databases) -> Iterator[Any]:
    """The one connection of the exporter, which it keeps."""
    connection = site.connection("postgres", "exporter")
    yield connection
    connection.close()


def told(connection: Any, name: str) -> list[dict[str, Any]]:
    """The rows of a query, checked against what its metrics are said to be."""
    cursor = connection.cursor()
    cursor.execute(QUERIES[name]["query"])
    columns = [column.name for column in cursor.description]
    assert columns == [next(iter(metric)) for metric in QUERIES[name]["metrics"]], name
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def test_every_query_runs_on_both(site: Databases, exporter: Any) -> None:
    standby = site.connection("standby", "exporter")
    try:
        for name in QUERIES:
            for connection in (exporter, standby):
                rows = told(connection, name)
                labels = [next(iter(metric)) for metric in QUERIES[name]["metrics"] if next(iter(metric.values()))["usage"] == "LABEL"]
                # Two rows with the same labels are an error of the exporter, and the whole scrape is lost.
                assert len({tuple(row[label] for label in labels) for row in rows}) == len(rows), name
    finally:
        standby.close()


def test_case_144_idle_sessions_hold_their_slots(site: Databases, exporter: Any) -> None:
    """36 idle and one active of 40 with three reserved: nobody else gets in. The roadmap's query says 2.5 %, and as much for the standby."""
    with site.clients(36, "postgres"):
        (row,) = told(exporter, "bd_fhir_pg_connections")
        assert (row["used"], row["usable"], row["max"]) == (37, 37, 40)
        cursor = exporter.cursor()
        cursor.execute(ROADMAP)
        # The standby's sender is active too, and takes no slot.
        assert float(cursor.fetchone()[0]) == 2.5 + 2.5
        with pytest.raises(Exception, match="remaining connection slots are reserved"):
            site.connection("postgres")
        states = {(item["role"], item["state"]): item["count"] for item in told(exporter, "bd_fhir_pg_sessions")}
        assert states == {("hapi_app", "idle"): 36, ("exporter", "active"): 1}


def test_case_145_partitions_are_told_and_not_their_parent(site: Databases, exporter: Any) -> None:
    site.sql("CREATE TABLE events (at date NOT NULL, what text) PARTITION BY RANGE (at); CREATE TABLE events_2026 PARTITION OF events"
             " FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); INSERT INTO events SELECT '2026-05-05', repeat(md5(n::text), 300)"
             " FROM generate_series(1, 3000) n; UPDATE events SET what = what || 'x'; ANALYZE events_2026; SELECT pg_stat_force_next_flush()")
    site.until("the statistics", lambda: any(row["dead_rows"] for row in told(exporter, "bd_fhir_pg_table") if row["table"] == "events_2026"))
    tables = {row["table"]: row for row in told(exporter, "bd_fhir_pg_table")}
    assert "events" not in tables
    assert tables["events_2026"]["dead_rows"] == 3000
    # 50 + 20 % of its rows, as autovacuum has it, until the table says otherwise.
    assert tables["events_2026"]["vacuum_at_dead_rows"] == 650
    site.sql("ALTER TABLE events_2026 SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_enabled = off)")
    assert {row["table"]: row["vacuum_at_dead_rows"] for row in told(exporter, "bd_fhir_pg_table")}["events_2026"] == 80
    (partition,) = told(exporter, "bd_fhir_pg_partition")
    assert (partition["parent"], partition["partition"]) == ("events", "events_2026")
    # With TOAST, where most of it is.
    heap, whole = (int(site.sql(f"SELECT {function}('events_2026')")) for function in ("pg_relation_size", "pg_total_relation_size"))
    assert partition["bytes"] == whole > heap


def test_case_140_statistics_tell_their_age(site: Databases, exporter: Any) -> None:
    """An index is unused since the statistics began, and when that was is told beside it; one that keeps a rule is never named."""
    site.sql("CREATE TABLE things (id int PRIMARY KEY, name text UNIQUE, kind text); CREATE INDEX by_kind ON things (kind);"
             " SELECT pg_stat_reset()")
    names = {row["index"]: (row["unused"], row["invalid"]) for row in told(exporter, "bd_fhir_pg_index")}
    assert names == {"by_kind": (1, 0)}
    (server,) = told(exporter, "bd_fhir_pg_server")
    assert 0 <= time.time() - float(server["statistics_since_seconds"]) < 60


def test_case_118_thousands_of_tables(site: Databases, exporter: Any) -> None:
    site.sql("DO $$ BEGIN FOR n IN 1..1500 LOOP EXECUTE format('CREATE TABLE many_%s (id int)', n);"
             " EXECUTE format('CREATE INDEX ON many_%s (id)', n); END LOOP; END $$")
    begin = time.monotonic()
    assert len(told(exporter, "bd_fhir_pg_table")) == 200
    assert len(told(exporter, "bd_fhir_pg_index")) == 200
    assert time.monotonic() - begin < 10
    site.sql("DO $$ BEGIN FOR n IN 1..1500 LOOP EXECUTE format('DROP TABLE many_%s', n); END LOOP; END $$")


def test_case_115_an_idle_primary_is_no_lag_and_a_cut_link_never_is_none(site: Databases, exporter: Any) -> None:
    site.sql("CREATE TABLE last_words (id int)")
    standby = site.connection("standby", "exporter")
    try:
        site.until("the standby", lambda: told(standby, "bd_fhir_pg_standby")[0]["lag_seconds"] == 0)
        time.sleep(5)
        assert [(row["receiving"], row["lag_seconds"]) for row in told(standby, "bd_fhir_pg_standby")] == [(1, 0)]
        assert [row["state"] for row in told(exporter, "bd_fhir_pg_replication")] == ["streaming"]
        assert [(row["in_recovery"], row["standbys_streaming"]) for row in told(exporter, "bd_fhir_pg_server")] == [(0, 1)]
        site.sql("ALTER SYSTEM SET wal_receiver_timeout = '2s'", "standby")
        site.sql("SELECT pg_reload_conf()", "standby")
        # Frozen: nothing comes, and nobody closes a connection.
        docker("pause", site.container("postgres"))
        try:
            site.until("the standby", lambda: told(standby, "bd_fhir_pg_standby")[0]["receiving"] == 0)
            before = float(told(standby, "bd_fhir_pg_standby")[0]["lag_seconds"])
            assert before > 5
            time.sleep(2)
            assert float(told(standby, "bd_fhir_pg_standby")[0]["lag_seconds"]) > before + 1
        finally:
            docker("unpause", site.container("postgres"))
        site.until("the standby", lambda: told(standby, "bd_fhir_pg_standby")[0]["receiving"] == 1)
    finally:
        standby.close()
