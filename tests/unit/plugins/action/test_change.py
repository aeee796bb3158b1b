# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which ansible-playbook asks, and what proves that another one has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.action import change

PLAYBOOK = b"/usr/bin/python3\0/usr/bin/ansible-playbook\0site.yml\0"
MINE = {"hostname": "ops", "machine_id": "m1", "boot_id": "b1", "pid_namespace": "pid:[1]", "pid": 1, "started": 1}


def process(proc: Path, pid: int, parent: int, command: bytes, name: str = "ansible-playboo", started: int = 500) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes(command)
    (folder / "stat").write_text(f"{pid} ({name}) S {parent} {' '.join(['0'] * 17)} {started} 0 0\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A shell, ansible-runner, ansible-playbook (20), its worker (21), and what the worker started (22)."""
    process(tmp_path, 1, 0, b"/sbin/init\0")
    process(tmp_path, 10, 1, b"/usr/bin/python3\0/usr/bin/ansible-runner\0", started=400)
    process(tmp_path, 20, 10, PLAYBOOK, started=500)
    process(tmp_path, 21, 20, PLAYBOOK, started=501)
    process(tmp_path, 22, 21, b"ssh\0host\0", name="a) S 9 (b", started=502)
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026531836]")
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("b1\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("m1\n")
    return tmp_path


def test_stat_of_a_name_with_brackets(proc: Path) -> None:
    assert change.stat_of(22, str(proc)) == ("S", 21, 502)
    assert change.stat_of(99, str(proc)) is None


def test_the_playbook_is_above_its_worker_and_below_what_started_it(proc: Path) -> None:
    assert change.playbook_pid(21, str(proc)) == 20
    assert change.playbook_pid(20, str(proc)) == 20
    assert change.playbook_pid(99, str(proc)) == 99


def test_identity(proc: Path) -> None:
    found = change.identity(21, str(proc), str(proc / "etc"))
    assert {key: found[key] for key in found if key != "hostname"} == {
        "machine_id": "m1", "boot_id": "b1", "pid_namespace": "pid:[4026531836]", "pid": 20, "started": 500,
    }  # fmt: skip


def test_identity_without_proc(tmp_path: Path) -> None:
    found = change.identity(21, str(tmp_path), str(tmp_path))
    assert found["hostname"]
    assert "pid" not in found
    assert not change.proven_dead(found, found)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def holder(pid: int, **values: Any) -> dict[str, Any]:
    seen = change.stat_of(pid)
    return {**MINE, "pid": pid, "started": seen[2] if seen else 0, **values}


def test_a_living_process_is_not_dead_and_a_killed_one_is(child: subprocess.Popen[bytes]) -> None:
    living = holder(child.pid)
    assert not change.proven_dead(living, MINE)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    # A zombie: its parent has not asked for it yet.
    assert change.proven_dead(living, MINE)
    child.wait()
    assert change.proven_dead(living, MINE)


def test_a_number_that_was_given_to_another_process(child: subprocess.Popen[bytes]) -> None:
    assert change.proven_dead(holder(child.pid, started=holder(child.pid)["started"] - 1), MINE)


@pytest.mark.parametrize(
    "other",
    [
        {"boot_id": "b2"},
        {"machine_id": "m2"},
        {"pid_namespace": "pid:[2]"},
        {"boot_id": ""},
        {"pid_namespace": ""},
        {"pid": None},
        {"pid": 0},
        {"pid": "1"},
    ],
)
def test_from_elsewhere_nothing_is_proven(other: dict[str, Any]) -> None:
    gone = {**MINE, "pid": 4_000_000}
    assert change.proven_dead(gone, MINE)
    assert not change.proven_dead({**gone, **other}, MINE)
    assert not change.proven_dead({**gone, "boot_id": ""}, {**MINE, "boot_id": ""})
    assert not change.proven_dead(None, MINE)


def test_a_process_whose_times_are_hidden_counts_as_alive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not change.proven_dead({**MINE, "pid": 4711}, MINE, str(tmp_path))


class Action(change.ActionModule):
    """The action without a connection: answers are given, calls are kept."""

    def __init__(self, args: dict[str, Any], answers: list[dict[str, Any]]) -> None:
        self._task = type("Task", (), {"args": args, "async_val": 0, "diff": False, "check_mode": False})()
        self._connection = None
        self.answers = answers
        self.calls: list[dict[str, Any]] = []

    def _call(self, args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.calls.append(args)
        return dict(self.answers[min(len(self.calls), len(self.answers)) - 1])


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(args: dict[str, Any], *answers: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        action = Action(args, list(answers))
        return action.run(None, {}), action.calls

    monkeypatch.setattr(change.ActionBase, "run", lambda *args: {})
    monkeypatch.setattr(change, "identity", lambda pid: MINE)
    return call


OPEN = {"opened": True, "waited": 0.0}


def held(**controller: Any) -> dict[str, Any]:
    return {"failed": True, "held": True, "msg": "held", "lease": {"id": "c1", "controller": {**MINE, "pid": os.getpid(), **controller}}}


def living() -> dict[str, Any]:
    return held(started=holder(os.getpid())["started"])


def test_free_takes_one_call(act: Any) -> None:
    result, calls = act({"verb": "x", "owner": "o", "controller": {"pid": 5}, "dead": "forged"}, OPEN)
    assert result["opened"]
    assert calls == [{"verb": "x", "owner": "o", "controller": MINE, "wait": 0}]


def test_owner_is_the_user_who_called_sudo(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "rahim")
    assert act({"verb": "x"}, OPEN)[1][0]["owner"] == "rahim@ops"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(change.getpass, "getuser", lambda: "karim")
    assert act({"verb": "x", "owner": ""}, OPEN)[1][0]["owner"] == "karim@ops"


def test_a_living_owner_is_left_alone(act: Any) -> None:
    result, calls = act({"verb": "x"}, living())
    assert result["msg"] == "held"
    assert len(calls) == 1


def test_a_dead_owner_is_named_in_a_second_call(act: Any) -> None:
    result, calls = act({"verb": "x"}, held(pid=4_000_000), OPEN)
    assert result["opened"]
    assert [call.get("dead") for call in calls] == [None, "c1"]


def test_waiting_looks_again_whether_the_owner_lives(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 8))
    monkeypatch.setattr(change.time, "monotonic", lambda: float(next(clock)))
    result, calls = act({"verb": "x", "wait": "60"}, living(), living(), held(pid=4_000_000), OPEN)
    assert result["opened"]
    assert result["waited"] > 0
    assert [(call["wait"], call.get("dead")) for call in calls] == [(0, None), (10, None), (10, None), (0, "c1")]


def test_waiting_ends(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 8))
    monkeypatch.setattr(change.time, "monotonic", lambda: float(next(clock)))
    result, calls = act({"verb": "x", "wait": 30}, living())
    assert result["failed"]
    assert 2 <= len(calls) <= 4


@pytest.mark.parametrize("args", [{"state": "closed", "token": "t"}, {"state": "noted"}, {"token": "t"}, {"wait": "soon"}])
def test_everything_else_goes_straight_to_the_module(act: Any, args: dict[str, Any]) -> None:
    assert act(args, {"failed": True, "held": True})[1] == [args]
