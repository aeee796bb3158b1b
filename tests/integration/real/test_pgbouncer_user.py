# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pgbouncer_user against a real pgBouncer: a userlist inside of the container, on the host by itself, in a directory, in a volume."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._passwords import md5_verifier, scram_verifier
from ansible_collections.dghs.bd_fhir.plugins.module_utils._pgbouncer import Console
from ansible_collections.dghs.bd_fhir.plugins.modules import pgbouncer_user
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_rotation import (
    APP,
    HOSTILE,
    READER,
    SUPERUSER,
    Site,
    shows,
    site_in,
    until,
    userlist,
)

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

# As some images do: the file is made once, and a volume keeps it.
KEPT = """  kept:
    image: %s
    entrypoint:
      - bash
      - -c
      - |
        [ -s /keep/userlist.txt ] || printf '"hapi_app" "%%s"\\n' "$$APP_PASSWORD" > /keep/userlist.txt
        exec pgbouncer /conf/pgbouncer.ini
    user: root
    stop_signal: SIGTERM
    environment: {APP_PASSWORD: "${READER_PASSWORD}"}
    volumes: ["./kept/pgbouncer.ini:/conf/pgbouncer.ini:ro", "kept:/keep"]
    depends_on: [postgres]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    def prepare(site: Site) -> None:
        site.mounted("alone", True, users="; the owner's own line\n" + userlist({"hapi_app": APP, "other": "other-S3cret"}))
        site.mounted("folder", False)
        site.mounted("forced", True, line=" user=hapi_app")
        site.mounted("open", True, auth_type="trust")
        site.mounted("asking", True, settings="auth_user = hapi_app\nauth_query = SELECT usename, passwd FROM lookup($1)\n")
        site.mounted("damaged", True, users=userlist({"hapi_app": APP}) + "reader READER\n")
        site.mounted("kept", True)
        ini = site.dir / "kept/pgbouncer.ini"
        text = ini.read_text().replace("/conf/userlist.txt", "/keep/userlist.txt")
        site.write("kept/pgbouncer.ini", text + "user = postgres\n", 0o644)
        site.services[-1] = KEPT % image("pgbouncer")
        site.volumes.append("kept")

    with site_in(tmp_path_factory.mktemp("users") / "site", prepare) as item:
        yield item


@pytest.fixture
def user(site: Site, run: Run) -> Run:
    """Call the module with the admin console's login; each result is searched for secrets."""

    def call(check: bool = False, secrets: tuple[str, ...] = (), **args: Any) -> dict[str, Any]:
        args = {"project_dir": str(site.dir), "service": "pgbouncer", "admin_user": "hapi_app", "admin_password_variable": "APP_PASSWORD", **args}
        found = run(pgbouncer_user, check, **{name: value for name, value in args.items() if value is not None})
        found.pop("invocation", None)
        known = [value for value in (args.get("password"), *secrets) if value]
        assert shows(str(found), APP, READER, SUPERUSER, *known) == []
        return found

    return call


def listed(site: Site, service: str) -> str:
    return site.userlist() if service == "pgbouncer" else (site.dir / service / "userlist.txt").read_text(encoding="utf-8")


def as_expected(predicted: dict[str, Any], done: dict[str, Any]) -> None:
    """What check mode said is what came."""
    for key in ("changed", "written", "reloaded", "needs_reload", "form_before", "form", "method", "auth_file", "diff", "findings"):
        assert predicted[key] == done[key], key


def test_create_change_remove_each_twice(site: Site, user: Run) -> None:
    before = site.userlist()
    client = site.connection("pgbouncer", APP)

    def file() -> list[str]:
        return docker("exec", site.container("pgbouncer"), "stat", "-c", "%i %U %a", "/run/pgbouncer/userlist.txt").split()

    for password in (READER, HOSTILE):
        # Against the file that this write replaces: two writes later its number is free, and may be given out again.
        inode = file()
        site.sql(f"ALTER ROLE reader PASSWORD $pw${password}$pw$")
        predicted = user(True, user="reader", password=password)
        assert predicted["changed"]
        assert not site.lets_in("pgbouncer", password, "reader")
        done = user(user="reader", password=password)
        as_expected(predicted, done)
        assert done["written"]
        assert done["reloaded"]
        assert done["method"] == "rename"
        now = file()
        assert now[0] != inode[0], "pgBouncer skips a file that looks unchanged"
        assert now[1:] == inode[1:] == ["postgres", "600"]
        assert site.lets_in("pgbouncer", password, "reader")
        for check in (True, False):
            assert not user(check, user="reader", password=password)["changed"]
    assert not site.lets_in("pgbouncer", READER, "reader")
    as_expected(user(True, user="reader", state="absent"), user(user="reader", state="absent"))
    for check in (True, False):
        assert not user(check, user="reader", state="absent")["changed"]
    assert site.userlist() == before
    assert not site.lets_in("pgbouncer", HOSTILE, "reader")
    cursor = client.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,), "a client that was logged in was cut"
    site.reset()


@pytest.mark.parametrize("password", ['a"b-c"d-e""f', "'tis-a-quote-in-front", "1*2-times; 100%s, #more\\"])
def test_case_10_passwords_with_quotes_arrive(site: Site, user: Run, password: str) -> None:
    site.sql(f"ALTER ROLE reader PASSWORD $pw${password}$pw$")
    assert user(user="reader", password=password)["changed"]
    assert site.lets_in("pgbouncer", password, "reader")
    assert not user(user="reader", password=password)["changed"]


def test_case_50_the_file_counts_from_the_reload_on(site: Site, user: Run) -> None:
    site.sql(f"ALTER ROLE reader PASSWORD $pw${HOSTILE}$pw$")
    user(user="reader", password=READER)
    laid = user(user="reader", password=HOSTILE, reload=False)
    assert laid["written"]
    assert laid["needs_reload"]
    assert not laid["reloaded"]
    assert not site.lets_in("pgbouncer", HOSTILE, "reader"), "this version reads the file by itself; the module's option means nothing here"
    again = user(user="reader", password=HOSTILE, reload=False)
    assert not again["changed"]
    assert again["needs_reload"]
    # What a run that was cut before its RELOAD has left is finished by the next.
    done = user(user="reader", password=HOSTILE)
    assert not done["written"]
    assert done["reloaded"]
    assert site.lets_in("pgbouncer", HOSTILE, "reader")
    assert not user(user="reader", password=HOSTILE)["changed"]


@pytest.mark.parametrize("service", ["pgbouncer", "alone"])
def test_taken_out_by_a_run_that_was_cut_before_its_reload(site: Site, user: Run, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site.sql(f"ALTER ROLE reader PASSWORD $pw${HOSTILE}$pw$")
    user(service=service, user="reader", password=HOSTILE)
    kept = listed(site, service)

    def cut(console: Console, text: str, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Console, "command", cut)
        with pytest.raises(KeyboardInterrupt):
            user(service=service, user="reader", state="absent")
    assert site.lets_in(service, HOSTILE, "reader"), "the fault is not there: the pooler has read the file by itself"
    assert site.lets_in(service, APP), "the pooler stopped at what the run has left"
    as_expected(user(True, service=service, user="reader", state="absent"), done := user(service=service, user="reader", state="absent"))
    assert (done["changed"], done["written"], done["reloaded"]) == (True, False, True)
    assert not site.lets_in(service, HOSTILE, "reader")
    assert site.lets_in(service, APP)
    assert listed(site, service) == kept.replace(userlist({"reader": HOSTILE}), "")
    for check in (True, False):
        assert not user(check, service=service, user="reader", state="absent")["changed"]
    site.reset()


def test_case_9_a_kept_volume_keeps_the_old_password(site: Site, user: Run) -> None:
    site.sql(f"ALTER ROLE hapi_app PASSWORD $pw${READER}$pw$")
    until("the pooler with a volume", lambda: site.lets_in("kept", READER))
    new = "another-S3cret-word"
    site.env(READER_PASSWORD=new)
    site.sql(f"ALTER ROLE hapi_app PASSWORD $pw${new}$pw$")
    try:
        site.compose("up", "-d", "--force-recreate", "-t", "10", "--no-deps", "kept")
        until("the pooler", lambda: site.admin("kept", READER, "SHOW VERSION"))
        assert not site.lets_in("kept", new), "the fault is not there: the new container has the new password"
        args = {"service": "kept", "user": "hapi_app", "password_variable": "READER_PASSWORD"}
        args.update(admin_password=READER, admin_password_variable=None)
        done = user(**args, secrets=(new,))
        assert done["changed"]
        assert done["method"] == "rename"
        assert site.lets_in("kept", new)
        assert not site.lets_in("kept", READER)
        assert not user(**args, secrets=(new,))["changed"]
    finally:
        site.reset()


@pytest.mark.parametrize(("service", "method"), [("alone", "in_place"), ("folder", "rename")])
def test_a_file_of_the_host(site: Site, user: Run, service: str, method: str) -> None:
    path = site.dir / service / "userlist.txt"
    before = path.read_text(encoding="utf-8")
    stat = path.stat()
    site.sql(f"ALTER ROLE reader PASSWORD $pw${HOSTILE}$pw$")
    # Shorter and longer than what stands there; of the same second, too.
    for password in (HOSTILE, HOSTILE + HOSTILE[:30].strip(), "twelve-chars"):
        site.sql(f"ALTER ROLE reader PASSWORD $pw${password}$pw$")
        done = user(service=service, user="reader", password=password)
        assert done["method"] == method
        assert done["host_path"] == str(path)
        assert site.lets_in(service, password, "reader")
        assert not user(service=service, user="reader", password=password)["changed"]
    assert (path.stat().st_ino == stat.st_ino) == (method == "in_place")
    assert path.stat().st_mode == stat.st_mode
    assert path.read_text(encoding="utf-8") == before + '"reader" "twelve-chars"\n'
    user(service=service, user="reader", state="absent")
    assert path.read_text(encoding="utf-8") == before
    assert sorted(os.listdir(path.parent)) == ["pgbouncer.ini", "userlist.txt"]
    site.reset()


def test_case_52_a_verifier_has_to_be_the_servers_own(site: Site, user: Run) -> None:
    """pgBouncer logs in with a verifier only where the server has the identical one."""
    path = site.dir / "alone/userlist.txt"
    before = path.read_text(encoding="utf-8")
    site.sql(f"ALTER ROLE reader PASSWORD $pw${HOSTILE}$pw$")
    path.write_text(before + userlist({"reader": scram_verifier(HOSTILE)}), encoding="utf-8")
    site.anew("alone")
    until("the pooler", lambda: site.lets_in("alone", APP))
    assert not site.lets_in("alone", HOSTILE, "reader"), "the fault is not there: another salt is as good"
    # The failed login holds the pool back until a server connection is tried again, which takes 15 s.
    site.anew("alone")
    until("the pooler", lambda: site.lets_in("alone", APP))
    args = {"service": "alone", "user": "reader", "password": HOSTILE}
    args.update(database_service="postgres", login_password_variable="SUPERUSER_PASSWORD")
    done = user(**args)
    assert done["form_before"] == done["form"] == "scram-sha-256"
    assert site.verifier("reader") in path.read_text(encoding="utf-8")
    assert site.lets_in("alone", HOSTILE, "reader")
    assert not user(**args)["changed"]
    refused = user(**{**args, "password": "another-S3cret-word"})
    assert refused["failed"]
    assert "not a SCRAM verifier of this password" in refused["msg"]
    assert "database_service" in user(**{**args, "database_service": None})["msg"]
    plain = user(**args, form="plain")
    assert plain["form"] == "plain"
    site.admin("alone", APP, "RECONNECT")
    assert site.lets_in("alone", HOSTILE, "reader")
    path.write_text(before, encoding="utf-8")
    site.admin("alone", APP, "RELOAD")
    site.reset()


def test_what_cannot_work_is_refused_before_a_change(site: Site, user: Run) -> None:
    files = {path: path.read_bytes() for path in site.dir.rglob("userlist.txt")}
    inside = site.userlist()
    for words, args in {
        "sets user=hapi_app": {"service": "forced", "user": "hapi_app", "password": HOSTILE},
        "line 2 is not of the form": {"service": "damaged", "user": "hapi_app", "password": HOSTILE},
        "no container of a service nobody": {"service": "nobody", "user": "reader", "password": HOSTILE},
        "no client can log in by an MD5 hash": {"user": "reader", "password": HOSTILE, "form": "md5"},
        "a newline": {"user": "reader", "password": HOSTILE + "\n" + HOSTILE},
        "NOT_THERE is not set": {"user": "reader", "password_variable": "NOT_THERE"},
        "No rotation of none is open": {"user": "reader", "rotation": "none"},
        "The password is not the one": {"user": "reader", "password": HOSTILE, "admin_password": "wrong", "admin_password_variable": None},
        "The console is closed to other": {
            "service": "alone", "user": "reader", "password": HOSTILE, "admin_user": "other", "admin_password": "other-S3cret",
            "admin_password_variable": None},
    }.items():  # fmt: skip
        for check in (True, False):
            found = user(check, **args)
            assert found.get("failed"), args
            assert words in found["msg"], found["msg"]
    assert {path: path.read_bytes() for path in files} == files
    assert site.userlist() == inside


def test_a_pooler_that_asks_for_no_password_is_named(site: Site, user: Run) -> None:
    found = user(True, service="open", user="hapi_app", password_variable="APP_PASSWORD")
    assert [item["id"] for item in found["findings"]] == ["login_without_password"]
    assert user(True, user="hapi_app", password_variable="APP_PASSWORD")["findings"] == []


def test_a_user_whom_the_pooler_looks_up_needs_nothing(site: Site, user: Run) -> None:
    site.sql("""CREATE FUNCTION lookup(name text) RETURNS TABLE (usename name, passwd text) LANGUAGE sql SECURITY DEFINER
                AS 'SELECT rolname, rolpassword FROM pg_authid WHERE rolname = name'""")
    assert site.lets_in("asking", READER, "reader")
    found = user(service="asking", user="reader", password=READER)
    assert not found["changed"]
    assert found["method"] == "auth_query"
    # The user who asks is in the file, and is one like any other.
    assert user(True, service="asking", user="hapi_app", password=HOSTILE)["method"] == "in_place"


def test_a_user_on_two_lines(site: Site, user: Run) -> None:
    path = site.dir / "alone/userlist.txt"
    before = path.read_text(encoding="utf-8")
    path.write_text(before + userlist({"reader": "old-one"}) + userlist({"reader": md5_verifier("x", "y")}), encoding="utf-8")
    site.sql(f"ALTER ROLE reader PASSWORD $pw${HOSTILE}$pw$")
    found = user(service="alone", user="reader", password=HOSTILE, form="plain")
    assert [item["id"] for item in found["findings"]] == ["userlist_user_twice"]
    assert path.read_text(encoding="utf-8") == before + 2 * userlist({"reader": HOSTILE})
    assert site.lets_in("alone", HOSTILE, "reader")
    path.write_text(before, encoding="utf-8")
    site.reset()


def test_the_journal_names_the_steps_and_no_secret(site: Site, user: Run, tmp_path: Path) -> None:
    user(user="reader", password=HOSTILE)
    journal = "".join(path.read_text() for path in (tmp_path / "journal").rglob("journal.jsonl"))
    assert '"write auth_file"' in journal
    assert '"RELOAD"' in journal
    assert shows(journal, HOSTILE, APP, READER) == []
    user(user="reader", state="absent")
