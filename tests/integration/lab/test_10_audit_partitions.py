# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit tables of the lab's real server under a load of inserts: what is damaged is seen, put right, and put right by cron alone.

What stands is asked of psql in the server's container and of the host's files, never of our modules.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from pilot_host import HOST, INVENTORY, PROJECT, ROOT, Background, Run, healthy, ok, on_host, play, snapshot, until
from secret_scan import Watch

pytestmark = [pytest.mark.lab]

TABLES = ("audit_events", "fhir_rejected_submissions")
FOLDER = "/usr/local/lib/bd-fhir-audit"
CONFIG = "/etc/bd-fhir-audit.json"
CRON = "/etc/cron.d/bd-fhir-audit-partitions"
LOG = "/var/log/bd-fhir-audit/partitions.log"
METRIC = "/var/lib/prometheus/node-exporter/bd_fhir_audit_partitions.prom"
JOB = ("/usr/bin/python3", FOLDER, "--config", CONFIG)
# What the owner's own schema has: nothing is missing until the end of 2027.
LAST = (2027, 12)
DECEMBER = "2027-12-20T00:00:00Z"


def facts(**values: object) -> tuple[str, ...]:
    return ("-e", json.dumps({f"audit_partitions_{name}": value for name, value in values.items()}))


def psql(query: str, container: str = "bd-postgres-audit") -> str:
    argv = ("docker", "exec", "-i", container, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "auditdb")
    return on_host(*argv, data=query).strip()


def environment(service: str, name: str) -> str:
    """What Compose on the host now gives to a service; it doubles a dollar sign in what it prints."""
    text = on_host("docker", "compose", "--project-directory", PROJECT, "--env-file", f"{PROJECT}/.env", "config", "--format", "json")
    return str(json.loads(text)["services"][service]["environment"][name]).replace("$$", "$")


def partitions(table: str) -> dict[str, str]:
    """Partition -> its bounds in UTC, by the server."""
    rows = psql(f"""
SET timezone = 'UTC'; SET datestyle = 'ISO';
SELECT c.relname || '|' || pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'audit.{table}'::regclass AND NOT i.inhdetachpending ORDER BY 1""")
    return dict(line.split("|", 1) for line in rows.splitlines())


def wanted(table: str, last: tuple[int, int] = LAST) -> dict[str, str]:
    """What partitions() has to be, from January 2025 on."""
    found = {}
    year, month = 2025, 1
    while (year, month) <= last:
        after = (year + month // 12, month % 12 + 1)
        bounds = (f"{year}-{month:02d}-01 00:00:00+00", f"{after[0]}-{after[1]:02d}-01 00:00:00+00")
        found[f"{table}_{year}_{month:02d}"] = "FOR VALUES FROM ('%s') TO ('%s')" % bounds
        year, month = after
    return found


def whole() -> bool:
    return all(partitions(table) == wanted(table) for table in TABLES)


def host_state() -> str:
    """Each file where the role works, with owner, mode and contents; what only grows (logs, caches) by its name."""
    return on_host("bash", "-c", r"""
find /etc /usr/local /var/lib/prometheus /var/log /var/spool/cron -xdev \
  \( -path /var/log/journal -prune -o -printf '%p %y %m %u:%g %l\n' \) 2>/dev/null | sort
find /etc /usr/local/lib /usr/local/bin -xdev -type f -exec sha256sum {} + | sort -k 2
""")


def metric() -> dict[str, float]:
    text = on_host("bash", "-c", f"cat {METRIC} 2>/dev/null; true")
    return {name: float(value) for name, value in re.findall(r"^bd_fhir_audit_partition_(\S+) (\S+)$", text, re.MULTILINE)}


def days(table: str) -> float:
    return metric()[f'days_left{{schema="audit",table="{table}"}}']


def scheduled_command() -> str:
    """The command of cron's line, as cron hands it to the shell."""
    line = [line for line in on_host("cat", CRON).splitlines() if line and not line.startswith("#")]
    assert len(line) == 1, line
    fields = line[0].split(None, 6)
    assert fields[5] == "root"
    return fields[6].replace("\\%", "%")


def as_cron() -> int:
    """Run the line as cron does, with cron's own environment; return the exit code."""
    script = f"env -i SHELL=/bin/sh PATH=/usr/bin:/bin HOME=/root LOGNAME=root /bin/sh -c {shlex.quote(scheduled_command())}; echo rc=$?"
    return int(on_host("bash", "-c", script).rpartition("rc=")[2])


def check(*more: str) -> tuple[int, str]:
    done = subprocess.run(["docker", "exec", HOST, *JOB, "check", *more], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def flat(result: Run) -> str:
    """What a play said, without the line breaks of its display."""
    return " ".join(result.out.split())


def planned(result: Run) -> list[str]:
    """The partitions that the summary of a run names, in their order."""
    summary = result.out.rpartition("TASK [Summary]")[2]
    return re.findall(r"^\s+- ((?:audit_events|fhir_rejected)\w*)$", summary, re.MULTILINE)


# Runs on the host with its own Python. The password comes on standard input, and the end of that ends it.
INSERTS = r"""
import json, os, sys, threading, time
import psycopg2
address, months = sys.argv[1], sys.argv[2:]
password = sys.stdin.readline().rstrip("\n")
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
SQL = {
    "audit_events": "INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)"
                    " VALUES (%s, 'OPERATION', 'ACCEPTED', 'lab-inserts', 'POST', '/fhir/Patient', 201, 5, 'lab')",
    "fhir_rejected_submissions": "INSERT INTO audit.fhir_rejected_submissions (event_time, client_id, method, path, status, replica)"
                                 " VALUES (%s, 'lab-inserts', 'POST', '/fhir/Patient', 422, 'lab')",
}
connection, number = None, 0
while True:
    number += 1
    month, table = months[number // 2 % len(months)], sorted(SQL)[number % 2]
    try:
        if connection is None or connection.closed:
            connection = psycopg2.connect(host=address, user="audit_writer_login", password=password, dbname="auditdb", connect_timeout=5)
            connection.autocommit = True
        connection.cursor().execute(SQL[table], (month + "-15T12:00:00Z",))
        state = "00000"
    except psycopg2.Error as exc:
        state = exc.pgcode or type(exc).__name__
    print(json.dumps([time.time(), table, month, state]), flush=True)
    time.sleep(0.02)
"""


class Inserts:
    """Rows for each month of a year, of both tables, as HAPI's own role writes them; the fate of every statement is kept."""

    def __init__(self) -> None:
        self.months = ["2026-12", *(f"2027-{month:02d}" for month in range(1, 13))]
        self.rows: list[tuple[float, str, str, str]] = []

    def __enter__(self) -> Inserts:
        address = on_host("docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "bd-postgres-audit").strip()
        self.process = subprocess.Popen(["docker", "exec", "-i", HOST, "python3", "-c", INSERTS, address, *self.months],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin
        self.process.stdin.write(environment("pgbouncer-audit", "POSTGRESQL_PASSWORD") + "\n")
        self.process.stdin.flush()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        until("inserts into every month", 60, lambda: len(self.rows) > 2 * len(self.months))
        return self

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.rows.append(tuple(json.loads(line)))

    def __exit__(self, *dummy: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.reader.join(timeout=30)

    def failed(self, since: float = 0) -> list[tuple[float, str, str, str]]:
        return [row for row in list(self.rows) if row[3] != "00000" and row[0] >= since]

    def written(self, table: str, month: str, since: float) -> int:
        return sum(row[1:] == (table, month, "00000") and row[0] >= since for row in list(self.rows))


@contextmanager
def dropped(table: str, month: str) -> Iterator[None]:
    """A month that is gone, with what this test has written into it. If nobody has brought it back, that is done here."""
    name = f"{table}_{month.replace('-', '_')}"
    psql(f"DROP TABLE audit.{name}")
    try:
        yield
    finally:
        if name not in partitions(table):
            psql(f"CREATE TABLE audit.{name} PARTITION OF audit.{table} {wanted(table)[name]}")


# As the owner's schema has it: rows go in through the tables, and their partitions have no grants.
AS_THE_OWNER = """DO $$ DECLARE part regclass; BEGIN
  FOR part IN SELECT inhrelid::regclass FROM pg_inherits
               WHERE inhparent IN ('audit.audit_events'::regclass, 'audit.fhir_rejected_submissions'::regclass)
  LOOP EXECUTE format('REVOKE ALL ON %s FROM audit_writer_login', part); END LOOP;
END $$"""


def take_away() -> None:
    if on_host("bash", "-c", f"ls -d {FOLDER} {CONFIG} {CRON} 2>/dev/null; true").strip():
        ok("rollback_maintain_audit_partitions")


@pytest.fixture(scope="module")
def before(pilot: None) -> Iterator[str]:
    """The host as it is without us, and again afterwards."""
    take_away()
    psql(AS_THE_OWNER)
    assert whole(), "the lab's audit schema is not the owner's: lab_reset=true"
    yield host_state()
    take_away()
    psql("".join(f"DELETE FROM audit.{table} WHERE client_id = 'lab-inserts';" for table in TABLES))


LEASE = "/var/lib/dghs-bd-fhir/bd-fhir-national/lease.json"


@pytest.mark.parametrize(("lease", "says"), [
    ("another operator's", "Somebody else is changing this deployment, and it has to be over first: karim@elsewhere"),
    ("broken", f"The lease {LEASE} can't be understood"),
])
def test_the_role_alone_does_not_get_into_a_change(before: str, lease: str, says: str) -> None:
    on_host("bash", "-c", f"mkdir -p $(dirname {LEASE}); [ ! -e {LEASE} ] || mv {LEASE} {LEASE}.kept")
    try:
        if lease == "broken":
            on_host("bash", "-c", f"echo '{{broken' > {LEASE}")
        else:
            taken = ["ansible", "-i", str(ROOT / INVENTORY), HOST, "-m", "dghs.bd_fhir.change",
                     "-a", f"project_dir={PROJECT} verb=scale_hapi owner=karim@elsewhere"]
            subprocess.run(taken, cwd=ROOT, check=True, capture_output=True)
        refused = play("extensions/molecule/audit_partitions/converge.yml")
    finally:
        on_host("bash", "-c", f"rm -f {LEASE}; [ ! -e {LEASE}.kept ] || mv {LEASE}.kept {LEASE}")
    assert refused.rc != 0
    assert f"Nothing was changed. {says}" in flat(refused).replace("''", "'"), refused.out[-3000:]
    assert host_state() == before


@pytest.fixture(scope="module")
def kept(before: str) -> None:
    ok("maintain_audit_partitions")


@pytest.mark.full
def test_check_on_a_host_without_the_job_tells_the_truth(before: str) -> None:
    untouched = snapshot()
    dry = ok("maintain_audit_partitions", "--check", "--diff")
    assert host_state() == before
    assert snapshot() == untouched
    assert on_host("bash", "-c", f"ls {FOLDER} {CONFIG} {CRON} 2>/dev/null; true") == ""
    real = ok("maintain_audit_partitions")
    assert planned(dry) == planned(real)
    # The owner's partitions have no grants of their own, and get those of their tables.
    assert set(planned(real)) == {name for table in TABLES for name in wanted(table)}
    assert dry.changed == real.changed
    again = ok("maintain_audit_partitions")
    assert (again.changed, planned(again)) == (0, [])
    assert whole()


def test_case_82_a_month_in_the_middle_comes_back_under_inserts(kept: None) -> None:
    with Inserts() as inserts:
        time.sleep(3)
        assert inserts.failed() == []
        assert as_cron() == 0
        with dropped("audit_events", "2027-03"):
            until("an insert that finds no partition", 30, inserts.failed)
            code, out = check()
            assert code == 1, out
            assert "gap, audit.audit_events" in out
            assert "a run would: create audit.audit_events_2027_03" in out
            dry = ok("maintain_audit_partitions", "--check")
            assert planned(dry) == ["audit_events_2027_03"]
            real = ok("maintain_audit_partitions")
            ended = time.time()
            assert whole()
        time.sleep(5)
    assert planned(real) == planned(dry)
    assert real.changed == dry.changed == 1
    # Nothing but that month has failed, and it has not once the first row went in again.
    assert {row[1:] for row in inserts.failed()} == {("audit_events", "2027-03", "23514")}
    back = next(row[0] for row in inserts.rows if row[0] > inserts.failed()[0][0] and row[1:] == ("audit_events", "2027-03", "00000"))
    assert inserts.failed(back) == []
    assert back < ended
    assert inserts.written("audit_events", "2027-03", ended) > 0
    assert check()[0] == 0


def test_case_88_cron_itself_runs_the_line_and_needs_nobody(kept: None) -> None:
    each_minute = facts(hour="*", minute="*")
    assert ok("maintain_audit_partitions", *each_minute).changed == 1
    started = metric()["scheduler_timestamp_seconds"]
    lines = on_host("wc", "-l", LOG).split()[0]
    secret = {"superuser": environment("postgres-audit", "POSTGRES_PASSWORD")}
    with Inserts() as inserts, Watch(secret) as watch, dropped("fhir_rejected_submissions", "2027-05"):
        # No play and no hand of ours from here on.
        until("the month that cron brings back", 150, whole)
        back = time.time()
        until("the metric of that run", 60, lambda: metric()["scheduler_timestamp_seconds"] > started and metric()["steps"] == 1)
        time.sleep(3)
        assert inserts.failed(back) == []
        assert inserts.written("fhir_rejected_submissions", "2027-05", back) > 0
    assert watch.seen == []
    new = on_host("tail", "-n", f"+{int(lines) + 1}", LOG)
    assert "scheduled run: exit code 0" in new
    assert "done: create audit.fhir_rejected_submissions_2027_05" in new
    assert metric()["up"] == 1
    assert days("fhir_rejected_submissions") > 45
    # By cron's own word too, and in the journal of the deployment.
    assert FOLDER in on_host("journalctl", "-u", "cron", "--no-pager", "-n", "20")
    journal = on_host("bash", "-c", "tail -n 20 /var/lib/dghs-bd-fhir/bd-fhir-national/journal.jsonl")
    assert '"audit_partitions_job"' in journal
    assert ok("maintain_audit_partitions").changed == 1
    assert scheduled_command().endswith(f"run --scheduled --log {LOG}")


@pytest.mark.full
def test_the_line_is_one_that_cron_takes(kept: None) -> None:
    assert on_host("stat", "-c", "%U %a %h %F", CRON).strip() == "root 644 1 regular file"
    assert "%" not in scheduled_command()
    assert on_host(*JOB[:2], "check-cron", CRON) == ""
    # It is seen to go red: without its daemon, or with a line that nothing would run.
    on_host("systemctl", "stop", "cron")
    try:
        refused = play("maintain_audit_partitions")
        assert refused.rc != 0
        assert "No cron daemon runs" in flat(refused)
    finally:
        on_host("systemctl", "start", "cron")
    text = on_host("cat", CRON)
    on_host("bash", "-c", f"printf '23 4 * * * root \\\\\\n /usr/bin/python3\\n' > {CRON}")
    assert "2 jobs" in on_host("bash", "-c", f"/usr/bin/python3 {FOLDER} check-cron {CRON}; true")
    assert ok("maintain_audit_partitions").changed == 1
    assert on_host("cat", CRON) == text


@contextmanager
def stopped() -> Iterator[str]:
    on_host("docker", "stop", "bd-postgres-audit")
    try:
        yield "no running container: bd-postgres-audit is exited"
    finally:
        on_host("docker", "start", "bd-postgres-audit")
        until("the audit server", 60, lambda: "accepting" in on_host(
            "docker", "exec", "bd-postgres-audit", "pg_isready", "-h", "127.0.0.1", "-U", "postgres", check=False))
        until("one healthy replica", 180, lambda: healthy(1))


@contextmanager
def configured(**values: object) -> Iterator[None]:
    """The job with another configuration than the role has written."""
    text = on_host("cat", CONFIG)
    on_host("bash", "-c", f"cat > {CONFIG}", data=json.dumps({**json.loads(text), **values}))
    try:
        yield
    finally:
        on_host("bash", "-c", f"cat > {CONFIG}", data=text)


@contextmanager
def renamed() -> Iterator[str]:
    with configured(service="postgres-audit-2"):
        yield "has no container of a service postgres-audit-2"


@contextmanager
def wrong_password() -> Iterator[str]:
    with configured(login_password_variable="AUDIT_DB_WRITER_PASSWORD"):
        yield "password authentication failed"


@contextmanager
def no_engine_for_cron() -> Iterator[str]:
    with configured(project_dir="/nowhere"):
        yield "/nowhere"


@pytest.mark.parametrize("damage", [stopped, renamed, wrong_password, pytest.param(no_engine_for_cron, marks=pytest.mark.full)])
def test_what_could_not_be_looked_at_is_told(kept: None, damage: Callable[[], AbstractContextManager[str]]) -> None:
    assert as_cron() == 0
    good = metric()["last_success_timestamp_seconds"]
    told = "/var/tmp/audit-partitions-alert.json"
    with damage() as says:
        current = json.loads(on_host("cat", CONFIG))
        with configured(**{**current, "alert_command": ["/usr/bin/tee", told]}):
            assert as_cron() == 2
        found = metric()
        assert (found["up"], found["exit_code"]) == (0, 2)
        assert found["last_success_timestamp_seconds"] == good
        assert found["last_run_timestamp_seconds"] > good
        assert not any(name.startswith("days_left") for name in found), "a figure of the run before"
        assert says in on_host("tail", "-n", "4", LOG)
        message = json.loads(on_host("cat", told))
        assert (message["up"], message["findings"][-1]["id"]) == (False, "audit_unreachable")
        assert check()[0] == 2
    on_host("rm", "-f", told)
    assert as_cron() == 0
    assert metric()["up"] == 1


@pytest.mark.full
def test_a_renamed_container_is_found_by_its_labels(kept: None) -> None:
    on_host("docker", "rename", "bd-postgres-audit", "bd-postgres-audit-old")
    try:
        assert as_cron() == 0
        assert metric()["up"] == 1
    finally:
        on_host("docker", "rename", "bd-postgres-audit-old", "bd-postgres-audit")


HALF_OF_2028 = [f"{table}_2028_{month:02d}" for table in TABLES for month in range(1, 7)]


@pytest.mark.full
def test_case_86_the_clock_at_the_end_of_what_was_made_in_advance(kept: None) -> None:
    code, out = check("--now", DECEMBER)
    assert code == 1, out
    assert "days left 12" in out
    dry = ok("maintain_audit_partitions", *facts(now=DECEMBER), "--check")
    assert planned(dry) == HALF_OF_2028
    assert dry.changed == 1
    assert whole()


@pytest.mark.full
def test_case_86_the_months_of_2028_are_made(kept: None) -> None:
    try:
        with Inserts() as inserts:
            real = ok("maintain_audit_partitions", *facts(now=DECEMBER))
        assert inserts.failed() == []
        assert (planned(real), real.changed) == (HALF_OF_2028, 1)
        for table in TABLES:
            assert partitions(table) == wanted(table, (2028, 6))
        assert check("--now", DECEMBER)[0] == 0
        assert ok("maintain_audit_partitions", *facts(now=DECEMBER)).changed == 0
    finally:
        psql("".join(f"DROP TABLE IF EXISTS audit.{name};" for name in HALF_OF_2028))
    assert whole()


DAMAGES = {
    "partition_detached": ("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_2027_06", "partition_detached", 1),
    "owner": ("ALTER TABLE audit.audit_events_2027_06 OWNER TO postgres", "owner_differs", 0),
    "grants": ("REVOKE ALL ON audit.audit_events_2027_06 FROM audit_writer_login", "grants_differ", 0),
    "replica_identity": ("ALTER TABLE audit.audit_events_2027_06 REPLICA IDENTITY FULL", "replica_identity_differs", 0),
}


@pytest.mark.full
@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_seen_and_put_right(kept: None, name: str) -> None:
    statement, finding, code = DAMAGES[name]
    psql(statement)
    red, out = check()
    assert (red, finding in out) == (code, True), out
    dry = ok("maintain_audit_partitions", "--check")
    assert set(planned(dry)) == {"audit_events_2027_06"}
    real = ok("maintain_audit_partitions")
    assert (planned(real), real.changed) == (planned(dry), dry.changed)
    assert whole()
    assert finding not in check()[1]
    assert ok("maintain_audit_partitions").changed == 0


@pytest.mark.full
def test_rows_in_a_default_partition_are_moved_under_inserts(kept: None) -> None:
    psql("CREATE TABLE audit.audit_events_default PARTITION OF audit.audit_events DEFAULT")
    try:
        with Inserts() as inserts:
            psql("DROP TABLE audit.audit_events_2027_08")
            start = time.time()
            until("rows in the default partition", 30, lambda: int(psql("SELECT count(*) FROM ONLY audit.audit_events_default")) > 3)
            assert as_cron() == 0
            assert metric()['default_rows{schema="audit",table="audit_events"}'] == 0
            assert int(psql("SELECT count(*) FROM ONLY audit.audit_events_default")) == 0
            time.sleep(3)
        assert inserts.failed() == []
        stored = int(psql("SELECT count(*) FROM audit.audit_events_2027_08 WHERE client_id = 'lab-inserts'"))
        assert stored >= inserts.written("audit_events", "2027-08", start)
    finally:
        psql("ALTER TABLE audit.audit_events DETACH PARTITION audit.audit_events_default; DROP TABLE audit.audit_events_default")
    assert whole()


@pytest.mark.full
def test_a_killed_run_is_finished_by_the_next(kept: None) -> None:
    # The last one stays: what is missing before it has to come back, and beyond the months ahead nothing would.
    gone = [f"audit_events_2027_{month:02d}" for month in range(2, 12)]
    psql("".join(f"DROP TABLE audit.{name};" for name in gone))
    try:
        doomed = Background("maintain_audit_partitions")
        until("the first month that is back", 300, lambda: set(gone) & set(partitions("audit_events")))
        doomed.kill()
        ok("maintain_audit_partitions")
    finally:
        for name in set(gone) - set(partitions("audit_events")):
            psql(f"CREATE TABLE audit.{name} PARTITION OF audit.audit_events {wanted('audit_events')[name]}")
    assert whole()
    assert ok("maintain_audit_partitions").changed == 0


@pytest.mark.parametrize(("values", "says"), [
    ({"months_ahead": 0}, "must be 1 to 1200"),
    pytest.param({"months_ahead": 10000}, "must be 1 to 1200", marks=pytest.mark.full),
    pytest.param({"time_zone": "Asia/Dacca2"}, "no time zone Asia/Dacca2", marks=pytest.mark.full),
    pytest.param({"tables": ["audit_events", "audit_event"]}, "audit.audit_event", marks=pytest.mark.full),
    pytest.param({"alarm_days": 300}, "28 for each of these months", marks=pytest.mark.full),
    pytest.param({"user": "nobody-here"}, "There is no user nobody-here", marks=pytest.mark.full),
    pytest.param({"python": "/usr/bin/python9"}, "Set audit_partitions_python", marks=pytest.mark.full),
    pytest.param({"side": "reports"}, "audit_partitions_side is reports", marks=pytest.mark.full),
    pytest.param({"minute": "23 4"}, "as cron writes them", marks=pytest.mark.full),
    pytest.param({"scheduler": "container"}, "audit_partitions_image names an image", marks=pytest.mark.full),
    pytest.param({"now": "2027-12-20"}, "no moment with an offset", marks=pytest.mark.full),
])
def test_wrong_input_is_refused_before_a_change(kept: None, values: dict[str, object], says: str) -> None:
    state, tables = host_state(), {table: partitions(table) for table in TABLES}
    refused = play("maintain_audit_partitions", *facts(**values))
    assert refused.rc != 0
    assert says in flat(refused), refused.out[-3000:]
    assert "Nothing was changed" in flat(refused)
    assert host_state() == state
    assert {table: partitions(table) for table in TABLES} == tables


WRONG = """CREATE OR REPLACE FUNCTION audit.create_next_month_partitions() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit.audit_events FOR VALUES FROM (%L) TO (%L)', 'audit_events_' ||
    to_char(now() + interval '1 month', 'YYYY_MM'), date_trunc('month', now() + interval '1 month'), date_trunc('month', now() + interval '2 month'));
END $$"""
FUNCTION = """SELECT pg_get_functiondef(p.oid) || p.proowner::regrole || coalesce(p.proacl::text, '')
 FROM pg_proc p WHERE p.oid = 'audit.create_next_month_partitions()'::regprocedure"""


@pytest.mark.full
def test_a_function_that_was_replaced_comes_back_with_the_rollback(before: str) -> None:
    owners = psql("SELECT pg_get_functiondef('audit.create_next_month_partitions()'::regprocedure)")
    psql(WRONG)
    wrong = psql(FUNCTION)
    try:
        ok("maintain_audit_partitions")
        assert psql(FUNCTION) == wrong, "replaced without having been asked"
        for finding in ("function_not_idempotent", "function_not_owner", "function_zone"):
            assert finding in check()[1]
        assert ok("maintain_audit_partitions", *facts(replace_function=True)).changed >= 1
        assert "SECURITY DEFINER" in psql(FUNCTION)
        assert ok("maintain_audit_partitions", *facts(replace_function=True)).changed == 0
        psql("SET ROLE audit_maintainer_login; SELECT audit.create_next_month_partitions()")
        assert whole()
        ok("rollback_maintain_audit_partitions")
        assert psql(FUNCTION) == wrong
        assert host_state() == before
    finally:
        psql(owners)
        ok("maintain_audit_partitions")


IMAGE = "bd-fhir-lab-python:partitions"


@pytest.mark.full
def test_a_container_does_the_same(kept: None) -> None:
    """The image is the host's own Python, so that the lab needs no further one."""
    on_host("bash", "-c", "cd / && tar -c bin lib lib64 usr/lib64 etc/passwd etc/nsswitch.conf usr/bin/python3* usr/lib/python3* usr/lib/*-linux-gnu"
                          f" 2>/dev/null | docker import --change 'ENV PATH=/usr/bin:/bin' - {IMAGE}")
    container = facts(scheduler="container", image=IMAGE)
    try:
        ok("maintain_audit_partitions", *container)
        assert on_host("bash", "-c", f"ls {CRON} 2>/dev/null; true") == ""
        assert ok("maintain_audit_partitions", *container).changed == 0
        ids = on_host("docker", "ps", "-q", "--filter", "label=com.docker.compose.service=audit-partitions").split()
        assert len(ids) == 1
        told = json.dumps(json.loads(on_host("docker", "inspect", ids[0])), ensure_ascii=False)
        assert json.dumps(environment("postgres-audit", "POSTGRES_PASSWORD"), ensure_ascii=False)[1:-1] not in told
        assert metric()["up"] == 1
        started = metric()["scheduler_timestamp_seconds"]
        with dropped("audit_events", "2027-09"):
            # It runs once when it starts, as after an outage, and then daily.
            on_host("docker", "restart", ids[0])
            until("the month that the container brings back", 90, whole)
            until("its metric", 30, lambda: metric()["scheduler_timestamp_seconds"] > started)
        assert "Recreate" not in on_host("bash", "-c", f"cd {PROJECT} && docker compose --env-file .env --progress plain up -d 2>&1")
        # And back to cron: nothing of the container is left.
        ok("maintain_audit_partitions")
        assert on_host("docker", "ps", "-aq", "--filter", "label=com.docker.compose.service=audit-partitions") == ""
        assert on_host("bash", "-c", f"ls {PROJECT}/compose.d 2>/dev/null; true") == ""
    finally:
        ok("maintain_audit_partitions")
        on_host("docker", "rmi", "-f", IMAGE)


def test_the_rollback_leaves_the_host_as_before(kept: None, before: str) -> None:
    installed = host_state()
    assert installed != before
    assert ok("rollback_maintain_audit_partitions", "--check").changed >= 1
    assert host_state() == installed
    ok("rollback_maintain_audit_partitions")
    assert host_state() == before
    assert metric() == {}
    # The partitions stay.
    assert whole()
    assert ok("rollback_maintain_audit_partitions").changed == 0
