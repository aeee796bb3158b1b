# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What watches the lab's pilot: faults made on purpose, seen as alerts in the real Alertmanager, and gone after the repair.

At rest none fires. For each fault there is a list of the alerts that may fire; the right one has to, within its time, and none outside the list,
before and for some minutes after it.
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from load import Load
from pilot_host import PROJECT, healthy, ok, on_host, owner_up, replicas, until
from standby import SMALL, STANDBY

pytestmark = [pytest.mark.lab, pytest.mark.full]

TOLD = "/var/tmp/monitoring-told.jsonl"
RECEIVERS = [{"name": "host_command", "type": "command", "command": ["/usr/bin/tee", "-a", TOLD]}]
VALUES = ("-e", json.dumps({"monitoring_receivers": RECEIVERS, "monitoring_group_wait": "5s"}))
PROMETHEUS, ALERTMANAGER = "http://127.0.0.1:9090", "http://127.0.0.1:9093"
# The role's own test, what fires always, and what is true of a pilot on which nobody has laid the job of the audit partitions.
AT_REST = {"BdFhirMonitoringTest", "Watchdog", "AuditPartitionJobSilent"}
# For so many seconds it is looked what fires. What waits for up to 5 minutes (RequestErrors, HeapNearlyFull, PostgresConnectionsHigh and others) has
# fired by then: to that come two scrapes and a look at the rules, each every 15 s. What waits for 10 minutes and more is seen only in faults that
# take as long, and by promtool (tests/unit/monitoring).
WATCHED = 360
# Little more than what HAPI holds on to, so that collections free next to nothing.
SMALL_HEAP = "190m"
JOB = ("/usr/bin/python3", "/usr/local/lib/bd-fhir-audit", "run")


def get(url: str) -> object:
    return json.loads(on_host("python3", "-c", "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())", url))


def query(expression: str) -> dict[str, float]:
    found = get(f"{PROMETHEUS}/api/v1/query?query={urllib.parse.quote(expression)}")
    assert isinstance(found, dict)
    return {" ".join(f"{key}={value}" for key, value in sorted(item["metric"].items())): float(item["value"][1]) for item in found["data"]["result"]}


def alerts() -> set[str]:
    """The names of what Alertmanager has and would tell, inhibited ones left out."""
    found = get(f"{ALERTMANAGER}/api/v2/alerts?active=true&inhibited=false&silenced=false")
    assert isinstance(found, list)
    return {item["labels"]["alertname"] for item in found} - AT_REST


def psql(statement: str, server: str = "bd-postgres-fhir", user: str = "postgres", database: str = "postgres") -> str:
    return on_host("docker", "exec", "-i", server, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, data=statement).strip()


@pytest.fixture(scope="module")
def watched(pilot: None) -> Iterator[None]:
    """The pilot, watched."""
    ok("monitor", *VALUES)
    yield
    ok("rollback_monitor", "-e", "monitoring_remove_data=true")
    on_host("rm", "-f", TOLD)
    for what in ("ps -a", "volume ls", "network ls"):
        assert "monitoring" not in on_host("bash", "-c", f"docker {what}")
    assert "MONITOR" not in on_host("cat", f"{PROJECT}/.env")


@contextmanager
def fault(wanted: str, seconds: float, allowed: set[str]) -> Iterator[None]:
    """Within the block a fault is made: its alert fires in time, and none outside of the list does as long as it is watched."""
    # What the fault before has left behind is not this one's.
    until(f"nothing else fires before {wanted}", 480, lambda: not alerts() - allowed)
    begun = time.monotonic()
    yield
    seen: set[str] = set()
    fired: float | None = None
    while fired is None or time.monotonic() - begun < max(WATCHED, fired + 60):
        seen |= alerts()
        if fired is None and wanted in seen:
            fired = time.monotonic() - begun
        assert fired is not None or time.monotonic() - begun < seconds, f"{wanted} does not fire within {seconds} s; there were {sorted(seen)}"
        time.sleep(2)
    print(f"{wanted} after {fired:.0f} s, with {sorted(seen - {wanted})}")
    assert seen <= {wanted, *allowed}


@contextmanager
def started_again(container: str) -> Iterator[None]:
    """Whatever is seen of its absence, a container is there for the next test."""
    try:
        yield
    finally:
        on_host("docker", "start", container)


def gone(wanted: str, seconds: float = 420) -> None:
    begun = time.monotonic()
    while wanted in alerts():
        assert time.monotonic() - begun < seconds, f"{wanted} does not end within {seconds} s"
        time.sleep(2)
    print(f"{wanted} ended after {time.monotonic() - begun:.0f} s")


def test_nothing_fires_at_rest(watched: None) -> None:
    seen: set[str] = set()
    begun = time.monotonic()
    while time.monotonic() - begun < WATCHED:
        seen |= alerts()
        time.sleep(2)
    assert seen == set()


def test_a_login_that_fails_is_told_and_mended(watched: None) -> None:
    """An exporter that answers and sees nothing is not healthy; monitor itself gives the role its password again."""
    assert set(query("up").values()) == {1.0}
    assert len(query('up{job="hapi"}')) == len(replicas())
    with fault("PostgresDown", 240, {"PostgresNotSeen", "PostgresQueriesMissing"}):
        psql("""
ALTER ROLE bd_fhir_monitor PASSWORD 'another';
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bd_fhir_monitor'""", "bd-postgres-audit")
    ok("monitor", *VALUES)
    gone("PostgresDown")
    until("the command was run", 150, lambda: '"PostgresDown"' in on_host("cat", TOLD, check=False))


def test_case_144_a_leak_of_idle_connections(watched: None) -> None:
    """Every slot that ordinary users can have is held, nearly all of it idle: 100 % and not 2.5."""
    psql("CREATE ROLE leaker LOGIN")
    usable = int(psql("SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"))
    used = int(psql("SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"))
    try:
        with fault("PostgresConnectionsExhausted", 240, {"PostgresConnectionsHigh", "HikariConnectionsPending", "HikariTimeouts"}):
            on_host("docker", "exec", "-d", "bd-postgres-fhir", "bash", "-c",
                    f"for i in $(seq {usable - used}); do (sleep 600 | psql -U leaker -d fhirdb) & done; wait")
        assert max(query('bd_fhir:connections_percent{side="fhir"}').values()) == 100.0
    finally:
        psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'leaker'")
        until("they are gone", 30, lambda: psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'leaker'") == "0")
        psql("DROP ROLE leaker")
    gone("PostgresConnectionsExhausted")


def test_a_pool_whose_connections_are_all_held(watched: None) -> None:
    """A lock keeps every statement of HAPI's waiting: no connection comes back to the pool, and requests wait for one."""
    # What waits is told no longer when the first have given up, which is the same trouble and worse.
    may = {"HikariConnectionsPending", "HikariPoolFull", "SlowRequest", "RequestErrors", "RequestsSlow", "IdleInTransaction"}
    with Load(rate=12, workers=14):
        with fault("HikariTimeouts", 180, may):
            held = "BEGIN; LOCK TABLE hfj_spidx_token IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(400)"
            on_host("docker", "exec", "-d", "-e", "PGAPPNAME=holder", "bd-postgres-fhir", "psql", "-U", "postgres", "-d", "fhirdb", "-c", held)
        psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'")
    gone("HikariTimeouts")
    gone("HikariConnectionsPending")


def test_dead_rows_that_autovacuum_does_not_remove(watched: None) -> None:
    """A hint and no more: nothing of ours has vacuumed the table when the alert has fired."""
    vacuumed = "SELECT coalesce(last_vacuum, last_autovacuum) IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'left_alone'"
    try:
        with fault("DeadRows", 780, set()):
            psql("""
CREATE TABLE left_alone (id integer) WITH (autovacuum_enabled = off);
INSERT INTO left_alone SELECT generate_series(1, 40000);
ANALYZE left_alone;
UPDATE left_alone SET id = id + 1""", database="fhirdb")
        assert psql(vacuumed, database="fhirdb") == "f"
        psql("VACUUM left_alone", database="fhirdb")
        gone("DeadRows", 180)
    finally:
        psql("DROP TABLE IF EXISTS left_alone", database="fhirdb")


def test_a_standby_that_is_cut_off(watched: None) -> None:
    """Packets between the two servers are dropped: both go on to answer, and nothing that reads as a lag of 0 may be taken for well."""
    ok("add_read_replica", "-e", "postgres_replica_reads=never", *SMALL)
    ok("monitor", *VALUES)
    until("the standby is seen", 120, lambda: query("bd_fhir_pg_standby_receiving"))
    assert set(query("bd_fhir_pg_standby_receiving").values()) == {1.0}
    pid = on_host("docker", "inspect", "--format", "{{.State.Pid}}", f"bd-fhir-national-{STANDBY}-1").strip()

    def wall(action: str) -> None:
        for chain, port in (("OUTPUT", "--dport"), ("INPUT", "--sport")):
            on_host("nsenter", "-t", pid, "-n", "iptables", action, chain, "-p", "tcp", port, "5432", "-j", "DROP")

    try:
        with fault("StandbyNotStreaming", 300, {"PrimaryWithoutStandby", "StandbyLag"}):
            wall("-I")
        assert set(query('up{job="postgres"}').values()) == {1.0}
        until("the primary tells it too", 180, lambda: "PrimaryWithoutStandby" in alerts())
        wall("-D")
        gone("StandbyNotStreaming")
        gone("PrimaryWithoutStandby")
    finally:
        ok("rollback_add_read_replica")
        ok("monitor", *VALUES)
    # It may have fired for the minutes between the two.
    gone("PrimaryWithoutStandby")


def test_a_pooler_that_does_not_answer(watched: None) -> None:
    may = {"PgbouncerNotSeen", "TargetsMissing", "HikariConnectionsPending", "HikariTimeouts"}
    with started_again("bd-pgbouncer-audit"), fault("PgbouncerDown", 240, may):
        on_host("docker", "stop", "bd-pgbouncer-audit")
    gone("PgbouncerDown")


def test_a_vendor_with_three_in_ten_rejected(watched: None) -> None:
    """Assess counts, node_exporter shows what it has written, and the vendor is named."""
    rows = ("INSERT INTO audit.audit_events (event_time, event_type, outcome, client_id, method, path, status, duration_ms, replica)"
            " SELECT now(), 'OPERATION', CASE WHEN n % 10 < 3 THEN 'REJECTED' ELSE 'ACCEPTED' END, 'vendor-of-the-test', 'POST', '/fhir', 200, 1, 'x'"
            " FROM generate_series(1, 100) n")
    try:
        with fault("VendorRejected", 240, {"ChangeDue", "PhaseLimitNear"}):
            psql(rows, "bd-postgres-audit", database="auditdb")
            ok("assess")
        assert [name for name in query("bd_fhir_rejected_percent") if "vendor-of-the-test" in name]
    finally:
        psql("DELETE FROM audit.audit_events WHERE client_id = 'vendor-of-the-test'", "bd-postgres-audit", database="auditdb")
    ok("assess")
    gone("VendorRejected")
    # What else it says is told an hour later, which is no consequence of the faults that follow.
    on_host("rm", "-f", "/var/lib/prometheus/node-exporter/bd_fhir_assess.prom")


def test_a_month_that_can_not_be_made(watched: None) -> None:
    """The next month is gone, and a session keeps the job from making it: the days that are left are told before an INSERT fails."""
    ok("maintain_audit_partitions")
    try:
        month = psql("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '1 month', 'YYYY_MM')")
        with fault("AuditPartitionsRunOut", 240, {"AuditPartitionJobFailed"}):
            psql(f"DROP TABLE audit.audit_events_{month}", "bd-postgres-audit", database="auditdb")
            held = "BEGIN; LOCK TABLE audit.audit_events IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(300)"
            on_host("docker", "exec", "-d", "-e", "PGAPPNAME=holder", "bd-postgres-audit", "psql", "-U", "postgres", "-d", "auditdb", "-c", held)
            until("it holds the table", 30, lambda: psql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock'", "bd-postgres-audit",
                                                         database="auditdb") != "0")
            on_host(*JOB, check=False)
    finally:
        psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'", "bd-postgres-audit")
        on_host(*JOB)
    gone("AuditPartitionsRunOut")
    ok("rollback_maintain_audit_partitions")


def test_a_prometheus_that_is_gone_is_told(watched: None) -> None:
    """Its alerts end in Alertmanager some minutes after it has, which looks like all being well. The command of the host is told, by cron alone."""
    name = "bd-fhir-national-monitoring-prometheus-1"
    with started_again(name):
        on_host("docker", "stop", name)
        until("the command is told", 660, lambda: '"PrometheusSilent"' in on_host("cat", TOLD, check=False))
    until("and that it is back", 240, lambda: '"resolved": [{"labels": {"alertname": "PrometheusSilent"' in on_host("cat", TOLD))


# From here on HapiRestarted stays for a quarter of an hour.


def test_hapi_is_down_and_then_restarted(watched: None) -> None:
    name = replicas()[0].name
    may = {"HapiReplicasMissing", "HapiMetricsMissing", "TargetsMissing"}
    with started_again(name), fault("HapiDown", 240, may):
        on_host("docker", "stop", name)
    gone("HapiDown")
    until("HapiRestarted fires", 240, lambda: "HapiRestarted" in alerts())


def test_a_heap_that_is_too_small(watched: None) -> None:
    """The owner gives HAPI less heap than it needs under load."""
    compose, kept = f"{PROJECT}/docker-compose.yml", "/var/tmp/docker-compose.yml.kept"
    on_host("cp", "-p", compose, kept)
    try:
        on_host("sed", "-i", f"s/^      HAPI_IG_VERSION: .*/&\\n      JAVA_MAX_HEAP: {SMALL_HEAP}/", compose)
        owner_up()
        until("HAPI is up again", 300, lambda: healthy(1))
        may = {"GarbageCollection", "HapiRestarted", "RequestsSlow", "SlowRequest", "HikariConnectionsPending"}
        with ExitStack() as load, fault("HeapNearlyFull", 600, may):
            load.enter_context(Load(rate=4, workers=4))
    finally:
        on_host("cp", "-p", kept, compose)
        on_host("rm", kept)
        owner_up()
    until("HAPI is up again", 300, lambda: healthy(1))
    gone("HeapNearlyFull")
