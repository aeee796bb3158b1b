# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""main() of pgbouncer_user with a pooler that is played; with a real one: tests/integration/real."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _rotation
from ansible_collections.dghs.bd_fhir.plugins.module_utils._passwords import scram_verifier
from ansible_collections.dghs.bd_fhir.plugins.module_utils._rotation import Attempt, Passwords
from ansible_collections.dghs.bd_fhir.plugins.modules import pgbouncer_user

OLD, NEW = "old-S3cret-word", 'new-S3"cret-word'
Run = Callable[..., dict[str, Any]]


class World:
    """One pooler: its file, what it has read of it, its console."""

    def __init__(self) -> None:
        self.text = '; ours\n"app" "%s"\n' % OLD
        self.loaded = self.text
        self.settings = {"auth_file": "/run/userlist.txt", "auth_type": "scram-sha-256", "auth_user": ""}
        self.databases = [{"name": "fhirdb", "force_user": ""}, {"name": "pgbouncer", "force_user": "pgbouncer"}]
        self.pooler_version = (1, 18, 0)
        self.reads_nothing = False
        self.server_verifier: str | None = None
        self.events: list[str] = []

    # -- the console

    def config(self) -> dict[str, str]:
        return self.settings

    def version(self) -> tuple[int, ...]:
        return self.pooler_version

    def show(self, what: str) -> list[dict[str, str]]:
        return self.databases

    def command(self, text: str) -> None:
        self.events.append(text)
        if not self.reads_nothing:
            self.loaded = self.text

    def close(self) -> None:
        self.events.append("close")

    # -- logins

    def takes(self, login: Any) -> Attempt:
        known = pgbouncer_user.password_of(self.loaded, login.user)
        fits = pgbouncer_user.matches(known, login.password, login.user)
        return Attempt("") if fits else Attempt("password", "FATAL: SASL authentication failed")

    # -- the server, for a verifier

    def __enter__(self) -> World:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def value(self, query: str, params: Any) -> str | None:
        return self.server_verifier


class File:
    host_path, method, path = "", "rename", "/run/userlist.txt"

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> str:
        return self.world.text

    def write(self, text: str) -> None:
        self.world.events.append("write")
        self.world.text = text


class Container:
    name = "site-pgbouncer-1"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    item = World()

    class Guard:
        @classmethod
        def for_docker(cls, module: Any, docker: Any) -> Any:
            return cls()

        def step(self, action: str, obj: str, *values: Any) -> None:
            item.events.append("step " + action)
            assert OLD not in str(values)
            assert NEW not in str(values)

    def container(docker: Any, service: str) -> Container:
        return Container()

    def address(container: Any, port: int) -> str:
        return "192.0.2.1"

    for name, value in {
        "container_of": container,
        "address_of": address,
        "port_of": lambda docker, container: 6432,
        "open_console": lambda login, candidates: item,
        "AuthFile": lambda docker, container, path: File(item),
    }.items():
        monkeypatch.setattr(_rotation, name, value)
    for name, value in {
        "container_of": container,
        "address_of": address,
        "ChangeGuard": Guard,
        "pooler_takes": item.takes,
        "checks_passwords": lambda login, pooler: True,
        "connect": lambda login: item,
    }.items():
        monkeypatch.setattr(pgbouncer_user, name, value)
    return item


@pytest.fixture
def run(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(check: bool = False, salt: bytes = b"", **args: Any) -> dict[str, Any]:
        if salt:
            monkeypatch.setattr(pgbouncer_user, "passwords_of", lambda module, docker, role: Passwords(NEW, OLD, salt))
        given = {"project_dir": "/site", "service": "pgbouncer", "user": "app", "password": NEW, "admin_password": "admin-S3cret", **args}
        given.update(_ansible_check_mode=check, _ansible_diff=True)
        with patch_module_args({name: value for name, value in given.items() if value is not None}), pytest.raises(SystemExit):
            pgbouncer_user.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        found.pop("invocation", None)
        assert OLD not in str(found)
        assert "S3" not in str(found)
        return found

    return call


def test_check_real_again_and_away(run: Run, world: World) -> None:
    predicted = run(True)
    assert world.events == ["close"]
    done = run()
    assert world.events[1:] == ["step write auth_file", "write", "step RELOAD", "RELOAD", "close"]
    assert world.text == '; ours\n"app" "new-S3""cret-word"\n'
    for key in ("changed", "written", "reloaded", "needs_reload", "form_before", "form", "method", "diff"):
        assert predicted[key] == done[key]
    assert done["diff"]["after"] == "app: plain (changed, hidden)\n"
    for check in (True, False):
        assert not run(check)["changed"]
    predicted, done = run(True, **GONE), run(**GONE)
    assert predicted["changed"]
    assert predicted["diff"] == done["diff"]
    assert world.text == "; ours\n"
    assert '"app"' not in world.loaded.replace(REMARK, "")
    for check in (True, False):
        assert not run(check, **GONE)["changed"]


GONE = {"state": "absent", "password": None}
REMARK = '; "app" was taken out by dghs.bd_fhir, and the pooler has not read that yet\n'


@pytest.mark.parametrize("auth_user", ["", "asker"])
def test_taken_out_and_cut_before_the_reload(run: Run, world: World, monkeypatch: pytest.MonkeyPatch, auth_user: str) -> None:
    """Nothing tells whether the pooler still knows a user but what stands in the place of the user."""
    world.settings["auth_user"] = auth_user
    world.events.clear()
    with monkeypatch.context() as patch:
        patch.setattr(world, "command", lambda text: (dummy for dummy in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(**GONE)
    assert world.text == "; ours\n" + REMARK
    assert '"app"' in world.loaded
    predicted = run(True, **GONE)
    world.events.clear()
    done = run(**GONE)
    for found in (predicted, done):
        assert (found["changed"], found["written"], found["reloaded"]) == (True, False, True)
    assert world.events == ["step RELOAD", "RELOAD", "write", "close"]
    assert world.text == "; ours\n"
    assert not run(**GONE)["changed"]


def test_taken_out_and_not_to_be_read_yet(run: Run, world: World) -> None:
    found = run(reload=False, **GONE)
    assert (found["written"], found["reloaded"], found["needs_reload"]) == (True, False, True)
    assert world.text == "; ours\n" + REMARK
    found = run(reload=False, **GONE)
    assert (found["changed"], found["needs_reload"]) == (False, True)
    # Who comes back takes the remark's place.
    assert run()["written"]
    assert world.text == '; ours\n"app" "new-S3""cret-word"\n'
    assert not run()["changed"]


def test_case_50_laid_ready_first_and_loaded_later(run: Run, world: World) -> None:
    found = run(reload=False)
    assert (found["written"], found["reloaded"], found["needs_reload"]) == (True, False, True)
    assert "RELOAD" not in world.events
    found = run(reload=False)
    assert (found["changed"], found["needs_reload"]) == (False, True)
    found = run()
    assert (found["written"], found["reloaded"], found["needs_reload"]) == (False, True, False)


def test_a_reload_that_does_not_take_is_seen(run: Run, world: World) -> None:
    world.reads_nothing = True
    assert "does not take the new password of app" in run()["msg"]


@pytest.mark.parametrize(
    ("form", "before", "wanted"),
    [("auto", "none", "plain"), ("auto", "plain", "plain"), ("auto", "md5", "md5"), ("auto", "scram-sha-256", "scram-sha-256"),
     ("md5", "plain", "md5")],  # fmt: skip
)
def test_the_form(form: str, before: str, wanted: str) -> None:
    assert pgbouncer_user.wanted_form(form, before) == wanted


def test_case_52_a_verifier_is_the_servers_own(run: Run, world: World) -> None:
    server = {"database_service": "postgres", "login_password": "super-S3cret", "form": "scram-sha-256"}
    world.server_verifier = scram_verifier(NEW)
    assert run(**server)["form"] == "scram-sha-256"
    assert world.server_verifier in world.text
    assert not run(**server)["changed"]
    world.server_verifier = scram_verifier("another")
    assert "has another password" not in world.text
    assert "not a SCRAM verifier of this password" in run(**server, password="yet-another-S3cret")["msg"]
    assert "Name the server in database_service" in run(form="scram-sha-256", password="yet-another-S3cret")["msg"]
    # Within a rotation both have its salt.
    assert run(form="scram-sha-256", salt=b"s" * 16)["changed"]
    assert scram_verifier(NEW, b"s" * 16) in world.text


def test_case_52_a_pooler_that_is_too_old_for_verifiers(run: Run, world: World) -> None:
    world.pooler_version = (1, 13, 0)
    before = world.text
    assert "pgBouncer 1.13.0 can't log in to a server with a SCRAM verifier; that came with 1.14" in run(form="scram-sha-256")["msg"]
    assert world.text == before


def test_md5_where_it_can_work(run: Run, world: World) -> None:
    assert "no client can log in by an MD5 hash" in run(form="md5")["msg"]
    world.settings["auth_type"] = "md5"
    assert run(form="md5")["form"] == "md5"
    assert not run(form="md5")["changed"]


def test_what_stands_elsewhere_is_refused(run: Run, world: World) -> None:
    before = world.text
    world.databases[0]["force_user"] = "app"
    assert "sets user=app" in run()["msg"]
    world.databases[0]["force_user"] = ""
    world.text = "app app\n"
    assert "line 1 is not of the form" in run()["msg"]
    world.text = before
    world.settings["auth_file"] = ""
    assert "has no auth_file" in run()["msg"]
    world.settings["auth_user"] = "asker"
    found = run()
    assert (found["changed"], found["method"]) == (False, "auth_query")
    assert world.events == ["close"] * 4


def test_a_pooler_that_lets_in_anybody_is_named(run: Run, world: World) -> None:
    world.settings["auth_type"] = "trust"
    found = run()
    assert [item["id"] for item in found["findings"]] == ["login_without_password"]
    assert found["written"]


def test_two_lines_are_named_and_kept_alike(run: Run, world: World) -> None:
    world.text += '"app" "third"\n'
    found = run()
    assert [item["id"] for item in found["findings"]] == ["userlist_user_twice"]
    assert world.text.count("new-S3") == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"password": None}, "any of the following are missing: password, password_variable, rotation"),
        ({"rotation": "x"}, "mutually exclusive"),
        ({"password": "with\nS3"}, "a newline"),
        ({"form": "rot13"}, "value of form must be one of"),
    ],
)
def test_bad_options(run: Run, args: dict[str, Any], words: str) -> None:
    assert words in run(**args)["msg"]
