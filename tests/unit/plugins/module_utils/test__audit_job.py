# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daily job: what it does and tells, with a server that is played; and that the host needs nothing of Ansible for it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _audit_job, _change, _job, _partition_catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._audit_job import (
    Config,
    Outcome,
    as_json,
    as_lines,
    metrics_text,
    parse_config,
    parse_metrics,
)
from ansible_collections.dghs.bd_fhir.plugins.module_utils._findings import finding
from ansible_collections.dghs.bd_fhir.plugins.module_utils._job import BLIND, OK, OVERLAP, TROUBLE, UNUSABLE, JobError, Log
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partition_catalog import Reading, TableReport, judge, predicted
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import UTC, Month, Parent, Partition, Server, Settings, Step
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.job_on_host import ROOT, UTILS, imported, lay, started

ROLE = ROOT / "roles/audit_partitions"
NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
SERVER = Server(150000, False, NOW, user="postgres", is_superuser=True)
SITE = {"project_dir": "/opt/bd-fhir-national", "project_name": "bd-fhir-national", "login_password_variable": "AUDIT_DB_SUPERUSER_PASSWORD"}
TABLES = ("audit_events", "fhir_rejected_submissions")


def config(tmp_path: Path, **more: Any) -> Config:
    return parse_config(json.dumps({**SITE, "metrics": str(tmp_path / "job.prom"), "lease_wait": 0, "overlap_wait": 0, **more}))


def months(name: str, first: Month, last: Month, *without: Month) -> Parent:
    """A table with a partition for each month."""
    found, month = [], first
    while month <= last:
        if month not in without:
            found.append(Partition(
                month.year * 100 + month.month, "audit", "%s_%d_%02d" % (name, month.year, month.month), lower=month.start(UTC),
                upper=month.next().start(UTC), owner="audit_owner", bytes=8192,
            ))
        month = month.next()
    return Parent(1, "audit", name, keys=("event_time",), owner="audit_owner", partitions=tuple(found))


class Site:
    """The server: tables that can be looked at, and steps that are carried out or are refused."""

    def __init__(self) -> None:
        self.tables: dict[str, Optional[Parent]] = {name: months(name, Month(2025, 1), Month(2027, 12)) for name in TABLES}
        self.server = SERVER
        self.down: Optional[Exception] = None
        self.refuse: dict[str, Exception] = {}
        self.applied: list[str] = []
        self.readonly = False
        self.denied = ""

    # - what the job calls

    @contextmanager
    def connect(self, _login: Any, _timeout: int = 0) -> Iterator[Site]:
        if self.down:
            raise self.down
        yield self

    def execute(self, query: Any, params: Any = None) -> None:
        self.readonly = self.readonly or "read_only = on" in str(query)

    def look(self, _session: Any, server: Server, schema: str, table: str, settings: Settings, now: datetime) -> TableReport:
        report = TableReport(schema, table)
        parent = self.tables[table]
        if parent is None:
            report.error = "permission denied"
            report.findings.append(finding("table_unreadable", "error", report.full_name, "a table that can be read", "permission denied", "Log in."))
        else:
            judge(report, Reading(parent), server, settings, now)
        return report

    def apply(self, _session: Any, step: Step, _timeout: float, _tries: int) -> int:
        assert not self.readonly
        refusal = self.refuse.get(step.partition)
        if refusal:
            raise refusal
        self.applied.append(step.partition)
        parent = self.tables[step.table]
        assert parent is not None
        self.tables[step.table] = predicted(parent, [step])
        return 3 if step.action == "move_default_rows" else 0


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    item = Site()
    monkeypatch.setattr(_audit_job, "login_of", lambda config: None)
    monkeypatch.setattr(_audit_job, "connect", item.connect)
    for module in (_audit_job, _partition_catalog):
        monkeypatch.setattr(module, "look", item.look)
    monkeypatch.setattr(_partition_catalog, "apply", item.apply)
    monkeypatch.setattr(_audit_job, "read_server", lambda session: item.server)
    monkeypatch.setattr(_audit_job, "denied", lambda *args: item.denied)
    monkeypatch.setattr(_audit_job, "judge_maintenance", lambda *args: ([], []))
    return item


@pytest.fixture
def job(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run it as the scheduler does; return what it printed as JSON, with what is in the metrics and in the log."""
    # As if it lay in a directory of its own: that is what one run at a time is by, and tests run beside each other.
    monkeypatch.setattr(_job, "__file__", str(tmp_path / "_job.py"))

    def call(scheduled: bool = True, token: str = "", **more: Any) -> dict[str, Any]:
        capsys.readouterr()
        log = Log(str(more.pop("log", tmp_path / "job.log")))
        code = _audit_job.run(config(tmp_path, **more), log, scheduled, token, True)
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert found["exit_code"] == code
        path = tmp_path / "job.prom"
        found["text"] = path.read_text() if path.exists() else ""
        found["metrics"] = parse_metrics(found["text"])
        found["log"] = (tmp_path / "job.log").read_text() if (tmp_path / "job.log").exists() else ""
        found["ids"] = [item["id"] for item in found["findings"] if item["severity"] != "info"]
        return found

    return call


Job = Callable[..., dict[str, Any]]


# --- configuration -------------------------------------------------------------------------------------------------


def test_a_configuration() -> None:
    found = parse_config(json.dumps({**SITE, "tables": ["a", "অডিট"], "alarm_days": 30, "alert_command": ["/bin/true", "x"]}))
    assert (found.tables, found.alarm_days, found.alert_command, found.months_ahead) == (("a", "অডিট"), 30.0, ("/bin/true", "x"), 6)
    assert found.settings() == Settings(alarm_days=30.0)


@pytest.mark.parametrize(("more", "says"), [
    ({"months_ahead": 0}, "1 to 1200"),
    ({"months_ahead": "6"}, "months_ahead is '6' in the configuration, which is no int"),
    ({"months_ahead": True}, "which is no int"),
    ({"repair": 1}, "which is no bool"),
    ({"tables": "audit_events"}, "no list of texts"),
    ({"tables": []}, "tables is empty"),
    ({"time_zone": "Asia/Dacca2"}, "no time zone Asia/Dacca2"),
    ({"lock_tries": 0}, "lock_tries is 0"),
    # At night nobody consents to a move without a bound.
    ({"move_limit": 0}, "move_limit is 0"),
    ({"password": "x"}, "has password, which the job does not know"),
    ({"project_dir": ""}, "neither project_dir nor host"),
    ({"login_password_variable": ""}, "no login_password_variable"),
    ({"host": "db"}, "no password_file"),
])
def test_a_configuration_that_cannot_be_used(more: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        parse_config(json.dumps({**SITE, **more}))


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(JobError, match="JSON"):
        parse_config(text)


def test_a_configuration_that_cannot_be_read_is_said_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "job.log"
    assert _audit_job.main(["--config", str(tmp_path / "gone.json"), "run", "--log", str(log)]) == UNUSABLE
    assert "gone.json can't be read" in capsys.readouterr().err
    assert "gone.json can't be read" in log.read_text()


# --- one run -------------------------------------------------------------------------------------------------------


def test_all_is_well(job: Job, site: Site) -> None:
    found = job()
    assert (found["exit_code"], found["up"], found["ids"], site.applied) == (OK, True, [], [])
    assert found["metrics"]["up"] == 1
    assert found["metrics"]["last_success_timestamp_seconds"] == found["metrics"]["last_run_timestamp_seconds"]
    assert 'bd_fhir_audit_partition_days_left{schema="audit",table="audit_events"} 400.88' in found["text"]
    assert 'bd_fhir_audit_partition_findings{severity="error"} 0' in found["text"]
    assert "scheduled run: exit code 0, days left 400.88, 0 changes" in found["log"]


def test_what_is_missing_is_made_and_written_down(job: Job, site: Site, tmp_path: Path) -> None:
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    found = job()
    assert (found["exit_code"], site.applied) == (OK, ["audit_events_2027_03"])
    assert [step["partition"] for step in found["steps"]] == ["audit_events_2027_03"]
    assert found["metrics"]["steps"] == 1
    assert "done: create audit.audit_events_2027_03" in found["log"]
    journal = [json.loads(line) for line in (tmp_path / "journal/bd-fhir-national/journal.jsonl").read_text().splitlines()]
    assert [(item["module"], item["action"], item["object"], item["token"]) for item in journal] == [
        ("audit_partitions_job", "create", "audit.audit_events_2027_03", 0)
    ]
    assert job()["steps"] == []


def test_case_90_a_month_is_made_long_before_it_begins(job: Job, site: Site) -> None:
    """On each day of a year of which nothing was made in advance, the month to come is there half a year before."""
    for name in TABLES:
        site.tables[name] = months(name, Month(2026, 1), Month(2026, 12))
    for day in range(0, 365, 11):
        now = NOW + timedelta(days=day)
        site.server = Server(150000, False, now, user="postgres", is_superuser=True)
        found = job()
        assert found["exit_code"] == OK
        assert found["days_left"] >= 181, now


def test_one_table_does_not_stop_the_other(job: Job, site: Site) -> None:
    for name in TABLES:
        site.tables[name] = months(name, Month(2025, 1), Month(2027, 12), Month(2027, 3), Month(2027, 5))
    site.refuse["audit_events_2027_03"] = PostgresError("somebody holds a lock", "statement", "55P03")
    found = job()
    assert found["exit_code"] == TROUBLE
    # What waits for the same lock is left for the next run.
    assert site.applied == ["fhir_rejected_submissions_2027_03", "fhir_rejected_submissions_2027_05"]
    assert sorted(set(found["ids"])) == ["coverage_gap", "upkeep_failed"]
    assert found["metrics"]["exit_code"] == TROUBLE
    site.refuse.clear()
    assert job()["exit_code"] == OK


def test_one_month_does_not_stop_the_other(job: Job, site: Site) -> None:
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3), Month(2027, 5))
    site.refuse["audit_events_2027_03"] = PostgresError("no room", "statement", "53100")
    found = job()
    assert (found["exit_code"], site.applied) == (TROUBLE, ["audit_events_2027_05"])
    assert "create of audit_events_2027_03: no room" in next(item["found"] for item in found["findings"] if item["id"] == "upkeep_failed")


def test_no_right_to_create(job: Job, site: Site) -> None:
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    site.denied = "The user reader may not change audit.audit_events."
    found = job()
    assert (found["exit_code"], site.applied, found["ids"]) == (TROUBLE, [], ["upkeep_failed", "coverage_gap"])


@pytest.mark.parametrize("error", [
    PostgresError("No session as postgres: password authentication failed", "password"),
    PostgresError("The service postgres-audit has no running container", "container"),
    _audit_job.ComposeError("The docker command was not found on this host."),
    _audit_job.CatalogError("The server is PostgreSQL 13; 14 or newer is needed."),
], ids=["password", "container", "docker", "old"])
def test_what_could_not_be_looked_at_is_no_success(job: Job, site: Site, error: Exception) -> None:
    good = job()["metrics"]["last_success_timestamp_seconds"]
    site.down = error
    found = job()
    assert (found["exit_code"], found["up"], found["ids"], found["days_left"]) == (BLIND, False, ["audit_unreachable"], None)
    assert found["metrics"]["up"] == 0
    assert found["metrics"]["last_success_timestamp_seconds"] == good
    assert found["metrics"]["last_run_timestamp_seconds"] > good
    # No figure of the run before is left to look like a new one.
    assert "days_left{" not in found["text"]
    assert "days left unknown" in found["log"]


def test_a_session_that_is_lost_in_the_middle(job: Job, site: Site) -> None:
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    site.refuse["audit_events_2027_03"] = PostgresError("The session was lost", "lost")
    assert (job()["exit_code"], job()["metrics"]["up"]) == (BLIND, 0)


def test_a_table_that_cannot_be_read(job: Job, site: Site) -> None:
    site.tables["audit_events"] = None
    site.tables["fhir_rejected_submissions"] = months("fhir_rejected_submissions", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    found = job()
    assert (found["exit_code"], found["up"], site.applied) == (BLIND, False, ["fhir_rejected_submissions_2027_03"])
    assert 'days_left{schema="audit",table="fhir_rejected_submissions"}' in found["text"]
    assert 'days_left{schema="audit",table="audit_events"}' not in found["text"]


def test_a_standby_takes_nothing(job: Job, site: Site) -> None:
    site.server = Server(150000, True, NOW)
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    found = job()
    assert (found["exit_code"], site.applied, found["ids"]) == (TROUBLE, [], ["server_is_standby", "coverage_gap"])


def test_a_fault_of_the_job_itself_turns_the_metric_red(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job()
    monkeypatch.setattr(_audit_job, "read_server", lambda session: {}["secret-Word"])
    found = job()
    assert (found["exit_code"], found["metrics"]["up"], found["ids"]) == (BLIND, 0, ["audit_job_crashed"])
    assert "KeyError in <lambda>" in found["findings"][0]["found"]
    assert "secret-Word" not in found["log"]


# --- the lease -----------------------------------------------------------------------------------------------------


def lease(tmp_path: Path) -> str:
    """Somebody opens a change; return the token."""
    store = _change.Store(str(tmp_path / "journal/bd-fhir-national"))
    taken = _change.take(store, _change.Wish("restore", "CHG-7", "rahim@ops", {}, 900))
    assert taken.token
    return str(taken.token)


def test_an_operators_change_is_not_got_into(job: Job, site: Site, tmp_path: Path) -> None:
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    token = lease(tmp_path)
    found = job()
    assert (found["exit_code"], site.applied, found["ids"]) == (TROUBLE, [], ["audit_upkeep_postponed", "coverage_gap"])
    assert "rahim@ops" in found["findings"][0]["found"]
    site.readonly = False
    # The operator's own play runs it as a part of the change.
    found = job(scheduled=False, token=token)
    assert (found["exit_code"], site.applied) == (OK, ["audit_events_2027_03"])
    journal = [json.loads(line) for line in (tmp_path / "journal/bd-fhir-national/journal.jsonl").read_text().splitlines()]
    assert [(item["kind"], item["owner"]) for item in journal] == [("opened", "rahim@ops"), ("step", "rahim@ops")]
    assert "done: " not in found["log"].split("restore")[0]


def test_a_change_that_is_opened_meanwhile_ends_the_changing(job: Job, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TABLES:
        site.tables[name] = months(name, Month(2025, 1), Month(2027, 12), Month(2027, 3))
    really = site.apply

    def apply(*args: Any) -> int:
        result = really(*args)
        lease(tmp_path)
        return result

    monkeypatch.setattr(_partition_catalog, "apply", apply)
    found = job()
    assert (found["exit_code"], site.applied) == (TROUBLE, ["audit_events_2027_03"])
    assert "rahim@ops" in next(item["found"] for item in found["findings"] if item["id"] == "upkeep_failed")


def test_the_lease_is_waited_for(tmp_path: Path) -> None:
    token = lease(tmp_path)
    changes = _audit_job.Changes.of(config(tmp_path), "")
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        _change.close(_change.Store(str(tmp_path / "journal/bd-fhir-national")), _change.Token.parse(token), "succeeded", "")

    assert changes.wait(60, pause) == ""
    assert len(waited) == 1


def test_a_user_without_a_right_to_the_journal(job: Job, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_job, "reachable", lambda directory: False)
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    found = job()
    assert (found["exit_code"], found["ids"], site.applied) == (OK, ["audit_upkeep_unrecorded"], ["audit_events_2027_03"])


def test_what_may_be_kept_where(tmp_path: Path) -> None:
    assert _job.reachable(str(tmp_path / "not/yet"))
    (tmp_path / "file").write_text("")
    assert _job.reachable(str(tmp_path))


# --- one run at a time ---------------------------------------------------------------------------------------------


def test_a_run_beside_another_one(job: Job, tmp_path: Path) -> None:
    job()
    before = (tmp_path / "job.prom").read_text()
    told = tmp_path / "told.json"
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = job(alert_command=["/usr/bin/tee", str(told)])
    finally:
        os.close(descriptor)
    assert (found["exit_code"], found["ids"]) == (OVERLAP, ["audit_job_overlaps"])
    # They are of the run that is at work, and its own age tells when it hangs.
    assert found["text"] == before
    assert json.loads(told.read_text())["exit_code"] == OVERLAP
    assert job()["exit_code"] == OK


# --- telling -------------------------------------------------------------------------------------------------------


def test_case_88_the_age_of_the_scheduler_is_told(job: Job, site: Site) -> None:
    """A run by hand or by a play does not make it look as if cron worked."""
    first = job(scheduled=False)["metrics"]["scheduler_timestamp_seconds"]
    time.sleep(0.01)
    assert job(scheduled=False)["metrics"]["scheduler_timestamp_seconds"] == first
    site.down = PostgresError("no", "unreachable")
    found = job(scheduled=True)["metrics"]
    assert found["scheduler_timestamp_seconds"] == found["last_run_timestamp_seconds"] > first


def test_the_metrics() -> None:
    report = TableReport("audit", 'a"b\\c')
    judge(report, Reading(months('a"b\\c', Month(2026, 1), Month(2026, 12))), SERVER, Settings(), NOW)
    outcome = Outcome(True, [report], [finding("coverage_gap", "error", "a", "b", "c", "d")], [{}])
    text = metrics_text(outcome, {"last_success_timestamp_seconds": 5.0}, 1764126000.25, True)
    assert text == """# HELP bd_fhir_audit_partition_up Whether the last run could look at the server and at every table.
# TYPE bd_fhir_audit_partition_up gauge
bd_fhir_audit_partition_up 1
# HELP bd_fhir_audit_partition_last_run_timestamp_seconds When the job ran last.
# TYPE bd_fhir_audit_partition_last_run_timestamp_seconds gauge
bd_fhir_audit_partition_last_run_timestamp_seconds 1764126000.25
# HELP bd_fhir_audit_partition_last_success_timestamp_seconds When a run last ended without trouble; 0 before the first one.
# TYPE bd_fhir_audit_partition_last_success_timestamp_seconds gauge
bd_fhir_audit_partition_last_success_timestamp_seconds 5
# HELP bd_fhir_audit_partition_scheduler_timestamp_seconds When the scheduler started the job last; before its first time, when that began \
to be waited for.
# TYPE bd_fhir_audit_partition_scheduler_timestamp_seconds gauge
bd_fhir_audit_partition_scheduler_timestamp_seconds 1764126000.25
# HELP bd_fhir_audit_partition_exit_code How the last run ended: 0 well, 1 trouble, 2 it could not look.
# TYPE bd_fhir_audit_partition_exit_code gauge
bd_fhir_audit_partition_exit_code 1
# HELP bd_fhir_audit_partition_steps How many changes the last run made.
# TYPE bd_fhir_audit_partition_steps gauge
bd_fhir_audit_partition_steps 1
# HELP bd_fhir_audit_partition_findings How many findings the last run had.
# TYPE bd_fhir_audit_partition_findings gauge
bd_fhir_audit_partition_findings{severity="error"} 1
bd_fhir_audit_partition_findings{severity="warning"} 0
bd_fhir_audit_partition_findings{severity="info"} 0
# HELP bd_fhir_audit_partition_days_left For how many days the table has partitions from now on without a hole.
# TYPE bd_fhir_audit_partition_days_left gauge
bd_fhir_audit_partition_days_left{schema="audit",table="a\\"b\\\\c"} 35.88
# HELP bd_fhir_audit_partition_bytes Size of all partitions with indexes and TOAST.
# TYPE bd_fhir_audit_partition_bytes gauge
bd_fhir_audit_partition_bytes{schema="audit",table="a\\"b\\\\c"} 98304
"""
    assert parse_metrics(text)["last_success_timestamp_seconds"] == 5.0
    assert parse_metrics("bd_fhir_audit_partition_up x\nother 1\n" + "bd_fhir_audit_partition_up 0") == {"up": 0.0}


def test_rows_in_the_default_partition_that_could_not_be_counted_are_no_zero() -> None:
    parent = months("a", Month(2026, 1), Month(2027, 12))
    parent = Parent(**{**parent.__dict__, "default_rows": 0})
    report = TableReport("audit", "a")
    judge(report, Reading(parent), SERVER, Settings(), NOW)
    assert "default_rows{" in metrics_text(Outcome(True, [report]), {}, 1.0, False)
    report.findings.append(finding("default_unreadable", "error", "a", "b", "c", "d"))
    assert "default_rows{" not in metrics_text(Outcome(True, [report]), {}, 1.0, False)


def test_the_metrics_are_readable_by_all_and_replaced_as_a_whole(job: Job, tmp_path: Path) -> None:
    job()
    first = os.stat(tmp_path / "job.prom")
    assert first.st_mode & 0o777 == 0o644
    job()
    assert os.stat(tmp_path / "job.prom").st_ino != first.st_ino
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".prom"] == ["job.prom"]


def test_metrics_that_cannot_be_written(job: Job, tmp_path: Path) -> None:
    found = job(metrics=str(tmp_path / "gone/job.prom"))
    assert (found["exit_code"], found["ids"]) == (TROUBLE, ["audit_metrics_unwritable"])


def test_the_alert_command(job: Job, site: Site, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command = ["/usr/bin/tee", str(told)]
    job(alert_command=command)
    assert not told.exists(), "an alert without trouble"
    site.down = PostgresError("password authentication failed", "password")
    job(alert_command=command)
    message = json.loads(told.read_text())
    assert (message["exit_code"], message["up"], message["findings"][0]["id"]) == (BLIND, False, "audit_unreachable")
    assert message["host"]


@pytest.mark.parametrize(("command", "says"), [
    (["/bin/sh", "-c", "echo no such user >&2; exit 67"], "exit code 67: no such user"),
    (["/no/such/program"], "can't be run"),
    (["/bin/sleep", "5"], "within 0.2 seconds"),
])
def test_an_alert_command_that_fails_is_trouble_too(job: Job, site: Site, command: list[str], says: str) -> None:
    site.down = PostgresError("no", "unreachable")
    found = job(alert_command=command, alert_timeout=0.2)
    assert found["ids"] == ["audit_unreachable", "audit_alert_failed"]
    assert says in found["log"]
    assert says in found["findings"][1]["found"]


def test_json_is_all_that_standard_output_has(capsys: pytest.CaptureFixture[str]) -> None:
    Log(print_json=True).write(["a line"])
    Log().write(["another"])
    said = capsys.readouterr()
    assert ("a line" in said.err, "a line" in said.out, "another" in said.out) == (True, False, True)


def test_a_log_that_cannot_be_written_keeps_nothing_from_being_done(job: Job, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.tables["audit_events"] = months("audit_events", Month(2025, 1), Month(2027, 12), Month(2027, 3))
    found = job(log=str(tmp_path / "gone/job.log"))
    assert (found["exit_code"], found["ids"], site.applied) == (OK, ["audit_log_unwritable"], ["audit_events_2027_03"])


def test_the_log_is_one_line_each_and_not_for_everybody(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "job.log"))
    log.write(["a\nb", "অডিট"])
    lines = (tmp_path / "job.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["a b", "অডিট"]
    assert os.stat(tmp_path / "job.log").st_mode & 0o007 == 0


def test_what_people_and_programs_read(tmp_path: Path) -> None:
    report = TableReport("audit", "audit_events")
    judge(report, Reading(months("audit_events", Month(2025, 1), Month(2026, 12))), SERVER, Settings(), NOW)
    outcome = Outcome(True, [report], list(report.findings))
    assert as_lines(outcome, "check")[:2] == [
        "check: exit code 1, days left 35.88, 0 changes, findings: %d error, 0 warning, 0 info" % outcome.count("error"),
        "audit.audit_events: 35.88 days left, partitions until 2027-01-01T00:00:00Z",
    ]
    told = as_json(config(tmp_path), outcome)
    assert told["tables"][0]["covered_until"] == "2027-01-01T00:00:00Z"
    assert [step["partition"] for step in told["tables"][0]["plan"]][0] == "audit_events_2027_01"
    json.dumps(told)


# --- only looking --------------------------------------------------------------------------------------------------


def test_case_86_the_clock_at_the_end_of_the_months_that_were_made(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On 2027-12-20 the check is red, as it has been for weeks; it changes nothing, and says what a run would make."""
    path = tmp_path / "job.json"
    path.write_text(json.dumps(SITE))
    assert _audit_job.main(["--config", str(path), "check", "--now", "2027-12-20T00:00:00Z"]) == TROUBLE
    out = capsys.readouterr().out
    assert "days left 12" in out
    assert "a run would: create audit.audit_events_2028_01" in out
    assert site.readonly
    assert site.applied == []
    # It has warned since the half year was no longer whole, and alarms from 45 days on.
    assert _audit_job.main(["--config", str(path), "check", "--now", "2027-11-16T00:00:00Z", "--json"]) == OK
    assert [item["id"] for item in json.loads(capsys.readouterr().out)["findings"]] == ["horizon_short", "horizon_short"]
    assert _audit_job.main(["--config", str(path), "check", "--now", "2027-11-18T00:00:00Z", "--json"]) == TROUBLE
    assert json.loads(capsys.readouterr().out)["days_left"] == 44
    assert _audit_job.main(["--config", str(path), "check"]) == OK
    assert _audit_job.main(["--config", str(path), "check", "--now", "2027-12-20"]) == UNUSABLE


def test_check_config_and_check_cron(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(SITE))
    assert _audit_job.main(["--config", str(path), "check-config"]) == OK
    path.write_text("{}")
    assert _audit_job.main(["--config", str(path), "check-config"]) == UNUSABLE
    cron = tmp_path / "bd-fhir"
    cron.write_text("23 4 * * * root /bin/sh x\n")
    assert _audit_job.main(["check-cron", "--content", str(cron)]) == OK
    monkeypatch.setattr(_job, "daemons", list)
    capsys.readouterr()
    assert _audit_job.main(["check-cron", str(cron)]) == TROUBLE
    assert "no cron daemon runs" in capsys.readouterr().out
    cron.write_text("63 4 * * * root /bin/sh x\n")
    assert _audit_job.main(["check-cron", "--content", str(cron)]) == TROUBLE
    assert _audit_job.main(["check-cron", "--content", str(tmp_path / "gone")]) == TROUBLE


def test_the_loop_of_a_container(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**SITE, "metrics": str(tmp_path / "job.prom")}))
    clock = [datetime(2026, 11, 26, 4, 0, tzinfo=timezone.utc)]
    runs: list[datetime] = []

    def sleep(seconds: float) -> None:
        clock[0] += timedelta(seconds=seconds)

    def run(*args: Any, **more: Any) -> int:
        runs.append(clock[0])
        if len(runs) == 3:
            path.write_text("{")
        if len(runs) == 4:
            raise SystemExit(0)
        return OK

    monkeypatch.setattr(_audit_job.time, "sleep", sleep)
    monkeypatch.setattr(_audit_job.signal, "signal", lambda *args: None)
    monkeypatch.setattr(_audit_job, "run", run)

    def now() -> datetime:
        if clock[0] > datetime(2026, 11, 28, 5, tzinfo=timezone.utc):
            path.write_text(json.dumps(SITE))
        return clock[0]

    with pytest.raises(SystemExit):
        _audit_job.loop(str(path), "23", "4", now)
    assert [moment.isoformat()[8:16] for moment in runs] == ["26T04:00", "26T04:23", "27T04:23", "29T04:23"]
    assert "no JSON" in capsys.readouterr().out
    with pytest.raises(JobError, match="'25'"):
        _audit_job.loop(str(path), "23", "25")


# --- the site's own function ---------------------------------------------------------------------------------------


class Functions:
    """A session that knows one function."""

    def __init__(self, definition: str, callers: list[dict[str, Any]]) -> None:
        self.definition, self.callers = definition, callers
        self.done: list[str] = []

    def execute(self, query: Any, params: Any = None) -> None:
        self.done.append(query if isinstance(query, str) else repr(query))

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        assert params == ("audit", "f")
        if "pg_get_functiondef" in query:
            return [{"definition": self.definition, "owner": "audit_owner"}] if self.definition else []
        return self.callers


MEMORY = {
    "schema": "audit", "name": "f", "definition": "CREATE FUNCTION old", "owner": "audit_owner",
    "callers": [{"grantee": "m", "grantable": False}],
}
OURS = "CREATE FUNCTION f AS $$\n-- Written by dghs.bd_fhir.audit_partition.\n$$"


@pytest.mark.parametrize(("now", "before", "result"), [
    (OURS, "CREATE FUNCTION old", "restored"),
    ("", "CREATE FUNCTION old", "restored"),
    (OURS, "", "removed"),
    ("CREATE FUNCTION old", "CREATE FUNCTION old", "unchanged"),
    ("CREATE FUNCTION theirs", "CREATE FUNCTION old", "kept"),
    ("", "", "unchanged"),
])
def test_the_function_from_before(now: str, before: str, result: str) -> None:
    session: Any = Functions(now, [{"grantee": None, "grantable": None, "void": True}])
    assert _audit_job.restore_function(session, {**MEMORY, "definition": before}, 3.0) == result
    done = " ".join(session.done)
    assert ("DROP ROUTINE" in done) == (bool(now) and result in ("restored", "removed"))
    assert ("CREATE FUNCTION old" in done and "OWNER TO" in done and "GRANT EXECUTE" in done) == (result == "restored")


def test_what_is_remembered_of_a_function() -> None:
    callers = [{"grantee": "m", "grantable": False, "void": True}]
    session: Any = Functions("CREATE FUNCTION old", callers)
    assert _audit_job.function_of(session, "audit", "f") == MEMORY
    assert _audit_job.function_of(Functions("", callers), "audit", "f")["definition"] == ""  # type: ignore[arg-type]


def test_nothing_to_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _audit_job.retire(config(tmp_path), "{}") == OK
    assert capsys.readouterr().out == "unchanged\n"
    for text in ("x", '{"schema": "audit"}', "[1]"):
        with pytest.raises(JobError, match="can't be read"):
            _audit_job.retire(config(tmp_path), text)


# --- on the host ---------------------------------------------------------------------------------------------------


def test_the_role_lays_all_that_the_job_imports_and_no_more() -> None:
    laid = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["_audit_partitions_files"]
    assert laid == sorted(imported("_audit_job.py", set()))


def test_the_role_gives_only_what_the_job_knows() -> None:
    written = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["_audit_partitions_config"]
    assert set(written) <= {field.name for field in fields(Config)}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The folder that the role makes on a host."""
    files = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))["_audit_partitions_files"]
    return lay("audit_partitions", files, tmp_path / "bd-fhir-audit/bd_fhir_audit")


def test_it_runs_without_ansible(host: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**SITE, "project_dir": str(tmp_path), "metrics": str(tmp_path / "job.prom"), "state_dir": str(tmp_path / "state")}))
    done = started(host, "--config", str(path), "check-config")
    assert (done.returncode, done.stderr) == (OK, "")
    # There is no deployment: that is told, and no traceback.
    done = started(host, "--config", str(path), "run", "--scheduled", "--log", str(tmp_path / "job.log"))
    assert (done.returncode, done.stdout, done.stderr) == (BLIND, "", "")
    assert "bd_fhir_audit_partition_up 0" in (tmp_path / "job.prom").read_text()
    assert "AUDIT_DB_SUPERUSER_PASSWORD is not set" in (tmp_path / "job.log").read_text()


def test_the_probe_of_the_host(tmp_path: Path) -> None:
    probe = (UTILS / "_probe.py").read_text(encoding="utf-8")

    def ask(*args: str) -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-c", probe, "audit_partitions", *args], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    found = ask("cron", "nobody-here", "Asia/Dacca2", str(tmp_path / "a/b"), str(tmp_path))
    assert found["missing_directories"] == [str(tmp_path / "a"), str(tmp_path / "a/b")]
    assert any("no user nobody-here" in text for text in found["problems"])
    assert any("no time zone Asia/Dacca2" in text for text in found["problems"])
    assert isinstance(found["zone"], str)
    # A container needs no cron.
    assert not any("cron" in text for text in ask("container", "root", "UTC", "")["problems"])
