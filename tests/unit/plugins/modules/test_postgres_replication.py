# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What postgres_replication decides; with a real server: tests/integration/real."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._passwords import scram_verifier
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_replication
from ansible_collections.dghs.bd_fhir.plugins.modules.postgres_replication import refused_role, refused_slot, shown_role, shown_slot, text

PASSWORD = "repl-S3cret-word"
ROLE = {"login": True, "replication": True, "superuser": False, "monitor": False, "verifier": scram_verifier(PASSWORD)}
SLOT = {"type": "physical", "active": False, "wal_status": "reserved", "active_pid": None, "application_name": None, "client": None}


def test_no_verifier_is_shown() -> None:
    shown = shown_role(ROLE)
    assert shown == {"login": True, "replication": True, "superuser": False, "monitor": False, "password": "scram-sha-256"}
    assert "SCRAM" not in text(shown)
    assert (shown_role(None), text(None)) == (None, "none")


@pytest.mark.parametrize(
    ("row", "mine", "words"),
    [
        (None, False, ""),
        (ROLE, False, ""),
        ({**ROLE, "verifier": scram_verifier("another")}, False, "another password"),
        ({**ROLE, "verifier": scram_verifier("another")}, True, ""),
        ({**ROLE, "replication": False}, False, "not replicate"),
        ({**ROLE, "login": False}, False, "not log in"),
        ({**ROLE, "verifier": None}, False, "another password"),
    ],
)
def test_a_role_of_somebody_else_is_refused_unless_it_serves_as_it_is(row: dict[str, Any] | None, mine: bool, words: str) -> None:
    found = refused_role(row, "replicator", PASSWORD, mine)
    assert (found == "") == (words == "")
    assert words in found
    assert PASSWORD not in found


def test_a_role_of_somebody_else_that_can_not_watch_the_standby_is_refused() -> None:
    assert "no member of pg_monitor" in refused_role(ROLE, "replicator", PASSWORD, False, monitor=True)
    assert refused_role({**ROLE, "monitor": True}, "replicator", PASSWORD, False, monitor=True) == ""
    assert refused_role(ROLE, "replicator", PASSWORD, True, monitor=True) == ""


@pytest.mark.parametrize(
    ("row", "mine", "words"),
    [
        (None, False, ""),
        (SLOT, True, ""),
        (SLOT, False, "no run of ours has made"),
        ({**SLOT, "active": True, "application_name": "barman", "client": "10.0.0.9"}, False, "read by barman from 10.0.0.9"),
        ({**SLOT, "active": True}, False, "a client without a name from the server's own host"),
        ({**SLOT, "type": "logical"}, True, "a logical one"),
    ],
)
def test_a_slot_of_somebody_else_is_refused(row: dict[str, Any] | None, mine: bool, words: str) -> None:
    found = refused_slot(row, "standby", mine)
    assert (found == "") == (words == "")
    assert words in found
    assert shown_slot(None) is None


@pytest.mark.parametrize("slot", ["", "Standby", "a-b", "x" * 64, "a b", 'a"'])
def test_a_name_that_no_slot_can_have_is_refused_without_a_look_at_the_host(slot: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = {"project_dir": "/nowhere", "service": "postgres", "user": "replicator", "password_variable": "REPLICA_PASSWORD", "slot": slot}
    with patch_module_args(args), pytest.raises(SystemExit):
        postgres_replication.main()
    assert "can't be a name of a slot" in json.loads(capsys.readouterr().out)["msg"]
