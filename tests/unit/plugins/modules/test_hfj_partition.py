# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of hfj_partition with a server that is played; with a real one: tests/integration/real/test_hfj_partition.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _hfj_catalog, _hfj_rewrite, _hfj_sql
from ansible_collections.dghs.bd_fhir.plugins.module_utils._change import ChangeError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._hfj import ForeignKey, Index, Part, Relation, Sequence, Step, Table
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.modules import hfj_partition

SECRET = "hush-word-7"
Run = Callable[..., dict[str, Any]]
KEY = ForeignKey("fk_t", "public", "t", ("res_id",), "public", "hfj_resource", ("res_id",))
HASH = Index("idx_hash", "btree (hash)", columns=("hash",))
PK = Index("t_pkey", "btree (sp_id)", True, True, columns=("sp_id",))


class Database:
    """A table on which the steps have the effect that the catalog would show."""

    def __init__(self) -> None:
        self.server = {"version": 150018, "in_recovery": False, "deadlock_timeout": 1.0, "user": "postgres"}
        self.table = Table("public", "t", "sp_id", "res_id", False, Relation(1, "public", "t", "r", "app", 10**6, 1000.0, (HASH, PK), (KEY,)))
        self.sequence = Sequence("seq_resource_id", 5001, 50, False, 5003, 10.0)
        self.standbys: list[dict[str, Any]] = []
        self.free = 10**12
        self.said: list[str] = []
        self.done: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.visited = ["t_p0"]
        self.orphans = 0
        self.filled: list[str] = []
        self.building: list[dict[str, Any]] = []
        self.others_change = False
        self.alone = True
        self.lost: list[str] = []
        self.at_work: list[str] = []

    def carry_out(self, session: Any, table: Table, step: Step, look: Any, other: Any, limits: Any, told: Any, allow_copy: bool) -> int:
        self.done.append(step.action)
        if step.action in self.fails:
            raise self.fails[step.action]
        main, new = self.table.main, self.table.new
        assert main is not None
        if step.action == "build_index":
            main = replace(main, indexes=(HASH, Index("t_bd_uk", "btree (sp_id, res_id)", True, columns=("sp_id", "res_id")), PK))
        elif step.action == "create_parent":
            made = tuple(replace(index, name=index.name + "_bd_new") for index in main.indexes if not index.primary)
            new = Relation(2, "public", "t_bd_new", "p", "app", indexes=made, keys=main.keys)
        elif step.action == "add_partition":
            parent = main if main.kind == "p" else new
            assert parent is not None
            parent = replace(parent, parts=(*parent.parts, Part(step.object, step.lower, step.upper)))
            main, new = (parent, None) if main.kind == "p" else (main, parent)
        elif step.action == "add_check":
            main = replace(main, check_bound=step.upper)
        elif step.action == "validate_check":
            main = replace(main, check_valid=True)
        elif step.action == "drop_check":
            main = replace(main, check_bound=None, check_valid=False)
        elif step.action == "drop_parent":
            new = None
        elif step.action == "drop_index":
            main = replace(main, indexes=(HASH, PK))
        elif step.action == "swap":
            assert new is not None
            self.table = replace(self.table, first=main)
            main, new = replace(new, name="t", parts=(Part("t_p0", None, step.upper), *new.parts), analyzed=False), None
        elif step.action == "analyze":
            main = replace(main, analyzed=True)
        elif step.action == "swap_back":
            assert self.table.first is not None
            main = replace(self.table.first, check_bound=None)
            self.table = replace(self.table, first=None)
        self.table = replace(self.table, main=main, new=new)
        return 5 if step.action == "swap_back" and allow_copy else 0

    def rebuild(self, session: Any, table: Table, step: Step, limits: Any, told: Any) -> int:
        self.done.append(step.action)
        main = self.table.main
        assert main is not None
        if step.action == "rewrite":
            parts = tuple(Part(f"t_h{number}", None, None) for number in range(step.upper))
            indexes = (HASH, Index("t_bd_uk", "btree (sp_id, res_id)", True))
            main = replace(main, kind="p", parts=parts, indexes=indexes, partition_key="HASH (res_id)")
        else:
            main = replace(main, kind="r", parts=(), indexes=(HASH, PK), partition_key="")
        self.table = replace(self.table, main=main)
        return 1000

    def execute(self, query: str, params: Any = None) -> None:
        self.said.append(query)

    def rows(self, query: Any, params: Any = None) -> list[dict[str, Any]]:
        return self.building if query == "building" else [self.server]

    def value(self, query: Any, params: Any = None) -> Any:
        return self.alone

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *args: object) -> None:
        pass


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    found = Database()
    container = SimpleNamespace(id="c0ffee", name="site-db-1", addresses={"net": "192.0.2.9"})

    def say(word: str) -> None:
        if found.others_change:
            raise ChangeError("somebody else's change is open")
        found.done.append(word)

    guard = SimpleNamespace(kept=nullcontext, verify=lambda: say("verify"), step=lambda action, obj, before, after: say("journal"))
    monkeypatch.setattr(hfj_partition.ChangeGuard, "for_docker", classmethod(lambda cls, module, docker: guard))
    monkeypatch.setattr(hfj_partition, "Docker", SimpleNamespace(from_module=lambda module: SimpleNamespace()))
    monkeypatch.setattr(hfj_partition, "container_of", lambda docker, service: container)
    monkeypatch.setattr(hfj_partition, "connect", lambda login, timeout: found)
    monkeypatch.setattr(hfj_partition, "LAG_PAUSE", 0.01)
    for name, value in {
        "read_table": lambda session, schema, name: found.table,
        "read_sequence": lambda session, schema, name, growth: found.sequence if growth else replace(found.sequence, per_day=None),
        "read_standbys": lambda session: found.standbys,
        "with_taken": lambda session, table, bounds: table,
        "hapi_partitions": lambda session, schema: False,
        "free_bytes": lambda docker, container, session: found.free,
        "read_keys": lambda session, oid: [],
    }.items():
        monkeypatch.setattr(_hfj_catalog, name, value)
    monkeypatch.setattr(_hfj_sql, "carry_out", found.carry_out)
    monkeypatch.setattr(_hfj_rewrite, "rebuild", found.rebuild)
    monkeypatch.setattr(_hfj_rewrite, "lost", lambda session, table: found.lost)
    monkeypatch.setattr(_hfj_rewrite, "at_work", lambda session, table: found.at_work)
    monkeypatch.setattr(_hfj_sql, "filled_ones", lambda session, table: found.filled)
    monkeypatch.setattr(_hfj_sql, "BUILDING", "building")
    monkeypatch.setattr(_hfj_sql, "pruned", lambda session, table, id: found.visited)
    monkeypatch.setattr(_hfj_sql, "orphans", lambda session, table, part, rows: found.orphans)
    monkeypatch.setattr(_hfj_sql, "twice", lambda session, table, part, others, rows: 0)
    monkeypatch.setattr(_hfj_sql, "index_partners", lambda session, table: [])
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(step: str, check: bool = False, **args: Any) -> dict[str, Any]:
        args = {"project_dir": "/opt/site", "login_password": SECRET, "table": "t", "step": step, "_ansible_check_mode": check, **args}
        with patch_module_args(args), pytest.raises(SystemExit):
            hfj_partition.main()
        out = capsys.readouterr().out
        assert SECRET not in out.replace('"login_password": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"', "")
        return dict(json.loads(out))

    return call


def actions(found: dict[str, Any]) -> list[str]:
    return [step["action"] for step in found["plan"]]


ONLINE = ["build_index", "create_parent", "add_partition", "add_partition", "add_check", "validate_check"]


def test_each_step_is_told_before_done_once_and_not_again(database: Database, run: Run) -> None:
    for step, wanted, state in (
        ("prepare", ONLINE, "prepared"), ("swap", ["swap", "analyze"], "swapped"), ("undo", ["swap_back", "drop_index"], "plain"),
    ):  # fmt: skip
        told = run(step, check=True)
        assert (actions(told), told["changed"], told["state"]["after"], database.done) == (wanted, True, state, [])
        assert all(row["seconds"] is None for row in told["plan"])
        done = run(step)
        assert (actions(done), done["changed"], done["state"]["after"]) == (wanted, True, state)
        assert {key: value for key, value in done.items() if key not in ("plan", "invocation", "diff", "partitions", "lock", "foreign_keys")} == {
            key: value for key, value in told.items() if key not in ("plan", "invocation", "diff", "partitions", "lock", "foreign_keys")
        }
        # The lease is looked at before the first change, and each is written down right before it is made.
        assert database.done == ["verify"] + [word for action in wanted for word in ("journal", action)]
        database.done.clear()
        for check in (True, False):
            again = run(step, check=check)
            assert (again["changed"], again["plan"], again["state"]["after"]) == (False, [], state)
        assert database.done == []


def test_the_session_ends_with_the_module_and_takes_no_helpers(database: Database, run: Run) -> None:
    run("watch")
    assert "SET client_connection_check_interval = '5s'" in database.said
    assert "SET max_parallel_maintenance_workers = 0" in database.said


def test_refused_before_the_first_change(database: Database, run: Run) -> None:
    def refused(step: str, **more: Any) -> str:
        for check in (True, False):
            found = run(step, check=check, **more)
            assert found["failed"]
            assert not found["changed"]
        assert database.done == []
        return str(found["msg"])

    assert "lock_timeout_seconds is 1, and the server's deadlock_timeout is 1 s" in refused("swap", lock_timeout_seconds=1)
    assert "It takes 0.01 to 3600" in refused("swap", lock_timeout_seconds=0)
    assert "ahead is 0" in refused("prepare", ahead=0)
    assert "only a partitioned table can be extended" in refused("extend")
    assert "first_bound is 10" in refused("prepare", first_bound=10)
    database.free = 5
    assert "disk_too_small" in refused("prepare")
    database.free = 10**12
    database.server = {**database.server, "version": 180000}
    assert "server_version_other" in refused("prepare")
    database.server = {**database.server, "version": 150000, "in_recovery": True}
    assert "is a standby" in refused("undo")


def test_a_swap_of_what_is_not_prepared(database: Database, run: Run) -> None:
    assert "a swap needs it prepared" in run("swap")["msg"]
    told = run("swap", check=True)
    assert "failed" not in told
    assert [item["id"] for item in told["findings"]] == ["partition_not_prepared"]
    assert told["state"] == {"before": "plain", "after": "swapped"}


def test_a_failure_in_the_middle_tells_what_was_done(database: Database, run: Run) -> None:
    database.fails = {"add_check": PostgresError("held by pid 7", "statement", "55P03")}
    found = run("prepare")
    assert (found["failed"], found["changed"], actions(found)) == (True, True, ONLINE[:4])
    assert found["msg"] == "add_check of t: held by pid 7"
    assert found["state"] == {"before": "plain", "after": "preparing"}
    database.fails = {}
    assert actions(run("prepare")) == ONLINE[4:]


def test_a_standby_that_lags_holds_it_up(database: Database, run: Run) -> None:
    database.standbys = [{"application": "standby", "lag_bytes": 10**12}]
    found = run("prepare", lag_wait_seconds=0)
    assert "standbys are behind for longer than lag_wait_seconds: standby" in found["msg"]
    assert not found["changed"]
    database.standbys = []
    run("prepare")
    database.standbys = [{"application": "standby", "lag_bytes": None}]
    assert "standby_lags" in run("swap")["msg"]
    # The way back and the watch are never kept waiting.
    assert "failed" not in run("undo")


def test_the_watch(database: Database, run: Run) -> None:
    run("prepare")
    assert not run("watch")["changed"]
    database.sequence = replace(database.sequence, last=15000, highest=15000)
    assert actions(run("watch")) == ["drop_check"]
    assert not run("watch")["changed"]


def test_the_watch_comes_through_another_run_and_somebody_elses_change(database: Database, run: Run) -> None:
    run("prepare")
    database.sequence = replace(database.sequence, last=15000, highest=15000)
    database.alone, database.others_change = False, True
    database.rows = lambda query, params=None: [] if query in (_hfj_sql.ADVISORY_HOLDERS, "building") else [database.server]  # type: ignore[method-assign]
    assert "another run is at work" in run("undo")["msg"]
    database.alone = True
    assert "somebody else's change" in run("undo")["msg"]
    database.alone = False
    assert actions(run("watch")) == ["drop_check"]


def test_no_bound_is_computed_without_knowing_the_growth(database: Database, run: Run) -> None:
    database.sequence = replace(database.sequence, per_day=None)
    for check in (True, False):
        assert "Give first_bound" in run("prepare", check=check)["msg"]
    assert database.done == []
    # What the operator has named goes on with it.
    database.fails = {"add_check": PostgresError("held by pid 7", "statement", "55P03")}
    run("prepare", first_bound=50000)
    database.fails = {}
    done = run("prepare")
    assert (done["state"]["after"], done["bounds"]["first"]) == ("prepared", 50000)
    assert [item["id"] for item in done["findings"]] == ["partition_half_done", "watch_needed"]


def test_undo_is_refused_in_check_mode_as_in_a_real_run(database: Database, run: Run) -> None:
    run("prepare")
    database.building = [{"pid": 4, "percent": 40.0}]
    database.done.clear()
    for check in (True, False):
        assert "pid 4 is still building" in run("undo", check=check)["msg"]
    database.building = []
    run("swap")
    database.filled = ["t_p16000"]
    database.done.clear()
    for check in (True, False):
        found = run("undo", check=check)
        assert "t_p16000 already hold rows" in found["msg"]
        assert found["state"]["after"] == "swapped"
    assert database.done == []
    database.building = [{"pid": 4, "percent": 40.0}]
    for check in (True, False):
        assert "pid 4 is still building" in run("undo", check=check, allow_copy=True)["msg"]
    assert database.done == []
    database.building = []
    assert actions(run("undo", check=True, allow_copy=True)) == actions(run("undo", allow_copy=True)) == ["swap_back", "drop_index"]


def test_copying_is_told(database: Database, run: Run) -> None:
    run("prepare")
    run("swap")
    assert run("undo", allow_copy=True)["rows_copied"] == 5


def test_verify_changes_nothing_and_goes_red(database: Database, run: Run) -> None:
    run("prepare")
    keys = run("swap")["foreign_keys"]["before"]
    database.done.clear()

    def red(**more: Any) -> list[str]:
        found = run("verify", **more)
        assert not found["changed"]
        assert bool(found.get("failed")) == any(item["severity"] == "error" for item in found["findings"])
        return [item["id"] for item in found["findings"]]

    assert red(expected_foreign_keys=keys) == []
    assert red(expected_foreign_keys=[{**keys[0], "name": "other"}]) == ["foreign_keys_differ"]
    database.visited = ["t_p0", "t_p16000"]
    assert red() == ["pruning_missing"]
    database.visited, database.orphans = ["t_p0"], 3
    assert set(red()) == {"orphan_rows"}
    database.orphans = 0
    database.sequence = replace(database.sequence, highest=6000)
    assert red() == ["sequence_behind"]
    database.sequence = replace(database.sequence, last=10**7, highest=10**7)
    assert red() == ["partitions_end"]
    assert database.done == []


def test_the_other_method_copies_there_and_back(database: Database, run: Run) -> None:
    for step, wanted, state, more in (("rewrite", "rewrite", "rewritten", {"modulus": 3}), ("undo", "rewrite_back", "plain", {"allow_copy": True})):
        told = run(step, check=True, **more)
        assert (actions(told), told["changed"], told["state"]["after"], database.done) == ([wanted], True, state, [])
        done = run(step, **more)
        assert (actions(done), done["state"]["after"], done["rows_copied"]) == ([wanted], state, 1000)
        assert database.done == ["verify", "journal", wanted]
        database.done.clear()
        if step == "rewrite":
            assert [part["name"] for part in done["partitions"]] == ["t_h0", "t_h1", "t_h2"]
            assert not run("rewrite", modulus=3)["changed"]
            assert not run("verify")["changed"]
            assert "t is 3 partitions by hash" in run("rewrite", modulus=2)["msg"]
            for other in ("prepare", "swap"):
                assert "t was rewritten by hash. Run step=undo first" in run(other)["msg"]
            for check in (True, False):
                assert "Allow it with allow_copy" in run("undo", check=check)["msg"]
    assert not run("undo", allow_copy=True)["changed"]


@pytest.mark.parametrize("check", [True, False])
def test_a_copy_is_refused_before_the_first_change(database: Database, run: Run, check: bool) -> None:
    assert "modulus is 1. It takes 2 to 256" in run("rewrite", check, modulus=1)["msg"]
    database.at_work = ["pid 7 (hapi-1 from 192.0.2.5)"]
    told = run("rewrite", check)
    if check:
        # A play stops HAPI in between, which a dry run does not.
        assert [(item["id"], item["found"]) for item in told["findings"] if item["id"] == "hapi_at_work"] == [("hapi_at_work", database.at_work[0])]
        assert (actions(told), told["state"]["after"]) == (["rewrite"], "rewritten")
    else:
        assert "Stop HAPI" in told["msg"]
    database.lost = ["owned sequence s"]
    assert "owned sequence s of t would not be on the copy" in run("rewrite", check)["msg"]
    database.free = 1000
    assert "disk_too_small" in run("rewrite", check)["msg"]
    database.standbys = [{"application": "standby", "lag_bytes": 10**12}]
    assert "standby_lags" in run("rewrite", check)["msg"]
    assert database.done == []
    assert database.table.state == "plain"
