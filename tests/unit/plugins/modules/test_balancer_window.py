# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of balancer_window where no HAProxy is at hand; with the real one: tests/integration/real."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._haproxy import HAProxy
from ansible_collections.dghs.bd_fhir.plugins.module_utils._window import Window
from ansible_collections.dghs.bd_fhir.plugins.modules import balancer_window

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        args = {"project_dir": str(tmp_path), **args, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(args), pytest.raises(SystemExit) as ended:
            balancer_window.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ({"seconds": 0}, "seconds is 0, but has to be from 1 to 900"),
        ({"seconds": -5}, "seconds is -5"),
        ({"seconds": 901}, "seconds is 901"),
        ({}, "seconds"),
        ({"seconds": 60, "drain": 60}, "drain is 60, but has to be less than seconds"),
        ({"seconds": 60, "drain": -1}, "drain is -1"),
        ({"seconds": 60, "drain": 5, "scope": "writes"}, "drain needs scope=all"),
        ({"seconds": 60, "retry_after": 901}, "retry_after is 901"),
        ({"seconds": 60, "tolerance": -1}, "tolerance is -1"),
        ({"seconds": 60, "scope": "reads"}, "scope"),
        ({"state": "ajar"}, "state"),
        ({"state": "closed", "ready_timeout": 901}, "ready_timeout is 901"),
        ({"seconds": 60, "socket": "admin.sock"}, "socket is wrong"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_wrong_input_is_refused(run: Run, check: bool, args: dict[str, Any], word: str) -> None:
    result = run(check, **{"state": "open", **args})
    assert result["rc"] == 1
    assert word in result["msg"]


def test_without_a_balancer_a_dry_run_predicts(run: Run, tmp_path: Path) -> None:
    begun = int(time.time())
    found = run(True, state="open", seconds=60, retry_after=7)
    assert (found["rc"], found["changed"], found["state"], found["scope"]) == (0, True, "open", "all")
    assert found["map_path"] == str(tmp_path / "compose.d/balancer/etc/window.map")
    assert begun + 60 <= begun + found["seconds_left"] <= int(time.time()) + 60
    assert "Retry-After: 7" in found["diff"]["after"]
    assert "served" in found["diff"]["before"]
    assert str(tmp_path / "compose.d/balancer/run/admin.sock") in json.dumps(found["warnings"])
    closed = run(True, state="closed")
    assert (closed["rc"], closed["changed"], closed["state"], closed["until"]) == (0, False, "closed", "")
    assert list(tmp_path.iterdir()) == []


def test_without_a_balancer_a_real_run_fails(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer_window, "HAProxy", lambda address: HAProxy(address, patience=0))
    for args in ({"state": "open", "seconds": 60}, {"state": "closed"}):
        result = run(**args)
        assert result["rc"] == 1
        assert "No such file or directory. Look whether HAProxy runs" in result["msg"]
    assert list(tmp_path.iterdir()) == []


def test_fill() -> None:
    result: dict[str, Any] = {}
    balancer_window.fill(result, Window(0, 1_795_653_600), 1_795_653_500)
    assert result == {"state": "open", "scope": "writes", "until": "2026-11-26T00:40:00Z", "seconds_left": 100}
    balancer_window.fill(result, Window(0, 1_795_653_600), 1_795_653_600)
    assert result == {"state": "closed", "scope": "", "until": "", "seconds_left": 0}
