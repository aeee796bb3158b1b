# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The watch over HAPI's partitions, with a server that is played; on real tables: tests/integration/real/test_hfj_job.py."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import jinja2
import pytest
import yaml
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change, _hfj_catalog, _hfj_job, _hfj_sql, _job
from ansible_collections.dghs.bd_fhir.plugins.module_utils._cron import faults_of
from ansible_collections.dghs.bd_fhir.plugins.module_utils._findings import finding
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import HfjError, Part, Relation, Sequence, Step, Table
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj_job import JOB, Config, Outcome, Report, as_lines, figures
from ansible_collections.dghs.bd_fhir.plugins.module_utils._job import BLIND, OK, OVERLAP, TROUBLE, UNUSABLE, JobError, Log, parse_config
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.job_on_host import ROOT, UTILS, imported, lay, started

ROLE = ROOT / "roles/hapi_partitioning"
VARS = yaml.safe_load((ROLE / "vars/job.yml").read_text(encoding="utf-8"))
SITE = {"project_dir": "/opt/bd-fhir-national", "project_name": "bd-fhir-national", "login_password_variable": "FHIR_DB_SUPERUSER_PASSWORD"}
# A thousand ids a day.
SEQUENCE = Sequence("seq_resource_id", 5000, 50, False, 5003, 1000.0)
WIDTH = 100000


def config(tmp_path: Path, **more: Any) -> Config:
    return parse_config(Config, json.dumps({**SITE, "metrics": str(tmp_path / "job.prom"), "overlap_wait": 0, **more}))


def swapped(name: str = "t", first: int = 20000, count: int = 2, analyzed: bool = True) -> Table:
    """A partitioned table with the first partition and so many after it."""
    lowers = [first + number * WIDTH for number in range(count)]
    parts = (Part(name + "_p0", None, first), *(Part("%s_p%d" % (name, lower), lower, lower + WIDTH) for lower in lowers))
    main = Relation(2, "public", name, "p", "app", 4096, 77.0, parts=parts, analyzed=analyzed, partition_key="RANGE (res_id)")
    return Table("public", name, "sp_id", "res_id", False, main, None, Relation(1, "public", name + "_p0", "r"))


def plain(name: str = "t", bound: Optional[int] = None) -> Table:
    """A table that is not partitioned; with a bound, its CHECK is there."""
    return Table("public", name, "sp_id", "res_id", False, Relation(1, "public", name, "r", "app", 2048, -1.0, check_bound=bound, check_valid=True))


class Site:
    """The server: tables that can be looked at, and steps that are carried out or are refused."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {"t": swapped(), "u": plain("u")}
        self.sequence = SEQUENCE
        self.server: dict[str, Any] = {"version": 150000, "in_recovery": False, "deadlock_timeout": 1.0, "user": "postgres"}
        self.down: Optional[Exception] = None
        self.unreadable: dict[str, Exception] = {}
        self.refuse: dict[str, Exception] = {}
        self.busy: Optional[Exception] = None
        self.applied: list[str] = []
        self.limits: list[_hfj_sql.Limits] = []
        self.executed: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None

    # - what the job calls

    @contextmanager
    def connect(self, _login: Any, _timeout: int = 0) -> Iterator[Site]:
        if self.down:
            raise self.down
        yield self

    def execute(self, query: Any, params: Any = None) -> None:
        self.executed.append(str(query))

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        assert query == _hfj_catalog.SERVER
        return [self.server]

    def waiting(self, _session: Any, _schema: str) -> list[str]:
        return [name for name, table in self.tables.items() if table.main and table.main.check_bound is not None]

    def read_table(self, _session: Any, schema: str, name: str) -> Table:
        if name in self.unreadable:
            raise self.unreadable[name]
        return self.tables.get(name, Table(schema, name))

    @contextmanager
    def alone(self, _session: Any, _table: Table) -> Iterator[None]:
        if self.busy:
            raise self.busy
        yield

    def carry_out(self, _session: Any, table: Table, step: Step, *arguments: Any) -> int:
        assert not any("read_only = on" in text for text in self.executed)
        self.limits.append(replace(arguments[2]))
        if step.object in self.refuse:
            raise self.refuse[step.object]
        self.applied.append("%s %s" % (step.action, step.object))
        assert table.main is not None
        if step.action == "drop_check":
            self.tables[table.name] = replace(table, main=replace(table.main, check_bound=None))
        else:
            assert step.action == "add_partition"
            parts = (*table.main.parts, Part(step.object, step.lower, step.upper))
            self.tables[table.name] = replace(table, main=replace(table.main, parts=parts))
        self.meanwhile()
        return 0


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    item = Site()
    monkeypatch.setattr(_hfj_job, "login_of", lambda config: None)
    monkeypatch.setattr(_hfj_job, "connect", item.connect)
    monkeypatch.setattr(_hfj_catalog, "waiting", item.waiting)
    monkeypatch.setattr(_hfj_catalog, "read_table", item.read_table)
    monkeypatch.setattr(_hfj_catalog, "read_sequence", lambda *args: item.sequence)
    monkeypatch.setattr(_hfj_catalog, "candidates", lambda session, schema: list(item.tables))
    monkeypatch.setattr(_hfj_sql, "alone", item.alone)
    monkeypatch.setattr(_hfj_sql, "carry_out", item.carry_out)
    return item


Job = Callable[..., dict[str, Any]]


@pytest.fixture
def job(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run it as the scheduler does; return what it printed as JSON, with what is in the metrics and in the log."""
    # As if it lay in a directory of its own: that is what one run at a time is by, and tests run beside each other.
    monkeypatch.setattr(_job, "__file__", str(tmp_path / "_job.py"))

    def call(scheduled: bool = True, token: str = "", **more: Any) -> dict[str, Any]:
        capsys.readouterr()
        (tmp_path / "job.log").unlink(missing_ok=True)
        code = _hfj_job.run(config(tmp_path, **more), Log(str(tmp_path / "job.log")), scheduled, token, True)
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert found["exit_code"] == code
        path = tmp_path / "job.prom"
        found["text"] = path.read_text() if path.exists() else ""
        found["metrics"] = JOB.parse_metrics(found["text"])
        found["log"] = (tmp_path / "job.log").read_text()
        found["ids"] = [item["id"] for item in found["findings"] if item["severity"] != "info"]
        return found

    return call


def journal(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "journal/bd-fhir-national/journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "says"), [
    ({"ahead": 0}, "ahead is 0"),
    ({"ahead": 101}, "100 or less"),
    ({"ahead": "2"}, "which is no int"),
    ({"width": -1}, "width is -1"),
    ({"extend_hours": "25"}, "extend_hours can't be used: '25'"),
    ({"extend_hours": ""}, "extend_hours can't be used"),
    ({"lock_timeout_seconds": 0}, "lock_timeout_seconds is 0"),
    ({"lock_tries": 0}, "lock_tries is 0"),
    ({"alert_hours": -1}, "alert_hours is -1"),
    ({"tables": "hfj_spidx_token"}, "no list of texts"),
    ({"project_dir": ""}, "neither project_dir nor host"),
    ({"login_password_variable": ""}, "no login_password_variable"),
    ({"password": "x"}, "has password, which the job does not know"),
])
def test_a_configuration_that_cannot_be_used(more: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        parse_config(Config, json.dumps({**SITE, **more}))


def test_an_hour_in_which_partitions_are_made() -> None:
    found = parse_config(Config, json.dumps({**SITE, "extend_hours": "20-22"}))
    assert [hour for hour in range(24) if found.extends_at(hour)] == [20, 21, 22]
    assert Config().extends_at(0)


# --- one run -------------------------------------------------------------------------------------------------------


def test_all_is_well(job: Job, site: Site) -> None:
    found = job()
    assert (found["exit_code"], found["up"], found["ids"], site.applied) == (OK, True, [], [])
    assert found["metrics"]["last_success_timestamp_seconds"] == found["metrics"]["last_run_timestamp_seconds"]
    assert (found["metrics"]["up"], found["metrics"]["sequence"], found["metrics"]["ids_per_day"]) == (1, 5050, 1000)
    # What nobody has named and nothing was done with is of no interest.
    assert [table["table"] for table in found["tables"]] == ["t"]
    assert 'bd_fhir_hfj_partition_days_left{schema="public",table="t"} 214.95' in found["text"]
    # 144 times a day: one line.
    assert [line.split(" ", 1)[1] for line in found["log"].splitlines()] == [
        "scheduled run: exit code 0, 1 tables, days left 214.95, 0 changes, findings: 0 error, 0 warning, 0 info"
    ]
    assert "public.t: swapped, 214950 ids left" in job(scheduled=False)["log"]


def test_nothing_is_partitioned_yet(job: Job, site: Site) -> None:
    site.tables = {"u": plain("u")}
    found = job()
    assert (found["exit_code"], found["metrics"]["up"], found["tables"], found["days_left"]) == (OK, 1, [], None)
    assert [table["state"] for table in job(tables=["u"])["tables"]] == ["plain"]


def test_a_check_is_dropped_in_time(job: Job, site: Site, tmp_path: Path) -> None:
    """A day's ids, or the busiest hours, may come before it is looked again."""
    site.tables["u"] = plain("u", 7000)
    found = job()
    assert (found["exit_code"], site.applied) == (OK, [])
    assert 'bd_fhir_hfj_partition_check_ids_left{schema="public",table="u"} 1950' in found["text"]
    assert 'bd_fhir_hfj_partition_state{schema="public",table="u",state="preparing"} 1' in found["text"]
    assert "days_left{schema=\"public\",table=\"u\"}" not in found["text"]
    site.sequence = replace(SEQUENCE, last=5951)
    found = job()
    # It did what it is there for, and still somebody has to know: what was prepared is of no use any more.
    assert (found["exit_code"], site.applied, found["ids"]) == (TROUBLE, ["drop_check u"], ["check_dropped"])
    assert "done: drop_check public.u" in found["log"]
    assert [(row["module"], row["action"], row["object"]) for row in journal(tmp_path)] == [("hapi_partitioning_job", "drop_check", "public.u")]
    found = job()
    assert (found["exit_code"], found["ids"]) == (OK, [])


def test_what_waits_is_watched_whatever_was_named(job: Job, site: Site) -> None:
    site.tables["u"] = plain("u", 5100)
    assert job(tables=["t"])["exit_code"] == TROUBLE
    assert site.applied == ["drop_check u"]


def test_a_check_that_cannot_be_dropped(job: Job, site: Site) -> None:
    site.tables["u"] = plain("u", 5100)
    site.refuse["u"] = PostgresError("held by pid 7", "statement", "55P03")
    found = job()
    assert (found["exit_code"], found["ids"]) == (TROUBLE, ["hfj_upkeep_failed", "check_near"])
    assert "held by pid 7" in found["findings"][0]["found"]
    # It is tried as often as it takes, and partitions only so often that nobody minds.
    assert [limits.tries for limits in site.limits] == [20]


def test_partitions_are_made_ahead(job: Job, site: Site, tmp_path: Path) -> None:
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    found = job()
    assert (found["exit_code"], site.applied) == (OK, ["add_partition t_p220000"])
    assert found["metrics"]["steps"] == 1
    assert 'bd_fhir_hfj_partition_partitions_ahead{schema="public",table="t"} 2' in found["text"]
    assert [(row["action"], row["object"], row["after"]) for row in journal(tmp_path)] == [
        ("add_partition", "public.t_p220000", {"lower": 220000, "upper": 320000})
    ]
    assert site.limits[0].tries == _hfj_job.EXTEND_TRIES
    assert job()["steps"] == []


def test_partitions_are_made_in_the_hours_that_were_given(job: Job, site: Site) -> None:
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    other = str((datetime.now(timezone.utc).hour + 12) % 24)
    assert job(extend_hours=other)["steps"] == []
    # Not when they run out.
    assert len(job(extend_hours=other, alarm_days=1000)["steps"]) == 2
    assert job(extend_hours=other)["exit_code"] == OK


def test_the_end_of_the_partitions_is_trouble(job: Job, site: Site) -> None:
    site.sequence = replace(SEQUENCE, last=219000, highest=218000)
    site.refuse = {"t_p220000": PostgresError("no right", "statement", "42501")}
    found = job()
    assert (found["exit_code"], found["ids"]) == (TROUBLE, ["hfj_upkeep_failed", "partitions_end"])
    assert found["days_left"] == 0.95
    site.refuse.clear()
    assert (job()["exit_code"], site.applied) == (OK, ["add_partition t_p220000", "add_partition t_p320000"])


def test_one_table_does_not_stop_the_other(job: Job, site: Site) -> None:
    site.tables = {"a": plain("a", 5100), "b": swapped("b"), "c": swapped("c")}
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    site.unreadable["b"] = PostgresError("a lock was not got", "statement", "55P03")
    found = job()
    assert (found["exit_code"], found["up"], site.applied) == (BLIND, False, ["drop_check a", "add_partition c_p220000"])
    assert found["ids"] == ["check_dropped", "hfj_table_unread"]
    assert 'table="b"' not in found["text"]
    assert found["days_left"] is None


def test_a_waiting_table_that_cannot_be_read(job: Job, site: Site) -> None:
    site.tables["u"] = plain("u", 5100)
    site.unreadable["u"] = PostgresError("a lock was not got", "statement", "55P03")
    found = job()
    assert (found["exit_code"], found["ids"]) == (BLIND, ["hfj_upkeep_failed", "hfj_table_unread"])


def test_a_table_that_is_named_and_not_there(job: Job) -> None:
    found = job(tables=["t", "gone"])
    assert (found["exit_code"], found["ids"]) == (TROUBLE, ["table_missing"])
    assert 'table="gone",state="missing"} 1' in found["text"]


def test_another_run_of_ours_at_work_on_the_table(job: Job, site: Site) -> None:
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    site.busy = HfjError("another run is at work on public.t")
    found = job()
    assert (found["exit_code"], found["ids"]) == (TROUBLE, ["hfj_upkeep_failed"])


def test_a_table_that_is_changed_again_and_again(job: Job, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    monkeypatch.setattr(_hfj_sql, "carry_out", lambda *args: 0)
    found = job()
    assert (found["exit_code"], found["ids"]) == (TROUBLE, ["hfj_upkeep_failed"])
    assert "again and again" in found["findings"][0]["found"]


def test_a_sequence_that_is_behind(job: Job, site: Site) -> None:
    site.sequence = replace(SEQUENCE, last=100)
    assert job()["ids"] == ["sequence_behind"]


def test_growth_that_is_not_known_is_no_figure(job: Job, site: Site) -> None:
    site.sequence = replace(SEQUENCE, per_day=None)
    found = job()
    assert (found["exit_code"], found["days_left"]) == (OK, None)
    assert "days_left{" not in found["text"]
    assert "ids_per_day" not in found["text"]
    assert "ids_left{" in found["text"]


def test_the_lock_is_waited_for_less_than_the_server_looks_for_deadlocks(job: Job, site: Site) -> None:
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    site.server["deadlock_timeout"] = 0.2
    job()
    assert site.limits[0].lock_timeout == 0.1


@pytest.mark.parametrize("error", [
    PostgresError("No session as postgres: password authentication failed", "password"),
    PostgresError("The service postgres-fhir has no running container", "container"),
    _hfj_job.ComposeError("The docker command was not found on this host."),
    HfjError("There is no sequence public.seq_resource_id."),
], ids=["password", "container", "docker", "sequence"])
def test_what_could_not_be_looked_at_is_no_success(job: Job, site: Site, error: Exception) -> None:
    good = job()["metrics"]["last_success_timestamp_seconds"]
    site.down = error
    found = job()
    assert (found["exit_code"], found["up"], found["ids"], found["days_left"]) == (BLIND, False, ["hfj_unreachable"], None)
    assert found["metrics"]["up"] == 0
    assert found["metrics"]["last_success_timestamp_seconds"] == good
    assert found["metrics"]["last_run_timestamp_seconds"] > good
    # No figure of the run before is left to look like a new one.
    assert "days_left{" not in found["text"]
    assert "state{" not in found["text"]


def test_a_standby_is_not_looked_at(job: Job, site: Site) -> None:
    site.server["in_recovery"] = True
    site.tables["u"] = plain("u", 5100)
    found = job()
    assert (found["exit_code"], found["metrics"]["up"], found["ids"], site.applied) == (BLIND, 0, ["server_is_standby"], [])
    assert "sequence " not in found["text"]


def test_a_session_that_is_lost_in_the_middle(job: Job, site: Site) -> None:
    site.tables["u"] = plain("u", 5100)
    site.refuse["u"] = PostgresError("The session was lost", "lost")
    found = job()
    assert (found["exit_code"], found["metrics"]["up"], found["ids"]) == (BLIND, 0, ["hfj_unreachable"])
    site.refuse.clear()
    site.unreadable["t"] = PostgresError("The session was lost", "lost")
    assert job()["ids"] == ["check_dropped", "hfj_unreachable"]


def test_a_fault_of_the_job_itself_turns_the_metric_red(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job()
    monkeypatch.setattr(_hfj_catalog, "candidates", lambda *args: {}["secret-Word"])
    found = job()
    assert (found["exit_code"], found["metrics"]["up"], found["ids"]) == (BLIND, 0, ["hfj_job_crashed"])
    assert "secret-Word" not in found["log"]


# --- the lease -----------------------------------------------------------------------------------------------------


def lease(tmp_path: Path) -> str:
    """Somebody opens a change; return the token."""
    store = _change.Store(str(tmp_path / "journal/bd-fhir-national"))
    taken = _change.take(store, _change.Wish("restore", "CHG-7", "rahim@ops", {}, 900))
    assert taken.token
    return str(taken.token)


def test_an_operators_change_stops_no_watch(job: Job, site: Site, tmp_path: Path) -> None:
    """And everything else is left for the next run, which is soon."""
    site.tables.update(u=plain("u", 20600), v=swapped("v"))
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    token = lease(tmp_path)
    found = job()
    assert (found["exit_code"], site.applied) == (TROUBLE, ["drop_check u"])
    # Once for both tables.
    assert found["ids"] == ["check_dropped", "hfj_upkeep_postponed"]
    assert "rahim@ops" in next(item["found"] for item in found["findings"] if item["id"] == "hfj_upkeep_postponed")
    found = job(scheduled=False, token=token)
    assert (found["exit_code"], site.applied[1:]) == (OK, ["add_partition t_p220000", "add_partition v_p220000"])
    assert [(row["kind"], row["owner"]) for row in journal(tmp_path)][1:] == [("step", "rahim@ops")] * 2


def test_a_change_during_which_there_is_nothing_to_do_is_not_spoken_of(job: Job, tmp_path: Path) -> None:
    lease(tmp_path)
    found = job()
    assert (found["exit_code"], found["ids"]) == (OK, [])


def test_a_change_that_is_opened_meanwhile(job: Job, site: Site, tmp_path: Path) -> None:
    site.sequence = replace(SEQUENCE, last=219000, highest=218000)

    def meanwhile() -> None:
        lease(tmp_path)

    site.meanwhile = meanwhile
    found = job()
    assert (site.applied, found["ids"]) == (["add_partition t_p220000"], ["hfj_upkeep_postponed"])


def test_a_user_without_a_right_to_the_journal(job: Job, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_job, "reachable", lambda directory: False)
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    found = job()
    assert (found["exit_code"], found["ids"], len(site.applied)) == (OK, ["hfj_upkeep_unrecorded"], 1)


# --- one run at a time ---------------------------------------------------------------------------------------------


@contextmanager
def another_run(tmp_path: Path) -> Iterator[None]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_another_run_stops_no_watch(job: Job, site: Site, tmp_path: Path) -> None:
    job()
    before = (tmp_path / "job.prom").read_text()
    site.tables["u"] = plain("u", 20600)
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    with another_run(tmp_path):
        found = job()
    assert (found["exit_code"], site.applied, found["ids"]) == (OVERLAP, ["drop_check u"], ["hfj_job_overlaps", "check_dropped"])
    assert found["text"] == before
    assert job()["exit_code"] == OK


# --- telling -------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_table() -> None:
    assert figures(Report(swapped(), replace(SEQUENCE, last=145000))) == {
        "bytes": 4096, "rows": 77, "partitions": 3, "partitions_ahead": 0, "days_left": 74.95, "ids_left": 74950, "last_used_ratio": 0.2505,
    }
    assert figures(Report(swapped(), replace(SEQUENCE, last=300000)))["ids_left"] == 0
    assert figures(Report(swapped(), replace(SEQUENCE, last=300000)))["last_used_ratio"] == 1
    assert figures(Report(swapped(count=0), SEQUENCE))["last_used_ratio"] == 0.2525
    assert figures(Report(plain(bound=5000), SEQUENCE)) == {"bytes": 2048, "rows": None, "check_ids_left": -50}
    assert figures(Report(plain(), SEQUENCE)) == {"bytes": 2048, "rows": None}
    assert figures(Report(Table("public", "gone"), SEQUENCE)) == {}
    # One that ends nowhere is no figure, and no zero.
    table = swapped()
    assert table.main is not None
    table = replace(table, main=replace(table.main, parts=(*table.main.parts, Part("t_rest", 220000, None))))
    assert "ids_left" not in figures(Report(table, SEQUENCE))


def test_days_left_are_known_of_every_table_or_not_at_all() -> None:
    known, unknown = Report(swapped(), SEQUENCE), Report(swapped("u"), replace(SEQUENCE, per_day=None))
    assert Outcome(True, [known]).days_left == 214.95
    assert Outcome(True, [known, unknown]).days_left is None
    assert Outcome(False, [known]).days_left is None
    assert Outcome(True, [Report(plain(bound=9000), SEQUENCE)]).days_left is None


def test_every_metric_is_explained_once() -> None:
    outcome = Outcome(True, [Report(swapped('a"b'), SEQUENCE), Report(plain("u", 9000), SEQUENCE)], sequence=SEQUENCE)
    text = JOB.metrics_text(outcome, {}, 1764126000.25, True)
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert names == [JOB.prefix + name for name, _text in _job.METRICS + _hfj_job.METRICS]
    assert 'table="a\\"b"' in text
    docs = (ROOT / "docs/partition-hapi-tables.md").read_text(encoding="utf-8")
    assert [name for name in names if name not in docs and name.removeprefix("bd_fhir_hfj_partition") not in docs] == []


def test_the_age_of_the_scheduler_is_told(job: Job, site: Site) -> None:
    first = job(scheduled=False)["metrics"]["scheduler_timestamp_seconds"]
    assert job(scheduled=False)["metrics"]["scheduler_timestamp_seconds"] == first
    site.down = PostgresError("no", "unreachable")
    found = job(scheduled=True)["metrics"]
    assert found["scheduler_timestamp_seconds"] == found["last_run_timestamp_seconds"] > first


def test_metrics_that_cannot_be_written(job: Job, tmp_path: Path) -> None:
    found = job(metrics=str(tmp_path / "gone/job.prom"))
    assert (found["exit_code"], found["ids"]) == (TROUBLE, ["hfj_metrics_unwritable"])


def test_the_same_trouble_is_told_once_a_day(job: Job, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs every ten minutes; somebody who gets it by mail would read none after the third."""
    count = tmp_path / "count"
    more = {"alert_command": ["/bin/sh", "-c", f"cat > /dev/null; echo >> {count}"], "told": str(tmp_path / "told.json")}

    def told() -> int:
        number = len(count.read_text().splitlines()) if count.exists() else 0
        count.unlink(missing_ok=True)
        return number

    job(**more)
    assert told() == 0
    site.down = PostgresError("no", "unreachable")
    job(**more)
    job(**more)
    assert told() == 1
    # Other trouble is news, also when there is less of it than before.
    site.down = None
    site.tables["t"] = replace(swapped(), main=None)
    job(tables=["t", "gone"], **more)
    assert told() == 1
    job(tables=["t"], **more)
    assert told() == 0
    job(tables=["t", "gone"], **more)
    assert told() == 1
    # A day later.
    job(alert_hours=0, tables=["t"], **more)
    assert told() == 1
    # And when it was well in between.
    site.tables["t"] = swapped()
    job(**more)
    assert not (tmp_path / "told.json").exists()
    site.down = PostgresError("no", "unreachable")
    job(**more)
    assert told() == 1
    # Twice is better than never: without a place to keep it, or with one that is spoilt, each run tells it.
    (tmp_path / "told.json").write_text('{"what": 3}')
    job(**more)
    assert told() == 1
    for _again in range(2):
        job(**{**more, "told": ""})
    assert told() == 2


def test_an_alert_that_nobody_took_is_tried_again(job: Job, site: Site, tmp_path: Path) -> None:
    site.down = PostgresError("no", "unreachable")
    more = {"told": str(tmp_path / "told.json")}
    for _again in range(2):
        assert job(alert_command=["/bin/false"], **more)["ids"] == ["hfj_unreachable", "hfj_alert_failed"]
    told = tmp_path / "message.json"
    assert job(alert_command=["/usr/bin/tee", str(told)], **more)["ids"] == ["hfj_unreachable"]
    assert json.loads(told.read_text())["findings"][0]["id"] == "hfj_unreachable"


def test_what_people_read() -> None:
    outcome = Outcome(True, [Report(swapped(), SEQUENCE), Report(plain("u", 9000), SEQUENCE)], sequence=SEQUENCE)
    assert as_lines(outcome, "check") == [
        "check: exit code 0, 2 tables, days left 214.95, 0 changes, findings: 0 error, 0 warning, 0 info",
        "public.t: swapped, 214950 ids left (214.95 days), 2 partitions ahead",
        "public.u: preparing, refuses rows after 3950 more ids",
    ]
    assert len(as_lines(outcome, "scheduled run")) == 1
    outcome.add(finding("table_missing", "error", "a", "b", "c", "d"))
    assert len(as_lines(outcome, "scheduled run")) == 4


# --- commands ------------------------------------------------------------------------------------------------------


def test_only_looking(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(SITE))
    site.tables["u"] = plain("u", 20600)
    site.sequence = replace(SEQUENCE, last=20500, highest=20400)
    assert _hfj_job.main(["--config", str(path), "check"]) == TROUBLE
    out = capsys.readouterr().out
    assert "a run would: drop_check public.u" in out
    assert "a run would: add_partition public.t_p220000" in out
    assert "error check_near, public.u" in out
    assert site.applied == []
    assert any("read_only = on" in text for text in site.executed)
    assert _hfj_job.main(["--config", str(path), "check", "--json"]) == TROUBLE
    assert json.loads(capsys.readouterr().out)["exit_code"] == TROUBLE


def test_the_other_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(SITE))
    monkeypatch.setattr(_job, "__file__", str(tmp_path / "_job.py"))
    assert _hfj_job.main(["--config", str(path), "check-config"]) == OK
    assert _hfj_job.main(["--config", str(path), "wait"]) == OK
    path.write_text("{}")
    log = tmp_path / "job.log"
    assert _hfj_job.main(["--config", str(path), "run", "--log", str(log)]) == UNUSABLE
    assert "neither project_dir nor host" in log.read_text()
    cron = tmp_path / "bd-fhir"
    cron.write_text("*/10 * * * * root /bin/sh x\n")
    assert _hfj_job.main(["check-cron", "--content", str(cron)]) == OK
    cron.write_text("*/10 * * * root /bin/sh x\n")
    assert _hfj_job.main(["check-cron", "--content", str(cron)]) == TROUBLE


# --- on the host ---------------------------------------------------------------------------------------------------


def test_the_role_lays_all_that_the_job_imports_and_no_more() -> None:
    assert VARS["_hapi_partitioning_job_files"] == sorted(imported("_hfj_job.py", set()))


def test_the_role_gives_only_what_the_job_knows() -> None:
    assert set(VARS["_hapi_partitioning_job_config"]) <= {field.name for field in fields(Config)}


@pytest.mark.parametrize("folder", ["/var/log/bd-fhir-hfj", "/var/log/50% off/it's"])
def test_the_line_is_one_that_cron_takes(folder: str) -> None:
    """cron ends a command at a percent sign, and would give the rest to it as its input."""
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - no page
    environment.filters["quote"] = shlex.quote
    words = [sys.executable, "/usr/local/lib/bd-fhir-hfj", "run", "--scheduled", "--log", folder + "/partitions.log"]
    values = {"hapi_partitioning_job_watch_minutes": 10, "hapi_partitioning_job_user": "root", "_hapi_partitioning_job_scheduled": words}
    text = environment.from_string((ROLE / "templates/cron.j2").read_text(encoding="utf-8")).render(values)
    assert faults_of(text, lambda name: name == "root") == []
    line = text.splitlines()[-1]
    assert line.startswith("*/10 * * * * root ")
    assert shlex.split(line.split(None, 6)[6].replace("\\%", "%")) == words


def test_it_runs_without_ansible(tmp_path: Path) -> None:
    folder = lay("hapi_partitioning", VARS["_hapi_partitioning_job_files"], tmp_path / "bd-fhir-hfj/bd_fhir_hfj")
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**SITE, "project_dir": str(tmp_path), "metrics": str(tmp_path / "job.prom"), "state_dir": str(tmp_path / "state")}))
    done = started(folder, "--config", str(path), "check-config")
    assert (done.returncode, done.stderr) == (OK, "")
    # There is no deployment: that is told, and no traceback.
    done = started(folder, "--config", str(path), "run", "--scheduled", "--log", str(tmp_path / "job.log"))
    assert (done.returncode, done.stdout, done.stderr) == (BLIND, "", "")
    assert "bd_fhir_hfj_partition_up 0" in (tmp_path / "job.prom").read_text()
    assert "FHIR_DB_SUPERUSER_PASSWORD is not set" in (tmp_path / "job.log").read_text()


def test_the_probe_names_the_jobs_own_variables() -> None:
    probe = (UTILS / "_probe.py").read_text(encoding="utf-8")
    argv = [sys.executable, "-c", probe, "hapi_partitioning_job", "cron", "nobody-here", "UTC", ""]
    found = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert any("hapi_partitioning_job_user" in text for text in found["problems"])
    assert not any("scheduler=container" in text for text in found["problems"])
