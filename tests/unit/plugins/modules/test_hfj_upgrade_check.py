# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of hfj_upgrade_check with servers that are played; with real ones: tests/integration/real/test_hfj_upgrade_check.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._backup_files import BackupError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj_upgrade import Started
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_upgrade_check

Run = Callable[..., dict[str, Any]]
URL = "jdbc:postgresql://pooler:6432/fhirdb"
REFUSED = "Schema-validation: missing column [SP_URI] in table [HFJ_SPIDX_URI]"


class Played:
    """What the copy does; each start takes the next of starts."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.starts = [Started(True, 30.0), Started(False, 20.0, REFUSED, True)]
        self.shapes: list[dict[str, str]] = [{"table t": "p"}]
        self.states = {"t": "swapped", "other": "foreign"}
        self.invalid: list[str] = []
        self.lost: list[tuple[int, int, Any]] = []
        self.left: list[str] = []
        self.config: dict[str, Any] = {"hapi": {"image": "hapi:1", "environment": {"URL": URL, "PASSWORD": "hush-word-7"}}}
        self.image: Optional[str] = "sha256:1"
        self.environment: dict[str, str] = {}
        self.fails = ""

    # the copy
    restore_name = "db"

    def clear(self) -> list[str]:
        self.done.append("clear")
        return self.left

    def dump(self, number: int) -> None:
        self.done.append(f"dump {number}")
        if self.fails:
            raise BackupError(self.fails)

    def connect_nothing(self) -> None:
        self.done.append("network")

    def restore(self, sources: Any) -> None:
        self.done.append(f"restore {len(sources)}")

    def address(self, name: str) -> str:
        return "192.0.2.7"

    def run_hapi(self, image: str, config: Any, environment: dict[str, str], memory: str, shares: int) -> None:
        self.environment = environment
        self.done.append(f"run {image}")

    def wait_for_hapi(self, port: int, path: str, seconds: float, secrets: list[str]) -> Started:
        assert secrets == ["hush-word-7"]
        return self.starts.pop(0)

    # the session on it
    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        return [{"name": name, "kind": "p"} for name in ("t", "t_bd_new", "other")] if self.states else []

    def execute(self, query: Any, params: Any = None) -> None:
        self.done.append("spoil")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    found = Played()
    docker = SimpleNamespace(
        project_name=lambda: "site", config=lambda: {"services": found.config}, image_id=lambda ref: found.image, keep_fds=[],
    )  # fmt: skip
    source = SimpleNamespace(server=SimpleNamespace(bootstrap_role="postgres"), login=SimpleNamespace(database="fhirdb"))
    module = hfj_upgrade_check
    monkeypatch.setattr(module, "Docker", SimpleNamespace(from_module=lambda module: docker))
    monkeypatch.setattr(module.Check, "source", lambda self, wanted: source)
    monkeypatch.setattr(module, "connect", lambda login, timeout: nullcontext(found))
    monkeypatch.setattr(module.upgrade, "Copy", lambda *args: found)
    monkeypatch.setattr(module.upgrade, "shape", lambda *args: found.shapes.pop(0) if len(found.shapes) > 1 else found.shapes[0])
    monkeypatch.setattr(
        module.catalog, "read_table", lambda session, schema, name: SimpleNamespace(state=found.states[name], first=SimpleNamespace(oid=1))
    )
    monkeypatch.setattr(module.catalog, "read_keys", lambda session, oid: found.lost)
    monkeypatch.setattr(module, "index_partners", lambda session, table: found.invalid)
    return found


@pytest.fixture
def check(played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(fails: bool = False, **more: Any) -> dict[str, Any]:
        args = {"project_dir": str(tmp_path), "lock_dir": str(tmp_path / "lock"), "_ansible_tmpdir": str(tmp_path), **more}
        with patch_module_args(args), pytest.raises(SystemExit):
            hfj_upgrade_check.main()
        out = capsys.readouterr().out
        assert "hush-word-7" not in out
        found: dict[str, Any] = json.loads(out)
        assert bool(found.get("failed")) == fails, found
        # Whatever happened: what was begun is taken away, and no file stays.
        assert not played.done or played.done[-1] == "clear"
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("upgrade-")] == []
        return found

    return call


def ids(found: dict[str, Any]) -> dict[str, str]:
    return {item["id"]: item["severity"] for item in found["findings"]}


def test_accepted_and_proven(played: Played, check: Run) -> None:
    found = check(others=[{"service": "postgres-audit", "database": "auditdb"}])
    assert played.done == ["clear", "dump 0", "dump 1", "network", "restore 2", "run sha256:1", "spoil", "run sha256:1", "clear"]
    assert ids(found) == {}
    assert found["image"] == {"name": "hapi:1", "id": "sha256:1"}
    assert found["partitioned"] == ["other", "t"]
    assert (found["start"]["ready"], found["control"]["reason"]) == (True, REFUSED)
    assert played.environment["HAPI_HBM2DDL_AUTO"] == "validate"
    assert played.environment["URL"] == "jdbc:postgresql://bd-fhir-scratch:5432/fhirdb"
    assert not found["changed"]


@pytest.mark.parametrize(
    ("second", "found"), [(Started(True, 1.0), "it started"), (Started(False, 1.0, "Caused by: no memory\n", True), "no memory")],
)  # fmt: skip
def test_a_wrong_schema_that_is_not_refused_proves_nothing(played: Played, check: Run, second: Started, found: str) -> None:
    played.starts[1] = second
    told = check()
    assert ids(told) == {"validation_not_seen": "error"}
    assert found in told["findings"][0]["found"]
    assert "validation_not_seen" in check_again(played, check)["msg"]


def check_again(played: Played, check: Run) -> dict[str, Any]:
    played.starts = [Started(True, 1.0), Started(True, 1.0)]
    return check(fails=True, fail_on=["error"])


def test_without_control_there_is_one_start(played: Played, check: Run) -> None:
    assert check(control=False)["control"] == {}
    assert "spoil" not in played.done


@pytest.mark.parametrize(
    ("start", "id"),
    [
        (Started(False, 1.0, REFUSED, True), "schema_refused"),
        (Started(False, 1.0, "FlywayMigrateException: x\n", True), "migrator_failed"),
        # It has said why, and hangs.
        (Started(False, 1.0, "FlywayMigrateException: x\n", False), "migrator_failed"),
        (Started(False, 1.0, "Caused by: other\n", True), "start_failed"),
        (Started(False, 1.0, "starting\n", False), "start_not_seen"),
    ],
)
def test_a_start_that_failed(played: Played, check: Run, start: Started, id: str) -> None:
    played.starts = [start]
    found = check()
    assert ids(found) == {id: "error"}
    assert found["control"] == {}
    assert found["log"] == start.log.splitlines()


@pytest.mark.parametrize(("object", "severity"), [("index t.i", "warning"), ("index plain.i", "info")])
def test_what_a_release_changes(played: Played, check: Run, object: str, severity: str) -> None:
    played.shapes = [{}, {object: "x"}]
    found = check()
    assert ids(found) == {"migrator_changed": severity}
    assert [row["object"] for row in found["changes"]] == [object]


@pytest.mark.parametrize("how", ["state", "index", "key"])
def test_a_table_that_is_not_partitioned_any_more(played: Played, check: Run, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = played.wait_for_hapi

    def wait(*args: Any) -> Started:
        played.states["t"] = "foreign" if how == "state" else "swapped"
        played.invalid = ["idx"] if how == "index" else []
        played.lost = [(1, 2, SimpleNamespace(name="fk", inherited=False))] if how == "key" else []
        return real(*args)

    monkeypatch.setattr(played, "wait_for_hapi", wait)
    found = check()
    assert ids(found) == {"partitioning_broken": "error"}
    assert {"state": "t is foreign", "index": "idx of t", "key": "foreign key fk"}[how] in found["findings"][0]["found"]


def test_a_table_that_lacked_an_index_before_is_not_the_releases_fault(played: Played, check: Run) -> None:
    played.invalid = ["idx"]
    assert ids(check()) == {}


def test_a_plain_schema_and_leftovers_are_told(played: Played, check: Run) -> None:
    played.states, played.left = {}, ["site-upgrade-check-hapi"]
    assert ids(check()) == {"upgrade_check_leftover": "info", "nothing_partitioned": "info"}


def test_what_is_refused(played: Played, check: Run) -> None:
    assert "memory is 'much'" in check(fails=True, memory="much")["msg"]
    assert "start_timeout is 0" in check(fails=True, start_timeout=0)["msg"]
    assert "cpu_shares is 0; it must be at least 2" in check(fails=True, cpu_shares=0)["msg"]
    assert "there is no service other; there are hapi" in check(fails=True, hapi_service="other")["msg"]
    assert "also uses databases that are not copied: URL (fhirdb)" in check(fails=True, database="x")["msg"]
    played.config["hapi"]["environment"] = {"PASSWORD": "hush-word-7"}
    assert "no variable of hapi is a JDBC URL of the database fhirdb" in check(fails=True)["msg"]
    assert played.done == []
    check(environment={"DB_HOST": "bd-fhir-scratch"})
    played.image = None
    assert "the image next:2 is not on this host" in check(fails=True, image="next:2")["msg"]


def test_a_failure_in_the_middle_leaves_nothing(played: Played, check: Run) -> None:
    played.fails = "pg_dump ended with return code 1"
    assert check(fails=True)["msg"] == "pg_dump ended with return code 1"
    assert played.done == ["clear", "dump 0", "clear"]
