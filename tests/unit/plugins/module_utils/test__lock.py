# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._lock import HostLock, LockError, describe

HOLDER = """
import subprocess, sys, time
from ansible_collections.dghs.bd_fhir.plugins.module_utils._lock import HostLock
lock = HostLock(sys.argv[1], "project", "a test", 5).acquire()
if len(sys.argv) > 2:
    child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[lock.fd], stdout=subprocess.DEVNULL)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "locks"


@pytest.fixture
def holder(directory: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    process = hold(directory)
    yield process
    process.kill()
    process.wait()


def hold(directory: pathlib.Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), *more],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(item for item in sys.path if item)),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_held_and_freed(directory: pathlib.Path) -> None:
    with HostLock(str(directory), "project", "one", 0) as lock:
        assert json.loads((directory / "project.lock").read_text())["pid"] == os.getpid()
        assert (directory / "project.lock").stat().st_mode & 0o777 == 0o600
        assert directory.stat().st_mode & 0o777 == 0o700
        with pytest.raises(LockError):
            HostLock(str(directory), "project", "two", 0).acquire()
        HostLock(str(directory), "another", "three", 0).acquire().release()
        assert not os.get_inheritable(lock.fd)
    with HostLock(str(directory), "project", "two", 0):
        pass
    with pytest.raises(LockError, match="not held"):
        lock.fd  # noqa: B018


def test_docker_commands_hold_the_lock_of_a_project(directory: pathlib.Path) -> None:
    class Docker:
        keep_fds: list[int] = []

        def project_name(self) -> str:
            return "a/project"

    docker: Any = Docker()
    lock = HostLock.of_project(docker, {"lock_dir": str(directory), "lock_timeout": 0}, "one")
    assert docker.keep_fds == [lock.fd]
    assert json.loads((directory / "a_project.lock").read_text())["what"] == "one"
    lock.release()


def test_names_the_holder(directory: pathlib.Path, holder: subprocess.Popen[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(LockError) as caught:
        HostLock(str(directory), "project", "two", 0.5).acquire()
    assert time.monotonic() - begun < 3
    text = str(caught.value)
    for word in ("pid %d since 20" % holder.pid, "a test", "command line: ", "project.lock", "lock_timeout"):
        assert word in text


def test_waits(directory: pathlib.Path, holder: subprocess.Popen[str]) -> None:
    lock = HostLock(str(directory), "project", "two", 10)
    timer = subprocess.Popen(["sh", "-c", "sleep 0.7; kill -9 %d" % holder.pid])
    lock.acquire()
    timer.wait()
    # Killed without a chance to clean up: the kernel freed it.
    assert 0.3 < lock.waited < 5
    lock.release()


def test_what_the_holder_started_keeps_it(directory: pathlib.Path) -> None:
    process = hold(directory, "2")
    process.kill()
    process.wait()
    with pytest.raises(LockError, match="that process has ended, but a docker command that it started has not"):
        HostLock(str(directory), "project", "two", 0.1).acquire()
    lock = HostLock(str(directory), "project", "two", 10).acquire()
    assert lock.waited > 0.5
    lock.release()


def test_not_fooled(tmp_path: pathlib.Path, directory: pathlib.Path) -> None:
    """/run/lock is writable for everybody."""
    target = tmp_path / "victim"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(LockError, match="not a directory of root"):
        HostLock(str(tmp_path / "link"), "project", "x", 0).acquire()
    directory.mkdir()
    (directory / "project.lock").symlink_to(target)
    with pytest.raises(LockError, match="can't be opened"):
        HostLock(str(directory), "project", "x", 0).acquire()
    assert target.read_text() == "precious"
    with pytest.raises(LockError, match="lock_dir"):
        HostLock("/proc/nowhere", "project", "x", 0).acquire()


def test_name_stays_inside(directory: pathlib.Path) -> None:
    assert HostLock(str(directory), "../../etc/x", "x", 0).path == str(directory / ".._.._etc_x.lock")


def test_describe_without_content() -> None:
    assert "did not say" in describe({})
    assert "that process has ended" in describe({"pid": 2**22 + 1, "since": "then", "what": "it", "argv": "x"})
