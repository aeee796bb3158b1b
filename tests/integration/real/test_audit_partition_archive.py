# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""audit_partition_archive against a real PostgreSQL with the lab's audit schema: no row is ever nowhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup, _change, _partition_archive
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition_archive, audit_partition_info
from ansible_collections.dghs.bd_fhir.tests.integration.real import test_audit_partition as upkeep
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import IMAGES, SECRETS, image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker

pytestmark = pytest.mark.engine

Run = Callable[..., dict[str, Any]]
# When the tests play. The clock of the server is never before it.
NOW = "2026-06-15T03:00:00Z"
# With it, only January 2025 is old.
AGE = 16
EVENTS, REJECTED = "audit_events_2025_01", "fhir_rejected_submissions_2025_01"

ROWS = """
INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, request_id, method, path, status, duration_ms, replica)
SELECT '2025-01-01 00:00Z'::timestamptz + n * interval '3 hours', 'OPERATION', 'ACCEPTED', CASE WHEN n % 7 > 0 THEN 'হাসপাতাল-' || n % 5 END,
       'a' || chr(9) || 'b\\c"' || n, 'POST', '/fhir/Patient?name=' || repeat('x', n % 50), 201, n, 'hapi-1' FROM generate_series(0, 700) n;
INSERT INTO audit.fhir_rejected_submissions (event_time, method, path, status, replica)
SELECT '2025-01-05 00:00Z'::timestamptz + n * interval '1 hour', 'POST', '/', 422, 'x' FROM generate_series(1, 50) n;
"""
# Most of these partitions only make each copy slower.
FEWER = """
DO $$ DECLARE part regclass; BEGIN
  FOR part IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'audit'::regnamespace AND relkind = 'r' AND relname !~ '_2025_0[1-4]$'
  LOOP EXECUTE format('DROP TABLE %s', part); END LOOP;
END $$;
"""


class Site(upkeep.Site):
    @property
    def archives(self) -> Path:
        return self.dir / "archive"

    def args(self, **more: Any) -> dict[str, Any]:
        found = {"now": NOW, "directory": str(self.archives), "lock_dir": str(self.dir / "lock"), "maintenance_function": ""}
        return super().args(**{**found, **more})

    def look(self, run: Run) -> list[tuple[str, str]]:
        """What the check says is wrong."""
        found = run(audit_partition_info, **super().args(now=NOW, months_ahead=1, alarm_days=0))
        return upkeep.told(found)

    def content(self, table: str = "audit.audit_events", where: str = "event_time < '2025-02-01 00:00Z'") -> str:
        """Number and checksum of the rows that a query of the table sees, by another sum than the module's."""
        query = f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\")) FROM {table} t WHERE {where}"
        return self.script("SET timezone = 'UTC'; " + query)

    def left(self) -> list[str]:
        """What the engine still has of ours."""
        return docker("ps", "-aq", "--filter", f"label={_backup.LABEL}={self.name}").split()

    def exists(self, table: str = EVENTS) -> bool:
        return self.script(f"SELECT to_regclass('audit.{table}') IS NOT NULL") == "t"

    def attached(self, table: str = EVENTS) -> bool:
        return self.exists(table) and self.script(f"SELECT relispartition FROM pg_class WHERE oid = 'audit.{table}'::regclass") == "t"

    def names(self) -> list[str]:
        return sorted(os.listdir(self.archives)) if self.archives.exists() else []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("archive") / "site", "pra")
    try:
        site.start(pooler="", postgres_args="-c max_locks_per_transaction=1024 -c autovacuum=off")
        yield site
    finally:
        site.remove()


@pytest.fixture
def full_site(made: Site) -> Iterator[Site]:
    """The shared server with the lab's audit schema, rows in its first three months, and no archive."""
    made.clean()
    made.script(ROWS)
    shutil.rmtree(made.archives, ignore_errors=True)
    yield made
    assert made.left() == []


@pytest.fixture
def site(full_site: Site) -> Site:
    """The same with four months only, which is quicker."""
    full_site.script(FEWER)
    return full_site


def done(run: Run, site: Site, **more: Any) -> dict[str, Any]:
    found = run(audit_partition_archive, **site.args(**more))
    assert found["rc"] == 0, found["msg"]
    assert not any(secret in json.dumps(found) for secret in SECRETS)
    return found


def put_right(run: Run, site: Site, **more: Any) -> dict[str, Any]:
    """Dry run, real run, again in both ways; the dry run predicts all of it, and has changed nothing."""
    before, names = site.shape(), site.names()
    predicted = run(audit_partition_archive, True, **site.args(**more))
    assert predicted["rc"] == 0, predicted["msg"]
    assert (site.shape(), site.names()) == (before, names)
    found = done(run, site, **more)
    assert predicted["plan"] == found["plan"]
    assert predicted["changed"]
    assert found["changed"]
    assert predicted["diff"] == found["diff"]
    after, names = site.shape(), site.names()
    for check in (True, False):
        again = run(audit_partition_archive, check, **site.args(**more))
        assert again["rc"] == 0, again["msg"]
        assert (again["changed"], again["plan"]) == (False, [])
    assert (site.shape(), site.names()) == (after, names)
    return found


def refused(run: Run, site: Site, *words: str, checks: tuple[bool, ...] = (True, False), **more: Any) -> dict[str, Any]:
    """It fails, in a dry run as well, says why, and has changed nothing."""
    before, names = site.shape(), site.names()
    for check in checks:
        found = run(audit_partition_archive, check, **site.args(**more))
        assert found["rc"] != 0, found
        assert not found["changed"], found
        for word in words:
            assert word in found["msg"], found["msg"]
        assert not any(secret in json.dumps(found) for secret in SECRETS)
    assert (site.shape(), site.names()) == (before, names)
    return found


def steps(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["action"], item["partition"]) for item in found["plan"]]


def ids(found: dict[str, Any], *but: str) -> list[str]:
    return [item["id"] for item in found["findings"] if item["id"] not in ("backup_same_disk", *but)]


# --- the whole way -------------------------------------------------------------------------------------------------


def restored_by_hand(path: str, query: str) -> str:
    """Restore an archive where nothing else is, as docs/audit-partitions.md says, and ask."""
    name = f"{Path(path).parents[1].name}-byhand-{os.getpid()}"
    docker("run", "-d", "--rm", "--name", name, "--network", "none", "-e", "POSTGRES_HOST_AUTH_METHOD=trust",
           "-v", f"{path}:/archive:ro", image("postgres"), "postgres", "-c", "fsync=off")  # fmt: skip
    try:
        for _attempt in range(300):
            ready = docker("exec", name, "pg_isready", check=False).strip().endswith("accepting connections")
            if ready and "init process complete" in docker("logs", name):
                break
            time.sleep(0.2)
        docker("exec", name, "psql", "-XqU", "postgres", "-f", "/archive/roles.sql")
        docker("exec", name, "pg_restore", "-e", "-C", "-U", "postgres", "-d", "postgres", "/archive/dump")
        docker("exec", name, "pg_restore", "-e", "-U", "postgres", "-d", "fhirdb", "/archive/data")
        return docker("exec", name, "psql", "-XAtqU", "postgres", "-d", "fhirdb", "-c", "SET timezone = 'UTC'", "-c", query).strip()
    finally:
        docker("rm", "-f", "-v", name)


def test_case_85_archived_dropped_and_back(full_site: Site, run: Run) -> None:
    """With the lab's whole schema. Attached, rows visible, checksums equal."""
    site = full_site
    before = site.content()
    rejected = site.content("audit.fhir_rejected_submissions")
    found = put_right(run, site, state="archived", older_than_months=AGE)
    assert steps(found) == [("archive", EVENTS), ("archive", REJECTED)]
    assert [item["rows"] for item in found["archives"]] == [248, 50]
    assert ids(found) == []
    for item in found["archives"]:
        path = Path(item["path"])
        assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=path, check=False).returncode == 0
        for each in [path, *path.rglob("*")]:
            assert each.stat().st_mode & 0o777 == (0o700 if each.is_dir() else 0o600)
        assert {each.name for each in path.iterdir()} == {"SHA256SUMS", "manifest.json", "roles.sql", "dump", "data"}
        # The names of the roles, and nothing to log in with.
        roles = (path / "roles.sql").read_text()
        assert "CREATE ROLE audit_writer_login" in roles
        assert "PASSWORD" not in roles
        manifest = json.loads((path / "manifest.json").read_text())
        assert (manifest["rows"], manifest["sum"]) == (item["rows"], item["sum"])
    assert (site.content(), site.attached()) == (before, True)
    first = found["archives"][0]
    query = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\")) FROM audit.audit_events t"
    assert restored_by_hand(first["path"], query) == before

    found = put_right(run, site, state="dropped", older_than_months=AGE)
    assert steps(found) == [("detach", EVENTS), ("drop", EVENTS), ("detach", REJECTED), ("drop", REJECTED)]
    assert [item["made"] for item in found["archives"]] == [False, False]
    assert not site.exists()
    assert not site.exists(REJECTED)
    assert site.content().startswith("0|")
    assert "audit_events_2025_01" not in site.bounds()
    assert site.look(run) == []
    # By its name it is dropped already, and its archive is told.
    named = done(run, site, state="dropped", partition=EVENTS)
    assert (named["changed"], named["archives"][0]["archive_id"]) == (False, first["archive_id"])

    found = put_right(run, site, state="attached", partition=EVENTS)
    assert steps(found) == [("create", EVENTS), ("restore", EVENTS)]
    assert site.content() == before
    assert site.bounds()[EVENTS] == "FOR VALUES FROM ('2025-01-01 00:00:00+00') TO ('2025-02-01 00:00:00+00')"
    assert site.look(run) == []
    site.insert("2025-01-31 12:00Z")
    site.script("DELETE FROM audit.audit_events WHERE replica = 'hapi-1' AND duration_ms = 5 AND event_time = '2025-01-31 12:00Z'")
    back = put_right(run, site, state="attached", archive_id=[name for name in site.names() if REJECTED in name][0])
    assert steps(back) == [("create", REJECTED), ("restore", REJECTED)]
    assert site.content("audit.fhir_rejected_submissions") == rejected

    # It goes again with the archive that is there.
    found = put_right(run, site, state="dropped", older_than_months=AGE)
    assert [item["made"] for item in found["archives"]] == [False, False]
    assert len(site.names()) == 2


@pytest.mark.full
def test_case_85_months_between_are_closed(site: Site, run: Run) -> None:
    """The oldest month comes back without the two after it: no hole is left in which an insert would fail."""
    before = site.content()
    found = put_right(run, site, state="dropped", older_than_months=14)
    assert [name for action, name in steps(found) if action == "drop"] == [
        EVENTS, "audit_events_2025_02", "audit_events_2025_03", REJECTED, "fhir_rejected_submissions_2025_02", "fhir_rejected_submissions_2025_03",
    ]  # fmt: skip
    # Those of the other table had no rows, and so no archive.
    assert len(found["archives"]) == 4
    found = put_right(run, site, state="attached", partition=EVENTS)
    assert steps(found) == [("create", EVENTS), ("restore", EVENTS), ("create", "audit_events_2025_02"), ("create", "audit_events_2025_03")]
    assert site.content() == before
    assert sorted(site.bounds()) == [EVENTS, "audit_events_2025_02", "audit_events_2025_03", "audit_events_2025_04"]
    # Into an empty partition that has the name.
    found = put_right(run, site, state="attached", partition="audit_events_2025_02")
    assert steps(found) == [("restore", "audit_events_2025_02")]
    # Rows that have come since are never mixed with those of the archive.
    site.insert("2025-03-10 12:00Z")
    words = ("holds other rows than its archive", "1 rows in the table, 229 in the archive")
    refused(run, site, *words, state="attached", partition="audit_events_2025_03")


@pytest.mark.full
def test_case_85_what_has_changed_since(site: Site, run: Run) -> None:
    """Columns come and go, triggers and checks are added: rows are what they were, or stay where they are."""
    columns = "id, event_time, event_type, outcome, client_id, request_id, method, path, status, duration_ms, replica"
    query = f"SELECT count(*), md5(string_agg(ROW({columns})::text, '|' ORDER BY id)) FROM audit.audit_events WHERE event_time < '2025-02-01 00:00Z'"
    before = site.script("SET timezone = 'UTC'; " + query)
    put_right(run, site, state="dropped", partition=EVENTS)
    site.script(
        "ALTER TABLE audit.audit_events ADD note text DEFAULT 'none', ADD size int GENERATED ALWAYS AS (length(path)) STORED;"
        "CREATE OR REPLACE FUNCTION audit.shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.path := 'altered'; RETURN NEW; END $$;"
        "CREATE TRIGGER loud BEFORE INSERT ON audit.audit_events FOR EACH ROW EXECUTE FUNCTION audit.shout();"
        "CREATE TRIGGER always AFTER INSERT ON audit.audit_events FOR EACH ROW EXECUTE FUNCTION audit.shout();"
        "ALTER TABLE audit.audit_events ENABLE ALWAYS TRIGGER always"
    )
    found = put_right(run, site, state="attached", partition=EVENTS)
    assert steps(found) == [("create", EVENTS), ("restore", EVENTS)]
    assert site.script("SET timezone = 'UTC'; " + query) == before
    assert site.script("SELECT DISTINCT note || size = 'none' || length(path) FROM audit.audit_events WHERE event_time < '2025-02-01 00:00Z'") == "t"
    states = "SELECT string_agg(tgname || tgenabled::text, ',' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'audit.%s'::regclass" % EVENTS
    assert site.script(states) == "alwaysA,loudO"

    site.script("DROP TABLE audit.audit_events_2025_01; ALTER TABLE audit.audit_events DROP request_id")
    refused(run, site, "no column request_id any more", state="attached", partition=EVENTS)
    site.script("ALTER TABLE audit.audit_events ADD request_id text, ADD CONSTRAINT few CHECK (duration_ms < 100) NOT VALID")
    stopped = run(audit_partition_archive, **site.args(state="attached", partition=EVENTS))
    assert stopped["rc"] != 0
    assert "None of them is in the database" in stopped["msg"]
    assert "few" in stopped["msg"]
    # An error must not quote what is in the trail.
    assert "হাসপাতাল" not in json.dumps(stopped, ensure_ascii=False)
    assert site.content().startswith("0|")


# --- case 84: nothing is dropped -----------------------------------------------------------------------------------


def test_case_84_a_full_archive_disk_drops_nothing(site: Site, run: Run) -> None:
    small = site.dir / "small"
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k,mode=0700", "tmpfs", small], check=True)
    try:
        args = {"state": "dropped", "older_than_months": AGE, "directory": str(small)}
        refused(run, site, "there is no room for its archive", str(small), **args)
        # Whoever says to know better is stopped when the disk fills.
        stopped = run(audit_partition_archive, **site.args(**args, min_free=0.0))
        assert stopped["rc"] != 0
        assert stopped["plan"] == []
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)
    assert site.attached()
    assert site.attached(REJECTED)
    assert site.content().startswith("248|")


def damaged(path: Path) -> None:
    victim = max((path / "data").glob("*.dat.gz"), key=lambda item: item.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(bytes(data))


def test_case_84_a_corrupt_dump_drops_nothing(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    original = _partition_archive.take

    def corrupt(shop: Any, *args: Any) -> None:
        original(shop, *args)
        damaged(Path(shop._partial))

    monkeypatch.setattr(_partition_archive, "take", corrupt)
    args = {"state": "dropped", "partition": EVENTS}
    failed = run(audit_partition_archive, **site.args(**args))
    assert failed["rc"] != 0
    assert "could not be proven" in failed["msg"]
    assert "Nothing was dropped" in failed["msg"]
    assert "হাসপাতাল" not in json.dumps(failed, ensure_ascii=False)
    assert (failed["changed"], failed["plan"], site.attached()) == (False, [], True)
    (bad,) = site.names()
    assert bad.endswith(".bad")
    monkeypatch.undo()

    # Damaged later: it does not count any more, and another one is made.
    first = done(run, site, state="archived", partition=EVENTS)["archives"][0]
    damaged(Path(first["path"]))
    predicted = run(audit_partition_archive, True, **site.args(**args))
    assert (ids(predicted), steps(predicted)) == (["archive_damaged"], [("archive", EVENTS), ("detach", EVENTS), ("drop", EVENTS)])
    time.sleep(1)  # the id counts seconds
    found = done(run, site, **args)
    assert (ids(found), steps(found)) == (["archive_damaged"], steps(predicted))
    second = found["archives"][0]
    assert second["made"]
    assert [name for name in site.names() if not name.endswith(".bad")] == [second["archive_id"]]
    assert not site.exists()
    # Damaged when it is wanted back: said, and nothing is done.
    damaged(Path(second["path"]))
    refused(run, site, "is damaged", "was altered", state="attached", partition=EVENTS)


@pytest.mark.full
def test_case_84_rows_that_come_late(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the archive, and right before the drop: seen under the lock, and attached again."""
    original = _partition_archive.detach

    def late(*args: Any) -> None:
        site.insert("2025-01-20 12:00Z", client="'late'")
        original(*args)

    monkeypatch.setattr(_partition_archive, "detach", late)
    args = {"state": "dropped", "partition": EVENTS}
    failed = run(audit_partition_archive, **site.args(**args))
    assert failed["rc"] != 0
    assert "249 rows in the table and 248 in the archive" in failed["msg"]
    assert "It was attached again, and nothing was dropped" in failed["msg"]
    assert site.attached()
    assert site.content().startswith("249|")
    assert "drop.json" not in os.listdir(failed["archives"][0]["path"])
    monkeypatch.undo()
    time.sleep(1)
    # The next run sees that this archive is not of these rows.
    before = site.content()
    found = put_right(run, site, **args)
    assert steps(found) == [("archive", EVENTS), ("detach", EVENTS), ("drop", EVENTS)]
    assert found["archives"][0]["rows"] == 249
    put_right(run, site, state="attached", partition=EVENTS)
    assert site.content() == before


# --- case 76 -------------------------------------------------------------------------------------------------------


def test_case_76_a_referenced_partition_is_refused_early(site: Site, run: Run) -> None:
    """What refers is listed, nothing is archived for it, and the other table is served."""
    site.script(
        "CREATE TABLE audit.notes (note bigint PRIMARY KEY, id bigint, at timestamptz,"
        " CONSTRAINT about FOREIGN KEY (id, at) REFERENCES audit.audit_events (id, event_time));"
        "INSERT INTO audit.notes SELECT row_number() OVER (), id, event_time FROM audit.audit_events WHERE event_time < '2025-01-02 00:00Z'"
    )
    refused(run, site, "about of audit.notes (id, at), 8 rows such as (1,", "Delete those rows", state="dropped", partition=EVENTS)
    args = {"state": "dropped", "older_than_months": AGE}
    for check in (True, False):
        found = run(audit_partition_archive, check, **site.args(**args))
        assert found["rc"] != 0
        assert f"audit.{EVENTS}: Nothing was changed on it" in found["msg"]
        assert steps(found) == [("archive", REJECTED), ("detach", REJECTED), ("drop", REJECTED)]
    assert site.attached()
    assert not site.exists(REJECTED)
    assert not any(EVENTS in name for name in site.names())
    # A view of this one month, and a key to it alone, whether rows refer or not.
    site.script(
        "DELETE FROM audit.notes; CREATE VIEW audit.january AS SELECT * FROM audit.audit_events_2025_01;"
        "CREATE TABLE audit.marks (id bigint, at timestamptz,"
        " CONSTRAINT mark FOREIGN KEY (id, at) REFERENCES audit.audit_events_2025_01 (id, event_time))"
    )
    refused(run, site, "mark of audit.marks (id, at), 0 rows; the views audit.january", **args)
    # An archive changes nothing, and is made all the same; a key to the whole table without rows is no obstacle.
    assert steps(done(run, site, state="archived", partition=EVENTS)) == [("archive", EVENTS)]
    site.script("DROP VIEW audit.january; DROP TABLE audit.marks")
    assert steps(done(run, site, **args)) == [("detach", EVENTS), ("drop", EVENTS)]


# --- locks ---------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_under_load_no_insert_fails_and_none_waits(site: Site, run: Run) -> None:
    site.script("GRANT USAGE ON SCHEMA audit TO hapi_app; GRANT INSERT ON audit.audit_events TO hapi_app")
    args = {"state": "dropped", "partition": EVENTS}
    with upkeep.Load(site, "2025-02-15 12:00Z", "2025-04-15 12:00Z") as load:
        load.goes_on()
        with contextlib.closing(site.connection("postgres", "postgres")) as reader:
            # Somebody reads for hours. Nothing is begun behind that.
            reader.autocommit = False
            reader.cursor().execute("SELECT count(*) FROM audit.audit_events")
            failed = run(audit_partition_archive, **site.args(**args, lock_timeout_seconds=0.2, lock_tries=2))
            assert failed["rc"] != 0
            assert "pid %d of postgres" % reader.info.backend_pid in failed["msg"]
            assert steps(failed) == [("archive", EVENTS)]
            assert site.attached()
        assert "drop.json" not in os.listdir(failed["archives"][0]["path"])
        found = done(run, site, **args)
        assert steps(found) == [("detach", EVENTS), ("drop", EVENTS)]
        load.goes_on()
    assert load.errors == []
    assert load.longest < 5
    assert not site.exists()


@pytest.mark.full
def test_a_default_partition_forbids_concurrently(site: Site, run: Run) -> None:
    """Then the lock is short, and tried for again."""
    site.script("CREATE TABLE audit.audit_events_default PARTITION OF audit.audit_events DEFAULT")
    args = {"state": "dropped", "partition": EVENTS}
    refused(run, site, "default partition, which is no month", state="dropped", partition="audit_events_default")
    with contextlib.closing(site.connection("postgres", "postgres")) as reader:
        reader.autocommit = False
        reader.cursor().execute("SELECT count(*) FROM audit.audit_events")
        failed = run(audit_partition_archive, **site.args(**args, lock_timeout_seconds=0.2, lock_tries=2))
        assert failed["rc"] != 0
        assert "was tried 2 times, and a lock was not got within 0.2 seconds" in failed["msg"]
        assert site.attached()
    before = site.content()
    assert steps(put_right(run, site, **args)) == [("detach", EVENTS), ("drop", EVENTS)]
    # Rows of that month fall into the default partition now: they have to be looked after before it can come back.
    site.insert("2025-01-10 12:00Z")
    refused(run, site, "the default partition of audit_events has rows", state="attached", partition=EVENTS)
    site.script("DELETE FROM audit.audit_events_default")
    assert steps(put_right(run, site, state="attached", partition=EVENTS)) == [("create", EVENTS), ("restore", EVENTS)]
    assert site.content() == before


@pytest.mark.full
def test_a_month_between_others_leaves_an_empty_one(site: Site, run: Run) -> None:
    """By its size, say. There is never a hole, and a second run has nothing to do."""
    site.script(
        "INSERT INTO audit.audit_events (event_time, event_type, outcome, method, path, status, duration_ms, replica)"
        " SELECT '2025-02-15 00:00Z', 'OPERATION', 'ACCEPTED', 'POST', string_agg(md5(random()::text), ''), 200, 1, 'x'"
        " FROM generate_series(1, 100) g, generate_series(1, 400) h GROUP BY g"
    )
    where = "event_time >= '2025-02-01 00:00Z' AND event_time < '2025-03-01 00:00Z'"
    before = site.content(where=where)
    february = "audit_events_2025_02"
    found = put_right(run, site, state="dropped", larger_than="500KB")
    assert steps(found) == [("archive", february), ("detach", february), ("drop", february), ("create", february)]
    assert february in site.bounds()
    assert site.content(where=where).startswith("0|")
    site.insert("2025-02-10 12:00Z")
    site.script("DELETE FROM audit.audit_events_2025_02")
    found = put_right(run, site, state="attached", partition=february)
    assert steps(found) == [("restore", february)]
    assert site.content(where=where) == before


# --- kills ---------------------------------------------------------------------------------------------------------


def start_module(site: Site, patch: str, **more: Any) -> subprocess.Popen[str]:
    """Start the module as a process of its own. patch: Python lines in front, in which it can be made to stand still."""
    params = {"ANSIBLE_MODULE_ARGS": site.args(**more)}
    text = (
        "import time\nfrom ansible_collections.dghs.bd_fhir.plugins.module_utils import _change, _partition_archive as archiving\n"
        f"_change.STATE_DIR = {str(site.dir / 'journal')!r}\n"
        f"def still(*args, **more):\n    open({str(site.dir / 'still')!r}, 'w').close()\n    time.sleep(600)\n{patch}\n"
        "from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition_archive\naudit_partition_archive.main()\n"
    )
    (site.dir / "still").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(params))
    process.stdin.close()
    process.stdin = None
    return process


def killed(site: Site, moment: Callable[[], bool], patch: str, **more: Any) -> None:
    """Run the module and kill it at a moment."""
    process = start_module(site, patch, **more)
    end = time.monotonic() + 180
    while not moment():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.full
def test_kill_in_the_dump(site: Site, run: Run) -> None:
    """It never counts, nothing was detached for it, and the next run takes it away and says so."""
    args = {"state": "archived", "partition": EVENTS}
    killed(site, lambda: any(site.archives.glob("*.partial/roles.sql")), "", **args)
    (left,) = site.names()
    assert left.endswith(".partial")
    assert site.attached()
    time.sleep(1)
    predicted = run(audit_partition_archive, True, **site.args(**args))
    assert ids(predicted) == ["archive_unfinished"]
    assert left in site.names()
    found = done(run, site, **args)
    assert ids(found) == ["archive_unfinished"]
    assert site.names() == [found["archives"][0]["archive_id"]]


def as_another(path: Path, **source: str) -> None:
    """Make an archive one of another deployment."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["source"].update(source)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("other", [{"project": "another-site"}, {"system_identifier": "7000000000000000001"}], ids=["project", "system"])
def test_two_deployments_share_a_directory(site: Site, run: Run, other: dict[str, str]) -> None:
    """By the name of a partition none takes what is not its own, and a real run leaves alone what the other is just making."""
    mine = done(run, site, state="archived", partition=EVENTS)["archives"][0]
    content = site.content()
    # The other one's: of the same service, database, table and month, newer, with fewer rows.
    site.script(f"DELETE FROM audit.{EVENTS} WHERE id % 2 = 0")
    theirs = done(run, site, state="archived", partition=EVENTS)["archives"][0]
    assert theirs["rows"] < mine["rows"]
    as_another(Path(theirs["path"]), **other)
    fewer = site.content()
    # What that one has archived is no reason to drop this one's month, and its record is not this one's.
    found = done(run, site, state="dropped", partition=EVENTS)
    own = found["archives"][0]
    assert (own["made"], own["rows"]) == (True, theirs["rows"])
    assert not (Path(theirs["path"]) / "drop.json").exists()
    shutil.rmtree(own["path"])
    back = done(run, site, state="attached", partition=EVENTS)
    assert (back["archives"][0]["archive_id"], ids(back), site.content()) == (mine["archive_id"], [], content)
    # A dump in progress, and one that was kept aside.
    left = [f"partition_fhirdb_audit.{EVENTS}_20270101T000000Z{ending}" for ending in (".partial", ".removing", ".bad")]
    left += [f"partition_fhirdb_audit.{EVENTS}_20270102T000000Z.bad"]
    for name in left:
        shutil.copytree(theirs["path"], site.archives / name)
    # One of which nothing is known yet is left alone, unless nobody has touched it for a day.
    fresh, old = (site.archives / f"partition_fhirdb_audit.{EVENTS}_2027010{day}T000000Z.partial" for day in (3, 4))
    for path in (fresh, old):
        path.mkdir()
    os.utime(old, (1, 1))
    found = done(run, site, state="archived", partition=EVENTS)
    assert [item["object"] for item in found["findings"] if item["id"] == "archive_unfinished"] == [old.name]
    assert set(left) | {fresh.name} <= set(site.names())
    assert not old.exists()
    # Without one of its own it takes none, and says whose there is; named, it is taken, with a warning.
    shutil.rmtree(mine["path"])
    site.script(f"DROP TABLE audit.{EVENTS}")
    refused(run, site, theirs["archive_id"], "of another one", str(next(iter(other.values()))), state="attached", partition=EVENTS)
    named = done(run, site, state="attached", archive_id=theirs["archive_id"])
    assert (ids(named), site.content()) == (["archive_foreign"], fewer)
    # An empty month in its place is not taken for what was wanted.
    site.script(f"DELETE FROM audit.{EVENTS}")
    assert ids(done(run, site, state="attached", partition=EVENTS)) == ["archive_foreign"]


def test_one_deployment_makes_an_archive_while_another_works(site: Site, run: Run) -> None:
    """The real thing: a dump that stands still, with the name of another project on it, is not swept away."""
    process = start_module(site, "archiving.take = still", state="archived", partition=EVENTS)
    end = time.monotonic() + 180
    while not any(site.archives.glob("*.partial/manifest.json")):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = site.archives.glob("*.partial")
    as_another(left, project="another-site")
    time.sleep(1)
    found = done(run, site, state="archived", partition=EVENTS)
    assert ids(found) == []
    assert left.exists()
    as_another(left, project=site.name)
    assert ids(done(run, site, state="archived", partition=EVENTS)) == ["archive_unfinished"]
    assert not left.exists()


DETACHED = "archiving.drop_exactly = still"


def test_kill_between_detach_and_drop(site: Site, run: Run) -> None:
    """Detached and not dropped: told, and then finished, or attached again. Never forgotten, and never another table."""
    before = site.content()
    args = {"state": "dropped", "partition": EVENTS}
    still = (site.dir / "still").exists
    killed(site, still, DETACHED, **args)
    assert site.exists()
    assert not site.attached()
    # A run that means another month says so and leaves it.
    other = done(run, site, state="archived", partition="audit_events_2025_02")
    assert ids(other) == ["drop_interrupted"]
    assert "a table of its own" in other["findings"][0]["found"]
    # Back, without a look into the archive.
    found = put_right(run, site, state="attached", partition=EVENTS)
    assert (ids(found), steps(found)) == (["drop_interrupted"], [("attach", EVENTS)])
    assert site.content() == before

    # Once more, and then it is finished by age, as it was begun.
    killed(site, still, DETACHED, **args)
    assert not site.attached()
    found = put_right(run, site, state="dropped", older_than_months=AGE, tables=["audit_events"])
    assert (ids(found), steps(found)) == (["drop_interrupted"], [("drop", EVENTS)])
    assert found["archives"][0]["made"] is False
    assert not site.exists()
    # A table of the same name that somebody makes is none of ours.
    site.script("CREATE TABLE audit.audit_events_2025_01 (LIKE audit.audit_events)")
    again = done(run, site, state="dropped", older_than_months=AGE, tables=["audit_events"])
    assert (again["changed"], ids(again), site.exists()) == (False, [], True)


@pytest.mark.full
def test_kill_in_the_detach(site: Site, run: Run) -> None:
    """Its detach was begun: no query sees the rows. The next run finishes it, or brings it back."""
    before = site.content()
    args = {"state": "dropped", "partition": EVENTS}
    done(run, site, state="archived", partition=EVENTS)

    def begin() -> None:
        # It waits for a reader that comes after it has looked for one.
        with contextlib.closing(site.connection("postgres", "postgres")) as reader:
            reader.autocommit = False
            reader.cursor().execute("SELECT count(*) FROM audit.audit_events")
            killed(site, lambda: "t" in site.sql("SELECT inhdetachpending FROM pg_inherits WHERE inhdetachpending").split(),
                   "archiving.lockers = lambda *args: ''", **args)  # fmt: skip
            # The server sees that its client is gone once it has something to say.
            site.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%CONCURRENTLY%' AND pid <> pg_backend_pid()")

    begin()
    assert site.content().startswith("0|")
    found = put_right(run, site, state="attached", partition=EVENTS)
    assert (ids(found), steps(found)) == (["drop_interrupted"], [("finalize_detach", EVENTS), ("attach", EVENTS)])
    assert site.content() == before
    begin()
    found = put_right(run, site, **args)
    assert (ids(found), steps(found)) == (["drop_interrupted"], [("finalize_detach", EVENTS), ("drop", EVENTS)])
    assert not site.exists()


@pytest.mark.full
def test_kill_in_the_load(site: Site, run: Run) -> None:
    """All rows or none: the partition is empty, and the next run loads it, even if what was started goes on."""
    before = site.content()
    put_right(run, site, state="dropped", partition=EVENTS)
    args = {"state": "attached", "partition": EVENTS}
    # All rows are there, and the transaction is open.
    patch = "archiving.LOAD = archiving.LOAD.replace('&& cat \"$0/load-end.sql\"', '&& touch \"$0/loaded\" && sleep 600')"
    killed(site, lambda: any(site.archives.glob("*/loaded")), patch, **args)
    assert len(site.left()) == 1
    assert site.attached()
    assert site.content().startswith("0|")
    assert steps(put_right(run, site, **args)) == [("restore", EVENTS)]
    assert site.content() == before
    assert not [name for name in os.listdir(site.archives / site.names()[0]) if name.startswith("load-")]


# --- names, tables of their own, bad input -------------------------------------------------------------------------


@pytest.mark.full
def test_case_78_any_legal_name_and_a_key_without_a_zone(site: Site, run: Run) -> None:
    table, key = 'Ev.ents "অডিট" %s $body$', 'When "exactly" %'
    quoted, column = '"Audit"."%s"' % table.replace('"', '""'), '"%s"' % key.replace('"', '""')
    site.script(
        f'CREATE SCHEMA "Audit"; CREATE TABLE {quoted} ({column} timestamp NOT NULL, body jsonb, raw bytea) PARTITION BY RANGE ({column});'
        f"CREATE TABLE \"Audit\".\"Ev.ents অডিট_2025_01\" PARTITION OF {quoted} FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');"
        f"CREATE TABLE \"Audit\".\"Ev.ents অডিট_2025_02\" PARTITION OF {quoted} FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');"
        f"INSERT INTO {quoted} SELECT '2025-01-15'::timestamp + n * interval '1 minute', jsonb_build_object('n', n), sha256(n::text::bytea)"
        " FROM generate_series(1, 100) n"
    )
    before = site.content(quoted, "true")
    args = {"schema": "Audit", "tables": [table], "time_zone": "Asia/Dhaka", "older_than_months": AGE}
    found = put_right(run, site, state="dropped", **args)
    assert steps(found) == [(action, "Ev.ents অডিট_2025_01") for action in ("archive", "detach", "drop")]
    assert site.content(quoted, "true").startswith("0|")
    back = {**args, "older_than_months": None, "archive_id": found["archives"][0]["archive_id"]}
    put_right(run, site, state="attached", **{name: value for name, value in back.items() if value is not None})
    assert site.content(quoted, "true") == before


@pytest.mark.full
def test_a_table_that_somebody_has_detached(site: Site, run: Run) -> None:
    """By its name it can be archived and dropped, or attached. By age it is left alone: nobody knows what it is kept for."""
    before = site.content()
    site.script("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2025_01")
    assert done(run, site, state="dropped", older_than_months=AGE, tables=["audit_events"])["plan"] == []
    assert steps(put_right(run, site, state="attached", partition=EVENTS)) == [("attach", EVENTS)]
    assert site.content() == before
    site.script("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2025_01")
    assert steps(put_right(run, site, state="dropped", partition=EVENTS)) == [("archive", EVENTS), ("drop", EVENTS)]
    assert steps(put_right(run, site, state="attached", partition=EVENTS)) == [("create", EVENTS), ("restore", EVENTS)]
    assert site.content() == before


def test_what_can_not_go_well_is_refused(full_site: Site, run: Run) -> None:
    site = full_site
    old = {"older_than_months": AGE}
    for words, more in (
        ("the present month or of a later one", {"state": "dropped", "partition": "audit_events_2026_06"}),
        ("the present month or of a later one", {"state": "archived", "partition": "audit_events_2027_12"}),
        ("there is no partition audit_events_2024_12", {"state": "dropped", "partition": "audit_events_2024_12"}),
        ("there is no archive of a partition audit_events_2024_12", {"state": "attached", "partition": "audit_events_2024_12"}),
        ("no proven archive x", {"state": "attached", "archive_id": "x"}),
        ("is not the id", {"state": "attached", "archive_id": "../x"}),
        ("no such table", {"state": "dropped", "tables": ["nowhere"], **old}),
        ("nowhere", {"state": "archived", "service": "nowhere", **old}),
        ("NO_SUCH_VARIABLE", {"state": "archived", "login_password_variable": "NO_SUCH_VARIABLE", **old}),
        ("password", {"state": "archived", "login_password_variable": "WRONG_PASSWORD", **old}),
        ("nodb", {"state": "archived", "database": "nodb", **old}),
        ("Asia/Dacca-Town", {"state": "archived", "time_zone": "Asia/Dacca-Town", **old}),
        ("no superuser", {"state": "archived", "login_user": "hapi_app", "login_password_variable": "FHIR_DB_APP_PASSWORD", **old}),
    ):
        refused(run, site, words, **more)
    assert site.names() == []
    # A clock that is moved on drops nothing. It says what would be.
    later = {"state": "dropped", "older_than_months": 24, "now": "2029-01-01T00:00:00Z", "tables": ["audit_events"]}
    refused(run, site, "now is later than the clock of the server", checks=(False,), **later)
    rehearsed = run(audit_partition_archive, True, **site.args(**later))
    # Without rows there is nothing to archive.
    assert [name for action, name in steps(rehearsed) if action == "drop"] == [f"audit_events_{2025 + n // 12}_{n % 12 + 1:02d}" for n in range(24)]
    assert [name for action, name in steps(rehearsed) if action == "archive"] == [f"audit_events_2025_0{n}" for n in (1, 2, 3)]
    site.archives.mkdir(mode=0o777)
    site.archives.chmod(0o777)
    refused(run, site, "may be written by others", state="archived", **old)
    # Another play holds the deployment.
    shutil.rmtree(site.archives)
    _change.take(_change.Store(_change.directory_of(site.name)), _change.Wish("tune_pools", "", "rahim@console", {}))
    refused(run, site, "rahim@console", checks=(False,), state="archived", **old)


@pytest.mark.full
def test_the_upkeep_puts_a_hole_right(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that runs while a month from the middle is detached attaches it again: it is not dropped behind its back."""
    original = _partition_archive.drop_exactly

    def upkeep_first(*args: Any) -> None:
        found = run_upkeep()
        assert found == [("attach", "audit_events_2025_02")]
        original(*args)

    def run_upkeep() -> list[tuple[str, str]]:
        # In a process of its own: this one is in the middle of a module.
        args = {"months_ahead": 1, "alarm_days": 0, "maintenance_function": "", "now": "2025-03-15T00:00:00Z"}
        params = {"ANSIBLE_MODULE_ARGS": upkeep.Site.args(site, **args)}
        text = (
            "from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change\n"
            f"_change.STATE_DIR = {str(site.dir / 'journal')!r}\n"
            "from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition\naudit_partition.main()\n"
        )
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
        out = subprocess.run([sys.executable, "-c", text], input=json.dumps(params), capture_output=True, text=True, env=env, check=False).stdout
        return [(item["action"], item["partition"]) for item in json.loads(out)["plan"]]

    before = site.content(where="event_time < '2025-03-01 00:00Z'")
    monkeypatch.setattr(_partition_archive, "drop_exactly", upkeep_first)
    failed = run(audit_partition_archive, **site.args(state="dropped", partition="audit_events_2025_02"))
    assert failed["rc"] != 0
    assert "was attached or made anew meanwhile" in failed["msg"]
    assert "Nothing was dropped" in failed["msg"]
    assert site.attached("audit_events_2025_02")
    assert site.content(where="event_time < '2025-03-01 00:00Z'") == before


# --- later versions ------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_newest_server_that_the_mirror_has(tmp_path: Path, run: Run) -> None:
    """PostgreSQL 17: partitions share the identity column of their table."""
    reference = "bd-fhir-lab/postgres-new:dev"
    docker("build", "-q", "-t", reference, "--build-arg", "BASE_IMAGE=" + image("postgres"), str(IMAGES / "postgres-new"))
    site = Site(tmp_path / "site", "prw")
    site.write("docker-compose.override.yml", f"services: {{postgres: {{image: '{reference}'}}}}\n")
    try:
        site.start(pooler="", postgres_args="-c max_locks_per_transaction=1024")
        site.clean()
        site.script(ROWS + FEWER)
        before = site.content()
        put_right(run, site, state="dropped", partition=EVENTS)
        assert steps(put_right(run, site, state="attached", partition=EVENTS)) == [("create", EVENTS), ("restore", EVENTS)]
        assert site.content() == before
        site.insert("2025-01-31 12:00Z")
        assert site.left() == []
    finally:
        site.remove()
