# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of password_rotation with a Compose that is played; with the real one: tests/integration/real/test_postgres_password.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils._compose import Docker
from ansible_collections.dghs.bd_fhir.plugins.module_utils._dotenv import parse, values_of
from ansible_collections.dghs.bd_fhir.plugins.module_utils._rotation import Record
from ansible_collections.dghs.bd_fhir.plugins.modules import password_rotation

OLD, NEW, OTHER = "old-S3cret-word", "new-S3cret$word", "third-S3cret-word"
Run = Callable[..., dict[str, Any]]
CHANGES = [{"service": name, "before": "a", "after": "b", "reason": "changes in environment (PW)"} for name in ("hapi", "postgres")]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment file of a project called site, whose services hapi and postgres read it."""
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(Docker, "project_name", lambda self: "site")
    monkeypatch.setattr(Docker, "hash_changes", lambda self, changes: CHANGES)

    def config(self: Docker, *args: str, env_file: str = "", **options: Any) -> tuple[int, str, str]:
        values = values_of(parse(Path(env_file).read_text()))
        return 0, json.dumps({"services": {"reader": {"environment": {"PW": values["PW"].replace("$", "$$")}}}}), ""

    monkeypatch.setattr(Docker, "compose", config)
    path = tmp_path / ".env"
    path.write_bytes(b"# kept\r\nA=1\r\nPW=%s # mine\r\n" % OLD.encode())
    path.chmod(0o600)
    return path


@pytest.fixture
def run(env: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(state: str = "started", check: bool = False, **args: Any) -> dict[str, Any]:
        given = {"project_dir": str(env.parent), "name": "app", "variable": "PW", "role": "hapi_app", "database_service": "postgres",
                 "state": state, "guard_allow": ["hapi", "postgres"], **args, "_ansible_check_mode": check, "_ansible_diff": True}  # fmt: skip
        with patch_module_args(given), pytest.raises(SystemExit):
            password_rotation.main()
        out = capsys.readouterr().out
        found: dict[str, Any] = json.loads(out)
        found.pop("invocation", None)
        assert "S3cret" not in str(found)
        return found

    return call


def value(env: Path) -> str:
    return values_of(parse(env.read_bytes().decode()))["PW"]


def test_every_state_in_check_mode_for_real_and_again(run: Run, env: Path) -> None:
    state = env.parent / "state"
    for name, args in (("started", {"new_password": NEW}), ("written", {}), ("finished", {})):
        files = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} | {env: env.read_bytes()}
        predicted = run(name, True, **args)
        kept = {path: text for path, text in files.items() if path.suffix not in (".jsonl", ".lock")}
        assert {path: path.read_bytes() for path in [*state.rglob("*.json"), env]} == kept
        done = run(name, **args)
        assert predicted["changed"]
        for key in ("changed", "open", "resumed", "reverse", "generated", "reason", "can_go_back", "hash_changes", "diff"):
            assert predicted[key] == done[key], (name, key)
        for check in (True, False):
            # Ended is ended: what is written again would need one that is open.
            again = run(name, check, **args)
            assert not again["changed"]
    assert env.read_bytes() == b"# kept\r\nA=1\r\nPW='%s' # mine\r\n" % NEW.encode()
    journal = (state / "site/journal.jsonl").read_text()
    assert "S3cret" not in journal
    assert journal.count("password rotation") == 3
    record = json.loads((state / "site/rotations/app.json").read_text())
    assert (record["state"], record["old"], record["new"]) == ("done", OLD, "")


def cycle(run: Run, **args: Any) -> list[bool]:
    begun = run("started", **args)
    assert not begun.get("failed"), begun
    return [begun["changed"]] + ([run(name)["changed"] for name in ("written", "finished")] if begun["open"] else [])


def test_back_once_and_no_further(run: Run, env: Path) -> None:
    before = env.read_bytes()
    assert cycle(run, reverse=True) == [False]
    assert cycle(run, new_password=NEW) == [True] * 3
    assert cycle(run, new_password=NEW) == [False]
    assert cycle(run, reverse=True) == [True] * 3
    assert value(env) == OLD
    assert cycle(run, reverse=True) == [False]
    assert before.replace(OLD.encode(), b"").replace(b"'", b"") == env.read_bytes().replace(OLD.encode(), b"").replace(b"'", b"")
    # From there a new rotation is due whatever its age.
    assert run("started", True)["reason"] == "the last rotation was taken back"


@pytest.mark.parametrize("upto", [1, 2])
def test_one_that_is_open_is_taken_up_or_turned_around(run: Run, env: Path, upto: int) -> None:
    for name in ("started", "written")[:upto]:
        run(name, **({"new_password": NEW} if name == "started" else {}))
    taken_up = run("started")
    assert (taken_up["changed"], taken_up["open"], taken_up["resumed"]) == (False, True, True)
    assert "another new password is open" in run("started", new_password=OTHER)["msg"]
    turned = run("started", reverse=True)
    assert (turned["changed"], turned["open"], turned["reverse"]) == (True, True, True)
    assert not run("started", reverse=True)["changed"]
    assert "A way back of the password app is open" in run("started", new_password=NEW)["msg"]
    run("written")
    assert run("finished")["changed"]
    assert value(env) == OLD


def test_generated_and_when_again(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cycle(run) == [True] * 3
    first = value(env)
    assert len(first) == 40
    found = run("started")
    assert (found["changed"], found["open"]) == (False, False)
    assert "less than older_than (24)" in found["reason"]
    assert cycle(run, older_than=0) == [True] * 3
    assert value(env) != first
    now = password_rotation.time.time()
    monkeypatch.setattr(password_rotation.time, "time", lambda: now + 25 * 3600)
    assert run("started", True)["reason"] == "the last rotation ended 25.0 hours ago"


def test_a_value_that_somebody_else_wrote(run: Run, env: Path) -> None:
    cycle(run, new_password=NEW)
    env.write_text(f"PW={OTHER}\n")
    assert "somebody has changed it since" in run("started", reverse=True)["msg"]
    assert "past this collection" in run("started", True)["reason"]
    run("started")
    env.write_text(f"PW={OTHER}x\n")
    assert "is not the new password yet" in run("finished")["msg"]


def test_a_clock_that_went_back_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record("app", "PW", "r", "s").opened("o", "n", False, True, 1000.0).finished(1000.0)
    assert password_rotation.due(record, "n", None, 24, 500.0) == (
        False, "the last rotation ended 0.0 hours ago, which is less than older_than (24)")  # fmt: skip


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"new_password": "Sh0rt!"}, "shorter than 12"),
        ({"new_password": NEW + "\n"}, "a newline"),
        ({"new_password": NEW + "\0"}, "NUL"),
        ({"new_password": ""}, "it is empty"),
        ({"new_password": NEW + "${HOME}"}, "Spring"),
        ({"new_password": NEW, "reverse": True}, "belongs to state started"),
        ({"new_password": NEW, "state": "written"}, "belongs to state started"),
        ({"min_length": 50}, "from 1 to 40"),
        ({"variable": "NOT_THERE"}, "NOT_THERE is not set"),
        ({"variable": "NOT A NAME"}, "can't be the name of a variable"),
        ({"name": "../x"}, "can't be the name of a secret"),
        ({"guard_allow": ["hapi"]}, "postgres: changes in environment (PW)"),
        ({"state": "written"}, "no open rotation of app to be written"),
    ],
)
def test_what_cannot_work_is_refused_before_a_change(run: Run, env: Path, args: dict[str, Any], words: str) -> None:
    before = env.read_bytes()
    for check in (True, False):
        found = run(**{**args, "check": check})
        assert found["failed"]
        assert words in found["msg"]
    assert env.read_bytes() == before
    assert not list((env.parent / "state").rglob("*.json"))


def test_a_record_of_another_secret_of_that_name(run: Run) -> None:
    run("started", new_password=NEW)
    assert "is open, with role hapi_app where now it is other" in run("started", role="other")["msg"]
    run("written")
    run("finished")
    assert "Give the secret another name" in run("started", role="other")["msg"]


def test_a_value_that_compose_would_not_hand_over(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Docker, "compose", lambda self, *args, **options: (0, '{"services": {"reader": {"environment": {"PW": "x"}}}}', ""))
    before = env.read_bytes()
    assert "Compose would not give a container the new value of PW" in run("started", new_password=NEW)["msg"]
    assert env.read_bytes() == before
