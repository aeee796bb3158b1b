# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of postgres_backup where no engine is at hand; with a real server: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _backup_files
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_backup

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        values = {"project_dir": str(tmp_path), "project_name": "p", "directory": str(tmp_path / "b"), "lock_dir": str(tmp_path / "l"), **args}
        with patch_module_args({**values, "_ansible_check_mode": check}), pytest.raises(SystemExit) as ended:
            postgres_backup.main()
        return {**json.loads(capsys.readouterr().out), "rc": ended.value.code}

    return call


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_backup.AnsibleModule, "get_bin_path", lambda *args, **kwargs: None)


def lay(directory: Path, name: str, **manifest: Any) -> Path:
    path = directory / name
    path.mkdir(parents=True)
    values = {"service": "s", "database": "d", "method": "pg_dump", "restore_checked": True, "created": 1.0, "bytes": 0, "seconds": 1.5}
    (path / "roles.sql").write_text("x")
    _size, sha256 = _backup_files.seal(str(path))
    _backup_files.write_manifest(str(path), {**values, "sha256": sha256, "label": "", "checked": postgres_backup.NOTHING_CHECKED, **manifest})
    return path


def test_a_bare_host(run: Run, tmp_path: Path) -> None:
    predicted = run(True, service="s", database="d")
    assert predicted["rc"] == 0
    assert predicted["changed"]
    assert "only that a backup would be made is predicted" in json.dumps(predicted["warnings"])
    refused = run(service="s", database="d")
    assert refused["rc"] == 1
    assert "docker command was not found" in refused["msg"]
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"database": "d"}, "service"),
        ({"service": "s"}, "database"),
        ({"state": "absent"}, "backup_id"),
        ({"service": "s", "database": "d", "jobs": 0}, "jobs is 0"),
        ({"service": "s", "database": "d", "keep": -1}, "keep is -1"),
        ({"service": "s", "database": "d", "min_free": -0.5}, "min_free is -0.5"),
        ({"service": "s", "database": "d", "method": "copy"}, "method"),
    ],
)
def test_bad_options_are_refused(run: Run, args: dict[str, Any], told: str) -> None:
    for check in (True, False):
        refused = run(check, **args)
        assert refused["failed"]
        assert told in refused["msg"]


def test_remove_again_and_what_is_not_ours(run: Run, tmp_path: Path) -> None:
    path = lay(tmp_path / "b", "s_d_1")
    args = {"state": "absent", "backup_id": "s_d_1"}
    assert "backup of the service s, not of t" in run(service="t", **args)["msg"]
    assert path.exists()
    done = run(**args)
    assert done["changed"]
    assert done["removed"] == ["s_d_1"]
    assert done["method"] == "pg_dump"
    assert not path.exists()
    again = run(**args)
    assert not again["changed"]
    assert again["removed"] == []
    (tmp_path / "b/foreign").mkdir()
    assert "is no backup of ours" in run(state="absent", backup_id="foreign")["msg"]
    assert (tmp_path / "b/foreign").exists()


def test_what_a_young_backup_tells(tmp_path: Path) -> None:
    lay(tmp_path, "s_d_1", created=90.0)
    (backup,) = _backup_files.listed(str(tmp_path))
    told = postgres_backup.told(backup, 100.5)
    assert told["backup_id"] == "s_d_1"
    assert told["age"] == 10
    assert told["seconds"] == 1.5
    assert set(told) >= {"path", "bytes", "sha256", "label", "checked", "method"}
