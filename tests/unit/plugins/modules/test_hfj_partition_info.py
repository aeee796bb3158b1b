# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of hfj_partition_info with a server that is played; with a real one: tests/integration/real/test_hfj_partition.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_catalog
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import ForeignKey, Index, Part, Relation, Sequence, Table
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition_info

SECRET = "hush-word-7"
Run = Callable[..., dict[str, Any]]


def table(name: str, size: int) -> Table:
    key = "" if name == "hfj_resource" else "res_id"
    keys = (ForeignKey("fk_" + name, "public", name, ("res_id",), "public", "hfj_resource", ("res_id",)),) if key else ()
    indexes = [Index(name + "_pkey", "btree (sp_id)", True, True, columns=("sp_id",))]
    if not key:
        indexes.append(Index("idx_res_type_fhir_id", "btree (res_type, fhir_id)", True, columns=("res_type", "fhir_id")))
    return Table("public", name, "sp_id", key, False, Relation(1, "public", name, "r", "app", size, 1000.0, tuple(indexes), keys))


class Database:
    def __init__(self) -> None:
        self.server = {"version": 150018, "in_recovery": False, "deadlock_timeout": 1.0, "user": "looker"}
        self.tables = {"hfj_resource": 9 * 10**9, "small": 10**6, "large": 5 * 10**9}
        self.sequence = Sequence("seq_resource_id", 5001, 50, False, 5003, 10.0)
        self.free: Any = 10**12
        self.said: list[str] = []
        self.measured: list[str] = []
        self.fails = False
        self.swapped = ""

    def read_table(self, session: Any, schema: str, name: str) -> Table:
        if self.fails:
            raise PostgresError("no right", "statement", "42501")
        if name == self.swapped:
            made = table(name, self.tables[name])
            assert made.main is not None
            parent = replace(made.main, kind="p", parts=(Part(name + "_p0", None, 5000), Part(name + "_p5000", 5000, 5100)), analyzed=True)
            return replace(made, main=parent, first=replace(made.main, name=name + "_p0"))
        return table(name, self.tables[name]) if name in self.tables else Table(schema, name)

    def measure(self, session: Any, found: Table) -> float:
        self.measured.append(found.name)
        return 0.001

    def execute(self, query: str) -> None:
        self.said.append(query)

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        return [self.server]

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *args: object) -> None:
        pass


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    found = Database()
    container = SimpleNamespace(id="c0ffee", name="site-db-1", addresses={"net": "192.0.2.9"})
    monkeypatch.setattr(hfj_partition_info, "Docker", SimpleNamespace(from_module=lambda module: SimpleNamespace()))
    monkeypatch.setattr(hfj_partition_info, "container_of", lambda docker, service: container)
    monkeypatch.setattr(hfj_partition_info, "connect", lambda login, timeout: found)
    for name, value in {
        "read_table": found.read_table,
        "read_sequence": lambda session, schema, name: found.sequence,
        "read_standbys": lambda session: [],
        "with_taken": lambda session, table, bounds: table,
        "hapi_partitions": lambda session, schema: False,
        "free_bytes": lambda docker, container, session: found.free,
        "candidates": lambda session, schema: sorted(found.tables),
        "measure": found.measure,
    }.items():
        monkeypatch.setattr(_hfj_catalog, name, value)
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(**args: Any) -> dict[str, Any]:
        args = {"project_dir": "/opt/site", "login_password": SECRET, **args}
        with patch_module_args(args), pytest.raises(SystemExit):
            hfj_partition_info.main()
        out = capsys.readouterr().out
        assert SECRET not in out.replace('"login_password": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"', "")
        return dict(json.loads(out))

    return call


def test_the_largest_first_and_why(database: Database, run: Run) -> None:
    found = run()
    assert "failed" not in found, found
    assert [(row["table"], row["worth"]) for row in found["tables"]] == [("hfj_resource", False), ("large", True), ("small", False)]
    assert found["tables"][0]["why"].startswith("it stays whole")
    assert not found["tables"][0]["feasible"]
    # Only what is worth it is measured, and only what matters is a finding.
    assert database.measured == ["large"]
    assert [item["id"] for item in found["findings"]] == []
    assert found["disk"]["needed_bytes"] == found["tables"][1]["needs"]["disk_bytes"]
    assert "SET default_transaction_read_only = on" in database.said


def test_a_table_that_is_asked_for_is_judged_whatever_its_size(database: Database, run: Run) -> None:
    found = run(tables=["hfj_resource", "nowhere"], sample=False)
    assert [(item["id"], item["object"]) for item in found["findings"]] == [
        ("unique_without_key", "public.hfj_resource"), ("table_missing", "public.nowhere"),
    ]  # fmt: skip
    failed = run(tables=["hfj_resource"], fail_on=["error"])
    assert failed["failed"]
    assert "unique_without_key on public.hfj_resource" in failed["msg"]
    assert failed["tables"]


def test_what_could_not_be_read_is_a_failure(database: Database, run: Run) -> None:
    database.fails = True
    found = run()
    assert (found["failed"], found["msg"]) == (True, "no right")
    assert "wait_days is -1" in run(wait_days=-1)["msg"]


def test_disk_and_growth(database: Database, run: Run) -> None:
    database.free = None
    assert [item["id"] for item in run()["findings"]] == ["disk_unknown"]
    database.free = 1
    database.sequence = Sequence("seq_resource_id", 5001, 50)
    assert [item["id"] for item in run()["findings"]] == ["disk_too_small", "growth_unknown"]


def test_a_standby_is_told_and_not_asked_for_others(database: Database, run: Run) -> None:
    database.server["in_recovery"] = True
    assert [item["id"] for item in run()["findings"]] == ["server_is_standby"]


def test_a_bound_that_the_sequence_has_passed_is_a_finding_where_it_matters(database: Database, run: Run) -> None:
    # Left in the inventory after the swap: the alarm that the partitions end must come all the same.
    database.swapped = "large"
    found = run(tables=["large"], first_bound=5000)
    assert [item["id"] for item in found["findings"]] == ["partitions_end"]
    found = run(tables=["large", "small"], first_bound=5000)
    assert "failed" not in found
    assert [(item["id"], item["object"]) for item in found["findings"]] == [("partitions_end", "public.large"), ("first_bound_near", "public.small")]
    assert not found["tables"][1]["feasible"]
    assert run(tables=["small"], first_bound=5000, fail_on=["error"])["failed"]
