# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of audit_partition with a server that is played; with a real one: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _partition_catalog as catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import Parent, Partition, Server, Step, month_in
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition

SECRET = "hush-word-7"
Run = Callable[..., dict[str, Any]]
UTC = timezone.utc
TABLES = ("audit_events", "fhir_rejected_submissions")


def month(table: str, year: int, number: int) -> Partition:
    lower, upper = datetime(year, number, 1, tzinfo=UTC), datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return Partition(number, "audit", "%s_%d_%02d" % (table, year, number), lower=lower, upper=upper, owner="o")


class Database:
    """Keeps its tables as what the catalog would read, and carries out steps by the catalog's own prediction."""

    def __init__(self) -> None:
        self.server = Server(150018, False, datetime(2026, 11, 26, tzinfo=UTC), user="postgres", is_superuser=True)
        months = {name: (month(name, 2026, 11), month(name, 2026, 12)) for name in TABLES}
        self.parents = {name: Parent(1, "audit", name, keys=("at",), owner="o", partitions=months[name]) for name in TABLES}
        self.done: list[tuple[str, str]] = []
        self.refuses: dict[str, Exception] = {}
        self.others: dict[str, Step] = {}
        self.said: list[str] = []

    def read(self, session: Any, schema: str, table: str) -> catalog.Reading:
        if isinstance(self.refuses.get(table), PostgresError):
            raise self.refuses[table]
        return catalog.Reading(self.parents.get(table) or Parent(0, schema, table, strategy=""))

    def apply(self, session: Any, step: Step, lock_timeout: float, tries: int) -> int:
        if step.partition in self.others:
            # Somebody else has done it at the same moment.
            self.parents[step.table] = catalog.predicted(self.parents[step.table], [step])
            raise PostgresError('relation "%s" already exists' % step.partition, sqlstate="42P07")
        if step.partition in self.refuses:
            raise self.refuses[step.partition]
        self.done.append((step.action, step.partition))
        if step.table:
            self.parents[step.table] = catalog.predicted(self.parents[step.table], [step])
        return 5 if step.action == "move_default_rows" else 0

    def execute(self, query: str) -> None:
        self.said.append(query)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *args: object) -> None:
        pass


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    found = Database()

    class Docker:
        project_dir = "/opt/site"

        @classmethod
        def from_module(cls, module: Any) -> Any:
            return cls()

        def project_name(self) -> str:
            return "site"

    container = SimpleNamespace(id="c0ffee", name="site-db-1", addresses={"net": "192.0.2.9"})
    monkeypatch.setattr(audit_partition, "Docker", Docker)
    monkeypatch.setattr(audit_partition, "container_of", lambda docker, service: container)
    monkeypatch.setattr(audit_partition, "connect", lambda login, timeout: found)
    monkeypatch.setattr(audit_partition, "read_server", lambda session: found.server)
    monkeypatch.setattr(catalog, "apply", found.apply)
    monkeypatch.setattr(catalog, "read_table", found.read)
    monkeypatch.setattr(audit_partition, "judge_maintenance", lambda session, schema, reports, settings: ([], []))
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        args = {"project_dir": "/opt/site", "login_password": SECRET, "months_ahead": 3, **args}
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            audit_partition.main()
        out = capsys.readouterr().out
        assert SECRET not in out.replace('"login_password": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"', "")
        return dict(json.loads(out))

    return call


def partitions(found: dict[str, Any]) -> list[str]:
    return [item["partition"] for item in found["plan"]]


def test_two_by_two(database: Database, run: Run) -> None:
    """In check mode, for real, and both again: the same plan, and nothing left to do."""
    predicted = run(check=True)
    assert database.done == []
    done = run()
    assert "failed" not in done, done
    for key in ("changed", "plan", "tables", "findings", "diff"):
        assert predicted[key] == done[key], key
    assert partitions(done) == ["%s_2027_%02d" % (table, number) for table in TABLES for number in (1, 2)]
    assert done["changed"]
    events = done["tables"][0]
    assert (events["before"]["covered_until"], events["after"]["covered_until"]) == ("2027-01-01T00:00:00Z", "2027-03-01T00:00:00Z")
    assert (events["before"]["partitions"], events["after"]["partitions"]) == (2, 4)
    assert "audit.audit_events_2027_01: 2027-01-01T00:00:00Z to 2027-02-01T00:00:00Z" in done["diff"]["after"]
    for check in (True, False):
        again = run(check=check)
        assert (again["changed"], again["plan"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"]


def test_one_table_never_stops_another(database: Database, run: Run) -> None:
    """Whatever is wrong with it: it can't be read, it is none, or a step of it is refused."""
    wrongs: list[tuple[str, Exception | None, str]] = [
        ("audit_events", PostgresError("it is locked"), "it is locked"),
        ("nowhere", None, "no such table"),
        ("audit_events_2027_01", PostgresError("the disk is full"), "create of audit_events_2027_01: the disk is full"),
        ("audit_events_2027_01", catalog.CatalogError("it is gone"), "it is gone"),
    ]
    start = dict(database.parents)
    for name, error, words in wrongs:
        database.parents, database.done, database.refuses = dict(start), [], {name: error} if error else {}
        tables = [name if name == "nowhere" else "audit_events", "fhir_rejected_submissions"]
        found = run(tables=tables)
        assert found["failed"]
        assert words in found["msg"]
        assert "fhir_rejected_submissions is as it should be" in found["msg"]
        assert [item["error"] == "" for item in found["tables"]] == [False, True]
        assert database.done[-1] == ("create", "fhir_rejected_submissions_2027_02")
        assert found["changed"]
    # What could be done of that table was done.
    assert ("create", "audit_events_2027_02") in database.done


def test_nothing_else_is_tried_behind_a_lock(database: Database, run: Run) -> None:
    """Each further step would wait for the same one. What needs another lock is tried."""
    database.refuses = {"audit_events_2027_01": PostgresError("somebody holds it", sqlstate="55P03")}
    found = run(tables=["audit_events"])
    assert found["failed"]
    assert database.done == []
    assert not found["changed"]
    # A backup that reads for hours keeps a detach from being finished, and no month from being made.
    events = database.parents["audit_events"]
    first, last = events.partitions
    pending = replace(month("audit_events", 2026, 10), detach_pending=True)
    database.parents["audit_events"] = replace(events, partitions=(pending, replace(first, owner="other"), last))
    database.refuses = {name: PostgresError("somebody reads it", sqlstate="55P03") for name in ("audit_events_2026_10", "audit_events_2026_11")}
    found = run(tables=["audit_events"])
    assert database.done == [("create", "audit_events_2027_01"), ("create", "audit_events_2027_02")]
    assert "finalize_detach of audit_events_2026_10: somebody reads it" in found["msg"]
    assert "set_owner of audit_events_2026_11: somebody reads it" in found["msg"]


def test_somebody_who_does_the_same_at_the_same_time(database: Database, run: Run) -> None:
    database.others = {"audit_events_2027_01": Step("create", "audit_events")}
    found = run(tables=["audit_events"])
    assert "failed" not in found, found
    assert partitions(found) == ["audit_events_2027_02"]


def test_a_lost_session_tells_what_was_done(database: Database, run: Run) -> None:
    database.refuses = {"audit_events_2027_02": PostgresError("gone", "lost")}
    found = run()
    assert (found["failed"], found["changed"], partitions(found)) == (True, True, ["audit_events_2027_01"])


def test_what_is_refused_before_anything(database: Database, run: Run) -> None:
    for words, more in (
        ("months_ahead is 0", {"months_ahead": 0}),
        ("There is no time zone", {"time_zone": "Mars/Olympus"}),
        ("now is", {"now": "tomorrow"}),
        ("lock_tries", {"lock_tries": 0}),
        ("move_limit", {"move_limit": -1}),
        ("lock_timeout_seconds", {"lock_timeout_seconds": 0.0}),
        ("change_token", {"change_token": "nonsense"}),
    ):
        for check in (True, False):
            found = run(check=check, **more)
            assert words in found["msg"]
            assert not found["changed"]
    database.server = replace(database.server, in_recovery=True)
    assert "is a standby" in run()["msg"]
    assert database.done == []


def test_a_user_without_the_right(database: Database, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_partition, "denied", lambda *args: "you may not")
    for check in (True, False):
        found = run(check=check)
        assert (found["failed"], found["changed"], found["plan"]) == (True, False, [])
        assert "audit.audit_events: you may not" in found["msg"]
    assert database.done == []


def test_a_month_that_can_not_be_made_is_a_failure_and_short_alarm_days_are_none(database: Database, run: Run) -> None:
    database.parents["audit_events"] = replace(database.parents["audit_events"], taken=frozenset({"audit_events_2027_01"}))
    for check in (True, False):
        found = run(check=check, tables=["audit_events"])
        assert "name_taken, audit.audit_events_2027_01" in found["msg"]
        assert partitions(found) == ["audit_events_2027_02"]
    # All that was asked for is there, only that it is less than the alarm wants: that is told.
    found = run(tables=["fhir_rejected_submissions"], months_ahead=1, alarm_days=400)
    assert "failed" not in found
    assert "horizon_short" in [item["id"] for item in found["findings"]]


def test_the_function(database: Database, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("replace_function", "", "f", why="it is wrong", schema="audit", partition_schema="audit", owner="o", sql="x")
    monkeypatch.setattr(audit_partition, "judge_maintenance", lambda session, schema, reports, settings: ([], [step]))
    for check in (True, False):
        found = run(check=check, tables=["audit_events"], months_ahead=1)
        assert partitions(found) == ["f"]
        assert found["diff"]["before"] != found["diff"]["after"]
    database.refuses = {"f": PostgresError("no")}
    found = run(months_ahead=1)
    assert "replace_function of f: no" in found["msg"]


def test_steps_are_written_down_before_they_are_made(database: Database, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    guard = SimpleNamespace(kept=nullcontext, verify=lambda: order.append("verify"), step=lambda action, obj, before, after: order.append(obj))
    monkeypatch.setattr(audit_partition.ChangeGuard, "for_docker", classmethod(lambda cls, module, docker: guard))
    inner = database.apply
    monkeypatch.setattr(catalog, "apply", lambda *args: order.append("made") or inner(*args))
    run(tables=["audit_events"])
    assert order == ["verify", "audit.audit_events_2027_01", "made", "audit.audit_events_2027_02", "made"]
    order.clear()
    run(tables=["audit_events"])
    assert order == []


def test_months_are_what_their_names_say(database: Database, run: Run) -> None:
    for item in run()["plan"]:
        found = month_in(item["partition"])
        assert found is not None
        assert item["lower"] == "%04d-%02d-01T00:00:00Z" % (found.year, found.month)
