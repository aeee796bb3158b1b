# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""change as a module: what it returns, what it refuses, and what it leaves on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import change

Run = Callable[..., dict[str, Any]]
KEYS = {"changed", "token", "opened", "nested", "took_over", "taken_from", "waited", "held", "held_by", "lease", "journal"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        values = {"project_dir": str(tmp_path), "project_name": "bd-fhir", "state_dir": str(tmp_path / "state"), **args}
        with patch_module_args({**values, "_ansible_check_mode": check}), pytest.raises(SystemExit) as ended:
            change.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    path = tmp_path / "state/bd-fhir/journal.jsonl"
    return lambda: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_open_note_close(run: Run, journal: Callable[[], list[dict[str, Any]]], tmp_path: Path) -> None:
    opened = run(verb="scale_hapi", owner="rahim@ops", why="CHG-1042", controller={"hostname": "ops"})
    assert set(opened) >= KEYS
    assert (opened["opened"], opened["nested"], opened["changed"], opened["took_over"], opened["held"]) == (True, False, False, "", False)
    assert opened["journal"] == str(tmp_path / "state/bd-fhir/journal.jsonl")
    assert opened["lease"]["state"] == "open"
    assert journal() == []
    noted = run(state="noted", token=opened["token"], text="next", object="nginx", details={"line": 3})
    assert not noted["changed"]
    backup = run(state="noted", token=opened["token"], text="made", backup_id="20261125-201500F")
    assert not backup["changed"]
    closed = run(state="closed", token=opened["token"], text="done")
    assert not closed["changed"]
    assert closed["lease"]["state"] == "closed"
    records = journal()
    assert [item["kind"] for item in records] == ["opened", "note", "backup", "closed"]
    assert (records[1]["object"], records[1]["message"], records[1]["after"]) == ("nginx", "next", {"line": 3})
    assert records[2]["backup_id"] == "20261125-201500F"
    assert (records[3]["result"], records[3]["message"]) == ("succeeded", "done")
    assert not run(state="closed", token=opened["token"])["rc"]
    assert len(journal()) == 4


def test_a_run_that_changes_nothing_leaves_no_record(run: Run, journal: Callable[[], list[dict[str, Any]]]) -> None:
    for number in (1, 2):
        opened = run(verb="scale_hapi", owner="rahim@ops")
        assert opened["token"].startswith(f"{number}:")
        run(state="closed", token=opened["token"], result="failed", text="refused")
    assert journal() == []


def test_nested(run: Run) -> None:
    opened = run(verb="scale_regional", owner="rahim@ops")
    inner = run(verb="scale_hapi", token=opened["token"])
    assert (inner["token"], inner["nested"], inner["opened"]) == (opened["token"], True, False)
    assert inner["lease"]["verb"] == "scale_regional"


def test_held(run: Run) -> None:
    run(verb="scale_hapi", owner="rahim@ops")
    second = run(verb="tune_pools", owner="karim@ops", force_owner="someone@else")
    assert second["failed"]
    assert second["held"]
    assert second["lease"]["owner"] == "rahim@ops"
    for word in ("rahim@ops", "scale_hapi", "someone@else, who is not the holder"):
        assert word in second["msg"]
    note = run(state="noted", text="x")
    assert note["failed"]
    assert "without its token" in note["msg"]


def test_waiting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(verb="scale_hapi", owner="rahim@ops")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            change._change.close(change.Store(change.Token.parse(first["token"]).directory), change.Token.parse(first["token"]), "succeeded", "")

    monkeypatch.setattr(change.time, "sleep", sleep)
    second = run(verb="tune_pools", owner="karim@ops", wait=30)
    assert second["opened"]
    assert len(slept) == 2
    assert run(verb="x", owner="y", wait=0)["failed"]


def test_forced_and_superseded(run: Run, journal: Callable[[], list[dict[str, Any]]]) -> None:
    first = run(verb="scale_hapi", owner="rahim@ops")
    second = run(verb="rollback_scale_hapi", owner="karim@ops", force_owner="rahim@ops")
    assert second["took_over"] == "forced"
    assert second["taken_from"]["owner"] == "rahim@ops"
    for args in ({"state": "closed"}, {"state": "noted", "text": "x"}, {"verb": "x"}):
        late = run(token=first["token"], **args)
        assert late["failed"]
        assert "superseded" in late["msg"]
    assert [item["kind"] for item in journal()] == ["taken_over"]


def test_check_mode_looks_only(run: Run, tmp_path: Path) -> None:
    free = run(check=True, verb="x", owner="y")
    assert (free["token"], free["held"], free["lease"]) == ("", False, {})
    assert not (tmp_path / "state").exists()
    opened = run(verb="scale_hapi", owner="rahim@ops")
    before = {path.name: path.read_bytes() for path in (tmp_path / "state/bd-fhir").iterdir()}
    seen = run(check=True, verb="x", owner="y", force_owner="rahim@ops")
    assert seen["held"]
    assert "rahim@ops" in seen["held_by"]
    assert not seen.get("failed")
    mine = run(check=True, verb="x", token=opened["token"])
    assert (mine["held"], mine["nested"]) == (False, True)
    run(check=True, state="closed", token=opened["token"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "state/bd-fhir").iterdir()} == before


def test_where_nothing_is(run: Run, tmp_path: Path) -> None:
    args = {"project_dir": str(tmp_path / "none"), "project_name": "", "verb": "x", "owner": "y"}
    assert run(check=True, **args)["journal"] == ""
    refused = run(**args)
    assert refused["failed"]
    assert "there is no compose project" in refused["msg"]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"owner": "x"}, "verb"),
        ({"state": "closed"}, "token"),
        ({"state": "noted"}, "text"),
        ({"verb": "x", "owner": "y", "ttl": 5}, "ttl"),
        ({"verb": "x", "owner": "y", "wait": -1}, "wait"),
        ({"verb": "x", "token": "7"}, "no change has returned"),
    ],
)
def test_wrong_input(run: Run, tmp_path: Path, args: dict[str, Any], word: str) -> None:
    found = run(**args)
    assert found["failed"]
    assert word in found["msg"]
    assert not (tmp_path / "state").exists()
