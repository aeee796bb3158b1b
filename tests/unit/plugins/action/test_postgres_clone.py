# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is shown while a clone is made, and how the waiting ends."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.action import postgres_clone

Result = tuple[dict[str, Any], list[dict[str, Any]], list[str]]


class Action(postgres_clone.ActionModule):
    """The action without a connection: answers are given, calls and lines are kept."""

    def __init__(self, args: dict[str, Any], answers: list[dict[str, Any]], check: bool) -> None:
        self._task = type("Task", (), {"args": args, "async_val": 0, "diff": False, "check_mode": check})()
        self._connection = None
        self.answers = answers
        self.calls: list[dict[str, Any]] = []
        self.shown: list[str] = []
        self._display = type("Display", (), {"display": lambda display, text: self.shown.append(text)})()

    def _call(self, args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.calls.append(args)
        return dict(self.answers[min(len(self.calls), len(self.answers)) - 1])


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = [0.0]
    monkeypatch.setattr(postgres_clone.ActionBase, "run", lambda *args: {})
    monkeypatch.setattr(postgres_clone.time, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        assert 0 < seconds <= postgres_clone.LONGEST
        clock[0] += seconds

    monkeypatch.setattr(postgres_clone.time, "sleep", sleep)

    def call(args: dict[str, Any], *answers: dict[str, Any], check: bool = False) -> Result:
        action = Action(args, list(answers), check)
        return action.run(None, {}), action.calls, action.shown

    return call


def cloning(percent: int, changed: bool = False, total: int = 1220) -> dict[str, Any]:
    progress = {"percent": percent, "bytes_done": (total * percent // 100) << 20, "bytes_total": total << 20}
    return {"state": "cloning", "changed": changed, "progress": progress}


BEGUN = {**cloning(0, True, 0), "diff": {"before": "absent", "after": "done"}}
DONE = {"state": "done", "changed": False, "progress": {"percent": 100}}


def test_progress_is_shown_when_it_moves_and_the_end_is_read_back(act: Any) -> None:
    result, calls, shown = act({"volume": "fhir"}, BEGUN, cloning(0), cloning(42), cloning(42), cloning(41), cloning(99), DONE, DONE)
    assert shown == ["clone of fhir: 0 %, 0 of 1220 MB", "clone of fhir: 42 %, 512 of 1220 MB", "clone of fhir: 99 %, 1207 of 1220 MB"]
    assert (result["state"], result["changed"], result["diff"]) == ("done", True, BEGUN["diff"])
    assert [call.get("state") for call in calls] == [None, *["read"] * 6, "present"]


def test_what_was_taken_up_is_no_change(act: Any) -> None:
    result, _calls, _shown = act({"volume": "fhir"}, cloning(10), DONE, DONE)
    assert (result["state"], result["changed"]) == ("done", False)


def test_a_new_clone_is_asked_for_once(act: Any) -> None:
    _result, calls, _shown = act({"volume": "fhir", "reclone": True}, BEGUN, DONE, DONE)
    assert [call["reclone"] for call in calls] == [True, False, False]


@pytest.mark.parametrize(
    ("args", "answer", "check"),
    [
        ({}, DONE, False),
        ({"state": "read"}, cloning(5), False),
        ({"state": "absent"}, {"state": "absent", "changed": True}, False),
        ({}, {"failed": True, "state": "cloning", "msg": "x"}, False),
        ({}, {"failed": True, "msg": "a missing option"}, False),
        ({}, cloning(5), True),
    ],
)
def test_what_needs_no_waiting(act: Any, args: dict[str, Any], answer: dict[str, Any], check: bool) -> None:
    result, calls, shown = act({"volume": "v", **args}, answer, check=check)
    assert result == answer
    assert len(calls) == 1
    assert shown == []


def test_a_clone_that_fails(act: Any) -> None:
    result, _calls, _shown = act({"volume": "v"}, BEGUN, cloning(3), {"state": "failed", "failure": "no slot. Make it.", "changed": False})
    assert (result["failed"], result["msg"], result["changed"]) == (True, "no slot. Make it.", True)
    result, _calls, _shown = act({"volume": "v"}, BEGUN, {"state": "absent", "failure": "", "changed": False})
    assert result["failed"]
    assert "is now: absent" in result["msg"]


def test_a_look_that_fails(act: Any) -> None:
    result, _calls, _shown = act({"volume": "v"}, BEGUN, {"failed": True, "msg": "no docker", "changed": False})
    assert (result["failed"], result["msg"], result["changed"]) == (True, "no docker", True)


@pytest.mark.parametrize("timeout", [30, "30"])
def test_the_waiting_ends_and_the_clone_goes_on(act: Any, timeout: Any) -> None:
    result, calls, _shown = act({"volume": "v", "timeout": timeout}, BEGUN, cloning(7))
    assert result["failed"]
    assert "after 30 seconds (timeout), and is at 7 %" in result["msg"]
    assert "takes it up" in result["msg"]
    assert result["changed"]
    assert 6 <= len(calls) <= 31
