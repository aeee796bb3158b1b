# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What postgres_monitor_role decides; with a real server: tests/integration/real."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._passwords import scram_verifier
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_monitor_role
from ansible_collections.dghs.bd_fhir.plugins.modules.postgres_monitor_role import MonitorRoleError, plan, shown, text, wanted_settings

PASSWORD = "monitor-S3cret-word"
SETTINGS = wanted_settings(10)
ROLE = {
    "login": True, "privileged": False, "monitor": True, "connect": True, "connection_limit": 3, "settings": SETTINGS,
    "verifier": scram_verifier(PASSWORD),
}  # fmt: skip


def planned(row: dict[str, Any] | None, adopt: bool = True) -> list[str]:
    return plan(row, "watch", PASSWORD, 3, SETTINGS, adopt)


def test_no_verifier_is_shown() -> None:
    assert "SCRAM" not in text(shown(ROLE))
    assert (shown(None), text(None)) == (None, "none")


@pytest.mark.parametrize(
    ("row", "actions"),
    [
        (ROLE, []),
        ({**ROLE, "monitor": False}, ["grant pg_monitor to watch"]),
        ({**ROLE, "verifier": scram_verifier("another")}, ["alter role watch"]),
        ({**ROLE, "connection_limit": -1}, ["alter role watch"]),
        ({**ROLE, "settings": SETTINGS[:2]}, ["set statement_timeout=10s of watch"]),
    ],
)
def test_only_what_differs_is_done(row: dict[str, Any], actions: list[str]) -> None:
    assert planned(row) == actions


def test_a_new_role_gets_everything() -> None:
    assert planned(None, adopt=False)[:2] == ["create role watch", "grant pg_monitor to watch"]
    assert len(planned(None, adopt=False)) == 2 + len(SETTINGS)


@pytest.mark.parametrize(("row", "adopt", "words"), [(ROLE, False, "no run of ours"), ({**ROLE, "privileged": True}, True, "more than watch")])
def test_a_role_of_somebody_else_and_one_that_may_more_are_refused(row: dict[str, Any], adopt: bool, words: str) -> None:
    with pytest.raises(MonitorRoleError, match=words) as caught:
        planned(row, adopt)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("option", ["connection_limit", "statement_timeout"])
def test_no_limit_is_refused_without_a_look_at_the_host(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = {"project_dir": "/nowhere", "service": "postgres", "database": "fhirdb", "user": "watch", "password_variable": "WATCH", option: 0}
    with patch_module_args(args), pytest.raises(SystemExit):
        postgres_monitor_role.main()
    assert "must be 1 or more" in json.loads(capsys.readouterr().out)["msg"]
