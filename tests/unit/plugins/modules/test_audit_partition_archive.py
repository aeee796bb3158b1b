# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of audit_partition_archive where no engine is at hand; with a real server: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup_files, _partition_archive
from ansible_collections.dghs.bd_fhir.plugins.modules import audit_partition_archive

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        values = {"project_dir": str(tmp_path), "project_name": "p", "lock_dir": str(tmp_path / "l"), **args}
        with patch_module_args({**values, "_ansible_check_mode": check}), pytest.raises(SystemExit) as ended:
            audit_partition_archive.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_partition_archive.AnsibleModule, "get_bin_path", lambda *args, **kwargs: None)


@pytest.mark.usefixtures("no_docker")
def test_a_bare_host(run: Run, tmp_path: Path) -> None:
    predicted = run(True, state="dropped", older_than_months=24)
    assert (predicted["rc"], predicted["changed"], predicted["plan"]) == (0, False, [])
    assert "nothing is predicted" in json.dumps(predicted["warnings"])
    refused = run(state="dropped", older_than_months=24)
    assert refused["rc"] == 1
    assert "docker command was not found" in refused["msg"]
    assert not (tmp_path / "backups").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"older_than_months": 24}, "state"),
        ({"state": "absent", "partition": "x"}, "state"),
        ({"state": "dropped"}, "older_than_months"),
        ({"state": "dropped", "older_than_months": 0}, "older_than_months is 0. It takes 1 to 1200"),
        ({"state": "dropped", "older_than_months": 1201}, "older_than_months is 1201"),
        ({"state": "dropped", "partition": "x", "older_than_months": 24}, "mutually exclusive"),
        ({"state": "dropped", "partition": "x", "larger_than": "1GB"}, "mutually exclusive"),
        ({"state": "dropped", "larger_than": "large"}, "larger_than"),
        ({"state": "dropped", "larger_than": -1}, "larger_than"),
        ({"state": "dropped", "archive_id": "x"}, "archive_id goes with state attached only"),
        ({"state": "attached", "older_than_months": 24}, "state attached takes one partition"),
        ({"state": "attached", "partition": "x", "archive_id": "y"}, "mutually exclusive"),
        ({"state": "archived", "partition": "x", "lock_tries": 0}, "lock_tries is 0"),
        ({"state": "archived", "partition": "x", "lock_timeout_seconds": 0}, "lock_timeout_seconds is 0"),
        ({"state": "archived", "partition": "x", "min_free": -1}, "min_free is -1"),
        ({"state": "archived", "partition": "x", "backup_timeout": 0}, "backup_timeout is 0"),
    ],
)
def test_bad_options_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch, args: dict[str, Any], told: str) -> None:
    monkeypatch.setattr(audit_partition_archive.AnsibleModule, "get_bin_path", lambda *args, **kwargs: "/nowhere/docker")
    for check in (True, False):
        refused = run(check, **args)
        assert refused["failed"]
        assert told in refused["msg"]


def test_what_is_told_of_an_archive(tmp_path: Path) -> None:
    manifest: dict[str, Any] = {"bytes": 7, "sha256": "ab", "created": 1769903999.75}
    backup = _backup_files.Backup(str(tmp_path / "a"), manifest)
    archive = _partition_archive.Archive(backup, "s", "d", "audit", "t", "audit", "t_2026_01", None, None, ("id",), 3, "-9", 8192)
    told = audit_partition_archive.told(archive, made=True)
    assert told["archive_id"] == "a"
    assert told["created"] == "2026-01-31T23:59:59Z"
    assert (told["rows"], told["sum"], told["bytes"], told["made"]) == (3, "-9", 7, True)
