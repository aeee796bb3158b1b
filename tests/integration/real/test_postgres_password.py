# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""postgres_password and password_rotation against a real PostgreSQL with a real pgBouncer in front of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _passwords
from ansible_collections.dghs.bd_fhir.plugins.modules import password_rotation, pgbouncer_user, postgres_password
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import docker
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_rotation import APP, HOSTILE, READER, SUPERUSER, Site, shows, site_in, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.engine
Run = Callable[..., dict[str, Any]]

NEW = "new one: " + HOSTILE
POOLERS = [{"service": "pgbouncer", "admin_password_variable": "APP_PASSWORD"}]
STEPS = ("started", "laid", "altered", "written", "finished")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_in(tmp_path_factory.mktemp("rotation") / "site") as item:
        yield item


@pytest.fixture
def site(up: Site) -> Iterator[Site]:
    yield up
    up.reset()


@pytest.fixture
def module(up: Site, run: Run) -> Run:
    """Call one of the modules on the site; each result is searched for secrets."""

    def call(what: Any, check: bool = False, secrets: tuple[str, ...] = (), **args: Any) -> dict[str, Any]:
        found = run(what, check, project_dir=str(up.dir), **args)
        found.pop("invocation", None)
        assert shows(str(found), APP, SUPERUSER, READER, NEW, HOSTILE, *secrets) == []
        return found

    return call


class Rotation:
    """The steps of the role, one by one."""

    def __init__(self, module: Run) -> None:
        self.module = module

    def step(self, name: str, check: bool = False, **args: Any) -> dict[str, Any]:
        login = {"login_password_variable": "SUPERUSER_PASSWORD", "rotation": "app"}
        if name == "laid":
            return self.module(pgbouncer_user, check, service="pgbouncer", user="hapi_app", rotation="app", reload=False,
                               admin_password_variable="APP_PASSWORD")  # fmt: skip
        if name == "altered":
            return self.module(postgres_password, check, service="postgres", role="hapi_app", database="fhirdb", poolers=POOLERS, **login)
        return self.module(
            password_rotation, check, name="app", variable="APP_PASSWORD", role="hapi_app", database_service="postgres", state=name,
            guard_allow=["postgres", "pgbouncer"], **args,
        )  # fmt: skip

    def all(self, **args: Any) -> list[dict[str, Any]]:
        begun = self.step("started", **args)
        return [begun, *(self.step(name) for name in STEPS[1:] if begun.get("open"))]


@pytest.fixture
def rotation(module: Run) -> Rotation:
    return Rotation(module)


def assert_everywhere(site: Site, password: str, *, not_any_more: str) -> None:
    for service in ("postgres", "pgbouncer"):
        assert site.lets_in(service, password), service
        assert not site.lets_in(service, not_any_more), service
    config = json.loads(site.compose("config", "--format", "json"))["services"]
    # Compose doubles a dollar sign in what it prints.
    assert config["pgbouncer"]["environment"]["POSTGRESQL_PASSWORD"].replace("$$", "$") == password


def test_case_19_the_environment_does_nothing_and_the_module_does(site: Site, module: Run) -> None:
    site.env(SUPERUSER_PASSWORD=NEW)
    site.compose("up", "-d")
    until("the old password on the new container", lambda: site.lets_in("postgres", SUPERUSER, "postgres"))
    args = {"service": "postgres", "role": "postgres", "password_variable": "SUPERUSER_PASSWORD"}
    refused = module(postgres_password, **args, login_password_variable="SUPERUSER_PASSWORD")
    assert refused["failed"], "the fault is not there: a new POSTGRES_PASSWORD counts on an old volume"
    assert "SUPERUSER_PASSWORD" in refused["msg"] or "login_password_variable" in refused["msg"]
    args["login_password"] = SUPERUSER
    predicted = module(postgres_password, True, **args)
    assert site.lets_in("postgres", SUPERUSER, "postgres")
    done = module(postgres_password, **args)
    for key in ("changed", "altered", "encryption_before", "encryption", "reloaded", "diff"):
        assert predicted[key] == done[key]
    assert done["changed"]
    assert site.lets_in("postgres", NEW, "postgres")
    assert not site.lets_in("postgres", SUPERUSER, "postgres")
    # The superuser's own login is found although the given one is of yesterday.
    for check in (True, False):
        assert not module(postgres_password, check, **args)["changed"]


@pytest.mark.parametrize("password", [HOSTILE, "100% pas%sword %(x)s", "it's \\ and \\' $$ $1 --;", "অআইঈউঊঋএঐও-কখগঘ"])
def test_case_15_hostile_passwords_arrive(site: Site, module: Run, password: str) -> None:
    args = {"service": "postgres", "role": "reader", "database": "fhirdb", "password": password, "login_password_variable": "SUPERUSER_PASSWORD"}
    assert module(postgres_password, secrets=(password,), **args)["changed"]
    assert site.lets_in("postgres", password, "reader")
    assert not module(postgres_password, secrets=(password,), **args)["changed"]


def test_a_rotation_with_a_client_that_stays(site: Site, rotation: Rotation, tmp_path: Path) -> None:
    before = site.dir.joinpath(".env").read_text(encoding="utf-8")
    client = site.connection("pgbouncer", APP)
    client.cursor().execute("INSERT INTO seen DEFAULT VALUES")
    servers = {row["remote_pid"] for row in site.admin("pgbouncer", APP, "SHOW SERVERS")}
    predicted = rotation.step("started", check=True, new_password=NEW)
    assert predicted["open"]
    assert {item["service"] for item in predicted["hash_changes"]} == {"postgres", "pgbouncer"}
    assert not list((tmp_path / "journal").rglob("*.json"))
    started, laid, altered, written, finished = rotation.all(new_password=NEW)
    for key in ("changed", "open", "resumed", "reverse", "generated", "can_go_back", "diff"):
        assert predicted[key] == started[key], key
    assert laid["needs_reload"]
    assert altered["altered"]
    assert altered["reloaded"] == ["pgbouncer"]
    assert altered["gap_seconds"] < 2
    assert {(item["service"], item["password"], item["accepted"]) for item in altered["logins"]} == {
        ("postgres", "wanted", True), ("pgbouncer", "wanted", True), ("postgres", "old", False), ("pgbouncer", "old", False)}  # fmt: skip
    assert written["changed"]
    assert finished["can_go_back"]
    assert_everywhere(site, NEW, not_any_more=APP)
    # The proof was made on a connection that the pooler made after the change, and no client was cut for it.
    assert {row["remote_pid"] for row in site.admin("pgbouncer", NEW, "SHOW SERVERS")} - servers
    client.cursor().execute("INSERT INTO seen DEFAULT VALUES")
    after = site.dir.joinpath(".env").read_text(encoding="utf-8")
    assert [line for line in after.splitlines() if "APP" not in line] == [line for line in before.splitlines() if "APP" not in line]
    record = next((tmp_path / "journal").rglob("rotations/app.json"))
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    assert shows(record.read_text(), NEW) == [], "the new password is kept twice"
    journal = "".join(path.read_text() for path in (tmp_path / "journal").rglob("journal.jsonl"))
    assert "ALTER ROLE PASSWORD" in journal
    assert shows(journal, NEW, APP, SUPERUSER) == []
    # Again, and forward only when there is a reason.
    again = rotation.all(new_password=NEW)
    assert [item["changed"] for item in again] == [False]
    assert not rotation.step("started")["changed"], "generated again within a day"
    # The owner's own command makes containers with the password that counts.
    site.compose("up", "-d")
    until("the new containers", lambda: site.lets_in("pgbouncer", NEW))
    back = rotation.all(reverse=True)
    assert back[0]["reverse"]
    assert_everywhere(site, APP, not_any_more=NEW)
    assert site.dir.joinpath(".env").read_text(encoding="utf-8") == before
    assert [item["changed"] for item in rotation.all(reverse=True)] == [False], "a way back from the way back"


# After which step the run is killed; with "unloaded" between the server's change and the pooler's.
KILLS = ["started", "laid", "unloaded", "altered", "written"]


@pytest.mark.parametrize("back", [False, pytest.param(True, marks=pytest.mark.full)], ids=["forward", "back"])
@pytest.mark.parametrize("kill", [pytest.param(item, marks=[] if item == "unloaded" else [pytest.mark.full]) for item in KILLS])
def test_case_19_a_killed_rotation_is_finished_or_turned_around(site: Site, rotation: Rotation, kill: str, back: bool) -> None:
    for name in STEPS[: STEPS.index("altered" if kill == "unloaded" else kill) + 1]:
        if name == "altered" and kill == "unloaded":
            site.sql(f"ALTER ROLE hapi_app PASSWORD '{_passwords.scram_verifier(NEW)}'")
        else:
            rotation.step(name, **({"new_password": NEW} if name == "started" else {}))
    results = rotation.all(reverse=True) if back else rotation.all()
    assert results[0]["resumed"]
    assert [item.get("msg") for item in results if item.get("failed")] == []
    assert len(results) == len(STEPS)
    assert_everywhere(site, APP if back else NEW, not_any_more=NEW if back else APP)
    assert [item["changed"] for item in rotation.all(**({"reverse": True} if back else {"new_password": NEW}))] == [False]


def test_a_generated_password_is_known_to_the_host_only(site: Site, rotation: Rotation) -> None:
    results = rotation.all()
    assert results[0]["generated"]
    value = dict(line.split("=", 1) for line in (site.dir / ".env").read_text().splitlines())["APP_PASSWORD"]
    assert len(value) == 40
    assert shows(str(results), value) == []
    assert_everywhere(site, value, not_any_more=APP)
    # Somebody changes it past us: what we remember is no way back from that.
    site.env(APP_PASSWORD="somebody-elses")
    refused = rotation.step("started", reverse=True)
    assert "somebody has changed it since" in refused["msg"]


def test_what_cannot_work_is_refused_before_a_change(site: Site, module: Run, rotation: Rotation) -> None:
    site.sql("CREATE ROLE nologin_role; CREATE ROLE expired LOGIN PASSWORD 'x' VALID UNTIL '2020-01-01';"
             "CREATE ROLE small LOGIN PASSWORD 'small-word'")  # fmt: skip
    before = site.sql("SELECT rolname, rolpassword FROM pg_authid ORDER BY 1"), (site.dir / ".env").read_bytes()
    good = {"service": "postgres", "role": "hapi_app", "password": NEW, "login_password_variable": "SUPERUSER_PASSWORD"}
    for words, args in {
        "role nobody does not exist": {"role": "nobody"},
        "may not log in (NOLOGIN)": {"role": "nologin_role"},
        "is valid until 2020": {"role": "expired"},
        "no container of a service mysql": {"service": "mysql"},
        "NOT_THERE is not set": {"login_password_variable": "NOT_THERE"},
        "The user or the password is wrong": {"login_password": "not-it"},
        "may not read pg_authid": {"login_user": "small", "login_password": "small-word"},
        "ends with white space": {"password": NEW + " "},
        "looks like a stored verifier": {"password": _passwords.scram_verifier(NEW)},
        "has another password for hapi_app in its auth_file": {"poolers": POOLERS},
        "no container of a service pooler": {"poolers": [{"service": "pooler"}]},
    }.items():  # fmt: skip
        for check in (True, False):
            found = module(postgres_password, check, **{**good, **args})
            assert found.get("failed"), args
            assert words in found["msg"], found["msg"]
    for words, args in {
        "shorter than 12": {"new_password": "Sh0rt!abcde"},
        "fewer than 6 different": {"new_password": "aaaabbbbccccdddd"},
        "holds the name of the role": {"new_password": "my-hapi_app-2026"},
        "a newline": {"new_password": NEW + "\n2"},
        "${ or #{": {"new_password": NEW + "${x}"},
    }.items():
        assert words in rotation.step("started", **args)["msg"]
    secret = {"name": "app", "variable": "APP_PASSWORD", "role": "hapi_app", "database_service": "postgres"}
    assert "guard_allow does not name" in module(password_rotation, **secret, guard_allow=["pgbouncer"])["msg"]
    assert "no open rotation" in rotation.step("written")["msg"]
    assert not rotation.step("started", reverse=True)["changed"]
    rotation.step("started", new_password=NEW)
    assert "to another new password is open" in rotation.step("started", new_password=HOSTILE)["msg"]
    assert "state written first" in rotation.step("finished")["msg"]
    assert (site.sql("SELECT rolname, rolpassword FROM pg_authid ORDER BY 1"), (site.dir / ".env").read_bytes()) == before
    site.sql("DROP ROLE nologin_role, expired, small")


def test_a_password_that_the_server_does_not_take_is_seen(site: Site, module: Run) -> None:
    """The check that .env is right goes red when it is not."""
    args = {"service": "postgres", "role": "hapi_app", "database": "fhirdb", "password_variable": "APP_PASSWORD", "poolers": POOLERS,
            "login_password_variable": "SUPERUSER_PASSWORD"}  # fmt: skip
    assert not module(postgres_password, True, **args)["changed"]
    site.sql(f"ALTER ROLE hapi_app PASSWORD $pw${NEW}$pw$")
    found = module(postgres_password, True, **args)
    assert found["changed"]
    assert {(item["service"], item["kind"]) for item in found["logins"] if not item["accepted"]} == {("postgres", "password")}


def hba_of(site: Site, text: str = "") -> str:
    """Return pg_hba.conf; with a text, put that one in force."""
    path = "/var/lib/postgresql/data/pg_hba.conf"
    if text:
        docker("exec", "-i", site.container("postgres"), "tee", path, stdin=text)
        site.sql("SELECT pg_reload_conf()")
    return docker("exec", site.container("postgres"), "cat", path)


def test_a_server_that_asks_for_no_password_is_named(site: Site, module: Run) -> None:
    hba = hba_of(site)
    args = {"service": "postgres", "role": "reader", "password": READER, "login_password_variable": "SUPERUSER_PASSWORD"}
    try:
        hba_of(site, "local all all trust\nhost all all all trust\n")
        assert [item["id"] for item in module(postgres_password, True, **args)["findings"]] == ["login_without_password"]
    finally:
        hba_of(site, hba)
    assert module(postgres_password, True, **args)["findings"] == []


def test_the_form_of_the_verifier_is_kept_until_it_is_asked_for(site: Site, module: Run) -> None:
    site.sql(f"SET password_encryption = 'md5'; ALTER ROLE reader PASSWORD '{READER}'")
    args = {"service": "postgres", "role": "reader", "password": NEW, "login_password_variable": "SUPERUSER_PASSWORD"}
    # The image's pg_hba.conf asks for scram-sha-256, which an MD5 hash can't do: so it is asked for here.
    hba = hba_of(site)
    hba_of(site, hba.replace("scram-sha-256", "md5"))
    try:
        found = module(postgres_password, **args)
        assert (found["encryption_before"], found["encryption"]) == ("md5", "md5")
        assert [item["id"] for item in found["findings"]] == ["password_hash_weak"]
        assert site.verifier("reader") == _passwords.md5_verifier(NEW, "reader")
        assert module(postgres_password, **args, encryption="scram-sha-256")["changed"]
        assert site.verifier("reader").startswith("SCRAM-SHA-256$")
        assert not module(postgres_password, **args)["changed"]
        assert site.lets_in("postgres", NEW, "reader")
    finally:
        hba_of(site, hba)


def test_no_password_is_in_a_log_a_command_line_or_what_docker_shows(site: Site, rotation: Rotation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server logs every statement here, and what it would log is not even the verifier."""
    ran: list[str] = []
    plain = postgres_password.AnsibleModule.run_command

    def spy(self: Any, args: Any, **options: Any) -> Any:
        ran.append(str(args) + str(options.get("environ_update")))
        return plain(self, args, **options)

    monkeypatch.setattr(postgres_password.AnsibleModule, "run_command", spy)
    rotation.all(new_password=NEW)
    assert len(ran) > 10
    logs = "".join(docker("logs", site.container(service)) + docker("inspect", site.container(service)) for service in ("postgres", "pgbouncer"))
    assert shows("".join(ran) + logs, NEW) == []
    assert site.verifier() not in logs + "".join(ran)


TEXTS = st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=20, max_size=60, unique=True))
def test_our_verifiers_are_the_servers(up: Site, texts: list[str]) -> None:
    """What the server computes of any text fits that text by our arithmetic, and no other text."""
    quoted = [text.encode().hex() for text in texts]
    statements = ["DROP ROLE IF EXISTS v"] + ["CREATE ROLE v"]
    for item in quoted:
        statements.append(f"DO $do$ BEGIN EXECUTE format('ALTER ROLE v PASSWORD %L', convert_from('\\x{item}', 'UTF8')); END $do$")
        statements.append("SELECT rolpassword FROM pg_authid WHERE rolname = 'v'")
    verifiers = up.sql(";\n".join(statements)).splitlines()
    assert len(verifiers) == len(texts)
    for text, verifier in zip(texts, verifiers, strict=True):
        if _passwords.kind_of(text) in ("scram-sha-256", "md5"):
            continue
        assert _passwords.matches(verifier, text, "v"), text.encode().hex()
        assert not _passwords.matches(verifier, text + "x", "v")


def test_a_record_of_others_is_not_believed(site: Site, rotation: Rotation, module: Run, tmp_path: Path) -> None:
    rotation.step("started", new_password=NEW)
    record = next((tmp_path / "journal").rglob("rotations/app.json"))
    os.chmod(record, 0o644)
    assert "others than root" in rotation.step("started")["msg"]
    os.chmod(record, 0o600)
    other = module(password_rotation, name="app", variable="READER_PASSWORD", role="reader", database_service="postgres")
    assert "is open, with variable APP_PASSWORD" in other["msg"]
    text = record.read_text()
    record.write_text(text[: len(text) // 2])
    assert "is damaged" in rotation.step("laid")["msg"]


def test_what_a_restart_needs_before_it(site: Site, module: Run) -> None:
    """A base backup is not broken off, and the server has written its memory; a login that may not order that is told so."""
    args = {"service": "postgres", "role": "hapi_app", "password_variable": "APP_PASSWORD", "before_restart": True}
    login = {"login_password_variable": "SUPERUSER_PASSWORD"}
    before = site.sql("SELECT checkpoint_lsn FROM pg_control_checkpoint()")
    assert not module(postgres_password, True, **args, **login)["changed"]
    assert site.sql("SELECT checkpoint_lsn FROM pg_control_checkpoint()") == before
    done = module(postgres_password, **args, **login)
    assert (done["changed"], done["findings"]) == (False, [])
    assert site.sql("SELECT checkpoint_lsn FROM pg_control_checkpoint()") != before
    site.sql(f"CREATE ROLE keeper LOGIN CREATEROLE PASSWORD '{READER}';\n\\c postgres\nGRANT SELECT ON pg_authid TO keeper")
    try:
        told = module(postgres_password, **args, login_user="keeper", login_password=READER)
        assert [item["id"] for item in told["findings"]] == ["checkpoint_not_made"], told
    finally:
        site.sql("DROP OWNED BY keeper;\n\\c postgres\nDROP OWNED BY keeper; DROP ROLE keeper")

    # So slowly that it is there for the whole test.
    backup = "pg_basebackup -U postgres -D /tmp/slow -X none -c fast --max-rate=32"
    docker("exec", "-d", "-u", "postgres", site.container("postgres"), "sh", "-c", f"{backup} >/tmp/slow.log 2>&1")
    try:
        until("the backup", lambda: site.sql("SELECT count(*) FROM pg_stat_progress_basebackup") == "1")
        for check in (True, False):
            assert "A base backup of postgres is running" in module(postgres_password, check, **args, **login)["msg"]
        assert not module(postgres_password, **{**args, "before_restart": False}, **login)["changed"]
    finally:
        site.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup")
        docker("exec", site.container("postgres"), "rm", "-rf", "/tmp/slow", "/tmp/slow.log")
