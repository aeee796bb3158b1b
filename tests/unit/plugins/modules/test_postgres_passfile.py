# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of postgres_passfile on real files, with an environment file that is played; read by libpq: tests/integration/real."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import QuotingError
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_passfile

Run = Callable[..., dict[str, Any]]
SECRET = r"a:b\c*#'\"$ ড"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(postgres_passfile.Docker, "env_values", lambda self: {"WORD": SECRET, "OTHER": "other", "EMPTY": ""})
    monkeypatch.setattr(postgres_passfile.ChangeGuard, "for_docker", lambda module, docker: _change.ChangeGuard(module, None, None))

    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        args = {"project_dir": str(tmp_path), "path": str(tmp_path / "passfile"), "_ansible_check_mode": check, "_ansible_diff": True, **args}
        with patch_module_args(args), pytest.raises(SystemExit):
            postgres_passfile.main()
        out = capsys.readouterr().out
        assert SECRET not in out
        assert json.dumps(SECRET)[1:-1] not in out
        return json.loads(out)

    return call


ENTRY = {"user": "replicator", "password_variable": "WORD"}


def test_made_changed_and_removed_each_first_in_check_mode(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "passfile"
    other = {**ENTRY, "password_variable": "OTHER", "host": "db", "port": "5432"}
    for entries, text in (([ENTRY], """*:*:*:replicator:a\\:b\\\\c*#'\\\\"$ ড\n"""), ([other], "db:5432:*:replicator:other\n")):
        predicted = run(check=True, entries=entries)
        done = run(entries=entries)
        assert predicted["changed"] is done["changed"] is True
        assert predicted["diff"] == done["diff"]
        assert path.read_text(encoding="utf-8") == text
        assert path.stat().st_mode & 0o7777 == 0o600
        for check in (True, False):
            assert run(check=check, entries=entries)["changed"] is False
    for check in (True, False):
        assert run(check=check, state="absent")["changed"] is True
        assert path.exists() == check
    assert run(state="absent")["changed"] is False


def test_attributes_are_mended(run: Run, tmp_path: Path) -> None:
    run(entries=[ENTRY])
    path = tmp_path / "passfile"
    path.chmod(0o644)
    assert run(entries=[ENTRY])["changed"] is True
    assert path.stat().st_mode & 0o7777 == 0o600
    if os.geteuid() == 0:
        assert run(entries=[ENTRY], owner=999, group=998)["changed"] is True
        assert (path.stat().st_uid, path.stat().st_gid) == (999, 998)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"entries": []}, "entries is empty"),
        ({"entries": [{**ENTRY, "password_variable": "EMPTY"}]}, "EMPTY is empty"),
        ({"entries": [{**ENTRY, "password_variable": "NOWHERE"}]}, "NOWHERE is not set"),
        ({"entries": [{**ENTRY, "user": "a\nb"}]}, "line break"),
        ({"entries": [ENTRY], "path": "/nowhere/at/all"}, "could not be read or written"),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(run: Run, tmp_path: Path, args: dict[str, Any], words: str) -> None:
    found = run(**args)
    assert found["failed"]
    assert words in found["msg"]
    assert not (tmp_path / "passfile").exists()


def test_a_directory_in_its_place_stays(run: Run, tmp_path: Path) -> None:
    (tmp_path / "passfile").mkdir()
    assert "no ordinary file" in run(entries=[ENTRY])["msg"]


def test_a_lone_asterisk_is_a_wildcard_in_a_name_and_a_password_in_its_place() -> None:
    entry = {"host": "*", "port": "*", "database": "*", "user": "*"}
    assert postgres_passfile.render([entry], ["*"]) == "*:*:*:*:\\*\n"
    with pytest.raises(QuotingError):
        postgres_passfile.render([entry], [""])
