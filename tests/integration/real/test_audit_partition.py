# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""audit_partition_info and audit_partition against a real PostgreSQL with the lab's audit schema.

Each damage: the check goes red, the dry run tells the plan, the run does exactly that, the check is green, and rows go in.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _partition_catalog as catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import Settings
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import Login, connect
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition, audit_partition_info
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import APP_PASSWORD, IMAGES, SECRETS, Databases, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[3]
SCHEMA = (ROOT / "overlay/src/main/resources/db/migration/audit/V2__audit_schema.sql").read_text()
# When the tests play, whatever the clock says.
NOW = "2026-11-26T03:00:00Z"

# As the module leaves the partitions: the lab's own have no grants.
LIKE_THE_PARENT = """
DO $$ DECLARE part regclass; BEGIN
  FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent::regclass::text LIKE 'audit.%' AND inhparent IN
    (SELECT oid FROM pg_class WHERE relkind = 'p')
  LOOP EXECUTE format('GRANT INSERT ON %s TO audit_writer_login', part); END LOOP;
END $$;
"""
INSERT = (
    "INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)"
    " VALUES ('%s', 'OPERATION', '%s', %s, 'POST', '/fhir/Patient', 201, 5, 'hapi-1')"
)


def full(*values: Any) -> Any:
    """One of the variants that only make test-all runs."""
    return pytest.param(*values, marks=pytest.mark.full)


# Everything of the database that a module could change, in one text.
SHAPE = """
SET timezone = 'UTC';
SELECT n.nspname, c.relname, c.relkind, c.relispartition, pg_get_expr(c.relpartbound, c.oid), c.relowner::regrole, c.relacl, c.relreplident,
       obj_description(c.oid, 'pg_class'), i.inhparent::regclass, i.inhdetachpending,
       (SELECT string_agg(k.conname || pg_get_constraintdef(k.oid), ',' ORDER BY k.conname) FROM pg_constraint k WHERE k.conrelid = c.oid),
       CASE c.relkind WHEN 'r' THEN (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM ' || c.oid::regclass, false, true, '')))[1] END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
 WHERE n.nspname !~ '^pg_|information_schema' ORDER BY 1, 2;
SELECT p.oid::regprocedure, p.proowner::regrole, p.proacl, p.prosrc, p.proconfig FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname !~ '^pg_|information_schema' ORDER BY 1;
"""


class Site(Databases):
    """The server, and the two modules on it."""

    def args(self, **more: Any) -> dict[str, Any]:
        found = {
            "project_dir": str(self.dir),
            "service": "postgres",
            "database": "fhirdb",
            "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD",
            "now": NOW,
        }
        return {**found, **more}

    def script(self, text: str, check: bool = True) -> str:
        """Run SQL as the superuser on the server's own socket."""
        argv = ("exec", "-i", "-u", "postgres", self.container("postgres"), "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "fhirdb")
        return docker(*argv, stdin=text, check=check).strip()

    def shape(self) -> str:
        return self.script(SHAPE)

    def insert(self, moment: str, outcome: str = "ACCEPTED", client: str = "'vendor-1'") -> None:
        """As HAPI does it: by the role that may add and nothing else."""
        self.script("SET ROLE audit_writer_login; " + INSERT % (moment, outcome, client))

    def bounds(self, table: str = "audit.audit_events") -> dict[str, str]:
        """Return partition -> bounds in UTC, from the server."""
        text = self.script(
            "SET timezone = 'UTC'; SET datestyle = 'ISO'; SELECT c.relname || '|' || pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i"
            f" JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = '{table}'::regclass ORDER BY 1"
        )
        return dict(line.split("|", 1) for line in text.splitlines())

    def clean(self) -> None:
        self.script(
            'DROP SCHEMA IF EXISTS audit CASCADE; DROP SCHEMA IF EXISTS test CASCADE; DROP SCHEMA IF EXISTS "Audit" CASCADE;'
            "DROP SCHEMA IF EXISTS other CASCADE;" + SCHEMA + LIKE_THE_PARENT
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("partition") / "site", "prt")
    try:
        # Each test makes and drops some hundred tables in one transaction.
        site.start(pooler="", postgres_args="-c max_locks_per_transaction=1024 -c autovacuum=off")
        site.script("CREATE ROLE keeper LOGIN PASSWORD '%s'; CREATE ROLE looker LOGIN PASSWORD '%s'" % (APP_PASSWORD, APP_PASSWORD))
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(made: Site) -> Site:
    """The shared server with a fresh audit schema, in which everything is right."""
    made.clean()
    return made


def told(found: dict[str, Any], *severities: str) -> list[tuple[str, str]]:
    """The findings that matter, as id and object."""
    wanted = severities or ("error", "warning")
    return [(item["id"], item["object"]) for item in found["findings"] if item["severity"] in wanted]


def hints(found: dict[str, Any], id: str) -> str:
    return " ".join(item["hint"] for item in found["findings"] if item["id"] == id)


def steps(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["action"], item["partition"]) for item in found["plan"]]


def look(run: Run, site: Site, **more: Any) -> dict[str, Any]:
    """Run the check, which never changes anything."""
    before = site.shape()
    found = run(audit_partition_info, **site.args(**more))
    assert found["rc"] == 0, found["msg"]
    assert not found["changed"]
    assert not any(secret in str(found) for secret in SECRETS)
    assert site.shape() == before
    return found


def put_right(run: Run, site: Site, **more: Any) -> dict[str, Any]:
    """Dry run, real run, again in both ways; the dry run predicts all of it."""
    before = site.shape()
    predicted = run(audit_partition, True, **site.args(**more))
    assert predicted["rc"] == 0, predicted["msg"]
    assert site.shape() == before
    done = run(audit_partition, **site.args(**more))
    assert done["rc"] == 0, done["msg"]
    assert done["changed"]
    assert predicted["changed"]
    assert predicted["plan"] == done["plan"]
    assert predicted["diff"] == done["diff"]
    for side in ("before", "after"):
        assert [item[side] for item in predicted["tables"]] == [item[side] for item in done["tables"]]
    assert told(predicted) == told(done)
    after = site.shape()
    for check in (True, False):
        again = run(audit_partition, check, **site.args(**more))
        assert again["rc"] == 0, again["msg"]
        assert (again["changed"], again["plan"]) == (False, [])
    assert site.shape() == after
    assert not any(secret in str(done) for secret in SECRETS)
    return done


def refused(run: Run, site: Site, *words: str, module: Any = audit_partition, **more: Any) -> dict[str, Any]:
    """It fails, in a dry run as well, says why, and has changed nothing."""
    before = site.shape()
    for check in (True, False):
        found = run(module, check, **site.args(**more))
        assert found["rc"] != 0, found
        assert not found.get("changed")
        for word in words:
            assert word in found["msg"], found["msg"]
        assert not any(secret in str(found) for secret in SECRETS)
    assert site.shape() == before
    return found


def test_everything_is_right(site: Site, run: Run) -> None:
    found = look(run, site)
    assert told(found) == []
    assert found["plan"] == []
    events = found["tables"][0]
    assert (events["covered_from"], events["covered_until"]) == ("2025-01-01T00:00:00Z", "2028-01-01T00:00:00Z")
    assert (events["gaps"], events["default_rows"], len(events["partitions"])) == ([], None, 36)
    assert found["days_left"] == pytest.approx(400.87, abs=0.01)
    for check in (True, False):
        done = run(audit_partition, check, **site.args())
        assert (done["rc"], done["changed"], done["plan"]) == (0, False, [])
    # By the server's own clock too.
    real = run(audit_partition_info, **site.args(now=""))
    moment = datetime.fromisoformat(real["now"].replace("Z", "+00:00"))
    assert abs((moment - datetime.now(timezone.utc)).total_seconds()) < 60


class Load:
    """Somebody who inserts all the time, each row in a transaction of its own."""

    def __init__(self, site: Site, *moments: str) -> None:
        self.site = site
        self.moments = moments
        self.done = 0
        self.longest = 0.0
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._insert, args=(number,)) for number in range(3)]

    def _insert(self, number: int) -> None:
        with contextlib.closing(self.site.connection("postgres", "hapi_app")) as connection:
            cursor = connection.cursor()
            while not self._stop.is_set():
                begin = time.monotonic()
                try:
                    cursor.execute(INSERT % (self.moments[self.done % len(self.moments)], "ACCEPTED", "'load'"))
                    self.done += 1
                except psycopg2.Error as exc:
                    self.errors.append(str(exc))
                self.longest = max(self.longest, time.monotonic() - begin)

    def goes_on(self) -> None:
        before, end = self.done, time.monotonic() + 30
        while self.done < before + 10:
            assert time.monotonic() < end, self.errors
            time.sleep(0.02)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


# --- damage --------------------------------------------------------------------------------------------------------


def test_case_82_a_month_in_the_middle_is_missing(site: Site, run: Run) -> None:
    site.script("DROP TABLE audit.audit_events_2027_03, audit.audit_events_2026_02, audit.fhir_rejected_submissions_2026_12")
    with pytest.raises(AssertionError, match="no partition of relation"):
        site.insert("2027-03-15 12:00Z")
    found = look(run, site)
    assert told(found) == [("coverage_gap", "audit.audit_events")] * 2 + [("coverage_gap", "audit.fhir_rejected_submissions")]
    assert "creates audit_events_2027_03" in hints(found, "coverage_gap")
    assert found["tables"][0]["covered_until"] == "2027-03-01T00:00:00Z"
    assert found["tables"][1]["days_left"] == pytest.approx(4.88, abs=0.01)
    assert found["days_left"] == pytest.approx(4.88, abs=0.01)
    assert [item["months"] for item in found["tables"][0]["gaps"]] == [["2026-02"], ["2027-03"]]
    red = run(audit_partition_info, **site.args(fail_on=["error"]))
    assert red["rc"] == 1
    assert "gap on audit.audit_events" in red["msg"]
    done = put_right(run, site)
    assert found["plan"] == done["plan"]
    # What is written to soon comes first.
    assert steps(done) == [("create", "audit_events_2027_03"), ("create", "audit_events_2026_02"), ("create", "fhir_rejected_submissions_2026_12")]
    assert site.bounds()["audit_events_2027_03"] == "FOR VALUES FROM ('2027-03-01 00:00:00+00') TO ('2027-04-01 00:00:00+00')"
    assert told(look(run, site)) == []
    for moment in ("2027-03-01 00:00Z", "2027-03-31 23:59:59.999999Z", "2026-02-28 12:00Z"):
        site.insert(moment)
    columns = "(event_time, method, path, status, replica)"
    site.script(f"INSERT INTO audit.fhir_rejected_submissions {columns} VALUES ('2026-12-31 23:00Z', 'POST', '/', 422, 'x')")


def test_case_82_under_load_no_insert_fails_and_none_waits(site: Site, run: Run) -> None:
    site.script("GRANT USAGE ON SCHEMA audit TO hapi_app; GRANT INSERT ON audit.audit_events TO hapi_app")
    site.script("DROP TABLE audit.audit_events_2027_03")
    with Load(site, "2027-02-15 12:00Z", "2027-04-15 12:00Z") as load, contextlib.closing(site.connection("postgres", "postgres")) as reader:
        load.goes_on()
        # Somebody reads the whole table, as a backup does for hours.
        reader.autocommit = False
        reader.cursor().execute("SELECT count(*) FROM audit.audit_events")
        found = run(audit_partition, **site.args())
        assert found["rc"] == 0, found["msg"]
        assert ("create", "audit_events_2027_03") in steps(found)
        load.moments = ("2027-03-15 12:00Z",)
        load.goes_on()
    assert load.errors == []
    assert load.longest < 2
    # What was granted on the table meanwhile was granted on each partition, too.
    assert all(item[0] in ("create", "set_grants") for item in steps(found))


def test_a_new_partition_is_as_partition_of_makes_it(site: Site, run: Run) -> None:
    """It is made as a table of its own and attached, so that nobody waits. There must be no difference to be seen."""
    site.script(
        "CREATE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
        "CREATE TRIGGER watch BEFORE UPDATE ON audit.audit_events FOR EACH ROW EXECUTE FUNCTION audit.refuse();"
        "CREATE TABLE audit.clients (id text PRIMARY KEY); ALTER TABLE audit.audit_events ADD CONSTRAINT known FOREIGN KEY (client_id)"
        " REFERENCES audit.clients; ALTER TABLE audit.audit_events ADD path_length int GENERATED ALWAYS AS (length(path)) STORED;"
        "ALTER TABLE audit.audit_events ALTER method SET DEFAULT 'POST', ALTER path SET STORAGE external, DROP COLUMN duration_ms;"
        "DROP TABLE audit.audit_events_2027_03, audit.audit_events_2027_04;"
        "CREATE TABLE audit.audit_events_2027_04 PARTITION OF audit.audit_events FOR VALUES FROM ('2027-04-01 00:00Z') TO ('2027-05-01 00:00Z');"
        "GRANT INSERT ON audit.audit_events_2027_04 TO audit_writer_login;"
    )
    put_right(run, site)
    query = """SELECT a.attnum, a.attname, a.atttypid::regtype, a.attnotnull, a.attidentity, a.attgenerated, a.attstorage, a.attcompression,
      a.attislocal, a.attinhcount, pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = 'audit.audit_events_2027_0%d'::regclass AND a.attnum > 0;
    SELECT conname, contype, pg_get_constraintdef(oid), conislocal, coninhcount, connoinherit, convalidated
      FROM pg_constraint WHERE conrelid = 'audit.audit_events_2027_0%d'::regclass ORDER BY 1;
    SELECT replace(indexdef, '2027_04', '2027_03') FROM pg_indexes WHERE tablename = 'audit_events_2027_0%d' ORDER BY 1;
    SELECT regexp_replace(tgname, '[0-9]+$', ''), tgtype, tgisinternal, tgparentid <> 0
      FROM pg_trigger WHERE tgrelid = 'audit.audit_events_2027_0%d'::regclass ORDER BY 1, 2;
    SELECT relacl, relowner, relreplident, relam, reltablespace, reloptions FROM pg_class WHERE relname = 'audit_events_2027_0%d'"""
    ours, theirs = (site.script(query % ((month,) * 5)).replace("2027_04", "2027_03") for month in (3, 4))
    assert ours == theirs


def test_case_68_a_detached_table_keeps_the_name(site: Site, run: Run) -> None:
    """The roadmap's check would still find the name, and its CREATE ... IF NOT EXISTS would skip it."""
    site.insert("2026-12-24 18:00Z")
    site.script("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2026_12; SELECT audit.create_next_month_partitions()")
    found = look(run, site)
    assert told(found) == [("coverage_gap", "audit.audit_events"), ("partition_detached", "audit.audit_events_2026_12")]
    assert "attaches it" in hints(found, "partition_detached")
    done = put_right(run, site)
    assert steps(done) == [("attach", "audit_events_2026_12")]
    assert told(look(run, site)) == []
    assert site.sql("SELECT count(*) FROM audit.audit_events") == "1"
    site.insert("2026-12-31 23:59Z")


EARLY = "INSERT INTO %s SELECT 1, '2026-11-30 23:00Z', 'OPERATION', 'ACCEPTED', NULL, NULL, 'a', 'b', 1, NULL, 1, 'c'"
OTHER_KEY = "ALTER TABLE %s DROP CONSTRAINT audit_events_2026_12_pkey, ADD PRIMARY KEY (id)"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("ALTER TABLE %s ADD extra int", "it has a column extra too many"),
        (EARLY, "has rows of 2026-11-30 23:00:00"),
        full("ALTER TABLE %s DROP client_id", "it has no column client_id"),
        full("ALTER TABLE %s ALTER status TYPE bigint", "its column status is bigint, not integer"),
        full("ALTER TABLE %s ALTER path DROP NOT NULL", "its column path may be NULL"),
        full("ALTER TABLE %s DROP CONSTRAINT audit_events_outcome_check", "it has no constraint audit_events_outcome_check"),
        full(OTHER_KEY, "its primary key is not on the same columns"),
    ],
)
def test_case_68_a_detached_table_that_does_not_fit(site: Site, run: Run, damage: str, reason: str) -> None:
    table = "audit.audit_events_2026_12"
    site.script(f"ALTER TABLE audit.audit_events DETACH PARTITION {table}; {damage % table}; DROP TABLE audit.fhir_rejected_submissions_2026_12")
    found = look(run, site)
    ids = [item["id"] for item in found["findings"] if item["object"] == table]
    assert ids in (["partition_detached"], ["partition_overlap"])
    assert reason in str(found["findings"])
    before = site.bounds()
    predicted = run(audit_partition, True, **site.args())
    done = run(audit_partition, **site.args())
    for result in (predicted, done):
        assert result["rc"] == 1
        assert table in result["msg"]
        assert reason in result["msg"]
        # The other table has got its month all the same.
        assert steps(result) == [("create", "fhir_rejected_submissions_2026_12")]
        assert result["changed"]
    assert site.bounds() == before
    assert "fhir_rejected_submissions_2026_12" in site.bounds("audit.fhir_rejected_submissions")
    site.script(f"DROP TABLE {table}")
    assert steps(put_right(run, site)) == [("create", "audit_events_2026_12")]


def test_a_detached_table_of_another_name_and_of_another_table(site: Site, run: Run) -> None:
    """What looks like a month of a table beside this one is never attached here, though it would fit."""
    site.script(
        "CREATE TABLE audit.audit_events_old (LIKE audit.audit_events INCLUDING ALL) PARTITION BY RANGE (event_time);"
        "ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2026_12;"
        "ALTER TABLE audit.audit_events_2026_12 RENAME TO audit_events_old_2026_12;"
    )
    done = put_right(run, site)
    assert steps(done) == [("create", "audit_events_2026_12")]
    # Asked for the other table, it is one of its own.
    found = look(run, site, tables=["audit_events_old"], months_ahead=1)
    assert ("attach", "audit_events_old_2026_12") in steps(found)


@contextlib.contextmanager
def detach_pending(site: Site, partition: str) -> Iterator[None]:
    """Break off a DETACH ... CONCURRENTLY behind somebody who reads, and who goes on with that inside of the block."""
    with contextlib.closing(site.connection("postgres", "postgres", application_name="a backup")) as reader:
        reader.set_session(isolation_level="REPEATABLE READ", autocommit=False)
        reader.cursor().execute("SELECT count(*) FROM audit.audit_events")
        with contextlib.closing(site.connection("postgres", "postgres")) as other:
            cursor = other.cursor()
            cursor.execute("SET statement_timeout = '500ms'")
            with pytest.raises(psycopg2.errors.QueryCanceled):
                cursor.execute(f"ALTER TABLE audit.audit_events DETACH PARTITION audit.{partition} CONCURRENTLY")
        yield


def test_case_70_a_detach_that_was_broken_off(site: Site, run: Run) -> None:
    """It is listed as a partition, and rejects rows. One of a month that is wanted comes back, with its rows."""
    site.insert("2026-12-24 18:00Z")
    with detach_pending(site, "audit_events_2026_12"):
        pass
    with pytest.raises(AssertionError, match="no partition of relation"):
        site.insert("2026-12-25 18:00Z")
    assert "audit_events_2026_12" in site.bounds()
    found = look(run, site)
    assert told(found) == [("coverage_gap", "audit.audit_events"), ("detach_pending", "audit.audit_events_2026_12")]
    assert "finishes the detach and attaches it again" in hints(found, "detach_pending")
    done = put_right(run, site)
    assert steps(done) == [("finalize_detach", "audit_events_2026_12"), ("attach", "audit_events_2026_12")]
    assert told(look(run, site)) == []
    site.insert("2026-12-25 18:00Z")
    assert site.sql("SELECT count(*) FROM audit.audit_events") == "2"


def test_case_70_with_attach_detached_false_it_stays_away(site: Site, run: Run) -> None:
    """It is not on the way: the first partition, whose time is no hole when it is gone."""
    with detach_pending(site, "audit_events_2025_01"):
        pass
    found = look(run, site)
    assert told(found) == [("detach_pending", "audit.audit_events_2025_01")]
    assert "leaves the table as it is" in hints(found, "detach_pending")
    done = put_right(run, site, attach_detached=False)
    assert steps(done) == [("finalize_detach", "audit_events_2025_01")]
    assert told(look(run, site)) == [("partition_detached", "audit.audit_events_2025_01")]


def test_case_70_a_reader_keeps_a_detach_from_being_finished_and_no_month_from_being_made(site: Site, run: Run) -> None:
    """A backup reads for hours. What can be done is done, and who is in the way is told."""
    site.script("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2027_03; DROP TABLE audit.audit_events_2027_03")
    with detach_pending(site, "audit_events_2026_05"):
        found = run(audit_partition, **site.args(lock_timeout_seconds=0.3, lock_tries=2))
        assert found["rc"] == 1
        assert "finalize_detach of audit_events_2026_05" in found["msg"]
        assert "a backup" in found["msg"]
        assert steps(found) == [("create", "audit_events_2027_03")]
        site.insert("2027-03-15 12:00Z")
    assert steps(put_right(run, site)) == [("finalize_detach", "audit_events_2026_05"), ("attach", "audit_events_2026_05")]


# The table and its partitions.
EVENTS = "^audit_events(_20.._..)?$"
DHAKA = """
DROP TABLE audit.audit_events CASCADE;
SET timezone = 'Asia/Dhaka';
CREATE TABLE audit.audit_events (id bigint, event_time timestamptz NOT NULL) PARTITION BY RANGE (event_time);
CREATE TABLE audit.audit_events_2026_11 PARTITION OF audit.audit_events FOR VALUES FROM ('2026-11-01') TO ('2026-12-01');
CREATE TABLE audit.audit_events_2026_12 PARTITION OF audit.audit_events FOR VALUES FROM ('2026-12-01') TO ('2027-01-01');
"""


def test_case_71_months_of_another_zone(site: Site, run: Run) -> None:
    """Nothing is created that would overlap or leave a hole, until it is said which zone counts."""
    site.script(DHAKA)
    found = look(run, site, tables=["audit_events"])
    assert ("zone_disagrees", "audit.audit_events") in told(found, "error")
    assert "Asia/Dhaka" in str(found["findings"])
    refused(run, site, "zone_disagrees", "audit.audit_events", "Asia/Dhaka", tables=["audit_events"])
    for zone in ("", "Asia/Dhaka"):
        site.clean()
        site.script(DHAKA)
        args = {"time_zone": zone, "months_ahead": 2, "tables": ["audit_events"], "maintenance_function": "", "alarm_days": 10}
        done = put_right(run, site, **args)
        assert steps(done) == [("create", "audit_events_2027_01")]
        assert site.bounds()["audit_events_2027_01"] == "FOR VALUES FROM ('2026-12-31 18:00:00+00') TO ('2027-01-31 18:00:00+00')"
        assert told(look(run, site, **args)) == []


UNTIL_JANUARY = """
DO $$ BEGIN FOR n IN 2..12 LOOP EXECUTE format('DROP TABLE audit.audit_events_2027_%s', lpad(n::text, 2, '0')); END LOOP; END $$;
CREATE TABLE audit.audit_events_2027_02 PARTITION OF audit.audit_events FOR VALUES FROM ('2027-02-01 00:00Z') TO ('2027-03-01 00:00+06');
"""


def test_case_71_the_next_month_begins_where_the_last_one_ends(site: Site, run: Run) -> None:
    """February was made by a session in Dhaka and ends six hours early: the next one takes what is left of it."""
    site.script(UNTIL_JANUARY + LIKE_THE_PARENT)
    found = look(run, site, months_ahead=5)
    assert ("zone_disagrees", "audit.audit_events") in told(found, "warning")
    done = put_right(run, site, months_ahead=5)
    assert steps(done) == [("create", "audit_events_2027_03"), ("create", "audit_events_2027_04")]
    assert site.bounds()["audit_events_2027_03"] == "FOR VALUES FROM ('2027-02-28 18:00:00+00') TO ('2027-04-01 00:00:00+00')"
    site.insert("2027-02-28 20:00Z")


def test_case_71_a_hole_of_six_hours(site: Site, run: Run) -> None:
    """March is there already, in UTC. The names of both months are taken, so the finding tells the statement that fills the hole."""
    site.script(
        UNTIL_JANUARY + "CREATE TABLE audit.audit_events_2027_03 PARTITION OF audit.audit_events"
        " FOR VALUES FROM ('2027-03-01 00:00Z') TO ('2027-04-01 00:00Z');" + LIKE_THE_PARENT
    )
    with pytest.raises(AssertionError, match="no partition of relation"):
        site.insert("2027-02-28 20:00Z")
    args = {"months_ahead": 4, "tables": ["audit_events"]}
    found = look(run, site, **args)
    assert {("coverage_gap", "audit.audit_events"), ("name_taken", "audit.audit_events_2027_02")} <= set(told(found, "error"))
    assert [(item["lower"], item["upper"]) for item in found["tables"][0]["gaps"]] == [("2027-02-28T18:00:00Z", "2027-03-01T00:00:00Z")]
    refused(run, site, "audit.audit_events_2027_02", "name_taken", **args)
    bounds = "FOR VALUES FROM ('2027-02-28 18:00:00+00') TO ('2027-03-01 00:00:00+00')"
    assert bounds in hints(found, "name_taken")
    site.script(f"CREATE TABLE audit.audit_events_2027_02_28 PARTITION OF audit.audit_events {bounds};" + LIKE_THE_PARENT)
    site.insert("2027-02-28 20:00Z")
    assert look(run, site, **args)["tables"][0]["gaps"] == []
    assert run(audit_partition, **site.args(**args))["rc"] == 0


@pytest.mark.full
def test_case_71_the_zone_of_a_session_never_counts(site: Site, run: Run) -> None:
    """Neither that of the role, nor of the server, nor its way of writing dates."""
    plans = []
    try:
        for zone, style in (("UTC", "ISO, MDY"), ("Asia/Dhaka", "German"), ("America/Sao_Paulo", "SQL, DMY")):
            site.clean()
            site.script(f"ALTER ROLE postgres SET timezone = '{zone}'; ALTER ROLE postgres SET datestyle = '{style}'")
            site.script("DROP TABLE audit.audit_events_2026_12")
            assert told(look(run, site)) == [("coverage_gap", "audit.audit_events")]
            plans.append(put_right(run, site)["plan"])
            assert site.bounds()["audit_events_2026_12"] == "FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00')"
    finally:
        site.script("ALTER ROLE postgres RESET ALL")
    assert plans[0] == plans[1] == plans[2]


@pytest.mark.parametrize("zone", ["America/Sao_Paulo", full("Europe/Madrid"), full("Asia/Amman"), full("Asia/Dhaka")])
def test_case_73_zones_that_change_their_clocks(site: Site, run: Run, zone: str) -> None:
    """36 months in the years when they did: the server itself says that each is a whole month of that zone, without gap or overlap."""
    site.script("CREATE SCHEMA test; CREATE TABLE test.t (at timestamptz NOT NULL) PARTITION BY RANGE (at)")
    args = {"schema": "test", "tables": ["t"], "time_zone": zone, "months_ahead": 35, "maintenance_function": ""}
    done = put_right(run, site, now="2016-09-15T00:00:00Z", **args)
    assert len(done["plan"]) == 36
    # Midnight may not exist on the first of a month: then it begins an hour later.
    text = site.script(
        f"SET timezone = '{zone}';"
        " WITH b AS (SELECT relname, regexp_match(pg_get_expr(relpartbound, oid), $$\\('(.*)'\\) TO \\('(.*)'\\)$$) m"
        " FROM pg_class WHERE relispartition AND relnamespace = 'test'::regnamespace),"
        " r AS (SELECT relname, m[1]::timestamptz lo, m[2]::timestamptz hi FROM b)"
        " SELECT count(*), bool_and(lo = date_trunc('month', lo + interval '3 hours')),"
        " bool_and(relname = to_char(lo + interval '3 hours', '\"t_\"YYYY_MM')), (SELECT count(*) FROM r a JOIN r b ON a.hi = b.lo),"
        " min(lo)::date, max(hi)::date FROM r"
    )
    count, starts, names, seams, first, last = text.split("|")
    assert (count, names, seams, first, last) == ("36", "t", "35", "2016-09-01", "2019-09-01")
    assert starts == "t"


DEFAULT = """
CREATE TABLE audit.audit_events_default PARTITION OF audit.audit_events DEFAULT;
GRANT INSERT ON audit.audit_events_default TO audit_writer_login;
"""


def test_case_74_rows_in_the_default_partition(site: Site, run: Run) -> None:
    """They would keep their month from ever being made. A trigger that forbids deletions has no say in it, since none is deleted."""
    site.script(
        "DROP TABLE audit.audit_events_2027_03, audit.audit_events_2027_05;" + DEFAULT
        + "CREATE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the trail is never changed'; END $$;"
        "CREATE TRIGGER keep BEFORE DELETE OR UPDATE ON audit.audit_events FOR EACH ROW EXECUTE FUNCTION audit.refuse();"
    )
    for day in range(1, 32):
        site.insert("2027-03-%02d 12:00Z" % day)
    site.insert("2027-05-31 23:59:59.999999Z")
    content = site.sql("SELECT md5(string_agg(e::text, ',' ORDER BY id)) FROM audit.audit_events e")
    with pytest.raises(AssertionError, match="would be violated by some row"):
        site.script("CREATE TABLE audit.x PARTITION OF audit.audit_events FOR VALUES FROM ('2027-03-01 00:00Z') TO ('2027-04-01 00:00Z')")
    found = look(run, site)
    assert set(told(found)) == {("coverage_gap", "audit.audit_events"), ("default_rows", "audit.audit_events_default")}
    assert found["tables"][0]["default_rows"] == 32
    assert "moves the rows" in hints(found, "default_rows")
    # With move_default_rows false the month stays missing, and that is a failure.
    refused(run, site, "audit.audit_events", "move_default_rows is false", move_default_rows=False)
    done = put_right(run, site)
    assert ("move_default_rows", "audit_events_2027_03") in steps(done)
    assert done["rows_moved"] == 32
    assert told(look(run, site)) == []
    assert site.sql("SELECT count(*) FROM audit.audit_events_default") == "0"
    assert site.sql("SELECT count(*) FROM audit.audit_events_2027_03") == "31"
    assert site.sql("SELECT md5(string_agg(e::text, ',' ORDER BY id)) FROM audit.audit_events e") == content
    site.insert("2027-03-15 12:00Z")


def test_case_74_while_rows_keep_coming_into_the_default_partition(site: Site, run: Run) -> None:
    """None fails, and none is left behind."""
    site.script(
        "GRANT USAGE ON SCHEMA audit TO hapi_app; GRANT INSERT ON audit.audit_events TO hapi_app; DROP TABLE audit.audit_events_2027_03;" + DEFAULT
    )
    with Load(site, "2027-03-15 12:00Z", "2027-02-15 12:00Z") as load:
        load.goes_on()
        found = run(audit_partition, **site.args())
        assert found["rc"] == 0, found["msg"]
        load.goes_on()
    assert load.errors == []
    assert found["rows_moved"] > 0
    assert site.sql("SELECT count(*) FROM audit.audit_events_default") == "0"
    assert int(site.sql("SELECT count(*) FROM audit.audit_events")) == load.done


CONTENT = "SELECT count(*) || ' ' || md5(string_agg(e::text, ',' ORDER BY id)) FROM audit.audit_events e"


def test_case_74_more_rows_than_may_be_moved_while_writers_wait(site: Site, run: Run) -> None:
    """Only the month that has too many stays: it is told how many there are and what to do, and with consent they are moved."""
    site.script("DROP TABLE audit.audit_events_2027_03, audit.audit_events_2027_04, audit.audit_events_2027_05;" + DEFAULT)
    for day in range(1, 32):
        site.insert("2027-03-%02d 12:00Z" % day)
    site.insert("2027-05-31 23:59:59.999999Z")
    content = site.sql(CONTENT)
    before = site.shape()
    predicted = run(audit_partition, True, **site.args(move_limit=30))
    assert site.shape() == before
    done = run(audit_partition, **site.args(move_limit=30))
    for found in (predicted, done):
        assert found["rc"] != 0
        assert steps(found) == [("create", "audit_events_2027_04"), ("move_default_rows", "audit_events_2027_05")]
        assert found["tables"][0]["after"]["default_rows"] == 31
        for words in ("has 31 rows of 2027-03, and move_limit is 30", "audit_partitions_allow_long_move=true", "move_limit 0"):
            assert words in hints(found, "default_rows")
            assert words in found["msg"]
        assert set(told(found)) == {("coverage_gap", "audit.audit_events"), ("default_rows", "audit.audit_events_default")}
    assert done["rows_moved"] == 1
    # Who writes goes on, into the default partition for that month.
    site.insert("2027-03-15 12:00Z")
    site.script("DELETE FROM audit.audit_events WHERE id = (SELECT max(id) FROM audit.audit_events)")
    again = run(audit_partition, **site.args(move_limit=30))
    assert (again["rc"] != 0, again["changed"], site.sql(CONTENT)) == (True, False, content)
    # Exactly as many as may be.
    assert steps(run(audit_partition, True, **site.args(move_limit=31))) == [("move_default_rows", "audit_events_2027_03")]
    moved = put_right(run, site, move_limit=0)
    assert (moved["rows_moved"], site.sql(CONTENT)) == (31, content)
    assert told(look(run, site)) == []


def test_case_74_a_move_that_takes_too_long_is_given_up_as_a_whole(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, and a slow server: writers wait no longer than was promised, none fails, and no row is lost."""
    monkeypatch.setattr(catalog, "LOCKED_SECONDS", 0.6)
    site.script(
        "GRANT USAGE ON SCHEMA audit TO hapi_app; GRANT INSERT ON audit.audit_events TO hapi_app; DROP TABLE audit.audit_events_2027_03;" + DEFAULT
        + "CREATE FUNCTION audit.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN OLD; END $$;"
        "CREATE TRIGGER slow BEFORE DELETE ON audit.audit_events_default FOR EACH ROW EXECUTE FUNCTION audit.slow();"
        "ALTER TABLE audit.audit_events_default ENABLE ALWAYS TRIGGER slow"
    )
    for day in range(1, 31):
        site.insert("2027-03-%02d 12:00Z" % day, client="'first'")
    first = CONTENT + " WHERE client_id = 'first'"
    content = site.sql(first)
    with Load(site, "2027-03-15 12:00Z", "2027-02-15 12:00Z") as load:
        load.goes_on()
        found = run(audit_partition, **site.args())
        load.goes_on()
    assert found["rc"] != 0
    assert "given up, because writers had waited for it for 0.6 seconds" in found["msg"]
    assert "audit_partitions_allow_long_move=true" in found["msg"]
    # What was granted on the table is granted on each partition, and no more than that was done.
    assert {item[0] for item in steps(found)} == {"set_grants"}
    assert found["rows_moved"] == 0
    assert load.errors == []
    # All of them would take six seconds.
    assert load.longest < 4
    assert int(site.sql("SELECT count(*) FROM audit.audit_events")) == load.done + 30
    assert site.sql(first) == content
    assert "audit_events_2027_03" not in site.bounds()
    # With consent it takes as long as it takes.
    site.script(
        "ALTER TABLE audit.audit_events_default DISABLE TRIGGER slow; DELETE FROM audit.audit_events WHERE client_id = 'load';"
        "ALTER TABLE audit.audit_events_default ENABLE ALWAYS TRIGGER slow"
    )
    done = run(audit_partition, **site.args(move_limit=0))
    assert (done["rc"], done["rows_moved"]) == (0, 30), done["msg"]
    assert site.sql(first) == content


@pytest.mark.parametrize("kind", ["timestamp", "date"])
def test_case_74_rows_are_counted_by_keys_without_a_zone(site: Site, run: Run, kind: str) -> None:
    site.script(
        f"CREATE SCHEMA test; CREATE TABLE test.t (at {kind} NOT NULL) PARTITION BY RANGE (at);"
        "CREATE TABLE test.t_2026_11 PARTITION OF test.t FOR VALUES FROM ('2026-11-01') TO ('2026-12-01');"
        "CREATE TABLE test.t_default PARTITION OF test.t DEFAULT;"
        "INSERT INTO test.t SELECT '2026-12-31' FROM generate_series(1, 5); INSERT INTO test.t SELECT '2027-01-01' FROM generate_series(1, 4)"
    )
    args = {"schema": "test", "tables": ["t"], "months_ahead": 3, "maintenance_function": "", "alarm_days": 1}
    found = run(audit_partition, **site.args(**args, move_limit=4))
    assert "5 rows of 2026-12" in found["msg"]
    assert sorted(steps(found)) == [("create", "t_2027_02"), ("move_default_rows", "t_2027_01")]
    assert site.sql("SELECT count(*) FROM test.t_2027_01") == "4"


def test_case_74_a_default_partition_of_which_nothing_can_be_known(site: Site, run: Run) -> None:
    """A role that may not read it never says that it is empty."""
    site.script(DEFAULT)
    args = {"login_user": "looker", "login_password_variable": "FHIR_DB_APP_PASSWORD"}
    found = look(run, site, **args)
    assert told(found) == [("default_unreadable", "audit.audit_events_default")]
    assert found["server"]["user"] == "looker"
    site.script("GRANT pg_read_all_data TO looker")
    try:
        assert told(look(run, site, **args)) == []
    finally:
        site.script("REVOKE pg_read_all_data FROM looker")


def test_case_76_a_foreign_key_into_a_partition(site: Site, run: Run) -> None:
    """Whoever wants to archive is told before; who does not, is not."""
    site.script(
        "CREATE TABLE audit.notes (id bigint, at timestamptz, CONSTRAINT about FOREIGN KEY (id, at) REFERENCES audit.audit_events (id, event_time));"
        "DROP TABLE audit.fhir_rejected_submissions_2027_01"
    )
    assert told(look(run, site)) == [("coverage_gap", "audit.fhir_rejected_submissions")]
    found = look(run, site, retention=True)
    assert ("partition_referenced", "audit.audit_events") in told(found)
    assert "about of audit.notes" in str(found["findings"])
    # The other table is served, and so is the one that is referred to.
    assert steps(put_right(run, site)) == [("create", "fhir_rejected_submissions_2027_01")]
    site.script("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2027_01; DROP TABLE audit.audit_events_2027_01")
    assert steps(put_right(run, site)) == [("create", "audit_events_2027_01")]
    assert "about of audit.notes" in str(look(run, site, retention=True)["findings"])


def test_case_77_the_same_name_in_two_schemas(site: Site, run: Run) -> None:
    site.script(
        "CREATE SCHEMA test; CREATE TABLE test.audit_events (LIKE audit.audit_events) PARTITION BY RANGE (event_time);"
        "CREATE TABLE test.audit_events_2027_03 (LIKE audit.audit_events); DROP TABLE audit.audit_events_2027_03"
    )
    done = put_right(run, site)
    assert [(item["schema"], item["partition"]) for item in done["plan"]] == [("audit", "audit_events_2027_03")]
    assert site.bounds("test.audit_events") == {}
    done = put_right(run, site, schema="test", tables=["audit_events"])
    assert {item["schema"] for item in done["plan"]} == {"test"}
    assert ("attach", "audit_events_2027_03") in steps(done)


LONG = "ঘটনা-নিরীক্ষা-তালিকা"  # 58 bytes
NAMES = ["Ev.ents-অডিট", "it's 100% %s {} \\ $$", LONG, full('a "quoted" name'), full("select"), full("x" * 63), full("é" * 31)]


@pytest.mark.parametrize("table", NAMES)
def test_case_78_any_legal_name(site: Site, run: Run, table: str) -> None:
    schema = "Audit"
    quoted = '"%s"."%s"' % (schema, table.replace('"', '""'))
    site.script(
        f'CREATE SCHEMA "Audit"; CREATE ROLE "Owner-অডিট ""x"""; CREATE TABLE {quoted} ("When ""exactly"" %" timestamptz NOT NULL)'
        f' PARTITION BY RANGE ("When ""exactly"" %"); COMMENT ON TABLE {quoted} IS $$It\'s 100% "ours" \\$$;'
        f'GRANT INSERT ON {quoted} TO "Owner-অডিট ""x"""'
    )
    try:
        args = {"schema": schema, "tables": [table], "months_ahead": 2, "maintenance_function": "", "alarm_days": 10}
        done = put_right(run, site, **args)
        assert len(done["plan"]) == 3
        names = [item["partition"] for item in done["plan"]]
        assert all(len(name.encode()) <= 63 for name in names)
        assert len(set(names)) == 3
        assert told(look(run, site, **args)) == []
        for month in (11, 12):
            site.script(f"INSERT INTO {quoted} VALUES ('2026-{month}-15 00:00Z')")
        dropped = names[1].replace('"', '""')
        site.script(f'ALTER TABLE {quoted} DETACH PARTITION "{schema}"."{dropped}"')
        assert steps(put_right(run, site, **args)) == [("attach", names[1])]
        assert site.sql(f"SELECT count(*) FROM {quoted}") == "2"
    finally:
        site.script('DROP SCHEMA "Audit" CASCADE; DROP ROLE "Owner-অডিট ""x"""')


def test_case_80_owner_and_grants_are_those_of_the_table(site: Site, run: Run) -> None:
    """Run as superuser; a role that may only insert can insert, and can't read, through the table and past it."""
    site.script("ALTER TABLE audit.audit_events OWNER TO keeper; DROP TABLE audit.audit_events_2027_03; GRANT CREATE ON SCHEMA audit TO keeper")
    # Changing the owner of the table has not changed those of its partitions.
    found = look(run, site)
    assert ("owner_differs", "audit.audit_events") in told(found)
    assert "makes it as the table's" in hints(found, "owner_differs")
    put_right(run, site)
    assert told(look(run, site)) == []
    query = "SELECT count(*) FILTER (WHERE relowner = 'keeper'::regrole), count(DISTINCT relacl::text) FROM pg_class"
    assert site.sql(f"{query} WHERE relname ~ '{EVENTS}'") == "37|1"
    site.insert("2027-03-15 12:00Z")
    past_it = INSERT.replace("audit_events (", "audit_events_2027_03 (id, ").replace("VALUES (", "VALUES (77, ")
    site.script("SET ROLE audit_writer_login; " + past_it % ("2027-03-15 12:00Z", "ACCEPTED", "NULL"))
    for name in ("audit_events", "audit_events_2027_03"):
        with pytest.raises(AssertionError, match="permission denied"):
            site.script(f"SET ROLE audit_writer_login; SELECT * FROM audit.{name}")


def test_case_80_by_a_member_of_the_owning_role(site: Site, run: Run) -> None:
    """No superuser is needed for months ahead: what they make belongs to the owner, not to who ran it."""
    site.script(
        "CREATE ROLE trail NOLOGIN; GRANT trail TO keeper; GRANT CREATE, USAGE ON SCHEMA audit TO trail; GRANT USAGE ON SCHEMA audit TO keeper;"
        "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'audit'::regnamespace"
        " AND relkind IN ('r', 'p') LOOP EXECUTE format('ALTER TABLE %s OWNER TO trail', t); END LOOP; END $$;"
        "ALTER DEFAULT PRIVILEGES FOR ROLE trail IN SCHEMA audit GRANT SELECT ON TABLES TO looker;"
        "DROP TABLE audit.audit_events_2027_03; ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2027_05"
    )
    try:
        args = {"login_user": "keeper", "login_password_variable": "FHIR_DB_APP_PASSWORD"}
        done = put_right(run, site, **args)
        assert steps(done) == [("create", "audit_events_2027_03"), ("attach", "audit_events_2027_05")]
        owner = "SELECT relowner::regrole, relacl FROM pg_class WHERE relname = 'audit_events%s'"
        assert site.sql(owner % "_2027_03") == site.sql(owner % "")
        assert told(look(run, site, **args)) == []
        site.insert("2027-03-15 12:00Z")
    finally:
        site.script("DROP SCHEMA audit CASCADE; DROP OWNED BY trail; DROP ROLE trail")


def test_grants_replica_identity_and_comments(site: Site, run: Run) -> None:
    site.script(
        "GRANT SELECT ON audit.audit_events TO looker WITH GRANT OPTION; GRANT UPDATE, DELETE ON audit.audit_events_2026_05 TO PUBLIC;"
        "REVOKE DELETE ON audit.audit_events FROM postgres;"
        "ALTER TABLE audit.audit_events REPLICA IDENTITY USING INDEX audit_events_pkey; ALTER TABLE audit.audit_events_2026_06 REPLICA IDENTITY FULL;"
        "COMMENT ON TABLE audit.audit_events IS 'Who did what'; COMMENT ON TABLE audit.audit_events_2026_07 IS 'Ours'"
    )
    found = look(run, site)
    assert {item[0] for item in told(found)} == {"grants_differ", "replica_identity_differs", "comment_differs"}
    assert told(found, "info") == [("comment_differs", "audit.audit_events_2026_07")]
    done = put_right(run, site)
    assert {item[0] for item in steps(done)} == {"set_grants", "set_replica_identity", "set_comment"}
    assert told(look(run, site)) == []
    query = "SELECT count(DISTINCT relacl::text), count(DISTINCT relreplident), count(DISTINCT obj_description(oid)) FROM pg_class"
    assert site.sql(f"{query} WHERE relname ~ '{EVENTS}'") == "1|1|2"
    assert site.sql("SELECT count(*) FROM pg_index WHERE indisreplident") == "37"
    # A month that is made later has all of it at once.
    site.script("DROP TABLE audit.audit_events_2027_03")
    assert steps(put_right(run, site)) == [("create", "audit_events_2027_03")]
    assert site.sql("SELECT count(*) FROM pg_index WHERE indisreplident") == "37"
    site.insert("2026-06-15 12:00Z")
    # And with repair false nothing of the kind is touched.
    site.script("GRANT TRUNCATE ON audit.audit_events_2026_05 TO looker")
    assert told(look(run, site)) == [("grants_differ", "audit.audit_events_2026_05")]
    kept = run(audit_partition, **site.args(repair=False))
    assert (kept["rc"], kept["changed"]) == (0, False)


def test_wrong_bounds_and_names(site: Site, run: Run) -> None:
    """A partition that takes rows stays as it is; what is beside it is made to fit."""
    site.script(
        "DROP TABLE audit.audit_events_2027_03, audit.audit_events_2027_04, audit.audit_events_2027_06;"
        "CREATE TABLE audit.audit_events_2027_03 PARTITION OF audit.audit_events FOR VALUES FROM ('2027-03-01 00:00Z') TO ('2027-03-20 12:00Z');"
        "CREATE TABLE audit.audit_events_2031_06 PARTITION OF audit.audit_events FOR VALUES FROM ('2027-06-01 00:00Z') TO ('2027-07-01 00:00Z');"
        + LIKE_THE_PARENT
    )
    found = look(run, site)
    assert set(told(found)) == {
        ("coverage_gap", "audit.audit_events"), ("wrong_bounds", "audit.audit_events_2027_03"), ("name_disagrees", "audit.audit_events_2031_06"),
    }  # fmt: skip
    done = put_right(run, site)
    assert steps(done) == [("create", "audit_events_2027_04")]
    assert site.bounds()["audit_events_2027_04"] == "FOR VALUES FROM ('2027-03-20 12:00:00+00') TO ('2027-05-01 00:00:00+00')"
    for moment in ("2027-03-20 11:59Z", "2027-03-20 12:00Z", "2027-04-30 23:00Z", "2027-06-15 00:00Z"):
        site.insert(moment)
    assert "coverage_gap" not in [item[0] for item in told(look(run, site))]


def test_a_name_that_is_taken(site: Site, run: Run) -> None:
    for taken in ("VIEW %s AS SELECT 1", "TYPE %s AS ENUM ('a')"):
        site.clean()
        site.script("DROP TABLE audit.audit_events_2027_03; CREATE " + taken % "audit.audit_events_2027_03")
        found = look(run, site)
        assert told(found) == [("coverage_gap", "audit.audit_events"), ("name_taken", "audit.audit_events_2027_03")]
        refused(run, site, "audit.audit_events_2027_03", "name_taken")
    site.script("DROP TYPE audit.audit_events_2027_03")
    put_right(run, site)


def test_sub_partitions_foreign_partitions_and_sizes(site: Site, run: Run) -> None:
    site.script(
        "CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER IF NOT EXISTS files FOREIGN DATA WRAPPER file_fdw;"
        "ALTER TABLE audit.audit_events DROP CONSTRAINT audit_events_pkey;"
        "CREATE TABLE audit.audit_events_2028_01 PARTITION OF audit.audit_events FOR VALUES FROM ('2028-01-01 00:00Z') TO ('2028-02-01 00:00Z')"
        " PARTITION BY RANGE (event_time);"
        "CREATE TABLE audit.sub PARTITION OF audit.audit_events_2028_01 FOR VALUES FROM ('2028-01-01 00:00Z') TO ('2028-02-01 00:00Z');"
        "CREATE FOREIGN TABLE audit.audit_events_2024_12 PARTITION OF audit.audit_events"
        " FOR VALUES FROM ('2024-12-01 00:00Z') TO ('2025-01-01 00:00Z') SERVER files OPTIONS (filename '/dev/null');"
        "GRANT INSERT ON audit.audit_events_2024_12 TO audit_writer_login;"
        "COMMENT ON TABLE audit.audit_events IS 'x';"
        "GRANT INSERT ON audit.audit_events_2028_01 TO audit_writer_login;"
        "INSERT INTO audit.audit_events (event_time, event_type, outcome, method, path, status, duration_ms, replica)"
        " SELECT '2026-10-15 00:00Z', 'OPERATION', 'ACCEPTED', 'POST', string_agg(md5(random()::text), ''), 200, 1, 'x'"
        " FROM generate_series(1, 200) g, generate_series(1, 400) h GROUP BY g"
    )
    found = look(run, site, max_size="1MB")
    assert {("sub_partitions", "audit.audit_events_2028_01"), ("foreign_partition", "audit.audit_events_2024_12")} <= set(told(found, "info"))
    assert ("partition_oversized", "audit.audit_events_2026_10") in told(found)
    assert told(look(run, site, max_size=0), "warning") == [("comment_differs", "audit.audit_events")]
    sizes = {item["name"]: item["bytes"] for item in found["tables"][0]["partitions"]}
    # With TOAST, where nearly all of it is.
    assert sizes["audit_events_2026_10"] == int(site.sql("SELECT pg_total_relation_size('audit.audit_events_2026_10')")) > 2000000
    assert sizes["audit_events_2028_01"] == int(site.sql("SELECT pg_total_relation_size('audit.sub')"))
    put_right(run, site)
    assert site.sql("SELECT obj_description('audit.audit_events_2024_12'::regclass)") == "x"
    site.insert("2028-01-15 00:00Z")
    site.script("DROP TABLE audit.sub")
    assert ("sub_partitions", "audit.audit_events_2028_01") in told(look(run, site), "error")


def test_case_86_the_months_that_were_made_in_advance_run_out(site: Site, run: Run) -> None:
    """The roadmap's own job would first do something on 2027-12-20, with eleven days left."""
    times = (("2027-07-01T00:00:00Z", "warning"), ("2027-11-16T23:00:00Z", "warning"))
    for now, severity in (*times, ("2027-12-20T00:00:00Z", "error"), ("2028-01-01T00:00:00Z", "error")):
        found = look(run, site, now=now)
        assert told(found, severity) == [("horizon_short", "audit.audit_events"), ("horizon_short", "audit.fhir_rejected_submissions")]
        assert "audit_partition creates" in hints(found, "horizon_short")
    assert found["days_left"] == 0
    assert "are refused" in str(found["findings"])
    done = put_right(run, site, now="2027-12-20T00:00:00Z")
    assert steps(done)[:6] == [("create", "audit_events_2028_%02d" % month) for month in range(1, 7)]
    assert len(done["plan"]) == 12
    assert told(look(run, site, now="2027-12-20T00:00:00Z")) == []
    site.insert("2028-02-29 12:00Z")


def test_case_67_the_month_after_the_31st(site: Site, run: Run) -> None:
    """`date -d +1 month` on the last days of January says March."""
    site.script("CREATE SCHEMA test; CREATE TABLE test.t (at timestamptz NOT NULL) PARTITION BY RANGE (at)")
    args = {"schema": "test", "tables": ["t"], "months_ahead": 1, "maintenance_function": "", "alarm_days": 0}
    for day in ("2026-01-29", "2026-01-30", "2026-01-31", "2026-03-31", "2026-08-31", "2028-02-29", "2026-12-31"):
        year, month = int(day[:4]), int(day[5:7])
        later = (year + month // 12, month % 12 + 1)
        for clock in ("00:00:00Z", "23:59:59.999999Z"):
            done = run(audit_partition, True, **site.args(now=f"{day}T{clock}", **args))
            assert steps(done) == [("create", "t_%04d_%02d" % (year, month)), ("create", "t_%04d_%02d" % later)]
    put_right(run, site, now="2026-01-31T12:00:00Z", **args)
    assert list(site.bounds("test.t")) == ["t_2026_01", "t_2026_02"]


def test_case_90_never_on_the_edge_of_a_month(site: Site, run: Run) -> None:
    """A run at the first moment of a month finds it made, because each run makes it long before."""
    now = datetime(2027, 12, 1, tzinfo=timezone.utc)
    put_right(run, site, now=now.isoformat(), months_ahead=1)
    edge = datetime(2028, 1, 1, tzinfo=timezone.utc)
    for moment in (edge - timedelta(microseconds=1), edge, edge + timedelta(seconds=1)):
        found = look(run, site, now=moment.isoformat(), months_ahead=1, alarm_days=20)
        assert "coverage_gap" not in [item[0] for item in told(found)]
        assert found["days_left"] > 30
    site.insert("2028-01-01 00:00Z")


def test_case_145_children_are_judged_for_vacuum(site: Site, run: Run) -> None:
    """The table above them has no rows, and no vacuum ever comes there."""
    site.script(
        "INSERT INTO audit.audit_events (event_time, event_type, outcome, method, path, status, duration_ms, replica)"
        " SELECT '2026-10-15 00:00Z', 'OPERATION', 'ACCEPTED', 'POST', '/', 200, 1, 'x' FROM generate_series(1, 100001)"
    )
    query = "SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'audit_events_2026_10'"
    site.until("the counters", lambda: int(site.sql(query)) > 100000)
    found = look(run, site)
    assert told(found) == [("never_vacuumed", "audit.audit_events_2026_10")]
    assert "VACUUM" in hints(found, "never_vacuumed")
    site.sql("VACUUM (ANALYZE) audit.audit_events")
    assert told(look(run, site)) == []


@pytest.mark.parametrize(("kind", "first"), [("timestamp", "2026-11-01 00:00:00"), ("date", "2026-11-01")])
def test_keys_without_a_zone(site: Site, run: Run, kind: str, first: str) -> None:
    """Their months are those of the clock on the wall; the zone only says which month it is: in Dhaka, December has begun."""
    site.script(f"CREATE SCHEMA test; CREATE TABLE test.t (at {kind} NOT NULL) PARTITION BY RANGE (at)")
    site.script("CREATE TABLE test.t_default PARTITION OF test.t DEFAULT")
    site.script(f"INSERT INTO test.t VALUES ('{first}'), ('2027-02-28'), (DATE '2027-02-28' + 1)")
    args = {"schema": "test", "tables": ["t"], "time_zone": "Asia/Dhaka", "months_ahead": 1, "maintenance_function": "", "alarm_days": 10}
    done = put_right(run, site, now="2026-11-30T20:00:00Z", **args)
    assert ("move_default_rows", "t_2026_12") in steps(done)
    assert site.bounds("test.t")["t_2026_11"].startswith(f"FOR VALUES FROM ('{first}') TO ('2026-12-01")
    assert sorted(site.bounds("test.t")) == ["t_2026_11", "t_2026_12", "t_2027_01", "t_2027_02", "t_2027_03", "t_default"]
    assert (done["rows_moved"], site.sql("SELECT count(*) FROM ONLY test.t_default")) == (3, "0")
    assert told(look(run, site, now="2026-11-30T20:00:00Z", **args)) == []


def test_bounds_that_no_calendar_of_ours_has(site: Site, run: Run) -> None:
    """All months that PostgreSQL can hold are read; those beyond the years 1 to 9999 are left alone."""
    site.script(
        "CREATE TABLE audit.far PARTITION OF audit.audit_events FOR VALUES FROM ('294276-01-01 00:00Z') TO ('294276-12-01 00:00Z');"
        "CREATE TABLE audit.old PARTITION OF audit.audit_events FOR VALUES FROM ('-infinity') TO ('4000-01-01 00:00Z BC');"
        "CREATE TABLE audit.first PARTITION OF audit.audit_events FOR VALUES FROM (MINVALUE) TO ('-infinity');"
        "CREATE TABLE audit.last PARTITION OF audit.audit_events FOR VALUES FROM ('infinity') TO (MAXVALUE);"
        "CREATE TABLE audit.long_ago PARTITION OF audit.audit_events FOR VALUES FROM ('4000-01-01 00:00Z BC') TO ('2025-01-01 00:00Z');"
        "DROP TABLE audit.audit_events_2027_03;" + LIKE_THE_PARENT
    )
    found = look(run, site)
    assert told(found) == [("coverage_gap", "audit.audit_events")]
    assert len(found["tables"][0]["partitions"]) == 40
    assert steps(put_right(run, site)) == [("create", "audit_events_2027_03")]
    assert told(look(run, site)) == []


def test_a_detached_month_whose_later_rows_lie_in_the_default_partition(site: Site, run: Run) -> None:
    """It comes back, and takes them in."""
    site.insert("2026-12-01 00:00Z")
    site.script("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2026_12;" + DEFAULT)
    site.insert("2026-12-31 23:00Z")
    done = put_right(run, site)
    assert (steps(done), done["rows_moved"]) == ([("move_default_rows", "audit_events_2026_12")], 1)
    assert site.sql("SELECT count(*) FROM audit.audit_events_2026_12") == "2"
    assert told(look(run, site)) == []


def test_one_query_a_table(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of partitions it has. 10,000 are in tests/bench/coverage.py."""
    site.script("CREATE TABLE audit.few (at timestamptz) PARTITION BY RANGE (at)")
    asked: list[int] = []
    login = Login(site.address("postgres"), 5432, "postgres", SECRETS[0], "fhirdb")
    with connect(login) as session:
        plain = session.rows
        monkeypatch.setattr(session, "rows", lambda *args: asked.append(1) or plain(*args))
        for table in ("audit_events", "few"):
            asked.clear()
            catalog.read_parent(session, "audit", table)
            assert len(asked) == 1


# --- the site's own function ---------------------------------------------------------------------------------------

WRONG_FUNCTION = """
DROP FUNCTION audit.create_next_month_partitions();
CREATE FUNCTION audit.create_next_month_partitions() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE month date := date_trunc('month', now() + interval '1 month');
BEGIN
  EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit.audit_events FOR VALUES FROM (%L) TO (%L)',
    'audit_events_' || to_char(month, 'YYYY_MM'), month, month + interval '1 month');
  RETURN 1;
END $$;
ALTER FUNCTION audit.create_next_month_partitions() OWNER TO looker;
GRANT EXECUTE ON FUNCTION audit.create_next_month_partitions() TO audit_maintainer_login WITH GRANT OPTION;
REVOKE ALL ON FUNCTION audit.create_next_month_partitions() FROM PUBLIC;
"""


def test_the_sites_own_function(site: Site, run: Run) -> None:
    """It is left alone unless asked; the new one works for whoever could call the old one, in a session of any zone."""
    assert "function" not in str(told(look(run, site), "info", "warning", "error"))
    site.script(WRONG_FUNCTION)
    found = look(run, site)
    assert {item[0] for item in told(found)} == {"function_not_idempotent", "function_not_owner", "function_zone", "function_search_path"}
    kept = run(audit_partition, **site.args())
    assert (kept["rc"], kept["changed"]) == (0, False)
    done = put_right(run, site, replace_function=True)
    assert steps(done) == [("replace_function", "create_next_month_partitions")]
    assert told(look(run, site)) == []
    query = "SELECT proowner::regrole, proacl, prorettype::regtype FROM pg_proc WHERE proname = 'create_next_month_partitions'"
    assert site.sql(query) == "postgres|{postgres=X/postgres,audit_maintainer_login=X*/postgres}|void"
    call = "SET timezone = 'Asia/Dhaka'; SET ROLE audit_maintainer_login; SELECT audit.create_next_month_partitions()"
    month = site.sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    site.script(f"DROP TABLE IF EXISTS audit.audit_events_{month}; {call}; {call}")
    assert f"audit_events_{month}" in site.bounds()
    assert told(look(run, site)) in ([], [("grants_differ", "audit.audit_events")], [("grants_differ", f"audit.audit_events_{month}")])
    # Gone, it is made where that is wanted; without it everything works the same.
    site.script("DROP FUNCTION audit.create_next_month_partitions(); DROP TABLE audit.audit_events_2027_03")
    found = look(run, site)
    assert ("function_missing", "audit.create_next_month_partitions") in told(found, "info")
    put_right(run, site)
    assert ("replace_function", "create_next_month_partitions") in steps(put_right(run, site, replace_function=True))
    with pytest.raises(AssertionError, match="permission denied"):
        site.script("GRANT USAGE ON SCHEMA audit TO looker; SET ROLE looker; SELECT audit.create_next_month_partitions()")


# --- others at work ------------------------------------------------------------------------------------------------


def test_a_lock_of_somebody_else(site: Site, run: Run) -> None:
    """It waits for a little at a time, says who is in the way, and does the other table; when the lock is gone it is done."""
    site.script("DROP TABLE audit.audit_events_2027_03, audit.fhir_rejected_submissions_2027_03")
    with contextlib.closing(site.connection("postgres", "postgres", application_name="a long migration")) as other:
        other.autocommit = False
        other.cursor().execute("LOCK TABLE audit.audit_events IN SHARE MODE")
        found = run(audit_partition, **site.args(lock_timeout_seconds=0.2, lock_tries=2))
        assert found["rc"] == 1
        assert "a long migration" in found["msg"]
        assert "audit.audit_events" in found["msg"]
        assert steps(found) == [("create", "fhir_rejected_submissions_2027_03")]
        timer = threading.Timer(1, other.rollback)
        timer.start()
        done = run(audit_partition, **site.args(lock_timeout_seconds=0.3, lock_tries=20))
        timer.join()
    assert done["rc"] == 0, done["msg"]
    assert steps(done) == [("create", "audit_events_2027_03")]


def test_a_check_that_can_not_look_does_not_say_that_all_is_well(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody rebuilds a partition. The other table is judged."""
    monkeypatch.setattr(audit_partition_info, "LOCK_TIMEOUT", 1)
    with contextlib.closing(site.connection("postgres", "postgres")) as other:
        other.autocommit = False
        other.cursor().execute("LOCK TABLE audit.audit_events_2026_05 IN ACCESS EXCLUSIVE MODE")
        found = run(audit_partition_info, **site.args())
        assert told(found) == [("table_unreadable", "audit.audit_events")]
        assert "Somebody holds a lock" in str(found["findings"])
        assert found["days_left"] == 0
        assert [item["readable"] for item in found["tables"]] == [False, True]
        assert run(audit_partition_info, **site.args(fail_on=["error"]))["rc"] == 1
    assert told(look(run, site)) == []


def test_two_at_once(site: Site, run: Run) -> None:
    """The play and the job on the host at the same moment, and the site's own function between them: all end well."""
    site.script("DO $$ BEGIN FOR n IN 1..12 LOOP EXECUTE format('DROP TABLE audit.audit_events_2027_%s', lpad(n::text, 2, '0')); END LOOP; END $$")
    login = Login(site.address("postgres"), 5432, "postgres", SECRETS[0], "fhirdb")
    errors: list[str] = []

    def job() -> None:
        with connect(login) as session:
            server = catalog.read_server(session)
            for _round in range(3):
                now = datetime(2026, 11, 26, tzinfo=timezone.utc)
                report = catalog.look(session, server, "audit", "audit_events", Settings(months_ahead=12), now)
                for step in report.plan:
                    try:
                        catalog.apply(session, step)
                    except Exception as exc:
                        if "already exists" not in str(exc) and "would overlap" not in str(exc):
                            errors.append(str(exc))
                        break

    threads = [threading.Thread(target=job) for _number in range(2)]
    for thread in threads:
        thread.start()
    found = run(audit_partition, **site.args(months_ahead=12))
    for thread in threads:
        thread.join()
    assert errors == []
    assert found["rc"] == 0, found["msg"]
    assert told(look(run, site, months_ahead=12)) == []


# --- figures -------------------------------------------------------------------------------------------------------


def test_rejection_rates(site: Site, run: Run) -> None:
    """Few events are no sample, and events without a client are told as unknown."""
    known = (("'good'", "ACCEPTED", 30), ("'bad'", "ACCEPTED", 20), ("'bad'", "REJECTED", 10), ("'new'", "REJECTED", 3))
    for client, outcome, count in (*known, ("NULL", "REJECTED", 25)):
        site.script(
            "INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)"
            f" SELECT now() - interval '1 hour', 'OPERATION', '{outcome}', {client}, 'POST', '/', 200, 1, 'x' FROM generate_series(1, {count})"
        )
    assert look(run, site)["rejection_rates"] == []
    found = look(run, site, rejection_days=7)
    assert found["rejection_rates"] == [
        {"client_id": None, "client": "unknown", "events": 25, "rejected": 25, "percent": 100.0, "enough": True},
        {"client_id": "bad", "client": "bad", "events": 30, "rejected": 10, "percent": 33.3, "enough": True},
        {"client_id": "good", "client": "good", "events": 30, "rejected": 0, "percent": 0.0, "enough": True},
        {"client_id": "new", "client": "new", "events": 3, "rejected": 3, "percent": 100.0, "enough": False},
    ]
    assert told(found) == [("rejection_rate_high", f"audit.audit_events, client {name}") for name in ("unknown", "bad")]
    looker = {"login_user": "looker", "login_password_variable": "FHIR_DB_APP_PASSWORD", "rejection_days": 7}
    assert told(look(run, site, **looker)) == [("rejections_unreadable", "audit.audit_events")]
    assert told(look(run, site, rejection_days=7, rejection_table="nowhere")) == [("rejections_unreadable", "audit.nowhere")]


def test_rejections_that_take_too_long_to_count(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint names what helps, and that is so: with the index no month is read whole."""
    site.script("CREATE VIEW audit.slow AS SELECT e.event_time, e.client_id, e.outcome FROM audit.audit_events e, pg_sleep(60)")
    monkeypatch.setattr(audit_partition_info, "connect", lambda login: connect(login, 1))
    found = look(run, site, rejection_days=7, rejection_table="slow")
    assert told(found) == [("rejections_unreadable", "audit.slow")]
    assert "An index ON (event_time) INCLUDE (client_id, outcome)" in hints(found, "rejections_unreadable")
    site.script(
        "INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)"
        " SELECT now() - n * interval '1 minute', 'OPERATION', 'ACCEPTED', 'v', 'POST', '/', 200, 1, 'x' FROM generate_series(1, 40000) n"
    )
    query = catalog.REJECTIONS.format("audit.audit_events", "event_time").replace("%s", "7")
    before = site.script(f"ANALYZE audit.audit_events; EXPLAIN {query}")
    site.script("CREATE INDEX ON audit.audit_events (event_time) INCLUDE (client_id, outcome)")
    site.script("VACUUM ANALYZE audit.audit_events")
    after = site.script(f"EXPLAIN {query}")
    assert "Seq Scan" in before
    assert "Index Only Scan" in after


# --- bad input -----------------------------------------------------------------------------------------------------

BAD_TABLES = {
    "nowhere": ("", "no such table"),
    "plain": ("CREATE TABLE audit.plain (at timestamptz)", "a table without partitions"),
    "seen": ("CREATE VIEW audit.seen AS SELECT 1", "a table without partitions"),
    "listed": ("CREATE TABLE audit.listed (at timestamptz) PARTITION BY LIST (at)", "partitioned by list"),
    "hashed": ("CREATE TABLE audit.hashed (at timestamptz) PARTITION BY HASH (at)", "partitioned by hash"),
    "numbered": ("CREATE TABLE audit.numbered (id bigint) PARTITION BY RANGE (id)", "the key id of type bigint"),
    "computed": ("CREATE TABLE audit.computed (at timestamptz) PARTITION BY RANGE ((at AT TIME ZONE 'UTC'))", "an expression"),
    "several": ("CREATE TABLE audit.several (at timestamptz, id int) PARTITION BY RANGE (at, id)", "the keys at, id"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_is_none(site: Site, run: Run, name: str) -> None:
    """It is named, left alone, and does not stop the others."""
    statement, words = BAD_TABLES[name]
    site.script(statement + "; DROP TABLE audit.audit_events_2027_03")
    if name == "computed":
        site.script("CREATE TABLE audit.computed_1 PARTITION OF audit.computed DEFAULT")
    found = look(run, site, tables=[name, "audit_events"])
    assert found["days_left"] == 0
    assert (f"audit.{name}" in str(told(found, "error")), found["tables"][0]["days_left"]) == (True, 0)
    assert words in str(found["findings"])
    refused(run, site, f"audit.{name}", words, tables=[name])
    done = run(audit_partition, **site.args(tables=[name, "audit_events"]))
    assert (done["rc"], done["changed"]) == (1, True)
    assert f"audit.{name}" in done["msg"]
    assert steps(done) == [("create", "audit_events_2027_03")]


def test_settings_that_can_not_be(site: Site, run: Run) -> None:
    for words, more in (
        ("months_ahead is 0", {"months_ahead": 0}),
        ("months_ahead is 10000", {"months_ahead": 10000}),
        ("Asia/Dacca-Town", {"time_zone": "Asia/Dacca-Town"}),
        ("alarm_days", {"alarm_days": -1}),
        ("now is", {"now": "2027-12-20"}),
        ("tables", {"tables": []}),
        ("twice", {"tables": ["audit_events", "audit_events"]}),
        ("postgres", {"service": "nowhere"}),
        ("NO_SUCH_VARIABLE", {"login_password_variable": "NO_SUCH_VARIABLE"}),
        ("password", {"login_password_variable": "WRONG_PASSWORD"}),
        ("nodb", {"database": "nodb"}),
    ):
        refused(run, site, words, **more)
        refused(run, site, words, module=audit_partition_info, **more)
    refused(run, site, "lock_tries", lock_tries=0)
    refused(run, site, "lock_timeout_seconds", lock_timeout_seconds=0)
    refused(run, site, "max_size", module=audit_partition_info, max_size=-1)
    refused(run, site, "rejection_percent", module=audit_partition_info, rejection_percent=101)


def test_no_right_to_create(site: Site, run: Run) -> None:
    site.script("DROP TABLE audit.audit_events_2027_03")
    args = {"login_user": "looker", "login_password_variable": "FHIR_DB_APP_PASSWORD"}
    # It can see what is wrong all the same.
    assert told(look(run, site, **args)) == [("coverage_gap", "audit.audit_events")]
    refused(run, site, "The user looker may not change audit.audit_events", "postgres", **args)
    site.script("ALTER TABLE audit.audit_events OWNER TO looker")
    refused(run, site, "may not use the schema audit", **args)
    site.script("GRANT USAGE ON SCHEMA audit TO looker")
    refused(run, site, "may not create tables in the schema audit", **args)
    site.script("GRANT CREATE ON SCHEMA audit TO looker")
    refused(run, site, "belongs to the role postgres", **args)
    done = run(audit_partition, **site.args(repair=False, **args))
    assert done["rc"] == 0, done["msg"]
    assert steps(done) == [("create", "audit_events_2027_03")]


def test_a_server_that_is_away_and_one_that_follows(tmp_path: Path, run: Run) -> None:
    """A check that could not look never says that all is well, and a standby is told apart."""
    site = Site(tmp_path / "site", "prs")
    try:
        site.start(pooler="", standby=True)
        site.script(SCHEMA + LIKE_THE_PARENT)
        site.script("DROP TABLE audit.audit_events_2027_03")
        site.until("the standby", lambda: site.sql("SELECT count(*) FROM pg_class WHERE relname ~ '^audit_events_20.._..$'", "standby") == "35")
        found = run(audit_partition_info, **site.args(service="standby"))
        assert told(found) == [("coverage_gap", "audit.audit_events"), ("server_is_standby", "standby")]
        refused(run, site, "standby", "Nothing was changed", service="standby")
        docker("pause", site.container("postgres"))
        for module in (audit_partition, audit_partition_info):
            found = run(module, **site.args(connect_timeout=2))
            assert found["rc"] == 1
            assert "postgres" in found["msg"]
        docker("unpause", site.container("postgres"))
        docker("stop", "-t", "0", site.container("postgres"))
        for module in (audit_partition, audit_partition_info):
            found = run(module, **site.args())
            assert found["rc"] == 1
            assert "no running container" in found["msg"]
            assert "findings" not in found or not found["findings"]
    finally:
        site.remove()


# --- later versions ------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_case_81_the_newest_server_that_the_mirror_has(tmp_path: Path, run: Run) -> None:
    """PostgreSQL 17: the right MAINTAIN, and an identity column that partitions share. Every kind of damage that is put right."""
    reference = "bd-fhir-lab/postgres-new:dev"
    docker("build", "-q", "-t", reference, "--build-arg", "BASE_IMAGE=" + image("postgres"), str(IMAGES / "postgres-new"))
    site = Site(tmp_path / "site", "prn")
    site.write("docker-compose.override.yml", f"services: {{postgres: {{image: '{reference}'}}}}\n")
    try:
        site.start(pooler="", postgres_args="-c max_locks_per_transaction=1024")
        site.script("CREATE ROLE keeper LOGIN PASSWORD '%s'; CREATE ROLE looker LOGIN PASSWORD '%s'" % (APP_PASSWORD, APP_PASSWORD))
        site.clean()
        assert look(run, site)["server"]["version"] >= 170000
        site.script("GRANT USAGE ON SCHEMA audit TO keeper; GRANT MAINTAIN, SELECT ON audit.audit_events TO keeper")
        site.script("DROP TABLE audit.audit_events_2027_03")
        found = look(run, site)
        assert set(told(found)) == {("coverage_gap", "audit.audit_events"), ("grants_differ", "audit.audit_events")}
        put_right(run, site)
        assert site.sql(f"SELECT count(DISTINCT relacl::text) FROM pg_class WHERE relname ~ '{EVENTS}'") == "1"
        site.script("SET ROLE keeper; ANALYZE audit.audit_events_2027_03")
        assert told(look(run, site)) == []
        test_a_new_partition_is_as_partition_of_makes_it(cleaned(site), run)
        test_case_68_a_detached_table_keeps_the_name(cleaned(site), run)
        test_case_70_a_detach_that_was_broken_off(cleaned(site), run)
        test_case_74_rows_in_the_default_partition(cleaned(site), run)
        test_case_80_by_a_member_of_the_owning_role(cleaned(site), run)
        test_grants_replica_identity_and_comments(cleaned(site), run)
        test_the_sites_own_function(cleaned(site), run)
    finally:
        site.remove()


def cleaned(site: Site) -> Site:
    site.clean()
    return site
