# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What cron takes, and what it silently leaves out."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _cron

GOOD = "# why\n23 4 * * * root /usr/bin/python3 /usr/local/lib/bd-fhir-audit run --log '/var/log/a 100\\%.log'\n"


def faults(text: str) -> list[str]:
    return _cron.faults_of(text, lambda name: name in ("root", "ops"), lambda path: path == "/usr/bin/python3")


@pytest.mark.parametrize(("text", "values"), [
    ("5", {5}), ("*", set(range(60))), ("*/15", {0, 15, 30, 45}), ("1-3", {1, 2, 3}), ("1-9/4", {1, 5, 9}), ("50/4", {50, 54, 58}),
    ("0,7,3-4", {0, 3, 4, 7}),
])
def test_a_field(text: str, values: set[int]) -> None:
    assert _cron.field_values(text, 0, 59) == values


@pytest.mark.parametrize("text", ["", "60", "-1", "5-3", "*/0", "a", "1,,2", "1-", "1.5", "१", "* "])
def test_what_is_no_field(text: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        _cron.field_values(text, 0, 59)


def test_when_a_job_is_due() -> None:
    zone = timezone(timedelta(hours=6))
    now = datetime(2027, 12, 31, 23, 59, 30, tzinfo=zone)
    assert _cron.next_time("23", "4", now) == datetime(2028, 1, 1, 4, 23, tzinfo=zone)
    assert _cron.next_time("*", "*", now) == datetime(2028, 1, 1, 0, 0, tzinfo=zone)
    # Never at once: one that has just run would run again.
    assert _cron.next_time("59", "23", now) == datetime(2028, 1, 1, 23, 59, tzinfo=zone)


def test_a_good_file() -> None:
    assert faults(GOOD) == []
    assert faults("MAILTO=ops\nPATH = /bin\n\n" + GOOD) == []


@pytest.mark.parametrize(("text", "says"), [
    (GOOD.rstrip("\n"), "does not end"),
    (GOOD.replace("\n", "\r\n"), "carriage"),
    (GOOD.replace("\\%", "%"), "percent"),
    (GOOD.replace("23 4", "63 4"), "the minute '63'"),
    (GOOD.replace("23 4", "23 24"), "the hour '24'"),
    (GOOD.replace("root", "nobody-here"), "no user nobody-here"),
    (GOOD.replace("/usr/bin/python3", "/usr/bin/python9"), "no program /usr/bin/python9"),
    (GOOD.replace("/usr/bin", "\\\n  /usr/bin"), "2 jobs"),
    (GOOD + GOOD, "2 jobs"),
    ("# nothing\n", "0 jobs"),
    ("23 4 * * * /usr/bin/python3\n", "no five fields"),
    (GOOD.replace("'/var", "/var"), "shell can't read"),
    (GOOD.replace("\n", " " + "x" * 1000 + "\n"), "cut off"),
], ids=["no_end", "windows", "percent", "minute", "hour", "user", "program", "continued", "two", "none", "fields", "quote", "long"])
def test_what_cron_would_leave_out_or_run_otherwise(text: str, says: str) -> None:
    assert any(says in fault for fault in faults(text)), faults(text)


def test_a_file_that_cron_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bd-fhir_1"
    path.write_text(GOOD)
    path.chmod(0o644)
    real = os.lstat(path)
    of_root = os.stat_result((*real[:4], 0, *real[5:]))
    monkeypatch.setattr(_cron.os, "lstat", lambda name: of_root if name == str(path) else os.stat(name))
    assert _cron.file_faults(str(path)) == []
    monkeypatch.undo()
    path.chmod(0o664)
    assert any("may write" in fault for fault in _cron.file_faults(str(path)))
    other = tmp_path / "bd-fhir.cron"
    other.symlink_to(path)
    assert [fault.split(":")[0] for fault in _cron.file_faults(str(other))][:2] == ["cron leaves out files of such a name", "it is no regular file"]
    assert "No such file" in _cron.file_faults(str(tmp_path / "gone"))[0]


def test_which_daemon_runs(tmp_path: Path) -> None:
    for number, name, space in (("1", "systemd", "pid:[1]"), ("70", "cron", "pid:[1]"), ("71", "crond", "pid:[2]"), ("self", "python3", "pid:[1]")):
        (tmp_path / number / "ns").mkdir(parents=True)
        (tmp_path / number / "comm").write_text(name + "\n")
        (tmp_path / number / "ns/pid").symlink_to(space)
    (tmp_path / "72").mkdir()
    # crond is in a container.
    assert _cron.daemons(proc=str(tmp_path)) == ["cron"]
    assert _cron.daemons(["systemd-cron"], str(tmp_path)) == []


def test_a_host_and_a_file_at_once(tmp_path: Path) -> None:
    """As a role's preflight and its check of a line that it has laid ask."""
    none: list[str] = []
    assert _cron.host_faults(str(tmp_path), lambda: ["cron"]) == []
    assert [fault.split(":")[0] for fault in _cron.host_faults(str(tmp_path), lambda: none)] == ["no cron daemon runs on this host"]
    assert _cron.host_faults(str(tmp_path / "cron.d")) == [f"there is no {tmp_path}/cron.d on this host: install the package cron"]
    path = tmp_path / "bd-fhir.cron"
    path.write_text("* * * * * nobody-has-this-name /bin/sh x\n")
    assert _cron.faults_at(str(path), True) == ["there is no user nobody-has-this-name"]
    all_of_it = _cron.faults_at(str(path), False, lambda: none)
    assert "cron leaves out files of such a name: only letters, digits, - and _ may be in it" in all_of_it
    assert all_of_it[-1].startswith("no cron daemon runs")


def test_run_by_itself(tmp_path: Path) -> None:
    """As it is laid on a host, or given to a Python there as a text, without Ansible."""
    text = Path(_cron.__file__).read_text()
    path = tmp_path / "bd-fhir"
    path.write_text("* * * * * root /bin/sh x\n")
    for how in ([str(_cron.__file__)], ["-c", text]):
        done = subprocess.run([sys.executable, "-I", *how, "--content", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    path.write_text("61 * * * * root /bin/sh x\n")
    done = subprocess.run([sys.executable, "-I", "-c", text, "--content", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, f"{path}: the minute '61' is not within 0 to 59\n")
    done = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1 if _cron.host_faults() else 0, "")
