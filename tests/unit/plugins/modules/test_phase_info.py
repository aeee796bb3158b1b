# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _measure
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import ComposeError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._phase import Measure
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import phase_info as module

NOW = datetime(2026, 11, 26, 3, tzinfo=timezone.utc)
Run = Callable[..., dict[str, Any]]
HEALTHY = {
    "deployment": {"services": {"hapi": {"replicas": [{"state": "running", "health": "healthy"}] * 3}}},
    "connections": {
        "sides": [{"name": "fhir", "fits": True, "server": {"service": "postgres-fhir", "used": 5, "usable": 27, "max_connections": 30}}]
    },
    "partitions": {"days_left": 400, "tables": [{"schema": "audit", "table": "audit_events", "readable": True, "days_left": 400}], "findings": []},
    "replication": {"server": {"standby": {"streaming": True}}},
}


class Site:
    """Two databases that tell these figures, or can't be read."""

    def __init__(self) -> None:
        self.figures = {"resources": 1000.0, "resources_per_day": 10.0}
        self.vendors = 3.0
        self.tables: list[dict[str, Any]] = []
        self.scans: list[Any] = []
        self.broken: dict[str, Exception] = {}
        self.closed = 0

    def session(self, docker: Any, params: dict[str, Any], side: dict[str, Any]) -> Site:
        if side["service"] in self.broken:
            raise self.broken[side["service"]]
        return self

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closed += 1

    def read_fhir(self, look: Any, params: dict[str, Any], facts: module.Facts) -> None:
        facts.now, facts.identity, facts.senders = NOW, "77:5", 0
        facts.database["fhir"] = {"service": look.service, "bytes": 5000, "counted_days": None}
        if "reading" in self.broken:
            raise self.broken["reading"]
        for name, value in self.figures.items():
            facts.measures[name] = Measure(value, "told", "exact")
        facts.plans["scans"] = self.scans

    def read_audit(self, look: Any, params: dict[str, Any], facts: module.Facts) -> None:
        facts.measures["vendors"] = Measure(self.vendors, "told", "exact")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    item = Site()
    monkeypatch.setattr(module, "session_of", item.session)
    monkeypatch.setattr(module, "read_fhir", item.read_fhir)
    monkeypatch.setattr(module, "read_audit", item.read_audit)
    return item


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(**args: Any) -> dict[str, Any]:
        with patch_module_args({"project_dir": "/srv/fhir", **args}), pytest.raises(SystemExit) as ended:
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        result["rc"] = ended.value.code
        return result

    return call


def samples(days: int, per_day: float, database: str = "77:5") -> list[dict[str, Any]]:
    return [
        {"format": 1, "at": (NOW - timedelta(days=day)).isoformat(), "database": database, "resources": 1000 - day * per_day}
        for day in range(days, 0, -1)
    ]


def ids(result: dict[str, Any]) -> list[str]:
    assert result["rc"] == 0, result
    return [item["id"] for item in result["findings"]]


def test_all_is_well(site: Site, ask: Run) -> None:
    result = ask(**HEALTHY, samples=samples(30, 1))
    assert (ids(result), result["status"], result["exit_code"], result["partial"], result["due"]) == ([], "ok", 0, False, [])
    assert (result["phase"], result["deployed"]["phase"], result["decided_by"]) == ("pilot", "regional", "vendors")
    assert result["sample"] == {
        "format": 1, "at": "2026-11-26T03:00:00Z", "database": "77:5", "vendors": 3, "resources": 1000, "resources_per_day": 10,
        "database_bytes": 5000,
    }  # fmt: skip
    assert result["metrics"]["resources"]["limits"][0]["per_day"] == 1
    assert result["metrics"]["vendors"]["limits"][0]["why"].startswith("not enough history")
    assert (len(result["history"]["samples"]), site.closed) == (30, 2)
    documented = set(yaml.safe_load(module.RETURN))
    # Ansible keeps warnings for a whole process, those of other modules' tests too.
    assert documented | {"changed", "rc", "invocation", "warnings"} >= set(result) >= documented


def test_a_bare_host(ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_docker(_module: Any) -> Any:
        raise ComposeError("The docker command was not found on this host.")

    monkeypatch.setattr(module.Docker, "from_module", no_docker)
    result = ask()
    assert set(ids(result)) == {"figure_unread"}
    assert (result["phase"], result["status"], result["exit_code"], result["next"]) == (None, "partial", 3, None)
    assert [item["what"] for item in result["unread"]] == [
        "resources and resources_per_day", "vendors", "replicas", "the topology of PostgreSQL", "connections", "the audit partitions",
    ]  # fmt: skip
    assert set(result["sample"]) == {"format", "at", "database"}
    assert result["deployed"] == {**result["deployed"], "phase": "pilot", "at_least": True}


def test_one_database_that_is_down_leaves_the_rest(site: Site, ask: Run) -> None:
    site.broken["postgres-audit"] = PostgresError("No session: connection refused.", "unreachable")
    result = ask(**HEALTHY)
    assert [(item["what"], item["service"]) for item in result["unread"]] == [("vendors", "postgres-audit")]
    assert (result["phase"], result["at_least"], result["status"]) == ("pilot", True, "partial")
    site.broken = {"reading": PostgresError("The session was lost.", "lost")}
    result = ask(**HEALTHY)
    assert [item["what"] for item in result["unread"]] == ["the rest of fhirdb"]
    assert result["metrics"]["vendors"]["value"] == 3
    assert site.closed >= 2


@pytest.mark.parametrize("name", ["deployment", "connections", "partitions"])
def test_a_result_that_failed_is_never_health(site: Site, ask: Run, name: str) -> None:
    for value in ({}, {"failed": True, "msg": "it could not"}, {"findings": [{"severity": "error", "found": "it could not"}]}):
        result = ask(**{**HEALTHY, name: value})
        assert (result["partial"], result["exit_code"]) == (True, 3)
        assert "figure_unread" in ids(result)
    assert ask(**{**HEALTHY, name: {"failed": True, "msg": "it could not"}})["unread"][0]["why"] == "it could not"


def test_samples_that_were_damaged(site: Site, ask: Run) -> None:
    lines = [json.dumps(item) for item in samples(30, 1)]
    result = ask(**HEALTHY, samples=[*lines[:-1], lines[-1][:17]])
    assert ids(result) == ["samples_damaged"]
    assert result["history"]["faults"] == [{"line": 30, "why": "it is no JSON", "cut": True}]
    assert len(result["history"]["samples"]) == 29
    assert "1 of 30 lines: line 30: it is no JSON (the last one, cut)" in result["findings"][0]["found"]
    other = ask(**HEALTHY, samples=samples(30, 1, "another:1"))
    assert other["history"]["samples"] == []


def test_samples_that_could_not_be_read(site: Site, ask: Run) -> None:
    """That is no history that is too short: nobody knows how long it is."""
    result = ask(**HEALTHY, samples=[""], samples_unread="File is not readable")
    assert [(item["what"], item["why"]) for item in result["unread"]] == [("the samples of earlier runs", "File is not readable")]
    assert (ids(result), result["status"], result["exit_code"]) == (["figure_unread"], "partial", 3)
    assert {limit["why"] for metric in result["metrics"].values() for limit in metric["limits"]} == {"the samples of earlier runs could not be read"}


def test_what_is_due_and_critical(site: Site, ask: Run) -> None:
    site.figures["resources_per_day"] = 20_000
    pilot = {**HEALTHY, "deployment": {"services": {"hapi": {"replicas": []}}}, "replication": {}}
    result = ask(**pilot)
    assert (result["phase"], result["status"], result["next"]["playbook"], result["next"]["when"]) == ("regional", "due", "scale_regional", "now")
    gap = {**HEALTHY["partitions"], "findings": [{"id": "coverage_gap", "severity": "error"}], "days_left": 0}
    result = ask(**{**pilot, "partitions": gap})
    assert (result["status"], result["exit_code"], result["due"][0]["playbook"]) == ("critical", 2, "maintain_audit_partitions")
    assert "finds coverage_gap; partitions for 0 days" in result["due"][0]["why"]
    full = {"sides": [{"name": "fhir", "fits": False, "server": {"service": "postgres-fhir", "used": 27, "usable": 27}}]}
    assert ask(**{**HEALTHY, "connections": full})["due"][0]["playbook"] == "tune_pools"
    full["sides"][0]["server"]["used"] = 5  # type: ignore[index]
    assert ask(**{**HEALTHY, "connections": full})["due"][0]["severity"] == "warning"


@pytest.mark.parametrize("name", ["rejections_unreadable", "default_unreadable", "table_unreadable"])
def test_what_the_audit_side_could_not_read_is_no_missing_month(site: Site, ask: Run, name: str) -> None:
    found = {"id": name, "severity": "error", "object": "audit.audit_events", "found": "permission denied"}
    result = ask(**{**HEALTHY, "partitions": {**HEALTHY["partitions"], "findings": [found], "rejection_rates": []}})
    assert (result["status"], result["exit_code"], result["due"], result["partial"]) == ("partial", 3, [], True)
    assert [(item["service"], item["why"]) for item in result["unread"]] == [("postgres-audit", "permission denied")]
    assert ids(result) == ["figure_unread"]
    assert (result["partitions"]["rejections"] is None) == (name == "rejections_unreadable")


def test_audit_tables_that_are_wrong_in_another_way_are_critical_too(site: Site, ask: Run) -> None:
    found = {"id": "key_not_time", "severity": "error", "object": "audit.audit_events", "found": "x"}
    result = ask(**{**HEALTHY, "partitions": {**HEALTHY["partitions"], "findings": [found]}})
    assert (result["status"], result["due"][0]["what"], result["due"][0]["playbook"]) == ("critical", "put the audit tables right", None)


def test_partitioning(site: Site, ask: Run) -> None:
    site.figures["resources"] = 5_000_000
    result = ask(**HEALTHY)
    assert ("partitioning_near" in ids(result), result["due"][-1]["what"]) == (True, "plan the partitioning of HAPI's large tables")
    site.scans = [_measure._plans.Scan("hfj_resource", 5e6, 1e6, "table_size", "")]
    result = ask(**HEALTHY)
    assert ("partitioning_due" in ids(result), result["due"][0]["what"]) == (True, "partition HAPI's large tables")
    assert ask(**HEALTHY, partition_plan=6_000_000)["partitioning"]["state"] == "no"


def test_fail_on(site: Site, ask: Run) -> None:
    site.broken["postgres-audit"] = PostgresError("down", "unreachable")
    result = ask(**HEALTHY, fail_on=["error"])
    assert (result["rc"], result["phase"]) == (1, "pilot")
    assert (
        result["msg"]
        == "figure_unread on vendors on postgres-audit: expected an answer, found down. The answer is partial. Mend that, and ask again."
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"days": 0}, "Option days is 0, but must be from 1 to 366."),
        ({"statement_timeout": 0}, "Option statement_timeout is 0"),
        ({"partition_plan": 5, "partition_due": 4}, "partition_due (4) is below partition_plan (5)"),
        ({"thresholds": {"vendors": {"pilot_below": 500}}}, "vendors is out of order"),
        ({"thresholds": {"vendor": {}}}, "vendor"),
        ({"thresholds": {"vendors": {"pilot_below": "many"}}}, "pilot_below"),
    ],
)
def test_options_that_can_not_be_used(site: Site, ask: Run, options: dict[str, Any], why: str) -> None:
    result = ask(**options)
    assert result["rc"] == 1
    assert why in result["msg"]
    assert site.closed == 0
