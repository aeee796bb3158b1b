# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of env_file where no Compose is at hand; with the real one: tests/integration/real."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.modules import env_file

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def without_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(env_file.AnsibleModule, "get_bin_path", lambda *args, **kwargs: None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(check: bool = False, **args: Any) -> dict[str, Any]:
        with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit) as ended:
            env_file.main()
        out = capsys.readouterr().out
        return {**json.loads(out), "rc": ended.value.code, "text": out}

    return call


@pytest.fixture
def path(tmp_path: Path) -> Path:
    item = tmp_path / ".env"
    item.write_bytes(b"# c\r\nA=1\r\nPW=old\r\n")
    item.chmod(0o640)
    return item


def test_check_real_again(run: Run, path: Path) -> None:
    args: dict[str, Any] = {"path": str(path), "values": {"PW": "pa$sw0rd%x", "NEW": "n e w"}, "absent": ["A"]}
    before = path.read_bytes()
    predicted = run(check=True, **args)
    assert path.read_bytes() == before
    done = run(**args)
    assert path.read_bytes() == b"# c\r\nPW='pa$sw0rd%x'\r\nNEW='n e w'\r\n"
    assert path.stat().st_mode & 0o777 == 0o640
    for key in ("changed", "names_set", "names_removed", "created", "validated_by", "hash_changes", "diff"):
        assert predicted[key] == done[key]
    assert done["changed"]
    assert done["names_set"] == ["NEW", "PW"]
    assert done["names_removed"] == ["A"]
    assert done["validated_by"] == "parser"
    assert Path(done["backup_file"]).read_bytes() == before
    assert Path(done["backup_file"]).stat().st_mode & 0o777 == 0o600
    inode = path.stat().st_ino
    for check in (True, False):
        again = run(check=check, **args)
        assert not again["changed"]
        assert again["backup_file"] == ""
    assert path.stat().st_ino == inode
    assert len(list(path.parent.glob(".env*"))) == 2


def test_no_secret_is_shown(run: Run, path: Path) -> None:
    done = run(path=str(path), values={"PW": "t0psecret", "SHORT": "xyz"})
    assert "t0psecret" not in done["text"]
    assert "xyz" not in done["text"]
    assert "old" not in json.dumps(done["diff"])
    assert done["diff"]["before"] == "PW=(hidden)\n"
    assert done["diff"]["after"] == "PW=(changed, hidden)\nSHORT=(hidden)\n"
    shown = run(path=str(path), values={"IMAGE": "hapi:2"}, secret=False)
    assert shown["diff"]["after"] == "IMAGE=hapi:2\n"


def test_a_new_file(run: Run, path: Path) -> None:
    path.unlink()
    assert run(path=str(path), values={"A": "x"})["failed"]
    assert not path.exists()
    assert run(path=str(path), values={"A": "x"}, create=True, check=True)["created"]
    assert not path.exists()
    done = run(path=str(path), values={"A": "x"}, create=True)
    assert done["changed"]
    assert done["created"]
    assert done["backup_file"] == ""
    assert path.read_bytes() == b"A=x\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not run(path=str(path), values={"A": "x"}, create=True)["changed"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"values": {"PW": True}}, ["PW", "bool"]),
        ({"values": {"PW": 1.0}}, ["PW", "float"]),
        ({"values": {"PW": None}}, ["PW", "NoneType"]),
        ({"values": {"1PW": "x"}}, ["1PW"]),
        ({"values": {"A B": "x"}}, ["A B"]),
        ({"values": {"PW": "s\0ecret"}}, ["PW", "NUL"]),
        ({"values": {"PW": "x"}, "absent": ["PW"]}, ["PW", "absent"]),
    ],
)
def test_bad_input_is_refused_before_a_change(run: Run, path: Path, args: dict[str, Any], words: list[str]) -> None:
    before = path.read_bytes()
    done = run(path=str(path), **args)
    assert done["failed"]
    assert all(word in done["msg"] for word in words)
    assert "ecret" not in done["text"]
    assert path.read_bytes() == before


def test_a_file_that_compose_refuses(run: Run, path: Path) -> None:
    path.write_text("A=1\nPW='t0psecret\n")
    done = run(path=str(path), values={"A": "2"})
    assert done["failed"]
    assert "line 2" in done["msg"]
    assert "t0psecret" not in done["text"]


def test_a_name_set_twice(run: Run, path: Path) -> None:
    path.write_text("PW=a\nPW=b\n")
    done = run(path=str(path), values={"PW": "c"})
    assert path.read_text() == "PW=a\nPW=c\n"
    assert [item["id"] for item in done["findings"]] == ["env_name_twice"]
    assert "1, 2" in done["findings"][0]["found"]


def test_a_link_stays_a_link(run: Run, path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.env"
    link.symlink_to(path)
    assert run(path=str(link), values={"A": "2"}, backup=False)["changed"]
    assert link.is_symlink()
    assert os.path.samefile(link, path)
    assert b"A=2\r\n" in path.read_bytes()


def test_a_directory_that_cannot_be_written(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(env_file, "replace_file", refuse)
    done = run(path=str(path), values={"A": "2"})
    assert done["failed"]
    assert "become" in done["msg"]


def test_a_wrong_reading_stops_the_module(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the written text can go red."""
    monkeypatch.setattr(env_file, "values_of", lambda statements: {"A": "other"})
    before = path.read_bytes()
    done = run(path=str(path), values={"A": "2"})
    assert done["failed"]
    assert "A" in done["msg"]
    assert path.read_bytes() == before
