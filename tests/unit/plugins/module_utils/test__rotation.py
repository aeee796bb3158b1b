# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a rotation, and what logins tell; with servers: tests/integration/real/test_postgres_password.py."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _change
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _rotation as rotation
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer import PgbouncerError, PgbouncerTimeout
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import Login, PostgresError

BASE = rotation.Record("app", "APP_PASSWORD", "hapi_app", "postgres")
LOGIN = Login("192.0.2.1", 6432, "hapi_app", "wanted-one", "fhirdb")


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_change, "STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_forward_and_back() -> None:
    opened = BASE.opened("old-one", "new-one", False, True, 1.0)
    assert opened.open
    assert (opened.old, opened.new, opened.reverse, opened.generated, len(opened.salt_bytes())) == ("old-one", "new-one", False, True, 16)
    done = opened.finished(2.0)
    assert (done.state, done.old, done.new, done.at) == ("done", "old-one", "", 2.0)
    assert done.wrote("new-one")
    assert not done.wrote("old-one")
    back = done.opened("new-one", done.old, True, False, 3.0)
    assert (back.old, back.new, back.reverse) == ("new-one", "old-one", True)
    ended = back.finished(4.0)
    assert (ended.state, ended.old, ended.new) == ("rolled_back", "", "")
    assert ended.wrote("old-one")
    turned = opened.turned(5.0)
    assert (turned.old, turned.new, turned.reverse, turned.generated) == ("new-one", "old-one", True, False)


def test_secrets_are_not_in_what_is_printed() -> None:
    record = BASE.opened("old-one", "new-one", False, True, 1.0)
    found = rotation.Passwords("new-one", "old-one", b"salt")
    assert "-one" not in repr(record) + repr(record.finished(1.0)) + repr(found)
    assert "SCRAM" not in repr(record.finished(1.0))


def test_the_record_is_roots_alone(state_dir: Path) -> None:
    path = rotation.path_of("my project", "app")
    assert path == f"{state_dir}/my_project/rotations/app.json"
    assert rotation.load(path) is None
    record = BASE.opened("old \udce9 \u09af", "new", False, False, 1.0)
    rotation.save(path, record)
    assert rotation.load(path) == record
    assert os.stat(path).st_mode & 0o777 == 0o600
    for place in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
        assert os.stat(place).st_mode & 0o777 == 0o700
    rotation.save(path, record.finished(2.0))
    assert os.listdir(os.path.dirname(path)) == ["app.json"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "x" * 65])
def test_a_name_that_is_no_name(name: str) -> None:
    with pytest.raises(rotation.RotationError, match="can't be the name"):
        rotation.path_of("p", name)


def test_a_record_that_cannot_be_used(state_dir: Path) -> None:
    path = rotation.path_of("p", "app")
    rotation.save(path, BASE)
    os.chmod(path, 0o640)
    with pytest.raises(rotation.RotationError, match="others than root"):
        rotation.load(path)
    os.chmod(path, 0o600)
    Path(path).write_text('{"name": "app", "old": "secr')
    with pytest.raises(rotation.RotationError, match="is damaged") as caught:
        rotation.load(path)
    assert "secr" not in str(caught.value)
    Path(path).write_text(json.dumps({"name": "app", "colour": "red"}))
    with pytest.raises(rotation.RotationError, match="another version"):
        rotation.load(path)
    Path(path).unlink()
    os.rmdir(os.path.dirname(path))
    Path(os.path.dirname(path)).write_text("")
    with pytest.raises(rotation.RotationError, match="can't be written"):
        rotation.save(path, BASE)


class Docker:
    """Stands for the environment file."""

    env_file = "/site/.env"

    def __init__(self, **values: str) -> None:
        self.values = values

    def env_values(self) -> dict[str, str]:
        return self.values


@pytest.mark.parametrize(
    ("user", "given", "variable", "found"),
    [
        # The role itself: whatever step was the last, one of these is let in.
        ("hapi_app", None, None, ["wanted-one", "old-one"]),
        ("hapi_app", "given-one", None, ["given-one", "wanted-one", "old-one"]),
        ("hapi_app", None, "APP_PASSWORD", ["in-env", "wanted-one", "old-one"]),
        # Another user whose password is the same secret.
        ("admin", None, "APP_PASSWORD", ["in-env", "wanted-one", "old-one"]),
        ("admin", "given-one", None, ["given-one"]),
        ("admin", None, "OTHER", ["other-one"]),
    ],
)
def test_candidates(user: str, given: str | None, variable: str | None, found: list[str]) -> None:
    docker: Any = Docker(APP_PASSWORD="in-env", OTHER="other-one")
    passwords = rotation.Passwords("wanted-one", "old-one", None, "APP_PASSWORD")
    assert passwords.candidates(docker, user, "hapi_app", given, variable) == found


def test_no_candidate_is_an_error_that_names_the_variable() -> None:
    docker: Any = Docker()
    passwords = rotation.Passwords("wanted-one", "", None, "")
    assert passwords.candidates(docker, "hapi_app", "hapi_app", None, None) == ["wanted-one"]
    with pytest.raises(PostgresError, match="NOT_THERE is not set in /site/.env"):
        passwords.candidates(docker, "admin", "hapi_app", None, "NOT_THERE")
    with pytest.raises(PostgresError, match="No password was given"):
        passwords.candidates(docker, "admin", "hapi_app", None, None)


# Recorded from pgBouncer 1.18 and PostgreSQL 15.
@pytest.mark.parametrize(
    ("kind", "text", "accepted"),
    [
        ("database", "FATAL: no such database: dghs_bd_fhir_login_check", True),
        # A pooler with a line for any database asks its server.
        ("database", 'FATAL: database "dghs_bd_fhir_login_check" does not exist', True),
        ("password", 'FATAL: password authentication failed for user "hapi_app"', True),
        ("password", "FATAL: SASL authentication failed", False),
        ("password", "FATAL: password authentication failed", False),
        ("unreachable", "Connection refused", False),
        ("timeout", "no answer within 5 seconds", False),
        ("", "", True),
    ],
)
def test_what_a_pooler_says_of_a_password(monkeypatch: pytest.MonkeyPatch, kind: str, text: str, accepted: bool) -> None:
    asked = []

    def attempt(login: Login) -> rotation.Attempt:
        asked.append(login.database)
        return rotation.Attempt(kind, text)

    monkeypatch.setattr(rotation, "attempt", attempt)
    assert rotation.pooler_takes(LOGIN).accepted is accepted
    assert rotation.checks_passwords(LOGIN, pooler=True) is not accepted
    assert asked == [rotation.NO_DATABASE] * 2


class Console:
    """A console whose pooler makes a connection to its server when it is told to RECONNECT, or not."""

    def __init__(self, rows: list[dict[str, str]], later: list[dict[str, str]]) -> None:
        self.rows, self.later = rows, later
        self.commands: list[str] = []

    def show(self, what: str) -> list[dict[str, str]]:
        assert what == "SERVERS"
        return self.rows

    def command(self, text: str) -> None:
        self.commands.append(text)
        self.rows = self.later


def server(moment: str, user: str = "hapi_app") -> dict[str, str]:
    return {"user": user, "connect_time": moment, "ptr": "0x1", "remote_pid": "7"}


def test_a_proof_needs_a_connection_that_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(rotation, "attempt", lambda login: rotation.Attempt(""))
    old, new, others = server("10:00"), server("10:05"), server("10:06", "somebody")
    console: Any = Console([old, others], [old, new, others])
    before = rotation.server_keys(console, "hapi_app")
    assert len(before) == 1
    login = dataclasses.replace(LOGIN, database='fhir"db')
    assert rotation.prove_fresh_server(console, login, before).accepted
    assert console.commands == ['RECONNECT "fhir""db"']
    # One that is there already is enough.
    again: Any = Console([old, new], [])
    assert rotation.prove_fresh_server(again, LOGIN, before).accepted
    assert again.commands == []
    full: Any = Console([old], [old])
    assert rotation.prove_fresh_server(full, LOGIN, before).kind == "timeout"


def test_a_server_that_refuses_the_pooler_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'FATAL: password authentication failed for user "hapi_app"'
    monkeypatch.setattr(rotation, "attempt", lambda login: rotation.Attempt("password", text))
    console: Any = Console([], [])
    assert rotation.prove_fresh_server(console, LOGIN, set()).kind == "pooled"


def test_a_console_opens_with_the_password_that_counts_now(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def answers(login: Login) -> str:
        tried.append(login.password)
        if login.password == "hangs":
            raise PgbouncerTimeout("no answer")
        if login.password != "new":
            raise PgbouncerError(f"refused {len(tried)}")
        return "console"

    monkeypatch.setattr(rotation.Console, "open", answers)
    opened: Any = rotation.open_console(LOGIN, ["old", "new", "never"])
    assert opened == "console"
    assert tried == ["old", "new"]
    with pytest.raises(PgbouncerError, match="refused 3"):
        rotation.open_console(LOGIN, ["a", "b"])
    with pytest.raises(PgbouncerTimeout):
        rotation.open_console(LOGIN, ["hangs", "new"])
