# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of audit_partition_info with a server that is played; with a real one: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _partition_catalog as catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._partitions import Parent, Server
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition_info

FIXTURES = Path(__file__).parents[1] / "fixtures/partitions"
SECRET = "hush-word-7"
Run = Callable[..., dict[str, Any]]


class Database:
    """Answers as the recorded server did, whatever table is asked for."""

    def __init__(self) -> None:
        self.server = Server(150018, False, datetime(2026, 11, 26, tzinfo=timezone.utc), user="looker")
        self.said: list[str] = []
        self.fails, self.sqlstate = "", "42501"

    def look(self, session: Any, server: Server, schema: str, table: str, settings: Any, now: datetime) -> catalog.TableReport:
        answers = json.loads((FIXTURES / "postgresql-15.json").read_text())["answers"]
        report = catalog.TableReport(schema, table)
        if table == "nowhere":
            catalog.judge(report, catalog.Reading(Parent(0, schema, table, strategy="")), server, settings, now)
            return report
        source = SimpleNamespace(rows=lambda query, params=None: answers.pop(0))
        catalog.judge(report, catalog.read_table(source, schema, table), server, settings, now)  # type: ignore[arg-type]
        return report

    def execute(self, query: str) -> None:
        self.said.append(query)

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        if self.fails:
            raise PostgresError("no right", self.fails, self.sqlstate)
        return [{"client_id": "a", "events": 10, "rejected": 5}, {"client_id": None, "events": 3, "rejected": 3}]

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *args: object) -> None:
        pass


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    found = Database()
    container = SimpleNamespace(id="c0ffee", name="site-db-1", addresses={"net": "192.0.2.9"})
    monkeypatch.setattr(audit_partition_info, "Docker", SimpleNamespace(from_module=lambda module: SimpleNamespace()))
    monkeypatch.setattr(audit_partition_info, "container_of", lambda docker, service: container)
    monkeypatch.setattr(audit_partition_info, "connect", lambda login: found)
    monkeypatch.setattr(audit_partition_info, "read_server", lambda session: found.server)
    monkeypatch.setattr(audit_partition_info, "look", found.look)
    monkeypatch.setattr(audit_partition_info, "judge_maintenance", lambda session, schema, reports, settings: ([], []))
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(**args: Any) -> dict[str, Any]:
        args = {"project_dir": "/opt/site", "login_password": SECRET, "schema": "rec", "tables": ["t"], **args}
        with patch_module_args(args), pytest.raises(SystemExit):
            audit_partition_info.main()
        out = capsys.readouterr().out
        assert SECRET not in out.replace('"login_password": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"', "")
        return dict(json.loads(out))

    return call


def test_what_is_told(database: Database, run: Run) -> None:
    found = run()
    assert "failed" not in found, found
    assert not found["changed"]
    assert found["server"]["user"] == "looker"
    assert found["now"] == "2026-11-26T00:00:00Z"
    assert found["days_left"] == found["tables"][0]["days_left"] == 36.0
    assert {"default_rows", "partition_detached", "horizon_short"} <= {item["id"] for item in found["findings"]}
    assert {item["partition"] for item in found["plan"]} >= {"t_2027_01", "t_2027_03"}
    # A session that could change nothing, not even by a slip.
    assert "SET default_transaction_read_only = on" in database.said


def test_the_clock_that_is_asked_for(database: Database, run: Run) -> None:
    found = run(now="2026-12-31T12:00:00+00:00")
    assert (found["now"], found["days_left"]) == ("2026-12-31T12:00:00Z", 0.5)


def test_what_could_not_be_read_has_no_days_left(database: Database, run: Run) -> None:
    found = run(tables=["t", "nowhere"])
    assert found["days_left"] == 0
    assert ("missing_table", "rec.nowhere") in [(item["id"], item["object"]) for item in found["findings"]]


def test_it_fails_on_what_is_asked(database: Database, run: Run) -> None:
    red = run(fail_on=["error"])
    assert red["failed"]
    assert "default_rows on rec.t_default" in red["msg"]
    assert red["tables"]


def test_a_standby_and_sizes(database: Database, run: Run) -> None:
    database.server = replace(database.server, in_recovery=True)
    found = run(service="second", max_size="1B")
    assert ("server_is_standby", "second") in [(item["id"], item["object"]) for item in found["findings"]]
    assert "partition_oversized" in [item["id"] for item in found["findings"]]
    assert "partition_oversized" not in [item["id"] for item in run(max_size=0)["findings"]]


def test_rejection_rates(database: Database, run: Run) -> None:
    assert run()["rejection_rates"] == []
    found = run(rejection_days=7, rejection_minimum=5)
    assert [(item["client"], item["percent"], item["enough"]) for item in found["rejection_rates"]] == [("a", 50.0, True), ("unknown", 100.0, False)]
    assert [item["object"] for item in found["findings"] if item["id"] == "rejection_rate_high"] == ["rec.audit_events, client a"]
    database.fails = "statement"
    found = run(rejection_days=7)
    assert ("rejections_unreadable", "error") in [(item["id"], item["severity"]) for item in found["findings"]]
    assert "GRANT SELECT" in next(item["hint"] for item in found["findings"] if item["id"] == "rejections_unreadable")
    # Too slow is not too few rights.
    database.sqlstate = "57014"
    hint = next(item["hint"] for item in run(rejection_days=7)["findings"] if item["id"] == "rejections_unreadable")
    assert "(event_time) INCLUDE (client_id, outcome)" in hint
    assert "bd_fhir_rejection_days" in hint
    assert "GRANT" not in hint
    database.fails = "lost"
    assert run(rejection_days=7)["failed"]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("months_ahead is 10000", {"months_ahead": 10000}),
        ("There is no time zone", {"time_zone": "Mars/Olympus"}),
        ("rejection_days is -1", {"rejection_days": -1}),
        ("rejection_percent is 101", {"rejection_percent": 101}),
        ("now is", {"now": "2027"}),
    ],
)
def test_what_is_refused(database: Database, run: Run, words: str, more: dict[str, Any]) -> None:
    found = run(**more)
    assert found["failed"]
    assert words in found["msg"]
