# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Passwords with every hostile character arrive: our quoting against the real pgBouncer, PostgreSQL and libpq."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils._quoting import (
    QuotingError,
    pgbouncer_connstr_value,
    pgbouncer_ini_value,
    pgpass_escape,
    userlist_quote,
)
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_database import image
from ansible_collections.dghs.bd_fhir.tests.integration.real.real_engine import Project, docker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import sql

pytestmark = pytest.mark.engine

ADMIN = "admin-S3cret"
SUPER = "super-S3cret"
# The passwords of the cases first; then what a grammar of quotes may trip over.
HOSTILE = {
    "star": "1*2", "percent": "p%40ss", "at": "p@ss", "slash": "a/b", "comma": "a,b", "query": "a?sslmode=require", "double": 'a"b',
    "single": "'tis", "backslash": "end\\", "escape": "\\'x\\\"", "hash": "#a#b", "semicolon": ";a;b", "space": "a b  c", "dollar": "$a${b}$$",
    "colon": "a:b:", "bang": "!a!b&c|d", "bangla": "পাসওয়ার্ড-১২৩", "lone star": "*", "lone quote": "'", "lone double": '"', "quotes": "''\"\"'\"",
    "equals": "=a=b =", "bracket": "[databases]", "include": "%include /x", "tab": "a\tb", "mixed": "%$@:/#,\"'\\! &খ",
}  # fmt: skip
COMPOSE = """name: {name}
services:
  postgres:
    image: {postgres}
    command: ["postgres", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=200"]
    environment: {{POSTGRES_PASSWORD: {password}, POSTGRES_INITDB_ARGS: --no-sync, POSTGRES_DB: fhirdb}}
  pooler:
    image: {pooler}
    entrypoint: ["pgbouncer", "/site/pgbouncer.ini"]
    volumes: ["./pooler:/site"]
"""
SETTINGS = ("server_reset_query", "ignore_startup_parameters", "auth_query", "server_check_query")
USERS = [f"u{number}" for number in range(12)]

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
NASTY = st.text(st.sampled_from("\\'\"$#{}:;,@/%*?=&![]- \n\r\tabমা01"), min_size=1, max_size=20)
VALUES = st.lists(TEXT | NASTY, min_size=8, max_size=12)
MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Site(Project):
    """PostgreSQL, and a pooler whose files a test writes."""

    def start(self, pooler: str) -> None:
        self.dir.mkdir()
        values = {"name": self.name, "postgres": image("postgres"), "pooler": image(pooler), "password": SUPER}
        self.write("docker-compose.yml", COMPOSE.format(**values))
        self.write(".env", "")
        self.files([])
        self.compose("up", "-d")
        for service, database in (("postgres", "fhirdb"), ("pooler", "pgbouncer")):
            self.until(service, database)

    def until(self, service: str, database: str) -> None:
        user, password = ("postgres", SUPER) if service == "postgres" else ("admin", ADMIN)
        end = time.monotonic() + 60
        while True:
            try:
                self.login(user, password, database, service).close()
                return
            except psycopg2.OperationalError:
                if time.monotonic() > end:
                    raise AssertionError(docker("logs", self.ids(service)[0])) from None
                time.sleep(0.1)

    def address(self, service: str) -> str:
        return docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.ids(service)[0]).strip()

    def login(self, user: str, password: str | None, database: str, service: str = "pooler", **more: Any) -> Any:
        if service not in self.__dict__:
            self.__dict__[service] = self.address(service)
        port = 5432 if service == "postgres" else 6432
        if password is not None:
            more["password"] = password
        found = psycopg2.connect(host=self.__dict__[service], port=port, user=user, dbname=database, connect_timeout=5, **more)
        found.autocommit = True
        return found

    def ask(self, *args: Any, query: Any = "SELECT current_user::text AS name", **more: Any) -> list[dict[str, Any]]:
        with closing(self.login(*args, **more)) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            if cursor.description is None:
                return []
            return [dict(zip([item[0] for item in cursor.description], row, strict=True)) for row in cursor.fetchall()]

    def console(self, query: str) -> list[dict[str, Any]]:
        return self.ask("admin", ADMIN, "pgbouncer", query=query)

    def server(self, *queries: Any) -> None:
        with closing(self.login("postgres", SUPER, "fhirdb", "postgres")) as connection:
            for query in queries:
                connection.cursor().execute(query)

    def files(self, databases: list[str], lines: Sequence[str] = (), users: Sequence[str] = (), auth: str = "scram-sha-256") -> None:
        """Write both files by replacing them; lines and users are text that is quoted already."""
        head = [
            "listen_addr = *", "listen_port = 6432", "unix_socket_dir =", f"auth_type = {auth}", "auth_file = /site/userlist.txt",
            "admin_users = admin," + ",".join(USERS), "server_login_retry = 1", "default_pool_size = 2",
        ]  # fmt: skip
        ini = "\n".join(["[databases]", *databases, "[pgbouncer]", *head, *lines, ""])
        for name, text in (("pgbouncer.ini", ini), ("userlist.txt", f'"admin" "{ADMIN}"\n' + "".join(line + "\n" for line in users))):
            self.write(f"pooler/{name}.new", text, 0o644).replace(self.dir / "pooler" / name)
        (self.dir / "pooler").chmod(0o755)

    def reload(self, *args: Any, **more: Any) -> None:
        self.files(*args, **more)
        self.console("RELOAD")


def carried(quote: Any, values: list[str]) -> dict[str, str]:
    """Return value -> its quoted form, without those that the format can't carry and says so."""
    found = {}
    for value in values:
        with contextlib.suppress(QuotingError):
            found[value] = quote(value)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("quoting") / "site", "quot")
    try:
        site.start("pgbouncer-ini")
        yield site
    finally:
        site.remove()


@pytest.fixture(scope="module")
def roles(made: Site) -> dict[str, str]:
    """A role for each hostile password, made by PostgreSQL itself from the plain password."""
    names = {key: f"role {key}" for key in HOSTILE}
    queries = [sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(names[key]), sql.Literal(HOSTILE[key])) for key in HOSTILE]
    made.server(*queries)
    return names


@pytest.fixture
def site(made: Site, roles: dict[str, str]) -> Site:
    """Each hostile password in a line of [databases] and in the userlist, written from its parts, never from a URL."""
    databases = ["fhirdb = host=postgres dbname=fhirdb"]
    users = []
    for number, (key, name) in enumerate(roles.items()):
        value = HOSTILE[key]
        databases.append(
            f"d{number} = host=postgres port=5432 user={pgbouncer_connstr_value(name)} password={pgbouncer_connstr_value(value)} dbname=fhirdb"
        )
        users.append(f"{userlist_quote(name)} {userlist_quote(value, plain=True)}")
    made.reload(databases, [], users)
    return made


def check_arrival(site: Site, roles: dict[str, str], key: str) -> None:
    """The password lets the pooler in at the server both ways, and has not spilled into host, port, or name."""
    number = list(HOSTILE).index(key)
    row = next(row for row in site.console("SHOW DATABASES") if row["name"] == f"d{number}")
    assert (row["host"], int(row["port"]), row["database"], row["force_user"]) == ("postgres", 5432, "fhirdb", roles[key])
    assert site.ask("admin", ADMIN, f"d{number}") == [{"name": roles[key]}]
    assert site.ask(roles[key], HOSTILE[key], "fhirdb") == [{"name": roles[key]}]
    with pytest.raises(psycopg2.OperationalError):
        site.ask(roles[key], HOSTILE[key] + "x", "fhirdb")


def test_case_1_a_star_leaves_the_host_alone(site: Site, roles: dict[str, str]) -> None:
    check_arrival(site, roles, "star")
    check_arrival(site, roles, "lone star")


def test_case_2_percent_is_not_decoded(site: Site, roles: dict[str, str]) -> None:
    check_arrival(site, roles, "percent")
    check_arrival(site, roles, "at")


def test_case_4_a_slash_leaves_the_database_alone(site: Site, roles: dict[str, str]) -> None:
    check_arrival(site, roles, "slash")


def test_case_5_a_comma_makes_no_second_entry(site: Site, roles: dict[str, str]) -> None:
    check_arrival(site, roles, "comma")
    assert len(site.console("SHOW DATABASES")) == len(HOSTILE) + 2


def test_case_7_sslmode_is_a_setting_of_its_own(site: Site, roles: dict[str, str]) -> None:
    """A query in a URL would be glued to the database's name. It is heeded: this server has no TLS."""
    check_arrival(site, roles, "query")
    try:
        line = f"server_tls_sslmode = {pgbouncer_ini_value('require')}"
        site.reload([f"secure = host=postgres dbname={pgbouncer_connstr_value('fhirdb')}"], [line, "query_wait_timeout = 2"])
        assert {row["key"]: row["value"] for row in site.console("SHOW CONFIG")}["server_tls_sslmode"] == "require"
        assert {row["name"]: row["database"] for row in site.console("SHOW DATABASES")}["secure"] == "fhirdb"
        with pytest.raises(psycopg2.OperationalError):
            site.ask("admin", ADMIN, "secure")
    finally:
        site.reload([], ["server_tls_sslmode = prefer", "query_wait_timeout = 120"])


def test_case_9_a_rotated_password_is_the_only_one(site: Site, roles: dict[str, str]) -> None:
    """An entrypoint that finds the user in the userlist leaves the old password there; a file that is written whole does not."""
    name = roles["double"]
    site.reload(["fhirdb = host=postgres"], [], [f"{userlist_quote(name)} {userlist_quote('new' + HOSTILE['single'])}"])
    with pytest.raises(psycopg2.OperationalError, match="(?i)auth|password"):
        site.login(name, HOSTILE["double"], "fhirdb")
    site.server(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal("new" + HOSTILE["single"])))
    try:
        assert site.ask(name, "new" + HOSTILE["single"], "fhirdb") == [{"name": name}]
    finally:
        site.server(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal(HOSTILE["double"])))


def test_case_10_a_double_quote_is_doubled(site: Site, roles: dict[str, str]) -> None:
    check_arrival(site, roles, "double")
    assert f'"{roles["double"]}" "a""b"\n' in (site.dir / "pooler/userlist.txt").read_text()
    # The naive way goes red: a backslash is an ordinary character there.
    site.reload(["fhirdb = host=postgres"], [], [f'"{roles["double"]}" "a\\"b"'])
    with pytest.raises(psycopg2.OperationalError):
        site.ask(roles["double"], HOSTILE["double"], "fhirdb")


def test_case_11_a_quote_in_front_is_quoted(site: Site, roles: dict[str, str]) -> None:
    check_arrival(site, roles, "single")
    assert " password='''tis' " in (site.dir / "pooler/pgbouncer.ini").read_text()
    # The naive way goes red: with that value bare, pgBouncer does not start.
    text = (site.dir / "pooler/pgbouncer.ini").read_text().replace("'''tis'", "'tis")
    site.write("pooler/bare.ini", text, 0o644)
    argv = ("run", "--rm", "--network", "none", "-v", f"{site.dir}/pooler:/site:ro", "--entrypoint", "sh", image("pgbouncer-ini"), "-c")
    said = docker(*argv, "timeout 20 pgbouncer /site/bare.ini 2>&1; echo rc=$?")
    assert "rc=1" in said
    assert "syntax error" in said


@pytest.mark.parametrize("key", HOSTILE)
def test_every_hostile_password_lets_the_pooler_in(site: Site, roles: dict[str, str], key: str) -> None:
    check_arrival(site, roles, key)


def test_case_50_a_changed_auth_file_is_seen(site: Site, roles: dict[str, str]) -> None:
    """pgBouncer takes a file of the same inode, size and second for the same: one that is put in its place has another inode."""
    path = site.dir / "pooler/userlist.txt"
    stamp = path.stat()
    old = path.read_bytes()
    new = old.replace(ADMIN.encode(), ADMIN[::-1].encode())
    assert new != old
    path.write_bytes(new)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    site.console("RELOAD")
    site.login("admin", ADMIN, "pgbouncer").close()
    with pytest.raises(psycopg2.OperationalError):
        site.login("admin", ADMIN[::-1], "pgbouncer")
    other = site.write("pooler/userlist.txt.new", new.decode(), 0o644)
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(path)
    site.console("RELOAD")
    site.login("admin", ADMIN[::-1], "pgbouncer").close()
    # Nothing but RELOAD makes it read the file again.
    site.write("pooler/userlist.txt.new", old.decode(), 0o644).replace(path)
    with pytest.raises(psycopg2.OperationalError):
        site.login("admin", ADMIN, "pgbouncer")
    site.ask("admin", ADMIN[::-1], "pgbouncer", query="RELOAD")
    site.login("admin", ADMIN, "pgbouncer").close()


def test_case_52_a_verifier_has_to_be_the_same_one(site: Site) -> None:
    """And the keys that pgBouncer has once learned by a verifier stay, also when it gets the plain password: only an equal verifier heals."""
    name, password = "verified", HOSTILE["mixed"]
    change = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")

    def verifier() -> str:
        query = sql.SQL("SELECT rolpassword FROM pg_authid WHERE rolname = {}").format(sql.Literal(name))
        return str(site.ask("postgres", SUPER, "fhirdb", service="postgres", query=query)[0]["rolpassword"])

    def give(secret: str, database: str) -> None:
        # A database of another name, so that no server connection that is open already answers.
        site.reload([f"{database} = host=postgres dbname=fhirdb"], [], [f"{userlist_quote(name)} {secret}"])

    site.server(change.format(sql.SQL("CREATE"), sql.Identifier(name), sql.Literal(password)))
    copied = verifier()
    with pytest.raises(QuotingError, match="hash"):
        userlist_quote(copied, plain=True)
    give(userlist_quote(copied), "same")
    assert site.ask(name, password, "same") == [{"name": name}]
    # The same password with another salt: the client gets in at the pooler, and the pooler not at the server.
    site.server(change.format(sql.SQL("ALTER"), sql.Identifier(name), sql.Literal(password)))
    assert verifier() != copied
    give(userlist_quote(copied), "differs")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        site.ask(name, password, "differs")
    give(userlist_quote(password, plain=True), "plain")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        site.ask(name, password, "plain")
    give(userlist_quote(verifier()), "equal")
    assert site.ask(name, password, "equal") == [{"name": name}]


# -- properties


def check_ini(site: Site, values: list[str]) -> None:
    left = list(carried(pgbouncer_ini_value, values).items())
    while left:
        batch = dict(zip(SETTINGS, left, strict=False))
        del left[: len(SETTINGS)]
        site.reload([], [f"{name} = {quoted}" for name, (dummy, quoted) in batch.items()])
        found = {row["key"]: row["value"] for row in site.console("SHOW CONFIG")}
        assert {name: found[name] for name in batch} == {name: value for name, (value, dummy) in batch.items()}


def check_connstr(site: Site, values: list[str]) -> None:
    quoted = list(carried(pgbouncer_connstr_value, values).items())
    lines = [f"d{number} = user={text}  dbname={text} host={text} port=1" for number, (dummy, text) in enumerate(quoted)]
    site.reload(lines)
    rows = {row["name"]: row for row in site.console("SHOW DATABASES")}
    for number, (value, _text) in enumerate(quoted):
        row = rows[f"d{number}"]
        assert (row["force_user"], row["database"], row["host"]) == (value, value, value)
    assert len(rows) == len(quoted) + 1


def check_login(site: Site, values: list[str], tmp_path: Path, auth: str = "md5") -> None:
    """The userlist against a password that is given, and .pgpass against the userlist."""
    users = carried(lambda value: userlist_quote(value, plain=True), values)
    escaped = carried(pgpass_escape, list(users))
    names = dict(zip(USERS, users, strict=False))
    site.reload([], [], [f'"{name}" {users[value]}' for name, value in names.items()], auth=auth)
    passfile = tmp_path / "pgpass"
    lines = [f"{site.address('pooler')}:6432:pgbouncer:{name}:{escaped[value]}\n" for name, value in names.items()]
    passfile.write_text("# a comment\n" + "".join(lines), encoding="utf-8", newline="")
    passfile.chmod(0o600)
    for name, value in names.items():
        site.login(name, value, "pgbouncer").close()
        site.login(name, None, "pgbouncer", passfile=str(passfile)).close()


@MANY
@given(VALUES)
def test_any_value_of_an_ini_line(made: Site, values: list[str]) -> None:
    check_ini(made, values)


@MANY
@given(st.lists(TEXT | NASTY, min_size=30, max_size=40, unique=True))
def test_any_value_of_a_connection_string(made: Site, values: list[str]) -> None:
    check_connstr(made, values)


@MANY
@given(VALUES)
def test_any_password_of_a_userlist_and_of_pgpass(made: Site, tmp_path: Path, values: list[str]) -> None:
    check_login(made, values, tmp_path)


def test_hostile_values_everywhere(made: Site, tmp_path: Path) -> None:
    values = list(HOSTILE.values())
    assert carried(pgbouncer_ini_value, values).keys() == set(values)
    check_ini(made, values)
    check_connstr(made, values)
    for start in range(0, len(values), len(USERS)):
        check_login(made, values[start : start + len(USERS)], tmp_path, "scram-sha-256")


def test_names_in_pgpass_match_exactly(site: Site, roles: dict[str, str], tmp_path: Path) -> None:
    """A lone star, a hash in front, a colon: as a user's name too, and no line of another user counts."""
    names = ["*", "#x", "a:b", "back\\slash", "plain", 'q"t']
    line = f"any = host=postgres dbname=fhirdb user={pgbouncer_connstr_value(roles['at'])} password={pgbouncer_connstr_value(HOSTILE['at'])}"
    site.reload([line], [], [f"{userlist_quote(name)} {userlist_quote('pw of ' + name)}" for name in names])
    passfile = tmp_path / "pgpass"
    passfile.write_text("".join(f"*:*:*:{pgpass_escape(name)}:{pgpass_escape('pw of ' + name)}\n" for name in names))
    passfile.chmod(0o600)
    for name in names:
        assert site.ask(name, None, "any", passfile=str(passfile)) == [{"name": roles["at"]}]
    with pytest.raises(psycopg2.OperationalError, match="no password"):
        site.ask("other", None, "any", passfile=str(passfile))


@pytest.mark.full
def test_the_newer_pgbouncer_reads_alike(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", "quot")
    try:
        site.start("pgbouncer-new")
        test_hostile_values_everywhere(site, tmp_path)
    finally:
        site.remove()
