# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""change_info: it reads what is there, makes nothing, and goes red on what was cut or damaged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils._change import Now, Store, Token, Wish
from ansible_collections.dghs.bd_fhir.plugins.modules import change_info

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(**args: Any) -> dict[str, Any]:
        values = {"project_dir": str(tmp_path), "project_name": "bd-fhir", "state_dir": str(tmp_path / "state"), **args}
        with patch_module_args(values), pytest.raises(SystemExit) as ended:
            change_info.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(_change.directory_of("bd-fhir", str(tmp_path / "state")))


def one_change(store: Store, verb: str, close: bool = True) -> Token:
    token = _change.take(store, Wish(verb, "", "rahim@ops", {})).token
    assert token
    _change.write_down(store, token, "step", module="env_file", action="write", object="/x/.env")
    if close:
        _change.close(store, token, "succeeded", "")
    return token


def test_nothing_there(run: Run, tmp_path: Path) -> None:
    for args in ({}, {"project_name": "", "project_dir": str(tmp_path / "none")}):
        found = run(**args)
        assert not found["rc"]
        assert (found["lease"], found["changes"], found["records"], found["findings"], found["held_by"]) == ({}, [], 0, [], "")
    assert list(tmp_path.iterdir()) == []


def test_changes_and_limit(run: Run, store: Store) -> None:
    for verb in ("scale_hapi", "tune_pools"):
        one_change(store, verb)
    one_change(store, "rollback_tune_pools", close=False)
    found = run()
    assert [(item["verb"], item["state"], len(item["steps"])) for item in found["changes"]] == [
        ("scale_hapi", "succeeded", 1), ("tune_pools", "succeeded", 1), ("rollback_tune_pools", "open", 1),
    ]  # fmt: skip
    assert found["records"] == 8
    assert found["held_by"].startswith("rahim@ops, verb rollback_tune_pools")
    assert [item["verb"] for item in run(limit=1)["changes"]] == ["rollback_tune_pools"]
    assert len(run(limit=0)["changes"]) == 3
    assert run(limit=-1)["failed"]
    assert found["findings"] == []


def test_a_cut_line_is_a_warning_and_a_broken_one_an_error(run: Run, store: Store) -> None:
    one_change(store, "scale_hapi")
    path = Path(store.journal_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    found = run(fail_on=["error"])
    assert not found["rc"]
    assert [(item["id"], item["severity"]) for item in found["findings"]] == [("journal_cut", "warning")]
    assert f"at offset {last} (line 3)" in found["findings"][0]["found"]
    one_change(store, "tune_pools")
    assert [item["id"] for item in run()["findings"]] == ["journal_cut"]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + b"".join(lines[2:]))
    found = run(fail_on=["error"])
    assert found["failed"]
    assert "journal_damaged" in found["msg"]
    assert "line 2" in found["msg"]
    assert [item["verb"] for item in found["changes"]] == ["scale_hapi", "tune_pools"]


def test_an_expired_lease(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one_change(store, "scale_hapi", close=False)
    later = Now.read().seconds + 901
    monkeypatch.setattr(Now, "read", classmethod(lambda cls: Now(time.time(), _change._boot_id(), later)))
    found = run()
    assert [item["id"] for item in found["findings"]] == ["lease_expired"]
    assert "expired 1 s ago" in found["findings"][0]["found"]
    assert found["held_by"] == ""
    assert found["changes"][0]["state"] == "expired"


def test_an_unreadable_lease_does_not_hide_the_journal(run: Run, store: Store) -> None:
    one_change(store, "scale_hapi")
    Path(store.lease_path).write_text("{", encoding="utf-8")
    found = run()
    assert [item["id"] for item in found["findings"]] == ["lease_unreadable"]
    assert len(found["changes"]) == 1
    assert run(fail_on=["error"])["failed"]
