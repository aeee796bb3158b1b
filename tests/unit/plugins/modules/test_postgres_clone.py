# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of postgres_clone where no engine is at hand; with real servers: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_clone

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(postgres_clone.AnsibleModule, "get_bin_path", lambda *args, **kwargs: None)

    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        values = {
            "project_dir": str(tmp_path), "project_name": "p", "lock_dir": str(tmp_path / "l"), "volume": "vol", "image": "i", "network": "n",
            "primary_host": "h", "user": "u", "passfile": "/p", "slot": "s", "system_identifier": "7", **args,
        }  # fmt: skip
        with patch_module_args({**values, "_ansible_check_mode": check}), pytest.raises(SystemExit) as ended:
            postgres_clone.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


def test_a_bare_host(run: Run) -> None:
    predicted = run(True)
    assert (predicted["rc"], predicted["changed"], predicted["state"]) == (0, True, "done")
    assert "no docker command" in json.dumps(predicted["warnings"])
    for state in ("absent", "read"):
        predicted = run(True, state=state)
        assert (predicted["rc"], predicted["changed"], predicted["state"]) == (0, False, "absent")
    for state in ("present", "absent", "read"):
        refused = run(state=state)
        assert refused["rc"] == 1
        assert "docker command was not found" in refused["msg"]
        assert not refused["changed"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"volume": "/opt/x"}, "A path can't be given"),
        ({"slot": "Bad-Slot"}, "slot is 'Bad-Slot'"),
        ({"slot": ""}, "slot is empty"),
        ({"network": None}, "network"),
        ({"system_identifier": ""}, "system_identifier"),
        ({"system_identifier": "7x"}, "it is a number"),
        ({"max_rate": "fast"}, "max_rate is 'fast'"),
        ({"memory": "much"}, "memory is 'much'"),
        ({"needed_bytes": -1}, "needed_bytes is -1"),
        ({"min_free_bytes": -1}, "min_free_bytes is -1"),
        ({"timeout": 0}, "timeout is 0"),
        ({"passfile": "/a,b"}, "passfile holds"),
        ({"passfile_in_container": "run/x"}, "must begin with /"),
        ({"state": "there"}, "state"),
    ],
)
def test_bad_options_are_refused(run: Run, args: dict[str, Any], told: str) -> None:
    for check in (True, False):
        refused = run(check, **args)
        assert refused["failed"]
        assert told in refused["msg"]


def test_only_a_clone_needs_to_know_the_primary(run: Run) -> None:
    for state in ("read", "absent"):
        found = run(True, state=state, network=None, primary_host=None, user=None, passfile=None, slot=None, system_identifier="")
        assert found["rc"] == 0
