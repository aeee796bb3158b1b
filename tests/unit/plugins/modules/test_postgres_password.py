# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of postgres_password with servers that are played; with real ones: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils._passwords import md5_verifier, scram_verifier
from ansible_collections.dghs.bd_fhir.plugins.module_utils._postgres import PostgresError
from ansible_collections.dghs.bd_fhir.plugins.module_utils._rotation import Attempt, Passwords
from ansible_collections.dghs.bd_fhir.plugins.modules import postgres_password

OLD, NEW = "old-S3cret-word", "new-S3cret-word"
Run = Callable[..., dict[str, Any]]
ARGS = {"project_dir": "/site", "service": "postgres", "role": "app", "login_password": "super-S3cret"}


class World:
    """One server, one pooler, and who is let in where."""

    def __init__(self) -> None:
        self.stored: str | None = scram_verifier(OLD)
        self.role: dict[str, Any] | None = {"rolcanlogin": True, "expired": None, "valid_until": None}
        self.loaded = OLD  # what the pooler goes by
        self.auth_file = '"app" "%s"\n' % NEW
        self.auth_user = ""
        self.version = (1, 18, 0)
        self.asks = True
        self.events: list[str] = []
        self.superuser = "super-S3cret"
        self.pool_is_full = False

    # -- the server's session

    def connect(self, login: Any) -> World:
        if login.password != self.superuser:
            raise PostgresError("No session", "password")
        return self

    def __enter__(self) -> World:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def rows(self, query: Any, params: Any) -> list[dict[str, Any]]:
        return [self.role] if self.role else []

    def value(self, query: Any, params: Any = None) -> Any:
        return self.stored if "rolpassword" in query else None

    def keep_out_of_logs(self) -> None:
        self.events.append("quiet")

    def execute(self, query: Any, params: Any = None) -> None:
        verifier = query.seq[-1].wrapped
        self.events.append("ALTER " + verifier.split("$")[0][:13])
        self.stored = verifier

    # -- logins

    def attempt(self, login: Any) -> Attempt:
        if not self.asks:
            return Attempt("")
        if login.port == 5432:
            fits = postgres_password.matches(self.stored, login.password, login.user)
            return Attempt("") if fits else Attempt("password", 'FATAL: password authentication failed for user "app"')
        if login.password != self.loaded:
            return Attempt("password", "FATAL: SASL authentication failed")
        if self.pool_is_full and login.database != "dghs_bd_fhir_login_check":
            return Attempt("timeout", "no answer within 5 seconds")
        return Attempt("")

    # -- the pooler's console

    def config(self) -> dict[str, str]:
        return {"auth_file": "/run/userlist.txt", "auth_user": self.auth_user}

    def show(self, what: str) -> list[dict[str, str]]:
        return [{"user": "app", "connect_time": str(len(self.events)), "ptr": "", "remote_pid": ""}]

    def command(self, text: str) -> None:
        self.events.append(text)
        if text == "RELOAD":
            self.loaded = NEW

    def close(self) -> None:
        self.events.append("close")


class File:
    """The pooler's auth_file."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> str:
        return self.world.auth_file


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    item = World()

    class Console:
        def __init__(self) -> None:
            self.config, self.show, self.command, self.close = item.config, item.show, item.command, item.close

        def version(self) -> tuple[int, ...]:
            return item.version

    class Guard:
        @classmethod
        def for_docker(cls, module: Any, docker: Any) -> Any:
            return cls()

        def step(self, action: str, obj: str, *values: Any) -> None:
            item.events.append("step " + action)
            assert OLD not in str(values)
            assert NEW not in str(values)

    from ansible_collections.dghs.bd_fhir.plugins.module_utils import _rotation

    monkeypatch.setattr(_rotation, "attempt", item.attempt)
    monkeypatch.setattr(_rotation.time, "sleep", lambda seconds: None)
    for name, value in {
        "container_of": lambda docker, service: service,
        "address_of": lambda container, port: "192.0.2.1",
        "port_of": lambda docker, container: 6432,
        "open_console": lambda login, candidates: Console(),
        "AuthFile": lambda docker, container, path: File(item),
    }.items():
        monkeypatch.setattr(_rotation, name, value)
    for name, value in {
        "container_of": lambda docker, service: service,
        "address_of": lambda container, port: "192.0.2.1",
        "connect": item.connect,
        "attempt": item.attempt,
        "ChangeGuard": Guard,
    }.items():
        monkeypatch.setattr(postgres_password, name, value)
    return item


@pytest.fixture
def run(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(check: bool = False, old: str = "", **args: Any) -> dict[str, Any]:
        if old:
            monkeypatch.setattr(postgres_password, "passwords_of", lambda module, docker, role: Passwords(NEW, old, b"s" * 16))
        args = {**ARGS, "password": NEW, **args, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args({name: value for name, value in args.items() if value is not None}), pytest.raises(SystemExit):
            postgres_password.main()
        out = capsys.readouterr().out
        found: dict[str, Any] = json.loads(out)
        found.pop("invocation", None)
        assert OLD not in str(found)
        assert NEW not in str(found)
        return found

    return call


POOLERS = [{"service": "pgbouncer"}]


def test_check_real_again(run: Run, world: World) -> None:
    predicted = run(True, poolers=POOLERS)
    assert world.events == ["close"]
    assert [(item["service"], item["accepted"]) for item in predicted["logins"]] == [("postgres", False), ("pgbouncer", False)]
    done = run(old=OLD, poolers=POOLERS)
    # Both steps are in the journal before the first change; the pooler hears of it right after the server.
    assert world.events[1:] == ["step ALTER ROLE PASSWORD", "step RELOAD", "quiet", "ALTER SCRAM-SHA-256", "RELOAD", "close"]
    for key in ("changed", "altered", "reloaded", "encryption", "encryption_before", "diff", "findings"):
        assert predicted[key] == done[key]
    assert done["diff"]["after"] == "password: scram-sha-256 (changed, hidden)\n"
    assert {(item["service"], item["password"], item["accepted"]) for item in done["logins"]} == {
        ("postgres", "wanted", True), ("pgbouncer", "wanted", True), ("postgres", "old", False), ("pgbouncer", "old", False)}  # fmt: skip
    for check in (True, False):
        world.events.clear()
        again = run(check, poolers=POOLERS)
        assert not again["changed"]
        assert world.events == ["close"]


def test_a_run_that_was_cut_before_the_reload_is_finished(run: Run, world: World) -> None:
    world.stored = scram_verifier(NEW)
    done = run(poolers=POOLERS)
    assert not done["altered"]
    assert done["reloaded"] == ["pgbouncer"]
    assert world.events == ["step RELOAD", "RELOAD", "close"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auth_file": '"app" "something else"\n'}, "has another password for app in its auth_file"),
        ({"auth_file": '"other" "x"\n'}, "has no user app in its auth_file"),
        ({"auth_file": '"app" "%s"\n' % scram_verifier(NEW)}, "a verifier for app in its auth_file that is not the one"),
        ({"auth_file": '"app" "%s"\n' % md5_verifier(NEW, "app")}, "(md5 here, scram-sha-256 there)"),
        ({"version": (1, 10, 0)}, "is pgBouncer 1.10.0, which can't log in by SCRAM; that came with 1.11"),
        ({"auth_file": "app app\n"}, "line 1 is not of the form"),
        ({"role": None}, "The role app does not exist on postgres"),
        ({"role": {"rolcanlogin": False, "expired": None, "valid_until": None}}, "may not log in (NOLOGIN)"),
        ({"role": {"rolcanlogin": True, "expired": True, "valid_until": "2020-01-01"}}, "is valid until 2020-01-01, which is over"),
        ({"superuser": "another"}, "No session"),
    ],
)
def test_case_52_what_cannot_work_is_refused_before_a_change(run: Run, world: World, change: dict[str, Any], words: str) -> None:
    for name, value in change.items():
        setattr(world, name, value)
    before = world.stored
    for check in (True, False):
        found = run(check, poolers=POOLERS)
        assert found["failed"]
        assert words in found["msg"]
    assert world.stored == before
    assert set(world.events) <= {"close"}


def test_a_verifier_that_both_share_is_accepted(run: Run, world: World) -> None:
    world.auth_file = '"app" "%s"\n' % scram_verifier(NEW, b"s" * 16)
    assert run(old=OLD, poolers=POOLERS)["changed"]
    assert world.stored == scram_verifier(NEW, b"s" * 16)


def test_a_pooler_that_asks_the_server_needs_no_line(run: Run, world: World) -> None:
    world.auth_file, world.auth_user = "", "asker"
    assert run(poolers=POOLERS)["reloaded"] == ["pgbouncer"]


def test_md5_stays_md5_until_asked(run: Run, world: World) -> None:
    world.stored = md5_verifier(OLD, "app")
    found = run()
    assert (found["encryption"], [item["id"] for item in found["findings"]]) == ("md5", ["password_hash_weak"])
    assert world.stored == md5_verifier(NEW, "app")
    assert run(encryption="scram-sha-256")["changed"]
    assert not run()["changed"]
    world.stored = None
    found = run()
    assert (found["encryption_before"], found["encryption"]) == ("none", "scram-sha-256")


def test_a_login_that_proves_nothing_is_named(run: Run, world: World) -> None:
    world.asks = False
    found = run(poolers=POOLERS)
    assert [(item["id"], item["object"]) for item in found["findings"]] == [
        ("login_without_password", "postgres"), ("login_without_password", "pgbouncer")]  # fmt: skip
    assert found["logins"] == []


def test_the_proof_goes_red(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "command", world.events.append)
    assert "a login with it at pgbouncer fails" in run(poolers=POOLERS)["msg"]


def test_an_old_password_that_is_still_let_in_is_seen(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = world.attempt
    monkeypatch.setattr(postgres_password, "pooler_takes", lambda login: Attempt("") if login.password == OLD else plain(login))
    assert "pgbouncer still lets the old one in" in run(old=OLD, poolers=POOLERS)["msg"]


def test_a_server_that_keeps_something_else_is_seen(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "execute", lambda query: None)
    assert "the server keeps another password" in run()["msg"]


def test_a_full_pool_is_a_finding_and_no_failure(run: Run, world: World) -> None:
    world.pool_is_full = True
    for changed in (True, False):
        found = run(poolers=POOLERS)
        assert found["changed"] is changed
        assert [item["id"] for item in found["findings"]] == ["login_unproven"]


def test_the_same_login_that_fails_although_nothing_is_to_change(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.stored = scram_verifier(NEW)
    monkeypatch.setattr(postgres_password, "attempt", lambda login: Attempt("hba", "no pg_hba.conf entry"))
    assert "still a login at postgres fails: no pg_hba.conf entry" in run()["msg"]


def test_who_may_not_look_is_told(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(query: Any, params: Any = None) -> Any:
        raise PostgresError("permission denied", "statement", "42501")

    monkeypatch.setattr(world, "value", refuse)
    assert "may not read pg_authid" in run()["msg"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"password": None}, "one of the following is required: password, password_variable, rotation"),
        ({"rotation": "app"}, "mutually exclusive"),
        ({"password": "with\nnewline" + NEW}, "a newline"),
        ({"encryption": "rot13"}, "value of encryption must be one of"),
    ],
)
def test_bad_options(run: Run, args: dict[str, Any], words: str) -> None:
    assert words in run(**args)["msg"]
