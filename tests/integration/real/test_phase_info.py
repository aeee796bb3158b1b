# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""phase_info against a real PostgreSQL with HAPI's tables and the audit tables; the truth is counted by psql."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _measure
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition_info, connection_budget_info, phase_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, SECRETS, SUPERUSER_PASSWORD, Databases

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "playbooks/files/assess_role.sql"
AUDIT = ROOT / "overlay/src/main/resources/db/migration/audit/V2__audit_schema.sql"
Ask = Callable[..., dict[str, Any]]

# Of HAPI 7.2.0's schema, the columns and indexes that searches use.
HAPI = """
CREATE SEQUENCE seq_resource_id INCREMENT 50;
CREATE TABLE hfj_resource (res_id bigint PRIMARY KEY, res_type varchar(40) NOT NULL, fhir_id varchar(64), res_updated timestamp(6) NOT NULL,
    res_deleted_at timestamp(6), partition_id integer, UNIQUE (res_type, fhir_id));
CREATE INDEX idx_res_date ON hfj_resource (res_updated);
CREATE INDEX idx_res_type_del_updated ON hfj_resource (res_type, res_deleted_at, res_updated, partition_id, res_id);
CREATE TABLE hfj_res_ver (pid bigint PRIMARY KEY, res_id bigint NOT NULL REFERENCES hfj_resource, res_ver bigint NOT NULL,
    res_updated timestamp(6) NOT NULL, res_text_vc text, UNIQUE (res_id, res_ver));
CREATE INDEX idx_resver_date ON hfj_res_ver (res_updated);
CREATE TABLE hfj_spidx_token (sp_id bigint PRIMARY KEY, res_id bigint NOT NULL, sp_name varchar(100), sp_value varchar(200), hash_identity bigint,
    hash_sys bigint, hash_sys_and_value bigint, hash_value bigint, partition_id integer);
CREATE INDEX idx_sp_token_hash_sv_v2 ON hfj_spidx_token (hash_sys_and_value, res_id, partition_id);
CREATE INDEX idx_sp_token_hash_v_v2 ON hfj_spidx_token (hash_value, res_id, partition_id);
CREATE INDEX idx_sp_token_resid_v2 ON hfj_spidx_token (res_id, hash_sys_and_value, hash_value);
CREATE TABLE hfj_spidx_string (sp_id bigint PRIMARY KEY, res_id bigint NOT NULL, hash_norm_prefix bigint, sp_value_normalized varchar(200));
CREATE INDEX idx_sp_string_hash_nrm_v2 ON hfj_spidx_string (hash_norm_prefix, sp_value_normalized, res_id);
CREATE TABLE hfj_spidx_date (sp_id bigint PRIMARY KEY, res_id bigint NOT NULL, hash_identity bigint, sp_value_low timestamp, sp_value_high timestamp,
    sp_value_low_date_ordinal integer, sp_value_high_date_ordinal integer);
CREATE INDEX idx_sp_date_ord_hash_high_v2 ON hfj_spidx_date (hash_identity, sp_value_high_date_ordinal, res_id);
CREATE TABLE hfj_res_link (pid bigint PRIMARY KEY, src_path varchar(500), src_resource_id bigint, target_resource_id bigint,
    target_resource_type varchar(40));
CREATE INDEX idx_rl_tgt_v2 ON hfj_res_link (target_resource_id, src_path, src_resource_id);
"""
# 60,000 resources over sixty days, a thousand a day. A session tells what it changed once a second at most: told after
# its own ANALYZE, the rows would count as changed since.
RESOURCES = 60_000
ROWS = """
INSERT INTO hfj_resource
SELECT i, 'Patient', i::text, timezone('UTC', now()) - (60000 - i) * interval '86.4 seconds' FROM generate_series(1, 60000) i;
INSERT INTO hfj_res_ver
SELECT i, i, 1, timezone('UTC', now()) - (60000 - i) * interval '86.4 seconds', 'secret body' FROM generate_series(1, 60000) i;
INSERT INTO hfj_spidx_token SELECT i, 1 + i % 60000, 'identifier', 'v' || i, 1, 2, hashint8(i), hashint8(i + 1) FROM generate_series(1, 120000) i;
SELECT pg_stat_force_next_flush();
VACUUM ANALYZE hfj_resource, hfj_res_ver, hfj_spidx_token;
"""
# Three vendors within the month, one long before; a client without a name.
EVENTS = """
INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)
SELECT now() - i * interval '1 minute', 'OPERATION', CASE WHEN i % 3 = 0 THEN 'REJECTED' ELSE 'ACCEPTED' END,
       (ARRAY['vendor-a', 'vendor-b', 'vendor-c', NULL])[1 + i % 4], 'POST', '/fhir', 201, 5, 'hapi-1' FROM generate_series(1, 4000) i;
INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)
VALUES (now() - interval '70 days', 'OPERATION', 'ACCEPTED', 'vendor-gone', 'POST', '/fhir', 201, 5, 'hapi-1');
"""


def psql(site: Databases, text: str, database: str = "fhirdb", *more: str, env: str = "") -> str:
    """Run a script as the superuser."""
    argv = ["docker", "exec", "-i", *(["-e", env] if env else []), site.container("postgres"), "psql", "-XAtq", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run([*argv, "-U", "postgres", "-d", database, *more], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """One server with both databases, as they are when nothing is wrong, and the reading role."""
    item = Databases(tmp_path_factory.mktemp("phase") / "site", "phase")
    try:
        item.start(pooler="", max_connections=40, postgres_args="-c shared_preload_libraries=pg_stat_statements -c autovacuum=off")
        psql(item, "CREATE DATABASE auditdb; CREATE EXTENSION pg_stat_statements")
        psql(item, HAPI + ROWS)
        psql(item, AUDIT.read_text() + EVENTS + "ANALYZE audit.audit_events;", "auditdb")
        for database in ("fhirdb", "auditdb"):
            psql(item, ROLE.read_text(), database, env=f"ASSESS_PASSWORD={APP_PASSWORD}")
        yield item
    finally:
        item.remove()


@pytest.fixture
def ask(site: Databases, run: Callable[..., dict[str, Any]]) -> Ask:
    """Run the module as the reading role, or as another; no result may hold a password or what is in a resource."""

    def call(user: str = "assess", service: str = "postgres", **args: Any) -> dict[str, Any]:
        login = {
            "login_user": user, "service": service,
            "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD" if user == "postgres" else "FHIR_DB_APP_PASSWORD",
        }  # fmt: skip
        options = {
            "project_dir": str(site.dir),
            "fhir": {**login, **args.pop("fhir", {})},
            "audit": {**login, "database": "auditdb", **args.pop("audit", {})},
            "deployment": {"services": {"hapi": {"replicas": [{"state": "running", "health": "healthy"}]}}},
            "connections": {"sides": [{"name": "fhir", "fits": True, "server": {"service": "postgres-fhir", "used": 5, "usable": 27}}]},
            "partitions": {"days_left": 400, "tables": [{"schema": "audit", "table": "audit_events", "readable": True}], "findings": []},
            **args,
        }
        result = run(phase_info, **options)
        assert not any(secret in json.dumps(result) for secret in (*SECRETS, "secret body"))
        assert not result.get("changed")
        return result

    return call


def ids(result: dict[str, Any]) -> list[str]:
    assert result["rc"] == 0, result
    return sorted(item["id"] for item in result["findings"])


def unread(result: dict[str, Any]) -> str:
    assert result["rc"] == 0, result
    return " ".join(item["what"] for item in result["unread"])


def scans(site: Databases) -> str:
    """What was read from HAPI's tables from end to end so far."""
    return site.sql("SELECT relname, seq_scan, seq_tup_read FROM pg_stat_user_tables WHERE relname ~ '^hfj_' ORDER BY 1")


def test_what_the_reading_role_is_told_is_the_truth(site: Databases, ask: Ask) -> None:
    """Figures beside exact counts, in check mode as in a real run; no table of HAPI is read from end to end, and nothing is written."""
    ask()
    time.sleep(1)
    written = "SELECT pg_snapshot_xmax(pg_current_snapshot())"
    before = (scans(site), site.sql(written))
    started = time.monotonic()
    result = ask()
    assert time.monotonic() - started < 10
    time.sleep(1)
    assert (scans(site), site.sql(written)) == before
    assert (unread(result), ids(result), result["partial"]) == ("", [], False)
    metrics = result["metrics"]
    # What is compared there does notice a count.
    site.sql("SET enable_indexonlyscan = off; SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM hfj_resource")
    time.sleep(1)
    assert scans(site) != before[0]
    assert metrics["resources"]["value"] == pytest.approx(RESOURCES, rel=0.01)
    assert metrics["resources"]["as_of"]
    assert metrics["resources_per_day"]["value"] == pytest.approx(1000, rel=0.02)
    truth = psql(site, "SELECT count(DISTINCT client_id) FROM audit.audit_events WHERE event_time > now() - interval '30 days'", "auditdb")
    assert (metrics["vendors"]["value"], metrics["vendors"]["quality"], truth) == (3, "exact", "3")
    assert (result["phase"], result["status"], result["exit_code"], result["due"]) == ("pilot", "ok", 0, [])
    assert result["deployed"]["aspects"]["postgresql"]["found"] == "a single server"
    assert result["partitioning"]["state"] == "no"
    assert result["databases"]["fhir"]["bytes"] == int(site.sql("SELECT pg_database_size('fhirdb')"))
    sample = result["sample"]
    assert (sample["vendors"], sample["database"].split(":")[0]) == (3, site.sql("SELECT system_identifier FROM pg_control_system()"))
    checked = ask(check=True)
    assert set(checked) == set(result)
    assert checked["metrics"]["resources"]["value"] == metrics["resources"]["value"]


def test_a_window_without_enough_days_and_one_with(ask: Ask) -> None:
    """The rate does not hang on the length of the window."""
    assert ask(days=1)["metrics"]["resources_per_day"]["value"] == pytest.approx(1000, rel=0.02)
    assert ask(days=50)["metrics"]["resources_per_day"]["value"] == pytest.approx(1000, rel=0.02)
    # Ten days more than there were writes.
    assert ask(days=70)["metrics"]["resources_per_day"]["value"] == pytest.approx(1000, rel=0.02)


def test_a_superuser_is_told_the_same(ask: Ask) -> None:
    mine, theirs = ask(), ask("postgres")
    for name in ("phase", "partitioning", "unread"):
        assert mine[name] == theirs[name]
    assert mine["plans"]["searches"] == theirs["plans"]["searches"]
    values = [{name: item["value"] for name, item in result["metrics"].items()} for result in (mine, theirs)]
    assert values[0] == pytest.approx(values[1], rel=0.001)


GRANTS = {
    "resources_per_day": ("fhirdb", "SELECT (pid, res_id, res_ver, res_updated) ON hfj_res_ver"),
    "the range of RES_ID": ("fhirdb", "SELECT (res_id) ON hfj_resource"),
    "vendors": ("auditdb", "SELECT (client_id, event_time) ON audit.audit_events"),
    "the plan of string (name)": ("fhirdb", "SELECT (sp_value_normalized) ON hfj_spidx_string"),
    "sessions and statements of others": ("fhirdb", "pg_monitor"),
}


# One of each database; the others differ in the name of what is missing.
QUICK = ("resources_per_day", "vendors")


@pytest.mark.parametrize("what", [what if what in QUICK else pytest.param(what, marks=pytest.mark.full) for what in GRANTS])
def test_less_is_named_and_the_rest_is_told(site: Databases, ask: Ask, what: str) -> None:
    """Each grant of the script is needed: without it, what it is for is missing, and the answer is not healthy."""
    database, grant = GRANTS[what]
    psql(site, f"REVOKE {grant} FROM assess", database)
    try:
        result = ask()
        assert what in unread(result)
        assert (result["partial"], result["status"] in ("partial", "due"), result["exit_code"] > 0) == (True, True, True)
        assert "figure_unread" in ids(result)
        assert sum(item["value"] is not None for item in result["metrics"].values()) >= 2
        assert ask(fail_on=["error"])["rc"] == 1
    finally:
        psql(site, f"GRANT {grant} TO assess", database)
    assert unread(ask()) == ""


def test_the_role_reads_no_body_and_writes_nothing(site: Databases) -> None:
    connection = site.connection("postgres", "assess")
    cursor = connection.cursor()
    for statement in (
        "SELECT res_text_vc FROM hfj_res_ver", "SELECT sp_value FROM hfj_spidx_token", "CREATE TABLE x ()", "CREATE TEMPORARY TABLE x ()",
        "DELETE FROM hfj_resource", "SET default_transaction_read_only = off; DELETE FROM hfj_resource",
        "SET default_transaction_read_only = off; SELECT nextval('seq_resource_id')",
    ):  # fmt: skip
        with pytest.raises(Exception, match="permission denied|read-only transaction"):
            cursor.execute(statement)
    connection.close()


def test_the_password_of_the_role_is_nowhere_in_clear(site: Databases) -> None:
    """Neither in the log nor among the statements; without one nothing is done, and psql ends with an error."""
    password = "only-H3re-and-nowhere"
    try:
        psql(site, ROLE.read_text(), env=f"ASSESS_PASSWORD={password}")
        log = subprocess.run(["docker", "logs", site.container("postgres")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        assert "database system is ready" in log.stdout
        assert password not in log.stdout
        assert site.sql(f"SELECT count(*) FROM pg_stat_statements WHERE query ~ '{password[:12]}' AND query !~ 'FROM pg_stat_statements'") == "0"
        assert site.sql("SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'assess'") == "t"
        before = site.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'assess'")
        with pytest.raises(AssertionError, match="ASSESS_PASSWORD is not in the environment of psql: nothing was done"):
            psql(site, ROLE.read_text())
        assert site.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'assess'") == before
    finally:
        psql(site, ROLE.read_text(), env=f"ASSESS_PASSWORD={APP_PASSWORD}")


def test_the_role_without_the_plans(site: Databases, ask: Ask) -> None:
    """searches=off takes back what on had given, and phase_info says what it can't see; the script run again changes nothing."""
    env = f"ASSESS_PASSWORD={APP_PASSWORD}"

    def grants() -> str:
        return site.sql(
            "SELECT relname, attname, attacl FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE attacl IS NOT NULL ORDER BY 1, 2"
        )

    before = grants()
    psql(site, ROLE.read_text(), "fhirdb", "-v", "searches=off", env=env)
    try:
        result = ask()
        assert "the plan of token" in unread(result)
        assert not result["plans"]["searches"]
        assert result["metrics"]["resources_per_day"]["value"] == pytest.approx(1000, rel=0.02)
    finally:
        psql(site, ROLE.read_text(), "fhirdb", env=env)
    assert grants() == before
    assert unread(ask()) == ""


@contextmanager
def locked(site: Databases, table: str) -> Iterator[None]:
    connection = site.connection("postgres", "postgres")
    connection.autocommit = False
    connection.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    try:
        yield
    finally:
        connection.close()


def test_case_118_a_table_that_somebody_holds(site: Databases, ask: Ask) -> None:
    """It waits for no lock for long; what needs no lock is told, and the answer is marked partial."""
    with locked(site, "hfj_resource"):
        started = time.monotonic()
        result = ask(lock_timeout=1)
        assert time.monotonic() - started < 20
    assert "the sizes of the tables" in unread(result)
    assert "the range of RES_ID" in unread(result)
    assert result["metrics"]["resources"]["value"] == RESOURCES
    assert (result["partial"], result["status"]) == (True, "partial")


@pytest.mark.full
def test_case_118_the_table_of_versions(site: Databases, ask: Ask) -> None:
    with locked(site, "hfj_res_ver"):
        result = ask(lock_timeout=1)
    assert (result["metrics"]["resources_per_day"]["value"], result["at_least"], result["phase"]) == (None, True, "pilot")


def test_a_database_that_is_down_or_refuses(site: Databases, ask: Ask) -> None:
    """One side is told without the other, and nothing at all is no health either."""
    result = ask(audit={"login_password_variable": "WRONG_PASSWORD"})
    assert unread(result) == "vendors"
    assert (result["at_least"], result["metrics"]["resources"]["value"]) == (True, pytest.approx(RESOURCES, rel=0.01))
    result = ask(fhir={"service": "postgres-gone"})
    assert "resources and resources_per_day" in unread(result)
    assert result["metrics"]["vendors"]["value"] == 3
    result = ask(service="postgres-gone")
    assert (result["phase"], result["partial"], result["exit_code"], result["sample"].get("resources")) == (None, True, 3, None)
    result = ask(fhir={"database": "auditdb"})
    assert "the schema public of postgres has no tables of HAPI" in json.dumps(result["unread"])


def test_audit_tables_that_nobody_may_read(site: Databases, ask: Ask, run: Callable[..., dict[str, Any]]) -> None:
    """That the rejections can't be read is no news of the months, which are all there, and no vendor is called free of them."""
    login = {"service": "postgres", "login_user": "assess", "login_password_variable": "FHIR_DB_APP_PASSWORD", "rejection_days": 7}
    months = run(audit_partition_info, project_dir=str(site.dir), **login, now="2026-12-01T00:00:00Z")
    assert len(ask(partitions=months)["partitions"]["rejections"]) == 4
    psql(site, "REVOKE SELECT (outcome) ON audit.audit_events FROM assess", "auditdb")
    try:
        months = run(audit_partition_info, project_dir=str(site.dir), **login, now="2026-12-01T00:00:00Z")
        assert "rejections_unreadable" in ids(months)
        result = ask(partitions=months)
        assert unread(result) == "the rejections in audit.audit_events"
        assert (result["status"], result["due"], result["partitions"]["rejections"]) == ("partial", [], None)
    finally:
        psql(site, "GRANT SELECT (outcome) ON audit.audit_events TO assess", "auditdb")


def test_a_fresh_restore(site: Databases, ask: Ask) -> None:
    """Case 140: statistics and counters begin anew. The number comes from elsewhere, and no index is called unused."""
    psql(site, "CREATE DATABASE restored")
    argv = f"pg_dump -U postgres fhirdb | psql -XqAt -U postgres -d restored -o /dev/null && psql -XqAt -U postgres -d restored -c '{'SELECT 1'}'"
    subprocess.run(["docker", "exec", site.container("postgres"), "bash", "-o", "pipefail", "-c", argv], check=True, capture_output=True)
    psql(site, "UPDATE pg_class SET reltuples = -1, relpages = 2000 WHERE relname = 'hfj_resource'", "restored")
    try:
        # Samples of the database that it was made from do not vouch for its counters.
        old = [{"format": 1, "at": f"2026-0{month}-01T00:00:00Z", "database": ask()["sample"]["database"], "resources": 1} for month in (1, 2, 3)]
        result = ask("postgres", fhir={"database": "restored"}, samples=old)
        metric = result["metrics"]["resources"]
        assert (metric["value"], metric["quality"]) == (RESOURCES, "at_most")
        assert "never analyzed" in metric["method"]
        found = ids(result)
        assert "statistics_missing" in found
        assert "index_unused" not in found
        assert result["databases"]["fhir"]["counted_days"] is None
        assert {scan["reason"] for item in result["plans"]["searches"] for scan in item["scans"]} <= {"stale_statistics"}
        assert "not enough history" in metric["limits"][0]["why"]
    finally:
        psql(site, "DROP DATABASE restored")


def test_plans_of_the_sites_own_searches(site: Databases, ask: Ask) -> None:
    """A search is told by its queryid, and the reason read from its plan: here an index that is gone."""
    search = "SELECT t0.RES_ID FROM HFJ_SPIDX_TOKEN t0 WHERE (t0.HASH_VALUE = 42) fetch first 11 rows only"
    psql(site, f"SELECT pg_stat_statements_reset(); {search}")
    result = ask()
    assert (result["plans"]["source"], ids(result)) == ("pg_stat_statements", [])
    (plan,) = result["plans"]["searches"]
    assert plan["tables"] == ["hfj_spidx_token"]
    # A search is told by what finds its text, not by its text.
    assert "t0" not in json.dumps(result["plans"])
    assert site.sql(f"SELECT lower(left(query, 30)) FROM pg_stat_statements WHERE queryid = {plan['queryid']}") == search.lower()[:30]

    psql(site, "DROP INDEX idx_sp_token_hash_v_v2")
    try:
        assert reason(ask) == "missing_index: no index begins with hash_value"
    finally:
        psql(site, f"{TOKEN_INDEX}; SELECT pg_stat_statements_reset()")
    assert ids(ask()) == []


TOKEN_INDEX = "CREATE INDEX idx_sp_token_hash_v_v2 ON hfj_spidx_token (hash_value, res_id, partition_id)"


def reason(ask: Ask) -> str:
    """The one reason that is told."""
    result = ask()
    assert "search_reads_table" in ids(result)
    (item,) = [scan for plan in result["plans"]["searches"] for scan in plan["scans"]]
    assert item["table"] == "hfj_spidx_token"
    assert result["partitioning"]["state"] == "no"
    return f"{item['reason']}: {item['detail']}"


@pytest.mark.full
def test_the_reason_of_a_plan(site: Databases, ask: Ask) -> None:
    """An index that a failed build left invalid, then statistics, which come before it."""
    psql(site, "SELECT pg_stat_statements_reset(); SELECT t0.RES_ID FROM HFJ_SPIDX_TOKEN t0 WHERE (t0.HASH_VALUE = 42) fetch first 11 rows only")
    try:
        psql(site, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sp_token_hash_v_v2'::regclass")
        assert "index_invalid" in ids(ask())
        assert reason(ask).startswith("missing_index: idx_sp_token_hash_v_v2 is invalid")
        psql(site, "INSERT INTO hfj_spidx_token (sp_id, res_id) SELECT 1000000 + i, 1 FROM generate_series(1, 60000) i")
        time.sleep(1)
        assert reason(ask).startswith("stale_statistics")
    finally:
        psql(site, f"DELETE FROM hfj_spidx_token WHERE sp_id > 1000000; DROP INDEX idx_sp_token_hash_v_v2; {TOKEN_INDEX}")
        psql(site, "VACUUM (FULL, ANALYZE) hfj_spidx_token")
    psql(site, "SELECT pg_stat_statements_reset()")
    assert ids(ask()) == []


PLANTED = """
GRANT CREATE ON SCHEMA public TO hapi_app;
SET ROLE hapi_app;
CREATE FUNCTION planted() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'hapi_app' THEN RAISE EXCEPTION 'planted ran as %', current_user; END IF;
    RETURN 5;
END $$;
SELECT t0.RES_ID FROM HFJ_RESOURCE t0 WHERE (t0.RES_ID = planted()) fetch first 11 rows only;
SELECT t0.RES_ID AS "Rahim Uddin" FROM HFJ_RESOURCE t0 WHERE (t0.RES_ID = 5) fetch first 11 rows only;
"""


@pytest.mark.parametrize("user", ["postgres", pytest.param("assess", marks=pytest.mark.full)])
def test_statements_of_others(site: Databases, ask: Ask, user: str) -> None:
    """A function that an ordinary role owns runs for nobody who only asks for a plan; no text of a statement is told."""
    psql(site, "GRANT SELECT ON hfj_resource TO hapi_app; SELECT pg_stat_statements_reset();" + PLANTED)
    try:
        result = ask(user)
        assert "planted" not in json.dumps(result)
        assert "Rahim" not in json.dumps(result)
        assert (unread(result), ids(result), result["plans"]["source"], len(result["plans"]["searches"])) == ("", [], "default", 8)
        assert ("superuser" if user == "postgres" else "none of 2 statements is surely a search") in result["plans"]["why"]
        # A search that is one beside them is planned, but not for a superuser.
        psql(site, "SELECT t0.RES_ID FROM HFJ_RESOURCE t0 WHERE (t0.RES_ID = 5) fetch first 11 rows only")
        assert ask(user)["plans"]["source"] == ("default" if user == "postgres" else "pg_stat_statements")
    finally:
        psql(site, "DROP FUNCTION planted; REVOKE ALL ON SCHEMA public FROM hapi_app; REVOKE SELECT ON hfj_resource FROM hapi_app")
        psql(site, "SELECT pg_stat_statements_reset()")


@pytest.mark.full
def test_without_pg_stat_statements(site: Databases, ask: Ask) -> None:
    psql(site, "DROP EXTENSION pg_stat_statements")
    try:
        result = ask()
        assert (result["plans"]["source"], unread(result), len(result["plans"]["searches"])) == ("default", "", 8)
    finally:
        psql(site, "CREATE EXTENSION pg_stat_statements")


def test_clients_without_an_index(site: Databases, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's own audit table may have another index: then a few pages are looked at, and the figure says so.

    As few of one that was never analyzed, and of one that has no partitions.
    """
    psql(site, "DROP INDEX audit.audit_events_client_time_idx", "auditdb")
    try:
        metric = ask()["metrics"]["vendors"]
        assert metric["method"].startswith("a sample of 100 % of the pages: no index")
        assert (metric["value"], metric["quality"]) == (3, "exact")
        monkeypatch.setattr(_measure, "SAMPLE_PAGES", 5)
        psql(site, "UPDATE pg_class SET reltuples = -1 WHERE relname ~ '^audit_events_'", "auditdb")
        psql(site, "CREATE TABLE audit.plain AS SELECT * FROM audit.audit_events; GRANT SELECT ON audit.plain TO assess", "auditdb")
        for table in ("audit_events", "plain"):
            metric = ask(audit={"table": table})["metrics"]["vendors"]
            assert 0 < float(metric["method"].split()[3]) < 50
            assert metric["quality"] == "at_least"
    finally:
        psql(site, "DROP TABLE IF EXISTS audit.plain; ANALYZE audit.audit_events", "auditdb")
        psql(site, "CREATE INDEX audit_events_client_time_idx ON audit.audit_events (client_id, event_time)", "auditdb")


@pytest.mark.full
def test_the_verdict_changes_with_the_load_and_the_deployment(ask: Ask) -> None:
    limits = {"resources": {"pilot_below": 50_000, "regional_below": 55_000, "national_above": 70_000}}
    result = ask(thresholds=limits)
    assert (result["phase"], result["exceeded"], result["decided_by"]) == ("regional", True, "resources")
    assert [item["playbook"] for item in result["due"]] == ["scale_regional", None]
    assert {"phase_behind", "phase_exceeded"} <= set(ids(result))
    three = {"services": {"hapi": {"replicas": [{"state": "running", "health": "healthy"}] * 3}}}
    result = ask(thresholds=limits, deployment=three)
    assert result["due"][0]["playbook"] == "add_read_replica"
    result = ask(thresholds=limits, deployment=three, replication={"server": {"standby": {"streaming": True}}})
    assert (result["deployed"]["phase"], result["due"][0]["what"]) == ("regional", "plan the move to national")
    result = ask(thresholds=limits, deployment=three, replication={"server": {"standby": {"streaming": False}}})
    assert result["due"][0]["playbook"] == "add_read_replica"


PARTITIONED = """
CREATE TABLE hfj_resource (res_id bigint PRIMARY KEY, res_type varchar(40) NOT NULL, fhir_id varchar(64), res_updated timestamp(6) NOT NULL,
    res_deleted_at timestamp(6), partition_id integer) PARTITION BY HASH (res_id);
CREATE TABLE hfj_res_ver (pid bigint, res_id bigint NOT NULL, res_ver bigint NOT NULL, res_updated timestamp(6) NOT NULL, PRIMARY KEY (pid, res_id))
    PARTITION BY HASH (res_id);
CREATE INDEX idx_resver_date ON hfj_res_ver (res_updated);
CREATE INDEX idx_resver_pid ON hfj_res_ver (pid);
SELECT format('CREATE TABLE %1$s_p%2$s PARTITION OF %1$s FOR VALUES WITH (MODULUS 3, REMAINDER %2$s)', t, n)
  FROM unnest(ARRAY['hfj_resource', 'hfj_res_ver']) t, generate_series(0, 2) n \\gexec
INSERT INTO hfj_resource SELECT i, 'Patient', i::text, timezone('UTC', now()) - (6000 - i) * interval '864 seconds' FROM generate_series(1, 6000) i;
INSERT INTO hfj_res_ver SELECT i, i, 1, timezone('UTC', now()) - (6000 - i) * interval '864 seconds' FROM generate_series(1, 6000) i;
SELECT pg_stat_force_next_flush();
VACUUM ANALYZE;
"""


def test_tables_of_hapi_that_are_partitioned(site: Databases, ask: Ask) -> None:
    """The parts are judged, since a partitioned table has no rows, and nobody vacuums it; each is read by its indexes too."""
    psql(site, "CREATE DATABASE parts")
    try:
        psql(site, PARTITIONED, "parts")
        time.sleep(1)
        count = "SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables WHERE relname ~ '^hfj_'"
        before = psql(site, count, "parts")
        result = ask("postgres", fhir={"database": "parts"})
        time.sleep(1)
        assert psql(site, count, "parts") == before
        metrics = result["metrics"]
        assert (metrics["resources"]["value"], metrics["resources_per_day"]["value"]) == (6000, pytest.approx(100, rel=0.05))
        assert {item["parent"] for item in result["tables"]} == {"hfj_resource", "hfj_res_ver"}
        assert not {"statistics_missing", "vacuum_behind", "search_reads_table"} & set(ids(result))
    finally:
        psql(site, "DROP DATABASE parts")


@pytest.mark.full
def test_a_standby(tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    """What it tells may be late, which is said; of the primary's standbys it tells nothing. The primary is asked for those."""
    pair = Databases(tmp_path / "site", "phasepair")
    try:
        pair.start(pooler="", standby=True)
        psql(pair, HAPI + ROWS)
        end = pair.sql("SELECT pg_current_wal_flush_lsn()")
        pair.until("the rows on the standby", lambda: pair.sql(f"SELECT pg_last_wal_replay_lsn() >= '{end}'", "standby") == "t")
        found = {}
        for service in ("postgres", "standby"):
            login = {"service": service, "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
            found[service] = run(phase_info, project_dir=str(pair.dir), fhir=login, audit=login)
        assert "server_is_standby" in ids(found["standby"])
        assert "server_is_standby" not in ids(found["postgres"])
        assert found["standby"]["metrics"]["resources"]["value"] == pytest.approx(RESOURCES, rel=0.01)
        aspects = {service: result["deployed"]["aspects"]["postgresql"]["phase"] for service, result in found.items()}
        assert aspects == {"postgres": "regional", "standby": None}
        assert "the topology of PostgreSQL" in unread(found["standby"])
    finally:
        pair.remove()


@pytest.mark.full
def test_dead_rows_and_a_table_that_was_emptied(site: Databases, ask: Ask) -> None:
    psql(site, "UPDATE hfj_spidx_token SET sp_name = 'x' WHERE sp_id <= 100000")
    time.sleep(1)
    try:
        result = ask()
        assert "vacuum_behind" in ids(result)
        table = next(item for item in result["tables"] if item["name"] == "hfj_spidx_token")
        assert table["dead_rows"] == 100_000
    finally:
        psql(site, "VACUUM (FULL, ANALYZE) hfj_spidx_token")
    assert ids(ask()) == []


def test_case_144_idle_sessions_take_slots_too(site: Databases, ask: Ask, run: Callable[..., dict[str, Any]]) -> None:
    """36 idle and 1 active of 40 are all of the 37 usable slots; the roadmap's own query calls it 2.5 %."""
    side = {"name": "fhir", "database_service": "postgres", "database": "fhirdb", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
    with site.clients(37, "postgres") as clients:

        def sleep() -> None:
            with suppress(psycopg2.Error):
                clients[0].cursor().execute("SELECT pg_sleep(600)")

        active = threading.Thread(target=sleep, daemon=True)
        active.start()
        site.until("the active session", lambda: site.sql("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'") == "1")
        roadmap = "SELECT round(100.0 * count(*) / 40, 1) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        budget = run(connection_budget_info, project_dir=str(site.dir), sides=[side], replicas=1, hikari_sizes={"fhir": 5})
        assert budget["rc"] == 0, budget
        result = ask("postgres", connections=budget)
        assert site.sql(roadmap) == "2.5"
        site.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'")
        active.join(20)
    (item,) = result["connections"]
    assert (item["used"], item["usable"], item["max_connections"], item["percent"]) == (37, 37, 40, 100.0)
    assert "connections_used_up" in ids(result)
    assert (result["due"][0]["playbook"], result["due"][0]["severity"], result["status"], result["exit_code"]) == (
        "tune_pools",
        "error",
        "critical",
        2,
    )


def test_wrong_thresholds_are_refused(ask: Ask) -> None:
    result = ask(service="nothing", thresholds={"vendors": {"pilot_below": 600}})
    assert result["rc"] == 1
    assert "out of order: regional_below (500) must be more than pilot_below (600)" in result["msg"]
    assert "overlaps" in ask(thresholds={"resources": {"national_above": 5}})["msg"]
    assert ask(thresholds={"resource": {}})["rc"] == 1
    assert "from 1 to" in ask(days=0)["msg"]
    assert SUPERUSER_PASSWORD not in json.dumps(result)
